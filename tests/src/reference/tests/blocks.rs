//! Semantics 4: ipBlock and except.

use serde_json::{Value, json};

use super::support::{Case, check, policy, run, world};
use crate::reference::Cidr;

fn from(peers: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": peers}]})
}

#[test]
fn a_block_matches_its_addresses_minus_its_excepts() {
    run(&[
        Case {
            what: "cidr",
            spec: from(json!([{"ipBlock": {"cidr": "192.0.2.0/25"}}])),
            open: &["192.0.2.0 > a/db 80/TCP", "192.0.2.127 > a/db 80/TCP"],
            closed: &["192.0.2.128 > a/db 80/TCP", "192.0.1.255 > a/db 80/TCP"],
        },
        Case {
            what: "one address",
            spec: from(json!([{"ipBlock": {"cidr": "192.0.2.7/32"}}])),
            open: &["192.0.2.7 > a/db 80/TCP"],
            closed: &["192.0.2.6 > a/db 80/TCP", "192.0.2.8 > a/db 80/TCP"],
        },
        Case {
            what: "excepts",
            spec: from(
                json!([{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.16/28", "192.0.2.1/32"]}}]),
            ),
            open: &[
                "192.0.2.2 > a/db 80/TCP",
                "192.0.2.15 > a/db 80/TCP",
                "192.0.2.32 > a/db 80/TCP",
            ],
            closed: &[
                "192.0.2.1 > a/db 80/TCP",
                "192.0.2.16 > a/db 80/TCP",
                "192.0.2.31 > a/db 80/TCP",
            ],
        },
        Case {
            what: "IPv6, excepts at no byte's border",
            spec: from(
                json!([{"ipBlock": {"cidr": "2001:db8::/33", "except": ["2001:db8:4000::/35"]}}]),
            ),
            open: &[
                "2001:db8::1 > a/db 80/TCP",
                "2001:db8:6000::1 > a/db 80/TCP",
            ],
            closed: &[
                "2001:db8:4000::1 > a/db 80/TCP",
                "2001:db8:5fff::1 > a/db 80/TCP",
                "2001:db8:8000::1 > a/db 80/TCP",
            ],
        },
    ]);
}

#[test]
fn an_except_subtracts_from_its_own_block_only() {
    let wide = json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28"]}});
    let narrow = json!({"ipBlock": {"cidr": "192.0.2.4/30"}});
    let cases = [
        ("another peer", vec![from(json!([wide, narrow]))]),
        (
            "another rule",
            vec![json!({"ingress": [{"from": [wide]}, {"from": [narrow]}]})],
        ),
        (
            "another policy",
            vec![from(json!([wide])), from(json!([narrow]))],
        ),
        (
            "a shorter block of another policy",
            vec![
                from(
                    json!([{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/30", "192.0.2.8/29"]}}]),
                ),
                from(
                    json!([{"ipBlock": {"cidr": "192.0.0.0/16", "except": ["192.0.2.0/30", "192.0.2.8/29", "192.0.3.0/24"]}}]),
                ),
            ],
        ),
    ];
    for (what, specs) in cases {
        let mut objects = world();
        for (index, spec) in specs.into_iter().enumerate() {
            objects.push(policy(&format!("a/p{index}"), spec));
        }
        check(
            what,
            &objects,
            &[
                "192.0.2.4 > a/db 80/TCP",
                "192.0.2.7 > a/db 80/TCP",
                "192.0.2.16 > a/db 80/TCP",
            ],
            &[
                "192.0.2.3 > a/db 80/TCP",
                "192.0.2.8 > a/db 80/TCP",
                "192.0.3.1 > a/db 80/TCP",
            ],
        );
    }
}

#[test]
fn ports_accumulate_along_nested_blocks_and_pods() {
    run(&[Case {
        what: "/8 port 80, /16 port 81, pod port 443",
        spec: json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]},
            {"from": [{"ipBlock": {"cidr": "10.244.0.0/16"}}], "ports": [{"port": 81}]},
            {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 443}]},
        ]}),
        open: &[
            "a/web > a/db 80/TCP",
            "a/web > a/db 81/TCP",
            "a/web > a/db 443/TCP",
            "10.244.0.99 > a/db 80/TCP",
            "10.244.0.99 > a/db 81/TCP",
            "10.1.2.3 > a/db 80/TCP",
        ],
        closed: &[
            "10.244.0.99 > a/db 443/TCP",
            "10.1.2.3 > a/db 81/TCP",
            "a/web > a/db 82/TCP",
        ],
    }]);
}

#[test]
fn blocks_match_pods_nodes_and_outside_alike() {
    run(&[
        Case {
            what: "0.0.0.0/0 is all of IPv4 and nothing of IPv6",
            spec: from(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])),
            open: &[
                "b/web > a/db 80/TCP",
                "172.18.0.2 > a/db 80/TCP",
                "192.0.2.1 > a/db 80/TCP",
                "255.255.255.255 > a/db 80/TCP",
            ],
            closed: &["b/web > a/db 80/TCP v6", "2001:db8::1 > a/db 80/TCP"],
        },
        Case {
            what: "::/0 is all of IPv6 and nothing of IPv4",
            spec: from(json!([{"ipBlock": {"cidr": "::/0"}}])),
            open: &[
                "b/web > a/db 80/TCP v6",
                "2001:db8::1 > a/db 80/TCP",
                "::ffff:192.0.2.1 > a/db 80/TCP",
            ],
            closed: &["b/web > a/db 80/TCP", "192.0.2.1 > a/db 80/TCP"],
        },
        Case {
            what: "an except takes a pod and a node away",
            spec: from(
                json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.1.1/32", "172.18.0.0/24"]}}]),
            ),
            open: &["b/db > a/db 80/TCP", "192.0.2.1 > a/db 80/TCP"],
            closed: &["b/web > a/db 80/TCP", "172.18.0.2 > a/db 80/TCP"],
        },
        Case {
            what: "egress judges the destination",
            spec: json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.244.1.0/24"}}]}]}),
            open: &["a/db > b/db 80/TCP"],
            closed: &["a/db > c/db 80/TCP", "a/db > 192.0.2.1 80/TCP"],
        },
    ]);
}

#[test]
fn host_bits_and_leading_zeros_are_tolerated() {
    run(&[
        Case {
            what: "host bits are masked, in cidr and except",
            spec: from(
                json!([{"ipBlock": {"cidr": "192.0.2.77/24", "except": ["192.0.2.79/30"]}}]),
            ),
            open: &["192.0.2.1 > a/db 80/TCP", "192.0.2.80 > a/db 80/TCP"],
            closed: &["192.0.2.76 > a/db 80/TCP", "192.0.3.1 > a/db 80/TCP"],
        },
        Case {
            what: "leading zeros are decimal",
            spec: from(json!([{"ipBlock": {"cidr": "192.000.002.010/32"}}])),
            open: &["192.0.2.10 > a/db 80/TCP"],
            closed: &["192.0.2.8 > a/db 80/TCP"],
        },
    ]);
}

#[test]
fn prefixes_parse_or_do_not() {
    for (text, inside, outside) in [
        ("0.0.0.0/0", "255.1.2.3", "::1"),
        ("10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
        ("10.1.2.3/31", "10.1.2.2", "10.1.2.4"),
        ("::/0", "ffff::", "0.0.0.0"),
        ("2001:db8::5/128", "2001:db8::5", "2001:db8::4"),
        ("fe80::1/10", "febf::1", "fec0::1"),
    ] {
        let cidr = Cidr::parse(text).unwrap_or_else(|| panic!("{text} parses"));
        assert!(
            cidr.contains(inside.parse().expect("an address")),
            "{text} {inside}"
        );
        assert!(
            !cidr.contains(outside.parse().expect("an address")),
            "{text} {outside}"
        );
    }
    for text in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0/8",
        "10.0.0.256/8",
        "10.0.0.0/8/8",
        "10.0.0.0/",
        "::/129",
        "::ffff:10.0.0.0/104",
        "::ffff:0:0/96",
        "fe80::1%eth0/64",
        "10.0.0.0 /8",
        "a.b.c.d/8",
    ] {
        assert_eq!(Cidr::parse(text), None, "{text}");
    }
}

//! NetworkPolicy: semantics sections 2 to 5 and 14.

use serde_json::{Value, json};

use super::{check, check_undecodable, found, one, policy_of};
use crate::source::convert::Outcome;

/// A spec with one ingress rule.
fn rule(rule: Value) -> Value {
    json!({"podSelector": {}, "ingress": [rule]})
}

#[test]
fn a_missing_pod_selector_selects_the_namespace() {
    for spec in [
        json!({}),
        json!({"podSelector": null}),
        json!({"podSelector": {}}),
    ] {
        check(&spec, "{} ingress[]", &[]);
    }
    check(&json!(null), "{} ingress[]", &[]);
    check(
        &json!({"podSelector": {"matchLabels": {"app": "db"}}}),
        "{app=db} ingress[]",
        &[],
    );
}

#[test]
fn policy_types_default_to_ingress_and_to_egress_with_egress_rules() {
    for types in [json!(null), json!([])] {
        let spec = |egress: Value| json!({"policyTypes": types, "egress": egress});
        check(&spec(json!(null)), "{} ingress[]", &[]);
        check(&spec(json!([])), "{} ingress[]", &[]);
        check(&spec(json!([{}])), "{} ingress[] egress[0:any any]", &[]);
    }
}

#[test]
fn policy_types_say_what_is_isolated() {
    let spec = |types: Value| json!({"policyTypes": types, "ingress": [{}], "egress": [{}]});
    let (ingress, egress) = ("ingress[0:any any]", "egress[0:any any]");
    check(
        &spec(json!(["Ingress"])),
        &format!("{{}} {ingress}"),
        &["warning spec.egress"],
    );
    check(
        &spec(json!(["Egress"])),
        &format!("{{}} {egress}"),
        &["warning spec.ingress"],
    );
    for types in [
        json!(["Ingress", "Egress"]),
        json!(["Egress", "Ingress", "Egress"]),
    ] {
        check(&spec(types), &format!("{{}} {ingress} {egress}"), &[]);
    }
    check(&json!({"policyTypes": ["Egress"]}), "{} egress[]", &[]);
}

#[test]
fn unknown_policy_types_never_open_anything() {
    let types = |types: Value| json!({"policyTypes": types});
    check(
        &types(json!(["Forward", "Ingress"])),
        "{} ingress[]",
        &["error spec.policyTypes[0]"],
    );
    for unknown in ["Forward", "ingress", ""] {
        check(
            &types(json!([unknown])),
            "{} ingress[] egress[]",
            &["error spec.policyTypes[0]"],
        );
    }
    check_undecodable(
        &types(json!([7])),
        "{} ingress[] egress[]",
        &["error spec.policyTypes[0]"],
    );
    for wrong in [json!("Ingress"), json!({})] {
        check_undecodable(
            &types(wrong),
            "{} ingress[] egress[]",
            &["error spec.policyTypes"],
        );
    }
}

#[test]
fn an_empty_rule_allows_everything() {
    for empty in [
        json!({}),
        json!({"from": null, "ports": null}),
        json!({"from": [], "ports": []}),
    ] {
        check(&rule(empty), "{} ingress[0:any any]", &[]);
    }
}

#[test]
fn a_rule_that_cannot_be_understood_allows_nothing_and_keeps_its_place() {
    let beside = |bad: Value| json!({"ingress": [bad, {"ports": [{"port": 443}]}]});
    let meaning = "{} ingress[0:nobody any | 1:any TCP:443]";
    for (bad, path) in [
        (json!(null), "error spec.ingress[0]"),
        (json!("everything"), "error spec.ingress[0]"),
        (json!({"from": {}}), "error spec.ingress[0].from"),
        (json!({"from": "all"}), "error spec.ingress[0].from"),
        (
            json!({"ports": {"port": 80}}),
            "error spec.ingress[0].ports",
        ),
    ] {
        check_undecodable(&beside(bad), meaning, &[path]);
    }
    for bad in [json!({"form": []}), json!({"to": [{"podSelector": {}}]})] {
        check(&beside(bad), meaning, &["error spec.ingress[0]"]);
    }
    check_undecodable(
        &json!({"ingress": {}, "egress": "all"}),
        "{} ingress[0:nobody any] egress[0:nobody any]",
        &["error spec.ingress", "error spec.egress"],
    );
    for spec in [json!("all"), json!([]), json!(7)] {
        check_undecodable(&spec, "{} ingress[] egress[]", &["error spec"]);
    }
}

#[test]
fn unknown_fields_are_ignored_with_a_warning() {
    check(
        &json!({"podSelector": {"future": 1}, "future": 1, "ingress": [{
            "from": [{"podSelector": {"matchExpressions": [
                          {"key": "a", "operator": "Exists", "future": 1}]}, "future": 1},
                     {"ipBlock": {"cidr": "10.0.0.0/8", "future": 1}}],
            "future": 1,
            "ports": [{"port": 80, "future": 1}],
        }]}),
        "{} ingress[0:{a}@a,10.0.0.0/8 TCP:80]",
        &[
            "warning spec.future",
            "warning spec.podSelector.future",
            "warning spec.ingress[0].future",
            "warning spec.ingress[0].from[0].future",
            "warning spec.ingress[0].from[0].podSelector.matchExpressions[0].future",
            "warning spec.ingress[0].from[1].ipBlock.future",
            "warning spec.ingress[0].ports[0].future",
        ],
    );
}

#[test]
fn selectors_combine_as_the_table_says() {
    let from = |peer: Value| rule(json!({"from": [peer]}));
    let label = json!({"matchLabels": {"x": "y"}});
    for (peer, meaning) in [
        (json!({"podSelector": label}), "{x=y}@a"),
        (json!({"podSelector": {}}), "{}@a"),
        (json!({"namespaceSelector": label}), "{}@{x=y}"),
        (json!({"namespaceSelector": {}}), "{}@{}"),
        (
            json!({"podSelector": label, "namespaceSelector": {}, "ipBlock": null}),
            "{x=y}@{}",
        ),
    ] {
        check(&from(peer), &format!("{{}} ingress[0:{meaning} any]"), &[]);
    }
    // Two items are two peers.
    check(
        &json!({"egress": [{"to": [{"podSelector": label}, {"namespaceSelector": label}]}]}),
        "{} ingress[] egress[0:{x=y}@a,{}@{x=y} any]",
        &[],
    );
}

#[test]
fn every_operator_is_read() {
    let spec = json!({"podSelector": {
        "matchLabels": {"example.com/app": "", "b": "1"},
        "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["y", "x", "y"]},
            {"key": "d", "operator": "NotIn", "values": ["x", ""]},
            {"key": "e", "operator": "Exists"},
            {"key": "f", "operator": "DoesNotExist", "values": []},
        ],
    }});
    let meaning = "{b=1 c=x+y example.com/app= d!=+x e !f} ingress[]";
    check(&spec, meaning, &[]);
}

/// Selectors that cannot be understood, whether they decode, and what is wrong.
fn bad_selectors() -> Vec<(Value, bool, &'static str)> {
    let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let long = "x".repeat(64);
    vec![
        (
            expression("app", "Matches", json!(["web"])),
            true,
            ".matchExpressions[0].operator",
        ),
        (
            expression("app", "in", json!(["web"])),
            true,
            ".matchExpressions[0].operator",
        ),
        (
            expression("app", "In", json!([])),
            true,
            ".matchExpressions[0].values",
        ),
        (
            expression("app", "NotIn", json!(null)),
            true,
            ".matchExpressions[0].values",
        ),
        (
            expression("app", "Exists", json!(["web"])),
            true,
            ".matchExpressions[0].values",
        ),
        (
            expression("app", "DoesNotExist", json!(["web"])),
            true,
            ".matchExpressions[0].values",
        ),
        (
            expression("", "DoesNotExist", json!(null)),
            true,
            ".matchExpressions[0].key",
        ),
        (
            expression("-app", "DoesNotExist", json!(null)),
            true,
            ".matchExpressions[0].key",
        ),
        (
            expression("Example.COM/app", "DoesNotExist", json!(null)),
            true,
            ".matchExpressions[0].key",
        ),
        (
            expression(&long, "DoesNotExist", json!(null)),
            true,
            ".matchExpressions[0].key",
        ),
        (
            expression("app", "NotIn", json!(["no spaces"])),
            true,
            ".matchExpressions[0].values[0]",
        ),
        (
            expression("app", "NotIn", json!([1])),
            false,
            ".matchExpressions[0].values[0]",
        ),
        (
            json!({"matchExpressions": [{"operator": "Exists"}]}),
            true,
            ".matchExpressions[0].key",
        ),
        (
            json!({"matchExpressions": [{"key": "a"}]}),
            true,
            ".matchExpressions[0].operator",
        ),
        (
            json!({"matchExpressions": [null]}),
            false,
            ".matchExpressions[0]",
        ),
        (json!({"matchExpressions": {}}), false, ".matchExpressions"),
        (
            json!({"matchLabels": {"app": 1}}),
            false,
            ".matchLabels.app",
        ),
        (
            json!({"matchLabels": {"app": "no spaces"}}),
            true,
            ".matchLabels.app",
        ),
        (json!({"matchLabels": []}), false, ".matchLabels"),
        (json!("app=web"), false, ""),
        (json!([]), false, ""),
    ]
}

#[test]
fn a_selector_that_cannot_be_understood_matches_nothing_as_a_peer() {
    for (selector, decodes, below) in bad_selectors() {
        for name in ["podSelector", "namespaceSelector"] {
            let check = if decodes { check } else { check_undecodable };
            let other = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
            check(
                &rule(json!({"from": [{name: selector}, other]})),
                "{} ingress[0:10.0.0.0/8 any]",
                &[&format!("error spec.ingress[0].from[0].{name}{below}")],
            );
            check(
                &rule(json!({"from": [{name: selector}]})),
                "{} ingress[0:nobody any]",
                &[&format!("error spec.ingress[0].from[0].{name}{below}")],
            );
        }
    }
}

#[test]
fn a_pod_selector_that_cannot_be_understood_selects_the_namespace() {
    for (selector, decodes, below) in bad_selectors() {
        let check = if decodes { check } else { check_undecodable };
        check(
            &json!({"podSelector": selector, "ingress": [{"ports": [{"port": 80}]}]}),
            "{} ingress[0:any TCP:80]",
            &[&format!("error spec.podSelector{below}")],
        );
    }
}

#[test]
fn peers_that_say_nothing_or_contradict_themselves_match_nothing() {
    let block = json!({"cidr": "0.0.0.0/0"});
    let nulls = json!({"podSelector": null, "namespaceSelector": null, "ipBlock": null});
    let meaning = "{} ingress[0:nobody any]";
    for bad in [
        json!({}),
        nulls,
        json!({"ipBlock": block, "podSelector": {}}),
        json!({"ipBlock": block, "namespaceSelector": {}}),
    ] {
        let spec = rule(json!({"from": [bad]}));
        check(&spec, meaning, &["error spec.ingress[0].from[0]"]);
    }
    check(
        &rule(json!({"from": [{"serviceSelector": {}}]})),
        meaning,
        &[
            "warning spec.ingress[0].from[0].serviceSelector",
            "error spec.ingress[0].from[0]",
        ],
    );
    for bad in [json!(null), json!("everyone"), json!([])] {
        let spec = rule(json!({"from": [bad]}));
        check_undecodable(&spec, meaning, &["error spec.ingress[0].from[0]"]);
    }
}

#[test]
fn blocks_are_masked_sorted_and_unique() {
    let block = |cidr: &str, except: Value| {
        rule(json!({"from": [{"ipBlock": {"cidr": cidr, "except": except}}]}))
    };
    for (cidr, except, meaning) in [
        ("0.0.0.0/0", json!(null), "0.0.0.0/0"),
        ("::/0", json!([]), "::/0"),
        ("10.1.2.3/32", json!(null), "10.1.2.3/32"),
        ("010.001.002.003/32", json!(null), "10.1.2.3/32"),
        (
            "10.0.0.0/8",
            json!(["10.2.0.0/16", "10.1.0.0/16", "10.2.0.0/16"]),
            "10.0.0.0/8-10.1.0.0/16-10.2.0.0/16",
        ),
        ("fd00::/8", json!(["fd00:1::/32"]), "fd00::/8-fd00:1::/32"),
    ] {
        let meaning = format!("{{}} ingress[0:{meaning} any]");
        check(&block(cidr, except), &meaning, &[]);
    }
    check(
        &block("192.0.2.77/24", json!(["192.0.2.79/30"])),
        "{} ingress[0:192.0.2.0/24-192.0.2.76/30 any]",
        &[
            "info spec.ingress[0].from[0].ipBlock.cidr",
            "info spec.ingress[0].from[0].ipBlock.except[0]",
        ],
    );
}

#[test]
fn bad_blocks_match_nothing() {
    let good = json!({"podSelector": {}});
    let bad = |block: Value| rule(json!({"from": [{"ipBlock": block}, good]}));
    let meaning = "{} ingress[0:{}@a any]";
    let path = "error spec.ingress[0].from[0].ipBlock.cidr";
    for cidr in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0/8",
        "10.0.0.0.0/8",
        "10.0.0.256/8",
        "10.0.0.0/8/8",
        "10.0.0.0/",
        "10.0.0.0 /8",
        "::/129",
        "::ffff:10.0.0.0/104",
        "::ffff:0:0/96",
        "fe80::1%eth0/64",
        "all",
    ] {
        check(&bad(json!({"cidr": cidr})), meaning, &[path]);
    }
    check(&bad(json!({})), meaning, &[path]);
    check_undecodable(&bad(json!({"cidr": 7})), meaning, &[path]);
    for (cidr, except) in [
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("0.0.0.0/0", "::/1"),
        ("0.0.0.0/0", "10.0.0.0"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8", "8.0.0.0/6"),
        ("192.0.2.0/24", "198.51.100.0/25"),
    ] {
        check(
            &bad(json!({"cidr": cidr, "except": [except]})),
            meaning,
            &["error spec.ingress[0].from[0].ipBlock.except[0]"],
        );
    }
    check(
        &bad(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "x", "y"]})),
        meaning,
        &[
            "error spec.ingress[0].from[0].ipBlock.except[1]",
            "error spec.ingress[0].from[0].ipBlock.except[2]",
        ],
    );
    check_undecodable(
        &bad(json!({"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"})),
        meaning,
        &["error spec.ingress[0].from[0].ipBlock.except"],
    );
    check_undecodable(
        &bad(json!([])),
        meaning,
        &["error spec.ingress[0].from[0].ipBlock"],
    );
}

#[test]
fn port_entries_are_read_with_their_defaults() {
    for (entry, meaning) in [
        (json!({}), "TCP"),
        (json!({"protocol": "UDP"}), "UDP"),
        (json!({"protocol": "SCTP", "port": 7}), "SCTP:7"),
        (json!({"port": 80}), "TCP:80"),
        (
            json!({"protocol": null, "port": 65535, "endPort": null}),
            "TCP:65535",
        ),
        (json!({"port": 80, "endPort": 80}), "TCP:80"),
        (json!({"port": 1, "endPort": 65535}), "TCP:1-65535"),
        (json!({"port": "http"}), "TCP:http"),
        (json!({"protocol": "UDP", "port": "a-9"}), "UDP:a-9"),
        (json!({"port": "fifteen-letters"}), "TCP:fifteen-letters"),
    ] {
        let spec = rule(json!({"ports": [entry, entry]}));
        let meaning = format!("{{}} ingress[0:any {meaning},{meaning}]");
        check(&spec, &meaning, &[]);
    }
}

#[test]
fn bad_port_entries_match_nothing_and_leave_their_neighbours() {
    for (entry, decodes, below) in [
        (json!({"port": 0}), true, ".port"),
        (json!({"port": 65536}), true, ".port"),
        (json!({"port": -1}), true, ".port"),
        (json!({"port": 80.5}), false, ".port"),
        (json!({"port": true}), false, ".port"),
        (json!({"port": [80]}), false, ".port"),
        (json!({"port": "80"}), true, ".port"),
        (json!({"port": ""}), true, ".port"),
        (json!({"port": "HTTP"}), true, ".port"),
        (json!({"port": "-http"}), true, ".port"),
        (json!({"port": "ht--tp"}), true, ".port"),
        (json!({"port": "sixteen-letterss"}), true, ".port"),
        (json!({"endPort": 90}), true, ".endPort"),
        (json!({"port": "http", "endPort": 9000}), true, ".endPort"),
        (json!({"port": 8081, "endPort": 8080}), true, ".endPort"),
        (json!({"port": 1, "endPort": 65536}), true, ".endPort"),
        (json!({"port": 1, "endPort": 0}), true, ".endPort"),
        (json!({"port": 1, "endPort": "high"}), false, ".endPort"),
        (json!({"protocol": "tcp"}), true, ".protocol"),
        (json!({"protocol": ""}), true, ".protocol"),
        (json!({"protocol": "ICMP"}), true, ".protocol"),
        (json!({"protocol": 6}), false, ".protocol"),
        (json!(null), false, ""),
        (json!(80), false, ""),
    ] {
        let check = if decodes { check } else { check_undecodable };
        check(
            &rule(json!({"ports": [entry, {"port": 443}]})),
            "{} ingress[0:any TCP:443]",
            &[&format!("error spec.ingress[0].ports[0]{below}")],
        );
        check(
            &rule(json!({"ports": [entry]})),
            "{} ingress[0:any nothing]",
            &[&format!("error spec.ingress[0].ports[0]{below}")],
        );
    }
}

#[test]
fn diagnostics_say_what_is_wrong_and_what_happens() {
    let converted = policy_of(&rule(json!({"ports": [{"port": "80"}], "from": [{}]})));
    let messages: Vec<_> = converted.diagnostics.iter().map(|d| &*d.message).collect();
    assert_eq!(
        messages,
        [
            "has none of podSelector, namespaceSelector, ipBlock; this peer matches nothing",
            "\"80\" is not the name of a port (write a number without quotes); \
             this entry matches nothing",
        ]
    );
}

#[test]
fn an_object_has_a_bounded_number_of_diagnostics() {
    let peers: Vec<_> = (0..1000).map(|_| json!({})).collect();
    let converted = policy_of(&rule(json!({"from": peers})));
    assert_eq!(converted.diagnostics.len(), 65);
    let last = converted.diagnostics.last().unwrap();
    assert_eq!(last.message, "936 more of its fields are wrong");
}

#[test]
fn the_namespace_is_default_where_none_is_written() {
    for metadata in [
        json!({"name": "p"}),
        json!({"name": "p", "namespace": null}),
        json!({"name": "p", "namespace": ""}),
    ] {
        let converted = one(&json!({"kind": "NetworkPolicy", "metadata": metadata}));
        let Outcome::Object(object) = converted.outcome else {
            panic!("{converted:?}")
        };
        assert_eq!(object.key().to_string(), "NetworkPolicy default/p");
    }
}

#[test]
fn a_policy_without_a_usable_name_is_nameless() {
    for (metadata, path) in [
        (json!(null), "error metadata.name"),
        (json!({}), "error metadata.name"),
        (json!({"name": ""}), "error metadata.name"),
        (json!({"name": 7}), "error metadata.name"),
        (json!({"name": "a/b"}), "error metadata.name"),
        (json!({"name": "a b"}), "error metadata.name"),
        (
            json!({"name": "p", "namespace": []}),
            "error metadata.namespace",
        ),
    ] {
        let converted = one(&json!({"kind": "NetworkPolicy", "metadata": metadata}));
        assert_eq!(converted.outcome, Outcome::Nameless, "{metadata}");
        assert_eq!(found(&converted), [path]);
    }
}

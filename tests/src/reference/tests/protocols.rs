//! Semantics 6: protocols without ports match rules without ports only.

use serde_json::json;

use super::support::{Case, run};

#[test]
fn rules_without_ports_decide_icmp_and_the_rest() {
    run(&[
        Case {
            what: "a matching rule without ports",
            spec: json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]}),
            open: &[
                "b/web > a/db ICMP",
                "b/web > a/db ICMPv6",
                "b/web > a/db 47",
                "b/web > a/db 47 v6",
            ],
            closed: &[
                "c/web > a/db ICMP",
                "c/web > a/db ICMPv6",
                "192.0.2.1 > a/db ICMP",
                "c/web > a/db 47",
            ],
        },
        Case {
            what: "every port of every protocol, written out, is no rule without ports",
            spec: json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{}, {"protocol": "UDP"}, {"protocol": "SCTP"}]}]}),
            open: &[
                "b/web > a/db 7/TCP",
                "b/web > a/db 7/UDP",
                "b/web > a/db 7/SCTP",
                "b/web > a/web ICMP",
            ],
            closed: &["b/web > a/db ICMP", "b/web > a/db ICMPv6", "b/web > a/db 2"],
        },
        Case {
            what: "egress",
            spec: json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
                {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": [{"port": 80}]},
            ]}),
            open: &["a/db > 192.0.2.1 ICMP", "a/db > 198.51.100.1 80/TCP"],
            closed: &["a/db > 198.51.100.1 ICMP", "a/db > 203.0.113.1 ICMP"],
        },
    ]);
}

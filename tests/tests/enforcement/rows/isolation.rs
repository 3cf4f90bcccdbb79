//! Isolation and defaults: `semantics.md` sections 1 and 2.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "no-policy-isolates-nobody",
        pods: &["subject", "peer"],
        manifests: "",
        probes: &[
            "peer > subject: 80/TCP 80/UDP 80/SCTP icmp 253",
            "subject > peer: 80/TCP",
            "outside > subject: 80/TCP 80/UDP",
            "subject > outside: 80/TCP 80/UDP",
        ],
    },
    Row {
        name: "empty-pod-selector-selects-the-namespace-alone",
        pods: &["subject app=db", "bare", "other/pod app=db"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: $ns}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
        probes: &[
            "other/pod > subject: | 80/TCP 80/UDP 80/SCTP icmp 253",
            "other/pod > bare: | 80/TCP",
            "outside > subject: | 80/TCP 80/UDP icmp",
            "subject > bare: | 80/TCP",
            "subject > other/pod: 80/TCP 80/UDP icmp",
            "outside > other/pod: 80/TCP",
        ],
    },
    Row {
        name: "missing-pod-selector-selects-the-namespace",
        pods: &["subject app=db", "other/pod"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: $ns}
spec: {policyTypes: [Ingress]}
",
        probes: &["other/pod > subject: | 80/TCP", "subject > other/pod: 80/TCP"],
    },
    Row {
        name: "egress-rules-without-types-isolate-both-ways",
        pods: &["subject app=db", "peer app=web"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 80}]
",
        probes: &[
            "subject > peer: 80/TCP | 81/TCP 80/UDP icmp",
            "peer > subject: | 80/TCP 80/UDP icmp",
        ],
    },
    Row {
        name: "empty-egress-without-types-isolates-ingress-alone",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  egress: []
",
        probes: &["subject > peer: 80/TCP", "peer > subject: | 80/TCP"],
    },
    Row {
        name: "null-and-empty-rules-deny",
        pods: &["subject app=db", "second app=web", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: null-rules, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: null
  egress: null
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: empty-rules, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: []
  egress: []
",
        probes: &[
            "peer > subject: | 80/TCP icmp",
            "subject > peer: | 80/TCP icmp 253",
            "peer > second: | 80/TCP",
            "second > peer: | 80/TCP",
            "subject > outside: | 80/TCP",
        ],
    },
    Row {
        name: "empty-rule-allows-everything",
        pods: &["subject app=db", "other/peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{}]
",
        probes: &[
            "other/peer > subject: 80/TCP 80/UDP 80/SCTP icmp 253",
            "outside > subject: 80/TCP 80/UDP icmp 253",
            "subject > outside: | 80/TCP",
        ],
    },
    Row {
        name: "all-namespaces-are-not-the-outside",
        pods: &["subject app=db", "other/peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{namespaceSelector: {}}]}]
  egress: [{to: [{namespaceSelector: {}, podSelector: {}}]}]
",
        probes: &[
            "other/peer > subject: 80/TCP 80/UDP 80/SCTP icmp 253",
            "outside > subject: | 80/TCP icmp 253",
            "subject > other/peer: 80/TCP 81/UDP icmp",
            "subject > outside: | 80/TCP 81/UDP icmp",
        ],
    },
    Row {
        name: "empty-from-and-to-are-everyone-on-those-ports",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [], ports: [{port: 80}]}]
  egress: [{to: [], ports: [{port: 81, protocol: UDP}]}]
",
        probes: &[
            "peer > subject: 80/TCP | 81/TCP 80/UDP 80/SCTP icmp",
            "outside > subject: 80/TCP | 81/TCP",
            "subject > peer: 81/UDP | 81/TCP 80/UDP icmp",
            "subject > outside: 81/UDP | 81/TCP 80/TCP",
        ],
    },
    Row {
        name: "empty-ports-are-every-port-and-protocol",
        pods: &["subject app=db", "friend app=web", "stranger"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: []
",
        probes: &[
            "friend > subject: 80/TCP 81/UDP 9090/SCTP icmp 253",
            "stranger > subject: | 80/TCP 81/UDP 9090/SCTP icmp 253",
        ],
    },
    Row {
        name: "bare-port-entry-is-all-of-tcp",
        pods: &["subject app=db", "second app=web", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: tcp, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{ports: [{}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: udp, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{protocol: UDP}]}]
",
        probes: &[
            "peer > subject: 80/TCP 9090/TCP | 80/UDP 80/SCTP icmp 253",
            "peer > second: 80/UDP 9090/UDP | 80/TCP 80/SCTP icmp 253",
        ],
    },
    Row {
        name: "rules-of-an-unlisted-type-are-inert",
        pods: &["sender app=a", "receiver app=b", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: egress-alone, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Egress]
  ingress: [{ports: [{port: 80}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ingress-alone, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress]
  egress: [{ports: [{port: 80}]}]
",
        probes: &[
            "peer > sender: 80/TCP 81/TCP 80/UDP",
            "sender > peer: | 80/TCP 81/TCP",
            "peer > receiver: | 80/TCP 81/TCP",
            "receiver > peer: 80/TCP 81/TCP 80/UDP",
        ],
    },
    Row {
        name: "policies-are-a-union",
        pods: &["subject app=db", "a app=a", "b app=b", "c app=c"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: $ns}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-a, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-b, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: 81}]}]
",
        probes: &[
            "a > subject: 80/TCP | 81/TCP",
            "b > subject: 81/TCP | 80/TCP",
            "c > subject: | 80/TCP 81/TCP",
            "subject > a: | 80/TCP",
        ],
    },
    Row {
        name: "both-ends-must-allow",
        pods: &["client app=client", "server app=server", "closed app=closed"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {}}], ports: [{port: 80}, {port: 81}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 81}, {port: 8080}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: $ns}
spec: {podSelector: {matchLabels: {app: closed}}}
",
        probes: &[
            "client > server: 81/TCP | 80/TCP 8080/TCP 9090/TCP",
            "client > closed: | 80/TCP 81/TCP",
        ],
    },
];

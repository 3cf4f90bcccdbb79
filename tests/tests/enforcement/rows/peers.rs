//! Isolation, selectors, peers and blocks: `semantics.md` sections 1 to 4.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    // Section 1 and 2: isolation and defaults.
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
    // Section 3: selectors and peers.
    Row {
        name: "labels-and-expressions-all-count",
        pods: &[
            "subject app=db",
            "both app=web tier=front",
            "half app=web",
            "more app=web tier=front extra=yes",
        ],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from:
    - podSelector:
        matchLabels: {app: web}
        matchExpressions: [{key: tier, operator: In, values: [front, middle]}]
",
        probes: &[
            "both > subject: 80/TCP",
            "more > subject: 80/TCP",
            "half > subject: | 80/TCP",
        ],
    },
    Row {
        name: "not-in-matches-an-absent-key",
        pods: &["subject app=db", "absent", "listed env=dev", "unlisted env=prod"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchExpressions: [{key: env, operator: NotIn, values: [dev, test]}]}}]
",
        probes: &[
            "absent > subject: 80/TCP",
            "unlisted > subject: 80/TCP",
            "listed > subject: | 80/TCP",
            "outside > subject: | 80/TCP",
        ],
    },
    Row {
        name: "exists-looks-at-the-key-alone",
        pods: &["subject app=db", "empty mark=", "set mark=yes", "absent"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: exists, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchExpressions: [{key: mark, operator: Exists}]}}]
    ports: [{port: 80}]
  - from: [{podSelector: {matchExpressions: [{key: mark, operator: DoesNotExist}]}}]
    ports: [{port: 81}]
  - from: [{podSelector: {matchLabels: {mark: ''}}}]
    ports: [{port: 8080}]
",
        probes: &[
            "empty > subject: 80/TCP 8080/TCP | 81/TCP",
            "set > subject: 80/TCP | 81/TCP 8080/TCP",
            "absent > subject: 81/TCP | 80/TCP 8080/TCP",
        ],
    },
    Row {
        name: "pod-selector-is-of-the-own-namespace",
        pods: &["subject app=db", "near app=web", "other/far app=web"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
  egress: [{to: [{podSelector: {}}]}]
",
        probes: &[
            "near > subject: 80/TCP",
            "other/far > subject: | 80/TCP",
            "subject > near: 80/TCP",
            "subject > other/far: | 80/TCP",
        ],
    },
    Row {
        name: "namespace-selector-is-all-pods-there",
        pods: &["subject app=db", "near", "blue/pod", "red/pod"],
        manifests: "
apiVersion: v1
kind: Namespace
metadata: {name: $ns-blue, labels: {team: blue}}
---
apiVersion: v1
kind: Namespace
metadata: {name: $ns-red, labels: {team: red}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]
",
        probes: &[
            "blue/pod > subject: 80/TCP icmp",
            "red/pod > subject: | 80/TCP icmp",
            "near > subject: | 80/TCP",
        ],
    },
    Row {
        name: "namespaces-are-selected-by-name",
        pods: &["subject app=db", "blue/pod", "red/pod"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $ns-red}}}]
",
        probes: &["red/pod > subject: 80/TCP", "blue/pod > subject: | 80/TCP"],
    },
    Row {
        name: "one-item-is-and-two-items-are-or",
        pods: &[
            "and app=and",
            "or app=or",
            "near role=client",
            "blue/client role=client",
            "blue/bare",
            "red/client role=client",
        ],
        manifests: "
apiVersion: v1
kind: Namespace
metadata: {name: $ns-blue, labels: {team: blue}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: and, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: and}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: blue}}
      podSelector: {matchLabels: {role: client}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: or, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: or}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: blue}}
    - podSelector: {matchLabels: {role: client}}
",
        probes: &[
            "blue/client > and: 80/TCP",
            "near > and: | 80/TCP",
            "blue/bare > and: | 80/TCP",
            "red/client > and: | 80/TCP",
            "blue/client > or: 80/TCP",
            "near > or: 80/TCP",
            "blue/bare > or: 80/TCP",
            "red/client > or: | 80/TCP",
        ],
    },
    Row {
        name: "each-peer-has-its-own-ports",
        pods: &["subject app=db", "a app=a", "b app=b"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}]
    ports: [{port: 80}]
  - from: [{podSelector: {matchLabels: {app: b}}}]
    ports: [{port: 81}]
  egress:
  - to: [{podSelector: {matchLabels: {app: a}}}]
    ports: [{port: 81}]
  - to: [{podSelector: {matchLabels: {app: b}}}]
    ports: [{port: 80}]
",
        probes: &[
            "a > subject: 80/TCP | 81/TCP",
            "b > subject: 81/TCP | 80/TCP",
            "subject > a: 81/TCP | 80/TCP",
            "subject > b: 80/TCP | 81/TCP",
        ],
    },
    Row {
        name: "subject-selected-by-expressions",
        pods: &["yes tier=front", "no tier=back", "bare", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchExpressions: [{key: tier, operator: Exists}, {key: tier, operator: NotIn, values: [back]}]}
  policyTypes: [Ingress]
",
        probes: &[
            "peer > yes: | 80/TCP",
            "peer > no: 80/TCP",
            "peer > bare: 80/TCP",
        ],
    },
    // Section 4: blocks of addresses.
    Row {
        name: "block-with-except",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.192/26]}
    - ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8::c0/122']}
  egress:
  - to:
    - ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.0/25]}
    - ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8::/121']}
    ports: [{port: 80}]
",
        probes: &[
            "outside > subject: 80/TCP 80/UDP 80/SCTP icmp 253",
            "outside2 > subject: | 80/TCP 80/UDP icmp 253",
            "peer > subject: | 80/TCP",
            "subject > outside: | 80/TCP",
            "subject > outside2: 80/TCP | 81/TCP",
        ],
    },
    Row {
        name: "except-takes-from-its-own-block-alone",
        pods: &["subject app=db"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from:
    - ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.192/26]}
    - ipBlock: {cidr: '2001:db8::/64', except: ['2001:db8::c0/122']}
    ports: [{port: 80}]
  - from:
    - ipBlock: {cidr: 198.51.100.200/32}
    - ipBlock: {cidr: '2001:db8::c8/128'}
    ports: [{port: 81}]
",
        probes: &[
            "outside > subject: 80/TCP | 81/TCP",
            "outside2 > subject: 81/TCP | 80/TCP",
        ],
    },
    Row {
        name: "nested-blocks-accumulate",
        pods: &["subject app=db"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wide, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{ipBlock: {cidr: 198.51.0.0/16}}, {ipBlock: {cidr: '2001:db8::/32'}}]
    ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: narrow, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{ipBlock: {cidr: 198.51.100.0/25}}, {ipBlock: {cidr: '2001:db8::/121'}}]
    ports: [{port: 81}]
",
        probes: &[
            "outside > subject: 80/TCP 81/TCP | 8080/TCP",
            "outside2 > subject: 80/TCP | 81/TCP",
        ],
    },
    Row {
        name: "blocks-match-pods-too",
        pods: &["subject app=db", "in", "friend app=web", "out"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: $4.in/32}}, {ipBlock: {cidr: '$6.in/128'}}]
    ports: [{port: 80}]
  - from: [{ipBlock: {cidr: $4.friend/32}}, {ipBlock: {cidr: '$6.friend/128'}}]
    ports: [{port: 80}]
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 81}]
  egress:
  - to: [{ipBlock: {cidr: $4.out/32}}, {ipBlock: {cidr: '$6.out/128'}}]
",
        probes: &[
            "in > subject: 80/TCP | 81/TCP",
            "friend > subject: 80/TCP 81/TCP | 8080/TCP",
            "out > subject: | 80/TCP 81/TCP",
            "subject > out: 80/TCP 80/UDP icmp",
            "subject > in: | 80/TCP",
        ],
    },
    Row {
        name: "host-bits-of-a-block-are-ignored",
        pods: &["subject app=db"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{ipBlock: {cidr: 198.51.100.99/25}}, {ipBlock: {cidr: '2001:db8::9/121'}}]
",
        probes: &["outside > subject: 80/TCP", "outside2 > subject: | 80/TCP"],
    },
    Row {
        name: "everything-of-one-family",
        pods: &["four app=four", "six app=six", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: four, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: four}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]
  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: six, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: six}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]
  egress: [{to: [{ipBlock: {cidr: '::/0'}}]}]
",
        probes: &[
            "4 peer > four: 80/TCP 80/UDP icmp",
            "4 outside > four: 80/TCP 80/UDP icmp",
            "4 four > outside: 80/TCP",
            "6 peer > four: | 80/TCP 80/UDP icmp",
            "6 outside > four: | 80/TCP icmp",
            "6 four > outside: | 80/TCP",
            "6 peer > six: 80/TCP 80/UDP icmp",
            "6 outside > six: 80/TCP icmp",
            "6 six > outside: 80/TCP",
            "4 peer > six: | 80/TCP 80/UDP icmp",
            "4 outside > six: | 80/TCP icmp",
            "4 six > outside: | 80/TCP",
        ],
    },
    Row {
        name: "all-addresses-but-the-pods",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 192.168.0.0/16]}
    - ipBlock: {cidr: '::/0', except: ['fc00::/7']}
",
        probes: &[
            "subject > outside: 80/TCP 80/UDP icmp",
            "subject > peer: | 80/TCP 80/UDP icmp",
        ],
    },
];

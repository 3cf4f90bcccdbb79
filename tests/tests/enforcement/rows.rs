//! Policies, and what passes under each: data for `matrix.rs`.
//!
//! In manifests `$ns` is the row's namespace, `$4.name` and `$6.name` are the
//! addresses of a host. A pod is `[part/]name label=value port:number/protocol`;
//! `part/name` is in the namespace `$ns-part`. A probe is
//! `[4|6] from > to: what passes | what does not`, in both families without a
//! number. Every row has the hosts `node`, `outside` (198.51.100.7, 2001:db8::7)
//! and `outside2` (198.51.100.200, 2001:db8::c8); `remote`, `ending` and
//! `host-network` are outside too, for the one row that makes a pod of each.
//!
//! A protocol without ports is asked in one direction between two hosts: what
//! comes back is a reply, whoever meant it.

/// Policies with everything that shows what they mean.
pub(crate) struct Row {
    /// Also the name of its namespace.
    pub(crate) name: &'static str,
    pub(crate) pods: &'static [&'static str],
    pub(crate) manifests: &'static str,
    pub(crate) probes: &'static [&'static str],
}

/// In the order of `semantics.md`, whose sections the comments name.
pub(crate) const ROWS: &[Row] = &[
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
    // Section 5: ports.
    Row {
        name: "ports-need-not-be-declared-and-protocols-must-match",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{ports: [{port: 81, protocol: UDP}]}]
",
        probes: &["peer > subject: 81/UDP | 81/TCP 81/SCTP 80/UDP icmp"],
    },
    Row {
        name: "sctp-rule-is-for-sctp-alone",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{ports: [{port: 80, protocol: SCTP}]}]
",
        probes: &["peer > subject: 80/SCTP | 80/TCP 80/UDP 81/SCTP icmp"],
    },
    Row {
        name: "named-port-of-the-subject",
        pods: &[
            "one app=db http:8080/TCP dns:81/UDP",
            "two app=db http:9090/TCP",
            "none app=db",
            "peer",
        ],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{ports: [{port: http}, {port: dns, protocol: UDP}]}]
",
        probes: &[
            "peer > one: 8080/TCP 81/UDP | 9090/TCP 81/TCP 8080/UDP 80/TCP",
            "peer > two: 9090/TCP | 8080/TCP 81/UDP 80/TCP",
            "peer > none: | 8080/TCP 9090/TCP 81/UDP",
        ],
    },
    Row {
        name: "named-port-of-each-peer",
        pods: &[
            "subject app=client",
            "one app=web http:8080/TCP",
            "two app=web http:9090/TCP",
            "udp app=web http:8080/UDP",
            "other http:80/TCP",
        ],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: http, protocol: TCP}]
",
        probes: &[
            "subject > one: 8080/TCP | 9090/TCP 80/TCP",
            "subject > two: 9090/TCP | 8080/TCP",
            "subject > udp: | 8080/TCP 8080/UDP",
            "subject > other: | 80/TCP",
        ],
    },
    Row {
        name: "named-port-of-any-destination-is-of-known-pods",
        pods: &[
            "subject app=client",
            "one http:8080/TCP",
            "other/two http:9090/TCP",
        ],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{ports: [{port: http}]}]
",
        probes: &[
            "subject > one: 8080/TCP | 9090/TCP",
            "subject > other/two: 9090/TCP | 8080/TCP",
            "subject > outside: | 8080/TCP 9090/TCP 80/TCP",
        ],
    },
    Row {
        name: "name-with-another-protocol-opens-nothing",
        pods: &["subject app=db dns:81/UDP", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{ports: [{port: dns, protocol: TCP}]}]
",
        probes: &["peer > subject: | 81/TCP 81/UDP 80/TCP"],
    },
    Row {
        name: "end-port-is-inclusive",
        pods: &["range app=range", "point app=point", "all app=all", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: range, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: range}}
  ingress: [{ports: [{port: 81, endPort: 8080}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: point, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: point}}
  ingress: [{ports: [{port: 81, endPort: 81, protocol: UDP}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: all}}
  ingress: [{ports: [{port: 1, endPort: 65535}]}]
",
        probes: &[
            "peer > range: 81/TCP 8080/TCP | 80/TCP 9090/TCP 81/UDP",
            "peer > point: 81/UDP | 80/UDP 8080/UDP 81/TCP",
            "peer > all: 80/TCP 9090/TCP | 80/UDP icmp",
        ],
    },
    Row {
        name: "many-ports-and-overlaps",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - ports:
    - {port: 1}
    - {port: 3}
    - {port: 5}
    - {port: 7}
    - {port: 9}
    - {port: 11, endPort: 13}
    - {port: 15}
    - {port: 17}
    - {port: 19}
    - {port: 21}
    - {port: 23}
    - {port: 25}
    - {port: 70, endPort: 80}
    - {port: 75, endPort: 79}
    - {port: 8000, endPort: 8079}
    - {port: 9000, endPort: 9100}
    - {port: 8080, protocol: UDP}
",
        probes: &["peer > subject: 80/TCP 9090/TCP 8080/UDP | 81/TCP 8080/TCP 80/UDP 9090/UDP"],
    },
    // Section 6: other protocols.
    Row {
        name: "only-rules-without-ports-take-other-protocols",
        pods: &["subject app=db", "any app=any", "ported app=ported"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: any}}}]
  - from: [{podSelector: {matchLabels: {app: ported}}}]
    ports: [{port: 1, endPort: 65535}, {port: 1, endPort: 65535, protocol: UDP}, {port: 1, endPort: 65535, protocol: SCTP}]
  egress:
  - to: [{podSelector: {matchLabels: {app: ported}}}]
  - to: [{podSelector: {matchLabels: {app: any}}}]
    ports: [{}, {protocol: UDP}, {protocol: SCTP}]
",
        probes: &[
            "any > subject: icmp 80/TCP 80/UDP 80/SCTP",
            "ported > subject: 80/TCP 80/UDP 80/SCTP | icmp 253",
            "subject > ported: icmp 80/TCP",
            "subject > any: 80/TCP 80/UDP 80/SCTP | icmp 253",
        ],
    },
    // Section 7: who counts as a pod.
    Row {
        name: "finished-pod-is-neither-peer-nor-subject",
        pods: &["subject app=db", "live app=live", "peer"],
        manifests: "
apiVersion: v1
kind: Pod
metadata: {name: finished, namespace: $ns, uid: finished, labels: {app: web}}
spec: {nodeName: node-1, containers: [{name: c}]}
status: {phase: Succeeded, podIP: $4.peer, podIPs: [{ip: $4.peer}, {ip: '$6.peer'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: failed, namespace: $ns, uid: failed, labels: {app: strict}}
spec: {nodeName: node-1, containers: [{name: c}]}
status: {phase: Failed, podIP: $4.live, podIPs: [{ip: $4.live}, {ip: '$6.live'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: strict, namespace: $ns}
spec: {podSelector: {matchLabels: {app: strict}}}
",
        probes: &["peer > subject: | 80/TCP icmp", "peer > live: 80/TCP icmp"],
    },
    Row {
        name: "pod-of-another-node-is-a-peer",
        pods: &["subject app=db"],
        manifests: "
apiVersion: v1
kind: Pod
metadata: {name: remote, namespace: $ns, uid: remote, labels: {app: web}}
spec: {nodeName: node-2, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: $4.remote, podIPs: [{ip: $4.remote}, {ip: '$6.remote'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]
",
        probes: &[
            "remote > subject: 80/TCP | 81/TCP",
            "outside2 > subject: | 80/TCP",
            "subject > remote: 8080/TCP | 80/TCP",
            "subject > outside2: | 8080/TCP",
        ],
    },
    Row {
        name: "host-network-pods-are-no-pods",
        pods: &["subject app=db"],
        manifests: "
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: $ns, uid: host-network, labels: {app: web}}
spec: {nodeName: node-2, hostNetwork: true, containers: [{name: c}]}
status: {phase: Running, podIP: $4.host-network, podIPs: [{ip: $4.host-network}, {ip: '$6.host-network'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
",
        probes: &["host-network > subject: | 80/TCP icmp"],
    },
    Row {
        name: "terminating-pod-is-a-pod",
        pods: &["subject app=db", "other app=none"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]
---
apiVersion: v1
kind: Pod
metadata:
  name: ending
  namespace: $ns
  uid: ending
  labels: {app: web}
  deletionTimestamp: '2026-01-01T00:00:00Z'
  deletionGracePeriodSeconds: 30
spec: {nodeName: node-2, containers: [{name: c}]}
status: {phase: Running, podIP: $4.ending, podIPs: [{ip: $4.ending}, {ip: '$6.ending'}]}
",
        probes: &["subject > ending: 80/TCP", "subject > other: | 80/TCP"],
    },
    // Section 8: the node, and oneself.
    Row {
        name: "own-node-is-always-reached-and-reaches",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
",
        probes: &[
            "node > subject: 80/TCP 80/UDP 80/SCTP icmp 253",
            "subject > node: 80/TCP 80/UDP icmp",
            "outside > subject: | 80/TCP",
            "subject > outside: | 80/TCP",
            "peer > subject: | 80/TCP",
        ],
    },
    Row {
        name: "pod-reaches-itself",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
",
        probes: &["subject > subject: 80/TCP 80/UDP icmp", "peer > subject: | 80/TCP"],
    },
    // Section 12: replies.
    Row {
        name: "replies-pass-and-openings-in-reverse-do-not",
        pods: &["client app=client", "server app=server"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
",
        probes: &[
            "client > server: 80/TCP 80/UDP 80/SCTP icmp 253",
            "server > client: | 80/TCP 80/UDP 80/SCTP icmp",
        ],
    },
    // Section 13: dual stack.
    Row {
        name: "policy-of-one-family-isolates-both",
        pods: &["subject app=db", "peer"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{ipBlock: {cidr: $4.peer/32}}]}]
",
        probes: &[
            "4 peer > subject: 80/TCP icmp",
            "6 peer > subject: | 80/TCP icmp",
            "6 outside > subject: | 80/TCP",
        ],
    },
    // Section 14: what cannot be understood allows nothing, and isolates.
    Row {
        name: "bad-rules-allow-nothing-and-the-others-count",
        pods: &["subject app=db", "friend app=web", "stranger"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{}]
  - from: [{podSelector: {matchExpressions: [{key: app, operator: Near, values: [x]}]}}]
  - from: [{ipBlock: {cidr: 10.244.0.0/33}}]
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 80}]
  - ports: [{port: 8080, endPort: 81}]
  - ports: [{port: 81, protocol: ICMP}]
",
        probes: &[
            "friend > subject: 80/TCP | 81/TCP 8080/TCP icmp",
            "stranger > subject: | 80/TCP 81/TCP 8080/TCP icmp",
        ],
    },
    Row {
        name: "bad-pod-selector-selects-the-namespace",
        pods: &["subject app=db", "bare", "other/pod"],
        manifests: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: $ns}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: []}]}
  policyTypes: [Ingress]
",
        probes: &[
            "other/pod > subject: | 80/TCP",
            "other/pod > bare: | 80/TCP",
            "subject > other/pod: 80/TCP",
        ],
    },
];

//! Selectors and peers: `semantics.md` section 3.

use super::Row;

pub(super) const ROWS: &[Row] = &[
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
];

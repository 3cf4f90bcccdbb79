//! Ports, other protocols, pods, nodes, replies, families, and what is invalid:
//! `semantics.md` sections 5 to 8 and 12 to 14.

use super::Row;

pub(super) const ROWS: &[Row] = &[
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

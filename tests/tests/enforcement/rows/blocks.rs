//! Blocks of addresses: `semantics.md` section 4.

use super::Row;

pub(super) const ROWS: &[Row] = &[
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

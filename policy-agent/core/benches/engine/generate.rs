//! Clusters of the sizes by which the control plane is measured.
//!
//! Proportions: seven labels of few values and one unique to each pod; two rules
//! of two peers and two ports a policy; 10 % default-deny policies; 15 % of the
//! peers are ipBlocks (30 % of these with an except), 30 % have a namespace
//! selector; 15 % of the selectors have expressions, 5 % negative ones, 3 % are
//! empty; 5 % of the ports have a name, 5 % are ranges. Half of the pods are
//! spread evenly over the namespaces, half with a long tail.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use policy_core::model::{
    Action, IpBlock, Labels, Namespace, NamespaceMatch, Peer, Peers, Pod, PodPort, Policy,
    PolicyId, PortMatch, Ports, Protocol, Requirement, Rule, Selector, Subject, Tier,
};

/// How large a cluster is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    pub(crate) namespaces: usize,
    pub(crate) pods: usize,
    pub(crate) policies: usize,
    pub(crate) namespace_values: usize,
}

pub(crate) const SMALL: Size = Size {
    name: "small",
    namespaces: 20,
    pods: 1_000,
    policies: 100,
    namespace_values: 10,
};
pub(crate) const MEDIUM: Size = Size {
    name: "medium",
    namespaces: 200,
    pods: 10_000,
    policies: 1_000,
    namespace_values: 40,
};
pub(crate) const LARGE: Size = Size {
    name: "large",
    namespaces: 2_000,
    pods: 100_000,
    policies: 10_000,
    namespace_values: 200,
};

/// Numbers that look random, from a fixed seed: xorshift64* (Vigna).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % end
    }

    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Makes objects of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    pub(crate) size: Size,
    pub(crate) random: Random,
    strings: std::collections::HashMap<String, Arc<str>>,
    next_pod: u32,
}

impl Generator {
    pub(crate) fn new(size: Size) -> Self {
        Self {
            size,
            random: Random::new(7),
            strings: std::collections::HashMap::new(),
            next_pod: 0,
        }
    }

    /// One copy of each text, as a source would keep it.
    fn text(&mut self, text: String) -> Arc<str> {
        self.strings
            .entry(text)
            .or_insert_with_key(|t| t.as_str().into())
            .clone()
    }

    pub(crate) fn namespace(&mut self, index: usize, value: usize) -> Namespace {
        let name = self.text(format!("ns-{index}"));
        let team = self.text(format!("team-{}", value % self.size.namespace_values));
        let labels = [
            (
                self.text("kubernetes.io/metadata.name".into()),
                name.clone(),
            ),
            (self.text("team".into()), team),
        ];
        Namespace {
            name,
            labels: Labels::from(labels),
        }
    }

    /// The next pod, on `node`.
    pub(crate) fn pod(&mut self, node: usize) -> Pod {
        let index = self.next_pod;
        self.next_pod += 1;
        let count = self.size.namespaces;
        let namespace = if self.random.percent(50) {
            self.random.below(count)
        } else {
            // A long tail: each power of two less is as likely.
            let bits = usize::BITS - count.leading_zeros();
            let shift = self.random.below(usize::try_from(bits).expect("few"));
            self.random.below((count >> shift).max(1))
        };
        self.pod_in(index, namespace, node)
    }

    fn pod_in(&mut self, index: u32, namespace: usize, node: usize) -> Pod {
        let low = [
            ("app", 5),
            ("tier", 3),
            ("env", 4),
            ("version", 6),
            ("release", 4),
            ("part-of", 8),
            ("component", 5),
        ];
        let mut labels = Labels::new();
        for (key, values) in low {
            let value = self.random.below(values);
            labels.insert(self.text(key.into()), self.text(format!("{key}-{value}")));
        }
        labels.insert(self.text("pod-index".into()), format!("{index}").into());
        let http = if self.random.percent(80) { 8080 } else { 9090 };
        Pod {
            namespace: self.text(format!("ns-{namespace}")),
            name: format!("pod-{index}").into(),
            uid: format!("uid-{index}").into(),
            created: 0,
            labels,
            node: Some(self.text(format!("node-{node}"))),
            host_network: false,
            finished: false,
            ipv4: Some(Ipv4Addr::from(0x0a00_0001 + index)),
            ipv6: None,
            ports: vec![PodPort {
                name: self.text("http".into()),
                protocol: Protocol::Tcp,
                port: http,
            }],
            host_ports: Vec::new(),
        }
    }

    pub(crate) fn policy(&mut self, index: usize) -> Policy {
        let namespace = self.random.below(self.size.namespaces);
        self.policy_in(index, namespace)
    }

    pub(crate) fn policy_in(&mut self, index: usize, namespace: usize) -> Policy {
        let namespace = self.text(format!("ns-{namespace}"));
        let deny_all = self.random.percent(10);
        let pods = if deny_all {
            Selector::EVERYTHING
        } else {
            self.selector()
        };
        let mut rules = |count: usize| -> Vec<Rule> {
            (0..u32::try_from(count).expect("few"))
                .map(|i| self.rule(&namespace, i))
                .collect()
        };
        let count = if deny_all { 0 } else { 2 };
        let (ingress, egress) = (rules(count), rules(count));
        Policy {
            id: PolicyId {
                kind: "NetworkPolicy".into(),
                namespace: Some(namespace.clone()),
                name: format!("policy-{index}").into(),
            },
            tier: Tier::NetworkPolicy,
            order: 0,
            subject: Subject {
                namespaces: NamespaceMatch::Name(namespace),
                pods,
            },
            ingress: Some(ingress),
            egress: self.random.percent(40).then_some(egress),
        }
    }

    fn rule(&mut self, namespace: &Arc<str>, index: u32) -> Rule {
        Rule {
            index,
            action: Action::Allow,
            peers: Peers::Of((0..2).map(|_| self.peer(namespace)).collect()),
            ports: Ports::Of((0..2).map(|_| self.port()).collect()),
        }
    }

    fn peer(&mut self, namespace: &Arc<str>) -> Peer {
        if self.random.percent(15) {
            let byte = |random: &mut Random| u8::try_from(random.below(256)).expect("a byte");
            let (a, b) = (byte(&mut self.random), byte(&mut self.random));
            let net = |address: Ipv4Addr, length| {
                IpNet::V4(Ipv4Net::new(address, length).expect("a length").trunc())
            };
            return Peer::IpBlock(IpBlock {
                cidr: net(Ipv4Addr::new(100 + a % 100, b, 0, 0), 16),
                except: if self.random.percent(30) {
                    vec![net(Ipv4Addr::new(100 + a % 100, b, 7, 0), 24)]
                } else {
                    Vec::new()
                },
            });
        }
        let namespaces = if self.random.percent(30) {
            let team = self.random.below(self.size.namespace_values);
            let team = self.text(format!("team-{team}"));
            NamespaceMatch::Labels(Selector::new([Requirement::In(
                "team".into(),
                [team].into(),
            )]))
        } else {
            NamespaceMatch::Name(namespace.clone())
        };
        Peer::Pods {
            namespaces,
            pods: self.selector(),
        }
    }

    fn selector(&mut self) -> Selector {
        if self.random.percent(3) {
            return Selector::EVERYTHING;
        }
        let app = self.random.below(5);
        let app = self.text(format!("app-{app}"));
        let mut requirements = vec![Requirement::In("app".into(), [app].into())];
        if self.random.percent(15) {
            let tiers = [self.text("tier-0".into()), self.text("tier-1".into())];
            requirements.push(if self.random.percent(33) {
                Requirement::NotIn("tier".into(), tiers.into())
            } else {
                Requirement::In("tier".into(), tiers.into())
            });
        }
        Selector::new(requirements)
    }

    fn port(&mut self) -> PortMatch {
        let first = [80, 443, 5432, 6379, 8080, 9090][self.random.below(6)];
        match self.random.below(100) {
            0..=4 => PortMatch::Named {
                protocol: Some(Protocol::Tcp),
                name: self.text("http".into()),
            },
            5..=9 => PortMatch::Range {
                protocol: Protocol::Tcp,
                first: 30_000,
                last: 32_767,
            },
            _ => PortMatch::Range {
                protocol: Protocol::Tcp,
                first,
                last: first,
            },
        }
    }
}

//! One packet judged again by policies that are altered as one mistake would alter them.
//!
//! `feature` says in words what each mistake is; this file does it. Alterations work on copies of
//! the few policies that have a say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::block::Block;
use super::cluster::Cluster;
use super::feature::Feature;
use super::judge::{Reason, isolates, judge, peer_matches};
use super::object::Pod;
use super::policy::{Direction, Peer, Policy, Rule};
use super::port::{PortEntry, Ports, Protocol};
use super::probe::Packet;
use super::selector::Selector;

/// A packet, its verdict, and the policies that gave it.
pub(super) struct Ablation<'c> {
    cluster: &'c Cluster,
    packet: Packet,
    allowed: bool,
    /// The policies of the namespaces of both ends.
    policies: Vec<&'c Policy>,
    /// Those of them that isolate one of the ends: the others have no say, whatever their rules.
    isolating: Vec<&'c Policy>,
    sides: Vec<SideOf<'c>>,
}

/// One side of the packet, as its subject sees it.
struct SideOf<'c> {
    direction: Direction,
    subject: &'c Pod,
    address: IpAddr,
    peer: Option<&'c Pod>,
}

impl<'c> Ablation<'c> {
    pub(super) fn new(cluster: &'c Cluster, packet: Packet) -> Self {
        let source = cluster.pod_at(packet.source);
        let destination = cluster.pod_at(packet.destination);
        let side = |subject, direction, address, peer| SideOf {
            direction,
            subject,
            address,
            peer,
        };
        let egress =
            source.map(|pod| side(pod, Direction::Egress, packet.destination, destination));
        let ingress = destination.map(|pod| side(pod, Direction::Ingress, packet.source, source));
        let sides: Vec<_> = egress.into_iter().chain(ingress).collect();
        let policies: Vec<&Policy> = cluster
            .policies
            .values()
            .filter(|policy| {
                let mut subjects = sides.iter().map(|side| side.subject);
                subjects.any(|pod| pod.namespace == policy.namespace)
            })
            .collect();
        let isolating = policies.iter().copied().filter(|policy| {
            let mut sides = sides.iter();
            sides.any(|side| isolates(policy, side.subject, side.direction))
        });
        Self {
            cluster,
            packet,
            allowed: cluster.judge(&packet).allowed,
            isolating: isolating.collect(),
            policies,
            sides,
        }
    }

    /// Whether the mistake that stands for this feature changes the answer.
    pub(super) fn decides(&self, feature: Feature) -> bool {
        match feature {
            Feature::Except => self.rules_matter(ignore_excepts),
            Feature::CidrOverlap => self.sides.iter().any(|side| self.overlap_decides(side)),
            Feature::PodInBlock => self.sides.iter().any(|side| {
                let hide = |peer: &mut Peer| hide_if(peer, |_| true);
                side.peer.is_some() && self.peers_matter(side.direction, hide)
            }),
            Feature::NegativeSelector => self.negative_decides(),
            Feature::NamedPort => {
                self.ports_matter(without_names)
                    || self.ports_matter(|entry| self.any_number_of(entry))
            }
            Feature::PortRange => {
                self.ports_matter(|entry| resize(entry, |first| Ports::Range(first, first)))
                    || self.ports_matter(|entry| resize(entry, |_| Ports::Every))
            }
            Feature::UnknownPeer => self.sides.iter().any(|side| self.unknown_decides(side)),
            Feature::Protocol => self.protocol_decides(),
            Feature::NoPorts => {
                self.packet.port.is_none()
                    && (self.rules_matter(|rule| rule.ports.clear())
                        || self.rules_matter(|rule| {
                            if rule.ports.is_empty() {
                                rule.peers = vec![Peer::Nothing];
                            }
                        }))
            }
            Feature::OwnNode => self.exempted(Reason::OwnNode),
            Feature::Itself => self.exempted(Reason::Itself),
            Feature::HostNetwork => self.pods_matter(
                |pod| pod.host_network && !pod.finished,
                |pod| pod.host_network = false,
            ),
            Feature::Finished => self.pods_matter(
                |pod| pod.finished && !pod.host_network,
                |pod| pod.finished = false,
            ),
        }
    }

    /// Whether the answer changes when policies are altered, and there are no others.
    fn matters(&self, policies: &[&Policy], alter: impl Fn(&mut Policy)) -> bool {
        let mut policies: Vec<Policy> = policies.iter().map(|policy| (*policy).clone()).collect();
        policies.iter_mut().for_each(alter);
        judge(self.cluster, policies.iter(), &self.packet).allowed != self.allowed
    }

    /// Whether the answer changes when rules are altered, and not whom policies isolate.
    fn rules_of_policies_matter(&self, alter: impl Fn(&mut Policy)) -> bool {
        self.matters(&self.isolating, alter)
    }

    fn rules_matter(&self, alter: impl Fn(&mut Rule)) -> bool {
        self.rules_of_policies_matter(|policy| {
            let rules = policy.ingress.iter_mut().chain(&mut policy.egress);
            rules.for_each(&alter);
        })
    }

    fn peers_matter(&self, direction: Direction, alter: impl Fn(&mut Peer)) -> bool {
        self.rules_of_policies_matter(|policy| {
            let rules = policy.rules_mut(direction).iter_mut();
            rules.flat_map(|rule| &mut rule.peers).for_each(&alter);
        })
    }

    /// As the others, each port entry replaced by any number of entries.
    fn ports_matter(&self, alter: impl Fn(&PortEntry) -> Vec<PortEntry>) -> bool {
        self.rules_matter(|rule| {
            if !rule.ports.is_empty() {
                let entries = rule.ports.iter().flatten().flat_map(&alter).map(Some);
                // An entry that matches nothing stays, lest the list become "every port".
                rule.ports = entries.chain([None]).collect();
            }
        })
    }

    fn isolating(&self, side: &SideOf<'_>) -> impl Iterator<Item = &Policy> {
        let (subject, direction) = (side.subject, side.direction);
        self.isolating
            .iter()
            .copied()
            .filter(move |policy| isolates(policy, subject, direction))
    }

    fn overlap_decides(&self, side: &SideOf<'_>) -> bool {
        let address = side.address;
        let blocks: Vec<&Block> = self
            .isolating(side)
            .flat_map(|policy| policy.rules(side.direction))
            .flat_map(|rule| &rule.peers)
            .filter_map(|peer| match peer {
                Peer::Block(block) if block.cidr.contains(address) => Some(block),
                _ => None,
            })
            .collect();
        let lengths: BTreeSet<u8> = blocks.iter().map(|b| b.cidr.length()).collect();
        // Prefixes around one address differ exactly if their lengths do.
        if lengths.len() < 2 {
            return false;
        }
        let excepts = blocks.iter().flat_map(|block| &block.except);
        let longest_except = excepts
            .filter(|cidr| cidr.contains(address))
            .map(|cidr| cidr.length())
            .max();
        lengths
            .last()
            .copied()
            .into_iter()
            .chain(longest_except)
            .any(|length| {
                self.peers_matter(side.direction, |peer| {
                    hide_if(peer, |b| {
                        b.cidr.contains(address) && b.cidr.length() < length
                    });
                })
            })
    }

    fn negative_decides(&self) -> bool {
        self.selectors_matter(|selector| {
            selector.requirements.retain(|r| !r.is_negative());
            true
        }) || self.selectors_matter(|selector| !selector.has_negative())
    }

    /// Alters every selector; a policy or peer whose selector answers `false` goes.
    fn selectors_matter(&self, alter: impl Fn(&mut Selector) -> bool) -> bool {
        self.matters(&self.policies, |policy| {
            if !alter(&mut policy.subject) {
                policy.isolates.clear();
            }
            let rules = policy.ingress.iter_mut().chain(&mut policy.egress);
            for peer in rules.flat_map(|rule| &mut rule.peers) {
                if let Peer::Pods { pods, namespaces } = peer {
                    let kept: Vec<bool> = pods.iter_mut().chain(namespaces).map(&alter).collect();
                    if kept.contains(&false) {
                        *peer = Peer::Nothing;
                    }
                }
            }
        })
    }

    /// An entry with a name as one entry for each number that any pod gives that name.
    fn any_number_of(&self, entry: &PortEntry) -> Vec<PortEntry> {
        let Ports::Named(name) = &entry.ports else {
            return vec![entry.clone()];
        };
        let pods = self.cluster.pods.values();
        pods.flat_map(|pod| pod.ports_named_at_all(name))
            .map(|number| PortEntry {
                protocol: entry.protocol,
                ports: Ports::Range(number, number),
            })
            .collect()
    }

    fn unknown_decides(&self, side: &SideOf<'_>) -> bool {
        let known = self.isolating(side).any(|policy| {
            let mut peers = policy
                .rules(side.direction)
                .iter()
                .flat_map(|rule| &rule.peers);
            peers.any(|peer| peer_matches(self.cluster, policy, peer, side.address, side.peer))
        });
        let alter = |change: fn(&mut Rule)| {
            self.rules_of_policies_matter(|policy| {
                policy.rules_mut(side.direction).iter_mut().for_each(change);
            })
        };
        !known
            && (alter(|rule| rule.peers.clear())
                || alter(|rule| {
                    if rule.peers.is_empty() {
                        rule.peers = vec![Peer::Nothing];
                    }
                }))
    }

    fn protocol_decides(&self) -> bool {
        let protocol = self.packet.protocol;
        self.ports_matter(|entry| {
            vec![PortEntry {
                protocol: if protocol.has_ports() {
                    protocol
                } else {
                    Protocol::TCP
                },
                ports: entry.ports.clone(),
            }]
        })
    }

    fn exempted(&self, reason: Reason) -> bool {
        let answer = self.cluster.judge(&self.packet);
        let mut sides = [answer.egress, answer.ingress].into_iter().flatten();
        self.allowed && sides.any(|side| side.reason == reason)
    }

    /// Whether the answer changes when the chosen pods at either end are altered.
    fn pods_matter(&self, choose: impl Fn(&Pod) -> bool, alter: impl Fn(&mut Pod)) -> bool {
        // Only pods that show one of the packet's addresses have a part in its verdict.
        let ends = [self.packet.source, self.packet.destination];
        let involved = |pod: &Pod| ends.iter().any(|ip| pod.addresses.contains(ip));
        let mut pods = self.cluster.pods.values();
        if !pods.any(|pod| choose(pod) && involved(pod)) {
            return false;
        }
        let altered = self.cluster.excerpt(involved, |pod| {
            if choose(pod) {
                alter(pod);
            }
        });
        // A pod that did not count brings the policies of its namespace along.
        let policies = self.cluster.policies.values().filter(|policy| {
            let mut pods = altered.pods.values();
            pods.any(|pod| pod.namespace == policy.namespace)
        });
        judge(&altered, policies, &self.packet).allowed != self.allowed
    }
}

fn ignore_excepts(rule: &mut Rule) {
    for peer in &mut rule.peers {
        if let Peer::Block(block) = peer {
            block.except.clear();
        }
    }
}

fn hide_if(peer: &mut Peer, hidden: impl Fn(&Block) -> bool) {
    if matches!(peer, Peer::Block(block) if hidden(block)) {
        *peer = Peer::Nothing;
    }
}

fn without_names(entry: &PortEntry) -> Vec<PortEntry> {
    match entry.ports {
        Ports::Named(_) => Vec::new(),
        _ => vec![entry.clone()],
    }
}

fn resize(entry: &PortEntry, range: impl Fn(u16) -> Ports) -> Vec<PortEntry> {
    let ports = match entry.ports {
        Ports::Range(first, last) if first != last => range(first),
        _ => entry.ports.clone(),
    };
    vec![PortEntry {
        protocol: entry.protocol,
        ports,
    }]
}

//! The decision (semantics 1, 3, 8): egress at the source AND ingress at the destination.

use std::net::IpAddr;

use super::cluster::Cluster;
use super::object::Pod;
use super::policy::{Direction, Peer, Policy, Rule};
use super::port::Protocol;
use super::probe::Packet;

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Both sides allow it.
    pub allowed: bool,
    /// The source pod's side; `None` where the source is no pod that policies know.
    pub egress: Option<Side>,
    /// The destination pod's side; `None` where the destination is no such pod.
    pub ingress: Option<Side>,
}

/// What one pod's policies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// This side allows it.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
    /// `namespace/name`, sorted: for [`Reason::Rule`] the policies with a matching rule, for
    /// [`Reason::Denied`] every policy that isolates the pod, else none.
    pub policies: Vec<String>,
    /// Every matching rule, sorted; none unless the reason is [`Reason::Rule`].
    pub rules: Vec<RuleRef>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// `namespace/name`.
    pub policy: String,
    /// Index in `spec.ingress` or `spec.egress`, from 0.
    pub index: usize,
}

/// Why a side allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No policy selects the pod for this direction.
    NotIsolated,
    /// A rule matches.
    Rule,
    /// No rule matches, but a pod reaches itself.
    Itself,
    /// No rule matches, but the peer is an address of the pod's own node.
    OwnNode,
    /// The pod is isolated and no rule matches.
    Denied,
}

/// A connection as each end's policies see it: translation lies between the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Who opens it.
    pub(super) source: IpAddr,
    /// Where it ends.
    pub(super) destination: IpAddr,
    pub(super) protocol: Protocol,
    /// The port there.
    pub(super) port: Option<u16>,
    /// Address and port that the sender's policies are asked about.
    pub(super) sent_to: (IpAddr, Option<u16>),
    /// Whom the receiver sees.
    pub(super) seen_as: IpAddr,
}

impl Way {
    /// Of a packet that nothing translates.
    fn plain(packet: &Packet) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            port: packet.port,
            sent_to: (packet.destination, packet.port),
            seen_as: packet.source,
        }
    }

    /// It is translated, if at all, before it leaves the sender's node.
    fn is_near(&self) -> bool {
        self.sent_to == (self.destination, self.port)
    }
}

/// Judges a packet by some policies of a cluster.
pub(super) fn judge<'a>(
    cluster: &Cluster,
    policies: impl Iterator<Item = &'a Policy> + Clone,
    packet: &Packet,
) -> Answer {
    judge_way(cluster, policies, &Way::plain(packet))
}

/// Judges a connection that may be translated.
pub(super) fn judge_way<'a>(
    cluster: &Cluster,
    policies: impl Iterator<Item = &'a Policy> + Clone,
    way: &Way,
) -> Answer {
    let source = cluster.pod_at(way.source);
    let receiver = cluster.pod_at(way.destination);
    let to_itself = match (source, receiver) {
        (Some(one), Some(other)) => same_pod(one, other) && way.is_near(),
        _ => false,
    };
    // Semantics 8: what comes back to its sender is the pod reaching itself, whoever it shows.
    let seen_as = if to_itself { way.source } else { way.seen_as };
    // Semantics 1: an end that is not a pod subject imposes no check on its side.
    let egress = source.map(|subject| Judge {
        cluster,
        protocol: way.protocol,
        port: way.sent_to.1,
        subject,
        direction: Direction::Egress,
        address: way.sent_to.0,
        peer: cluster.pod_at(way.sent_to.0),
        destination: cluster.pod_at(way.sent_to.0),
        to_itself,
        forwarded: false,
    });
    let ingress = receiver.map(|subject| Judge {
        cluster,
        protocol: way.protocol,
        port: way.port,
        subject,
        direction: Direction::Ingress,
        address: seen_as,
        peer: cluster.pod_at(seen_as),
        destination: receiver,
        to_itself,
        forwarded: seen_as != way.source,
    });
    let egress = egress.map(|judge| judge.side(policies.clone()));
    let ingress = ingress.map(|judge| judge.side(policies.clone()));
    let allows = |side: &Option<Side>| side.as_ref().is_none_or(|side| side.allowed);
    Answer {
        allowed: allows(&egress) && allows(&ingress),
        egress,
        ingress,
    }
}

/// One side of one packet.
struct Judge<'c> {
    cluster: &'c Cluster,
    protocol: Protocol,
    /// The destination's.
    port: Option<u16>,
    subject: &'c Pod,
    direction: Direction,
    /// The other end.
    address: IpAddr,
    /// The pod that holds `address`.
    peer: Option<&'c Pod>,
    /// The pod on which port names are resolved, whichever direction is judged (semantics 5).
    destination: Option<&'c Pod>,
    /// The pod reaches itself.
    to_itself: bool,
    /// A node lent its address: what it may do itself does not count (semantics 9).
    forwarded: bool,
}

impl Judge<'_> {
    fn side<'a>(&self, policies: impl Iterator<Item = &'a Policy>) -> Side {
        let mut isolating = Vec::new();
        let mut rules = Vec::new();
        for policy in policies.filter(|policy| isolates(policy, self.subject, self.direction)) {
            isolating.push(policy.full_name());
            for (index, rule) in policy.rules(self.direction).iter().enumerate() {
                if self.rule_matches(policy, rule) {
                    let policy = policy.full_name();
                    rules.push(RuleRef { policy, index });
                }
            }
        }
        isolating.sort();
        rules.sort();
        let reason = if isolating.is_empty() {
            Reason::NotIsolated
        } else if !rules.is_empty() {
            Reason::Rule
        } else if self.to_itself {
            Reason::Itself
        } else if !self.forwarded && self.cluster.is_own_node(self.subject, self.address) {
            Reason::OwnNode
        } else {
            Reason::Denied
        };
        let mut policies = match reason {
            Reason::Rule => rules.iter().map(|rule| rule.policy.clone()).collect(),
            Reason::Denied => isolating,
            Reason::NotIsolated | Reason::Itself | Reason::OwnNode => Vec::new(),
        };
        policies.dedup();
        Side {
            allowed: reason != Reason::Denied,
            reason,
            policies,
            rules,
        }
    }

    /// Semantics 3: peers ORed, ports ORed, peers AND ports; an empty list is every one.
    fn rule_matches(&self, policy: &Policy, rule: &Rule) -> bool {
        let peer = rule.peers.is_empty()
            || rule
                .peers
                .iter()
                .any(|peer| peer_matches(self.cluster, policy, peer, self.address, self.peer));
        let port = rule.ports.is_empty()
            || rule
                .ports
                .iter()
                .flatten()
                .any(|entry| entry.matches(self.protocol, self.port, self.destination));
        peer && port
    }
}

/// Semantics 2: a policy isolates the pods of its own namespace that its selector matches, in the
/// directions of its types.
pub(super) fn isolates(policy: &Policy, subject: &Pod, direction: Direction) -> bool {
    policy.namespace == subject.namespace
        && policy.isolates.contains(&direction)
        && policy.subject.matches(&subject.labels)
}

/// The peers table of semantics 3. Selectors match pod addresses only; ipBlock matches any
/// address, those of pods and nodes included (semantics 4).
pub(super) fn peer_matches(
    cluster: &Cluster,
    policy: &Policy,
    peer: &Peer,
    address: IpAddr,
    pod: Option<&Pod>,
) -> bool {
    match (peer, pod) {
        (Peer::Block(block), _) => block.matches(address),
        (Peer::Nothing, _) | (Peer::Pods { .. }, None) => false,
        (Peer::Pods { pods, namespaces }, Some(pod)) => {
            let namespace = match namespaces {
                None => pod.namespace == policy.namespace,
                Some(selector) => selector.matches(&cluster.namespace_labels(&pod.namespace)),
            };
            let labels = pods
                .as_ref()
                .is_none_or(|selector| selector.matches(&pod.labels));
            namespace && labels
        }
    }
}

fn same_pod(one: &Pod, other: &Pod) -> bool {
    (&one.namespace, &one.name) == (&other.namespace, &other.name)
}

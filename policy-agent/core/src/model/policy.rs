//! The general policy model: tiers of ordered policies.
//!
//! `networking.k8s.io/v1` NetworkPolicy is one tier of it, whose policies are a
//! union and isolate what they select. Ordered front ends use other tiers. The
//! compiler resolves tiers, order and overlaps; the kernel never sees them.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::object::Protocol;
use super::selector::Selector;

/// Which object a policy came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// API kind, for example `NetworkPolicy`.
    pub kind: Arc<str>,
    /// `metadata.namespace`; `None`: the kind is cluster-scoped.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyId {
    /// `namespace/name`, or the name alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Tiers in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Cluster-wide policies that come before NetworkPolicy. No match: go on.
    Admin,
    /// NetworkPolicy: a union; what a policy of it isolates is denied unless a
    /// rule allows it, and the tier's answer is final.
    NetworkPolicy,
    /// Cluster-wide policies that come after NetworkPolicy. No match: go on, and
    /// at the end of all tiers everything is allowed.
    Baseline,
}

impl Tier {
    /// Every tier, in order.
    pub const ALL: [Self; 3] = [Self::Admin, Self::NetworkPolicy, Self::Baseline];

    /// Whether a pod that a policy of the tier covers in a direction is denied
    /// what no rule of the tier decides.
    pub const fn denies_by_default(self) -> bool {
        match self {
            Self::NetworkPolicy => true,
            Self::Admin | Self::Baseline => false,
        }
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which object it came from.
    pub id: PolicyId,
    /// Its tier.
    pub tier: Tier,
    /// Place within an ordered tier, lower first, ties by id; 0 in a union.
    pub order: i64,
    /// Which pods it applies to.
    pub subject: Subject,
    /// Rules for what the subject receives; `None`: the policy says nothing of
    /// ingress. `Some` of no rules isolates in the NetworkPolicy tier.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for what the subject sends, likewise.
    pub egress: Option<Vec<Rule>>,
}

/// Which pods a policy applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// Namespaces of the pods.
    pub namespaces: NamespaceMatch,
    /// Labels of the pods.
    pub pods: Selector,
}

/// Namespaces, by name or by label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamespaceMatch {
    /// This one.
    Name(Arc<str>),
    /// Those whose labels match.
    Labels(Selector),
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It passes; no later rule is asked.
    Allow,
    /// It is dropped; no later rule is asked.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
    /// It is reported, whatever the verdict; the next rule is asked.
    Log,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the object's list, from 0.
    pub index: u32,
    /// What it does.
    pub action: Action,
    /// Which peers it matches.
    pub peers: Peers,
    /// Which protocols and ports it matches.
    pub ports: Ports,
}

/// Peers of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Everything, also what is outside the cluster.
    Any,
    /// Any of these; none of them if the list is empty.
    Of(Vec<Peer>),
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Pods by namespace and labels; never a host-network pod, never an address
    /// that is not a pod's.
    Pods {
        /// Their namespaces.
        namespaces: NamespaceMatch,
        /// Their labels.
        pods: Selector,
    },
    /// Addresses, whoever has them.
    IpBlock(IpBlock),
}

/// An `ipBlock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpBlock {
    /// The block; host bits are zero.
    pub cidr: IpNet,
    /// What is not in it: each strictly inside, host bits zero, sorted, unique.
    pub except: Vec<IpNet>,
}

/// Protocols and ports of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every protocol and port, also protocols without ports.
    Any,
    /// Any of these; nothing if the list is empty.
    Of(Vec<PortMatch>),
}

/// A protocol and port of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// Ports `first` to `last`, both included.
    Range {
        /// Protocol.
        protocol: Protocol,
        /// First port; 0 to mean every port together with `last` 65535.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// The destination pod's port of this name and protocol, whatever its number
    /// there. Never matches what is not a pod.
    Named {
        /// Protocol; `None`: the container port's own.
        protocol: Option<Protocol>,
        /// Name of the container port.
        name: Arc<str>,
    },
}

//! The desired state: what the kernel's maps must mean, before numbers are given.
//!
//! Made by `compile`, asked by `simulate`, turned into map contents by `plan`.
//! It is a function of the objects alone. Identity, policy and port set numbers
//! are not in it: they depend on what is in the kernel already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use policy_common::abi::Direction;
use policy_common::abi::policy::{Interval, RuleId};

use crate::model::{PolicyId, Protocol};

/// A class of addresses: those that the same peers match. Numbers have no
/// meaning beyond one [`DesiredState`]; 0 is "no peer matches".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

impl ClassId {
    /// No peer of a policy in force matches.
    pub const OTHER: Self = Self(0);
}

/// A compiled policy: one direction of a set of pods. Numbers have no meaning
/// beyond one [`DesiredState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyRef(pub u32);

/// Everything that must be in force on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredState {
    /// Local pods that have an address, by (namespace, name).
    pub endpoints: BTreeMap<PodRef, EndpointSpec>,
    /// Addresses that have a class of their own: pods that a peer matches, and
    /// every address of this node.
    pub hosts: BTreeMap<IpAddr, HostSpec>,
    /// Prefixes of every ipBlock and except in force: the class of the addresses
    /// whose longest prefix it is, and which are not in `hosts`.
    pub prefixes: BTreeMap<IpNet, ClassId>,
    /// The compiled policies that endpoints name.
    pub policies: BTreeMap<PolicyRef, Arc<CompiledPolicy>>,
    /// What each rule id stands for.
    pub rules: BTreeMap<RuleId, Provenance>,
    /// What is behind the addresses of Services; none where no endpoint's egress
    /// is isolated, since nobody asks then.
    pub services: BTreeMap<Frontend, Arc<Backends>>,
}

/// An address and port that are translated on the way, those of a Service. Node
/// ports are not among them: what a pod sends to its own node is never decided
/// before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port, host byte order.
    pub port: u16,
}

impl std::fmt::Display for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = std::net::SocketAddr::new(self.address, self.port);
        write!(f, "{address}/{}", self.protocol.name())
    }
}

/// One of the places to which a frontend leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The address: a pod's, a node's, or one outside the cluster.
    pub address: IpAddr,
    /// The port, host byte order.
    pub port: u16,
}

/// Where a frontend leads; may be nowhere.
pub type Backends = BTreeSet<Backend>;

/// A pod, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A local pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Policy for what it receives; `None`: nothing isolates it.
    pub ingress: Option<PolicyRef>,
    /// Policy for what it sends; `None`: nothing isolates it.
    pub egress: Option<PolicyRef>,
}

/// An address with a class of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSpec {
    /// Its class.
    pub class: ClassId,
    /// It is this node's own.
    pub node: bool,
}

/// What a set of policies says to each class of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledPolicy {
    /// Which way it looks.
    pub direction: Direction,
    /// The answer for every class without a row.
    pub default: Arc<PortSetSpec>,
    /// Answers that differ from it. Never has a row for [`ClassId::OTHER`].
    pub rows: BTreeMap<ClassId, Arc<PortSetSpec>>,
}

/// What is allowed, by protocol and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSetSpec {
    /// Sorted, disjoint; neighbours that say the same are one.
    pub intervals: Vec<Interval>,
    /// Rule that answers everywhere else.
    pub default_rule: RuleId,
    /// What it says: `policy_common::abi::policy::ACTION_*`.
    pub default_action: u32,
}

/// What a rule id stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provenance {
    /// A rule of a policy.
    Rule {
        /// The policy.
        policy: PolicyId,
        /// Which list of it.
        direction: Direction,
        /// Place in the list, from 0.
        index: u32,
    },
    /// Denied because these policies isolate the pod and none of them allows it.
    Isolated {
        /// The isolating policies, sorted.
        policies: Vec<PolicyId>,
        /// Which way they isolate.
        direction: Direction,
    },
    /// Allowed because the peer is this node (NetworkPolicy v1).
    OwnNode,
    /// Allowed because no tier decided.
    Default,
}

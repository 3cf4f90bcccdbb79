//! Pods, namespaces and nodes, as far as policy needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::labels::Labels;

/// A protocol that policy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Every protocol that policy can name.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// IANA number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => policy_common::abi::protocol::TCP,
            Self::Udp => policy_common::abi::protocol::UDP,
            Self::Sctp => policy_common::abi::protocol::SCTP,
        }
    }

    /// As the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// From the API's spelling; exact, as the API server's validation is.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }
}

/// A named container port (`spec.containers[].ports[]`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodPort {
    /// IANA service name; ports without a name are of no use to policy.
    pub name: Arc<str>,
    /// Protocol, TCP if the object names none.
    pub protocol: Protocol,
    /// `containerPort`, 1 to 65535.
    pub port: u16,
}

/// A port of the pod's node that leads to the pod
/// (`spec.containers[].ports[].hostPort`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `hostIP`: the only address of the node that it is at; `None`: at all.
    pub address: Option<IpAddr>,
    /// Protocol, TCP if the object names none.
    pub protocol: Protocol,
    /// The node's port, 1 to 65535.
    pub port: u16,
    /// `containerPort`, to which it leads, 1 to 65535.
    pub target: u16,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`; empty if the object has none (manifests). Of a static pod,
    /// the UID by which its node knows it.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp`, seconds since 1970; 0 if there is none.
    /// Decides between two live pods with one address: the newer owns it.
    pub created: i64,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`: neither a subject nor a selectable peer.
    pub host_network: bool,
    /// `status.phase` is Succeeded or Failed: its addresses are not its own any
    /// more.
    pub finished: bool,
    /// The IPv4 address of `status.podIPs`.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address of `status.podIPs`.
    pub ipv6: Option<Ipv6Addr>,
    /// Named ports of containers and sidecars, sorted, without duplicates.
    pub ports: Vec<PodPort>,
    /// Ports of its node that lead to it, sorted, without duplicates; none where
    /// it is on the node's own network.
    pub host_ports: Vec<HostPort>,
}

impl Pod {
    /// Whether policy applies to it and selectors may name it.
    pub fn is_selectable(&self) -> bool {
        !self.host_network && !self.finished
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (v4, v6) = (self.ipv4.map(IpAddr::V4), self.ipv6.map(IpAddr::V6));
        v4.into_iter().chain(v6)
    }
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`, with `kubernetes.io/metadata.name` as the API server
    /// sets it.
    pub labels: Labels,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: what its pods get their addresses from, where the node's
    /// address management goes by it.
    pub pod_ranges: Vec<IpNet>,
}

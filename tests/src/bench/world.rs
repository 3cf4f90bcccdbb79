//! What the tables say while packets are measured: one pod, isolated both ways, and its peers.
//!
//! Peers are spread over [`CLASSES`] classes, each with a port set of its own, as they are when
//! many policies select them. The pod is at the interface `lo`, slot [`SLOT`].

use std::net::{Ipv4Addr, Ipv6Addr};

use policy_common::abi::conntrack::{CT_CONFIRMED, CT_OPENED_BY_POD, CT_REPLIED, CtEntry, CtKey};
use policy_common::abi::endpoint::{Endpoint, FLAG_USED, PolicyWord};
use policy_common::abi::policy::{
    ACTION_ALLOW, ACTION_DENY, INLINE_INTERVALS, Interval, PolicyEntry, PolicyKey, PortSet, point,
};
use policy_common::abi::{Direction, family, protocol};
use policy_common::conntrack;
use policy_common::flow_cache::FlowKey;
use policy_common::packet::{Packet, words4, words6};

use super::layout::Flow;
use crate::generate::Rng;

/// `lo`: it is there in every network namespace.
pub(super) const IFINDEX: u32 = 1;
/// Slot of the pod.
pub(super) const SLOT: u32 = 1;
/// Its endpoint number.
pub(super) const NUMBER: u32 = 7;
/// Its policies.
pub(super) const WORD: PolicyWord = PolicyWord::new(3, 1, 2);
/// Its addresses.
pub(super) const POD4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
/// Classes that peers are in, at most.
const CLASSES: u32 = 64;
/// First of the 256 ports that every peer may use, at the pod and at the peer.
pub(super) const ALLOWED_PORT: u16 = 8_000;
/// First of 256 ports that no peer may use.
pub(super) const DENIED_PORT: u16 = 9_000;
/// First port of the other side.
const FIRST_PORT: u16 = 10_000;
/// Ports that clients use: a prime, so that steps of any size meet all of them.
const CLIENT_PORTS: u64 = 49_999;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What is in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct World {
    pub(super) family: Family,
    /// Peers.
    pub(super) peers: u32,
    /// Each peer is an address in a prefix of its own, not a pod.
    pub(super) prefixes: bool,
    /// Connections that the pod has, all established.
    pub(super) connections: u32,
    /// Who opened them: ingress is the peers.
    pub(super) direction: Direction,
    /// Policies of other pods of the node.
    pub(super) other_policies: u32,
    /// The node's pod range is closed but for the peers, which are in it.
    pub(super) closed: bool,
}

impl World {
    /// Address of a peer.
    pub(super) fn peer(&self, index: u32) -> [u8; 16] {
        match self.family {
            Family::V4 => self.peer4(index).to_ipv6_mapped().octets(),
            Family::V6 => self.peer6(index).octets(),
        }
    }

    pub(super) fn peer4(&self, index: u32) -> Ipv4Addr {
        if self.prefixes {
            Ipv4Addr::from_bits(0x1400_0007 + index * 256)
        } else {
            Ipv4Addr::from_bits(0x0a01_0000 + index)
        }
    }

    pub(super) fn peer6(&self, index: u32) -> Ipv6Addr {
        let index = u128::from(index);
        if self.prefixes {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | index << 64 | 7)
        } else {
            Ipv6Addr::from_bits(0xfd00_0002 << 96 | index)
        }
    }

    /// Class of a peer.
    pub(super) fn identity(index: u32) -> u32 {
        1 + index % CLASSES
    }

    /// The flows that a driver picks from: each peer in turn, then each with its next port.
    pub(super) fn flow(&self, index: u32, first_local_port: u16) -> Flow {
        let (peer_port, local_port) = self.ports(index, first_local_port);
        Flow {
            peer: self.peer(index % self.peers),
            peer_port: peer_port.to_be(),
            local_port: local_port.to_be(),
            set: self.flow_key(index, peer_port, local_port).set_index(),
            pad: [0; 2],
        }
    }

    /// Ports of a flow (of the peer, of the pod): the server's is the one that policy judges.
    fn ports(&self, index: u32, server: u16) -> (u16, u16) {
        // Clients' ports look random; a peer's are all different.
        let start = Rng::new(u64::from(index % self.peers)).bits() % CLIENT_PORTS;
        let turn = u64::from(index / self.peers);
        let client = (start + turn * 4_999) % CLIENT_PORTS;
        let client = FIRST_PORT + u16::try_from(client).expect("there are as many");
        match self.direction {
            Direction::Ingress => (client, server),
            Direction::Egress => (server, client),
        }
    }

    fn flow_key(&self, index: u32, peer_port: u16, local_port: u16) -> FlowKey {
        let (peer, pod, family) = match self.family {
            Family::V4 => (
                words4(self.peer4(index % self.peers).octets()),
                words4(POD4.octets()),
                family::V4,
            ),
            Family::V6 => (
                words6(self.peer6(index % self.peers).octets()),
                words6(POD6.octets()),
                family::V6,
            ),
        };
        let (src, dst, src_port, dst_port) = match self.direction {
            Direction::Ingress => (peer, pod, peer_port, local_port),
            Direction::Egress => (pod, peer, local_port, peer_port),
        };
        let packet = Packet {
            src,
            dst,
            src_port,
            dst_port,
            protocol: protocol::TCP,
            family,
            ..Packet::EMPTY
        };
        FlowKey::new(&packet, self.direction, false, SLOT, WORD.generation())
    }

    /// The record of a flow's connection, as it is once both ends have answered.
    pub(super) fn record(&self, index: u32, now_ns: u64) -> (CtKey, CtEntry) {
        let (peer_port, local_port) = self.ports(index, ALLOWED_PORT);
        let key = CtKey {
            peer: self.peer(index % self.peers),
            endpoint: NUMBER,
            local_port,
            peer_port,
            protocol: protocol::TCP,
            family: match self.family {
                Family::V4 => family::V4,
                Family::V6 => family::V6,
            },
            pad: [0; 2],
        };
        let opener = match self.direction {
            Direction::Ingress => 0,
            Direction::Egress => CT_OPENED_BY_POD,
        };
        let entry = CtEntry {
            tag: conntrack::tag(&key),
            flags: CT_REPLIED | CT_CONFIRMED | opener,
            generation: WORD.generation(),
            slot: SLOT,
            last_seen_ns: now_ns,
        };
        (key, entry)
    }

    /// The pod.
    pub(super) fn endpoint() -> Endpoint {
        Endpoint {
            word: WORD.0,
            number: NUMBER,
            flags: FLAG_USED,
            addr4: POD4.octets(),
            ifindex: IFINDEX,
            addr6: POD6.octets(),
            ..Endpoint::EMPTY
        }
    }

    /// Rows of the pod's policies and of the others, all policies alike.
    pub(super) fn rows(&self) -> Vec<(PolicyKey, PolicyEntry)> {
        let classes = self.peers.min(CLASSES);
        let policies = 1..=2 + self.other_policies;
        let rows = policies.flat_map(|policy| (0..=classes).map(move |class| (policy, class)));
        rows.map(|(policy, identity)| {
            let key = PolicyKey { policy, identity };
            let entry = PolicyEntry {
                policy,
                identity,
                port_set: 1 + identity,
            };
            (key, entry)
        })
        .collect()
    }

    /// Port sets, from number 1 on: nothing for every other, then one for each class.
    pub(super) fn port_sets() -> Vec<PortSet> {
        let mut sets = vec![NOTHING];
        sets.extend((0..CLASSES).map(of_class));
        sets
    }
}

/// Allows nothing.
const NOTHING: PortSet = PortSet {
    count: 0,
    extent: 0,
    default_rule: 1,
    default_action: ACTION_DENY,
    inline: [Interval {
        first: 0,
        last: 0,
        rule: 0,
        action: 0,
    }; INLINE_INTERVALS],
};

/// What a class of peers may use.
fn of_class(class: u32) -> PortSet {
    let mut set = NOTHING;
    set.count = 2;
    set.inline[0] = allow(443, 100 + class);
    set.inline[1] = allow(ALLOWED_PORT, 200 + class);
    set
}

/// 256 TCP ports from this one on.
fn allow(port: u16, rule: u32) -> Interval {
    Interval {
        first: point(protocol::TCP, port),
        last: point(protocol::TCP, port + 255),
        rule,
        action: ACTION_ALLOW,
    }
}

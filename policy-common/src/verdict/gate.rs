//! What passes or is dropped before any policy is asked: the traffic that makes
//! a link work, and what a pod must never send.
//!
//! Everything let through here is bounded so that it carries nothing past
//! policy: hop limits that no router forwards, multicast and broadcast
//! destinations, and announcements of the pod's own addresses only.

use crate::abi::Direction;
use crate::abi::endpoint::{Endpoint, FLAG_NO_SPOOF_CHECK, PolicyWord};
use crate::abi::event::DropReason;
use crate::abi::protocol;
use crate::packet::{
    Class, Frame, Kind, Packet, PacketBytes, Words, bytes4, bytes16, words4, words6,
};

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate<'a> {
    /// Ask policy.
    Judge(&'a Packet),
    /// Let it through.
    Pass,
    /// Drop it.
    Drop(DropReason),
}

/// The pod whose frame it is.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// Its policies: what cannot be judged passes where nothing isolates it.
    pub word: PolicyWord,
    /// Its addresses and settings.
    pub endpoint: &'a Endpoint,
}

/// Sorts out a parsed frame.
#[inline(always)]
pub fn gate<'a, B: PacketBytes>(
    pod: &Pod<'_>,
    direction: Direction,
    frame: &'a Frame,
    bytes: &B,
) -> Gate<'a> {
    match frame.class {
        Class::Ip => match direction {
            Direction::Ingress => to_pod(&frame.packet, bytes),
            Direction::Egress => from_pod(pod, &frame.packet, bytes),
        },
        Class::Arp => {
            let sender = bytes4(frame.packet.src);
            let own = sender == pod.endpoint.addr4 || sender == [0; 4];
            if direction == Direction::Egress && checks_source(pod) && !own {
                Gate::Drop(DropReason::Spoofed)
            } else {
                Gate::Pass
            }
        }
        Class::Other => unless_isolated(pod, direction, DropReason::EtherType),
        Class::Bad(reason) => {
            if direction == Direction::Egress {
                // A router advertisement behind more headers than are walked here
                // is one all the same to a receiver that walks them all.
                if reason == DropReason::ExtensionHeaders {
                    return Gate::Drop(reason);
                }
                if checks_source(pod) {
                    // Its source is known if its family is. What has none that can
                    // be read may have anybody's.
                    if frame.packet.family == 0 {
                        if reason != DropReason::EtherType {
                            return Gate::Drop(reason);
                        }
                    } else if !is_own(pod, &frame.packet) {
                        return Gate::Drop(DropReason::Spoofed);
                    }
                }
            }
            unless_isolated(pod, direction, reason)
        }
    }
}

/// Whether a packet's own end is an endpoint's address. `addr4` and `addr6`: the
/// endpoint's, as they lie in memory in wire order; zero is no address.
#[inline(always)]
pub fn is_of_endpoint(
    direction: Direction,
    packet: &Packet,
    addr4: impl FnOnce() -> u32,
    addr6: impl FnOnce() -> Words,
) -> bool {
    let own = match direction {
        Direction::Ingress => packet.dst,
        Direction::Egress => packet.src,
    };
    if packet.is_v4() {
        let address = addr4();
        address != 0 && own == words4(address.to_ne_bytes())
    } else {
        own != [0, 0] && own == addr6()
    }
}

/// Whether [`gate`] is certain to hand a packet over: TCP, and UDP that is not DHCP's, to
/// a pod or from its own address (`own`: [`is_of_endpoint`]). False says nothing.
#[inline(always)]
pub fn hands_over(direction: Direction, packet: &Packet, own: bool) -> bool {
    let common = match packet.kind {
        Kind::TcpSyn | Kind::TcpSynAck | Kind::TcpFin | Kind::TcpReset | Kind::TcpData => true,
        Kind::Datagram => {
            packet.protocol == protocol::UDP && !matches!(packet.src_port, 67 | 68 | 546 | 547)
        }
        _ => false,
    };
    common && (own || direction == Direction::Ingress)
}

#[inline(always)]
fn unless_isolated<'a>(pod: &Pod<'_>, direction: Direction, reason: DropReason) -> Gate<'a> {
    if pod.word.policy(direction) == PolicyWord::NOT_ISOLATED {
        Gate::Pass
    } else {
        Gate::Drop(reason)
    }
}

#[inline(always)]
fn to_pod<'a, B: PacketBytes>(packet: &'a Packet, bytes: &B) -> Gate<'a> {
    match packet.kind {
        _ if is_long_discovery(packet, bytes) => Gate::Judge(packet),
        Kind::NeighbourSolicitation
        | Kind::NeighbourAdvertisement
        | Kind::RouterSolicitation
        | Kind::RouterAdvertisement
        | Kind::MulticastListener => Gate::Pass,
        Kind::Datagram if is_dhcp(packet, (67, 68), (547, 546)) && to_broadcast_or_link(packet) => {
            Gate::Pass
        }
        _ => Gate::Judge(packet),
    }
}

#[inline(always)]
fn from_pod<'a, B: PacketBytes>(pod: &Pod<'_>, packet: &'a Packet, bytes: &B) -> Gate<'a> {
    match packet.kind {
        _ if is_long_discovery(packet, bytes) => {}
        // Reports and done messages, to multicast only: a query is a router's.
        Kind::MulticastListener if packet.detail == 130 || !is_multicast(packet.dst) => {}
        // CVE-2020-10749: a pod that plays router takes over its neighbours.
        Kind::RouterAdvertisement => return Gate::Drop(DropReason::RouterAdvertisement),
        // Whatever the hop limit.
        Kind::OtherIcmp if !packet.is_v4() && matches!(packet.detail, 134 | 137) => {
            return Gate::Drop(DropReason::RouterAdvertisement);
        }
        // One to an address beyond the link asks about that very address: a router
        // forwards it, and what it carries besides is eight bytes.
        Kind::NeighbourSolicitation
            if !is_multicast_or_link(packet.dst)
                && bytes.load::<16>(packet.transport_offset as usize + 8)
                    != Some(bytes16(packet.dst)) => {}
        Kind::NeighbourSolicitation | Kind::RouterSolicitation | Kind::MulticastListener => {
            // The unspecified source is duplicate address detection (RFC 4862).
            return if !checks_source(pod) || packet.src == [0, 0] || is_own6(pod, packet.src) {
                Gate::Pass
            } else {
                Gate::Drop(DropReason::Spoofed)
            };
        }
        Kind::NeighbourAdvertisement => {
            let target = bytes.load::<16>(packet.transport_offset as usize + 8);
            return match target {
                None => Gate::Drop(DropReason::Truncated),
                Some(target) if !checks_source(pod) || is_own6(pod, words6(target)) => Gate::Pass,
                Some(_) => Gate::Drop(DropReason::Spoofed),
            };
        }
        Kind::Datagram if is_dhcp(packet, (68, 67), (546, 547)) && to_broadcast_or_link(packet) => {
            let unspecified = packet.is_v4() && packet.src == words4([0; 4]);
            if unspecified || is_own(pod, packet) {
                return Gate::Pass;
            }
        }
        _ => {}
    }
    if checks_source(pod) && !is_own(pod, packet) {
        return Gate::Drop(DropReason::Spoofed);
    }
    Gate::Judge(packet)
}

/// The longest frame of neighbour discovery that passes unjudged, bytes: two VLAN
/// tags, IPv6, a solicitation with a link-layer address (RFC 4861 section 4.3) and
/// a nonce (RFC 7527), and 16 to spare.
const LONGEST_DISCOVERY: usize = 14 + 8 + 40 + 24 + 8 + 8 + 16;

/// The longest multicast listener message that passes unjudged, bytes: a report
/// of sixteen groups (RFC 3810 section 5.2).
const LONGEST_LISTENER: usize = 14 + 8 + 40 + 8 + 8 + 16 * 20;

/// Neighbour discovery that carries more than neighbour discovery.
#[inline(always)]
fn is_long_discovery<B: PacketBytes>(packet: &Packet, bytes: &B) -> bool {
    matches!(
        packet.kind,
        Kind::NeighbourSolicitation | Kind::NeighbourAdvertisement | Kind::RouterSolicitation
    ) && bytes.len() > LONGEST_DISCOVERY
        || packet.kind == Kind::MulticastListener && bytes.len() > LONGEST_LISTENER
}

#[inline(always)]
fn is_multicast(address: Words) -> bool {
    address[0].to_ne_bytes()[0] == 0xff
}

#[inline(always)]
fn is_multicast_or_link(address: Words) -> bool {
    is_multicast(address) || is_link_local6(address)
}

#[inline(always)]
fn checks_source(pod: &Pod<'_>) -> bool {
    pod.endpoint.flags & FLAG_NO_SPOOF_CHECK == 0
}

#[inline(always)]
fn is_own(pod: &Pod<'_>, packet: &Packet) -> bool {
    if packet.is_v4() {
        pod.endpoint.addr4 != [0; 4] && packet.src == words4(pod.endpoint.addr4)
    } else {
        is_own6(pod, packet.src)
    }
}

#[inline(always)]
fn is_own6(pod: &Pod<'_>, address: Words) -> bool {
    if address == [0, 0] {
        return false;
    }
    let link_local6 = words6(pod.endpoint.link_local6);
    // Until its link-local address is known, a pod may use any: without one it
    // could not ask for its router.
    address == words6(pod.endpoint.addr6)
        || address == link_local6
        || (link_local6 == [0, 0] && is_link_local6(address))
}

/// fe80::/10, RFC 4291 section 2.5.6.
#[inline(always)]
fn is_link_local6(address: Words) -> bool {
    let head = address[0].to_ne_bytes();
    head[0] == 0xfe && head[1] & 0xc0 == 0x80
}

/// UDP between these ports (RFC 2131 section 4.1, RFC 8415 section 7.2).
#[inline(always)]
fn is_dhcp(packet: &Packet, v4: (u16, u16), v6: (u16, u16)) -> bool {
    let ports = (packet.src_port, packet.dst_port);
    // A fragment's other parts do not come here.
    packet.is_whole()
        && packet.protocol == protocol::UDP
        && ports == if packet.is_v4() { v4 } else { v6 }
}

/// The limited broadcast, ff02::1:2, or a link-local address: none is routed.
#[inline(always)]
fn to_broadcast_or_link(packet: &Packet) -> bool {
    if packet.is_v4() {
        bytes4(packet.dst) == [255; 4]
    } else {
        let head = packet.dst[0].to_ne_bytes();
        is_link_local6(packet.dst) || (head[0] == 0xff && head[1] == 0x02)
    }
}

#[cfg(test)]
mod tests;

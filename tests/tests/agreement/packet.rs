//! The frame that opens the connection of a probe.

use std::net::SocketAddr;

use policy_tests::generate::Rng;
use policy_tests::lab::{IpPacket, Mac, ethernet, tcp_flags};
use policy_tests::reference::{Packet, Protocol};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Router alert (RFC 2113), which says nothing about the flow.
const IPV4_OPTION: [u8; 4] = [148, 4, 0, 0];
/// IPv6 destination options (RFC 8200 section 4.6).
const DESTINATION_OPTIONS: u8 = 60;
/// Two PadN options.
const PADDING: [u8; 6] = [1, 1, 0, 1, 1, 0];

/// An Ethernet frame with the packet that opens the connection, from this source port (of an echo
/// request it is the identifier). A few have options or extension headers, which change nothing.
pub(crate) fn opening(rng: &mut Rng, packet: &Packet, source_port: u16) -> Vec<u8> {
    let (from, to) = (packet.source, packet.destination);
    let source = SocketAddr::new(from, source_port);
    let destination = SocketAddr::new(to, packet.port.unwrap_or(0));
    let mut ip = match packet.protocol {
        Protocol::TCP => IpPacket::tcp(source, destination, tcp_flags::SYN, 1, 0, &[]),
        Protocol::UDP => IpPacket::udp(source, destination, b"hello"),
        Protocol::SCTP => IpPacket::sctp_init(source, destination, 1),
        Protocol::ICMP | Protocol::ICMPV6 => IpPacket::echo_request(from, to, source_port, 1, &[]),
        Protocol(other) => IpPacket::new(from, to, other, &[0; 24]),
    };
    if rng.percent(5) {
        ip = match from.is_ipv4() {
            true => ip.options(&IPV4_OPTION),
            false => ip.extension(DESTINATION_OPTIONS, &PADDING),
        };
    }
    let ethertype = match from.is_ipv4() {
        true => ETHERTYPE_IPV4,
        false => ETHERTYPE_IPV6,
    };
    let (pod, router) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    ethernet(router, pod, ethertype, &ip.build())
}

//! Frames of the connection that a probe opens: the first, and those that follow either way.

use std::net::{IpAddr, SocketAddr};

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
/// Types of echo replies (RFC 792, RFC 4443).
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;
/// SCTP's INIT ACK and DATA chunks without contents (RFC 9260 section 3.3).
const SCTP_INIT_ACK: [u8; 4] = [2, 0, 0, 4];
const SCTP_DATA: [u8; 4] = [0, 3, 0, 4];

/// A frame with the packet that opens the connection, from this source port (of an echo request it
/// is the identifier). A few have options or extension headers, which change nothing.
pub(crate) fn opening(rng: &mut Rng, packet: &Packet, source_port: u16) -> Vec<u8> {
    let (source, destination) = ends(packet, source_port);
    let ip = match packet.protocol {
        Protocol::TCP => IpPacket::tcp(source, destination, tcp_flags::SYN, 1, 0, &[]),
        Protocol::SCTP => IpPacket::sctp_init(source, destination, 1),
        _ => data(packet.protocol, source, destination),
    };
    if !rng.percent(5) {
        return frame(&ip);
    }
    frame(&match packet.source {
        IpAddr::V4(_) => ip.options(&IPV4_OPTION),
        IpAddr::V6(_) => ip.extension(DESTINATION_OPTIONS, &PADDING),
    })
}

/// A later frame of who opened the connection.
pub(crate) fn following(packet: &Packet, source_port: u16) -> Vec<u8> {
    let (source, destination) = ends(packet, source_port);
    frame(&data(packet.protocol, source, destination))
}

/// What the other end answers first.
pub(crate) fn answer(packet: &Packet, source_port: u16) -> Vec<u8> {
    let (source, destination) = ends(packet, source_port);
    let syn_ack = tcp_flags::SYN | tcp_flags::ACK;
    frame(&match packet.protocol {
        Protocol::TCP => IpPacket::tcp(destination, source, syn_ack, 1, 2, &[]),
        Protocol::SCTP => sctp(destination, source, SCTP_INIT_ACK),
        _ => later_answer(packet.protocol, source, destination),
    })
}

/// What the other end sends later.
pub(crate) fn answering(packet: &Packet, source_port: u16) -> Vec<u8> {
    let (source, destination) = ends(packet, source_port);
    frame(&later_answer(packet.protocol, source, destination))
}

fn later_answer(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> IpPacket {
    let kind = match protocol {
        Protocol::ICMP => ECHO_REPLY,
        Protocol::ICMPV6 => ECHO_REPLY_V6,
        _ => return data(protocol, destination, source),
    };
    let [high, low] = source.port().to_be_bytes();
    IpPacket::icmp(destination.ip(), source.ip(), kind, 0, &[high, low, 0, 1])
}

fn data(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> IpPacket {
    match protocol {
        Protocol::TCP => IpPacket::tcp(from, to, tcp_flags::ACK, 2, 2, b"hello"),
        Protocol::UDP => IpPacket::udp(from, to, b"hello"),
        Protocol::SCTP => sctp(from, to, SCTP_DATA),
        Protocol::ICMP | Protocol::ICMPV6 => {
            IpPacket::echo_request(from.ip(), to.ip(), from.port(), 1, &[])
        }
        Protocol(other) => IpPacket::new(from.ip(), to.ip(), other, &[0; 24]),
    }
}

/// Verification tag 1; nobody looks at the checksum.
fn sctp(from: SocketAddr, to: SocketAddr, chunk: [u8; 4]) -> IpPacket {
    let mut body = Vec::from(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    body.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    body.extend(chunk);
    IpPacket::new(from.ip(), to.ip(), Protocol::SCTP.0, &body)
}

fn ends(packet: &Packet, source_port: u16) -> (SocketAddr, SocketAddr) {
    let port = packet.port.unwrap_or(0);
    (
        SocketAddr::new(packet.source, source_port),
        SocketAddr::new(packet.destination, port),
    )
}

fn frame(ip: &IpPacket) -> Vec<u8> {
    let ip = ip.build();
    let ethertype = match ip.first() {
        Some(first) if first >> 4 == 6 => ETHERTYPE_IPV6,
        _ => ETHERTYPE_IPV4,
    };
    let (pod, router) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    ethernet(router, pod, ethertype, &ip)
}

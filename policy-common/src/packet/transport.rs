//! Upper layers: ports, TCP flags (RFC 9293), SCTP chunks (RFC 9260), ICMP (RFC
//! 792) and ICMPv6 types (RFC 4443, 4861, 2710, 3810).

use super::bytes::PacketBytes;
use super::ip::load_within;
use super::{Kind, Packet};
use crate::abi::event::DropReason;
use crate::abi::{family, protocol};

/// TCP flags byte (RFC 9293 section 3.1).
mod tcp {
    pub(super) const FLAGS: usize = 13;
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const ACK: u8 = 0x10;
}

/// SCTP chunk types (RFC 9260 section 3.2).
mod sctp {
    pub(super) const CHUNK: usize = 12;
    pub(super) const INIT: u8 = 1;
    pub(super) const ABORT: u8 = 6;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Neighbour discovery is never forwarded: RFC 4861 section 3.1.
const ND_HOP_LIMIT: u8 = 255;
/// Nor is multicast listener discovery: RFC 2710 section 3.
const MLD_HOP_LIMIT: u8 = 1;

/// Bytes of an upper-layer header that are judged, and that the first fragment of
/// a datagram must hold.
#[inline(always)]
pub(super) const fn least(protocol: u8, family: u8) -> usize {
    match protocol {
        protocol::TCP => tcp::FLAGS + 1,
        protocol::UDP => 8,
        protocol::SCTP => sctp::CHUNK + 1,
        protocol::ICMP if family == family::V4 => 8,
        protocol::ICMPV6 if family == family::V6 => 8,
        _ => 0,
    }
}

/// Fills in kind, ports and detail of a packet that begins with its upper-layer
/// header.
#[inline(always)]
pub(super) fn parse<B: PacketBytes>(
    bytes: &B,
    offset: usize,
    end: usize,
    hop_limit: u8,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    match packet.protocol {
        protocol::TCP => {
            let head = load_within::<14, B>(bytes, offset, end)?;
            set_ports(packet, [head[0], head[1], head[2], head[3]]);
            let flags = head[tcp::FLAGS];
            packet.detail = flags;
            packet.kind = tcp_kind(flags);
        }
        protocol::UDP => {
            let head = load_within::<8, B>(bytes, offset, end)?;
            set_ports(packet, [head[0], head[1], head[2], head[3]]);
            packet.kind = Kind::Datagram;
        }
        protocol::SCTP => {
            let head = load_within::<4, B>(bytes, offset, end)?;
            set_ports(packet, head);
            let [chunk] = load_within::<1, B>(bytes, offset + sctp::CHUNK, end)?;
            packet.detail = chunk;
            packet.kind = match chunk {
                sctp::INIT => Kind::SctpInit,
                sctp::ABORT | sctp::SHUTDOWN_COMPLETE => Kind::SctpEnd,
                _ => Kind::SctpData,
            };
        }
        protocol::ICMP if packet.family == family::V4 => {
            let head = load_within::<8, B>(bytes, offset, end)?;
            packet.detail = head[0];
            packet.kind = icmp4_kind(head[0]);
            set_echo(packet, u16::from_be_bytes([head[4], head[5]]));
        }
        protocol::ICMPV6 if packet.family == family::V6 => {
            let head = load_within::<8, B>(bytes, offset, end)?;
            packet.detail = head[0];
            packet.kind = icmp6_kind(head[0], hop_limit);
            set_echo(packet, u16::from_be_bytes([head[4], head[5]]));
        }
        // Nothing is read; but the headers before it must end where the packet
        // does at the latest.
        _ if offset > end => return Err(DropReason::Truncated),
        _ => packet.kind = Kind::Datagram,
    }
    Ok(())
}

#[inline(always)]
pub(super) fn set_ports(packet: &mut Packet, head: [u8; 4]) {
    packet.src_port = u16::from_be_bytes([head[0], head[1]]);
    packet.dst_port = u16::from_be_bytes([head[2], head[3]]);
}

/// The identifier stands where the port of the side that was asked would, so
/// that request and reply have one connection key.
#[inline(always)]
fn set_echo(packet: &mut Packet, identifier: u16) {
    match packet.kind {
        Kind::EchoRequest => packet.dst_port = identifier,
        Kind::EchoReply => packet.src_port = identifier,
        _ => {}
    }
}

#[inline(always)]
pub(super) const fn tcp_kind(flags: u8) -> Kind {
    if flags & (tcp::RST | tcp::SYN | tcp::FIN) == 0 {
        // Most: one test.
        Kind::TcpData
    } else if flags & tcp::RST != 0 {
        Kind::TcpReset
    } else if flags & tcp::SYN != 0 {
        if flags & tcp::ACK != 0 {
            Kind::TcpSynAck
        } else {
            Kind::TcpSyn
        }
    } else {
        Kind::TcpFin
    }
}

#[inline(always)]
fn icmp4_kind(message: u8) -> Kind {
    match message {
        0 => Kind::EchoReply,
        8 => Kind::EchoRequest,
        // Destination unreachable, source quench, redirect, time exceeded,
        // parameter problem: each quotes a packet.
        3 | 4 | 5 | 11 | 12 => Kind::IcmpError,
        _ => Kind::OtherIcmp,
    }
}

#[inline(always)]
fn icmp6_kind(message: u8, hop_limit: u8) -> Kind {
    match message {
        // Below 128 all are errors, also those not assigned: RFC 4443 section 2.1.
        0..=127 => Kind::IcmpError,
        128 => Kind::EchoRequest,
        129 => Kind::EchoReply,
        130..=132 | 143 if hop_limit == MLD_HOP_LIMIT => Kind::MulticastListener,
        133 if hop_limit == ND_HOP_LIMIT => Kind::RouterSolicitation,
        134 | 137 if hop_limit == ND_HOP_LIMIT => Kind::RouterAdvertisement,
        135 if hop_limit == ND_HOP_LIMIT => Kind::NeighbourSolicitation,
        136 if hop_limit == ND_HOP_LIMIT => Kind::NeighbourAdvertisement,
        _ => Kind::OtherIcmp,
    }
}

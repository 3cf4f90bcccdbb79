//! The packet that an ICMP error quotes (RFC 792, RFC 4443 section 3).
//!
//! What is needed of it is who sent it to whom, and the first eight bytes of its
//! upper layer, which is all that RFC 792 promises. Whoever made the error chose
//! what it quotes, so nothing here is believed by itself: it must belong to
//! something known, see [`crate::verdict::related`].

use super::bytes::{MAX_OFFSET, PacketBytes};
use super::ip::{is_extension, walked};
use super::transport::set_ports;
use super::{Kind, Packet, words4, words6};
use crate::abi::{family, protocol};

/// Where the quoted packet may start at the latest, bytes: an IPv4 header of 60
/// bytes and eight of its upper layer are in reach from there.
const LATEST: usize = MAX_OFFSET - 68;

/// Whether a message may belong to the flow of the packet that it quotes:
/// unreachable, too big, time exceeded, parameter problem. Source quench is out of
/// use (RFC 6633), and a redirect is for the node's own routes.
#[inline(always)]
pub const fn is_about_a_flow(error: &Packet) -> bool {
    matches!(error.kind, Kind::IcmpError)
        && if error.is_v4() {
            matches!(error.detail, 3 | 11 | 12)
        } else {
            matches!(error.detail, 1..=4)
        }
}

/// Reads the packet that an error quotes into a [`Packet::EMPTY`]; false: it tells
/// no flow.
///
/// Of its kind is known whether it is an echo, and of which side; TCP flags are
/// not in reach.
#[inline(always)]
pub fn parse_quote<B: PacketBytes>(bytes: &B, error: &Packet, quoted: &mut Packet) -> bool {
    let offset = error.transport_offset as usize + 8;
    if offset > LATEST {
        return false;
    }
    let transport = if error.is_v4() {
        quoted4(bytes, offset, quoted)
    } else {
        quoted6(bytes, offset, quoted)
    };
    transport.is_some_and(|transport| upper(bytes, transport, quoted).is_some())
}

/// Reads the quoted IPv4 header; where its upper layer begins.
#[inline(always)]
fn quoted4<B: PacketBytes>(bytes: &B, offset: usize, quoted: &mut Packet) -> Option<usize> {
    let header = bytes.load::<20>(offset)?;
    let header_len = ((header[0] & 0x0f) as usize) * 4;
    // Only the first fragment has ports.
    let units = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if header[0] >> 4 != 4 || header_len < 20 || units != 0 {
        return None;
    }
    quoted.family = family::V4;
    quoted.protocol = header[9];
    quoted.src = words4([header[12], header[13], header[14], header[15]]);
    quoted.dst = words4([header[16], header[17], header[18], header[19]]);
    Some(offset + header_len)
}

/// Reads the quoted IPv6 headers; where its upper layer begins.
#[inline(always)]
fn quoted6<B: PacketBytes>(bytes: &B, offset: usize, quoted: &mut Packet) -> Option<usize> {
    let header = bytes.load::<8>(offset)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    quoted.family = family::V6;
    quoted.protocol = header[6];
    quoted.src = words6(bytes.load::<16>(offset + 8)?);
    quoted.dst = words6(bytes.load::<16>(offset + 24)?);
    if !is_extension(header[6]) {
        return Some(offset + 40);
    }
    let walk = bytes.extensions(offset + 40, header[6], bytes.len());
    if walked::reason(walk).is_some() {
        return None;
    }
    quoted.protocol = walked::protocol(walk);
    let part = walked::fragment(walk);
    if part != 0 {
        let head = bytes.load::<4>(part)?;
        if u16::from_be_bytes([head[2], head[3]]) >> 3 != 0 {
            return None;
        }
    }
    Some(walked::offset(walk))
}

/// Reads the first eight bytes of the quoted upper layer.
#[inline(always)]
fn upper<B: PacketBytes>(bytes: &B, transport: usize, quoted: &mut Packet) -> Option<()> {
    let (request, reply) = match quoted.protocol {
        protocol::ICMP if quoted.family == family::V4 => (8, 0),
        protocol::ICMPV6 if quoted.family == family::V6 => (128, 129),
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            set_ports(quoted, bytes.load::<4>(transport)?);
            quoted.kind = match quoted.protocol {
                protocol::TCP => Kind::TcpData,
                protocol::SCTP => Kind::SctpData,
                _ => Kind::Datagram,
            };
            return Some(());
        }
        _ => return Some(()),
    };
    let head = bytes.load::<8>(transport)?;
    let identifier = u16::from_be_bytes([head[4], head[5]]);
    // The identifier stands where `transport::parse` puts it.
    if head[0] == request {
        quoted.kind = Kind::EchoRequest;
        quoted.dst_port = identifier;
        Some(())
    } else if head[0] == reply {
        quoted.kind = Kind::EchoReply;
        quoted.src_port = identifier;
        Some(())
    } else {
        None
    }
}

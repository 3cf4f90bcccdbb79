//! IPv4 (RFC 791) with options and IPv6 (RFC 8200) with extension headers.
//!
//! The length fields bound everything: padding behind the packet is never read
//! as a header. A length of 0 means "to the end of the frame", which the kernel
//! uses for segments beyond 64 KiB (BIG TCP).

use super::bytes::{MAX_OFFSET, PacketBytes};
use super::{Kind, Packet, transport, words4, words6};
use crate::abi::event::DropReason;
use crate::abi::family;

/// IPv6 extension headers (IANA "IPv6 Extension Header Types").
mod next_header {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
}

/// Extension headers that are walked. RFC 8200 section 4.1 recommends an order
/// in which at most seven stand before the upper layer.
const MAX_EXTENSIONS: usize = 7;
/// Where the upper-layer header may start at the latest, bytes.
const MAX_TRANSPORT: usize = MAX_OFFSET - 64;

/// Parses an IPv4 packet at `offset`.
#[inline(always)]
pub fn parse4<B: PacketBytes>(bytes: &B, offset: usize) -> Result<Packet, DropReason> {
    let header = bytes.load::<20>(offset).ok_or(DropReason::Truncated)?;
    let header_len = ((header[0] & 0x0f) as usize) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err(DropReason::Malformed);
    }
    let total_len = u16::from_be_bytes([header[2], header[3]]) as usize;
    let end = end_of(bytes, offset, total_len)?;
    if total_len != 0 && total_len < header_len {
        return Err(DropReason::Malformed);
    }
    let transport = offset + header_len;
    let mut packet = Packet {
        src: words4([header[12], header[13], header[14], header[15]]),
        dst: words4([header[16], header[17], header[18], header[19]]),
        src_port: 0,
        dst_port: 0,
        protocol: header[9],
        family: family::V4,
        kind: Kind::Datagram,
        detail: 0,
        transport_offset: short(transport),
    };
    // More fragments, or an offset: RFC 791 section 3.1.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        packet.kind = Kind::Fragment;
        return Ok(packet);
    }
    transport::parse(bytes, transport, end, header[8], &mut packet)?;
    Ok(packet)
}

/// Parses an IPv6 packet at `offset`.
#[inline(always)]
pub fn parse6<B: PacketBytes>(bytes: &B, offset: usize) -> Result<Packet, DropReason> {
    let header = bytes.load::<8>(offset).ok_or(DropReason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let payload_len = u16::from_be_bytes([header[4], header[5]]) as usize;
    let total_len = if payload_len == 0 {
        0
    } else {
        payload_len + 40
    };
    let end = end_of(bytes, offset, total_len)?;
    let src = bytes.load::<16>(offset + 8).ok_or(DropReason::Truncated)?;
    let dst = bytes.load::<16>(offset + 24).ok_or(DropReason::Truncated)?;
    let mut packet = Packet {
        src: words6(src),
        dst: words6(dst),
        src_port: 0,
        dst_port: 0,
        protocol: header[6],
        family: family::V6,
        kind: Kind::Datagram,
        detail: 0,
        transport_offset: 0,
    };
    // An IPv4-mapped address has no place on the wire (RFC 4291 section
    // 2.5.5.2), and inside it stands for IPv4: it must not be taken for it.
    let mapped = words4([0; 4]);
    if is_mapped(packet.src, mapped) || is_mapped(packet.dst, mapped) {
        return Err(DropReason::Malformed);
    }
    let mut transport = offset + 40;
    let mut next = header[6];
    let mut walked = 0;
    let mut fragment = false;
    while is_extension(next) {
        if walked == MAX_EXTENSIONS || transport > MAX_TRANSPORT {
            return Err(DropReason::ExtensionHeaders);
        }
        walked += 1;
        let head = load_within::<4, B>(bytes, transport, end)?;
        let length = match next {
            next_header::FRAGMENT => {
                // Offset or "more": RFC 8200 section 4.5. An atomic fragment
                // (RFC 6946) is a whole packet.
                if u16::from_be_bytes([head[2], head[3]]) & 0xfff9 != 0 {
                    fragment = true;
                }
                8
            }
            // In words of 4 bytes, less 2: RFC 4302 section 2.2.
            next_header::AUTHENTICATION => (head[1] as usize + 2) * 4,
            _ => (head[1] as usize + 1) * 8,
        };
        next = head[0];
        transport += length;
        if fragment {
            break;
        }
    }
    packet.protocol = next;
    if transport > MAX_TRANSPORT {
        return Err(DropReason::ExtensionHeaders);
    }
    packet.transport_offset = short(transport);
    if fragment {
        packet.kind = Kind::Fragment;
        return Ok(packet);
    }
    transport::parse(bytes, transport, end, header[7], &mut packet)?;
    Ok(packet)
}

/// Loads bytes that the IP packet, which ends at `end`, must hold.
#[inline(always)]
pub(super) fn load_within<const N: usize, B: PacketBytes>(
    bytes: &B,
    offset: usize,
    end: usize,
) -> Result<[u8; N], DropReason> {
    if offset + N > end {
        return Err(DropReason::Truncated);
    }
    bytes.load::<N>(offset).ok_or(DropReason::Truncated)
}

#[inline(always)]
fn end_of<B: PacketBytes>(bytes: &B, offset: usize, total_len: usize) -> Result<usize, DropReason> {
    if total_len == 0 {
        return Ok(bytes.len());
    }
    let end = offset + total_len;
    if end > bytes.len() {
        Err(DropReason::Truncated)
    } else {
        Ok(end)
    }
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        next_header::HOP_BY_HOP
            | next_header::ROUTING
            | next_header::FRAGMENT
            | next_header::AUTHENTICATION
            | next_header::DESTINATION
            | next_header::MOBILITY
    )
}

#[inline(always)]
fn is_mapped(address: super::Words, mapped: super::Words) -> bool {
    let prefix = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    address[0] == 0 && address[1] & prefix == mapped[1] & prefix
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "offsets stay below MAX_OFFSET"
)]
#[inline(always)]
fn short(offset: usize) -> u16 {
    offset as u16
}

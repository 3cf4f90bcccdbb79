//! IPv4 (RFC 791) with options and IPv6 (RFC 8200) with extension headers.
//!
//! The length fields bound everything: padding behind the packet is never read
//! as a header. A length of 0 means "to the end of the frame", which the kernel
//! uses for segments beyond 64 KiB (BIG TCP).

use super::bytes::{MAX_OFFSET, PacketBytes};
use super::{Kind, Packet, fragment, transport, words4, words6};
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

/// Where the upper-layer header may start at the latest, bytes.
const MAX_TRANSPORT: usize = MAX_OFFSET - 64;

/// Parses an IPv4 packet at `offset`.
#[inline(always)]
pub fn parse4<B: PacketBytes>(
    bytes: &B,
    offset: usize,
    packet: &mut Packet,
) -> Result<(), DropReason> {
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
    packet.family = family::V4;
    packet.protocol = header[9];
    packet.src = words4([header[12], header[13], header[14], header[15]]);
    packet.dst = words4([header[16], header[17], header[18], header[19]]);
    packet.transport_offset = short(transport);
    // More fragments, or an offset: RFC 791 section 3.1.
    let part = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if part != 0 {
        packet.fragment_id = u16::from_be_bytes([header[4], header[5]]).into();
        fragment::note(packet, part & 0x1fff, transport, transport, end)?;
        if !packet.is_first_fragment() {
            packet.kind = Kind::Fragment;
            return Ok(());
        }
    }
    transport::parse(bytes, transport, end, header[8], packet)
}

/// Parses an IPv6 packet at `offset`.
#[inline(always)]
pub fn parse6<B: PacketBytes>(
    bytes: &B,
    offset: usize,
    packet: &mut Packet,
) -> Result<(), DropReason> {
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
    packet.family = family::V6;
    packet.protocol = header[6];
    packet.src = words6(src);
    packet.dst = words6(dst);
    // An IPv4-mapped address has no place on the wire (RFC 4291 section
    // 2.5.5.2), and inside it stands for IPv4: it must not be taken for it.
    let mapped = words4([0; 4]);
    if is_mapped(packet.src, mapped) || is_mapped(packet.dst, mapped) {
        return Err(DropReason::Malformed);
    }
    let mut transport = offset + 40;
    if is_extension(header[6]) {
        let walked = bytes.extensions(transport, header[6], end);
        if let Some(reason) = walked::reason(walked) {
            return Err(reason);
        }
        packet.protocol = walked::protocol(walked);
        transport = walked::offset(walked);
        packet.transport_offset = short(transport);
        let part = walked::fragment(walked);
        if part != 0 {
            let part_header = load_within::<8, B>(bytes, part, end)?;
            let [_, _, high, low, a, b, c, d] = part_header;
            packet.fragment_id = u32::from_be_bytes([a, b, c, d]);
            let units = u16::from_be_bytes([high, low]) >> 3;
            fragment::note(packet, units, part + 8, transport, end)?;
            if !packet.is_first_fragment() {
                packet.kind = Kind::Fragment;
                return Ok(());
            }
        }
    }
    packet.transport_offset = short(transport);
    // Neighbour discovery in fragments is none: RFC 6980 section 5.
    let hop_limit = if packet.is_whole() { header[7] } else { 0 };
    transport::parse(bytes, transport, end, hop_limit, packet)
}

/// Walks extension headers from `start`, the first of which is `next`, to the
/// upper layer. The answer is one word, see [`walked`], so that a kernel program
/// can have the walk verified once, as a function of its own. At most seven are
/// walked: RFC 8200 section 4.1 recommends an order in which no more stand before
/// the upper layer.
///
/// The steps are written out: the verifiers of older kernels (6.1 among them)
/// refuse a loop that is entered anywhere but at its first instruction, which is
/// how a compiler lays this one out.
#[inline(always)]
pub fn walk_extensions<B: PacketBytes>(bytes: &B, start: usize, next: u8, end: usize) -> u64 {
    let mut walk = Walk {
        offset: start,
        next,
        part: 0,
        answer: 0,
    };
    let goes_on = walk.step(bytes, end)
        && walk.step(bytes, end)
        && walk.step(bytes, end)
        && walk.step(bytes, end)
        && walk.step(bytes, end)
        && walk.step(bytes, end)
        && walk.step(bytes, end);
    if goes_on && is_extension(walk.next) {
        return walked::error(DropReason::ExtensionHeaders);
    }
    walk.answer()
}

/// Where a walk is.
struct Walk {
    /// Of the header that is next, bytes.
    offset: usize,
    /// What it is.
    next: u8,
    /// Where the fragment header of a first fragment is, bytes; 0: none so far.
    part: usize,
    /// The answer, if the walk ended on something else than an upper layer.
    answer: u64,
}

impl Walk {
    /// Goes past one extension header; false: the walk is over.
    #[inline(always)]
    fn step<B: PacketBytes>(&mut self, bytes: &B, end: usize) -> bool {
        if !is_extension(self.next) {
            return false;
        }
        if self.offset > MAX_TRANSPORT {
            return self.end(walked::error(DropReason::ExtensionHeaders));
        }
        let Ok(head) = load_within::<4, B>(bytes, self.offset, end) else {
            return self.end(walked::error(DropReason::Truncated));
        };
        let length = match self.next {
            next_header::FRAGMENT => {
                // Offset and "more": RFC 8200 section 4.5. An atomic fragment
                // (RFC 6946) is a whole packet.
                let part = u16::from_be_bytes([head[2], head[3]]) & 0xfff9;
                if self.part != 0 {
                    // A fragment of a fragment.
                    return self.end(walked::error(DropReason::Fragment));
                }
                if part > 1 {
                    // What follows is from the middle of a datagram.
                    let at = self.offset;
                    return self.end(walked::end(head[0], at + 8, at));
                }
                if part == 1 {
                    self.part = self.offset;
                }
                8
            }
            // In words of 4 bytes, less 2: RFC 4302 section 2.2.
            next_header::AUTHENTICATION => (head[1] as usize + 2) * 4,
            _ => (head[1] as usize + 1) * 8,
        };
        self.next = head[0];
        self.offset += length;
        true
    }

    #[inline(always)]
    fn end(&mut self, answer: u64) -> bool {
        self.answer = answer;
        false
    }

    #[inline(always)]
    fn answer(&self) -> u64 {
        if self.answer != 0 {
            return self.answer;
        }
        if self.offset > MAX_TRANSPORT {
            return walked::error(DropReason::ExtensionHeaders);
        }
        walked::end(self.next, self.offset, self.part)
    }
}

/// What [`walk_extensions`] answers: protocol in bits 0 to 7, [`DropReason`] (0:
/// none) in bits 16 to 23, offset of the upper layer from bit 32, offset of the
/// fragment header (0: none that counts) from bit 48.
pub mod walked {
    use super::MAX_OFFSET;
    use crate::abi::event::DropReason;

    pub(super) const fn end(protocol: u8, offset: usize, part: usize) -> u64 {
        protocol as u64 | (offset as u64) << 32 | (part as u64) << 48
    }

    pub(super) const fn error(reason: DropReason) -> u64 {
        (reason as u64) << 16
    }

    pub(in crate::packet) const fn reason(walked: u64) -> Option<DropReason> {
        DropReason::from_number((walked >> 16 & 0xff) as u8)
    }

    pub(in crate::packet) const fn fragment(walked: u64) -> usize {
        (walked >> 48) as usize & MAX_OFFSET
    }

    pub(in crate::packet) const fn protocol(walked: u64) -> u8 {
        (walked & 0xff) as u8
    }

    pub(in crate::packet) const fn offset(walked: u64) -> usize {
        (walked >> 32) as usize & MAX_OFFSET
    }
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
pub(super) fn is_extension(next: u8) -> bool {
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

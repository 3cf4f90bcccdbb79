//! Which part of a datagram a packet is (RFC 791 section 3.2, RFC 8200 section
//! 4.5), in one number.
//!
//! Ports are in the fragment with which a datagram begins, and nowhere else: it
//! is judged as a whole packet would be. So it must hold all that is judged, and
//! be one that every receiver takes for the same bytes; one that does not is
//! refused here. What becomes of the others is for [`crate::fragment`].

use super::Packet;
use super::transport::least;
use crate::abi::event::DropReason;

/// All of a datagram.
pub const WHOLE: u16 = 0;
/// The beginning; below it the length of its part of the datagram, in units of
/// eight bytes.
const FIRST: u16 = 1 << 15;
/// The low bits: where a fragment that is not the first begins, in units of eight
/// bytes.
const UNITS: u16 = 0x1fff;

/// Whether it is the beginning of a datagram.
#[inline(always)]
pub const fn is_first(fragment: u16) -> bool {
    fragment & FIRST != 0
}

/// Of the first fragment its length, of another where it begins; units of eight
/// bytes.
#[inline(always)]
pub const fn units(fragment: u16) -> u16 {
    fragment & UNITS
}

/// Notes that a packet whose family and protocol are known is a fragment.
///
/// It begins `units` into its datagram. Its part of the datagram stands between
/// `start` and `end`, its upper-layer header, if it has one, at `transport`.
///
/// # Errors
///
/// [`DropReason::Fragment`]: the first does not hold the header that is judged (RFC
/// 1858, RFC 7112), or not whole units, so that another could tell the receiver
/// what stands there.
#[inline(always)]
pub(super) fn note(
    packet: &mut Packet,
    units: u16,
    start: usize,
    transport: usize,
    end: usize,
) -> Result<(), DropReason> {
    if units != 0 {
        packet.fragment = units & UNITS;
        return Ok(());
    }
    if transport + least(packet.protocol, packet.family) > end || start > end {
        return Err(DropReason::Fragment);
    }
    let length = end - start;
    if length == 0 || !length.is_multiple_of(8) {
        return Err(DropReason::Fragment);
    }
    packet.fragment = FIRST | in_units(length);
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked; the length of an IP packet has 16 bits"
)]
#[inline(always)]
const fn in_units(length: usize) -> u16 {
    (length / 8) as u16 & UNITS
}

//! The frames that most frames are, read in one go: Ethernet without tags, IPv4
//! without options or IPv6 without extension headers, all of a TCP segment or UDP
//! datagram.
//!
//! What these are, [`super::parse`] finds as well, and tests hold the two
//! together; it is asked about all others. Fixed offsets and one look at the length
//! make this half the work, and most packets need no other.

use super::bytes::{Beginning, Head};
use super::{Class, Frame, Kind, Packet, Words, fragment, link, transport, words4, words6};
use crate::abi::{family, protocol};

/// Bytes to the end of the TCP flags behind IPv4. (A datagram that is shorter is not
/// plain.)
const V4: usize = V4_TRANSPORT as usize + 14;
/// Likewise behind IPv6.
const V6: usize = V6_TRANSPORT as usize + 14;
/// Offsets of the upper-layer header, bytes.
const V4_TRANSPORT: u16 = 14 + 20;
const V6_TRANSPORT: u16 = 14 + 40;

/// Puts a plain frame where it is to be; `None`: it is none, or cannot be read so, and
/// nothing was put anywhere. (An answer would be written there word by word after it was
/// put together elsewhere.)
#[inline(always)]
pub fn parse<B: Beginning>(bytes: &B, put: impl FnOnce(Frame)) -> Option<()> {
    let head = bytes.head::<V4>()?;
    match u16::from_be_bytes(head.at::<12, 2>()) {
        link::IPV4 => parse4(&head, bytes.len(), put),
        link::IPV6 => parse6(&bytes.head::<V6>()?, bytes.len(), put),
        _ => None,
    }
}

#[inline(always)]
fn parse4(head: &impl Head<V4>, frame_len: usize, put: impl FnOnce(Frame)) -> Option<()> {
    let total_len = u16::from_be_bytes(head.at::<16, 2>()) as usize;
    // More fragments, or an offset: RFC 791 section 3.1.
    let part = u16::from_be_bytes(head.at::<20, 2>()) & 0x3fff;
    let [protocol] = head.at::<23, 1>();
    if head.at::<14, 1>() != [0x45]
        || part != 0
        || total_len < 20 + least(protocol)?
        || 14 + total_len > frame_len
    {
        return None;
    }
    let ends = (words4(head.at::<26, 4>()), words4(head.at::<30, 4>()));
    let [flags] = head.at::<{ V4 - 1 }, 1>();
    put(frame(family::V4, protocol, ends, head.at::<34, 4>(), flags));
    Some(())
}

#[inline(always)]
fn parse6(head: &impl Head<V6>, frame_len: usize, put: impl FnOnce(Frame)) -> Option<()> {
    let payload_len = u16::from_be_bytes(head.at::<18, 2>()) as usize;
    let [protocol] = head.at::<20, 1>();
    let [version] = head.at::<14, 1>();
    let ends = (words6(head.at::<22, 16>()), words6(head.at::<38, 16>()));
    if version >> 4 != 6
        || payload_len < least(protocol)?
        || 14 + 40 + payload_len > frame_len
        // Addresses that stand for IPv4 ones begin so, and must not be taken for them.
        || ends.0[0] == 0
        || ends.1[0] == 0
    {
        return None;
    }
    let [flags] = head.at::<{ V6 - 1 }, 1>();
    put(frame(family::V6, protocol, ends, head.at::<54, 4>(), flags));
    Some(())
}

/// Bytes of an upper-layer header that must be there; `None`: it is not plain.
#[inline(always)]
const fn least(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP | protocol::UDP => Some(transport::least(protocol, family::V4)),
        _ => None,
    }
}

#[inline(always)]
fn frame(
    family: u8,
    protocol: u8,
    (src, dst): (Words, Words),
    [a, b, c, d]: [u8; 4],
    flags: u8,
) -> Frame {
    let (kind, detail) = if protocol == protocol::TCP {
        (transport::tcp_kind(flags), flags)
    } else {
        (Kind::Datagram, 0)
    };
    Frame {
        packet: Packet {
            src,
            dst,
            src_port: u16::from_be_bytes([a, b]),
            dst_port: u16::from_be_bytes([c, d]),
            protocol,
            family,
            kind,
            detail,
            transport_offset: if family == family::V4 {
                V4_TRANSPORT
            } else {
                V6_TRANSPORT
            },
            fragment: fragment::WHOLE,
            fragment_id: 0,
        },
        class: Class::Ip,
        pad: 0,
        pad_2: 0,
        pad_4: 0,
    }
}

//! Packets, read from the RFCs a second time: what a receiver makes of a frame.
//!
//! Shares nothing with the product's parser. Reads what a pod's kernel would
//! deliver, and no more; what it would not is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a receiver sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Behind all extension headers.
    pub(super) protocol: u8,
    pub(super) hops: u8,
    /// Source and destination of TCP, UDP and SCTP.
    pub(super) ports: Option<(u16, u16)>,
    /// Type of ICMP and ICMPv6.
    pub(super) message: Option<u8>,
    /// Offset in bytes and "more", if it is a fragment of several.
    pub(super) fragment: Option<(u16, bool)>,
    /// Where the upper layer begins in what was read, and where the packet ends.
    pub(super) upper: usize,
    pub(super) end: usize,
    /// The length field is 0: the packet ends with the frame.
    pub(super) endless: bool,
}

/// EtherType behind at most two tags, and where its packet begins.
pub(super) fn ether(frame: &[u8]) -> Option<(u16, usize)> {
    let kind = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let tags = [12, 16, 20]
        .into_iter()
        .take_while(|at| matches!(kind(*at), Some(0x8100 | 0x88a8)))
        .count();
    let at = 12 + 4 * tags;
    (tags <= 2).then_some((kind(at)?, at + 2))
}

/// Reads a frame.
pub(super) fn frame(frame: &[u8]) -> Option<Reading> {
    let (kind, at) = ether(frame)?;
    let packet = &frame[at..];
    let version = packet.first()? >> 4;
    let reading = match (kind, version) {
        (0x0800, 4) | (0x86dd, 6) => ip(packet)?,
        _ => return None,
    };
    Some(Reading {
        upper: reading.upper + at,
        end: reading.end + at,
        ..reading
    })
}

/// Reads a packet by its version.
pub(super) fn ip(packet: &[u8]) -> Option<Reading> {
    match packet.first()? >> 4 {
        4 => ipv4(packet),
        6 => ipv6(packet),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

/// RFC 791 section 3.1.
fn ipv4(packet: &[u8]) -> Option<Reading> {
    let head = packet.get(..20)?;
    let total = usize::from(number(head, 2)?);
    let end = if total == 0 { packet.len() } else { total };
    let upper = usize::from(head[0] & 15) * 4;
    if upper < 20 || end < upper || end > packet.len() {
        return None;
    }
    let address = |at: usize| {
        Some(IpAddr::from(Ipv4Addr::from(
            <[u8; 4]>::try_from(&head[at..at + 4]).ok()?,
        )))
    };
    let bits = number(head, 6)?;
    let (offset, more) = ((bits & 0x1fff) << 3, bits & 0x2000 != 0);
    let reading = Reading {
        source: address(12)?,
        destination: address(16)?,
        protocol: head[9],
        hops: head[8],
        ports: None,
        message: None,
        fragment: (more || offset != 0).then_some((offset, more)),
        upper,
        end,
        endless: total == 0,
    };
    Some(with_upper(reading, packet))
}

/// RFC 8200 sections 3 and 4.
fn ipv6(packet: &[u8]) -> Option<Reading> {
    let head = packet.get(..40)?;
    let length = usize::from(number(head, 4)?);
    let end = if length == 0 {
        packet.len()
    } else {
        40 + length
    };
    let body = packet.get(..end)?;
    let address = |at: usize| {
        Some(IpAddr::from(Ipv6Addr::from(
            <[u8; 16]>::try_from(&head[at..at + 16]).ok()?,
        )))
    };
    let mut reading = Reading {
        source: address(8)?,
        destination: address(24)?,
        protocol: head[6],
        hops: head[7],
        ports: None,
        message: None,
        fragment: None,
        upper: 40,
        end,
        endless: length == 0,
    };
    // Hop-by-hop, routing, destination options, mobility; authentication (RFC 4302
    // section 2.2); fragment.
    while matches!(reading.protocol, 0 | 43 | 60 | 135 | 51 | 44) {
        let next = *body.get(reading.upper)?;
        let units = usize::from(*body.get(reading.upper + 1)?);
        let length = match reading.protocol {
            51 => (units + 2) * 4,
            44 => 8,
            _ => (units + 1) * 8,
        };
        if reading.protocol == 44 {
            let bits = number(body, reading.upper + 2)?;
            let (offset, more) = (bits & !7, bits & 1 != 0);
            if offset != 0 || more {
                reading.fragment = Some((offset, more));
            }
            if offset != 0 {
                reading.protocol = next;
                reading.upper += length;
                return Some(reading);
            }
        }
        reading.protocol = next;
        reading.upper += length;
    }
    Some(with_upper(reading, body))
}

/// Ports or message, where the upper layer is in reach.
fn with_upper(mut reading: Reading, packet: &[u8]) -> Reading {
    if reading.fragment.is_some_and(|(offset, _)| offset != 0) {
        return reading;
    }
    let upper = packet.get(reading.upper..reading.end).unwrap_or_default();
    match (reading.protocol, reading.source) {
        (6 | 17 | 132, _) => reading.ports = number(upper, 0).zip(number(upper, 2)),
        (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) => reading.message = upper.first().copied(),
        _ => {}
    }
    reading
}

//! Ethernet II, VLAN tags (IEEE 802.1Q, 802.1ad) and ARP (RFC 826).
//!
//! A tag does not change who is judged: a bridge without VLAN filtering
//! delivers tagged frames like any other, so what they carry is parsed.

use super::bytes::PacketBytes;
use crate::abi::event::DropReason;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// Offset of the EtherType in a frame, bytes.
const ETHER_TYPE: usize = 12;
/// Bytes of a tag.
pub const TAG: usize = 4;
/// Tags that are walked: 802.1ad knows two.
pub const MAX_TAGS: usize = 2;

/// Whether an EtherType says that a tag follows.
#[inline(always)]
pub const fn is_tag(ether_type: u16) -> bool {
    ether_type == VLAN || ether_type == SERVICE_VLAN
}

/// The EtherType behind any tags, and the offset of what it names.
#[inline(always)]
pub fn ether_type<B: PacketBytes>(bytes: &B) -> Result<(u16, usize), DropReason> {
    let mut offset = ETHER_TYPE;
    let mut tags = 0;
    loop {
        let ether_type = u16::from_be_bytes(bytes.load::<2>(offset).ok_or(DropReason::Truncated)?);
        if !is_tag(ether_type) {
            return Ok((ether_type, offset + 2));
        }
        if tags == MAX_TAGS {
            return Err(DropReason::EtherType);
        }
        tags += 1;
        offset += TAG;
    }
}

/// The sender's IPv4 address in an ARP packet for IPv4 over Ethernet.
#[inline(always)]
pub fn arp_sender<B: PacketBytes>(bytes: &B, offset: usize) -> Result<[u8; 4], DropReason> {
    // Hardware type 1, protocol type 0x0800, address lengths 6 and 4. Linux takes
    // hardware type 6 (IEEE 802) for the same (`arp_process`, `net/ipv4/arp.c`).
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    const IEEE802_IPV4: [u8; 6] = [0, 6, 8, 0, 6, 4];
    const SENDER: usize = 14;
    let head = bytes.load::<6>(offset).ok_or(DropReason::Truncated)?;
    if head != ETHERNET_IPV4 && head != IEEE802_IPV4 {
        return Err(DropReason::Malformed);
    }
    bytes
        .load::<4>(offset + SENDER)
        .ok_or(DropReason::Truncated)
}

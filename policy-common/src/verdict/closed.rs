//! Which addresses of the node's pod range are closed: those that no pod has whose
//! policies are in force. A pod gets its address, and packets, a moment before an
//! agent that nobody calls can know of it; until then nobody may send to it but the
//! node itself.
//!
//! Only what is sent to one address: broadcast and multicast are for whoever
//! listens, and judged where they arrive. And not neighbour discovery, as ARP is not:
//! without an answer a pod could not find its neighbours.

use crate::abi::config::{FLAG_CLOSED4, FLAG_CLOSED6, FLAG_ENFORCE_OFF};
use crate::abi::family;
use crate::packet::{Kind, Words};

/// Whether anything of a family is closed, by `Config::flags`.
#[inline(always)]
pub const fn closes(flags: u32, of: u8) -> bool {
    let flag = match of {
        family::V4 => FLAG_CLOSED4,
        family::V6 => FLAG_CLOSED6,
        _ => 0,
    };
    flags & flag != 0 && flags & FLAG_ENFORCE_OFF == 0
}

/// Whether a packet may go to a closed address all the same.
#[inline(always)]
pub const fn is_exempt(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NeighbourSolicitation | Kind::NeighbourAdvertisement
    )
}

/// Whether an IPv4 address lies in a range and is one that a pod may have: not the
/// last, which is the broadcast address of a bridge with that range (RFC 919
/// section 7). Address, network and mask as words that were loaded from wire order.
#[inline(always)]
pub const fn lies_in4(address: u32, [network, mask]: [u32; 2]) -> bool {
    (address ^ network) & mask == 0 && address | mask != u32::MAX
}

/// Whether an IPv6 address lies in a range, likewise.
#[inline(always)]
pub const fn lies_in6(address: Words, [network, mask]: [Words; 2]) -> bool {
    (address[0] ^ network[0]) & mask[0] | (address[1] ^ network[1]) & mask[1] == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::words6;

    fn word(bytes: [u8; 4]) -> u32 {
        u32::from_ne_bytes(bytes)
    }

    #[test]
    fn every_ipv4_address_of_the_range_but_its_broadcast_lies_in_it() {
        let range = [word([10, 1, 2, 0]), word([255, 255, 255, 0])];
        for last in 0..255 {
            assert!(lies_in4(word([10, 1, 2, last]), range));
        }
        assert!(!lies_in4(word([10, 1, 2, 255]), range));
        assert!(!lies_in4(word([10, 1, 3, 7]), range));
        assert!(!lies_in4(word([11, 1, 2, 7]), range));
    }

    #[test]
    fn an_ipv6_address_lies_in_the_range_that_covers_it() {
        let mask = |bits: u32| words6((u128::MAX << (128 - bits)).to_be_bytes());
        let net = words6([0xfd, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut inside = [0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7, 7, 7];
        assert!(lies_in6(words6(inside), [net, mask(64)]));
        assert!(!lies_in6(words6(inside), [net, mask(80)]));
        inside[7] = 7;
        assert!(!lies_in6(words6(inside), [net, mask(64)]));
        assert!(lies_in6(words6(inside), [net, mask(56)]));
    }

    #[test]
    fn nothing_is_closed_without_its_flag_or_with_enforcement_off() {
        assert!(closes(FLAG_CLOSED4, family::V4));
        assert!(!closes(FLAG_CLOSED4, family::V6));
        assert!(closes(FLAG_CLOSED6, family::V6));
        assert!(!closes(FLAG_CLOSED4 | FLAG_ENFORCE_OFF, family::V4));
        assert!(!closes(FLAG_CLOSED4 | FLAG_CLOSED6, 0), "not IP");
    }
}

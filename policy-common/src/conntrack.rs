//! The life of a connection record: what a packet does to its flags, and when
//! it ends. Where records are kept, and who may pass, is for [`crate::verdict`].
//!
//! Sequence numbers are not followed. What a forged segment can do is therefore
//! kept small: nothing but a whole pair of FINs or an unanswered RST shortens a
//! record's life, and the next ordinary segment undoes a RST.

use crate::abi::conntrack::{
    CT_CONFIRMED, CT_FIN_OPENER, CT_FIN_REPLIER, CT_REPLIED, CT_RESET, CtEntry, CtKey,
};
use crate::abi::maps::CT_ENTRIES;
use crate::abi::protocol;
use crate::packet::Kind;

const SECOND_NS: u64 = 1_000_000_000;

/// How often the packet path refreshes a record at most, nanoseconds.
pub const REFRESH_NS: u64 = SECOND_NS;

/// A connection that is not confirmed, any protocol, nanoseconds. RFC 5382
/// REQ-5 asks for 4 minutes at most for a half-open TCP connection to be kept;
/// Linux keeps SYN_RECV for 60 s (`nf_conntrack_proto_tcp.c`).
pub const UNCONFIRMED_NS: u64 = 120 * SECOND_NS;
/// Established TCP, nanoseconds: 5 days, as Linux
/// (`nf_conntrack_tcp_timeout_established`); RFC 5382 REQ-5 asks for 2 h 4 min.
pub const TCP_ESTABLISHED_NS: u64 = 432_000 * SECOND_NS;
/// TCP of which one end has sent FIN, nanoseconds: an hour, because the other
/// may go on sending; RFC 5382 REQ-5 asks for 4 minutes.
pub const TCP_HALF_CLOSED_NS: u64 = 3_600 * SECOND_NS;
/// TCP after both FINs, nanoseconds: 2 MSL (RFC 9293 section 3.4.2).
pub const TCP_CLOSED_NS: u64 = 120 * SECOND_NS;
/// After a reset, nanoseconds: `nf_conntrack_tcp_timeout_close` in Linux.
pub const RESET_NS: u64 = 10 * SECOND_NS;
/// Confirmed UDP, nanoseconds: RFC 4787 REQ-5 asks for 2 minutes at least and
/// recommends 5.
pub const UDP_NS: u64 = 300 * SECOND_NS;
/// Established SCTP, nanoseconds: 7 heartbeats of 30 s (RFC 9260 section 16), as
/// `nf_conntrack_proto_sctp.c`.
pub const SCTP_NS: u64 = 210 * SECOND_NS;
/// ICMP echo, nanoseconds: RFC 5508 REQ-2 asks for 60 s at least.
pub const ICMP_NS: u64 = 60 * SECOND_NS;
/// Any other protocol, nanoseconds: `nf_conntrack_generic_timeout` in Linux.
pub const OTHER_NS: u64 = 600 * SECOND_NS;

/// How long a record is good after its last packet, nanoseconds.
#[inline(always)]
pub const fn timeout_ns(protocol: u8, flags: u32) -> u64 {
    if flags & CT_RESET != 0 {
        return RESET_NS;
    }
    if flags & CT_CONFIRMED == 0 && protocol != protocol::ICMP && protocol != protocol::ICMPV6 {
        return UNCONFIRMED_NS;
    }
    match protocol {
        protocol::TCP => match flags & (CT_FIN_OPENER | CT_FIN_REPLIER) {
            0 => TCP_ESTABLISHED_NS,
            f if f == CT_FIN_OPENER | CT_FIN_REPLIER => TCP_CLOSED_NS,
            _ => TCP_HALF_CLOSED_NS,
        },
        protocol::UDP => UDP_NS,
        protocol::SCTP => SCTP_NS,
        protocol::ICMP | protocol::ICMPV6 => ICMP_NS,
        _ => OTHER_NS,
    }
}

/// What one endpoint may have at most of the table of confirmed records: this part.
pub const CT_SHARES: usize = 16;

/// Where the table of confirmed records ends for endpoints that nothing isolates: their
/// records serve only if something does one day, the others' serve every packet. (What
/// isolated ones have counts too: they may take it all.)
pub const CT_FOR_OPEN: usize = CT_ENTRIES / 2;

/// Whether an endpoint that has `own` confirmed records, of `all` that there are, may
/// have one more, while something isolates it or nothing does.
///
/// No more than `budget`, and no more than a fixed part of what is still free:
/// one endpoint that takes what it gets comes to a sixteenth of the table, fifteen
/// come to half of it together, any number leave room for one more, and each of them
/// may have as many as each other. (Dynamic thresholds, Choudhury and Hahne 1998, as
/// switches share their buffers.)
#[inline(always)]
pub const fn may_confirm(own: u64, all: u64, budget: u32, isolated: bool) -> bool {
    let size = if isolated { CT_ENTRIES } else { CT_FOR_OPEN };
    let free = (size as u64).saturating_sub(all);
    own < budget as u64 && own.saturating_mul(CT_SHARES as u64 - 1) < free
}

/// Whether a record that was found is the key's and still good.
#[inline(always)]
pub const fn is_live(entry: &CtEntry, tag: u32, protocol: u8, now_ns: u64) -> bool {
    // A record touched on another CPU a moment ago may be from the future.
    entry.tag == tag
        && now_ns.saturating_sub(entry.last_seen_ns) <= timeout_ns(protocol, entry.flags)
}

/// Whether the connection has ended, so that an opener on the same key starts
/// another.
#[inline(always)]
pub const fn is_over(flags: u32) -> bool {
    flags & CT_RESET != 0
        || flags & (CT_FIN_OPENER | CT_FIN_REPLIER) == CT_FIN_OPENER | CT_FIN_REPLIER
}

/// The flags after a packet that belongs to the connection.
#[inline(always)]
pub const fn next_flags(flags: u32, kind: Kind, from_opener: bool) -> u32 {
    let mut next = flags;
    if from_opener {
        if flags & CT_REPLIED != 0 && !kind.only_opens() {
            next |= CT_CONFIRMED;
        }
    } else {
        next |= CT_REPLIED;
    }
    match kind {
        Kind::TcpFin => {
            next |= if from_opener {
                CT_FIN_OPENER
            } else {
                CT_FIN_REPLIER
            };
            next &= !CT_RESET;
        }
        Kind::TcpReset | Kind::SctpEnd => next |= CT_RESET,
        Kind::TcpSyn | Kind::TcpSynAck | Kind::SctpInit => {}
        _ => next &= !CT_RESET,
    }
    next
}

/// Hash of a key, for [`CtEntry::tag`]; never 0.
#[inline(always)]
pub fn tag(key: &CtKey) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let words = crate::packet::words6(key.peer);
    let ports = (key.local_port as u64) << 32 | (key.peer_port as u64) << 16;
    let rest = (key.endpoint as u64) << 32 | (key.protocol as u64) << 8 | key.family as u64;
    let mixed =
        (words[0] ^ ports).wrapping_mul(K) ^ (words[1] ^ rest).rotate_left(29).wrapping_mul(K);
    (mixed >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_confirms_with_the_openers_answer_only() {
        let syn = next_flags(0, Kind::TcpSyn, true);
        assert_eq!(syn & (CT_REPLIED | CT_CONFIRMED), 0);
        let syn_ack = next_flags(syn, Kind::TcpSynAck, false);
        assert_eq!(syn_ack & (CT_REPLIED | CT_CONFIRMED), CT_REPLIED);
        assert_eq!(
            next_flags(syn_ack, Kind::TcpSyn, true) & CT_CONFIRMED,
            0,
            "a repeated SYN"
        );
        assert_ne!(next_flags(syn_ack, Kind::TcpData, true) & CT_CONFIRMED, 0);
    }

    /// What each of so many endpoints has that take all they get.
    fn taken_by(endpoints: usize, isolated: bool) -> (u64, u64) {
        let (mut own, mut all) = ([0; 1_009], 0);
        let own = &mut own[..endpoints];
        loop {
            let before = all;
            for own in own.iter_mut() {
                if may_confirm(*own, all, u32::MAX, isolated) {
                    *own += 1;
                    all += 1;
                }
            }
            if all == before {
                return (own.iter().copied().min().unwrap_or(0), all);
            }
        }
    }

    #[test]
    fn greedy_endpoints_get_equal_shares_and_leave_one_for_others() {
        for (size, isolated) in [(CT_ENTRIES as u64, true), (CT_FOR_OPEN as u64, false)] {
            for (endpoints, share) in [(1, 16), (17, 32), (113, 128), (1_009, 1_024)] {
                let (least, all) = taken_by(endpoints, isolated);
                assert_eq!(least, size / share, "{endpoints}");
                // One more that has less than they gets more.
                assert!(
                    may_confirm(least - 1, all, u32::MAX, isolated),
                    "{endpoints}"
                );
                assert!(!may_confirm(least, all, u32::MAX, isolated), "{endpoints}");
            }
        }
    }

    #[test]
    fn half_of_the_table_is_for_isolated_endpoints_alone() {
        let (_, open) = taken_by(1_009, false);
        assert!(open < CT_FOR_OPEN as u64);
        // An isolated one has as much as all those that nothing isolates, and more.
        let more = (CT_FOR_OPEN / CT_SHARES) as u64;
        assert!(may_confirm(more, open, u32::MAX, true));
        assert!(!may_confirm(0, CT_FOR_OPEN as u64, u32::MAX, false));
        assert!(may_confirm(0, CT_FOR_OPEN as u64, u32::MAX, true));
    }

    #[test]
    fn budget_and_a_full_table_end_a_share() {
        assert!(may_confirm(9, 9, 10, true));
        assert!(!may_confirm(10, 10, 10, true));
        let size = CT_ENTRIES as u64;
        assert!(may_confirm(0, size - 1, 10, true));
        assert!(!may_confirm(0, size, 10, true));
        // Books that are wrong for a while.
        assert!(!may_confirm(0, u64::MAX, 10, true));
        assert!(!may_confirm(u64::MAX, 0, 10, true));
    }

    #[test]
    fn unanswered_datagrams_never_confirm() {
        let mut flags = 0;
        for _ in 0..3 {
            flags = next_flags(flags, Kind::Datagram, true);
        }
        assert_eq!(flags & CT_CONFIRMED, 0);
    }

    #[test]
    fn reset_shortens_the_life_and_the_next_segment_restores_it() {
        let open = CT_REPLIED | CT_CONFIRMED;
        let reset = next_flags(open, Kind::TcpReset, false);
        assert_eq!(timeout_ns(protocol::TCP, reset), RESET_NS);
        let data = next_flags(reset, Kind::TcpData, true);
        assert_eq!(timeout_ns(protocol::TCP, data), TCP_ESTABLISHED_NS);
    }

    #[test]
    fn both_fins_end_a_connection_and_one_does_not() {
        let open = CT_REPLIED | CT_CONFIRMED;
        let one = next_flags(open, Kind::TcpFin, true);
        assert!(!is_over(one));
        assert_eq!(timeout_ns(protocol::TCP, one), TCP_HALF_CLOSED_NS);
        let both = next_flags(one, Kind::TcpFin, false);
        assert!(is_over(both));
        assert_eq!(timeout_ns(protocol::TCP, both), TCP_CLOSED_NS);
    }

    #[test]
    fn record_lives_to_its_timeout_and_never_under_another_tag() {
        let entry = CtEntry {
            tag: 9,
            flags: 0,
            generation: 1,
            slot: 1,
            last_seen_ns: 1_000,
        };
        assert!(is_live(&entry, 9, protocol::UDP, 1_000 + UNCONFIRMED_NS));
        assert!(!is_live(&entry, 9, protocol::UDP, 1_001 + UNCONFIRMED_NS));
        assert!(!is_live(&entry, 8, protocol::UDP, 1_000));
        assert!(
            is_live(&entry, 9, protocol::UDP, 999),
            "seen by another CPU a moment later"
        );
    }
}

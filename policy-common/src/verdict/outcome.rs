//! The last step of a decision: what the answers of policy and a record make of a
//! packet, and the packet of the record.
//!
//! All that it needs is in a few words and a record, so that a kernel program can
//! have it verified once, as a function of its own: it is where all ways of a
//! decision come together.

use crate::abi::conntrack::{
    CT_CONFIRMED, CT_FROM_NODE, CT_OPENED_BY_POD, CT_REPLIED, CT_UNDECIDED, CtEntry, CtKey,
};
use crate::abi::{Direction, stats};
use crate::conntrack;
use crate::packet::Kind;

use super::decide::{Records, Table, settle};

/// What is known of a packet when policy has been asked: the number of its [`Kind`]
/// in the low byte, and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Facts(pub u32);

impl Facts {
    /// The pod sends it.
    pub const EGRESS: u32 = 1 << 8;
    /// It passes whatever policy says.
    pub const EXEMPT: u32 = 1 << 9;
    /// The direction that was asked allows it.
    pub const ALLOWED: u32 = 1 << 10;
    /// The direction in which the connection was opened allows it; nothing without
    /// a record.
    pub const OPENER_ALLOWED: u32 = 1 << 11;
    /// The direction that was asked is the one in which it was opened.
    pub const ASKED_OPENER: u32 = 1 << 12;
    /// The pod sends it, and something isolates it for egress.
    pub const ISOLATED_EGRESS: u32 = 1 << 13;
    /// The peer is a Service.
    pub const SERVICE: u32 = 1 << 14;
    /// The peer is the node.
    pub const NODE: u32 = 1 << 15;
    /// Something isolates the pod.
    pub const ISOLATED: u32 = 1 << 16;
    const TABLE: u32 = 17;

    /// Facts of a packet of this kind, whose record was found in this table.
    #[inline(always)]
    pub const fn of(kind: Kind, found: Option<Table>) -> Self {
        let table = match found {
            None => 0,
            Some(Table::Main) => 1,
            Some(Table::Pending) => 2,
            Some(Table::Open) => 3,
        };
        Self(kind as u32 | table << Self::TABLE)
    }

    /// The same with these flags, if they are so.
    #[inline(always)]
    pub const fn with(self, flags: u32, are: bool) -> Self {
        if are { Self(self.0 | flags) } else { self }
    }

    /// Which way the packet goes.
    #[inline(always)]
    pub const fn direction(self) -> Direction {
        if self.has(Self::EGRESS) {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }

    #[inline(always)]
    const fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }

    #[inline(always)]
    const fn kind(self) -> Kind {
        Kind::from_number((self.0 & 0xff) as u8)
    }

    #[inline(always)]
    const fn found(self) -> Option<Table> {
        match self.0 >> Self::TABLE & 3 {
            0 => None,
            1 => Some(Table::Main),
            2 => Some(Table::Pending),
            _ => Some(Table::Open),
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Outcome(pub u32);

impl Outcome {
    const PASSES: u32 = 1;
    const BY_RECORD: u32 = 2;
    const UNDECIDED: u32 = 4;
    const CACHEABLE: u32 = 8;

    /// It passes.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        self.0 & Self::PASSES != 0
    }

    /// The record decided, not the rule that would have denied it.
    #[inline(always)]
    pub const fn by_record(self) -> bool {
        self.0 & Self::BY_RECORD != 0
    }

    /// Its destination may not be its last.
    #[inline(always)]
    pub const fn is_undecided(self) -> bool {
        self.0 & Self::UNDECIDED != 0
    }

    /// Another packet of the same flow and kind would change nothing.
    #[inline(always)]
    pub const fn is_cacheable(self) -> bool {
        self.0 & Self::CACHEABLE != 0
    }
}

/// Concludes what becomes of a packet, and puts what becomes of its record in its
/// place. `key` is asked for only where there is something to put. `current` is the
/// generation of the word in force, `now_ns` the time by which the record is live.
#[inline(always)]
pub fn conclude<R: Records>(
    records: &R,
    facts: Facts,
    key: impl FnOnce() -> CtKey,
    record: &CtEntry,
    current: u32,
    now_ns: u64,
) -> Outcome {
    let kind = facts.kind();
    let found = facts.found();
    let exempt = facts.has(Facts::EXEMPT);
    let egress = facts.has(Facts::EGRESS);
    // Whether somebody may translate it yet.
    let open_end = facts.has(Facts::ISOLATED_EGRESS)
        && (facts.has(Facts::SERVICE | Facts::NODE) || record.flags & CT_UNDECIDED != 0);
    let mut undecided = open_end;
    let mut pass = facts.has(Facts::ALLOWED);
    let mut by_record = false;
    let mut cacheable = kind.is_cacheable() && !matches!(kind, Kind::Datagram);
    // What the record is to become.
    let mut flags = None;
    if found.is_some() {
        let other_opened = (record.flags & CT_OPENED_BY_POD != 0) != egress;
        let opener_ok = facts.has(Facts::OPENER_ALLOWED);
        if !pass && !facts.has(Facts::ASKED_OPENER) && opener_ok && !kind.only_opens() {
            // A reply. The record decided, not the rule that would have denied.
            pass = true;
            by_record = true;
        }
        if other_opened && opener_ok && !kind.only_opens() {
            // It goes back where the connection came from.
            undecided = false;
        }
        if !opener_ok {
            let stays = facts.has(Facts::NODE) && !facts.has(Facts::SERVICE);
            if open_end && !stays && !other_opened && record.flags & CT_UNDECIDED != 0 {
                // Its backend may be none of the Service's any more, and still be
                // allowed: that is seen where the packet leaves. (What is for the
                // node itself leaves nowhere.)
                pass = true;
                by_record = true;
            }
            records.count(stats::CT_REVOKED);
            cacheable = false;
        } else if other_opened && kind.only_opens() {
            // A new connection the other way on the same ports. It takes the
            // record over when the old one has ended; else the old one stays.
            if pass && conntrack::is_over(record.flags) {
                flags = Some(fresh_flags(egress, exempt, undecided));
            }
            cacheable = false;
        } else if pass {
            let fresh_start = kind.only_opens() && conntrack::is_over(record.flags);
            let mut next = if fresh_start {
                record.flags & CT_OPENED_BY_POD
            } else {
                conntrack::next_flags(record.flags, kind, !other_opened)
            };
            if !other_opened && exempt {
                next |= CT_FROM_NODE;
            } else if !other_opened && kind.only_opens() {
                // Another connection on the same ports, forwarded this time.
                next &= !CT_FROM_NODE;
            }
            // Also where an answer comes before the pod's next packet: a connection from
            // before something isolated the pod.
            let to_service = facts.has(Facts::SERVICE) && record.flags & CT_OPENED_BY_POD != 0;
            if !other_opened && undecided || to_service {
                next |= CT_UNDECIDED;
            }
            let stale = now_ns.saturating_sub(record.last_seen_ns) >= conntrack::REFRESH_NS;
            if record.generation != current {
                records.count(stats::CT_REVALIDATED);
            }
            if next != record.flags || stale || record.generation != current {
                flags = Some(next);
            }
            cacheable = kind.is_cacheable()
                && (next & CT_CONFIRMED != 0 || (!other_opened && next & CT_REPLIED == 0));
        }
    } else if pass && kind.opens() {
        flags = Some(fresh_flags(egress, exempt, undecided));
        cacheable = false;
    }
    if let Some(flags) = flags {
        let next = CtEntry {
            flags,
            generation: current,
            last_seen_ns: if found.is_some() {
                now_ns
            } else {
                records.now_ns()
            },
            ..*record
        };
        settle(records, &key(), &next, found, facts.has(Facts::ISOLATED));
    }
    let mut outcome = 0;
    if pass {
        outcome |= Outcome::PASSES;
        if undecided {
            outcome |= Outcome::UNDECIDED;
        }
        if cacheable {
            outcome |= Outcome::CACHEABLE;
        }
    }
    if by_record {
        outcome |= Outcome::BY_RECORD;
    }
    Outcome(outcome)
}

/// Flags of a record that this packet opens.
#[inline(always)]
const fn fresh_flags(egress: bool, exempt: bool, undecided: bool) -> u32 {
    let opener = if egress { CT_OPENED_BY_POD } else { 0 };
    let undecided = if undecided { CT_UNDECIDED } else { 0 };
    opener | undecided | if exempt { CT_FROM_NODE } else { 0 }
}

//! Policies as the kernel sees them: rows from identity to port set, and port
//! sets as sorted, disjoint intervals with the rule that decided each.
//!
//! Order, priority, tiers and overlaps are gone by the time anything is written
//! here: the compiler resolved them.

use super::identity::Identity;

/// Key of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PolicyKey {
    /// Policy number; fits 16 bits, never 0.
    pub policy: u32,
    /// Identity of the peer; [`super::identity::OTHER`] answers for every
    /// identity without a row.
    pub identity: Identity,
}

/// A row. It repeats its key in front, for the reason given in
/// [`super::identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyEntry {
    /// Policy of the key once more.
    pub policy: u32,
    /// Identity of the key once more.
    pub identity: Identity,
    /// Port set that decides; 0 is no port set and denies.
    pub port_set: u32,
}

/// Id of the rule that decided: user space knows its policy and place. 0: none.
pub type RuleId = u32;

/// What an interval or a default says: deny.
pub const ACTION_DENY: u32 = 0;
/// What an interval or a default says: allow.
pub const ACTION_ALLOW: u32 = 1;
/// Added to an action: send an event for the first packet whatever the verdict.
pub const ACTION_LOG: u32 = 2;

/// Point of the space that intervals divide: protocol number, then port, as
/// `protocol << 16 | port`. Protocols without ports use port 0.
#[inline(always)]
pub const fn point(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// The last point: protocol 255, port 65535.
pub const LAST_POINT: u32 = 0x00ff_ffff;

/// One run of points that one rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct Interval {
    /// First [`point`] of the run.
    pub first: u32,
    /// Last point of the run, included.
    pub last: u32,
    /// Rule that decided.
    pub rule: RuleId,
    /// `ACTION_*`.
    pub action: u32,
}

/// Intervals that a port set holds itself; one with more has all in an extent.
pub const INLINE_INTERVALS: usize = 3;
/// Steps of a bisection that reach every interval of the largest extent.
pub const EXTENT_STEPS: u32 = 17;

/// What a policy says to one class of peers. Never changed once a row names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortSet {
    /// Number of intervals.
    pub count: u32,
    /// Element of the extents map where they start; 0: they are in `inline`.
    pub extent: u32,
    /// Rule that answers for every point outside the intervals.
    pub default_rule: RuleId,
    /// What it says: `ACTION_*`.
    pub default_action: u32,
    /// The intervals, sorted and disjoint, unless `extent` says otherwise.
    pub inline: [Interval; INLINE_INTERVALS],
}

const _: () = {
    assert!(size_of::<PolicyKey>() == 8);
    assert!(size_of::<PolicyEntry>() == 12);
    assert!(size_of::<Interval>() == 16);
    assert!(size_of::<PortSet>() == 64);
    assert!(1 << EXTENT_STEPS > super::maps::EXTENT_ENTRIES);
};

//! Where each counter stands in the counters map.
//!
//! Elements 0 to 63 count ingress, 64 to 127 egress. Within a direction a
//! [`super::event::DropReason`]'s number is the place of its packets; what is
//! not a reason for a drop stands from 32 on.

use super::Direction;

/// Passed; judged or recalled, but not from the flow cache.
pub const PASSED: u32 = 32;
/// A confirmed record stays where it may be evicted: the endpoint's share is used up.
/// Counted at each refresh.
pub const CT_OVER_BUDGET: u32 = 33;
/// A record was wanted and could not be made: the table is full.
pub const CT_FULL: u32 = 34;
/// A connection record was judged again under a new policy.
pub const CT_REVALIDATED: u32 = 35;
/// A connection was cut because policy no longer allows its opener's direction.
pub const CT_REVOKED: u32 = 36;
/// An event could not be written: the ring was full.
pub const EVENT_LOST: u32 = 37;
/// An event was not sent: rate limit.
pub const EVENT_LIMITED: u32 = 38;
/// Sources that the XDP prefilter dropped (counted under ingress).
pub const PREFILTER_DROPPED: u32 = 39;
/// A record was made in the table of pending ones. With what was taken out of it and
/// what is there it tells how many were evicted, which the kernel does not.
pub const CT_PENDING_MADE: u32 = 40;
/// A record was taken out of that table, because it ended or moved.
pub const CT_PENDING_LEFT: u32 = 41;
/// As [`CT_PENDING_MADE`], in the table of pods that nothing isolates.
pub const CT_OPEN_MADE: u32 = 42;
/// As [`CT_PENDING_LEFT`], out of that table.
pub const CT_OPEN_LEFT: u32 = 43;

/// Counters of one direction.
pub const PER_DIRECTION: u32 = 64;

/// Element of a counter.
#[inline(always)]
pub const fn index(direction: Direction, counter: u32) -> u32 {
    direction.index() * PER_DIRECTION + (counter & (PER_DIRECTION - 1))
}

const _: () = assert!(2 * PER_DIRECTION as usize == super::maps::COUNTER_ENTRIES);

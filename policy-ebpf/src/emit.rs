//! Counters and verdict events.

use core::ptr::addr_of_mut;

use policy_common::abi::config::{EVENT_TICK_NS, EventTokens};
use policy_common::abi::event::VerdictEvent;
use policy_common::abi::{Direction, stats};

use crate::{clock, maps};

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's element; a program does not run twice at once on
        // one CPU at the same hook, and a lost count between hooks is harmless.
        unsafe { *counter += 1 }
    }
}

/// Sends the event that `fill` writes, within the rate, and counts it where it
/// cannot be sent. `fill` gets the time and must write every field.
#[inline(always)]
pub(crate) fn event(
    direction: Direction,
    per_tick: u32,
    fill: impl FnOnce(u64, *mut VerdictEvent),
) {
    let Some(now_ns) = take_token(per_tick) else {
        count(stats::index(direction, stats::EVENT_LIMITED));
        return;
    };
    if let Some(mut entry) = maps::EVENTS.reserve(0) {
        fill(now_ns, entry.as_mut_ptr());
        entry.submit(0);
    } else {
        count(stats::index(direction, stats::EVENT_LOST));
    }
}

/// The time, if one more event may be sent.
#[inline(always)]
fn take_token(per_tick: u32) -> Option<u64> {
    let tokens: *mut EventTokens = maps::EVENT_TOKENS.get_ptr_mut(0)?;
    let jiffy = clock::ticks();
    // SAFETY: as in `count`.
    unsafe {
        if (*tokens).left == 0 && (*tokens).refused == jiffy {
            return None;
        }
        let now_ns = clock::coarse_ns();
        if now_ns >= (*tokens).renew_ns {
            addr_of_mut!((*tokens).renew_ns).write(now_ns + EVENT_TICK_NS);
            addr_of_mut!((*tokens).left).write(per_tick);
        }
        let left = (*tokens).left;
        if left == 0 {
            addr_of_mut!((*tokens).refused).write(jiffy);
            return None;
        }
        addr_of_mut!((*tokens).left).write(left - 1);
        Some(now_ns)
    }
}

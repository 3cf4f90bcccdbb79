//! The one clock of the lab, and waiting with a bound.
//!
//! Kernel time stamps of packets are `CLOCK_REALTIME`; [`RealtimeOffset`]
//! translates them. Both clocks are slewed alike, so only a step between
//! measuring and stamping could falsify the result, and the offset is measured
//! anew for each batch of packets.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

const NS_PER_SEC: u64 = 1_000_000_000;

/// How often [`wait_for`] looks at its condition.
const POLL: Duration = Duration::from_millis(1);

/// The current time of `CLOCK_MONOTONIC` in nanoseconds.
pub fn now_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Monotonic))
}

/// A duration in nanoseconds, saturating.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sleeps until the given time of `CLOCK_MONOTONIC`, in nanoseconds.
pub(crate) fn sleep_until(at_ns: u64) {
    let at = Timespec {
        tv_sec: i64::try_from(at_ns / NS_PER_SEC).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(at_ns % NS_PER_SEC).expect("less than a second"),
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &at) == Err(rustix::io::Errno::INTR) {}
}

/// Waits until `condition` holds and returns how long that took.
///
/// # Errors
/// Names `what` when the condition does not hold within `bound`.
pub fn wait_for(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= bound {
            bail!("waited {bound:?} in vain for: {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// What separates `CLOCK_REALTIME` from `CLOCK_MONOTONIC`.
#[derive(Clone, Copy)]
pub(crate) struct RealtimeOffset {
    ns: u64,
}

impl RealtimeOffset {
    /// Reads both clocks; of a few attempts the least disturbed one counts.
    pub(crate) fn measure() -> Self {
        let attempt = || {
            let before = now_ns();
            let realtime = to_ns(clock_gettime(ClockId::Realtime));
            let after = now_ns();
            let middle = before + (after - before) / 2;
            (after - before, realtime.saturating_sub(middle))
        };
        let (_, ns) = (0..3)
            .map(|_| attempt())
            .min()
            .expect("the range is not empty");
        Self { ns }
    }

    /// The time of `CLOCK_MONOTONIC` at which `CLOCK_REALTIME` showed `realtime_ns`.
    pub(crate) fn to_monotonic(self, realtime_ns: u64) -> u64 {
        realtime_ns.saturating_sub(self.ns)
    }
}

fn to_ns(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).expect("both clocks count from the past") * NS_PER_SEC
        + u64::try_from(time.tv_nsec).expect("a fraction of a second is not negative")
}

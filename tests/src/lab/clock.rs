//! The one clock of the lab, and waiting with a bound.
//!
//! Kernel time stamps of packets are `CLOCK_REALTIME`; [`RealtimeOffset`]
//! translates them. Both clocks are slewed alike, so only a step between
//! measuring and stamping could falsify the result, and the offset is measured
//! anew for each batch of packets.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::pace::slowed;
use super::sys::{self, Batch};

const NS_PER_SEC: u64 = 1_000_000_000;

/// The kernel starts to stamp from a work queue; this bounds a loaded machine.
const STAMPS: Duration = Duration::from_secs(10);

/// How often [`wait_for`] looks at its condition, on a real machine.
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
/// Names `what` when the condition does not hold within `bound`, or as many times
/// that as the machine is slower than a real one.
pub fn wait_for(what: &str, bound: Duration, condition: impl FnMut() -> bool) -> Result<Duration> {
    wait_within(what, slowed(bound), condition)
}

/// As [`wait_for`], not longer than that on any machine.
pub(crate) fn wait_within(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration> {
    let (start, poll) = (Instant::now(), slowed(POLL));
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= bound {
            bail!("waited {bound:?} in vain for: {what}");
        }
        std::thread::sleep(poll);
    }
}

/// What a blocking call on a socket with a timeout receives; none when the time is
/// up.
///
/// A signal ends such a call early even where no handler asks for that (man 7
/// signal), and signals reach any thread of a process; the call is made again.
///
/// # Errors
/// Every other error of the call.
pub fn received<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Ok(received) => return Ok(Some(received)),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                _ => return Err(error),
            },
        }
    }
}

/// Asks the kernel to stamp packets when they arrive, for the rest of this
/// process: without anybody who asks it stops.
pub(crate) fn ask_for_packet_stamps() -> Result<()> {
    static ASKS: OnceLock<OwnedFd> = OnceLock::new();
    if ASKS.get().is_none() {
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        sys::enable_timestamps(socket.as_fd())?;
        // Another lab may have been faster, and one is enough.
        let _ = ASKS.set(socket);
    }
    Ok(())
}

/// Waits until packets are stamped when they arrive; runs in a namespace whose
/// loopback is up.
///
/// Asking only schedules the beginning. Until then packets get the time at which
/// they are read.
pub(crate) fn await_packet_stamps() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind on the loopback")?;
    sys::enable_timestamps(socket.as_fd())?;
    let mut batch = Batch::new(1, 64);
    let mut stamped_on_arrival = || -> Result<bool> {
        socket.send_to(b"stamp", socket.local_addr()?)?;
        let sent_ns = to_ns(clock_gettime(ClockId::Realtime));
        let stamped = batch.receive(socket.as_fd())?;
        let stamps = batch.packets().filter_map(|packet| packet.realtime_ns);
        Ok(stamped && stamps.max().is_some_and(|stamp| stamp <= sent_ns))
    };
    let mut result = Ok(());
    wait_for("packets to be stamped", STAMPS, || {
        stamped_on_arrival().unwrap_or_else(|error| {
            result = Err(error);
            true
        })
    })?;
    result
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_do_not_end_a_call_and_time_does() {
        use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
        let after = |kinds: &[io::ErrorKind]| {
            let mut kinds = kinds.iter();
            received(|| kinds.next().map_or(Ok(7), |&kind| Err(kind.into()))).ok()
        };
        assert_eq!(after(&[]), Some(Some(7)));
        assert_eq!(after(&[Interrupted, Interrupted]), Some(Some(7)));
        assert_eq!(after(&[Interrupted, WouldBlock]), Some(None));
        assert_eq!(after(&[TimedOut]), Some(None));
        assert_eq!(after(&[ConnectionRefused]), None);
    }
}

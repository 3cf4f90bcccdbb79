//! New TCP connections all the time: what is open says nothing about opening.
//!
//! Each connection is made, greeted and closed again. A lost SYN shows as a
//! retransmission or as a connection that took its time.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::clock::{duration_ns, now_ns, sleep_until};
use super::host::{Family, Host};
use super::pace::{slowed, slowness};
use super::sys;

/// Whom to connect to, and how often.
#[derive(Clone, Debug)]
pub struct ChurnSpec {
    /// The client.
    pub from: Host,
    /// The server: a `Server` of the lab, or anything that greets with a line.
    pub to: IpAddr,
    /// Its port.
    pub port: u16,
    /// Time from one connection's start to the next one's, on a real machine. Closed
    /// connections hold their port for a minute, so 28,000 in a minute are the limit.
    pub interval: Duration,
    /// When a connection counts as failed, on a real machine. Above a second, the
    /// kernel's first retransmission of a SYN, so that a lost SYN is seen as one.
    pub timeout: Duration,
}

impl ChurnSpec {
    /// A connection each 5 ms.
    ///
    /// # Errors
    /// When the server has no address of the family.
    pub fn new(from: &Host, to: &Host, family: Family, port: u16) -> Result<Self> {
        Ok(Self {
            from: from.clone(),
            to: to.address(family)?,
            port,
            interval: Duration::from_millis(5),
            timeout: Duration::from_millis(1500),
        })
    }

    /// Changes the interval.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

/// The account of a churn.
#[derive(Clone, Debug, Default)]
pub struct ChurnReport {
    /// Connections that were opened, greeted and closed.
    pub succeeded: u64,
    /// Start and error of those that were not.
    pub failed: Vec<(u64, String)>,
    /// Segments that clients had to send again, SYNs included.
    pub retransmits: u64,
    /// The longest time from the start of a connection to its greeting.
    pub slowest: Duration,
}

impl ChurnReport {
    /// Whether nothing was lost. A slow machine may answer later than the kernel
    /// waits before it sends again, so there only connections that fail tell.
    pub fn is_undisturbed(&self) -> bool {
        let in_time = self.retransmits == 0 || slowness() > 1;
        self.succeeded > 0 && self.failed.is_empty() && in_time
    }
}

/// A churn that runs until it is stopped or dropped.
pub struct TcpChurn {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    report: Mutex<ChurnReport>,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, ChurnReport> {
        // Every field is changed by one assignment.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TcpChurn {
    /// Starts to connect.
    ///
    /// # Errors
    /// When no thread can be started or the namespace not be entered.
    pub fn start(spec: &ChurnSpec) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (spec, for_loop) = (spec.clone(), shared.clone());
        spec.from.netns().run(|| ())?;
        let thread = std::thread::Builder::new()
            .name("lab-churn".into())
            .spawn(move || churn(&spec, &for_loop))
            .context("start a churn's thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Connections that succeeded so far.
    pub fn succeeded(&self) -> u64 {
        self.shared.report().succeeded
    }

    /// Connections that failed so far.
    pub fn failed(&self) -> usize {
        self.shared.report().failed.len()
    }

    /// Lets the connection under way end, and gives the account.
    ///
    /// # Errors
    /// When the thread panicked.
    pub fn stop(mut self) -> Result<ChurnReport> {
        self.end()
            .map_err(|_| anyhow::anyhow!("the churn's thread panicked"))?;
        Ok(std::mem::take(&mut *self.shared.report()))
    }

    fn end(&mut self) -> std::thread::Result<()> {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for TcpChurn {
    fn drop(&mut self) {
        // Who wanted the result has called `stop`.
        let _ = self.end();
    }
}

fn churn(spec: &ChurnSpec, shared: &Shared) {
    if let Err(error) = spec.from.netns().enter() {
        let failure = (now_ns(), format!("{error:#}"));
        shared.report().failed.push(failure);
        return;
    }
    let to = SocketAddr::new(spec.to, spec.port);
    let interval_ns = duration_ns(slowed(spec.interval));
    let mut start_ns = now_ns();
    while !shared.stop.load(Ordering::Acquire) {
        let result = connect(to, slowed(spec.timeout));
        let took = Duration::from_nanos(now_ns() - start_ns);
        let mut report = shared.report();
        match result {
            Ok(retransmits) => {
                report.succeeded += 1;
                report.retransmits += retransmits;
                report.slowest = report.slowest.max(took);
            }
            Err(error) => report.failed.push((start_ns, error.to_string())),
        }
        drop(report);
        sleep_until(start_ns + interval_ns);
        start_ns = now_ns();
    }
}

/// One connection; the result is how many segments had to be sent again.
fn connect(to: SocketAddr, timeout: Duration) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
    }
    let repeats = sys::tcp_repeats(stream.as_fd())?;
    Ok(repeats.segments.saturating_sub(repeats.needless))
}

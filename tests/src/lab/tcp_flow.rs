//! A long-lived TCP connection that shows every disturbance.
//!
//! A client sends numbered messages to an echo port and notes when each echo is
//! back. TCP repairs losses by itself, so "nothing was lost" means: no segment
//! had to be sent again, and no echo took longer than a bound. Every message goes out
//! on time whether or not its predecessors were answered; with TCP_NODELAY each
//! is a segment, whose payload a `Sniffer` can read: see [`message_of`].

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clock::{duration_ns, now_ns, wait_for};
use super::host::{Family, Host};
use super::pace::slowed;
use super::sys;

/// Marks a message; then its number and its time, in network order.
const MAGIC: &[u8; 8] = b"labtcp\x00\x01";
const MESSAGE: usize = 24;

/// How long a connection may take to open and to greet.
const OPEN: Duration = Duration::from_secs(5);

/// How long a stopped flow waits for echoes that are still under way.
const DRAIN: Duration = Duration::from_millis(500);

/// Whom to talk to, and how often.
#[derive(Clone, Debug)]
pub struct TcpSpec {
    /// The client.
    pub from: Host,
    /// The server: a `Server` of the lab, or anything that greets with a line
    /// and echoes.
    pub to: IpAddr,
    /// Its port.
    pub port: u16,
    /// Time between messages, on a real machine.
    pub interval: Duration,
}

impl TcpSpec {
    /// A message each millisecond.
    ///
    /// # Errors
    /// When the server has no address of the family.
    pub fn new(from: &Host, to: &Host, family: Family, port: u16) -> Result<Self> {
        Ok(Self {
            from: from.clone(),
            to: to.address(family)?,
            port,
            interval: Duration::from_millis(1),
        })
    }

    /// Changes the interval.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

/// A flow that runs until it is stopped or dropped.
pub struct TcpFlow {
    shared: Arc<Shared>,
    local: SocketAddr,
    thread: Option<JoinHandle<TcpStream>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    log: Mutex<TcpReport>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, TcpReport> {
        // Every record is pushed whole.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The account of a flow.
#[derive(Clone, Debug, Default)]
pub struct TcpReport {
    /// When each message was handed to the socket; the index is its number.
    pub sent_ns: Vec<u64>,
    /// When its echo was read, for the first so many messages.
    pub echoed_ns: Vec<u64>,
    /// Segments that the client sent more than once.
    pub retransmits: u64,
    /// Those of them that the server had already: a busy machine delayed or
    /// reordered the first one, or the acknowledgement.
    pub needless: u64,
    /// What ended the connection before it was stopped.
    pub error: Option<String>,
}

impl TcpReport {
    /// The longest time from a message to its echo.
    pub fn longest_round_trip(&self) -> Option<Duration> {
        let times = self.sent_ns.iter().zip(&self.echoed_ns);
        times
            .map(|(sent, echoed)| Duration::from_nanos(echoed.saturating_sub(*sent)))
            .max()
    }

    /// Messages without echo.
    pub fn unanswered(&self) -> usize {
        self.sent_ns.len() - self.echoed_ns.len()
    }

    /// Messages sent after `at_ns` whose echo came back.
    pub fn answered_sent_after(&self, at_ns: u64) -> usize {
        let answered = &self.sent_ns[..self.echoed_ns.len()];
        answered.iter().filter(|&&sent| sent > at_ns).count()
    }

    /// Segments that were lost on the way to the server.
    pub fn losses(&self) -> u64 {
        self.retransmits.saturating_sub(self.needless)
    }

    /// Whether nothing was lost: no error, no segment lost, every message
    /// answered within `bound`. What the server sent and lost shows as a delay
    /// of 200 ms or more.
    pub fn is_undisturbed(&self, bound: Duration) -> bool {
        self.error.is_none()
            && self.losses() == 0
            && self.unanswered() == 0
            && self.longest_round_trip().is_none_or(|time| time <= bound)
    }

    /// The account in one line.
    pub fn summary(&self) -> String {
        format!(
            "{} messages, {} unanswered, {} retransmits ({} needless), longest round trip {:?}, error {:?}",
            self.sent_ns.len(),
            self.unanswered(),
            self.retransmits,
            self.needless,
            self.longest_round_trip(),
            self.error
        )
    }
}

impl TcpFlow {
    /// Connects, reads the greeting and starts to send.
    ///
    /// # Errors
    /// When the connection does not come about.
    pub fn start(spec: &TcpSpec) -> Result<Self> {
        let to = SocketAddr::new(spec.to, spec.port);
        let stream = spec
            .from
            .netns()
            .run(|| TcpStream::connect_timeout(&to, OPEN))?
            .and_then(greeted)
            .with_context(|| format!("open a flow from {} to {to}", spec.from.name()))?;
        let local = stream.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (for_loop, interval) = (shared.clone(), slowed(spec.interval));
        let thread = std::thread::Builder::new()
            .name("lab-tcp-flow".into())
            .spawn(move || talk(stream, interval, &for_loop))
            .context("start a flow's thread")?;
        Ok(Self {
            shared,
            local,
            thread: Some(thread),
        })
    }

    /// The client's address and port.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Messages sent so far.
    pub fn sent(&self) -> usize {
        self.shared.log().sent_ns.len()
    }

    /// Messages answered so far.
    pub fn echoed(&self) -> usize {
        self.shared.log().echoed_ns.len()
    }

    /// When the last echo was read.
    pub fn last_echo_ns(&self) -> Option<u64> {
        self.shared.log().echoed_ns.last().copied()
    }

    /// What ended the connection, if something did.
    pub fn error(&self) -> Option<String> {
        self.shared.log().error.clone()
    }

    /// Waits until a message sent from now on is answered.
    ///
    /// # Errors
    /// When none is within `bound`.
    pub fn wait_until_flowing(&self, bound: Duration) -> Result<Duration> {
        let from_ns = now_ns();
        wait_for("an echo", bound, || {
            self.shared.log().answered_sent_after(from_ns) > 0
        })
    }

    /// Stops sending, waits for echoes under way, and gives the account.
    ///
    /// # Errors
    /// When the flow's thread panicked or the socket cannot be asked.
    pub fn stop(mut self) -> Result<TcpReport> {
        let stream = self.end().context("it ends once")?;
        let stream = stream.map_err(|_| anyhow::anyhow!("the flow's thread panicked"))?;
        let mut report = std::mem::take(&mut *self.shared.log());
        let repeats = sys::tcp_repeats(stream.as_fd())?;
        report.retransmits = repeats.segments;
        report.needless = repeats.needless;
        Ok(report)
    }

    fn end(&mut self) -> Option<std::thread::Result<TcpStream>> {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for TcpFlow {
    fn drop(&mut self) {
        // Who wanted the result has called `stop`.
        let _ = self.end();
    }
}

/// Number and time of the message at the start of a segment's payload, as a
/// `Sniffer` keeps it.
pub fn message_of(payload: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_be_bytes(
            payload.get(at..at + 8)?.try_into().ok()?,
        ))
    };
    payload.starts_with(MAGIC).then_some((word(8)?, word(16)?))
}

/// Reads the server's first line, byte by byte so as not to read an echo.
fn greeted(mut stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_read_timeout(Some(OPEN))?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
    }
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn talk(mut stream: TcpStream, interval: Duration, shared: &Shared) -> TcpStream {
    let interval_ns = duration_ns(interval);
    let mut out: Vec<u8> = Vec::new();
    let mut echoed_bytes = 0;
    let mut next_ns = now_ns();
    let mut end_ns = None;
    loop {
        let now = now_ns();
        if end_ns.is_none() && shared.stop.load(Ordering::Acquire) {
            end_ns = Some(now + duration_ns(DRAIN));
        }
        if let Some(end_ns) = end_ns {
            let log = shared.log();
            if log.unanswered() == 0 || now >= end_ns {
                break;
            }
        } else if now >= next_ns {
            let mut log = shared.log();
            let seq = log.sent_ns.len() as u64;
            out.extend(MAGIC);
            out.extend(seq.to_be_bytes());
            let at_ns = now_ns();
            out.extend(at_ns.to_be_bytes());
            log.sent_ns.push(at_ns);
            next_ns = at_ns.max(next_ns + interval_ns);
        }
        let done = write_out(&mut stream, &mut out)
            .and_then(|()| read_echoes(&mut stream, &mut echoed_bytes));
        match done {
            Ok(whole) => {
                let at_ns = now_ns();
                let mut log = shared.log();
                log.echoed_ns.resize(whole, at_ns);
            }
            Err(error) => {
                shared.log().error = Some(error.to_string());
                break;
            }
        }
        let until_ns = if end_ns.is_some() {
            now + 1_000_000
        } else {
            next_ns
        };
        let wait = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
        let timeout = Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        // Interrupted or not, the loop looks at everything again.
        let _ = poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&timeout));
    }
    stream
}

fn write_out(stream: &mut TcpStream, out: &mut Vec<u8>) -> std::io::Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(written) => {
                out.drain(..written);
            }
            // A connection that was cut fills its buffer; the messages wait.
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what came; the result is how many messages are back in whole.
fn read_echoes(stream: &mut TcpStream, bytes: &mut usize) -> std::io::Result<usize> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => *bytes += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(*bytes / MESSAGE),
            Err(error) => return Err(error),
        }
    }
}

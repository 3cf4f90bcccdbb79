//! A stream of numbered datagrams with an account of every one.
//!
//! Each datagram carries its number and the time just before it was sent, so a
//! test can say "nothing sent after T arrived" and "nothing is missing" to the
//! packet: see `UdpReport`. What a full socket lost is told apart from what the
//! network lost.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::clock::{RealtimeOffset, duration_ns, now_ns, sleep_until, wait_for, wait_within};
use super::host::{Family, Host};
use super::pace::slowed;
use super::sys::{self, Batch, Origin};
use super::udp_report::{Arrival, UdpReport};

/// Marks our datagrams; then the stream's mark, the number and the time, each of
/// eight bytes in network order.
const MAGIC: &[u8; 8] = b"labudp\x00\x01";
const HEADER: usize = 32;

/// Room for datagrams that wait for the receiver's thread.
const QUEUE_BYTES: usize = 32 << 20;
const BATCH: usize = 64;
const LARGEST: usize = 2048;

/// How often idle receivers look whether they are to stop, on a real machine.
const IDLE: Duration = Duration::from_millis(5);

/// How long a stopped stream waits for datagrams that are still under way.
const DRAIN: Duration = Duration::from_millis(200);

/// What to send, and where.
#[derive(Clone, Debug)]
pub struct UdpSpec {
    /// The sender.
    pub from: Host,
    /// The sender's port; 0 lets the kernel choose.
    pub source_port: u16,
    /// The receiver.
    pub to: Host,
    /// What the sender addresses; the receiver listens on its own address.
    pub destination: IpAddr,
    /// The port, of both destination and receiver.
    pub port: u16,
    /// Time between datagrams, on a real machine. A late sender does not catch up
    /// in a burst.
    pub interval: Duration,
    /// Bytes of payload, 32 to 1,400.
    pub size: usize,
    /// Whether the receiver sends each datagram back.
    pub reply: bool,
}

impl UdpSpec {
    /// A datagram each 0.2 ms, 64 bytes, without replies.
    ///
    /// # Errors
    /// When the receiver has no address of the family.
    pub fn new(from: &Host, to: &Host, family: Family, port: u16) -> Result<Self> {
        Ok(Self {
            from: from.clone(),
            source_port: 0,
            to: to.clone(),
            destination: to.address(family)?,
            port,
            interval: Duration::from_micros(200),
            size: 64,
            reply: false,
        })
    }

    /// Changes the interval.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Lets the receiver send each datagram back.
    pub fn reply(mut self) -> Self {
        self.reply = true;
        self
    }
}

/// A stream that runs until it is stopped or dropped.
pub struct UdpStream {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<Result<()>>>,
    receivers: Vec<JoinHandle<Result<()>>>,
    reply: bool,
}

#[derive(Default)]
struct Shared {
    sender_stops: AtomicBool,
    receivers_stop: AtomicBool,
    sent: Mutex<Sent>,
    arrivals: Mutex<Log>,
    replies: Mutex<Log>,
}

#[derive(Default)]
struct Sent {
    times_ns: Vec<u64>,
    errors: u64,
    last_error: Option<String>,
}

#[derive(Default)]
struct Log {
    arrivals: Vec<Arrival>,
    foreign: u64,
    queue_drops: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every record is pushed whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UdpStream {
    /// Starts to receive, then to send.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn start(spec: &UdpSpec) -> Result<Self> {
        ensure!(
            (HEADER..=1400).contains(&spec.size),
            "size of {}",
            spec.size
        );
        let family = Family::of(spec.destination);
        let here = SocketAddr::new(spec.from.address(family)?, spec.source_port);
        let there = SocketAddr::new(spec.to.address(family)?, spec.port);
        let sending = Arc::new(open(&spec.from, here)?);
        let receiving = open(&spec.to, there)?;
        let shared = Arc::new(Shared::default());
        let mark = std::hash::RandomState::new().hash_one(there);

        let state = shared.clone();
        let reply = spec.reply;
        let mut receivers = vec![spawn("lab-udp-receive", move || {
            receive(&receiving, mark, reply, &state.arrivals, &state)
        })?];
        let (socket, state) = (sending.clone(), shared.clone());
        receivers.push(spawn("lab-udp-replies", move || {
            receive(&socket, mark, false, &state.replies, &state)
        })?);
        let (state, spec) = (shared.clone(), spec.clone());
        let sender = spawn("lab-udp-send", move || {
            send(&sending, mark, &spec, &state);
            Ok(())
        })?;
        Ok(Self {
            shared,
            sender: Some(sender),
            receivers,
            reply,
        })
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> usize {
        lock(&self.shared.sent).times_ns.len()
    }

    /// Datagrams that arrived so far.
    pub fn received(&self) -> usize {
        lock(&self.shared.arrivals).arrivals.len()
    }

    /// Datagrams that came back so far.
    pub fn replied(&self) -> usize {
        lock(&self.shared.replies).arrivals.len()
    }

    /// The arrival last recorded.
    pub fn last_arrival(&self) -> Option<Arrival> {
        lock(&self.shared.arrivals).arrivals.last().copied()
    }

    /// Waits until a datagram that was sent from now on has arrived (and come
    /// back, with replies).
    ///
    /// # Errors
    /// When none does within `bound`.
    pub fn wait_until_flowing(&self, bound: Duration) -> Result<Duration> {
        let from_ns = now_ns();
        let log = if self.reply {
            &self.shared.replies
        } else {
            &self.shared.arrivals
        };
        wait_for("a datagram to arrive", bound, || {
            let log = lock(log);
            log.arrivals.last().is_some_and(|a| a.sent_ns >= from_ns)
        })
    }

    /// Stops sending, waits for what is under way, and gives the account.
    ///
    /// # Errors
    /// When a thread of the stream failed.
    pub fn stop(mut self) -> Result<UdpReport> {
        self.shared.sender_stops.store(true, Ordering::Release);
        if let Some(sender) = self.sender.take() {
            join(sender)?;
        }
        let sent = self.sent();
        // In vain when datagrams are lost, which the report will say.
        let _ = wait_within("the last datagrams", DRAIN, || {
            self.received() >= sent && (!self.reply || self.replied() >= sent)
        });
        self.shared.receivers_stop.store(true, Ordering::Release);
        for receiver in self.receivers.drain(..) {
            join(receiver)?;
        }
        let sent = std::mem::take(&mut *lock(&self.shared.sent));
        let arrivals = std::mem::take(&mut *lock(&self.shared.arrivals));
        let replies = std::mem::take(&mut *lock(&self.shared.replies));
        Ok(UdpReport {
            sent_ns: sent.times_ns,
            send_errors: sent.errors,
            last_send_error: sent.last_error,
            arrivals: arrivals.arrivals,
            replies: replies.arrivals,
            foreign: arrivals.foreign + replies.foreign,
            queue_drops: arrivals.queue_drops + replies.queue_drops,
        })
    }
}

impl Drop for UdpStream {
    fn drop(&mut self) {
        self.shared.sender_stops.store(true, Ordering::Release);
        self.shared.receivers_stop.store(true, Ordering::Release);
        for thread in self
            .sender
            .take()
            .into_iter()
            .chain(self.receivers.drain(..))
        {
            // Who wanted the result has called `stop`.
            let _ = thread.join();
        }
    }
}

fn open(host: &Host, at: SocketAddr) -> Result<UdpSocket> {
    let socket = host
        .netns()
        .run(|| UdpSocket::bind(at))?
        .with_context(|| format!("UDP {at} on {}", host.name()))?;
    set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES)?;
    sys::enable_timestamps(socket.as_fd())?;
    Ok(socket)
}

fn spawn(
    name: &str,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .with_context(|| format!("start thread {name}"))
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn send(socket: &UdpSocket, mark: u64, spec: &UdpSpec, shared: &Shared) {
    let to = SocketAddr::new(spec.destination, spec.port);
    let interval_ns = duration_ns(slowed(spec.interval));
    let mut payload = vec![0; spec.size];
    payload[..8].copy_from_slice(MAGIC);
    payload[8..16].copy_from_slice(&mark.to_be_bytes());
    // By default the kernel may be 50 us late, a quarter of our interval. When
    // it refuses, the stream is slower and as correct.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut seq = 0u64;
    let mut next_ns = now_ns();
    while !shared.sender_stops.load(Ordering::Acquire) {
        payload[16..24].copy_from_slice(&seq.to_be_bytes());
        let at_ns = now_ns();
        payload[24..32].copy_from_slice(&at_ns.to_be_bytes());
        // Recorded first, so that nothing arrives that is not known as sent.
        lock(&shared.sent).times_ns.push(at_ns);
        match socket.send_to(&payload, to) {
            Ok(_) => seq += 1,
            Err(error) => {
                let mut sent = lock(&shared.sent);
                sent.times_ns.pop();
                sent.errors += 1;
                sent.last_error = Some(error.to_string());
            }
        }
        next_ns = now_ns().max(next_ns + interval_ns);
        sleep_until(next_ns);
    }
}

fn receive(
    socket: &UdpSocket,
    mark: u64,
    reply: bool,
    log: &Mutex<Log>,
    shared: &Shared,
) -> Result<()> {
    let mut batch = Batch::new(BATCH, LARGEST);
    let idle = Timespec::try_from(slowed(IDLE)).context("how often idle receivers look")?;
    loop {
        let stopping = shared.receivers_stop.load(Ordering::Acquire);
        // Read to the end before stopping: what was queued then counts.
        while batch.receive(socket.as_fd()).context("receive datagrams")? {
            let (offset, read_ns) = (RealtimeOffset::measure(), now_ns());
            for received in batch.packets() {
                let Some((seq, sent_ns)) = read_header(received.data, mark) else {
                    lock(log).foreign += 1;
                    continue;
                };
                if let (true, Origin::Peer(peer)) = (reply, received.origin) {
                    // What does not come back is found missing there.
                    let _ = socket.send_to(received.data, peer);
                }
                let received_ns = received
                    .realtime_ns
                    .map_or(read_ns, |stamp| offset.to_monotonic(stamp));
                lock(log).arrivals.push(Arrival {
                    seq,
                    sent_ns,
                    received_ns,
                });
            }
        }
        if stopping {
            break;
        }
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&idle)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll for datagrams"),
        }
    }
    lock(log).queue_drops = sys::queue_drops(socket.as_fd())?;
    Ok(())
}

fn read_header(payload: &[u8], mark: u64) -> Option<(u64, u64)> {
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_be_bytes(
            payload.get(at..at + 8)?.try_into().ok()?,
        ))
    };
    let ours = payload.starts_with(MAGIC) && word(8)? == mark;
    ours.then_some((word(16)?, word(24)?))
}

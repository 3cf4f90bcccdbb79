//! Counts packets where they enter or leave a namespace, whoever answers them.
//!
//! A sniffer on a pod's interface sees what the node let through, also a SYN for
//! a port that nobody listens on. It sees packets as the kernel hands them over:
//! segments that offloads merged count as one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::clock::{RealtimeOffset, now_ns};
use super::host::Host;
use super::parse::{Parsed, parse_frame};
use super::sys::{self, Batch, Origin};

/// All ethertypes (`ETH_P_ALL` of linux/if_ether.h).
const ALL_PROTOCOLS: u16 = 3;

/// Room for packets that wait for the sniffer's thread.
const QUEUE_BYTES: usize = 64 << 20;

/// Bytes kept of each frame: all headers and the start of the payload.
const SNAP: usize = 256;
const BATCH: usize = 64;

/// Which way a sniffed packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the namespace.
    In,
    /// Out of it.
    Out,
}

/// A packet that matched.
#[derive(Clone, Debug)]
pub struct Sniffed<T = Parsed> {
    /// When it crossed the interface, in nanoseconds of `CLOCK_MONOTONIC`: the
    /// kernel's own stamp, in [`Direction::Out`] taken before the driver is
    /// called and hence before the other end's programs run.
    pub at_ns: u64,
    /// Which way.
    pub direction: Direction,
    /// Length of the frame in bytes.
    pub length: usize,
    /// What it says.
    pub packet: T,
}

/// Records the packets on an interface that a filter or a decoder takes.
pub struct Sniffer<T = Parsed> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Shared<T> {
    stop: AtomicBool,
    wake: OwnedFd,
    packets: Mutex<Vec<Sniffed<T>>>,
}

impl<T> Shared<T> {
    fn packets(&self) -> MutexGuard<'_, Vec<Sniffed<T>>> {
        // A panicking filter leaves whole records behind.
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sniffer {
    /// Sniffs what comes into `host`; listening on return.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start(host: &Host, filter: impl Fn(&Parsed) -> bool + Send + 'static) -> Result<Self> {
        Self::start_both(host, move |packet, direction| {
            direction == Direction::In && filter(packet)
        })
    }

    /// Sniffs both directions.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start_both(
        host: &Host,
        filter: impl Fn(&Parsed, Direction) -> bool + Send + 'static,
    ) -> Result<Self> {
        Self::start_decoding(host, host.interface(), move |frame, direction| {
            parse_frame(frame).filter(|packet| filter(packet, direction))
        })
    }
}

impl<T: Clone + Send + 'static> Sniffer<T> {
    /// Sniffs whole frames, of which `decode` gets the first 256 bytes, on any
    /// interface in the namespace of `host`.
    ///
    /// On the node's end of a pod's veth, incoming frames are seen before any
    /// program there decides, and so are outgoing ones after it.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start_decoding(
        host: &Host,
        interface: &str,
        decode: impl Fn(&[u8], Direction) -> Option<T> + Send + 'static,
    ) -> Result<Self> {
        let index = host.interface_index(interface)?;
        let socket = host
            .netns()
            .run(|| sys::packet_socket(index, ALL_PROTOCOLS))?
            .with_context(|| format!("packet socket in {}", host.name()))?;
        set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES)?;
        sys::enable_timestamps(socket.as_fd())?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
            packets: Mutex::default(),
        });
        let for_loop = shared.clone();
        let thread = std::thread::Builder::new()
            .name("lab-sniffer".into())
            .spawn(move || sniff(&socket, &decode, &for_loop))
            .context("start a sniffer thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// How many packets matched so far.
    pub fn count(&self) -> usize {
        self.shared.packets().len()
    }

    /// When the last one did.
    pub fn last_ns(&self) -> Option<u64> {
        self.shared.packets().last().map(|packet| packet.at_ns)
    }

    /// All that matched so far.
    pub fn packets(&self) -> Vec<Sniffed<T>> {
        self.shared.packets().clone()
    }

    /// Reads what is waiting still, and ends.
    ///
    /// # Errors
    /// When packets were lost for want of room, so that nothing may be concluded
    /// from their absence.
    pub fn stop(mut self) -> Result<Vec<Sniffed<T>>> {
        let ended = self.end().context("it ends once")?;
        ended.map_err(|_| anyhow::anyhow!("the sniffer's filter panicked"))??;
        Ok(std::mem::take(&mut *self.shared.packets()))
    }
}

impl<T> Sniffer<T> {
    fn end(&mut self) -> Option<std::thread::Result<Result<()>>> {
        let thread = self.thread.take()?;
        self.shared.stop.store(true, Ordering::Release);
        // It only fails when the counter is full, and then the loop is awake.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        Some(thread.join())
    }
}

impl<T> Drop for Sniffer<T> {
    fn drop(&mut self) {
        // Who wanted the result has called `stop`.
        let _ = self.end();
    }
}

fn sniff<T>(
    socket: &OwnedFd,
    decode: &dyn Fn(&[u8], Direction) -> Option<T>,
    shared: &Shared<T>,
) -> Result<()> {
    let mut batch = Batch::new(BATCH, SNAP);
    loop {
        let stopping = shared.stop.load(Ordering::Acquire);
        // Read to the end before stopping: what was queued then counts.
        while batch.receive(socket.as_fd())? {
            let (offset, read_ns) = (RealtimeOffset::measure(), now_ns());
            for received in batch.packets() {
                let direction = match received.origin {
                    Origin::Link(libc::PACKET_OUTGOING) => Direction::Out,
                    _ => Direction::In,
                };
                let Some(packet) = decode(received.data, direction) else {
                    continue;
                };
                let at_ns = received
                    .realtime_ns
                    .map_or(read_ns, |stamp| offset.to_monotonic(stamp));
                shared.packets().push(Sniffed {
                    at_ns,
                    direction,
                    length: received.length,
                    packet,
                });
            }
        }
        if stopping {
            break;
        }
        let mut fds = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(&shared.wake, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll of a sniffer's socket"),
        }
        if fds[0].revents().contains(PollFlags::ERR) {
            // The interface went away; what it had seen before is kept.
            let _ = rustix::net::sockopt::socket_error(socket)?;
        }
    }
    let dropped = sys::packet_drops(socket.as_fd())?;
    ensure!(
        dropped == 0,
        "the sniffer had no room for {dropped} packets"
    );
    Ok(())
}

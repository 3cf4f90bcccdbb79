//! A flood from one pod to many addresses: SYNs, and datagrams of one flow for
//! each address that began before a pod was behind it. Bounded in rate.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use super::newborn::PORT;
use super::stage::Stage;
use crate::lab::{Host, IpPacket, tcp_flags, wait_for};

/// Packets a second, half of them SYNs.
pub(super) const RATE: usize = 5_000;
/// Time between two bursts.
const TICK: Duration = Duration::from_millis(2);
/// The port from which all datagrams come, so that those to one address are one flow.
const SOURCE: u16 = 40_000;
/// How long it may take until every address has been sent to.
const BOUND: Duration = Duration::from_secs(10);

/// A flood, until it is dropped.
pub(super) struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    aim: Mutex<Vec<Ipv4Addr>>,
    sent: Mutex<BTreeMap<Ipv4Addr, Sent>>,
}

/// What was sent to an address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) segments: u64,
    pub(super) datagrams: u64,
}

impl Flood {
    /// Begins, with nothing to aim at.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub(super) fn start(from: &Host) -> Result<Self> {
        let source = Stage::address(from)?;
        let (raw, datagrams) = from
            .netns()
            .run(|| -> std::io::Result<_> {
                // What is sent brings its own IP header (man 7 raw).
                let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
                Ok((raw, UdpSocket::bind((source, SOURCE))?))
            })?
            .context("open the sockets of a flood")?;
        let shared = Arc::new(Shared::default());
        let state = shared.clone();
        let thread = std::thread::Builder::new()
            .name("flood".into())
            .spawn(move || send(source, &raw, &datagrams, &state))
            .context("start a thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Sends to these addresses from now on, and returns when each has been sent
    /// both kinds.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) fn aim_at(&self, addresses: &[Ipv4Addr]) -> Result<()> {
        let mut sent = lock(&self.shared.sent);
        for address in addresses {
            sent.insert(*address, Sent::default());
        }
        drop(sent);
        *lock(&self.shared.aim) = addresses.to_vec();
        wait_for("the flood to reach every address", BOUND, || {
            let sent = lock(&self.shared.sent);
            addresses.iter().all(|address| {
                let sent = sent.get(address).copied().unwrap_or_default();
                sent.segments > 0 && sent.datagrams > 0
            })
        })?;
        Ok(())
    }

    /// What was sent to an address since it was aimed at.
    pub(super) fn sent_to(&self, address: Ipv4Addr) -> Sent {
        lock(&self.shared.sent)
            .get(&address)
            .copied()
            .unwrap_or_default()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say in the end.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Lists are replaced and counters written whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(source: Ipv4Addr, raw: &OwnedFd, datagrams: &UdpSocket, shared: &Shared) {
    let burst = RATE * usize::try_from(TICK.as_millis()).unwrap_or(1) / 1000;
    let mut next = 0usize;
    while !shared.stop.load(Ordering::Relaxed) {
        let aim = lock(&shared.aim).clone();
        for _ in 0..burst.min(2 * aim.len()) {
            // Each address in turn, and each kind in turn for it.
            let to = aim[next / 2 % aim.len()];
            let at = SocketAddr::new(IpAddr::V4(to), PORT);
            let is_segment = next.is_multiple_of(2);
            let done = if is_segment {
                // A new connection each time.
                let port = 1024 + u16::try_from(next / 2 % 60_000).unwrap_or(0);
                let from = SocketAddr::new(IpAddr::V4(source), port);
                let seq = u32::try_from(next % 0xffff_ffff).unwrap_or(0);
                let packet = IpPacket::tcp(from, at, tcp_flags::SYN, seq, 0, &[]).build();
                sendto(raw, &packet, SendFlags::empty(), &at).is_ok()
            } else {
                datagrams.send_to(b"stranger", at).is_ok()
            };
            let mut sent = lock(&shared.sent);
            let sent = sent.entry(to).or_default();
            sent.segments += u64::from(done && is_segment);
            sent.datagrams += u64::from(done && !is_segment);
            next = next.wrapping_add(1);
        }
        std::thread::sleep(TICK);
    }
}

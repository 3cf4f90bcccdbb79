//! What runs in a pod that is measured from its first instant: the entry point of
//! the image that `cargo xtask bench --cluster` makes of this program.
//!
//! It listens, talks to the one server that policy lets it reach, and counts
//! every segment and datagram that is delivered to it from anybody else. What
//! came before it ran is in the counters of its network namespace, because
//! nobody who may reach it sends before it has said hello. After its life it
//! prints one line and waits for its end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, socket};
use serde::{Deserialize, Serialize};

use super::greeter::{HELLO_PORT, HELLO_SOURCE, TRY};
use crate::lab::{Snmp, now_ns};

/// Where it listens, for TCP and UDP.
pub(super) const PORT: u16 = 7000;
/// The line that it prints.
pub(super) const MARK: &str = "newborn: ";
/// How its servers are told to it.
pub(super) const SERVER: &str = "NEWBORN_SERVER";
pub(super) const CLIENT: &str = "NEWBORN_CLIENT";
/// How long it lives in milliseconds, at least.
pub(super) const LIFE: &str = "NEWBORN_LIFE_MS";
/// Time between two hellos: the first ones, and later, when many pods may wait.
const HELLO: Duration = Duration::from_micros(500);
const LATER_HELLO: Duration = Duration::from_millis(2);
/// How many are the first ones.
const FIRST_HELLOS: u64 = 40;
/// When it stops to say hello to nobody.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often an idle receiver looks at the time.
const IDLE: Duration = Duration::from_millis(20);

/// What became of a pod. Times are nanoseconds since it started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Life {
    /// When it started, by the machine's clock.
    pub(super) started_ns: u64,
    /// Segments and datagrams that its network namespace had got before.
    pub(super) segments_before: u64,
    pub(super) datagrams_before: u64,
    /// Segments and datagrams from others than server and client.
    pub(super) segments: u64,
    pub(super) datagrams: u64,
    /// When the first of those came.
    pub(super) first_denied_ns: Option<u64>,
    /// When the server's first answer to a hello was there.
    pub(super) first_answer_ns: Option<u64>,
    /// Whether the very first hello was answered.
    pub(super) first_hello_answered: bool,
    /// Whether the first SYN to the server opened a connection, and when.
    pub(super) connected_ns: Option<u64>,
    /// When the client's first datagram came.
    pub(super) first_from_client_ns: Option<u64>,
}

/// Lives: never returns but to fail.
///
/// # Errors
/// When it is not told whom to talk to, or a socket cannot be opened.
pub fn live() -> Result<()> {
    let started_ns = now_ns();
    let server: Ipv4Addr = told(SERVER)?;
    let client: Ipv4Addr = told(CLIENT)?;
    let end_ns = started_ns + told::<u64>(LIFE)? * 1_000_000;

    // What arrives from here on is seen with its sender, before any port is asked.
    let segments = raw(ipproto::TCP)?;
    let datagrams = raw(ipproto::UDP)?;
    let (segments_before, datagrams_before) = counted()?;
    let any = Ipv4Addr::UNSPECIFIED;
    let listener = TcpListener::bind((any, PORT)).context("listen for TCP")?;
    let port = UdpSocket::bind((any, PORT)).context("listen for UDP")?;
    let hellos = UdpSocket::bind((any, HELLO_SOURCE)).context("open a socket for hellos")?;
    for socket in [&segments, &datagrams, &port, &hellos] {
        socket.set_read_timeout(Some(IDLE))?;
    }

    let life = Mutex::new(Life {
        started_ns,
        segments_before,
        datagrams_before,
        ..Life::default()
    });
    let note = |change: &dyn Fn(&mut Life, u64)| {
        let at_ns = now_ns() - started_ns;
        change(
            &mut life.lock().unwrap_or_else(PoisonError::into_inner),
            at_ns,
        );
    };
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let server_of = |port| SocketAddr::new(IpAddr::V4(server), port);
    thread::scope(|scope| {
        // It is the application whose port others try; every connection is closed.
        scope.spawn(|| {
            for connection in listener.incoming() {
                drop(connection);
            }
        });
        scope.spawn(|| {
            if TcpStream::connect_timeout(&server_of(PORT), TRY).is_ok() {
                note(&|life, at_ns| life.connected_ns = Some(at_ns));
            }
        });
        scope.spawn(|| {
            for number in 0u64.. {
                let waiting = answered.load(Ordering::Relaxed) == 0;
                let patient = now_ns() - started_ns < nanoseconds(PATIENCE);
                if !waiting || !patient {
                    break;
                }
                // What is refused here is missing there.
                let _ = hellos.send_to(&number.to_be_bytes(), server_of(HELLO_PORT));
                let is_first = number < FIRST_HELLOS;
                thread::sleep(if is_first { HELLO } else { LATER_HELLO });
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                let Ok((8, _)) = hellos.recv_from(&mut buffer) else {
                    continue;
                };
                let first = buffer[..8] == [0; 8];
                answered.fetch_add(1, Ordering::Relaxed);
                note(&|life, at_ns| {
                    life.first_answer_ns.get_or_insert(at_ns);
                    // Later than this, a SYN would have been sent again.
                    life.first_hello_answered |= first && at_ns < nanoseconds(TRY);
                });
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = port.recv_from(&mut buffer) else {
                    continue;
                };
                if from.ip() == client {
                    note(&|life, at_ns| {
                        life.first_from_client_ns.get_or_insert(at_ns);
                    });
                    let _ = port.send_to(&buffer[..length], from);
                }
            }
        });
        for (socket, is_segment) in [(&segments, true), (&datagrams, false)] {
            let (stop, note) = (&stop, &note);
            scope.spawn(move || {
                let mut buffer = [0; 128];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((_, from)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    if from.ip() == server || from.ip() == client {
                        continue;
                    }
                    note(&|life, at_ns| {
                        life.first_denied_ns.get_or_insert(at_ns);
                        life.segments += u64::from(is_segment);
                        life.datagrams += u64::from(!is_segment);
                    });
                }
            });
        }

        // It ends when it is old enough, and has been answered for a while or
        // does not hope any more.
        loop {
            let answer_ns = life
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .first_answer_ns;
            let last_ns = answer_ns.unwrap_or(nanoseconds(PATIENCE)) + 2 * nanoseconds(TRY);
            if now_ns() > end_ns.max(started_ns + last_ns) {
                break;
            }
            thread::sleep(IDLE);
        }
        stop.store(true, Ordering::Relaxed);
        let life = life.lock().unwrap_or_else(PoisonError::into_inner).clone();
        println!("{MARK}{}", serde_json::to_string(&life).unwrap_or_default());
        loop {
            thread::park();
        }
    })
}

/// Nanoseconds of a duration of seconds.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads a variable of the environment.
fn told<T: std::str::FromStr>(name: &str) -> Result<T> {
    let text = std::env::var(name).with_context(|| format!("{name} is not set"))?;
    let value = text.parse().ok();
    value.with_context(|| format!("{name} is {text:?}"))
}

/// A socket that gets a copy of everything of a protocol that is delivered to
/// this host, in the type that offers `recv_from`.
fn raw(protocol: Protocol) -> Result<UdpSocket> {
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(protocol));
    let socket = socket.context("open a raw socket: the pod needs NET_RAW")?;
    Ok(UdpSocket::from(socket))
}

/// Segments and datagrams that this network namespace has got so far.
fn counted() -> Result<(u64, u64)> {
    let snmp = Snmp::read()?;
    let mut datagrams = 0;
    for name in ["InDatagrams", "NoPorts", "InErrors"] {
        datagrams += snmp.v4("Udp", name)?;
    }
    Ok((snmp.v4("Tcp", "InSegs")?, datagrams))
}

//! The other ends of a newborn pod: the server that it may reach, and the client
//! that may reach it and tries to as soon as the pod has said hello.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::newborn::PORT;
use crate::lab::{Host, Netns, received};

/// Where hellos are answered.
pub(super) const HELLO_PORT: u16 = 7100;
/// From where a newborn says them.
pub(super) const HELLO_SOURCE: u16 = 7101;
/// How long a first try may take: a lost SYN is sent again after 1 s.
pub(super) const TRY: Duration = Duration::from_millis(900);
/// How often an idle receiver looks whether it is to stop.
const IDLE: Duration = Duration::from_millis(20);

/// What came of the client's first tries.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Tries {
    pub(super) connected: bool,
    pub(super) datagram_answered: bool,
}

/// Server and client, until it is dropped.
pub(super) struct Greeter {
    stop: Arc<AtomicBool>,
    tries: Arc<Mutex<BTreeMap<Ipv4Addr, Tries>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Greeter {
    /// Listens in the server's network namespace, and tries from the client's.
    ///
    /// # Errors
    /// When a port cannot be opened.
    pub(super) fn start(server: &Host, client: &Host) -> Result<Self> {
        let (listener, hellos) = server
            .netns()
            .run(|| -> std::io::Result<_> {
                let any = Ipv4Addr::UNSPECIFIED;
                Ok((
                    TcpListener::bind((any, PORT))?,
                    UdpSocket::bind((any, HELLO_PORT))?,
                ))
            })?
            .context("open the ports for newborn pods")?;
        listener.set_nonblocking(true)?;
        hellos.set_read_timeout(Some(IDLE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let tries = Arc::new(Mutex::new(BTreeMap::new()));
        let (new, all_new) = mpsc::channel();

        let (stopped, noted) = (stop.clone(), tries.clone());
        let netns = Netns::open(client.netns().path())?;
        let mut threads = vec![spawn(move || answer(&hellos, &new, &stopped))?];
        let stopped = stop.clone();
        threads.push(spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok(connection) => drop(connection),
                    Err(_) => std::thread::sleep(IDLE),
                }
            }
        })?);
        threads.push(spawn(move || {
            std::thread::scope(|scope| {
                // Ends with the thread that finds the pods.
                for pod in all_new {
                    let (netns, noted) = (&netns, &noted);
                    scope.spawn(move || {
                        let tries = netns.run(|| tries_of(pod)).unwrap_or_default();
                        lock(noted).insert(pod, tries);
                    });
                }
            });
        })?);
        Ok(Self {
            stop,
            tries,
            threads,
        })
    }

    /// What came of the tries to a pod, as soon as they are over; forgets it.
    pub(super) fn take(&self, pod: Ipv4Addr) -> Option<Tries> {
        lock(&self.tries).remove(&pod)
    }

    /// Ends it; the same addresses are new pods to the next one.
    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // Nothing in them panics, and what they noted is there already.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every entry is inserted whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("greeter".into());
    thread.spawn(work).context("start a thread")
}

/// Answers hellos, and says whose was the first.
fn answer(hellos: &UdpSocket, new: &Sender<Ipv4Addr>, stop: &AtomicBool) {
    let mut known = BTreeSet::new();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = hellos.recv_from(&mut buffer) else {
            continue;
        };
        // What is lost here is missed there.
        let _ = hellos.send_to(&buffer[..length], from);
        if let IpAddr::V4(pod) = from.ip()
            && known.insert(pod)
        {
            let _ = new.send(pod);
        }
    }
}

/// The client's first tries, each once; runs in its network namespace.
fn tries_of(pod: Ipv4Addr) -> Tries {
    let to = SocketAddr::new(IpAddr::V4(pod), PORT);
    let ping = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(TRY))?;
        socket.send(b"first")?;
        Ok(received(|| socket.recv(&mut [0; 16]))?.is_some())
    };
    Tries {
        datagram_answered: ping().unwrap_or(false),
        connected: TcpStream::connect_timeout(&to, TRY).is_ok(),
    }
}

//! Servers on a host: many ports, all protocols, one thread.
//!
//! Every port answers with a banner that names host, protocol and port, so that
//! a probe knows whom it reached:
//!
//! - TCP: the banner and a line feed on accept, then an echo of whatever comes;
//! - UDP: the datagram again, followed by the banner;
//! - SCTP: an INIT ACK whose cookie is the banner, an ABORT on other ports;
//! - other protocols: the probe's token again, followed by the banner.
//!
//! ICMP echo is the kernel's. The loop itself is `server_loop.rs`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::host::{Family, Host};
use super::probe::Proto;
use super::sctp;
use super::server_loop::{Endpoint, serve};

/// Room for datagrams that wait for the server's thread, as after an address was
/// resolved at last.
const QUEUE_BYTES: usize = 16 << 20;

/// What a [`Server`] listens on; empty lists are not served.
#[derive(Clone, Debug, Default)]
pub struct ServeSpec {
    /// TCP ports.
    pub tcp: Vec<u16>,
    /// UDP ports.
    pub udp: Vec<u16>,
    /// SCTP ports.
    pub sctp: Vec<u16>,
    /// Protocol numbers of IP without ports that this lab knows of.
    pub protocols: Vec<u8>,
}

impl ServeSpec {
    /// The same ports for TCP and UDP.
    pub fn ports(ports: &[u16]) -> Self {
        Self {
            tcp: ports.to_vec(),
            udp: ports.to_vec(),
            ..Self::default()
        }
    }

    /// The same ports for TCP, UDP and SCTP.
    pub fn all_ports(ports: &[u16]) -> Self {
        Self {
            sctp: ports.to_vec(),
            ..Self::ports(ports)
        }
    }

    /// Adds protocols without ports.
    pub fn protocols(mut self, protocols: &[u8]) -> Self {
        self.protocols = protocols.to_vec();
        self
    }
}

/// A set of listening ports; dropping it closes them and every connection.
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the loop shows to the test.
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) wake: OwnedFd,
    pub(crate) arrived: Mutex<BTreeMap<(Proto, u16), u64>>,
    pub(crate) open: AtomicU64,
    pub(crate) retransmits: AtomicU64,
}

impl Shared {
    pub(crate) fn count(&self, proto: Proto, port: u16) {
        *self.arrived().entry((proto, port)).or_default() += 1;
    }

    fn arrived(&self) -> MutexGuard<'_, BTreeMap<(Proto, u16), u64>> {
        // Counting leaves nothing half done.
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Listens on all addresses of `host`; ready on return.
    ///
    /// # Errors
    /// Names the port that cannot be opened.
    pub fn start(host: &Host, spec: &ServeSpec) -> Result<Self> {
        Self::start_on(host, &host.addresses(), spec)
    }

    /// Listens on the given addresses in the namespace of `host`, such as a
    /// gateway address of the node.
    ///
    /// # Errors
    /// Names the port that cannot be opened.
    pub fn start_on(host: &Host, addresses: &[IpAddr], spec: &ServeSpec) -> Result<Self> {
        let endpoints = host
            .netns()
            .run(|| open(addresses, spec))?
            .with_context(|| format!("serve on {}", host.name()))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("create an eventfd")?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wake,
            arrived: Mutex::default(),
            open: AtomicU64::new(0),
            retransmits: AtomicU64::new(0),
        });
        let (name, for_loop) = (host.name().to_owned(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("lab-server".into())
            .spawn(move || serve(&name, endpoints, &for_loop))
            .context("start a server thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What arrived on a port: accepted connections of TCP, datagrams of UDP,
    /// INITs of SCTP; the port is 0 for other protocols.
    pub fn arrived(&self, proto: Proto, port: u16) -> u64 {
        self.shared
            .arrived()
            .get(&(proto, port))
            .copied()
            .unwrap_or(0)
    }

    /// TCP connections that are open.
    pub fn connections(&self) -> u64 {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Segments that the server had to send again on connections that are closed
    /// now.
    pub fn retransmits(&self) -> u64 {
        self.shared.retransmits.load(Ordering::Acquire)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // It only fails when the counter is full, and then the loop is awake.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("lab: a server thread panicked");
        }
    }
}

fn open(addresses: &[IpAddr], spec: &ServeSpec) -> Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    for &address in addresses {
        for &port in &spec.tcp {
            let at = SocketAddr::new(address, port);
            let listener = TcpListener::bind(at).with_context(|| format!("TCP {at}"))?;
            listener.set_nonblocking(true)?;
            endpoints.push(Endpoint::Listener { listener, port });
        }
        for &port in &spec.udp {
            let at = SocketAddr::new(address, port);
            let socket = UdpSocket::bind(at).with_context(|| format!("UDP {at}"))?;
            set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES)?;
            socket.set_nonblocking(true)?;
            endpoints.push(Endpoint::Udp { socket, port });
        }
        if !spec.sctp.is_empty() {
            endpoints.push(Endpoint::Sctp {
                socket: raw_socket(address, sctp::PROTOCOL)?,
                v4: address.is_ipv4(),
                ports: spec.sctp.clone(),
            });
        }
        for &protocol in &spec.protocols {
            endpoints.push(Endpoint::Other {
                socket: raw_socket(address, protocol)?,
                v4: address.is_ipv4(),
                protocol,
            });
        }
    }
    Ok(endpoints)
}

/// A raw socket bound to an address, in the type that offers `recv_from`.
fn raw_socket(address: IpAddr, protocol: u8) -> Result<UdpSocket> {
    let socket = open_raw(Family::of(address), protocol)
        .and_then(|socket| {
            set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES)?;
            rustix::net::bind(&socket, &SocketAddr::new(address, 0))?;
            Ok(socket)
        })
        .with_context(|| format!("raw socket for protocol {protocol} on {address}"))?;
    Ok(UdpSocket::from(socket))
}

/// A non-blocking raw socket for one protocol of IP.
pub(crate) fn open_raw(family: Family, protocol: u8) -> rustix::io::Result<OwnedFd> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let protocol = std::num::NonZeroU32::new(protocol.into()).map(Protocol::from_raw);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, SocketType::RAW, flags, protocol)
}

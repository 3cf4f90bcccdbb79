//! The loop behind a `Server`: polls all its sockets and answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, poll};

use super::probe::Proto;
use super::sctp::{self, Chunk};
use super::server::Shared;
use super::sys;

/// The largest datagram that is echoed, and a read's share of a stream.
const BUFFER: usize = 64 * 1024;

/// What starts the body of a protocol without ports: raw sockets see questions
/// and answers alike, and two servers must not answer each other for ever.
pub(crate) const QUESTION: &[u8] = b"?";
/// See [`QUESTION`].
pub(crate) const ANSWER: &[u8] = b"!";

/// One socket of a server.
pub(crate) enum Endpoint {
    Listener {
        listener: TcpListener,
        port: u16,
    },
    Connection {
        stream: TcpStream,
        /// What could not be written yet.
        out: Vec<u8>,
    },
    Udp {
        socket: UdpSocket,
        port: u16,
    },
    Sctp {
        socket: UdpSocket,
        v4: bool,
        ports: Vec<u16>,
    },
    Other {
        socket: UdpSocket,
        v4: bool,
        protocol: u8,
    },
}

impl Endpoint {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener { listener, .. } => listener.as_fd(),
            Self::Connection { stream, .. } => stream.as_fd(),
            Self::Udp { socket, .. } | Self::Sctp { socket, .. } | Self::Other { socket, .. } => {
                socket.as_fd()
            }
        }
    }

    fn interest(&self) -> PollFlags {
        match self {
            // With an echo waiting, reading more would only pile it up.
            Self::Connection { out, .. } if !out.is_empty() => PollFlags::OUT,
            _ => PollFlags::IN,
        }
    }
}

/// Serves until `shared` says stop.
pub(crate) fn serve(name: &str, mut endpoints: Vec<Endpoint>, shared: &Shared) {
    let mut buffer = vec![0; BUFFER];
    while !shared.stop.load(Ordering::Acquire) {
        let mut fds: Vec<PollFd<'_>> = endpoints
            .iter()
            .map(|endpoint| PollFd::from_borrowed_fd(endpoint.fd(), endpoint.interest()))
            .chain([PollFd::new(&shared.wake, PollFlags::IN)])
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll of a server's sockets: {error}"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut accepted = Vec::new();
        let mut index = 0;
        endpoints.retain_mut(|endpoint| {
            let is_ready = ready[index];
            index += 1;
            !is_ready || handle(name, endpoint, &mut accepted, shared, &mut buffer)
        });
        endpoints.append(&mut accepted);
    }
}

/// Handles what is ready; false when the endpoint is to be closed.
fn handle(
    name: &str,
    endpoint: &mut Endpoint,
    accepted: &mut Vec<Endpoint>,
    shared: &Shared,
    buffer: &mut [u8],
) -> bool {
    match endpoint {
        Endpoint::Listener { listener, port } => {
            while let Ok((stream, _)) = listener.accept() {
                shared.count(Proto::Tcp, *port);
                shared.open.fetch_add(1, Ordering::AcqRel);
                let mut connection = Endpoint::Connection {
                    stream,
                    out: format!("{}\n", banner(name, Proto::Tcp, *port)).into_bytes(),
                };
                if greet(&mut connection, shared) {
                    accepted.push(connection);
                }
            }
            true
        }
        Endpoint::Connection { stream, out } => {
            let open = echo(stream, out, buffer);
            if !open {
                closed(stream, shared);
            }
            open
        }
        Endpoint::Udp { socket, port } => {
            while let Ok((length, from)) = socket.recv_from(buffer) {
                shared.count(Proto::Udp, *port);
                let banner = banner(name, Proto::Udp, *port);
                let answer = [&buffer[..length], banner.as_bytes()].concat();
                // A lost answer is what probes are there to find.
                let _ = socket.send_to(&answer, from);
            }
            true
        }
        Endpoint::Sctp { socket, v4, ports } => {
            while let Ok((length, from)) = socket.recv_from(buffer) {
                let body = without_ip_header(*v4, &buffer[..length]);
                let Some(packet) = sctp::parse(body) else {
                    continue;
                };
                let Chunk::Init { tag } = packet.chunk else {
                    continue;
                };
                let (port, peer) = (packet.destination, packet.source);
                shared.count(Proto::Sctp, port);
                let answer = if ports.contains(&port) {
                    let banner = banner(name, Proto::Sctp, port);
                    sctp::init_ack(port, peer, tag, banner.as_bytes())
                } else {
                    sctp::abort(port, peer, tag)
                };
                // As above.
                let _ = socket.send_to(&answer, from);
            }
            true
        }
        Endpoint::Other {
            socket,
            v4,
            protocol,
        } => {
            while let Ok((length, from)) = socket.recv_from(buffer) {
                let body = without_ip_header(*v4, &buffer[..length]);
                // Answers to a probe of this host's own come here as well.
                let Some(token) = body.strip_prefix(QUESTION) else {
                    continue;
                };
                let proto = Proto::Other(*protocol);
                shared.count(proto, 0);
                let answer = [ANSWER, token, banner(name, proto, 0).as_bytes()].concat();
                // As above.
                let _ = socket.send_to(&answer, from);
            }
            true
        }
    }
}

fn greet(connection: &mut Endpoint, shared: &Shared) -> bool {
    let Endpoint::Connection { stream, out } = connection else {
        return true;
    };
    let ready = stream.set_nonblocking(true).and(stream.set_nodelay(true));
    let open = ready.is_ok() && flush(stream, out);
    if !open {
        closed(stream, shared);
    }
    open
}

/// Echoes what came; false when the connection ended.
fn echo(stream: &mut TcpStream, out: &mut Vec<u8>, buffer: &mut [u8]) -> bool {
    if !flush(stream, out) {
        return false;
    }
    while out.is_empty() {
        match stream.read(buffer) {
            Ok(0) => return false,
            Ok(length) => {
                out.extend(&buffer[..length]);
                if !flush(stream, out) {
                    return false;
                }
            }
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
    true
}

/// Writes what it can; false when the connection broke.
fn flush(stream: &mut TcpStream, out: &mut Vec<u8>) -> bool {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(written) => {
                out.drain(..written);
            }
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
    true
}

fn closed(stream: &TcpStream, shared: &Shared) {
    let repeats = sys::tcp_repeats(stream.as_fd()).unwrap_or_default();
    let needed = repeats.segments.saturating_sub(repeats.needless);
    shared.retransmits.fetch_add(needed, Ordering::AcqRel);
    shared.open.fetch_sub(1, Ordering::AcqRel);
}

/// What a port answers: whom a probe reached.
pub(crate) fn banner(name: &str, proto: Proto, port: u16) -> String {
    match proto {
        Proto::Icmp | Proto::Other(_) => format!("{name} {proto}"),
        Proto::Tcp | Proto::Udp | Proto::Sctp => format!("{name} {port}/{proto}"),
    }
}

/// Raw sockets hand out the IP header with IPv4 and not with IPv6.
pub(crate) fn without_ip_header(v4: bool, packet: &[u8]) -> &[u8] {
    let header = match packet.first() {
        Some(first) if v4 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    packet.get(header..).unwrap_or_default()
}

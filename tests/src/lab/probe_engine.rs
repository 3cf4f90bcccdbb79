//! Runs many probes at once: opens sockets in their namespaces, polls them all.
//!
//! Runs on a thread of its own, since it moves from namespace to namespace.

use std::hash::BuildHasher;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt,
};

use super::clock::{duration_ns, now_ns};
use super::host::Family;
use super::probe::{Outcome, Probe, Proto};
use super::sctp::{self, Chunk};
use super::server::open_raw;
use super::server_loop::{ANSWER, QUESTION, without_ip_header};

/// Probes in flight at a time, each with one descriptor.
const IN_FLIGHT: usize = 512;

/// How often a datagram is sent before its silence counts.
const SENDS: u64 = 3;

/// How long a banner is waited for once the handshake is done.
const GREETING: Duration = Duration::from_secs(5);

/// Bytes of a random mark that tells the answer to this probe from others.
const TOKEN: usize = 16;

/// ICMP and ICMPv6 echo messages: header of eight bytes.
const ICMP_HEADER: usize = 8;

pub(crate) struct Engine<'a> {
    probes: &'a [Probe],
    outcomes: Vec<Option<Outcome>>,
    next: usize,
    flying: Vec<Flight>,
    random: std::hash::RandomState,
}

struct Flight {
    index: usize,
    state: State,
    deadline_ns: u64,
}

enum State {
    Connecting(OwnedFd),
    /// The handshake is done; what came of the banner so far.
    Greeting(TcpStream, Vec<u8>),
    Datagram(Datagram),
}

/// A question in one packet, answered in one.
struct Datagram {
    socket: UdpSocket,
    request: Vec<u8>,
    reads: Reads,
    resend_ns: u64,
    interval_ns: u64,
}

/// How an answer is recognised.
enum Reads {
    /// The request again and a banner.
    Echo,
    /// The token of a marked question again, marked as answer, and a banner.
    Marked { v4: bool },
    /// An ICMP message with the token behind its header.
    Icmp { reply: u8 },
    /// A chunk with our tag.
    Sctp { v4: bool, port: u16, tag: u32 },
}

impl<'a> Engine<'a> {
    pub(crate) fn new(probes: &'a [Probe]) -> Self {
        Self {
            probes,
            outcomes: vec![None; probes.len()],
            next: 0,
            flying: Vec::new(),
            random: std::hash::RandomState::new(),
        }
    }

    pub(crate) fn run(mut self) -> Result<Vec<Outcome>> {
        loop {
            while self.flying.len() < IN_FLIGHT && self.next < self.probes.len() {
                self.launch(self.next)?;
                self.next += 1;
            }
            if self.flying.is_empty() {
                break;
            }
            self.step()?;
        }
        let outcomes = self.outcomes.into_iter().collect::<Option<Vec<_>>>();
        outcomes.context("every probe that ended has an outcome")
    }

    fn launch(&mut self, index: usize) -> Result<()> {
        let probe = &self.probes[index];
        probe.from.netns().enter()?;
        let opened = match probe.proto {
            Proto::Tcp => open_tcp(probe),
            _ => self.open_datagram(probe).map(State::Datagram),
        };
        match opened {
            Ok(state) => self.flying.push(Flight {
                index,
                state,
                deadline_ns: now_ns() + duration_ns(probe.timeout),
            }),
            Err(error) if is_local_trouble(&error) => {
                return Err(error).with_context(|| format!("probe {probe}"));
            }
            Err(error) => self.outcomes[index] = Some(outcome_of(&error)),
        }
        Ok(())
    }

    fn open_datagram(&self, probe: &Probe) -> io::Result<Datagram> {
        let v4 = probe.to.is_ipv4();
        let bits = self.random.hash_one(self.next);
        let token = format!("{bits:016x}").into_bytes();
        debug_assert_eq!(token.len(), TOKEN);
        let kind = |kind, protocol| {
            let family = if v4 {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(family, kind, flags, protocol)
        };
        let (socket, request, reads) = match probe.proto {
            Proto::Udp => {
                let socket = kind(SocketType::DGRAM, None)?;
                (socket, token, Reads::Echo)
            }
            Proto::Icmp => {
                let protocol = if v4 { ipproto::ICMP } else { ipproto::ICMPV6 };
                let socket = kind(SocketType::DGRAM, Some(protocol))?;
                let (ask, reply) = if v4 { (8, 0) } else { (128, 129) };
                // The kernel fills in checksum and identifier.
                let mut request = vec![ask, 0, 0, 0, 0, 0, 0, 1];
                request.extend(token);
                (socket, request, Reads::Icmp { reply })
            }
            Proto::Sctp => {
                let socket = open_raw(Family::of(probe.to), sctp::PROTOCOL)?;
                let [a, b, c, d, e, f, ..] = bits.to_le_bytes();
                // Above the well-known ports, and a tag is never zero.
                let port = u16::from_le_bytes([a, b]) | 0x8000;
                let tag = u32::from_le_bytes([c, d, e, f]) | 1;
                let request = sctp::init(port, probe.port, tag);
                (socket, request, Reads::Sctp { v4, port, tag })
            }
            Proto::Other(protocol) => {
                let socket = open_raw(Family::of(probe.to), protocol)?;
                (socket, [QUESTION, &token].concat(), Reads::Marked { v4 })
            }
            Proto::Tcp => unreachable!("TCP has a socket of its own"),
        };
        if let Some(source) = probe.source {
            bind(&socket, &SocketAddr::new(source, 0))?;
        }
        let port = if probe.proto == Proto::Udp {
            probe.port
        } else {
            0
        };
        connect(&socket, &SocketAddr::new(probe.to, port))?;
        let socket = UdpSocket::from(socket);
        socket.send(&request)?;
        let interval_ns = duration_ns(probe.timeout) / SENDS;
        Ok(Datagram {
            socket,
            request,
            reads,
            resend_ns: now_ns() + interval_ns,
            interval_ns,
        })
    }

    /// Waits for the next event and handles all that are there.
    fn step(&mut self) -> Result<()> {
        let wake_ns = self.flying.iter().map(Flight::wake_ns).min();
        // Taken before the poll: an answer that is there when we come late wins.
        let before_ns = now_ns();
        let wait = Duration::from_nanos(wake_ns.unwrap_or(before_ns).saturating_sub(before_ns));
        let mut fds: Vec<PollFd<'_>> = self.flying.iter().map(Flight::poll_fd).collect();
        let timeout = Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("poll of the probes' sockets"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let flying = std::mem::take(&mut self.flying);
        for (flight, ready) in flying.into_iter().zip(ready) {
            let index = flight.index;
            match flight.advance(ready, before_ns) {
                Ok(flight) => self.flying.push(flight),
                Err(outcome) => self.outcomes[index] = Some(outcome),
            }
        }
        Ok(())
    }
}

impl Flight {
    fn wake_ns(&self) -> u64 {
        match &self.state {
            State::Datagram(datagram) => self.deadline_ns.min(datagram.resend_ns),
            State::Connecting(_) | State::Greeting(..) => self.deadline_ns,
        }
    }

    fn poll_fd(&self) -> PollFd<'_> {
        match &self.state {
            State::Connecting(socket) => PollFd::new(socket, PollFlags::OUT),
            State::Greeting(stream, _) => PollFd::new(stream, PollFlags::IN),
            State::Datagram(datagram) => PollFd::new(&datagram.socket, PollFlags::IN),
        }
    }

    /// The flight as it goes on, or its outcome.
    fn advance(mut self, ready: bool, now_ns: u64) -> Result<Self, Outcome> {
        if ready {
            self.state = match self.state {
                State::Connecting(socket) => {
                    // Who was let in is waited for: the server may be held up.
                    self.deadline_ns = now_ns.saturating_add(duration_ns(GREETING));
                    connected(socket)?
                }
                State::Greeting(stream, banner) => greeted(stream, banner)?,
                State::Datagram(datagram) => {
                    datagram.read()?;
                    State::Datagram(datagram)
                }
            };
        } else if now_ns >= self.deadline_ns {
            return Err(match self.state {
                State::Greeting(..) => {
                    Outcome::Error("the handshake completed, the banner never came".into())
                }
                State::Connecting(_) | State::Datagram(_) => Outcome::TimedOut,
            });
        }
        if let State::Datagram(datagram) = &mut self.state
            && now_ns >= datagram.resend_ns
        {
            datagram.resend_ns = now_ns + datagram.interval_ns;
            // An error that the network sent is read and judged as an answer.
            if let Err(error) = datagram.socket.send(&datagram.request) {
                return Err(outcome_of(&error));
            }
        }
        Ok(self)
    }
}

impl Datagram {
    /// Reads what came; the outcome is the error, as it ends the flight.
    fn read(&self) -> Result<(), Outcome> {
        let mut buffer = [0; 2048];
        loop {
            let answer = match self.socket.recv(&mut buffer) {
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(outcome_of(&error)),
            };
            match self.reads {
                Reads::Echo => {
                    if let Some(banner) = answer.strip_prefix(self.request.as_slice()) {
                        return Err(Outcome::Connected(text(banner)));
                    }
                }
                Reads::Marked { v4 } => {
                    let token = &self.request[QUESTION.len()..];
                    let banner = without_ip_header(v4, answer)
                        .strip_prefix(ANSWER)
                        .and_then(|body| body.strip_prefix(token));
                    if let Some(banner) = banner {
                        return Err(Outcome::Connected(text(banner)));
                    }
                }
                Reads::Icmp { reply } => {
                    let token = &self.request[ICMP_HEADER..];
                    if answer.first() == Some(&reply) && answer.get(ICMP_HEADER..) == Some(token) {
                        return Err(Outcome::Connected(String::new()));
                    }
                }
                Reads::Sctp { v4, port, tag } => {
                    let packet = sctp::parse(without_ip_header(v4, answer));
                    if let Some(packet) = packet.filter(|p| p.destination == port && p.tag == tag) {
                        match packet.chunk {
                            Chunk::InitAck { cookie } => {
                                return Err(Outcome::Connected(text(&cookie)));
                            }
                            Chunk::Abort => return Err(Outcome::Refused),
                            Chunk::Init { .. } | Chunk::Other => {}
                        }
                    }
                }
            }
        }
    }
}

fn open_tcp(probe: &Probe) -> io::Result<State> {
    let family = if probe.to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let tcp: Option<Protocol> = Some(ipproto::TCP);
    let socket = socket_with(family, SocketType::STREAM, flags, tcp)?;
    // Closing resets: a probe leaves neither TIME-WAIT nor lingering segments.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    if let Some(source) = probe.source {
        bind(&socket, &SocketAddr::new(source, 0))?;
    }
    match connect(&socket, &SocketAddr::new(probe.to, probe.port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(State::Connecting(socket)),
        Err(error) => Err(error.into()),
    }
}

fn connected(socket: OwnedFd) -> Result<State, Outcome> {
    let failed = |error: Errno| outcome_of(&error.into());
    sockopt::socket_error(socket.as_fd())
        .map_err(failed)?
        .map_err(failed)?;
    greeted(TcpStream::from(socket), Vec::new())
}

fn greeted(mut stream: TcpStream, mut banner: Vec<u8>) -> Result<State, Outcome> {
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(Outcome::Error("closed before the banner came".into())),
            Ok(length) => banner.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(State::Greeting(stream, banner));
            }
            Err(error) => return Err(Outcome::Error(format!("before the banner: {error}"))),
        }
        if let Some(line) = banner.strip_suffix(b"\n") {
            return Err(Outcome::Connected(text(line)));
        }
    }
}

fn outcome_of(error: &io::Error) -> Outcome {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // Protocol unreachable of ICMP, and what ICMPv6 says to the same.
        Some(Errno::CONNREFUSED | Errno::NOPROTOOPT | Errno::PROTO) => Outcome::Refused,
        Some(Errno::TIMEDOUT) => Outcome::TimedOut,
        _ => Outcome::Error(error.to_string()),
    }
}

/// Errors that say nothing about the network but that the test cannot go on.
fn is_local_trouble(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(
            Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::NOBUFS
                | Errno::PERM
                | Errno::ACCESS
                | Errno::AFNOSUPPORT
                | Errno::PROTONOSUPPORT
        )
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

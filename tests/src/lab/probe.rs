//! Asks whether one host reaches another: single probes and whole matrices.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::host::{Family, Host};
use super::netns::on_own_thread;
use super::probe_engine::Engine;

/// How long silence lasts before it counts as such. Round trips take well below
/// a millisecond; the rest is for a loaded machine.
const TIMEOUT: Duration = Duration::from_millis(400);

/// What a probe sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// A TCP connection.
    Tcp,
    /// A datagram that is answered.
    Udp,
    /// An INIT that is answered, from a raw socket: the kernel needs no SCTP.
    Sctp,
    /// An echo request of ICMP or ICMPv6; the port does not matter.
    Icmp,
    /// A packet of another protocol of IP that is answered; no port either.
    Other(u8),
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Udp => f.write_str("UDP"),
            Self::Sctp => f.write_str("SCTP"),
            Self::Icmp => f.write_str("ICMP"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// One question.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Who asks.
    pub from: Host,
    /// The source address, when it is not for the routing table to choose.
    pub source: Option<IpAddr>,
    /// Whom.
    pub to: IpAddr,
    /// Destination port; unused by protocols without.
    pub port: u16,
    /// How.
    pub proto: Proto,
    /// When silence is an answer. Datagrams are sent three times in it.
    pub timeout: Duration,
}

impl Probe {
    /// A probe to any address.
    pub fn to_address(from: &Host, to: IpAddr, port: u16, proto: Proto) -> Self {
        Self {
            from: from.clone(),
            source: None,
            to,
            port,
            proto,
            timeout: TIMEOUT,
        }
    }

    /// A probe to a host of the lab.
    ///
    /// # Errors
    /// When that host has no address of the family.
    pub fn new(from: &Host, to: &Host, family: Family, port: u16, proto: Proto) -> Result<Self> {
        Ok(Self::to_address(from, to.address(family)?, port, proto))
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.name(), self.to);
        match self.proto {
            Proto::Icmp | Proto::Other(_) => write!(f, "{from} -> {to} {}", self.proto),
            Proto::Tcp | Proto::Udp | Proto::Sctp => {
                write!(f, "{from} -> {to} {}/{}", self.port, self.proto)
            }
        }
    }
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server's banner came back. The kernel's echo replies have none.
    Connected(String),
    /// Nothing came back: what a denied packet looks like.
    TimedOut,
    /// The host answered that nobody listens (RST, ICMP unreachable, ABORT).
    Refused,
    /// Anything else, such as a router's error or a connection without banner.
    Error(String),
}

impl Outcome {
    /// Whether the server was reached and its answer came back.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(banner) if banner.is_empty() => f.write_str("connected"),
            Self::Connected(banner) => write!(f, "connected ({banner})"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Refused => f.write_str("refused"),
            Self::Error(error) => write!(f, "error: {error}"),
        }
    }
}

/// Asks one question.
///
/// # Errors
/// When the probe cannot be made at all; see [`matrix`].
pub fn probe(probe: &Probe) -> Result<Outcome> {
    let outcomes = matrix(std::slice::from_ref(probe))?;
    outcomes
        .into_iter()
        .next()
        .context("a matrix of one has one outcome")
}

/// Asks many questions at once; the outcomes are in the order of the probes.
/// Hundreds take little more than the timeout of those that stay unanswered.
///
/// # Errors
/// When sockets cannot be opened at all; what the network says to a probe is
/// that probe's [`Outcome`].
pub fn matrix(probes: &[Probe]) -> Result<Vec<Outcome>> {
    // The thread wanders through the namespaces and ends there.
    on_own_thread(|| Engine::new(probes).run())
}

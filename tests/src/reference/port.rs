//! Protocols and the entries of a rule's `ports` list (semantics 5 and 6).

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::json::{self, NotUnderstood};
use super::object::Pod;

/// An IP protocol, by its number in the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP over IPv4; a probe means an echo request.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP over IPv6; a probe means an echo request.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// Whether policies know ports of this protocol.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// The API's three names; anything else is not understood.
    fn from_policy(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::TCP),
            "UDP" => Some(Self::UDP),
            "SCTP" => Some(Self::SCTP),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => out.write_str("ICMP"),
            Self::TCP => out.write_str("TCP"),
            Self::UDP => out.write_str("UDP"),
            Self::ICMPV6 => out.write_str("ICMPv6"),
            Self::SCTP => out.write_str("SCTP"),
            Self(number) => write!(out, "{number}"),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = [Self::ICMP, Self::TCP, Self::UDP, Self::ICMPV6, Self::SCTP]
            .into_iter()
            .find(|protocol| protocol.to_string() == text);
        named
            .or_else(|| text.parse().ok().map(Self))
            .ok_or_else(|| {
                format!(
                    "protocol {text:?}: write TCP, UDP, SCTP, ICMP, ICMPv6 or a number up to 255"
                )
            })
    }
}

/// One entry of a rule's `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortEntry {
    pub(super) protocol: Protocol,
    pub(super) ports: Ports,
}

/// Which destination ports an entry matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// No `port` written: every port of the protocol.
    Every,
    /// `port`, or `port` to `endPort`, both included.
    Range(u16, u16),
    /// A name, resolved on the destination pod.
    Named(String),
}

impl PortEntry {
    /// Reads a NetworkPolicyPort object, with the API's defaults.
    pub(super) fn parse(value: &Value) -> Result<Self, NotUnderstood> {
        if !value.is_object() {
            return Err(NotUnderstood);
        }
        let protocol = match json::field(value, "protocol") {
            // Semantics 2: a bare `{}` entry is all TCP ports only.
            None => Protocol::TCP,
            Some(name) => name
                .as_str()
                .and_then(Protocol::from_policy)
                .ok_or(NotUnderstood)?,
        };
        let end = json::field(value, "endPort");
        let ports = match (json::field(value, "port"), end) {
            (None, None) => Ports::Every,
            (Some(Value::String(name)), None) if is_port_name(name) => Ports::Named(name.clone()),
            (Some(first), None) => {
                let first = port_number(first)?;
                Ports::Range(first, first)
            }
            (Some(first), Some(last)) => {
                let (first, last) = (port_number(first)?, port_number(last)?);
                if last < first {
                    return Err(NotUnderstood);
                }
                Ports::Range(first, last)
            }
            // Semantics 5: endPort needs a numeric port.
            (None, Some(_)) => return Err(NotUnderstood),
        };
        Ok(Self { protocol, ports })
    }

    /// Whether the entry matches a packet to this port of this pod.
    ///
    /// `port` is `None` for protocols without ports, which no entry matches (semantics 6).
    /// `destination` is the pod that holds the destination address; without one a name matches
    /// nothing (semantics 5).
    pub(super) fn matches(
        &self,
        protocol: Protocol,
        port: Option<u16>,
        destination: Option<&Pod>,
    ) -> bool {
        let Some(port) = port else {
            return false;
        };
        self.protocol == protocol
            && match &self.ports {
                Ports::Every => true,
                Ports::Range(first, last) => (*first..=*last).contains(&port),
                Ports::Named(name) => {
                    destination.is_some_and(|pod| pod.ports_named(name, protocol).contains(&port))
                }
            }
    }
}

fn port_number(value: &Value) -> Result<u16, NotUnderstood> {
    value
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or(NotUnderstood)
}

/// IANA service name: at most 15 of lower-case letters, digits and single inner hyphens, with a
/// letter among them. `"80"` is therefore not a name, and as a string not a number either.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

//! Questions: who connects to whom, on which port; and the one packet that a question means.
//!
//! A probe is written as the JSON line of the command line's `--probes` files:
//! `{"from","to","port","protocol","family"}`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde_json::{Value, json};

use super::block::parse_address;
use super::cluster::Cluster;
use super::json;
use super::port::Protocol;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A pod, by namespace and name. It stands for its address of the probe's family, and the
    /// packet is judged by whoever holds that address.
    Pod(String, String),
    /// An address, of anybody.
    Address(IpAddr),
}

/// The destination port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortSpec {
    /// For protocols without ports.
    None,
    /// A port number.
    Number(u16),
    /// The name of a port of the destination pod.
    Name(String),
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Who opens the connection.
    pub from: Who,
    /// To whom.
    pub to: Who,
    /// The destination port.
    pub port: PortSpec,
    /// The protocol.
    pub protocol: Protocol,
    /// 4 or 6; without it IPv4 if both ends have an IPv4 address, else IPv6.
    pub family: Option<u8>,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port, in host byte order; `None` exactly for protocols without ports.
    pub port: Option<u16>,
}

/// Why a probe is not a question about one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// No pod of that name (`namespace/name`) among the objects.
    UnknownPod(String),
    /// The ends have no address of the wanted family, or of any common one.
    NoCommonFamily,
    /// The family is not 4 or 6, or the protocol does not exist in it.
    Family,
    /// A port where the protocol has none, none where it has, or a name that the destination pod
    /// does not resolve to exactly one number.
    Port,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPod(name) => write!(out, "pod {name} is not among the objects"),
            Self::NoCommonFamily => out.write_str("the two ends have no address of one family"),
            Self::Family => out.write_str("the family is not 4 or 6, or not the protocol's"),
            Self::Port => out.write_str("the port does not fit the protocol or the destination"),
        }
    }
}

impl std::error::Error for ProbeError {}

impl Cluster {
    /// The packet that a probe means.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn packet(&self, probe: &Probe) -> Result<Packet, ProbeError> {
        let (sources, destinations) = (self.addresses(&probe.from)?, self.addresses(&probe.to)?);
        let (source, destination) = families(probe)?
            .iter()
            .find_map(|family| Some((pick(&sources, *family)?, pick(&destinations, *family)?)))
            .ok_or(ProbeError::NoCommonFamily)?;
        let port = match (&probe.port, probe.protocol.has_ports()) {
            (PortSpec::None, false) => None,
            (PortSpec::Number(number), true) => Some(*number),
            (PortSpec::Name(name), true) => Some(self.named_port(probe, destination, name)?),
            _ => return Err(ProbeError::Port),
        };
        Ok(Packet {
            source,
            destination,
            protocol: probe.protocol,
            port,
        })
    }

    fn addresses(&self, who: &Who) -> Result<Vec<IpAddr>, ProbeError> {
        match who {
            Who::Address(address) => Ok(vec![*address]),
            Who::Pod(namespace, name) => self
                .pods
                .get(&(namespace.clone(), name.clone()))
                .map(|pod| pod.addresses.clone())
                .ok_or_else(|| ProbeError::UnknownPod(who.to_string())),
        }
    }

    /// The number of the destination pod's port: of the pod that is named, else of the pod that
    /// holds the address.
    fn named_port(
        &self,
        probe: &Probe,
        destination: IpAddr,
        name: &str,
    ) -> Result<u16, ProbeError> {
        let pod = match &probe.to {
            Who::Pod(namespace, pod) => self.pods.get(&(namespace.clone(), pod.clone())),
            Who::Address(_) => self.pod_at(destination),
        };
        let mut numbers = match pod {
            Some(pod) => pod.ports_named(name, probe.protocol),
            None => self.service_ports(destination, name, probe.protocol),
        };
        numbers.sort_unstable();
        numbers.dedup();
        match numbers[..] {
            [number] => Ok(number),
            _ => Err(ProbeError::Port),
        }
    }
}

/// The families to try, in order.
fn families(probe: &Probe) -> Result<&'static [u8], ProbeError> {
    let of_protocol: &[u8] = match probe.protocol {
        Protocol::ICMP => &[4],
        Protocol::ICMPV6 => &[6],
        _ => &[4, 6],
    };
    match probe.family {
        None => Ok(of_protocol),
        Some(4) if of_protocol.contains(&4) => Ok(&[4]),
        Some(6) if of_protocol.contains(&6) => Ok(&[6]),
        Some(_) => Err(ProbeError::Family),
    }
}

fn pick(addresses: &[IpAddr], family: u8) -> Option<IpAddr> {
    let ipv4 = family == 4;
    addresses.iter().copied().find(|a| a.is_ipv4() == ipv4)
}

impl Probe {
    /// The probe as the object of one JSON line.
    pub fn to_json(&self) -> Value {
        let port = match &self.port {
            PortSpec::None => Value::Null,
            PortSpec::Number(number) => json!(number),
            PortSpec::Name(name) => json!(name),
        };
        json!({
            "from": self.from.to_string(),
            "to": self.to.to_string(),
            "port": port,
            "protocol": self.protocol.to_string(),
            "family": self.family,
        })
    }

    /// Reads the object of one JSON line; a missing protocol is TCP.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let end = |name: &str| -> Result<Who, String> {
            json::text(value, name)
                .ok_or_else(|| format!("{name}: missing"))?
                .parse()
        };
        let port = match json::field(value, "port") {
            None => PortSpec::None,
            Some(Value::String(name)) => PortSpec::Name(name.clone()),
            Some(number) => number
                .as_u64()
                .and_then(|number| u16::try_from(number).ok())
                .map(PortSpec::Number)
                .ok_or_else(|| format!("port: {number} is neither a port number nor a name"))?,
        };
        let family = match json::field(value, "family").map(Value::as_u64) {
            None => None,
            Some(Some(4)) => Some(4),
            Some(Some(6)) => Some(6),
            Some(_) => return Err("family: write 4 or 6".to_owned()),
        };
        Ok(Self {
            from: end("from")?,
            to: end("to")?,
            port,
            protocol: json::text(value, "protocol").unwrap_or("TCP").parse()?,
            family,
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(namespace, name) => write!(out, "{namespace}/{name}"),
            Self::Address(address) => write!(out, "{address}"),
        }
    }
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) => Ok(Self::Pod(namespace.to_owned(), name.to_owned())),
            None => parse_address(text)
                .map(Self::Address)
                .ok_or_else(|| format!("{text:?} is neither namespace/pod nor an address")),
        }
    }
}

/// `FROM > TO PORT/PROTOCOL`, or `FROM > TO PROTOCOL` without a port, and ` v4` or ` v6` behind it.
impl FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (from, to, service, family) = match words[..] {
            [from, ">", to, service] => (from, to, service, None),
            [from, ">", to, service, "v4"] => (from, to, service, Some(4)),
            [from, ">", to, service, "v6"] => (from, to, service, Some(6)),
            _ => return Err(format!("{text:?}: write FROM > TO PORT/PROTOCOL [v4|v6]")),
        };
        let (port, protocol) = match service.split_once('/') {
            None => (PortSpec::None, service),
            Some((port, protocol)) => match port.parse() {
                Ok(number) => (PortSpec::Number(number), protocol),
                Err(_) => (PortSpec::Name(port.to_owned()), protocol),
            },
        };
        Ok(Self {
            from: from.parse()?,
            to: to.parse()?,
            port,
            protocol: protocol.parse()?,
            family,
        })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} > {} ", self.from, self.to)?;
        match &self.port {
            PortSpec::None => write!(out, "{}", self.protocol)?,
            PortSpec::Number(number) => write!(out, "{number}/{}", self.protocol)?,
            PortSpec::Name(name) => write!(out, "{name}/{}", self.protocol)?,
        }
        match self.family {
            None => Ok(()),
            Some(family) => write!(out, " v{family}"),
        }
    }
}

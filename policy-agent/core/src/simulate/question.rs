//! Questions, and the one packet that each means.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use policy_common::abi::protocol;

use crate::desired::PodRef;
use crate::model::{Pod, Protocol, Service};
use crate::store::Store;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// A pod: it stands for its address of the question's family.
    Pod(PodRef),
    /// An address, of anybody: a pod, a node, a Service, the outside.
    Address(IpAddr),
}

/// A destination port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Port {
    /// This one.
    Number(u16),
    /// The destination's port of this name: a pod's or a Service's.
    Name(Arc<str>),
    /// The protocol has none.
    None,
}

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// May this connection be opened?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Who opens it.
    pub from: Who,
    /// To whom.
    pub to: Who,
    /// On which port.
    pub port: Port,
    /// By which protocol, by its IANA number.
    pub protocol: u8,
    /// IP version; without it IPv4 if both ends have an IPv4 address, else IPv6.
    pub family: Option<Family>,
}

/// Why a question is not about one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuestionError {
    /// There is no such pod.
    UnknownPod(PodRef),
    /// The ends have no address of one IP version, or not of the one asked for.
    NoCommonFamily {
        /// Who opens.
        from: Who,
        /// To whom.
        to: Who,
        /// The one asked for.
        family: Option<Family>,
    },
    /// The protocol does not exist in the IP version.
    ProtocolFamily(Family),
    /// The protocol needs a port.
    PortMissing,
    /// The protocol has no ports.
    NoPorts,
    /// The destination has no port of this name.
    UnknownPort(Arc<str>, Who),
    /// The name stands for several numbers at the destination.
    AmbiguousPort(Arc<str>, Who),
}

impl std::error::Error for QuestionError {}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPod(pod) => write!(f, "there is no pod {pod}"),
            Self::NoCommonFamily { from, to, family } => match family {
                None => write!(f, "{from} and {to} have no address of one IP version"),
                Some(family) => write!(f, "{from} and {to} do not both have an {family} address"),
            },
            Self::ProtocolFamily(family) => write!(
                f,
                "the protocol does not exist in {family}: ICMP is IPv4's, ICMPv6 is IPv6's"
            ),
            Self::PortMissing => f.write_str("the protocol needs a port: give its number or name"),
            Self::NoPorts => f.write_str("the protocol has no ports: leave the port out"),
            Self::UnknownPort(name, to) => write!(
                f,
                "{to} has no port named {name:?} of this protocol: give the number"
            ),
            Self::AmbiguousPort(name, to) => {
                write!(f, "{to} has several ports named {name:?}: give the number")
            }
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// From.
    pub source: IpAddr,
    /// To, of the same IP version.
    pub destination: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// Destination port, host byte order; 0 for protocols without.
    pub port: u16,
}

impl Question {
    /// The packet that opens the connection.
    ///
    /// # Errors
    /// If the question does not say which packet; each error says what to ask
    /// instead.
    pub fn packet(&self, store: &Store) -> Result<Packet, QuestionError> {
        let (sources, destinations) = (addresses(store, &self.from)?, addresses(store, &self.to)?);
        let pick = |addresses: &[IpAddr], family| {
            let mut addresses = addresses.iter().copied();
            addresses.find(|address| Family::of(*address) == family)
        };
        let (source, destination) = self
            .families()?
            .iter()
            .find_map(|family| Some((pick(&sources, *family)?, pick(&destinations, *family)?)))
            .ok_or_else(|| QuestionError::NoCommonFamily {
                from: self.from.clone(),
                to: self.to.clone(),
                family: self.family,
            })?;
        Ok(Packet {
            source,
            destination,
            protocol: self.protocol,
            port: self.port_number(store, destination)?,
        })
    }

    /// The IP versions to try, in order.
    fn families(&self) -> Result<&'static [Family], QuestionError> {
        let of_protocol: &[Family] = match self.protocol {
            protocol::ICMP => &[Family::V4],
            protocol::ICMPV6 => &[Family::V6],
            _ => &[Family::V4, Family::V6],
        };
        match self.family {
            None => Ok(of_protocol),
            Some(family) if !of_protocol.contains(&family) => {
                Err(QuestionError::ProtocolFamily(family))
            }
            Some(Family::V4) => Ok(&[Family::V4]),
            Some(Family::V6) => Ok(&[Family::V6]),
        }
    }

    fn port_number(&self, store: &Store, destination: IpAddr) -> Result<u16, QuestionError> {
        let protocol = Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.number() == self.protocol);
        let Some(protocol) = protocol else {
            return match self.port {
                Port::None => Ok(0),
                Port::Number(_) | Port::Name(_) => Err(QuestionError::NoPorts),
            };
        };
        let name = match &self.port {
            Port::None => return Err(QuestionError::PortMissing),
            Port::Number(number) => return Ok(*number),
            Port::Name(name) => name,
        };
        let pod: Option<&Arc<Pod>> = match &self.to {
            Who::Pod(pod) => store.pod(pod),
            Who::Address(_) => store.owner(destination).and_then(|owner| store.pod(owner)),
        };
        let ports = pod.iter().flat_map(|pod| &pod.ports);
        let mut numbers: Vec<u16> = ports
            .filter(|port| port.protocol == protocol && port.name == *name)
            .map(|port| port.port)
            .collect();
        if pod.is_none() {
            let has = |service: &&Arc<Service>| {
                let mut all = service.cluster_ips.iter().chain(&service.external_ips);
                all.any(|address| *address == destination)
            };
            let ports = store.services().values().filter(has).flat_map(|s| &s.ports);
            let named = ports.filter(|p| p.protocol == protocol && p.name == *name);
            numbers.extend(named.map(|port| port.port));
        }
        numbers.sort_unstable();
        numbers.dedup();
        match numbers[..] {
            [number] => Ok(number),
            [] => Err(QuestionError::UnknownPort(name.clone(), self.to.clone())),
            [..] => Err(QuestionError::AmbiguousPort(name.clone(), self.to.clone())),
        }
    }
}

fn addresses(store: &Store, who: &Who) -> Result<Vec<IpAddr>, QuestionError> {
    match who {
        Who::Address(address) => Ok(vec![*address]),
        Who::Pod(key) => match store.pod(key) {
            Some(pod) => Ok(pod.addresses().collect()),
            None => Err(QuestionError::UnknownPod(key.clone())),
        },
    }
}

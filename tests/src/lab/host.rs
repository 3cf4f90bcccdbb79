//! One host of the lab: a namespace with a name, addresses and an interface.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::netns::Netns;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both versions.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The version of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// An Ethernet address, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations of a link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The group address to which `group`, an IPv6 multicast address, is sent
    /// (RFC 2464 section 7).
    pub fn of_multicast(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }

    /// Reads `02:00:5e:00:00:01`.
    fn parse(text: &str) -> Option<Self> {
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok())
            .collect::<Option<_>>()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// A locally administered unicast address made of 40 bits of `seed`.
    pub(crate) fn local(seed: u64) -> Self {
        let [a, b, c, d, e, ..] = seed.to_le_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A pod, the node or an outside host. Cloning it is cheap; a clone that
/// outlives its lab names a namespace without links.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) netns: Netns,
    pub(crate) interface: String,
    pub(crate) node_interface: Option<String>,
    pub(crate) mac: Mac,
    pub(crate) gateway_mac: Option<Mac>,
}

impl Host {
    pub(crate) fn new(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A pod that the lab did not make, by a file of its network namespace; its
    /// interface is `eth0`, as container runtimes name it.
    ///
    /// # Errors
    /// When there is no such namespace, or no such interface in it.
    pub fn of_runtime(name: &str, netns: &Path, v4: Ipv4Addr) -> Result<Self> {
        Self::of_namespace(name, netns, "eth0", v4)
    }

    /// Anybody that the lab did not make, by a file of its network namespace.
    ///
    /// # Errors
    /// When there is no such namespace, or no such interface in it.
    pub fn of_namespace(name: &str, netns: &Path, interface: &str, v4: Ipv4Addr) -> Result<Self> {
        let netns = Netns::open(netns)?;
        let mut ip = Command::new("ip");
        ip.args(["-json", "link", "show", interface]);
        let output = netns.output(&mut ip)?;
        let links: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{name} has no interface {interface}"))?;
        let mac = links[0]["address"].as_str().and_then(Mac::parse);
        Ok(Self::new(Inner {
            name: name.to_owned(),
            v4: Some(v4),
            v6: None,
            netns,
            interface: interface.to_owned(),
            node_interface: None,
            mac: mac.with_context(|| format!("{interface} of {name} has no Ethernet address"))?,
            gateway_mac: None,
        }))
    }

    /// `namespace/name` of a pod, else the name it was given.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The IPv4 address, if it has one.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.inner.v4
    }

    /// The IPv6 address, if it has one.
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.inner.v6
    }

    /// The address of one family.
    ///
    /// # Errors
    /// When the host has none.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        match family {
            Family::V4 => self.inner.v4.map(IpAddr::V4),
            Family::V6 => self.inner.v6.map(IpAddr::V6),
        }
        .with_context(|| format!("{} has no address of {family:?}", self.name()))
    }

    /// All addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let v4 = self.inner.v4.map(IpAddr::V4);
        v4.into_iter()
            .chain(self.inner.v6.map(IpAddr::V6))
            .collect()
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// The interface inside the namespace through which all traffic goes.
    pub fn interface(&self) -> &str {
        &self.inner.interface
    }

    /// Of a pod, the other end of its veth pair in the node's namespace.
    pub fn node_interface(&self) -> Option<&str> {
        self.inner.node_interface.as_deref()
    }

    /// The Ethernet address of [`Host::interface`].
    pub fn mac(&self) -> Mac {
        self.inner.mac
    }

    /// Of a pod, the Ethernet address of its gateway.
    pub fn gateway_mac(&self) -> Option<Mac> {
        self.inner.gateway_mac
    }

    /// Index of one of its interfaces.
    pub(crate) fn interface_index(&self, name: &str) -> Result<u32> {
        self.netns()
            .run(|| -> Result<u32> {
                let socket = rustix::net::socket(
                    rustix::net::AddressFamily::INET,
                    rustix::net::SocketType::DGRAM,
                    None,
                )?;
                Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
            })?
            .with_context(|| format!("index of {name} in {}", self.name()))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name(), self.addresses())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_address_reads_as_it_is_written() {
        let mac = Mac([0x02, 0, 0x5e, 0, 0xff, 1]);
        assert_eq!(Mac::parse(&mac.to_string()), Some(mac));
        for wrong in [
            "02:00:5e:00:ff",
            "02:00:5e:00:ff:01:02",
            "02:00:5e:00:ff:xx",
        ] {
            assert_eq!(Mac::parse(wrong), None, "{wrong}");
        }
    }
}

//! What was seen of the node's interfaces at one moment, as plain data.
//!
//! Filled by [`Scanner`](super::Scanner), read by [`assign`](super::assign())
//! and by whoever needs the node's own addresses. It may be old; nothing here
//! asks the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
};

use super::netns_dir::NetnsProblem;

/// The number by which the agent's network namespace calls another one.
///
/// It stays the same as long as that namespace lives, and is given to another
/// namespace afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nsid(pub u32);

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nsid {}", self.0)
    }
}

/// What the kernel calls the kind of a link (`IFLA_INFO_KIND`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a virtual Ethernet pair.
    Veth,
    /// One end of a netkit pair: leads to a pod as a veth does, takes other programs.
    Netkit,
    /// A bridge.
    Bridge,
    /// Another kind of virtual device, by the kernel's name for it.
    Other(String),
    /// No kind: hardware and loopback.
    Plain,
}

/// Where the other end of a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The link has none.
    None,
    /// In the agent's network namespace, with this interface index.
    Here(u32),
    /// In another network namespace.
    Elsewhere {
        /// Which.
        namespace: Nsid,
        /// The interface index there.
        index: u32,
    },
    /// In a namespace that has no number: it is being destroyed.
    Unknown,
}

/// One interface of the agent's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name; for people only, it may change and be reused.
    pub name: String,
    /// Kind of device.
    pub kind: LinkKind,
    /// The other end.
    pub peer: Peer,
    /// Index of the bridge, bond or VRF the interface belongs to.
    pub master: Option<u32>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
}

impl Link {
    /// Namespace and index of the other end, for the two kinds of pairs that
    /// lead to pods.
    pub fn foreign_peer(&self) -> Option<(Nsid, u32)> {
        match (&self.kind, self.peer) {
            (LinkKind::Veth | LinkKind::Netkit, Peer::Elsewhere { namespace, index }) => {
                Some((namespace, index))
            }
            _ => None,
        }
    }
}

/// What an address can be used for, by its value (RFC 6890, RFC 4291).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressClass {
    /// May be a pod's or a node's address; private ranges included.
    Global,
    /// 169.254.0.0/16 and fe80::/10: means nothing beyond its link.
    LinkLocal,
    /// 127.0.0.0/8 and ::1.
    Loopback,
    /// Unspecified, multicast or broadcast: nobody's address.
    Other,
}

impl AddressClass {
    /// The class of `address`; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_loopback() {
            Self::Loopback
        } else if link_local {
            Self::LinkLocal
        } else if address.is_unspecified() || address.is_multicast() || broadcast {
            Self::Other
        } else {
            Self::Global
        }
    }
}

/// An address of an interface in the agent's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// Index of the interface that has it.
    pub interface: u32,
    /// Prefix length in bits.
    pub prefix_len: u8,
    /// What it can be used for.
    pub class: AddressClass,
}

/// The addresses found where a link leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerAddresses {
    /// Of the peer interface itself, all classes, sorted.
    pub on_peer: Vec<IpAddr>,
    /// Of the other interfaces in the peer's namespace, sorted. Read only when
    /// the peer has no global address: a pod may have its address on a bridge
    /// that the peer belongs to, or on a dummy.
    pub beside: Vec<IpAddr>,
}

/// What is known about the far end of a veth whose peer is in another
/// namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// Its addresses, possibly none yet.
    Addresses(PeerAddresses),
    /// The kernel refused: the namespace belongs to a user namespace in which
    /// the agent has no CAP_NET_ADMIN.
    Denied,
    /// It changed while it was read; the next scan tells.
    Unsettled,
    /// It has more addresses than are read, or they never rest, and nothing was
    /// known of it before.
    Excessive,
    /// Not asked: the namespace is not in the folder given by `--netns-dir`.
    Filtered,
}

/// The interfaces of the agent's network namespace and what is behind them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// All links, by interface index.
    pub links: BTreeMap<u32, Link>,
    /// All addresses of all links, sorted: also of bridges and gateways, also
    /// loopback and link-local ones.
    pub own_addresses: Vec<OwnAddress>,
    /// For every veth (or netkit) whose peer is in another namespace, by
    /// interface index.
    pub behind: BTreeMap<u32, Behind>,
    /// Links behind which are more addresses than are read, or addresses that
    /// never rest: of these, `behind` is what was known before.
    pub excessive: BTreeSet<u32>,
    /// With `--netns-dir`: the namespaces of the folder that are linked with
    /// the agent's, and the files that stand for them.
    pub named_namespaces: Option<BTreeMap<Nsid, BTreeSet<PathBuf>>>,
    /// Files in the folder that could not be resolved.
    pub problems: Vec<NetnsProblem>,
}

impl Snapshot {
    /// The addresses by which others can reach this node, without duplicates.
    pub fn node_addresses(&self) -> BTreeSet<IpAddr> {
        self.own_addresses
            .iter()
            .filter(|own| own.class == AddressClass::Global)
            .map(|own| own.address)
            .collect()
    }

    /// The addresses behind the link `index`, if they could be read.
    pub fn behind(&self, index: u32) -> Option<&PeerAddresses> {
        match self.behind.get(&index) {
            Some(Behind::Addresses(addresses)) => Some(addresses),
            Some(Behind::Denied | Behind::Unsettled | Behind::Excessive | Behind::Filtered)
            | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_classified_by_value() {
        let expect = [
            ("10.1.2.3", AddressClass::Global),
            ("192.168.0.1", AddressClass::Global),
            ("fd00::1", AddressClass::Global),
            ("2001:db8::1", AddressClass::Global),
            ("::ffff:10.0.0.1", AddressClass::Global),
            ("169.254.1.1", AddressClass::LinkLocal),
            ("::ffff:169.254.1.1", AddressClass::LinkLocal),
            ("fe80::1", AddressClass::LinkLocal),
            ("febf::1", AddressClass::LinkLocal),
            ("127.0.0.53", AddressClass::Loopback),
            ("::1", AddressClass::Loopback),
            ("0.0.0.0", AddressClass::Other),
            ("::", AddressClass::Other),
            ("224.0.0.1", AddressClass::Other),
            ("ff02::1", AddressClass::Other),
            ("255.255.255.255", AddressClass::Other),
        ];
        for (address, class) in expect {
            let parsed = address.parse().expect("a literal address");
            assert_eq!(AddressClass::of(parsed), class, "{address}");
        }
    }

    #[test]
    fn only_pairs_that_leave_the_namespace_have_a_foreign_peer() {
        let away = Peer::Elsewhere {
            namespace: Nsid(0),
            index: 2,
        };
        let link = |kind: LinkKind, peer| Link {
            index: 7,
            name: "x".into(),
            kind,
            peer,
            master: None,
            up: true,
        };
        assert_eq!(
            link(LinkKind::Veth, away).foreign_peer(),
            Some((Nsid(0), 2))
        );
        assert_eq!(
            link(LinkKind::Netkit, away).foreign_peer(),
            Some((Nsid(0), 2))
        );
        let vlan = LinkKind::Other("vlan".into());
        assert_eq!(link(vlan, away).foreign_peer(), None);
        assert_eq!(link(LinkKind::Veth, Peer::Here(8)).foreign_peer(), None);
        assert_eq!(link(LinkKind::Veth, Peer::Unknown).foreign_peer(), None);
    }
}

//! Operations as keys and values of maps, and in words.
//!
//! Each function takes one kind of operation and gives `None` for every other:
//! `apply` calls it with a run of that kind.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use policy_common::abi::{
    config::{FLAG_CIDR4, FLAG_CIDR6},
    identity::{Cidr4, Cidr6, FLAG_NODE, Id4, Id6, Identity, local},
    maps::PrefixKey,
    policy::{PolicyEntry, PolicyKey, PortSet},
    service::{Svc, SvcKey},
};
use policy_core::ops::Op;

/// A row.
pub(super) fn row(op: &Op) -> Option<(PolicyKey, PolicyEntry)> {
    let Op::Row { key, port_set } = op else {
        return None;
    };
    let entry = PolicyEntry {
        policy: key.policy,
        identity: key.identity,
        port_set: *port_set,
    };
    Some((*key, entry))
}

/// The key of a row to remove.
pub(super) fn deleted_row(op: &Op) -> Option<(PolicyKey, ())> {
    match op {
        Op::DeleteRow { key } => Some((*key, ())),
        _ => None,
    }
}

/// A port set.
pub(super) fn port_set(op: &Op) -> Option<(u32, PortSet)> {
    match op {
        Op::PortSet { id, value } => Some((*id, *value)),
        _ => None,
    }
}

/// The flags of an address: whether it is this node's own, and which slot's.
fn host_flags(node: bool, slot: u32) -> u32 {
    let node = if node { FLAG_NODE } else { 0 };
    let local = if slot == 0 { 0 } else { local(slot) };
    node | local
}

/// An address and port of a Service.
pub(super) fn service(op: &Op) -> Option<(SvcKey, Svc)> {
    match op {
        Op::Service { value } => Some((value.key, *value)),
        _ => None,
    }
}

/// The key of an address and port of a Service to remove.
pub(super) fn deleted_service(op: &Op) -> Option<(SvcKey, ())> {
    match op {
        Op::DeleteService { key } => Some((*key, ())),
        _ => None,
    }
}

/// The address of a Service's row.
pub(super) fn service_address(key: &SvcKey) -> IpAddr {
    Ipv6Addr::from(key.address).to_canonical()
}

/// An IPv4 address.
pub(super) fn host4(op: &Op) -> Option<([u8; 4], Id4)> {
    let Op::Host {
        address: IpAddr::V4(address),
        identity,
        node,
        slot,
    } = op
    else {
        return None;
    };
    let addr = address.octets();
    let flags = host_flags(*node, *slot);
    let identity = *identity;
    Some((
        addr,
        Id4 {
            addr,
            flags,
            identity,
        },
    ))
}

/// An IPv6 address.
pub(super) fn host6(op: &Op) -> Option<([u8; 16], Id6)> {
    let Op::Host {
        address: IpAddr::V6(address),
        identity,
        node,
        slot,
    } = op
    else {
        return None;
    };
    let addr = address.octets();
    let flags = host_flags(*node, *slot);
    let identity = *identity;
    Some((
        addr,
        Id6 {
            addr,
            flags,
            identity,
        },
    ))
}

/// The key of an IPv4 address to remove.
pub(super) fn deleted_host4(op: &Op) -> Option<([u8; 4], ())> {
    match op {
        Op::DeleteHost {
            address: IpAddr::V4(address),
        } => Some((address.octets(), ())),
        _ => None,
    }
}

/// The key of an IPv6 address to remove.
pub(super) fn deleted_host6(op: &Op) -> Option<([u8; 16], ())> {
    match op {
        Op::DeleteHost {
            address: IpAddr::V6(address),
        } => Some((address.octets(), ())),
        _ => None,
    }
}

/// The setting that says that there are prefixes of this family.
pub(super) fn cidr_flag(prefix: &IpNet) -> u32 {
    match prefix {
        IpNet::V4(_) => FLAG_CIDR4,
        IpNet::V6(_) => FLAG_CIDR6,
    }
}

/// The key of an IPv4 prefix: its host bits are zero.
pub(super) fn key4(prefix: &ipnet::Ipv4Net) -> PrefixKey<4> {
    PrefixKey {
        prefix_len: u32::from(prefix.prefix_len()),
        addr: prefix.network().octets(),
    }
}

/// The key of an IPv6 prefix.
pub(super) fn key6(prefix: &ipnet::Ipv6Net) -> PrefixKey<16> {
    PrefixKey {
        prefix_len: u32::from(prefix.prefix_len()),
        addr: prefix.network().octets(),
    }
}

fn value4(key: PrefixKey<4>, identity: Identity) -> Cidr4 {
    Cidr4 {
        addr: key.addr,
        prefix_len: key.prefix_len,
        identity,
    }
}

fn value6(key: PrefixKey<16>, identity: Identity) -> Cidr6 {
    Cidr6 {
        addr: key.addr,
        prefix_len: key.prefix_len,
        identity,
    }
}

/// An IPv4 prefix.
pub(super) fn prefix4(op: &Op) -> Option<(PrefixKey<4>, Cidr4)> {
    match op {
        Op::Prefix {
            prefix: IpNet::V4(prefix),
            identity,
        } => Some((key4(prefix), value4(key4(prefix), *identity))),
        _ => None,
    }
}

/// An IPv6 prefix.
pub(super) fn prefix6(op: &Op) -> Option<(PrefixKey<16>, Cidr6)> {
    match op {
        Op::Prefix {
            prefix: IpNet::V6(prefix),
            identity,
        } => Some((key6(prefix), value6(key6(prefix), *identity))),
        _ => None,
    }
}

/// The key of an IPv4 prefix to remove.
pub(super) fn deleted_prefix4(op: &Op) -> Option<(PrefixKey<4>, ())> {
    match op {
        Op::DeletePrefix {
            prefix: IpNet::V4(prefix),
        } => Some((key4(prefix), ())),
        _ => None,
    }
}

/// The key of an IPv6 prefix to remove.
pub(super) fn deleted_prefix6(op: &Op) -> Option<(PrefixKey<16>, ())> {
    match op {
        Op::DeletePrefix {
            prefix: IpNet::V6(prefix),
        } => Some((key6(prefix), ())),
        _ => None,
    }
}

/// An operation for a person.
pub(super) fn describe(op: &Op) -> String {
    match op {
        Op::Extent { start, intervals } => {
            format!(
                "write {} intervals from element {start} on",
                intervals.len()
            )
        }
        Op::PortSet { id, .. } => format!("write port set {id}"),
        Op::Row { key, .. } => {
            format!(
                "write the row of policy {} for identity {}",
                key.policy, key.identity
            )
        }
        Op::Host {
            address, identity, ..
        } => format!("give {address} identity {identity}"),
        Op::Prefix { prefix, identity } => format!("give {prefix} identity {identity}"),
        Op::Service { value } => {
            format!("write what is behind {}", service_name(&value.key))
        }
        Op::Endpoint { slot, .. } => format!("write endpoint slot {slot}"),
        Op::Interface { ifindex, slot } => format!("lead interface {ifindex} to slot {slot}"),
        Op::Attach { ifindex } => format!("attach to interface {ifindex}"),
        Op::LinkLocal { slot, address } => format!("store {address} in slot {slot}"),
        Op::Word { slot, .. } => format!("store the policy word of slot {slot}"),
        Op::Grace => "wait for a grace period".to_owned(),
        Op::DeleteRow { key } => {
            format!(
                "remove the row of policy {} for identity {}",
                key.policy, key.identity
            )
        }
        Op::DeleteHost { address } => format!("remove {address}"),
        Op::DeletePrefix { prefix } => format!("remove {prefix}"),
        Op::DeleteService { key } => format!("remove what is behind {}", service_name(key)),
        Op::Detach { ifindex } => format!("detach from interface {ifindex}"),
        Op::DeleteInterface { ifindex } => format!("lead interface {ifindex} nowhere"),
        Op::DeleteEndpoint { slot } => format!("empty endpoint slot {slot}"),
    }
}

/// A Service's address and port for a person.
fn service_name(key: &SvcKey) -> String {
    let address = SocketAddr::new(service_address(key), key.port);
    format!("{address} of protocol {}", key.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_keys_have_no_host_bits() {
        let prefix: ipnet::Ipv4Net = "10.1.2.3/8".parse().unwrap();
        assert_eq!(key4(&prefix).addr, [10, 0, 0, 0]);
    }
}

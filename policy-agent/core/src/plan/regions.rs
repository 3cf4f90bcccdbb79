//! Addresses that the kernel and the desired state each treat as one.
//!
//! A region belongs to an address or prefix that either of them names: the
//! addresses for which it is the longest in the union of both. All of a region
//! have one identity now and one class to be in. The addresses that nobody names
//! have identity 0 and are in [`ClassId::OTHER`], now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::abi::identity::{self, Identity};

use super::mirror::{HostRow, Mirror};
use crate::desired::{ClassId, DesiredState, HostSpec};

/// What names a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    Host(IpAddr),
    Prefix(IpNet),
}

/// A region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) place: Place,
    /// Its row in the kernel.
    pub(super) row: Option<HostRow>,
    /// What is desired for it by name.
    pub(super) want: Option<HostSpec>,
    /// The identity of its addresses now.
    pub(super) identity: Identity,
    /// The class they must be in.
    pub(super) class: ClassId,
    /// The slot of the pod of this node whose address it is, if its egress is to
    /// be isolated; else 0.
    pub(super) slot: u32,
}

/// Addresses of pods of this node whose egress is to be isolated, with their
/// slots: each has a row, whatever its class, so that its packets are known for
/// the pod's where they leave.
pub(super) type Locals = BTreeMap<IpAddr, u32>;

/// Something for each prefix, and the longest prefix of an address.
#[derive(Debug, Clone)]
pub(super) struct Prefixes<T> {
    values: BTreeMap<IpNet, T>,
    /// Lengths, longest first, IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
}

impl<T: Copy> Prefixes<T> {
    pub(super) fn new(values: BTreeMap<IpNet, T>) -> Self {
        let mut lengths: [BTreeSet<u8>; 2] = Default::default();
        for prefix in values.keys() {
            lengths[usize::from(prefix.addr().is_ipv6())].insert(prefix.prefix_len());
        }
        let lengths = lengths.map(|lengths| lengths.into_iter().rev().collect());
        Self { values, lengths }
    }

    /// Of the longest prefix of the address.
    pub(super) fn of_address(&self, address: IpAddr) -> Option<T> {
        self.find(address, u8::MAX)
    }

    /// Of the longest prefix around the prefix and not the prefix itself.
    pub(super) fn around(&self, prefix: &IpNet) -> Option<T> {
        let below = prefix.prefix_len().checked_sub(1)?;
        self.find(prefix.addr(), below)
    }

    fn find(&self, address: IpAddr, most: u8) -> Option<T> {
        let lengths = self.lengths[usize::from(address.is_ipv6())].iter();
        lengths.filter(|length| **length <= most).find_map(|len| {
            let prefix = IpNet::new(address, *len).ok()?;
            self.values.get(&prefix.trunc()).copied()
        })
    }
}

/// Every region: addresses first, then prefixes, longest first. In this order a
/// row can be written without changing what another region falls back on.
pub(super) fn regions(mirror: &Mirror, desired: &DesiredState, locals: &Locals) -> Vec<Region> {
    let old = Prefixes::new(mirror.prefixes.clone());
    let new = Prefixes::new(desired.prefixes.clone());
    let mut regions = Vec::with_capacity(mirror.hosts.len() + desired.prefixes.len());
    let mut host = |address: IpAddr, row: Option<&HostRow>, want: Option<&HostSpec>, slot| {
        let identity = match row {
            Some(row) => row.identity,
            None => old.of_address(address).unwrap_or(identity::OTHER),
        };
        let class = match want {
            Some(want) => want.class,
            None => new.of_address(address).unwrap_or(ClassId::OTHER),
        };
        let local = HostSpec { class, node: false };
        regions.push(Region {
            place: Place::Host(address),
            row: row.copied(),
            want: want.copied().or((slot != 0).then_some(local)),
            identity,
            class,
            slot,
        });
    };
    let mut locals = locals.iter().peekable();
    merge(&mirror.hosts, &desired.hosts, |address, row, want| {
        while let Some((local, slot)) = locals.next_if(|(local, _)| *local < address) {
            host(*local, None, None, *slot);
        }
        let slot = locals.next_if(|(local, _)| *local == address);
        host(*address, row, want, slot.map_or(0, |(_, slot)| *slot));
    });
    for (local, slot) in locals {
        host(*local, None, None, *slot);
    }
    let hosts = regions.len();
    merge(&mirror.prefixes, &desired.prefixes, |prefix, row, want| {
        let around = || old.around(prefix).unwrap_or(identity::OTHER);
        let above = || new.around(prefix).unwrap_or(ClassId::OTHER);
        regions.push(Region {
            place: Place::Prefix(*prefix),
            row: row.map(|identity| HostRow {
                identity: *identity,
                node: false,
                slot: 0,
            }),
            want: want.map(|class| HostSpec {
                class: *class,
                node: false,
            }),
            identity: row.copied().unwrap_or_else(around),
            class: want.copied().unwrap_or_else(above),
            slot: 0,
        });
    });
    regions[hosts..].sort_by_key(|region| match region.place {
        Place::Prefix(prefix) => std::cmp::Reverse(prefix.prefix_len()),
        Place::Host(_) => unreachable!("prefixes only"),
    });
    regions
}

/// Calls `each` with every key of either map, in order.
fn merge<'a, K: Ord, A, B>(
    a: &'a BTreeMap<K, A>,
    b: &'a BTreeMap<K, B>,
    mut each: impl FnMut(&'a K, Option<&'a A>, Option<&'a B>),
) {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        if let Some((key, value)) = left {
            each(key, Some(value), right.map(|(_, value)| value));
        } else if let Some((key, value)) = right {
            each(key, None, Some(value));
        }
    }
}

//! All maps, opened and typed: what everything else of the datapath works on.
//!
//! Needs no program: `policy-agent maps` and `explain` open the pinned maps
//! beside a running agent and read them.

use std::{collections::BTreeMap, io, os::fd::AsFd, os::fd::OwnedFd};

use policy_common::abi::{
    config::{Config, EventTokens},
    conntrack::{CtCount, CtEntry, CtKey},
    endpoint::{Endpoint, IfindexEntry},
    fragment::{FragEntry, FragKey},
    identity::{Cidr4, Cidr6, Id4, Id6},
    maps::{self as abi, MapSpec, PrefixKey},
    policy::{Interval, PolicyEntry, PolicyKey, PortSet},
    service::{Svc, SvcKey},
};
use policy_common::flow_cache::FlowSet;
use policy_common::memo::{Epoch, Memo};

use super::{
    layout,
    map::{MapError, TypedMap},
    pin::{PinError, Pins},
    sys::{Plain, mapping::Mapping},
};

/// Every map that user space reads or writes.
#[derive(Debug)]
pub struct Maps {
    /// Direct-mapped table from interface to slot.
    pub ifindex: TypedMap<u32, IfindexEntry>,
    /// Interfaces that have no place in it.
    pub ifindex_more: TypedMap<u32, u32>,
    /// IPv4 addresses.
    pub id4: TypedMap<[u8; 4], Id4>,
    /// IPv6 addresses.
    pub id6: TypedMap<[u8; 16], Id6>,
    /// IPv4 prefixes.
    pub cidr4: TypedMap<PrefixKey<4>, Cidr4>,
    /// IPv6 prefixes.
    pub cidr6: TypedMap<PrefixKey<16>, Cidr6>,
    /// Rows of policies.
    pub policy: TypedMap<PolicyKey, PolicyEntry>,
    /// Port sets.
    pub port_sets: TypedMap<u32, PortSet>,
    /// Intervals of large port sets.
    pub extents: TypedMap<u32, Interval>,
    /// Services.
    pub services: TypedMap<SvcKey, Svc>,
    /// Confirmed connections.
    pub ct: TypedMap<CtKey, CtEntry>,
    /// Connections not confirmed yet.
    pub ct_pending: TypedMap<CtKey, CtEntry>,
    /// Connections of pods that nothing isolates.
    pub ct_open: TypedMap<CtKey, CtEntry>,
    /// First fragments that passed.
    pub fragments: TypedMap<FragKey, FragEntry>,
    /// Addresses of the pod range that are open.
    pub protected: TypedMap<[u8; 16], u32>,
    /// Sources that the prefilter drops, IPv4.
    pub deny4: TypedMap<PrefixKey<4>, u32>,
    /// Sources that the prefilter drops, IPv6.
    pub deny6: TypedMap<PrefixKey<16>, u32>,
    /// Flow cache. Per CPU: only its information is read.
    pub flows: TypedMap<u32, FlowSet>,
    /// Who addresses were. Per CPU, likewise.
    pub peer_memo: TypedMap<u32, Memo>,
    /// What policies said. Per CPU, likewise.
    pub policy_memo: TypedMap<u32, Memo>,
    /// Event tokens. Per CPU, likewise.
    pub event_tokens: TypedMap<u32, EventTokens>,
    pub(super) counters: TypedMap<u32, u64>,
    pub(super) endpoints: Mapping<Endpoint>,
    pub(super) ct_count: Mapping<CtCount>,
    pub(super) config: Mapping<Config>,
    pub(super) epoch: Mapping<Epoch>,
}

impl Maps {
    /// Opens what an agent pinned, after comparing every map's layout.
    ///
    /// # Errors
    ///
    /// [`PinError`]: not there, another layout, or no permission.
    pub fn open(pins: &Pins) -> Result<Self, PinError> {
        let mut fds = BTreeMap::new();
        for spec in &layout::current().maps {
            let fd = layout::open_checked(pins, spec)?.ok_or_else(|| PinError::NotThere {
                path: pins.map(spec.name),
            })?;
            fds.insert(spec.name, fd);
        }
        Self::from_fds(fds).map_err(PinError::Map)
    }

    /// Types maps whose layouts were compared; one of each name.
    pub(super) fn from_fds(mut fds: BTreeMap<&'static str, OwnedFd>) -> Result<Self, MapError> {
        Ok(Self {
            ifindex: typed(&mut fds, abi::IFINDEX),
            ifindex_more: typed(&mut fds, abi::IFINDEX_MORE),
            id4: typed(&mut fds, abi::ID4),
            id6: typed(&mut fds, abi::ID6),
            cidr4: typed(&mut fds, abi::CIDR4),
            cidr6: typed(&mut fds, abi::CIDR6),
            policy: typed(&mut fds, abi::POLICY),
            port_sets: typed(&mut fds, abi::PORT_SETS),
            extents: typed(&mut fds, abi::EXTENTS),
            services: typed(&mut fds, abi::SERVICES),
            ct: typed(&mut fds, abi::CT),
            ct_pending: typed(&mut fds, abi::CT_PENDING),
            ct_open: typed(&mut fds, abi::CT_OPEN),
            fragments: typed(&mut fds, abi::FRAGMENTS),
            protected: typed(&mut fds, abi::PROTECTED),
            deny4: typed(&mut fds, abi::DENY4),
            deny6: typed(&mut fds, abi::DENY6),
            flows: typed(&mut fds, abi::FLOWS),
            peer_memo: typed(&mut fds, abi::PEER_MEMO),
            policy_memo: typed(&mut fds, abi::POLICY_MEMO),
            event_tokens: typed(&mut fds, abi::EVENT_TOKENS),
            counters: typed(&mut fds, abi::COUNTERS),
            endpoints: mapped(&fds, abi::ENDPOINTS)?,
            ct_count: mapped(&fds, abi::CT_COUNT)?,
            config: mapped(&fds, abi::CONFIG)?,
            epoch: mapped(&fds, abi::EPOCH)?,
        })
    }

    /// The run-time settings.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
            .read(0)
            .expect("the settings map has one element")
    }

    /// An endpoint's slot; `None` beyond the last.
    #[must_use]
    pub fn endpoint(&self, slot: u32) -> Option<Endpoint> {
        self.endpoints.read(slot)
    }

    /// A slot's books of connections; `None` beyond the last.
    #[must_use]
    pub fn ct_count(&self, slot: u32) -> Option<CtCount> {
        self.ct_count.read(slot)
    }

    /// Number of endpoint slots, slot 0 included, which is never used.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.endpoints.len()
    }
}

/// The table's line for a map.
pub(super) fn spec(name: &str) -> &'static MapSpec {
    layout::current()
        .maps
        .iter()
        .find(|spec| spec.name == name)
        .expect("every name in the table of maps is in its list")
}

fn typed<K: Plain, V: Plain>(
    fds: &mut BTreeMap<&'static str, OwnedFd>,
    name: &'static str,
) -> TypedMap<K, V> {
    let fd = fds.remove(name).expect("one of each name was opened");
    TypedMap::new(fd, spec(name))
}

fn mapped<T: Plain>(
    fds: &BTreeMap<&'static str, OwnedFd>,
    name: &'static str,
) -> Result<Mapping<T>, MapError> {
    let spec = spec(name);
    let answer = match fds.get(name) {
        Some(fd) if spec.value_size as usize == size_of::<T>() => {
            Mapping::new(fd.as_fd(), spec.max_entries)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    answer.map_err(|source| MapError {
        map: name,
        what: "mmap",
        source,
    })
}

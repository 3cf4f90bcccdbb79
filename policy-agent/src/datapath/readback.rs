//! What is in the kernel, as planning needs it.
//!
//! A value repeats its key, and programs take none that does not. So what does not
//! is told as something that nobody wants (an identity or a port set that is never
//! given out): the plan writes or removes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_common::abi::{
    endpoint::FLAG_USED,
    identity::{FLAG_NODE, Identity, UNRESOLVED, local_slot},
    policy::PortSet,
};
use policy_core::plan::{HostRow, Mirror, StoredPortSet};

use super::{Datapath, apply::element, attach::AttachError, map::MapError, maps::Maps};

/// A port set that there is not.
const NO_PORT_SET: u32 = u32::MAX;

/// The kernel's state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBackError {
    /// A map cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Links cannot be read.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl Datapath {
    /// Reads everything back.
    ///
    /// # Errors
    ///
    /// [`ReadBackError`].
    pub fn read_back(&self) -> Result<Mirror, ReadBackError> {
        let mut mirror = self.maps.read_back()?;
        mirror.attached = self.attached()?;
        Ok(mirror)
    }
}

impl Maps {
    /// Reads the maps back; what is attached needs the programs, see
    /// [`Datapath::read_back`].
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn read_back(&self) -> Result<Mirror, MapError> {
        let config = self.config();
        let mut mirror = Mirror {
            generation: config.generation,
            endpoint_number: config.endpoint_number,
            ..Mirror::default()
        };
        for (key, entry) in self.policy.entries()? {
            let is_whole = (entry.policy, entry.identity) == (key.policy, key.identity);
            let port_set = if is_whole {
                entry.port_set
            } else {
                NO_PORT_SET
            };
            mirror.rows.insert(key, port_set);
        }
        for (id, set) in self.port_sets.entries()? {
            // What an array's element is before it is written.
            let zero = set.count == 0
                && set.extent == 0
                && (set.default_rule, set.default_action) == (0, 0);
            if !zero {
                mirror.port_sets.insert(id, self.stored(&set)?);
            }
        }
        self.read_addresses(&mut mirror)?;
        mirror.services.extend(self.services.entries()?);
        for slot in 0..self.slots() {
            if let Some(endpoint) = self.endpoint(slot).filter(|e| e.flags & FLAG_USED != 0) {
                mirror.endpoints.insert(slot, endpoint);
            }
        }
        for (at, entry) in self.ifindex.entries()? {
            // Elsewhere nobody looks for it.
            if entry.ifindex != 0 && element(entry.ifindex) == at {
                mirror.interfaces.insert(entry.ifindex, entry.slot);
            }
        }
        for (ifindex, slot) in self.ifindex_more.entries()? {
            // The direct-mapped table is looked at first.
            mirror.interfaces.entry(ifindex).or_insert(slot);
        }
        Ok(mirror)
    }

    fn read_addresses(&self, mirror: &mut Mirror) -> Result<(), MapError> {
        let host = |flags: u32, identity| HostRow {
            identity,
            node: flags & FLAG_NODE != 0,
            slot: local_slot(flags),
        };
        for (address, entry) in self.id4.entries()? {
            let identity = whole(entry.addr == address, entry.identity);
            let address = IpAddr::V4(Ipv4Addr::from(address));
            mirror.hosts.insert(address, host(entry.flags, identity));
        }
        for (address, entry) in self.id6.entries()? {
            let identity = whole(entry.addr == address, entry.identity);
            let address = IpAddr::V6(Ipv6Addr::from(address));
            mirror.hosts.insert(address, host(entry.flags, identity));
        }
        for (key, entry) in self.cidr4.entries()? {
            let length = u8::try_from(key.prefix_len).unwrap_or(u8::MAX);
            let is_whole = (entry.addr, entry.prefix_len) == (key.addr, key.prefix_len);
            if let Ok(prefix) = Ipv4Net::new(key.addr.into(), length) {
                let identity = whole(is_whole, entry.identity);
                mirror.prefixes.insert(IpNet::V4(prefix), identity);
            }
        }
        for (key, entry) in self.cidr6.entries()? {
            let length = u8::try_from(key.prefix_len).unwrap_or(u8::MAX);
            let is_whole = (entry.addr, entry.prefix_len) == (key.addr, key.prefix_len);
            if let Ok(prefix) = Ipv6Net::new(key.addr.into(), length) {
                let identity = whole(is_whole, entry.identity);
                mirror.prefixes.insert(IpNet::V6(prefix), identity);
            }
        }
        Ok(())
    }

    /// A port set with its intervals.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn stored(&self, set: &PortSet) -> Result<StoredPortSet, MapError> {
        let count = set.count as usize;
        let intervals = if set.extent == 0 {
            set.inline.iter().copied().take(count).collect()
        } else {
            self.extents.range(set.extent, count)?
        };
        Ok(StoredPortSet {
            extent: set.extent,
            intervals,
            default_rule: set.default_rule,
            default_action: set.default_action,
        })
    }
}

/// The identity of a row that repeats its key, else one that nobody has.
const fn whole(is_whole: bool, identity: Identity) -> Identity {
    if is_whole { identity } else { UNRESOLVED }
}

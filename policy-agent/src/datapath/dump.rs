//! What the maps hold, for people: how full each is. Elements of arrays are never
//! removed, so of these only what something names is in use. The contents are read with
//! the fields of [`Maps`] (`entries`), [`Maps::endpoint`], [`Maps::config`] and
//! [`Maps::counters`].

use std::collections::{BTreeMap, BTreeSet};

use policy_common::abi::{
    conntrack::CT_ALL_SLOT,
    endpoint::{Endpoint, FLAG_USED},
    maps::{self as abi, MapSpec},
};

use super::{layout, map::MapError, maps::Maps};

/// A map and how many of its elements are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// The table's line.
    pub spec: &'static MapSpec,
    /// Elements in use; `None`: the map is not counted (per CPU, or a ring).
    pub used: Option<usize>,
}

impl Maps {
    /// How full each map is, in the order of the table of maps.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn occupancy(&self) -> Result<Vec<Occupancy>, MapError> {
        layout::current()
            .maps
            .iter()
            .map(|spec| {
                let used = self.used(spec.name)?;
                Ok(Occupancy { spec, used })
            })
            .collect()
    }

    fn used(&self, name: &str) -> Result<Option<usize>, MapError> {
        Ok(Some(match name {
            abi::IFINDEX => {
                let entries = self.ifindex.entries()?;
                entries
                    .iter()
                    .filter(|(_, entry)| entry.ifindex != 0)
                    .count()
            }
            abi::IFINDEX_MORE => self.ifindex_more.entries()?.len(),
            abi::ENDPOINTS => self.used_endpoints().len(),
            abi::ID4 => self.id4.entries()?.len(),
            abi::ID6 => self.id6.entries()?.len(),
            abi::CIDR4 => self.cidr4.entries()?.len(),
            abi::CIDR6 => self.cidr6.entries()?.len(),
            abi::POLICY => self.policy.entries()?.len(),
            abi::PORT_SETS => self.named_port_sets()?.len(),
            abi::EXTENTS => {
                let named = self.named_port_sets()?;
                let sets = self.port_sets.entries()?;
                let runs = sets
                    .iter()
                    .filter(|(id, set)| set.extent != 0 && named.contains(id))
                    .map(|(_, set)| (set.extent, set.count as usize));
                // Several may share one.
                runs.collect::<BTreeMap<_, _>>().values().sum()
            }
            abi::SERVICES => self.services.entries()?.len(),
            abi::CT => self.ct.entries()?.len(),
            abi::CT_PENDING => self.ct_pending.entries()?.len(),
            abi::CT_OPEN => self.ct_open.entries()?.len(),
            abi::FRAGMENTS => self.fragments.entries()?.len(),
            abi::CT_COUNT => (CT_ALL_SLOT + 1..self.slots())
                .filter_map(|slot| self.ct_count(slot))
                .filter(|count| count.created != count.removed)
                .count(),
            abi::CONFIG => 1,
            abi::PROTECTED => self.protected.entries()?.len(),
            abi::DENY4 => self.deny4.entries()?.len(),
            abi::DENY6 => self.deny6.entries()?.len(),
            _ => return Ok(None),
        }))
    }

    /// Port sets that a row names.
    fn named_port_sets(&self) -> Result<BTreeSet<u32>, MapError> {
        let rows = self.policy.entries()?;
        let named = rows.iter().map(|(_, row)| row.port_set);
        Ok(named.filter(|port_set| *port_set != 0).collect())
    }

    /// Slots that hold an endpoint.
    #[must_use]
    pub fn used_endpoints(&self) -> Vec<(u32, Endpoint)> {
        (0..self.slots())
            .filter_map(|slot| Some((slot, self.endpoint(slot)?)))
            .filter(|(_, endpoint)| endpoint.flags & FLAG_USED != 0)
            .collect()
    }
}

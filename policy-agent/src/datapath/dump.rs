//! What the maps hold, for people: how full each is. The contents are read with
//! the fields of [`Maps`] (`entries`), [`Maps::endpoint`], [`Maps::config`] and
//! [`Maps::counters`].

use policy_common::abi::{
    conntrack::CtCount,
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
            abi::PORT_SETS => {
                let sets = self.port_sets.entries()?;
                sets.iter()
                    .filter(|(_, set)| set.count != 0 || set.default_rule != 0)
                    .count()
            }
            abi::EXTENTS => {
                let intervals = self.extents.entries()?;
                intervals
                    .iter()
                    .filter(|(_, interval)| interval.last != 0)
                    .count()
            }
            abi::SERVICES => self.services.entries()?.len(),
            abi::CT => self.ct.entries()?.len(),
            abi::CT_PENDING => self.ct_pending.entries()?.len(),
            abi::CT_OPEN => self.ct_open.entries()?.len(),
            abi::FRAGMENTS => self.fragments.entries()?.len(),
            abi::CT_COUNT => (0..self.slots())
                .filter_map(|slot| self.ct_count(slot))
                .filter(|count| *count != CtCount::default())
                .count(),
            abi::CONFIG => 1,
            abi::DENY4 => self.deny4.entries()?.len(),
            abi::DENY6 => self.deny6.entries()?.len(),
            _ => return Ok(None),
        }))
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

//! How much the kernel's maps hold.

use policy_common::abi::maps;

/// Capacities that a plan must stay within, old and new side by side.
///
/// Interfaces have none of their own: the map for those that share an element
/// of the direct-mapped table has room for one per slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Slots, slot 0 included, which is never given out.
    pub endpoints: usize,
    /// Addresses with a row, each family.
    pub hosts: usize,
    /// Prefixes, each family.
    pub prefixes: usize,
    /// Addresses and ports of Services.
    pub services: usize,
    /// Rows of all policies.
    pub rows: usize,
    /// Port sets, number 0 included, which is never given out.
    pub port_sets: usize,
    /// Elements of the extents, element 0 included, which is never given out.
    pub extents: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            endpoints: maps::ENDPOINT_ENTRIES,
            hosts: maps::ID_ENTRIES,
            prefixes: maps::CIDR_ENTRIES,
            services: maps::SERVICE_ENTRIES,
            rows: maps::POLICY_ENTRIES,
            port_sets: maps::PORT_SET_ENTRIES,
            extents: maps::EXTENT_ENTRIES,
        }
    }
}

/// A map without room for what a plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// Its name.
    pub(super) map: &'static str,
    /// Its capacity, elements.
    pub(super) capacity: usize,
}

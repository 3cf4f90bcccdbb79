//! What the benchmark writes into maps, as the bytes that the kernel takes.
//!
//! The product's own layouts come from `policy_common::abi`; [`Drive`] and [`Flow`] are those of
//! `policy-ebpf/src/bench.rs`, whose maps refuse values of another size. The only file of the
//! benchmarks with `unsafe`.

use policy_common::abi::config::Config;
use policy_common::abi::conntrack::{CtEntry, CtKey};
use policy_common::abi::endpoint::{Endpoint, IfindexEntry};
use policy_common::abi::identity::{Cidr4, Cidr6, Id4, Id6};
use policy_common::abi::policy::{PolicyEntry, PolicyKey, PortSet};

/// A value that goes into a map byte by byte.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Raw<T>(pub(super) T);

/// Settings of the driver, and what it keeps between runs.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Drive {
    pub(super) random: u64,
    pub(super) runs: u64,
    pub(super) flows: u32,
    pub(super) flags: u32,
    pub(super) place: u32,
    pub(super) picked: u32,
}

/// Every run is a new flow.
pub(super) const FRESH: u32 = 1;
/// The flow cache forgets the flow before the packet comes.
pub(super) const FORGET: u32 = 2;

/// A flow that the driver can pick; ports in wire order.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Flow {
    pub(super) peer: [u8; 16],
    pub(super) peer_port: u16,
    pub(super) local_port: u16,
    pub(super) set: u32,
    pub(super) pad: [u32; 2],
}

macro_rules! plain {
    ($($name:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)`, of integers and bytes only, every byte of it in some field: that
            // is the rule for all that stands in a map, and the two structs above follow it.
            unsafe impl aya::Pod for Raw<$name> {}
        )*
    };
}

plain!(
    Cidr4,
    Cidr6,
    Config,
    CtEntry,
    CtKey,
    Drive,
    Endpoint,
    Flow,
    Id4,
    Id6,
    IfindexEntry,
    PolicyEntry,
    PolicyKey,
    PortSet,
);

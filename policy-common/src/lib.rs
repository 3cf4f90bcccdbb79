//! What the kernel programs and user space must agree on, bit for bit or
//! decision for decision.
//!
//! - [`abi`]: the layout of every map, and the constants that size them.
//! - [`packet`]: from bytes to the [`packet::Packet`] that is judged.
//! - [`conntrack`]: the life of a connection record.
//! - [`fragment`]: which fragments follow the first of their datagram.
//! - [`flow_cache`]: the per-CPU cache in front of everything else; [`memo`]: that in
//!   front of what addresses and policies answer.
//! - [`verdict`]: the decision, over small traits.
//!
//! The same code is compiled into the kernel programs, the unit tests, the
//! fuzzers and `policy-agent simulate`. Names of policies, labels, CIDR sets and
//! error prose have no place here: they belong to `policy-core`.
//!
//! Nothing here allocates, panics on input, reads a clock or names a map.
#![no_std]

pub mod abi;
pub mod conntrack;
pub mod flow_cache;
pub mod fragment;
pub mod memo;
pub mod packet;
pub mod verdict;

#[cfg(test)]
extern crate std;
#[cfg(test)]
mod random;

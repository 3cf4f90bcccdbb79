//! The pure core: from cluster objects to the contents of the kernel's maps.
//!
//! Values in, values out: no clock, no I/O, no locks, no threads, no kube types.
//! The result is a function of the objects, never of the order in which they
//! came.
//!
//! ```text
//! source -> store -> resolve -> compile -> DesiredState -> plan -> ops -> maps
//! ```
#![forbid(unsafe_code)]

pub mod compile;
pub mod desired;
pub mod diagnostic;
pub mod engine;
pub mod memory;
pub mod model;
pub mod ops;
pub mod plan;
pub mod resolve;
pub mod simulate;
pub mod store;
#[cfg(test)]
mod testing;

//! The decision. One procedure for the kernel, for `simulate` and for tests.
//!
//! - [`mod@gate`]: what passes or is dropped before any policy is asked.
//! - [`mod@judge`]: what a policy says to an identity, protocol and port.
//! - [`mod@decide`]: policy and connection records together.

pub mod decide;
pub mod gate;
pub mod judge;

pub use decide::{Identities, Peer, Records, Scene, Table, Verdict, decide};
pub use gate::{Gate, gate};
pub use judge::{Judgement, PolicyTables, judge};

//! The decision. One procedure for the kernel, for `simulate` and for tests.
//!
//! - [`judge`]: what a policy says to an identity, protocol and port.

pub mod judge;

pub use judge::{Judgement, PolicyTables, judge};

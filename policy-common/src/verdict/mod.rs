//! The decision. One procedure for the kernel, for `simulate` and for tests.
//!
//! - [`mod@gate`]: what passes or is dropped before any policy is asked.
//! - [`mod@judge`]: what a policy says to an identity, protocol and port.
//! - [`mod@decide`]: policy and connection records together.
//! - [`mod@service`]: what a policy says of a Service.
//! - [`mod@sender`]: what the sender's policy says of a packet's real destination.

pub mod decide;
pub mod gate;
pub mod judge;
pub mod sender;
pub mod service;

pub use decide::{Identities, Peer, Records, Scene, Table, Verdict, decide};
pub use gate::{Gate, gate};
pub use judge::{Judgement, PolicyTables, judge};
pub use sender::{Sender, judge_sender};
pub use service::{Service, Services, ask_service};

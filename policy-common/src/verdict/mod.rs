//! The decision. One procedure for the kernel, for `simulate` and for tests.
//!
//! - [`mod@gate`]: what passes or is dropped before any policy is asked.
//! - [`mod@closed`]: to which addresses nobody may send yet.
//! - [`mod@judge`]: what a policy says to an identity, protocol and port.
//! - [`mod@decide`]: policy and connection records together.
//! - [`mod@established`]: what a connection's record says by itself.
//! - [`mod@outcome`]: what both make of the packet, and the packet of its record.
//! - [`mod@service`]: what a policy says of a Service.
//! - [`mod@sender`]: what the sender's policy says of a packet's real destination.
//! - [`mod@related`]: whether an ICMP error belongs to what a pod may do.

pub mod closed;
pub mod decide;
pub mod established;
pub mod gate;
pub mod judge;
pub mod outcome;
pub mod related;
pub mod sender;
pub mod service;

pub use decide::{
    Identities, Peer, Records, Scene, Table, Verdict, decide, find_live, key_of, settle,
};
pub use established::{Middle, established};
pub use gate::{Gate, gate};
pub use judge::{Judgement, PolicyTables, judge};
pub use outcome::{Facts, Outcome, conclude};
pub use related::{Owner, is_related};
pub use sender::{Sender, judge_sender};
pub use service::{Service, Services, ask_service};

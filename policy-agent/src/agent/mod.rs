//! The agent: one thread that owns all state, from what the sources say to what
//! the kernel does.
//!
//! - `source`: a folder or a cluster, and what differs between them; `node`: which
//!   node this is.
//! - `state`: sources, engine, planner and datapath together: one change at a
//!   time.
//! - `interfaces`: which interface each pod's policies are put on, and which are
//!   held; `wires`: the program on all others.
//! - `cni`: what CNI tells and asks; `told`: what was told of pods; `births`: what
//!   is held, and which pods were unprotected.
//! - `closed`: the node's pod range while nobody has its addresses.
//! - `cleanup`: what a change leaves to be removed, off the event path.
//! - `memory`: what many objects took, given back.
//! - `names`: what numbers in the kernel stand for, also of what is gone.
//! - `verdicts`: events from the kernel, with names.
//! - `kernel_log`: what the kernel programs log, for development.
//! - `lines`: standard output, without waiting for its reader.
//! - `report`: answers to the command line.
//! - `server`: the socket over which it asks; `monitor`: live verdicts over it.
//! - `feedback`: what a change means for people: `metrics` (with
//!   `kernel_metrics`), `health`, `setup` (how long pods waited), `generations`
//!   (which version of each policy is in force); `http` answers for them.
//! - `notices`: what users must know, as Events of Kubernetes.
//! - [`mod@run`]: the loop.

mod births;
mod cleanup;
mod closed;
mod cni;
mod earlier;
mod feedback;
mod generations;
mod health;
mod http;
mod interfaces;
#[cfg(feature = "debug-log")]
mod kernel_log;
mod kernel_metrics;
mod lines;
mod memory;
mod metrics;
mod monitor;
mod names;
mod node;
mod notices;
mod prefilter;
mod pressure;
mod quick;
mod report;
mod rivals;
pub mod run;
mod server;
mod setup;
mod source;
mod state;
mod told;
mod verdicts;
mod wires;

pub use births::UnknownInterfaces;
pub use closed::PodRange;
pub use cni::Options as CniOptions;
pub use http::HttpAddress;
pub use run::{Options, run};
pub use source::Options as SourceOptions;

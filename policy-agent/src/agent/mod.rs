//! The agent: one thread that owns all state, from what the sources say to what
//! the kernel does.
//!
//! - `source`: a folder or a cluster, and what differs between them; `node`: which
//!   node this is.
//! - `state`: sources, engine, planner and datapath together: one change at a
//!   time.
//! - `interfaces`: which interface each pod's policies are put on, and which are
//!   held.
//! - `cleanup`: what a change leaves to be removed, off the event path.
//! - `names`: what numbers in the kernel stand for, also of what is gone.
//! - `verdicts`: events from the kernel, with names.
//! - `kernel_log`: what the kernel programs log, for development.
//! - `lines`: standard output, without waiting for its reader.
//! - `report`: answers to the command line.
//! - `server`: the socket over which it asks.
//! - [`mod@run`]: the loop.

mod cleanup;
mod interfaces;
#[cfg(feature = "debug-log")]
mod kernel_log;
mod lines;
mod names;
mod node;
mod prefilter;
mod report;
pub mod run;
mod server;
mod source;
mod state;
mod verdicts;

pub use run::{Options, run};
pub use source::Options as SourceOptions;

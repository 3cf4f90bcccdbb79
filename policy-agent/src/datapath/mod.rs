//! The datapath: the thin shell between ordered operations and the kernel.
//!
//! [`Datapath::open`] mounts, compares, loads and adopts; [`Datapath::apply`]
//! does what a plan says, in its order; [`Datapath::read_back`] tells what is
//! there. What belongs in the maps is decided elsewhere (`policy_core`); which
//! packets pass is decided by the programs. Nothing here is undone when a
//! [`Datapath`] is dropped: maps and links are pinned and go on without it, until
//! [`cleanup`] removes them.
//!
//! One agent at a time writes: the lock is the caller's (it is in the run
//! directory).
//!
//! - [`pin`], [`layout`]: paths, the BPF file system, the check of what is pinned.
//! - [`load`], `programs`, `adopt`: maps, programs through the verifier, and into links
//!   that are there already; `migrate`: out of another version's maps and links.
//! - [`closed`]: the pod range while nobody has its addresses; [`deny`]: the prefixes that
//!   the prefilter drops.
//! - [`attach`], [`clsact`], [`prefilter`]: interfaces; [`front`]: who comes first there;
//!   [`pinned`]: without an agent.
//! - [`maps`], [`map`]: typed maps, without any program; `earlier`: connections older than
//!   the programs.
//! - [`apply`] (with `encode`), [`readback`], [`settings`]: operations, and what they left.
//! - [`events`], [`counters`], [`sweep`] (with [`evictions`]), [`dump`]: what goes on.
//! - [`preflight`] (with `marks`), [`cleanup`], [`test_run`]: can it run, is it gone, what would
//!   it say to this packet.
//! - `sys`: the system calls that aya does not have.

mod adopt;
pub mod apply;
pub mod attach;
pub mod cleanup;
pub mod closed;
pub mod clsact;
pub mod counters;
pub mod deny;
pub mod dump;
mod earlier;
mod encode;
pub mod events;
pub mod evictions;
pub mod front;
pub mod layout;
pub mod load;
pub mod map;
pub mod maps;
mod marks;
mod migrate;
pub mod pin;
pub mod pinned;
pub mod prefilter;
pub mod preflight;
mod programs;
pub mod readback;
mod reuse;
pub mod settings;
pub mod sweep;
mod sys;
pub mod test_run;

pub use apply::{Applied, OpFailure, WordStored};
pub use attach::{AttachError, Backend, LinkState};
pub use closed::ClosedRange;
pub use front::{Displaced, Rival};
pub use load::{Datapath, DatapathError, Options};
pub use map::{MapError, TypedMap};
pub use maps::Maps;
pub use migrate::Stage;
pub use pin::{Hook, PinError, Pins};
pub use sys::Plain;

/// Waits until every packet that is being judged now has been judged: an RCU
/// grace period, about 10 ms. Any thread may call it.
///
/// # Errors
///
/// The kernel's answer: no permission, or no memory for a small map.
pub fn grace() -> std::io::Result<()> {
    sys::grace()
}

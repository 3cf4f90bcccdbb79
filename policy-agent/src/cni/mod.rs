//! The chained CNI plugin, its installation, and what the CNI library leaves on
//! disk.
//!
//! The plugin is this binary under the name [`plugin::NAME`]. It comes last in
//! the network's list, so it changes no interface: it tells the agent which pod
//! got which interface, and returns when that pod's policies are in force or the
//! pod is held. Where the network's plugins let it, it comes first too, and closes
//! the pod's namespace before there is an interface. What a pod may do is decided
//! by nobody here.
//!
//! - [`protocol`]: what a runtime says by environment, and how errors are
//!   answered; `config`: what it says on standard input.
//! - `result`: the part of a CNI result that tells addresses and interfaces.
//! - [`statement`]: what is told to the agent; [`notes`]: the same on disk, for an
//!   agent that is away.
//! - [`plugin`]: the verbs; `agent`: asking the agent; [`hold`]: nothing is received
//!   before there are programs to judge it.
//! - [`results`]: the records of the CNI library, for nodes without the plugin;
//!   [`watch`]: when a folder changed.
//! - [`conflist`], [`install`]: the configuration that makes runtimes call us.

mod agent;
mod config;
pub mod conflist;
pub mod hold;
pub mod install;
pub mod notes;
pub mod plugin;
pub mod protocol;
mod result;
pub mod results;
pub mod statement;
pub mod watch;

//! The node's agent and its command line: the I/O shell around `policy-core`.
//!
//! - [`source`]: objects from an API server or from manifests.
//! - [`iface`]: pods' interfaces, by netlink.
//! - [`datapath`]: the kernel's maps, programs and links.
//! - [`agent`]: the loop that ties them together.
//! - [`api`]: what the command line asks a running agent.
//! - [`cni`]: the CNI plugin, and what CNI leaves on disk.
//! - [`cli`]: the command line.
//! - [`object`]: the kernel programs, embedded.
//! - [`others`]: who else enforces on this node.
//! - [`run_dir`]: socket and lock.

pub mod agent;
pub mod api;
pub mod cli;
pub mod cni;
pub mod datapath;
pub mod flows;
pub mod iface;
mod netlink;
pub mod object;
pub mod others;
pub mod run_dir;
pub mod source;

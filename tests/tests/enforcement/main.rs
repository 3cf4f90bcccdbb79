//! The agent's binary on a node of namespaces, with real sockets. Needs root.
//!
//! `POLICY_AGENT` names the binary; without it that of the last release build is
//! taken. What ought to pass is written here by hand, and compared with what
//! `simulate` says as well.

mod cut;
mod flip;
mod folder;
mod matrix;
mod node;
mod restart;
mod rows;

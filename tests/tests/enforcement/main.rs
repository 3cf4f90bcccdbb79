//! The agent's binary on a node of namespaces, with real sockets. Needs root.
//!
//! `POLICY_AGENT` names the binary; without it that of the last release build is
//! taken. What ought to pass is written here by hand, and compared with what
//! `simulate` says as well.

mod bad_input;
mod capacity;
mod churn;
mod cni;
mod cut;
mod disguised;
mod drift;
mod earlier;
mod errors;
mod expect;
mod feedback;
mod flip;
mod folder;
mod fragments;
mod lifecycle;
mod load;
mod maps;
mod matrix;
mod node;
mod packets;
mod prefilter;
mod refusal;
mod restart;
mod rows;
mod services;
mod silent;
mod spared;
mod upgrade;

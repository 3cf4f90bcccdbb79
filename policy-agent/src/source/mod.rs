//! Where objects come from: each source turns what it sees into the core's
//! events and diagnostics.
//!
//! `convert` knows the API's types and turns them into the model; `manifests`
//! reads folders of files, `kubernetes` asks a cluster's API server; `version` is
//! which version of a policy it was. What objects mean together is the store's.

pub mod convert;
pub mod kubernetes;
pub mod manifests;
pub mod version;

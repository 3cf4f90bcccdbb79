//! Where objects come from: each source turns what it sees into the core's
//! events and diagnostics.
//!
//! `convert` knows the API's types and turns them into the model; `manifests`
//! reads folders of files. What objects mean together is the store's.

pub mod convert;
pub mod manifests;

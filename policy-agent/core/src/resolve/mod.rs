//! From objects to what policies need to know of them: which policies apply to
//! which pod, and which peers an address is.
//!
//! - [`selector_index`]: which selectors match a pod.
//! - [`prefixes`]: which ipBlocks cover an address.
//! - [`atoms`]: the peers that policies in force name.
//! - [`classes`]: addresses that the same peers match.
//! - [`services`]: where the addresses of Services lead.
//!
//! What the rules then say to each class is `compile`'s.

pub mod atoms;
pub mod classes;
pub mod prefixes;
pub mod selector_index;
pub mod services;

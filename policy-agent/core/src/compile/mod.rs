//! From the policies of a pod to what the kernel looks up: for each class of
//! peers a port set, each part of it with the rule that decided.
//!
//! - [`part`]: one policy, prepared.
//! - [`program`]: order, tiers and unions.
//! - [`space`]: protocols and ports.
//! - [`rules`]: numbers for what decided.

pub mod part;
pub mod program;
pub mod rules;
pub mod space;

//! Laid out; its modules follow.

pub mod object;
pub mod iface;
pub mod source;

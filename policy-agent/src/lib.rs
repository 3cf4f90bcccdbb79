//! Laid out; its modules follow.

pub mod datapath;
pub mod object;
pub mod iface;
pub mod source;

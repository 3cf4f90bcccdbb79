//! From the desired state and what is in the kernel to ordered operations.

pub mod mirror;

pub use mirror::{HostRow, Mirror, StoredPortSet};

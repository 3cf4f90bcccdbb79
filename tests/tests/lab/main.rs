//! The lab without any policy: everything is reached, nothing is lost, what is
//! lost is found, and nothing is left behind. Needs root.

mod accounting;
mod cleanup;
mod connectivity;
mod crafted;

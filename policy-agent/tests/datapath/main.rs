//! The datapath on a real kernel: each test has a network namespace and a BPF
//! file system of its own, and shares nothing with the others.
//!
//! Needs root, iproute2, nftables and bpftool.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

mod adopt;
mod apply;
mod attach;
mod bed;
mod budget;
mod cleanup;
mod closed;
mod crafted;
mod earlier;
mod errors;
mod flood;
mod fragments;
mod front;
mod memo;
mod migrate;
mod observe;
mod packets;
mod pins;
mod prefilter;
mod protocols;
mod services;
mod shares;
mod slots;
mod tides;
mod timeouts;
mod verdict;

//! Test beds of network namespaces with real sockets.
//!
//! A [`Lab`] is one node with its pods and the hosts outside, each in a network
//! namespace of its own and wired as a bridge CNI or a routed CNI would do it.
//! On it run [`Server`]s, [`Probe`]s (one by one or as a [`matrix`]), flows that
//! account for every packet ([`UdpStream`], [`TcpFlow`], [`TcpChurn`]),
//! [`Sniffer`]s, crafted packets and processes such as the agent.
//!
//! The lab knows nothing of policies: what ought to pass is for the test to say.
//! It depends on none of the product's crates, on `ip` (iproute2) and on root.
//! Nothing of it is visible in the host's network namespace, several labs run
//! side by side, and dropping a lab removes all of it.
//!
//! The kernel's neighbour tables are common to all namespaces and hold 1,024
//! entries, so a full matrix of more than 30 bridged pods has to be a routed one.
//!
//! All times are nanoseconds of `CLOCK_MONOTONIC` (the clock of the agent's
//! logs too); kernel time stamps are translated to it when they are read.

mod bed;
mod churn;
mod clock;
mod foreign;
mod frame;
mod host;
mod ip;
mod netns;
mod pace;
mod packet;
mod parse;
mod probe;
mod probe_engine;
mod process;
mod sctp;
mod server;
mod server_loop;
mod sniffer;
mod snmp;
mod stale;
mod sys;
mod tcp_flow;
mod tracked;
mod udp_report;
mod udp_stream;
mod wiring;

pub use bed::{Lab, PodWanted, raise_descriptor_limit};
pub use churn::{ChurnReport, ChurnSpec, TcpChurn};
pub use clock::{now_ns, received, wait_for};
pub use foreign::{Foreign, Side};
pub use frame::{arp_reply, arp_request, ethernet, redirect, router_advertisement};
pub use host::{Family, Host, Mac};
pub use netns::Netns;
pub use pace::{fewer, slowed, slowness};
pub use packet::{IpPacket, tcp_flags};
pub use parse::{Arp, Parsed, TcpHead, parse_arp, parse_frame, parse_ip};
pub use probe::{Outcome, Probe, Proto, matrix, probe};
pub use process::NodeProcess;
pub use server::{ServeSpec, Server};
pub use sniffer::{Direction, Sniffed, Sniffer};
pub use snmp::Snmp;
pub use tcp_flow::{TcpFlow, TcpReport, TcpSpec, message_of};
pub use tracked::{Tracked, tracked};
pub use udp_report::{Arrival, UdpReport};
pub use udp_stream::{UdpSpec, UdpStream};
pub use wiring::{Plan, Wiring};

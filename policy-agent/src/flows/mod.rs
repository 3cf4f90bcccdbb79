//! Connections that the node's own connection table knows (nf_conntrack): read
//! once, when pods that ran before the agent come under its policies.
//!
//! `wire` decodes what the kernel answers; here is the conversation. What becomes
//! of a connection is `datapath::earlier`'s.

mod wire;

use std::{io, net::SocketAddr};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::{self, BUFFER_BYTES};
use wire::Part;

/// A connection as the node's kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// IANA protocol number.
    pub protocol: u8,
    /// Who opened it and to whom, as it was sent.
    pub original: Tuple,
    /// Its answers as they are sent: with the real server as the source, and as
    /// the destination whom that sees.
    pub reply: Tuple,
    /// It was answered.
    pub replied: bool,
    /// Both ends are real: of TCP the handshake was whole, of others there was
    /// traffic both ways for a while.
    pub assured: bool,
    /// TCP: how many ends have sent FIN.
    pub fins: u8,
}

/// Source and destination of a packet; for ICMP the identifier of an echo is the
/// port of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
}

/// Reads the connections of the calling thread's network namespace that are open.
///
/// Not a snapshot: what comes or goes meanwhile may be missing or twice.
///
/// # Errors
///
/// The kernel's answer: no permission (CAP_NET_ADMIN), or it has no connection
/// tracking (`EINVAL`, `EOPNOTSUPP`, `EPROTONOSUPPORT`).
pub fn read() -> io::Result<Vec<Flow>> {
    let socket = netlink::open(NETLINK_NETFILTER)?;
    socket.send(&wire::question(), 0)?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        for part in wire::parts(netlink::receive(&socket, &mut buffer)?) {
            match part? {
                Part::Done => return Ok(flows),
                Part::Flow(flow) => flows.push(flow),
                Part::Other => {}
            }
        }
    }
}

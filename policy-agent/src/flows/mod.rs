//! Connections that the node's own connection table knows (nf_conntrack): read
//! once, when pods that ran before the agent come under its policies.
//!
//! `wire` decodes what the kernel answers; here is the conversation. What becomes
//! of a connection is `datapath::earlier`'s.

mod wire;

use std::{io, net::SocketAddr, time::Duration};

use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use wire::Part;

/// The kernel answers at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The kernel fills at most 32 KiB at a time (netlink_dump in
/// net/netlink/af_netlink.c); twice that never truncates.
const BUFFER_BYTES: usize = 64 * 1024;

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
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_LIMIT))?;
    socket.send(&wire::question(), 0)?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut room = buffer.as_mut_slice();
        let length = match socket.recv(&mut room, 0) {
            Ok(length) => length,
            // With a limit on its time the call ends at every signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for part in wire::parts(buffer.get(..length).unwrap_or_default()) {
            match part? {
                Part::Done => return Ok(flows),
                Part::Flow(flow) => flows.push(flow),
                Part::Other => {}
            }
        }
    }
}

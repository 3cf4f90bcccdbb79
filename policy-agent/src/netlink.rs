//! Conversations with the kernel over netlink: a socket whose answers are bounded
//! in time, and answers that come whole. What is asked and answered is for the
//! modules that ask.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr};
use rustix::net::{
    RecvFlags,
    sockopt::{Timeout, set_socket_timeout},
};

/// The kernel answers at once, except while it holds a lock for somebody else.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The kernel fills at most 32 KiB at a time (netlink_dump in
/// net/netlink/af_netlink.c); twice that never truncates.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// A socket that talks to the kernel, of the calling thread's network namespace;
/// `protocol` is one of `netlink_sys::protocols`.
///
/// # Errors
/// The kernel's answer: it has no such protocol, or no more descriptors.
pub(crate) fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_LIMIT))?;
    Ok(socket)
}

/// The next datagram. A signal does not end the wait, as it would where a socket
/// has a limit on its time (man 7 signal).
///
/// # Errors
/// `TimedOut`: no answer within 5 s. `InvalidData`: it does not fit the buffer.
/// Otherwise the kernel's.
pub(crate) fn receive<'b>(socket: &Socket, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    // With TRUNC the real length is returned, also if it did not fit.
    let received =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, RecvFlags::TRUNC));
    let length = match received {
        Ok((_, length)) => length,
        Err(rustix::io::Errno::AGAIN) => {
            let source = "no answer from the kernel";
            return Err(io::Error::new(io::ErrorKind::TimedOut, source));
        }
        Err(errno) => return Err(errno.into()),
    };
    buffer.get(..length).ok_or_else(|| {
        let what = format!("an answer of {length} bytes does not fit");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_sys::protocols::NETLINK_ROUTE;

    /// `RTM_GETLINK` of the loopback, which takes no privilege.
    fn question() -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[0] = 32;
        bytes[4] = 18;
        bytes[6] = 1;
        bytes[20] = 1;
        bytes
    }

    #[test]
    fn an_answer_comes_whole_or_not_at_all() {
        let socket = open(NETLINK_ROUTE).expect("route netlink is everywhere");
        let mut buffer = vec![0; BUFFER_BYTES];
        socket.send(&question(), 0).expect("sent");
        assert!(receive(&socket, &mut buffer).expect("an answer").len() > 32);
        socket.send(&question(), 0).expect("sent");
        let error = receive(&socket, &mut buffer[..32]).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

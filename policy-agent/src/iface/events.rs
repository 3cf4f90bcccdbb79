//! Sockets on which the kernel tells of changes.
//!
//! One hears links, addresses and namespace ids of the agent's namespace. The
//! other hears addresses of **all** namespaces that have a number in it
//! (`NETLINK_LISTEN_ALL_NSID`): a pod gets its address after its link, in its
//! own namespace, and the number comes with the message. They are two, so that
//! a pod that floods one cannot make the other overflow.
//!
//! Messages are hints only: what changed is read afterwards.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvFlags, recvmsg, sockopt},
};

use super::{error::IfaceError, pace::Source, snapshot::Nsid};

// Multicast groups (include/uapi/linux/rtnetlink.h).
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_NSID: u32 = 28;

// Control message (include/uapi/linux/netlink.h, include/linux/socket.h).
const SOL_NETLINK: i32 = 270;
const NETLINK_LISTEN_ALL_NSID: i32 = 8;

/// Room for about 1,000 link messages, which is what 100 pods born at once
/// cause. More is an overrun, which costs a full reading and no more.
const RECEIVE_BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// Messages read in one go, so that a flood cannot keep the reader for ever.
const BATCH: usize = 256;

/// That a message came says enough; the rest of it is thrown away.
const MESSAGE_BYTES: usize = 16;

/// Whose events a socket hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hears {
    /// The agent's namespace.
    Own,
    /// All that have a number in it.
    Others,
}

/// Opens a non-blocking socket that hears events.
///
/// # Errors
/// [`IfaceError::Permission`] for [`Hears::Others`] without CAP_NET_BROADCAST.
pub(super) fn open(hears: Hears) -> Result<OwnedFd, IfaceError> {
    let fail = |source| IfaceError::call("subscribe to link and address changes", source);
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
    socket.bind_auto().map_err(fail)?;
    socket.set_non_blocking(true).map_err(fail)?;
    // Beyond the system's limit with CAP_NET_ADMIN, else up to it.
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES))
        .map_err(|errno| fail(errno.into()))?;
    let groups: &[u32] = match hears {
        Hears::Own => &[
            RTNLGRP_LINK,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_NSID,
        ],
        Hears::Others => {
            socket
                .set_listen_all_namespaces(true)
                .map_err(|source| IfaceError::call("listen to other namespaces", source))?;
            &[RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR]
        }
    };
    for group in groups {
        socket.add_membership(*group).map_err(fail)?;
    }
    // The same socket, owned by the standard library's type.
    socket.as_fd().try_clone_to_owned().map_err(fail)
}

/// Hands the events that wait on `socket` to `note`, at most [`BATCH`]. `true`
/// when nothing is left.
///
/// # Errors
/// Those of `recvmsg(2)`, except that lost events are an event.
pub(super) fn drain(
    socket: BorrowedFd<'_>,
    hears: Hears,
    mut note: impl FnMut(Source),
) -> io::Result<bool> {
    for _ in 0..BATCH {
        match receive(socket, hears) {
            Ok(Some(source)) => note(source),
            Ok(None) => {}
            Err(Errno::AGAIN) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::NOBUFS) => note(match hears {
                Hears::Own => Source::OwnOverrun,
                Hears::Others => Source::ForeignOverrun,
            }),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

fn receive(socket: BorrowedFd<'_>, hears: Hears) -> Result<Option<Source>, Errno> {
    let mut message = [0; MESSAGE_BYTES];
    let mut iov = [IoSliceMut::new(&mut message)];
    let mut space = ControlSpace([MaybeUninit::new(0); CONTROL_BYTES]);
    let mut control = RecvAncillaryBuffer::new(&mut space.0);
    recvmsg(socket, &mut iov, &mut control, RecvFlags::empty())?;
    drop(control);
    let namespace = namespace_in(&space.bytes());
    Ok(match (hears, namespace) {
        (Hears::Own, _) => Some(Source::Own),
        (Hears::Others, Some(nsid)) => Some(Source::Namespace(nsid)),
        // The agent's own, which the other socket hears.
        (Hears::Others, None) => None,
    })
}

/// Room for one `cmsghdr` (length, level, type) and a few bytes of data.
const CONTROL_BYTES: usize = 64;

/// Control data, aligned as `cmsghdr` wants it, so that the message starts at
/// its first byte.
#[repr(C, align(8))]
struct ControlSpace([MaybeUninit<u8>; CONTROL_BYTES]);

impl ControlSpace {
    fn bytes(&self) -> [u8; CONTROL_BYTES] {
        // SAFETY: every byte was initialised with zero when the space was
        // made, and neither rustix nor the kernel, the only ones to have had
        // it since, make initialised memory uninitialised.
        self.0.map(|byte| unsafe { byte.assume_init() })
    }
}

/// The namespace number in a control message of the kernel's form: `size_t`
/// length with header, `int` level, `int` type, then the `int` number.
fn namespace_in(control: &[u8; CONTROL_BYTES]) -> Option<Nsid> {
    const WORD: usize = size_of::<usize>();
    let int = |at: usize| {
        let bytes = control.get(at..at + 4)?.try_into().ok()?;
        Some(i32::from_ne_bytes(bytes))
    };
    let length = usize::from_ne_bytes(control.get(..WORD)?.try_into().ok()?);
    let data = (WORD + 8).next_multiple_of(WORD);
    let is_nsid = length >= data + 4
        && int(WORD)? == SOL_NETLINK
        && int(WORD + 4)? == NETLINK_LISTEN_ALL_NSID;
    is_nsid
        .then(|| int(data))
        .flatten()
        .and_then(|nsid| u32::try_from(nsid).ok())
        .map(Nsid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(length: usize, level: i32, kind: i32, data: i32) -> [u8; CONTROL_BYTES] {
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        for value in [level, kind, data] {
            bytes.extend(value.to_ne_bytes());
        }
        bytes.resize(CONTROL_BYTES, 0);
        bytes.try_into().expect("resized")
    }

    #[test]
    fn the_number_of_the_namespace_is_read_from_the_control_message() {
        let full = size_of::<usize>() + 12;
        assert_eq!(namespace_in(&control(full, 270, 8, 3)), Some(Nsid(3)));
        assert_eq!(namespace_in(&control(full, 270, 8, 0)), Some(Nsid(0)));
        assert_eq!(namespace_in(&control(full, 270, 8, -1)), None);
        assert_eq!(namespace_in(&control(full, 1, 8, 3)), None);
        assert_eq!(namespace_in(&control(full, 270, 3, 3)), None);
        assert_eq!(namespace_in(&control(full - 4, 270, 8, 3)), None);
        assert_eq!(namespace_in(&[0; CONTROL_BYTES]), None);
    }
}

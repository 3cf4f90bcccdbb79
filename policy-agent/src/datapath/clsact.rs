//! The clsact fallback for kernels before 6.6: filters with direct action, at
//! the front (priority 1), found again by their handle.
//!
//! A filter lives with its interface, not with a descriptor; so the program is
//! pinned where TCX pins a link, as the record that the filter is ours.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{
    attach::{self, AttachError},
    pin::Hook,
    sys,
};

/// `TC_H_MAKE(TC_H_CLSACT, 0)`: the queueing discipline's handle.
const CLSACT: u32 = 0xffff_0000;
/// `TC_H_CLSACT`, the parent of the discipline itself.
const PARENT: u32 = 0xffff_fff1;
/// `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`.
const MIN_INGRESS: u32 = 0xfff2;
const MIN_EGRESS: u32 = 0xfff3;
/// Before every filter that leaves its priority to the kernel (49152).
const PRIORITY: u32 = 1;
/// Tells our filter from others of the priority; "pa" in ASCII.
const HANDLE: u32 = 0x7061;
/// The same of `to_wire`: for a moment both may be on the egress of an interface
/// that becomes a pod's; "pw" in ASCII.
const WIRE_HANDLE: u32 = 0x7077;
/// `ETH_P_ALL` in network byte order, as `tcm_info` wants it.
const ALL_PROTOCOLS: u32 = 0x0003_u16.to_be() as u32;

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const NLMSG_ERROR: u16 = 2;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// The program's answer is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const NESTED: u16 = 1 << 15;

const HEADER: usize = 16;
const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Attaches a program and pins it as the record of that.
pub(super) fn attach(
    ifindex: u32,
    hook: Hook,
    program: BorrowedFd<'_>,
    pin: &Path,
) -> Result<(), AttachError> {
    let error = |what| move |source: io::Error| AttachError::new(ifindex, hook, what, source);
    let discipline = Request::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL)
        .interface(ifindex, CLSACT, PARENT, 0)
        .text(TCA_KIND, "clsact");
    match discipline.ask() {
        Ok(()) => {}
        // There already: others use it too.
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(error("add clsact for")(e)),
    }
    // The record first: a filter without one would never be found again.
    sys::obj_pin(program, pin).map_err(error("pin"))?;
    let attached = filter(ifindex, hook, program, NLM_F_CREATE | NLM_F_EXCL).ask();
    if attached.is_err() {
        // The pin was made a moment ago; one that stays is found by `attach`.
        let _ = fs::remove_file(pin);
    }
    attached.map_err(error("attach"))
}

/// Puts another program into the filter, in place; false: there is no filter.
pub(super) fn replace(
    ifindex: u32,
    hook: Hook,
    program: BorrowedFd<'_>,
    pin: &Path,
) -> Result<bool, AttachError> {
    let error = |what| move |source: io::Error| AttachError::new(ifindex, hook, what, source);
    if !is_attached(ifindex, hook)? {
        return Ok(false);
    }
    // The file system reserves names with a dot.
    let mut next = pin.as_os_str().to_owned();
    next.push("-next");
    // Left by a crash between the steps below.
    attach::remove(next.as_ref())?;
    sys::obj_pin(program, next.as_ref()).map_err(error("pin"))?;
    filter(ifindex, hook, program, NLM_F_CREATE | NLM_F_REPLACE)
        .ask()
        .map_err(error("replace the program"))?;
    fs::rename(&next, pin).map_err(error("pin"))?;
    Ok(true)
}

/// Takes our filter off; an interface or filter that is gone is fine.
pub(super) fn detach(ifindex: u32, hook: Hook) -> Result<(), AttachError> {
    let request = Request::new(RTM_DELTFILTER, 0)
        .interface(
            ifindex,
            handle(hook),
            parent(hook),
            PRIORITY << 16 | ALL_PROTOCOLS,
        )
        .text(TCA_KIND, "bpf");
    match request.ask() {
        Ok(()) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(source) => Err(AttachError::new(ifindex, hook, "detach", source)),
    }
}

/// Whether our filter is on the interface.
pub(super) fn is_attached(ifindex: u32, hook: Hook) -> Result<bool, AttachError> {
    let request = Request::new(RTM_GETTFILTER, 0)
        .interface(
            ifindex,
            handle(hook),
            parent(hook),
            PRIORITY << 16 | ALL_PROTOCOLS,
        )
        .text(TCA_KIND, "bpf");
    match request.ask() {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(source) => Err(AttachError::new(ifindex, hook, "find", source)),
    }
}

/// No such interface, discipline or filter (`EINVAL`: no clsact there).
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
    )
}

const fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::From => CLSACT | MIN_INGRESS,
        Hook::To | Hook::Wire | Hook::Xdp => CLSACT | MIN_EGRESS,
    }
}

const fn handle(hook: Hook) -> u32 {
    match hook {
        Hook::Wire => WIRE_HANDLE,
        Hook::From | Hook::To | Hook::Xdp => HANDLE,
    }
}

fn filter(ifindex: u32, hook: Hook, program: BorrowedFd<'_>, flags: u16) -> Request {
    use std::os::fd::AsRawFd;
    let options = [
        attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes()),
        attribute(TCA_BPF_NAME, &terminated(hook.program())),
        attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
    ];
    Request::new(RTM_NEWTFILTER, flags)
        .interface(
            ifindex,
            handle(hook),
            parent(hook),
            PRIORITY << 16 | ALL_PROTOCOLS,
        )
        .text(TCA_KIND, "bpf")
        .bytes(TCA_OPTIONS | NESTED, &options.concat())
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// An attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("attributes here are short");
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A request about traffic control (`struct nlmsghdr`, `struct tcmsg`).
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        // Sequence and port: one request a socket, so zero tells them apart.
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    fn interface(mut self, ifindex: u32, handle: u32, parent: u32, info: u32) -> Self {
        // Family (unspecified) and padding.
        self.bytes.extend_from_slice(&[0; 4]);
        for word in [ifindex, handle, parent, info] {
            self.bytes.extend_from_slice(&word.to_ne_bytes());
        }
        self
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&attribute(kind, value));
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let value = terminated(value);
        self.bytes(kind, &value)
    }

    /// Sends it and waits for the kernel's answer.
    fn ask(mut self) -> io::Result<()> {
        let length = u32::try_from(self.bytes.len()).expect("requests are short");
        for (place, byte) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *place = byte;
        }
        let socket = Socket::new(NETLINK_ROUTE)?;
        set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(ANSWER_LIMIT))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&self.bytes, 0)?;
        loop {
            let (answer, _) = socket.recv_from_full()?;
            if let Some(verdict) = verdict(&answer) {
                return verdict;
            }
        }
    }
}

/// The acknowledgement in an answer, if it is in this part of it.
fn verdict(mut answer: &[u8]) -> Option<io::Result<()>> {
    while let Some(header) = answer.get(..HEADER) {
        let length = u32::from_ne_bytes(header.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?);
        if kind == NLMSG_ERROR {
            let code = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
            return Some(if code == 0 {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(-code))
            });
        }
        answer = answer.get(length.max(HEADER).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_say_their_length_without_padding() {
        assert_eq!(
            attribute(1, b"bpf\0x"),
            [9u16.to_ne_bytes(), 1u16.to_ne_bytes()]
                .concat()
                .into_iter()
                .chain(*b"bpf\0x\0\0\0")
                .collect::<Vec<u8>>()
        );
    }

    #[test]
    fn acknowledgement_is_found_behind_other_messages() {
        let message = |kind: u16, body: &[u8]| {
            let mut bytes = u32::try_from(HEADER + body.len())
                .unwrap()
                .to_ne_bytes()
                .to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0; 10]);
            bytes.extend_from_slice(body);
            bytes
        };
        let other = message(RTM_NEWTFILTER, &[0; 20]);
        let failure = message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes());
        assert!(verdict(&other).is_none());
        let both = [other, failure].concat();
        let error = verdict(&both).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(
            verdict(&message(NLMSG_ERROR, &0i32.to_ne_bytes()))
                .unwrap()
                .is_ok()
        );
    }
}

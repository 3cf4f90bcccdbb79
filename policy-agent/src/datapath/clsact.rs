//! The clsact fallback for kernels before 6.6: filters with direct action, at
//! the front (priority 1), found again by their handle.
//!
//! A filter lives with its interface, not with a descriptor; so the program is
//! pinned where TCX pins a link, as the record that the filter is ours.

mod netlink;

use std::{fs, io, os::fd::BorrowedFd, path::Path};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};

use netlink::{
    Filter, NESTED, RTM_NEWTFILTER, Request, TCA_BPF_NAME, TCA_KIND, TCA_OPTIONS, attribute,
    terminated,
};

use super::{
    attach::{self, AttachError},
    front::Rival,
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
/// The same of `to_wire` and `from_wire`: for a moment two of ours may be on one side
/// of an interface that becomes a pod's; "pw" in ASCII.
const WIRE_HANDLE: u32 = 0x7077;
/// Added to a handle: our filter while it moves to the front.
const MOVING: u32 = 1;
/// `ETH_P_ALL` in network byte order, as `tcm_info` wants it.
const ALL_PROTOCOLS: u32 = 0x0003_u16.to_be() as u32;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

/// Which chain of filters; packets begin in 0.
const TCA_CHAIN: u16 = 11;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_FLAGS: u16 = 8;
/// The program's answer is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

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
    // In the place of a filter of ours without a record: the file system with it
    // is gone, and what that filter judges by is no longer kept up.
    let attached = filter(ifindex, hook, handle(hook), program, NLM_F_REPLACE).ask();
    if attached.is_err() {
        // The pin was made a moment ago; one that stays is found by `attach`.
        let _ = fs::remove_file(pin);
    }
    attached.map_err(error("attach"))?;
    // Left by a crash while it moved to the front.
    remove(ifindex, hook, handle(hook) + MOVING)
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
    filter(ifindex, hook, handle(hook), program, NLM_F_REPLACE)
        .ask()
        .map_err(error("replace the program"))?;
    fs::rename(&next, pin).map_err(error("pin"))?;
    // Left by a crash while it moved to the front.
    remove(ifindex, hook, handle(hook) + MOVING)?;
    Ok(true)
}

/// Whether our filter is on the interface with the program of this id: another
/// agent's may be in its place, or nobody's that is still there.
pub(super) fn has_program(ifindex: u32, hook: Hook, id: u32) -> Result<bool, AttachError> {
    let all = all(ifindex, hook).map_err(|e| AttachError::new(ifindex, hook, "find", e))?;
    Ok(all
        .iter()
        .any(|filter| is_ours(filter) && filter.handle == handle(hook) && filter.program == id))
}

/// All filters of a hook, in the order in which they are asked.
fn all(ifindex: u32, hook: Hook) -> io::Result<Vec<Filter>> {
    let request = Request::new(RTM_GETTFILTER, NLM_F_DUMP)
        .interface(ifindex, 0, parent(hook), 0)
        .bytes(TCA_CHAIN, &0u32.to_ne_bytes());
    match request.dump() {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        all => all,
    }
}

fn is_ours(filter: &Filter) -> bool {
    let handles = [HANDLE, HANDLE + MOVING, WIRE_HANDLE, WIRE_HANDLE + MOVING];
    filter.priority == PRIORITY && filter.kind == "bpf" && handles.contains(&filter.handle)
}

/// Filters that are asked before ours: of one priority, the newest is the first.
pub(super) fn before(ifindex: u32, hook: Hook) -> io::Result<Vec<Rival>> {
    let all = all(ifindex, hook)?;
    let Some(own) = all
        .iter()
        .position(|filter| is_ours(filter) && filter.handle == handle(hook))
    else {
        return Ok(Vec::new());
    };
    let before = all.into_iter().take(own);
    Ok(before
        .filter(|filter| !is_ours(filter))
        .map(|filter| Rival {
            name: filter.name.unwrap_or(filter.kind),
            program: filter.program,
        })
        .collect())
}

/// Makes our filter the first: a second one, which comes first because it is
/// newer, judges while the first is made anew.
pub(super) fn put_in_front(
    ifindex: u32,
    hook: Hook,
    program: BorrowedFd<'_>,
) -> Result<(), AttachError> {
    let error = |source| AttachError::new(ifindex, hook, "put in front", source);
    remove(ifindex, hook, handle(hook) + MOVING)?;
    add(ifindex, hook, handle(hook) + MOVING, program).map_err(error)?;
    remove(ifindex, hook, handle(hook))?;
    add(ifindex, hook, handle(hook), program).map_err(error)?;
    remove(ifindex, hook, handle(hook) + MOVING)
}

/// Takes our filter off; an interface or filter that is gone is fine.
pub(super) fn detach(ifindex: u32, hook: Hook) -> Result<(), AttachError> {
    remove(ifindex, hook, handle(hook))?;
    remove(ifindex, hook, handle(hook) + MOVING)
}

fn remove(ifindex: u32, hook: Hook, handle: u32) -> Result<(), AttachError> {
    let request = Request::new(RTM_DELTFILTER, 0)
        .interface(
            ifindex,
            handle,
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
        Hook::From | Hook::Arrive => CLSACT | MIN_INGRESS,
        Hook::To | Hook::Wire | Hook::Xdp => CLSACT | MIN_EGRESS,
    }
}

const fn handle(hook: Hook) -> u32 {
    match hook {
        Hook::Wire | Hook::Arrive => WIRE_HANDLE,
        Hook::From | Hook::To | Hook::Xdp => HANDLE,
    }
}

fn add(ifindex: u32, hook: Hook, handle: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    filter(ifindex, hook, handle, program, NLM_F_EXCL).ask()
}

/// `how`: `NLM_F_EXCL` or `NLM_F_REPLACE`.
fn filter(ifindex: u32, hook: Hook, handle: u32, program: BorrowedFd<'_>, how: u16) -> Request {
    use std::os::fd::AsRawFd;
    let options = [
        attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes()),
        attribute(TCA_BPF_NAME, &terminated(hook.program())),
        attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
    ];
    Request::new(RTM_NEWTFILTER, NLM_F_CREATE | how)
        .interface(
            ifindex,
            handle,
            parent(hook),
            PRIORITY << 16 | ALL_PROTOCOLS,
        )
        .text(TCA_KIND, "bpf")
        .bytes(TCA_OPTIONS | NESTED, &options.concat())
}

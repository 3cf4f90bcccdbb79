//! Links, by interface index, and objects by id.
//!
//! aya attaches by interface name, and a name may belong to another interface a
//! moment later; an index is never given to another one while ours is there.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::{Command, bpf, bpf_fd, info, raw};

/// `BPF_XDP` of `enum bpf_attach_type`.
pub(in super::super) const ATTACH_XDP: u32 = 37;
/// `BPF_TCX_INGRESS`.
pub(in super::super) const ATTACH_TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub(in super::super) const ATTACH_TCX_EGRESS: u32 = 47;

/// `BPF_F_BEFORE` with no other program named: the front.
pub(in super::super) const FRONT: u32 = 1 << 3;
/// `XDP_FLAGS_SKB_MODE` (`include/uapi/linux/if_link.h`).
pub(in super::super) const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(in super::super) const XDP_NATIVE: u32 = 1 << 2;

/// `BPF_LINK_TYPE_XDP`.
const LINK_XDP: u32 = 6;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TCX: u32 = 11;
/// `BPF_F_REPLACE`: only if the link still has the program that is named.
const REPLACE: u32 = 1 << 2;

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// Attaches a program to an interface.
pub(in super::super) fn create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        prog_fd: raw(program),
        target_ifindex: ifindex,
        attach_type,
        flags,
        ..CreateAttr::default()
    };
    // SAFETY: no addresses.
    unsafe { bpf_fd(Command::LinkCreate, &mut attr) }
}

#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts another program into a link, in place: no packet sees neither. With
/// `old` only if that one is still in it.
pub(in super::super) fn update(
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = UpdateAttr {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        flags: if old.is_some() { REPLACE } else { 0 },
        old_prog_fd: old.map_or(0, raw),
    };
    // SAFETY: no addresses.
    unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
}

#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

/// Takes a link's program off its interface, whoever else holds the link.
pub(in super::super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = DetachAttr { link_fd: raw(link) };
    // SAFETY: no addresses.
    unsafe { bpf(Command::LinkDetach, &mut attr) }.map(drop)
}

/// What the kernel says of a link (`struct bpf_link_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct LinkFacts {
    pub(in super::super) id: u32,
    pub(in super::super) program_id: u32,
    /// Interface; 0: it is gone, or the link was detached.
    pub(in super::super) ifindex: u32,
    /// `ATTACH_*`; 0: neither TCX nor XDP.
    pub(in super::super) attach_type: u32,
}

/// Information about a link.
pub(in super::super) fn facts(link: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    // type, id, prog_id, padding; tcx: ifindex, attach_type; xdp: ifindex.
    let [link_type, id, program_id, _, ifindex, attach_type] = info::<6>(link)?;
    let (ifindex, attach_type) = match link_type {
        LINK_TCX => (ifindex, attach_type),
        LINK_XDP => (ifindex, ATTACH_XDP),
        _ => (0, 0),
    };
    Ok(LinkFacts {
        id,
        program_id,
        ifindex,
        attach_type,
    })
}

/// Whether the kernel has TCX: it knows how to list what is attached there.
pub(in super::super) fn has_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    let mut attr = QueryAttr {
        target_ifindex: LOOPBACK,
        attach_type: ATTACH_TCX_INGRESS,
        ..QueryAttr::default()
    };
    // SAFETY: no addresses, and room for none.
    let answer = unsafe { bpf(Command::ProgQuery, &mut attr) };
    // Kernels before 6.6 do not know the attach type: EINVAL.
    !matches!(answer, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// A program on an interface's TCX hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct OnHook {
    pub(in super::super) program_id: u32,
    /// 0: attached without a link.
    pub(in super::super) link_id: u32,
}

/// What is on an interface's TCX hook, from front to back.
pub(in super::super) fn tcx_programs(ifindex: u32, attach_type: u32) -> io::Result<Vec<OnHook>> {
    // The kernel allows at most 64 (BPF_MPROG_MAX).
    let mut programs = [0u32; 64];
    let mut links = [0u32; 64];
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type,
        prog_ids: super::address_mut(&mut programs),
        count: 64,
        link_ids: super::address_mut(&mut links),
        ..QueryAttr::default()
    };
    // SAFETY: both arrays have room for `count` ids.
    unsafe { bpf(Command::ProgQuery, &mut attr) }?;
    let count = usize::try_from(attr.count).expect("at most 64");
    let all = programs.into_iter().zip(links).take(count);
    Ok(all
        .map(|(program_id, link_id)| OnHook {
            program_id,
            link_id,
        })
        .collect())
}

/// What ids name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum IdOf {
    Map,
    Program,
    Link,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Opens an object by its id; `ENOENT`: there is none, `EPERM`: no CAP_SYS_ADMIN,
/// which this needs and nothing else here does.
pub(in super::super) fn by_id(what: IdOf, id: u32) -> io::Result<OwnedFd> {
    let command = match what {
        IdOf::Map => Command::MapFdById,
        IdOf::Program => Command::ProgFdById,
        IdOf::Link => Command::LinkFdById,
    };
    let mut attr = IdAttr {
        id,
        ..IdAttr::default()
    };
    // SAFETY: no addresses.
    unsafe { bpf_fd(command, &mut attr) }
}

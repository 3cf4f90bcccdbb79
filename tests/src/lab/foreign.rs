//! Somebody else's program on an interface: it lets everything through and asks
//! nobody behind it.
//!
//! Beside `sys`, the only file of the lab with `unsafe`: four commands of bpf(2).

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::host::Host;

/// Commands of bpf(2).
const PROG_LOAD: libc::c_int = 5;
const OBJ_GET: libc::c_int = 7;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
const INGRESS: u32 = 46;
const EGRESS: u32 = 47;
/// `BPF_F_BEFORE` with nobody named: the front.
const FRONT: u32 = 1 << 3;

/// Which way packets go that the program sees, from the node's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Coming in by the interface.
    Ingress,
    /// Going out by it.
    Egress,
}

/// The program. What it was attached to ends with it, but for filters.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    links: Vec<OwnedFd>,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log: [u32; 4],
    version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Path64 {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Create {
    program: u32,
    interface: u32,
    side: u32,
    flags: u32,
    rest: [u64; 2],
}

#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

impl Foreign {
    /// Loads it under a name of at most 15 bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn load(name: &str) -> Result<Self> {
        // r0 = 0 (`TCX_PASS`, `TC_ACT_OK`); exit.
        let code: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let license = c"GPL";
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        let mut load = Load {
            kind: SCHED_CLS,
            count: 2,
            code: code.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log: [0; 4],
            version: 0,
            flags: 0,
            name: bytes,
        };
        // SAFETY: code and licence outlive the call; it makes a descriptor.
        let program = unsafe { new_fd(PROG_LOAD, &mut load) }.context("load a program")?;
        let links = Vec::new();
        Ok(Self { program, links })
    }

    /// Attaches it to the node's side of a pod's link, before everybody else.
    ///
    /// # Errors
    /// The kernel's.
    pub fn come_first(&mut self, node: &Host, pod: &Host, side: Side) -> Result<()> {
        let interface = pod.node_interface().context("a pod's interface")?;
        let index = node.interface_index(interface)?;
        let link = node.netns().run(|| {
            let mut create = Create {
                program: raw(&self.program)?,
                interface: index,
                side: match side {
                    Side::Ingress => INGRESS,
                    Side::Egress => EGRESS,
                },
                flags: FRONT,
                rest: [0; 2],
            };
            // SAFETY: no addresses; it makes a descriptor.
            unsafe { new_fd(LINK_CREATE, &mut create) }
        })?;
        self.links.push(link.context("attach a program")?);
        Ok(())
    }

    /// Takes it off again wherever it was put first.
    pub fn leave(&mut self) {
        self.links.clear();
    }

    /// Puts it into a pinned link, in the place of what is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_over(&self, pin: &Path) -> Result<()> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let mut get = Path64 {
            path: path.as_ptr() as u64,
            fd: 0,
            flags: 0,
        };
        // SAFETY: the path outlives the call; it makes a descriptor.
        let link = unsafe { new_fd(OBJ_GET, &mut get) }
            .with_context(|| format!("open {}", pin.display()))?;
        let mut update = Update {
            link: raw(&link)?,
            program: raw(&self.program)?,
            flags: 0,
            old: 0,
        };
        // SAFETY: no addresses.
        unsafe { bpf(LINK_UPDATE, &mut update) }.context("take a link over")?;
        Ok(())
    }
}

fn raw(fd: &OwnedFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// # Safety
/// `attr` is laid out as the kernel reads it for this command, and every address
/// in it is valid for the call.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise; the size is the attribute's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    let result = libc::c_int::try_from(result).map_err(io::Error::other)?;
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// # Safety
/// As [`bpf`], and the command makes a descriptor.
unsafe fn new_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: made just now, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

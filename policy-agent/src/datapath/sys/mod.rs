//! The system calls that aya does not have: batches, object information, links
//! by interface index, and the grace period.
//!
//! This folder is the only place of the datapath with `unsafe` (but for the
//! registration of the event ring with tokio): [`elem`] reads
//! and writes map elements, [`link`] handles links and ids, [`mapping`] is
//! memory shared with the kernel, [`plain`] turns layouts into bytes, [`relay`] is
//! a program of a few instructions. Everything above works on safe functions.
//! Errors are the kernel's error numbers; what they mean for whom is said by the
//! callers.

pub(super) mod elem;
pub(super) mod link;
pub(super) mod mapping;
pub(super) mod plain;
pub(super) mod relay;

use std::{
    ffi::{CString, c_long},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

pub use plain::Plain;

/// Commands of bpf(2), `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgFdById = 13,
    MapFdById = 14,
    ObjInfoByFd = 15,
    ProgQuery = 16,
    MapLookupAndDelete = 21,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkFdById = 30,
    LinkDetach = 34,
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` has the layout that the kernel reads for this command, without padding
/// that is not written, and every address in it is valid for what the kernel
/// reads or writes there.
unsafe fn bpf<T>(command: Command, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: the caller's promise; the size is the attribute's own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i32,
            &raw mut *attr,
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Calls bpf(2) for a new file descriptor.
///
/// # Safety
///
/// As for [`bpf`], and the command returns a file descriptor.
unsafe fn bpf_fd<T>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    let fd = i32::try_from(fd).expect("file descriptors are ints");
    // SAFETY: the kernel has just made it for us (with O_CLOEXEC), and nobody
    // else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn address<T>(bytes: &[T]) -> u64 {
    bytes.as_ptr() as u64
}

fn address_mut<T>(bytes: &mut [T]) -> u64 {
    bytes.as_mut_ptr() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens what is pinned at a path.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr {
        pathname: path.as_ptr() as u64,
        ..ObjAttr::default()
    };
    // SAFETY: `path` is terminated by zero and outlives the call.
    unsafe { bpf_fd(Command::ObjGet, &mut attr) }
}

/// Pins an object at a path.
pub(super) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: raw(fd),
        file_flags: 0,
    };
    // SAFETY: as in `obj_get`.
    unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
}

/// What a file descriptor of bpf(2) refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Map,
    Program,
    Link,
    Other,
}

/// Tells maps, programs and links apart, by the name that the kernel gives to
/// their files (`anon_inode_getfd` in `kernel/bpf/syscall.c`).
pub(super) fn kind_of(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(
        match target.to_string_lossy().trim_start_matches("anon_inode:") {
            "bpf-map" => Kind::Map,
            "bpf-prog" => Kind::Program,
            "bpf_link" | "bpf-link" | "[bpf_link]" => Kind::Link,
            _ => Kind::Other,
        },
    )
}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The first `N` words of an object's information.
fn info<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u32; N]> {
    let mut words = [0u32; N];
    let mut attr = InfoAttr {
        bpf_fd: raw(fd),
        info_len: u32::try_from(size_of_val(&words)).expect("a few words"),
        info: address_mut(&mut words),
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `words`.
    unsafe { bpf(Command::ObjInfoByFd, &mut attr) }?;
    Ok(words)
}

/// What the kernel says of a map (`struct bpf_map_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapFacts {
    pub(super) map_type: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// Information about a map.
pub(super) fn map_facts(fd: BorrowedFd<'_>) -> io::Result<MapFacts> {
    let [map_type, id, key_size, value_size, max_entries, flags] = info::<6>(fd)?;
    Ok(MapFacts {
        map_type,
        id,
        key_size,
        value_size,
        max_entries,
        flags,
    })
}

/// The id of a program (`struct bpf_prog_info`: type, id).
pub(super) fn program_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let [_, id] = info::<2>(fd)?;
    Ok(id)
}

/// The name of a program, as far as the kernel keeps it (15 bytes); empty: it has
/// none. What does not belong into a line is left out: others choose it.
pub(super) fn program_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    /// Words before `name` in `struct bpf_prog_info`.
    const BEFORE: usize = 16;
    let words = info::<{ BEFORE + 4 }>(fd)?;
    let bytes = words
        .iter()
        .skip(BEFORE)
        .flat_map(|word| word.to_ne_bytes());
    let text = bytes.take_while(|byte| *byte != 0).map(char::from);
    Ok(text.filter(char::is_ascii_graphic).collect())
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;

fn create(map_type: u32, inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner.map_or(0, raw),
    };
    // SAFETY: no addresses.
    unsafe { bpf_fd(Command::MapCreate, &mut attr) }
}

/// Returns when every program that is running now has ended: an RCU grace
/// period.
///
/// The kernel promises exactly this to whoever writes to a map of maps
/// (`maybe_wait_bpf_programs` in `kernel/bpf/syscall.c`, since 4.18), so one is
/// made for the occasion. membarrier(2) would be a call less, but
/// `MEMBARRIER_CMD_GLOBAL` refuses kernels with `nohz_full` and does nothing on
/// one CPU. Takes about 10 ms (8 to 20 measured on two CPUs, 6.18): not for the path of an event.
pub(super) fn grace() -> io::Result<()> {
    use std::os::fd::AsFd;
    let inner = create(ARRAY, None)?;
    let outer = create(ARRAY_OF_MAPS, Some(inner.as_fd()))?;
    let key = 0u32.to_ne_bytes();
    elem::update(outer.as_fd(), &key, &inner.as_raw_fd().to_ne_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_with_a_zero_byte_is_refused_before_the_kernel_sees_it() {
        let error = c_path(Path::new("a\0b")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(c_path(Path::new("/sys/fs/bpf")).is_ok());
    }
}

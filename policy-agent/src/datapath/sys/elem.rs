//! Elements of maps, one by one and in batches, as bytes.
//!
//! Sizes are the caller's to get right; typed access is in `super::super::map`.
//! Batches need Linux 5.6 for hashes and arrays and 5.19 for LPM tries, all
//! below the oldest kernel that is promised.

use std::{io, os::fd::BorrowedFd};

use super::{Command, address, address_mut, bpf, raw};

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads the value of a key into `value`; false: there is none.
///
/// `key` and `value` have the map's sizes; a value of a per-CPU map has the
/// value's size rounded up to 8, times the number of possible CPUs.
pub(in super::super) fn lookup(
    fd: BorrowedFd<'_>,
    key: &[u8],
    value: &mut [u8],
) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: raw(fd),
        key: address(key),
        value: address_mut(value),
        ..ElemAttr::default()
    };
    // SAFETY: both buffers have the map's sizes (the caller's duty, checked
    // against the table of maps when the map is opened).
    found(unsafe { bpf(Command::MapLookup, &mut attr) })
}

/// Removes a key and reads the value that it had; false: there was none.
pub(in super::super) fn take(fd: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: raw(fd),
        key: address(key),
        value: address_mut(value),
        ..ElemAttr::default()
    };
    // SAFETY: as in `lookup`.
    found(unsafe { bpf(Command::MapLookupAndDelete, &mut attr) })
}

/// Writes a value. `flags`: 0 any, 1 only a new key, 2 only one that is there.
pub(in super::super) fn update(
    fd: BorrowedFd<'_>,
    key: &[u8],
    value: &[u8],
    flags: u64,
) -> io::Result<()> {
    let mut attr = ElemAttr {
        map_fd: raw(fd),
        pad: 0,
        key: address(key),
        value: address(value),
        flags,
    };
    // SAFETY: as in `lookup`; the kernel only reads.
    unsafe { bpf(Command::MapUpdate, &mut attr) }.map(drop)
}

/// Removes a key; false: it was not there.
pub(in super::super) fn delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: raw(fd),
        key: address(key),
        ..ElemAttr::default()
    };
    // SAFETY: as in `lookup`.
    found(unsafe { bpf(Command::MapDelete, &mut attr) })
}

/// Whether a map has any key; `key` is room for one.
pub(in super::super) fn has_any(fd: BorrowedFd<'_>, key: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: raw(fd),
        value: address_mut(key),
        ..ElemAttr::default()
    };
    // SAFETY: no key is given; the kernel writes the first one to `key`.
    found(unsafe { bpf(Command::MapNextKey, &mut attr) })
}

fn found<T>(result: io::Result<T>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where a batched walk of a map stands: a bucket's number or a key, whatever
/// the map's type needs. The longest key has 28 bytes.
#[derive(Debug, Default)]
pub(in super::super) struct Cursor {
    place: [u8; 32],
    started: bool,
}

impl Cursor {
    /// A walk of an array that starts behind this element.
    pub(in super::super) fn after(element: u32) -> Self {
        let mut cursor = Self {
            started: true,
            ..Self::default()
        };
        for (place, byte) in cursor.place.iter_mut().zip(element.to_ne_bytes()) {
            *place = byte;
        }
        cursor
    }
}

/// What one step of a walk brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// So many elements; there may be more.
    More(u32),
    /// So many elements; that was all.
    End(u32),
    /// A bucket of the hash holds more than there is room for.
    TooSmall,
}

/// Reads up to `count` elements.
pub(in super::super) fn lookup_batch(
    fd: BorrowedFd<'_>,
    cursor: &mut Cursor,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<Step> {
    let mut next = Cursor {
        started: true,
        ..Cursor::default()
    };
    let mut attr = BatchAttr {
        in_batch: if cursor.started {
            address(&cursor.place)
        } else {
            0
        },
        out_batch: address_mut(&mut next.place),
        keys: address_mut(keys),
        values: address_mut(values),
        count,
        map_fd: raw(fd),
        ..BatchAttr::default()
    };
    // SAFETY: `keys` and `values` have room for `count` elements of the map's
    // sizes (the caller's duty); a cursor has room for every kind of place.
    let result = unsafe { bpf(Command::MapLookupBatch, &mut attr) };
    *cursor = next;
    match result {
        Ok(_) => Ok(Step::More(attr.count)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(Step::End(attr.count)),
            Some(libc::ENOSPC) => Ok(Step::TooSmall),
            _ => Err(error),
        },
    }
}

/// Stopped within a batch.
#[derive(Debug)]
pub(in super::super) struct Stopped {
    /// Elements that were done.
    pub(in super::super) done: u32,
    /// Why the next was not.
    pub(in super::super) error: io::Error,
}

/// Writes `count` elements in order.
pub(in super::super) fn update_batch(
    fd: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> Result<(), Stopped> {
    let mut attr = BatchAttr {
        keys: address(keys),
        values: address(values),
        count,
        map_fd: raw(fd),
        ..BatchAttr::default()
    };
    // SAFETY: both hold `count` elements of the map's sizes; the kernel reads.
    finish(
        unsafe { bpf(Command::MapUpdateBatch, &mut attr) },
        count,
        attr.count,
    )
}

/// Removes `count` keys in order.
pub(in super::super) fn delete_batch(
    fd: BorrowedFd<'_>,
    keys: &[u8],
    count: u32,
) -> Result<(), Stopped> {
    let mut attr = BatchAttr {
        keys: address(keys),
        count,
        map_fd: raw(fd),
        ..BatchAttr::default()
    };
    // SAFETY: as in `update_batch`.
    finish(
        unsafe { bpf(Command::MapDeleteBatch, &mut attr) },
        count,
        attr.count,
    )
}

fn finish<T>(result: io::Result<T>, asked: u32, count: u32) -> Result<(), Stopped> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(Stopped {
            // The kernel writes how many it did, which is less than asked for;
            // where it did not begin it leaves the number as it was.
            done: if count < asked { count } else { 0 },
            error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_that_did_not_begin_did_nothing() {
        let refused = || Err::<(), _>(io::Error::from_raw_os_error(libc::ENOMEM));
        assert_eq!(finish(refused(), 5, 5).unwrap_err().done, 0);
        assert_eq!(finish(refused(), 5, 3).unwrap_err().done, 3);
        assert!(finish(Ok(()), 5, 5).is_ok());
    }

    #[test]
    fn walk_of_an_array_starts_behind_an_element() {
        let cursor = Cursor::after(0x0102_0304);
        assert!(cursor.started);
        assert_eq!(cursor.place[..4], 0x0102_0304u32.to_ne_bytes());
        assert_eq!(cursor.place[4..], [0; 28]);
    }
}

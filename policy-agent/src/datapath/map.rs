//! One map, typed: elements by key, in batches, or all of them.
//!
//! Sizes were compared with the table of maps before a [`TypedMap`] is made, so
//! reads never meet another layout.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use policy_common::abi::maps::MapSpec;

use super::sys::{
    Plain,
    elem::{self, Cursor, Step, Stopped},
    plain,
};

/// Elements that one system call reads or writes at most.
const BATCH: usize = 16_384;
/// Buckets of a hash may be long; beyond this something is wrong.
const BATCH_LIMIT: usize = 1 << 22;

/// A map with keys `K` and values `V`.
#[derive(Debug)]
pub struct TypedMap<K, V> {
    fd: OwnedFd,
    spec: &'static MapSpec,
    _layout: PhantomData<fn() -> (K, V)>,
}

/// A map operation failed.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: {what}: {source}")]
pub struct MapError {
    /// The map.
    pub map: &'static str,
    /// What was tried.
    pub what: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A batch stopped after `done` elements.
#[derive(Debug)]
pub(super) struct BatchError {
    pub(super) done: usize,
    pub(super) error: MapError,
}

impl<K: Plain, V: Plain> TypedMap<K, V> {
    /// Takes a map whose layout was compared with `spec`.
    pub(super) fn new(fd: OwnedFd, spec: &'static MapSpec) -> Self {
        assert!(
            spec.key_size as usize == size_of::<K>() && spec.value_size as usize == size_of::<V>(),
            "{} is opened with another layout than the table says",
            spec.name
        );
        Self {
            fd,
            spec,
            _layout: PhantomData,
        }
    }

    /// What the table of maps says of it.
    #[must_use]
    pub const fn spec(&self) -> &'static MapSpec {
        self.spec
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// Whatever the kernel answers but "not there".
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut value = vec![0; size_of::<V>()];
        match elem::lookup(self.fd.as_fd(), plain::bytes(key), &mut value) {
            Ok(true) => Ok(plain::read(&value)),
            Ok(false) => Ok(None),
            Err(source) => Err(self.error("lookup", source)),
        }
    }

    /// Every element. Not a snapshot: what changes meanwhile may be missing or
    /// twice.
    ///
    /// # Errors
    ///
    /// Whatever the kernel answers.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut entries = Vec::new();
        self.walk(Cursor::default(), usize::MAX, |key, value| {
            entries.push((key, value));
        })?;
        Ok(entries)
    }

    /// Elements `start..start + count` of an array.
    ///
    /// # Errors
    ///
    /// Whatever the kernel answers.
    pub(super) fn range(&self, start: u32, count: usize) -> Result<Vec<V>, MapError> {
        let mut values = Vec::new();
        let cursor = match start.checked_sub(1) {
            Some(before) => Cursor::after(before),
            None => Cursor::default(),
        };
        self.walk(cursor, count, |_, value| values.push(value))?;
        Ok(values)
    }

    fn walk(
        &self,
        mut cursor: Cursor,
        limit: usize,
        mut each: impl FnMut(K, V),
    ) -> Result<(), MapError> {
        let mut room = BATCH.min(limit).min(self.spec.max_entries as usize).max(1);
        let mut left = limit;
        while left > 0 {
            let count = room.min(left);
            let mut keys = vec![0; count * size_of::<K>()];
            let mut values = vec![0; count * size_of::<V>()];
            let step = elem::lookup_batch(
                self.fd.as_fd(),
                &mut cursor,
                &mut keys,
                &mut values,
                narrow(count),
            )
            .map_err(|source| self.error("batched lookup", source))?;
            let (found, more) = match step {
                Step::More(found) => (found as usize, true),
                Step::End(found) => (found as usize, false),
                Step::TooSmall if room < BATCH_LIMIT => {
                    room *= 2;
                    continue;
                }
                Step::TooSmall => {
                    return Err(self.error("batched lookup", io::ErrorKind::OutOfMemory.into()));
                }
            };
            let keys = keys.chunks_exact(size_of::<K>());
            let values = values.chunks_exact(size_of::<V>());
            for (key, value) in keys.zip(values).take(found) {
                if let (Some(key), Some(value)) = (plain::read(key), plain::read(value)) {
                    each(key, value);
                }
            }
            left = left.saturating_sub(found);
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Whether the map is empty. Not for arrays, which never are.
    ///
    /// # Errors
    ///
    /// Whatever the kernel answers.
    pub fn is_empty(&self) -> Result<bool, MapError> {
        let mut key = vec![0; size_of::<K>()];
        elem::has_any(self.fd.as_fd(), &mut key)
            .map(|any| !any)
            .map_err(|source| self.error("first key", source))
    }

    /// Writes one element.
    pub(super) fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        elem::update(self.fd.as_fd(), plain::bytes(key), plain::bytes(value), 0)
            .map_err(|source| self.error("update", source))
    }

    /// Writes one element if its key is not there; false: it is.
    pub(super) fn set_new(&self, key: &K, value: &V) -> Result<bool, MapError> {
        const NOEXIST: u64 = 1;
        match elem::update(
            self.fd.as_fd(),
            plain::bytes(key),
            plain::bytes(value),
            NOEXIST,
        ) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(source) => Err(self.error("update", source)),
        }
    }

    /// Removes a key; false: it was not there.
    pub(super) fn remove(&self, key: &K) -> Result<bool, MapError> {
        elem::delete(self.fd.as_fd(), plain::bytes(key))
            .map_err(|source| self.error("delete", source))
    }

    /// Removes a key and gives the value that it had.
    pub(super) fn take(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut value = vec![0; size_of::<V>()];
        match elem::take(self.fd.as_fd(), plain::bytes(key), &mut value) {
            Ok(true) => Ok(plain::read(&value)),
            Ok(false) => Ok(None),
            Err(source) => Err(self.error("lookup and delete", source)),
        }
    }

    /// Writes elements in order, in as few system calls as there can be.
    pub(super) fn set_all(&self, keys: &[K], values: &[V]) -> Result<(), BatchError> {
        let mut done = 0;
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            elem::update_batch(
                self.fd.as_fd(),
                plain::slice_bytes(keys),
                plain::slice_bytes(values),
                narrow(keys.len()),
            )
            .map_err(|stopped| self.stopped(done, "batched update", stopped))?;
            done += keys.len();
        }
        Ok(())
    }

    /// Removes keys in order; one that is not there is as good as removed.
    pub(super) fn remove_all(&self, keys: &[K]) -> Result<(), BatchError> {
        let mut done = 0;
        while let Some(rest) = keys.get(done..).filter(|rest| !rest.is_empty()) {
            let batch = rest.get(..BATCH.min(rest.len())).unwrap_or(rest);
            let result = elem::delete_batch(
                self.fd.as_fd(),
                plain::slice_bytes(batch),
                narrow(batch.len()),
            );
            match result {
                Ok(()) => done += batch.len(),
                // The kernel stops at a key that is not there: go on behind it.
                Err(stopped) if stopped.error.raw_os_error() == Some(libc::ENOENT) => {
                    done += stopped.done as usize + 1;
                }
                Err(stopped) => return Err(self.stopped(done, "batched delete", stopped)),
            }
        }
        Ok(())
    }

    fn stopped(&self, before: usize, what: &'static str, stopped: Stopped) -> BatchError {
        BatchError {
            done: before + stopped.done as usize,
            error: self.error(what, stopped.error),
        }
    }

    pub(super) fn error(&self, what: &'static str, source: io::Error) -> MapError {
        MapError {
            map: self.spec.name,
            what,
            source,
        }
    }
}

impl<K, V> AsFd for TypedMap<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("at most BATCH_LIMIT")
}

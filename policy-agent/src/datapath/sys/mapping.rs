//! Arrays that user space maps (`BPF_F_MMAPABLE`): reads and stores without a
//! system call, whole aligned words at a time.
//!
//! The `bpf` system call copies bytes, so a packet could see half of a word;
//! a store through the mapping is one instruction.

use std::{
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::plain::{self, Plain};

/// A mapped array of `T`.
#[derive(Debug)]
pub(in super::super) struct Mapping<T> {
    base: NonNull<u8>,
    bytes: usize,
    elements: u32,
    _elements: PhantomData<T>,
}

// SAFETY: the memory is the kernel's and outlives threads; every access through
// a shared reference is atomic.
unsafe impl<T> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapping<T> {}

impl<T: Plain> Mapping<T> {
    /// Elements of an array map lie 8 bytes apart or a multiple of it.
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8));
        size_of::<T>() / 8
    };

    /// Maps an array whose value is a `T` and that has this many elements.
    pub(in super::super) fn new(map: BorrowedFd<'_>, elements: u32) -> io::Result<Self> {
        // The kernel rounds up to pages, here and in `munmap`.
        let bytes = Self::WORDS * 8 * elements as usize;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).expect("mmap never answers null");
        Ok(Self {
            base,
            bytes,
            elements,
            _elements: PhantomData,
        })
    }

    /// Number of elements.
    pub(in super::super) const fn len(&self) -> u32 {
        self.elements
    }

    /// Copies an element, word by word; `None` beyond the end.
    pub(in super::super) fn read(&self, index: u32) -> Option<T> {
        let mut bytes = Vec::with_capacity(size_of::<T>());
        for word in 0..Self::WORDS {
            let value = self.word(index, word * 8)?.load(Ordering::Relaxed);
            bytes.extend_from_slice(&value.to_ne_bytes());
        }
        plain::read(&bytes)
    }

    /// Stores 8 bytes at an offset in an element, with one instruction, after
    /// everything that was stored before.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the element does not exist or the offset is not that
    /// of an aligned word in it.
    pub(in super::super) fn store(&self, index: u32, offset: usize, value: u64) -> io::Result<()> {
        let word = self
            .word(index, offset)
            .ok_or(io::ErrorKind::InvalidInput)?;
        word.store(value, Ordering::Release);
        Ok(())
    }

    /// Stores 4 bytes at an offset in an element, likewise.
    ///
    /// # Errors
    ///
    /// As [`Self::store`].
    pub(in super::super) fn store32(
        &self,
        index: u32,
        offset: usize,
        value: u32,
    ) -> io::Result<()> {
        if !offset.is_multiple_of(4) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let place = self
            .place(index, offset, 4)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: within the mapping, aligned, and only accessed atomically.
        unsafe { AtomicU32::from_ptr(place.cast()) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Sets or clears bits of the 4 bytes at an offset in an element, in one
    /// operation.
    ///
    /// # Errors
    ///
    /// As [`Self::store`].
    pub(in super::super) fn set_bits32(
        &self,
        index: u32,
        offset: usize,
        bits: u32,
        on: bool,
    ) -> io::Result<()> {
        if !offset.is_multiple_of(4) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let place = self
            .place(index, offset, 4)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: as in `store32`.
        let word = unsafe { AtomicU32::from_ptr(place.cast()) };
        if on {
            word.fetch_or(bits, Ordering::AcqRel);
        } else {
            word.fetch_and(!bits, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Writes a whole element, the word at `last` after all others.
    ///
    /// # Errors
    ///
    /// As [`Self::store`].
    pub(in super::super) fn write(&self, index: u32, value: &T, last: usize) -> io::Result<()> {
        let words = || {
            plain::bytes(value)
                .chunks_exact(8)
                .enumerate()
                .map(|(i, word)| (i * 8, u64::from_ne_bytes(word.try_into().expect("8 bytes"))))
        };
        for (offset, word) in words().filter(|&(offset, _)| offset != last) {
            self.store(index, offset, word)?;
        }
        for (offset, word) in words().filter(|&(offset, _)| offset == last) {
            self.store(index, offset, word)?;
        }
        Ok(())
    }

    fn word(&self, index: u32, offset: usize) -> Option<&AtomicU64> {
        if !offset.is_multiple_of(8) {
            return None;
        }
        let place = self.place(index, offset, 8)?;
        // SAFETY: within the mapping, aligned, and only accessed atomically.
        Some(unsafe { AtomicU64::from_ptr(place.cast()) })
    }

    fn place(&self, index: u32, offset: usize, size: usize) -> Option<*mut u8> {
        if index >= self.elements || offset + size > size_of::<T>() {
            return None;
        }
        let offset = index as usize * size_of::<T>() + offset;
        // SAFETY: below `elements * size_of::<T>()`, hence within the mapping.
        Some(unsafe { self.base.as_ptr().add(offset) })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; no reference into it outlives `self`.
        // Nothing can be done about a failure, and none is possible.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

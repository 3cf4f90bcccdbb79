//! The run-time settings, read where they are needed: a lookup in an array of one
//! is a constant address to the JIT.

use core::mem::offset_of;

use policy_common::abi::config::Config;

use crate::maps;

/// Flags and mark's shift: what every packet needs.
#[inline(always)]
pub(crate) fn head() -> (u32, u32) {
    (
        setting(offset_of!(Config, flags)),
        setting(offset_of!(Config, mark_shift)),
    )
}

/// A setting of eight bytes, by its offset in [`Config`].
#[inline(always)]
pub(crate) fn setting64(offset: usize) -> u64 {
    // SAFETY: any eight bytes are an integer.
    unsafe { read(offset) }
}

/// A setting, by its offset in [`Config`].
#[inline(always)]
pub(crate) fn setting(offset: usize) -> u32 {
    // SAFETY: any four bytes are an integer.
    unsafe { read(offset) }
}

/// Reads an integer, whose size divides the offset.
///
/// # Safety
///
/// Any bytes must be a value of the type.
#[inline(always)]
unsafe fn read<T: Copy + Default>(offset: usize) -> T {
    let Some(config) = maps::CONFIG.get_ptr(0) else {
        // Element 0 of an array of one is always there.
        return T::default();
    };
    let config: *const Config = config;
    // SAFETY: array elements stay and are aligned to eight bytes; one aligned load
    // within the element, of a value that any bytes are.
    unsafe {
        config
            .cast::<T>()
            .add(offset / size_of::<T>())
            .read_volatile()
    }
}

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
    let Some(config) = maps::CONFIG.get_ptr(0) else {
        // As in `setting`.
        return 0;
    };
    let config: *const Config = config;
    // SAFETY: as in `setting`; the element is aligned to eight bytes.
    unsafe { config.cast::<u64>().add(offset / 8).read_volatile() }
}

/// A setting, by its offset in [`Config`].
#[inline(always)]
pub(crate) fn setting(offset: usize) -> u32 {
    let Some(config) = maps::CONFIG.get_ptr(0) else {
        // Element 0 of an array of one is always there.
        return 0;
    };
    let config: *const Config = config;
    // SAFETY: array elements stay; one aligned load of one of the fields.
    unsafe { config.cast::<u32>().add(offset / 4).read_volatile() }
}

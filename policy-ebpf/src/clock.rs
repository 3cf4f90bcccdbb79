//! Time, in the two forms that are cheap here.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};

/// CLOCK_MONOTONIC_COARSE, nanoseconds: a tick old at most.
#[inline(always)]
pub(crate) fn coarse_ns() -> u64 {
    // SAFETY: the helper takes no arguments and only reads the clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Kernel ticks: free where the JIT inlines the helper.
#[inline(always)]
pub(crate) fn ticks64() -> u64 {
    // SAFETY: the helper takes no arguments and only reads the tick counter.
    unsafe { bpf_jiffies64() }
}

/// Kernel ticks, low 32 bits: free where the JIT inlines the helper.
#[expect(
    clippy::cast_possible_truncation,
    reason = "ticks are compared modulo 2^32"
)]
#[inline(always)]
pub(crate) fn ticks() -> u32 {
    ticks64() as u32
}

//! Each verdict as a line of text, by aya-log: for development only, because it
//! costs every packet. Users' events are in [`crate::emit`].

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;

/// Logs a verdict. A global function, so that its stack is its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_log(slot: u32, rule: u32, reason_and_direction: u32) -> u32 {
    // The macro asks for a context and does not look at it; an argument that
    // nobody reads would not survive the optimiser.
    let ctx = TcContext::new(core::ptr::null_mut());
    let (reason, direction) = (reason_and_direction >> 1, reason_and_direction & 1);
    debug!(
        &ctx,
        "slot {} direction {} reason {} rule {}", slot, direction, reason, rule
    );
    1
}

//! Ctrl-C: the demo ends at its next step, and what it made is removed.
//!
//! Without this an interrupted demo would leave its namespaces and its agent to
//! the sweep of the next lab.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Release);
}

/// Takes note of SIGINT, SIGTERM and SIGHUP from now on. Programs started later
/// have the default handlers again.
pub(super) fn watch() {
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: every field of `sigaction` may be zero; only some are set after.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the structure is initialised, and the handler stores to an
        // atomic only, which is async-signal-safe.
        let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        assert_eq!(result, 0, "the signals exist and may be caught");
    }
}

/// Goes on, or ends what the user wants to end.
///
/// # Errors
/// When a signal came.
pub(super) fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Acquire), "interrupted");
    Ok(())
}

/// Waits until the user presses Enter; an end of input counts as that.
///
/// # Errors
/// When a signal came.
pub(super) fn wait_for_enter() -> Result<()> {
    let stdin = std::io::stdin();
    loop {
        check()?;
        // A signal between the two calls would be noticed one key press late.
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    stdin.read_line(&mut String::new())?;
    check()
}

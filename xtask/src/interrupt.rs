//! Ctrl-C and its kin, as a flag: for tasks that must tidy up before they end.
//!
//! A task that calls [`catch`] is no longer ended by the first signal; running
//! jobs and waits notice it through [`check`] and fail, and the task's ordinary
//! way out does the rest. A second signal ends the process at once.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

static SEEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on, signals that ask this process to end only set the flag.
///
/// # Errors
///
/// When the handlers cannot be installed.
pub(crate) fn catch() -> Result<()> {
    let seen = SEEN.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Handlers run in this order: the first signal finds the flag unset.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(seen))
            .and_then(|_id| flag::register(signal, Arc::clone(seen)))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    Ok(())
}

/// Fails once a signal has come.
///
/// # Errors
///
/// As said.
pub(crate) fn check() -> Result<()> {
    if SEEN.get().is_some_and(|seen| seen.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// From here on [`check`] passes again, until the next signal: for tidying up.
pub(crate) fn clear() {
    if let Some(seen) = SEEN.get() {
        seen.store(false, Ordering::Relaxed);
    }
}

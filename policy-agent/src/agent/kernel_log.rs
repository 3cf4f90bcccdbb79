//! What the kernel programs log by aya-log, on standard error: for development,
//! with programs built by `cargo xtask build --debug-log`.

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Writes records to standard error.
#[derive(Debug, Clone)]
struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("kernel: {}", record.args());
    }

    fn flush(&self) {}
}

/// Prints what a program logs, for as long as the agent runs.
///
/// # Errors
/// The program was built without logging, or the ring cannot be read.
pub(super) fn follow(program_id: u32) -> anyhow::Result<()> {
    let logger = EbpfLogger::init_from_id_with_logger(program_id, StandardError)?;
    // SAFETY: the logger owns its ring's descriptor, which stays open and the same
    // until the `AsyncFd`, its only owner from here on, drops it.
    let mut ready = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
    tokio::spawn(async move {
        while let Ok(mut guard) = ready.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

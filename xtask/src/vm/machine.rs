//! The guest: qemu with a serial line, and nothing else.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, bail};

use super::kernel::Kernel;
use crate::{job::Job, tally::Tally};

/// Emulated, all tests take some ten minutes.
const LIMIT: Duration = Duration::from_secs(40 * 60);
/// What the guest prints last, see tests/vm/init.sh.
const ENDED: &str = "vm: all test programs have ended";

/// Boots the kernel and runs the tests; whether all programs came to their end.
///
/// # Errors
///
/// When qemu cannot be started or takes too long.
pub(crate) fn run_tests(
    kernel: &Kernel,
    image: &Path,
    filter: Option<&str>,
    tally: &mut Tally,
) -> Result<bool> {
    if filter.is_some_and(|filter| !filter.chars().all(is_plain)) {
        bail!("a filter for a guest may have letters, digits, `_` and `:` only");
    }
    let filter = filter.map_or_else(String::new, |filter| format!(" policy.filter={filter}"));
    let qemu = qemu(kernel, image, &filter);
    let mut ended = false;
    let mut failed_before = 0;
    Job::new("qemu", qemu, LIMIT).run_with_lines(|line| {
        // A serial line ends its lines with a carriage return.
        let line = line.trim_end();
        ended |= line == ENDED;
        match line.strip_prefix("vm: failed: ") {
            // Tests that failed have been counted; a program that died has not.
            Some(program) if tally.failed == failed_before => tally.step_failed(program),
            _ if line.starts_with("vm: ") => failed_before = tally.failed,
            _ => tally.read(line),
        }
    })?;
    Ok(ended)
}

/// Boots the kernel with a shell on the terminal.
///
/// # Errors
///
/// When qemu cannot be started.
pub(crate) fn shell(kernel: &Kernel, image: &Path) -> Result<()> {
    println!("    `exit` ends the shell and the guest; Ctrl-A X ends qemu");
    Job::new("qemu", qemu(kernel, image, " policy.shell"), LIMIT).run()
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn qemu(kernel: &Kernel, image: &Path, append: &str) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    // Emulated even where there is /dev/kvm: inside another virtual machine it may
    // be there and hang.
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi"])
        .args(["-cpu", "max", "-smp", "2"])
        .args(["-m", "3G", "-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(image)
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1{append}"));
    qemu
}

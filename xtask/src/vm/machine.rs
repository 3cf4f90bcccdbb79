//! The guest: qemu with a serial line, and nothing else.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::kernel::Kernel;
use crate::{job::Job, tally::Tally};

/// A shell ends when its user does, or the day.
const SHELL_LIMIT: Duration = Duration::from_secs(12 * 60 * 60);
/// What the guest prints last, see tests/vm/init.sh.
const ENDED: &str = "vm: all test programs have ended";

/// Boots the kernel and runs the tests, and shows what the guest prints, each line
/// behind the kernel's series and the seconds since the start.
///
/// Everything that is not as it must be is a failure in the tally: a program that
/// died, a guest that did not come to its end or not within `limit`, tests that ran
/// and did not report (`expected` is how many there are).
pub(super) fn run_tests(kernel: &Kernel, image: &Path, expected: usize, limit: Duration) -> Tally {
    let start = Instant::now();
    let mut guest = Guest::default();
    let job = Job::new("qemu", qemu(kernel, image, ""), limit).quiet();
    let ran = job.run_with_lines(|line| {
        println!(
            "{:5}{:5} s  {line}",
            kernel.series,
            start.elapsed().as_secs()
        );
        guest.read(line);
    });
    match ran {
        Err(error) => guest.tally.step_failed(&format!("{error:#}")),
        Ok(_) if !guest.ended => guest.tally.step_failed("the guest ended in the middle"),
        Ok(_) => {}
    }
    guest.conclude(expected)
}

/// What a guest has said so far.
#[derive(Default)]
struct Guest {
    tally: Tally,
    ended: bool,
    /// When the present program began.
    failed_before: usize,
}

impl Guest {
    fn read(&mut self, line: &str) {
        self.ended |= line == ENDED;
        match line.strip_prefix("vm: failed: ") {
            // Tests that failed have been counted; a program that died has not.
            Some(program) if self.tally.failed == self.failed_before => {
                self.tally.step_failed(program);
            }
            _ if line.starts_with("vm: ") => self.failed_before = self.tally.failed,
            _ => self.tally.read(line),
        }
    }

    fn conclude(mut self, expected: usize) -> Tally {
        let reported = self.tally.passed + self.tally.failed;
        if self.tally.failed == 0 && reported != expected {
            self.tally
                .step_failed(&format!("{reported} of {expected} tests reported"));
        }
        self.tally
    }
}

/// Boots the kernel with a shell on the terminal.
///
/// # Errors
///
/// When qemu cannot be started.
pub(super) fn shell(kernel: &Kernel, image: &Path) -> Result<()> {
    println!("    `exit` ends the shell and the guest; Ctrl-A X ends qemu");
    Job::new("qemu", qemu(kernel, image, " policy.shell"), SHELL_LIMIT).run()
}

fn qemu(kernel: &Kernel, image: &Path, append: &str) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    // Emulated even where there is /dev/kvm: inside another virtual machine it may
    // be there and hang.
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi"])
        .args(["-cpu", "max,la57=off", "-smp", "1"])
        .args(["-m", "3G", "-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(image)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 mitigations=off{append}"
        ));
    qemu
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured";

    fn tally(lines: &[&str], expected: usize) -> Tally {
        let mut guest = Guest::default();
        lines.iter().for_each(|line| guest.read(line));
        guest.conclude(expected)
    }

    #[test]
    fn tests_of_all_programs_are_added() {
        let tally = tally(&["vm: a", PASSED, "vm: b", PASSED, ENDED], 4);
        assert_eq!((tally.passed, tally.is_clean()), (4, true));
    }

    #[test]
    fn program_that_dies_is_one_failure_and_failed_tests_are_not_counted_twice() {
        assert_eq!(tally(&["vm: a", "vm: failed: a"], 2).failures, ["a"]);
        let failed = [
            "vm: a",
            "test x ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured",
            "vm: failed: a",
        ];
        assert_eq!(tally(&failed, 2).failures, ["x"]);
    }

    #[test]
    fn tests_that_did_not_report_are_a_failure() {
        let tally = tally(&["vm: a", PASSED, ENDED], 3);
        assert_eq!(tally.failures, ["2 of 3 tests reported"]);
    }
}

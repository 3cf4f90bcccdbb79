//! Looks again at tests that failed once: is it the test, or the machine?
//!
//! Over a thousand tests measure times on real sockets, side by side on two
//! cores. What fails there once, is run again alone, as often as [`Limits`] say.
//! One more failure, and it has failed. If there is none, the test is told as
//! unsteady, by name and at the end, and the run goes on: a defect that shows in
//! every fourth run is found so with 95 % certainty, a rarer one has its output
//! in the log of the first time. More tests than [`Limits::tests`] are no
//! accident: they have failed, and nothing is run again.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    job::{Job, announce},
    tally::Tally,
};

/// How much may be run again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Unsteady tests in all.
    pub(crate) tests: usize,
    /// Times that each has to pass, if there is time.
    pub(crate) times: usize,
    /// Times that each has to pass in any case.
    pub(crate) least: usize,
    /// After how long `least` is enough.
    pub(crate) time: Duration,
}

/// Those of `cargo xtask test`.
pub(crate) const LIMITS: Limits = Limits {
    tests: 2,
    times: 10,
    least: 3,
    time: Duration::from_secs(4 * 60),
};

/// Settles what failed in `run`, whose tests `cargo` gives again: moves the tests
/// that pass alone from the failures to the unsteady ones.
pub(crate) fn settle(
    run: &mut Tally,
    unsteady_before: usize,
    limits: Limits,
    cargo: impl Fn() -> Command,
) {
    settle_with(run, unsteady_before, limits, |name| once(name, cargo()));
}

fn settle_with(
    run: &mut Tally,
    unsteady_before: usize,
    limits: Limits,
    mut passes: impl FnMut(&str) -> bool,
) {
    // Failures without a name are no tests: a binary that ended early.
    let all_named = run.failed == run.failures.len();
    if !all_named || run.failed + unsteady_before > limits.tests {
        return;
    }
    for name in run.failures.clone() {
        announce(&format!("again, alone: {name}"));
        if is_steady(limits, || passes(&name)) {
            run.passed_after_all(&name);
        }
    }
}

/// Whether it passes as often as it has to.
fn is_steady(limits: Limits, mut passes: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    for time in 0..limits.times {
        if time >= limits.least && start.elapsed() >= limits.time {
            return true;
        }
        if !passes() {
            return false;
        }
    }
    true
}

/// Runs one test. That no test has the name is a failure.
fn once(name: &str, mut cargo: Command) -> bool {
    cargo.args(["--", "--exact", name]);
    let mut tally = Tally::default();
    let job = Job::new(name, cargo, LIMITS.time).quiet();
    let succeeded = job.run_with_lines(|line| {
        tally.read(line);
        // What it says when it fails is what somebody needs; not that other
        // binaries have no test of the name.
        if !line.is_empty() && !line.contains("0 passed; 0 failed") && line != "running 0 tests" {
            println!("{line}");
        }
    });
    succeeded.is_ok_and(|success| success) && tally.is_clean() && tally.passed > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Limits = Limits {
        tests: 2,
        times: 4,
        least: 2,
        time: Duration::from_secs(3600),
    };

    fn run(failures: &[&str]) -> Tally {
        let mut run = Tally::default();
        for name in failures {
            run.read(&format!("test {name} ... FAILED"));
        }
        let failed = failures.len();
        run.read(&format!(
            "test result: FAILED. 7 passed; {failed} failed; 0 ignored"
        ));
        run
    }

    #[test]
    fn test_that_passes_alone_is_unsteady_and_one_that_does_not_has_failed() {
        let mut both = run(&["a::noisy", "b::broken"]);
        let mut asked = Vec::new();
        settle_with(&mut both, 0, FEW, |name| {
            asked.push(name.to_owned());
            // The broken one passes once more, and not the second time.
            name == "a::noisy" || asked.len() == 5
        });
        assert_eq!(both.failures, ["b::broken"]);
        assert_eq!(both.unsteady, ["a::noisy"]);
        assert_eq!((both.passed, both.failed), (8, 1));
        assert!(!both.is_clean());
        assert_eq!(asked.len(), 6);
    }

    #[test]
    fn one_unsteady_test_alone_is_clean() {
        let mut one = run(&["a::noisy"]);
        settle_with(&mut one, 1, FEW, |_| true);
        assert!(one.is_clean());
        assert_eq!((one.passed, one.failed), (8, 0));
    }

    #[test]
    fn many_failures_are_no_accident() {
        for (failures, before) in [(&["a", "b", "c"][..], 0), (&["a", "b"][..], 1)] {
            let mut many = run(failures);
            settle_with(&mut many, before, FEW, |_| panic!("nothing is run again"));
            assert_eq!(many.failed, failures.len());
        }
    }

    #[test]
    fn binary_that_ended_without_naming_a_test_has_failed() {
        let mut run = run(&["a::noisy"]);
        run.step_failed("kernel tests");
        run.failures.pop();
        settle_with(&mut run, 0, FEW, |_| panic!("nothing is run again"));
        assert_eq!(run.failed, 2);
    }

    #[test]
    fn long_tests_are_run_fewer_times_and_never_fewer_than_the_least() {
        let hurried = Limits {
            time: Duration::ZERO,
            ..FEW
        };
        let mut asked = 0;
        assert!(is_steady(hurried, || {
            asked += 1;
            true
        }));
        assert_eq!(asked, 2);
        assert!(!is_steady(hurried, || false));
    }
}

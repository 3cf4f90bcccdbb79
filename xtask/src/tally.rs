//! Adds up what `cargo test` prints.
//!
//! Reads the closing line of each test binary and the names of failed tests.
//! A test run that leaves a test out counts as failed: nothing is skipped silently.

/// What the tests of one or more runs came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that were left out by `#[ignore]`.
    pub(crate) ignored: usize,
    /// The names of those that failed, and of steps that did.
    pub(crate) failures: Vec<String>,
    /// Tests that failed beside others and then passed alone, see `again`.
    pub(crate) unsteady: Vec<String>,
}

impl Tally {
    /// Takes note of one line of standard output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    /// Takes note of a step that failed without a test that did: one failure,
    /// under the step's own name.
    pub(crate) fn step_failed(&mut self, step: &str) {
        self.failed += 1;
        self.failures.push(step.to_owned());
    }

    /// Takes note of a failed test that passed when it ran again.
    pub(crate) fn passed_after_all(&mut self, test: &str) {
        self.failures.retain(|name| name != test);
        self.failed -= 1;
        self.passed += 1;
        self.unsteady.push(test.to_owned());
    }

    /// Adds what another run came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self.unsteady.extend(other.unsteady);
    }

    /// Whether everything passed.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0 && self.ignored == 0
    }
}

/// The number before `what` in `ok. 3 passed; 0 failed; ..`.
fn count(counts: &str, what: &str) -> usize {
    counts
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn the_results_of_all_binaries_are_added() {
        let tally = tally(
            "running 2 tests\n\
             test a::ok ... ok\n\
             test a::bad ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 9 filtered out; finished in 1.25s\n",
        );
        assert_eq!((tally.passed, tally.failed, tally.ignored), (13, 1, 3));
        assert_eq!(tally.failures, ["a::bad"]);
        assert!(!tally.is_clean());
    }

    #[test]
    fn what_a_test_prints_is_no_result() {
        assert_eq!(
            tally("test of 3 passed; 4 failed\nresult: 5 passed"),
            Tally::default()
        );
    }

    #[test]
    fn an_ignored_test_is_not_clean_and_a_failed_step_counts() {
        assert!(!tally("test result: ok. 1 passed; 0 failed; 1 ignored;").is_clean());
        let mut clean = tally("test result: ok. 1 passed; 0 failed; 0 ignored;");
        assert!(clean.is_clean());
        clean.step_failed("clippy");
        assert_eq!(
            (clean.failed, clean.failures.as_slice()),
            (1, &["clippy".to_owned()][..])
        );
    }
}

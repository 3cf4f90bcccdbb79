//! How long to wait after a failure: longer each time, and never all nodes at
//! the same instant.

use std::time::Duration;

/// Waits that double.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// `first` and `longest` are the upper ends of the first wait and of any.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The wait after one more failure: between half and all of what is due,
    /// where `random` (0 to 1) says.
    pub(super) fn after_failure(&mut self, random: f64) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let due = self.first.saturating_mul(factor).min(self.longest);
        // Beyond this the wait does not grow any more.
        self.failures = (self.failures + 1).min(31);
        due.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Something worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since something worked.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(random: f64, count: usize) -> Vec<u128> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits = std::iter::repeat_with(|| backoff.after_failure(random).as_millis());
        waits.take(count).collect()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(waits(1.0, 6), [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(*waits(1.0, 100).last().unwrap(), 1000);
    }

    #[test]
    fn chance_takes_up_to_half_of_a_wait_and_no_more() {
        assert_eq!(waits(0.0, 4), [50, 100, 200, 400]);
        assert_eq!(waits(0.5, 2), [75, 150]);
        assert_eq!(waits(7.0, 2), [100, 200]);
    }

    #[test]
    fn success_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        backoff.after_failure(1.0);
        backoff.after_failure(1.0);
        assert_eq!(backoff.failures(), 2);
        backoff.reset();
        assert_eq!(backoff.failures(), 0);
        assert_eq!(backoff.after_failure(1.0).as_millis(), 100);
    }
}

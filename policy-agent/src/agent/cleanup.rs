//! What a change leaves to be removed: after a grace period, off the event path.
//!
//! A plan puts everything that packets may still be looking at behind its first
//! [`Op::Grace`]. That part waits here while a thread waits for the grace period.
//! A change that comes meanwhile makes it obsolete: the next plan finds the same
//! left-overs in the mirror and brings its own.

use policy_core::ops::Op;

/// Changes in a row that may put removal off: then one of them waits for it.
const MOST_DEFERRED: u32 = 32;

/// What waits to be removed.
#[derive(Debug, Default)]
pub(super) struct Cleanup {
    ops: Vec<Op>,
    deferred: u32,
}

impl Cleanup {
    /// Splits a plan: what is to be done now comes back, the rest waits. True if
    /// there is something to wait for.
    pub(super) fn split(&mut self, mut ops: Vec<Op>) -> (Vec<Op>, bool) {
        let first = ops.iter().position(|op| matches!(op, Op::Grace));
        self.ops.clear();
        let Some(first) = first else {
            self.deferred = 0;
            return (ops, false);
        };
        if self.deferred >= MOST_DEFERRED {
            self.deferred = 0;
            return (ops, false);
        }
        self.deferred += 1;
        // The grace period is waited for elsewhere.
        self.ops = ops.split_off(first).into_iter().skip(1).collect();
        (ops, true)
    }

    /// What to do now that the grace period has passed.
    pub(super) fn take(&mut self) -> Vec<Op> {
        self.deferred = 0;
        std::mem::take(&mut self.ops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Vec<Op> {
        vec![
            Op::Attach { ifindex: 1 },
            Op::Grace,
            Op::DeleteEndpoint { slot: 2 },
        ]
    }

    #[test]
    fn removal_waits_and_the_rest_does_not() {
        let mut cleanup = Cleanup::default();
        let (now, waits) = cleanup.split(plan());
        assert_eq!(now, [Op::Attach { ifindex: 1 }]);
        assert!(waits);
        assert_eq!(cleanup.take(), [Op::DeleteEndpoint { slot: 2 }]);
        assert_eq!(cleanup.take(), []);
    }

    #[test]
    fn endless_changes_do_not_put_removal_off_for_ever() {
        let mut cleanup = Cleanup::default();
        for _ in 0..MOST_DEFERRED {
            assert!(cleanup.split(plan()).1);
        }
        let (now, waits) = cleanup.split(plan());
        assert_eq!((now, waits), (plan(), false));
    }
}

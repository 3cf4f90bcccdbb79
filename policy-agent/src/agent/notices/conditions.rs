//! From what is so now to what is told: pure, time is an argument.
//!
//! A condition is told when it begins, and again from time to time while it
//! lasts, because servers forget Events. One that may be a matter of moments has
//! to last a little first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Notice, Reason};

/// How often what lasts is told again. Servers forget after an hour.
const REMINDED_EVERY: Duration = Duration::from_secs(30 * 60);
/// How long a pod may be without its policies before that is told: its interface
/// and its address come one after the other.
const SETTLES: Duration = Duration::from_secs(10);

/// What was so when it was last looked at.
#[derive(Debug, Default)]
pub(in super::super) struct Conditions {
    lasting: BTreeMap<Notice, Lasting>,
}

#[derive(Debug)]
struct Lasting {
    since: Instant,
    told: Option<Instant>,
}

impl Conditions {
    /// What is to be told, if this is all that is so now.
    pub(in super::super) fn look(
        &mut self,
        now_so: impl IntoIterator<Item = Notice>,
        now: Instant,
    ) -> Vec<Notice> {
        let mut before = std::mem::take(&mut self.lasting);
        let mut told = Vec::new();
        for notice in now_so {
            let mut lasting = before.remove(&notice).unwrap_or(Lasting {
                since: now,
                told: None,
            });
            let settles = match notice.reason {
                Reason::NotProgrammed => SETTLES,
                _ => Duration::ZERO,
            };
            let is_due = match lasting.told {
                None => now >= lasting.since + settles,
                Some(told) => now >= told + REMINDED_EVERY,
            };
            if is_due {
                lasting.told = Some(now);
                told.push(notice.clone());
            }
            self.lasting.insert(notice, lasting);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::super::Regarding;
    use super::*;

    fn notice(reason: Reason) -> Notice {
        Notice {
            regarding: Regarding::Node { name: "n".into() },
            reason,
            note: "so".to_owned(),
        }
    }

    #[test]
    fn condition_is_told_when_it_begins_and_again_while_it_lasts() {
        let start = Instant::now();
        let off = || [notice(Reason::EnforcementOff)];
        let mut conditions = Conditions::default();
        assert_eq!(conditions.look(off(), start), off());
        assert_eq!(conditions.look(off(), start + SETTLES), []);
        assert_eq!(conditions.look(off(), start + REMINDED_EVERY), off());
        assert_eq!(conditions.look([], start + REMINDED_EVERY), []);
        let later = start + REMINDED_EVERY + SETTLES;
        assert_eq!(conditions.look(off(), later), off(), "it began again");
    }

    #[test]
    fn pod_that_gets_its_policies_in_time_is_not_told_of() {
        let start = Instant::now();
        let without = || [notice(Reason::NotProgrammed)];
        let mut conditions = Conditions::default();
        assert_eq!(conditions.look(without(), start), []);
        assert_eq!(conditions.look([], start + SETTLES / 2), []);
        assert_eq!(conditions.look(without(), start + SETTLES), [], "anew");
        assert_eq!(conditions.look(without(), start + SETTLES * 2), without());
    }
}

//! What numbers in the kernel stand for: rules and endpoints, also those that
//! went a while ago, because an event may be late.
//!
//! Not for long: a name that was made among thousands of objects keeps a page of
//! memory from going back to the system when they are gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use policy_core::desired::{PodRef, Provenance};

/// Names that are remembered at most after what they stand for is gone, each of
/// rules and of pods, and until the second sweep. An event is late by milliseconds,
/// a second where a reader is slow.
const REMEMBERED: usize = 2_048;

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    rules: Recent<Provenance>,
    pods: Recent<PodRef>,
}

impl Names {
    /// Takes in the rules in force: all of them.
    pub(super) fn learn_rules(&mut self, rules: &BTreeMap<u32, Provenance>) {
        for (id, provenance) in rules {
            self.rules.learn(*id, provenance);
        }
        self.rules.forget(rules.keys().copied().collect());
    }

    /// Takes in the endpoints in force, all of them: numbers and pods.
    pub(super) fn learn_pods<'a>(&mut self, pods: impl Iterator<Item = (u32, &'a PodRef)>) {
        let mut now = BTreeSet::new();
        for (number, pod) in pods {
            self.pods.learn(number, pod);
            now.insert(number);
        }
        self.pods.forget(now);
    }

    /// Forgets what was gone at the last sweep already.
    pub(super) fn sweep(&mut self) {
        self.rules.sweep();
        self.pods.sweep();
    }

    /// What a rule id stands for.
    pub(super) fn rule(&self, id: u32) -> Option<&Provenance> {
        self.rules.by_number.get(&id)
    }

    /// Whose endpoint number it is.
    pub(super) fn pod(&self, number: u32) -> Option<&PodRef> {
        self.pods.by_number.get(&number)
    }
}

#[derive(Debug)]
struct Recent<T> {
    by_number: BTreeMap<u32, T>,
    /// The same numbers, those first that came, or were in force, longest ago.
    order: VecDeque<u32>,
    in_force: BTreeSet<u32>,
    /// What was not in force at the last sweep.
    gone: BTreeSet<u32>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            by_number: BTreeMap::new(),
            order: VecDeque::new(),
            in_force: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }
}

impl<T: Clone + PartialEq> Recent<T> {
    fn learn(&mut self, number: u32, value: &T) {
        if self.by_number.get(&number) == Some(value) {
            return;
        }
        if self.by_number.insert(number, value.clone()).is_none() {
            self.order.push_back(number);
        }
    }

    /// Forgets what came longest ago, where there is more than enough besides what
    /// is in force.
    fn forget(&mut self, in_force: BTreeSet<u32>) {
        while self.order.len() > in_force.len() + REMEMBERED {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if in_force.contains(&oldest) {
                self.order.push_back(oldest);
            } else {
                self.by_number.remove(&oldest);
            }
        }
        self.in_force = in_force;
    }

    fn sweep(&mut self) {
        let Self {
            by_number,
            order,
            in_force,
            gone,
        } = self;
        by_number.retain(|number, _| in_force.contains(number) || !gone.contains(number));
        order.retain(|number| by_number.contains_key(number));
        order.shrink_to(2 * order.len());
        let now = by_number.keys().filter(|number| !in_force.contains(number));
        *gone = now.copied().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(number: u32) -> PodRef {
        PodRef {
            namespace: "a".into(),
            name: number.to_string().into(),
        }
    }

    #[test]
    fn names_outlive_what_they_stand_for_and_stay_bounded() {
        let mut names = Names::default();
        let stays = pod(7);
        let churned = 100..100 + 2 * u32::try_from(REMEMBERED).expect("small");
        let last = churned.end - 1;
        for number in churned {
            let comes = pod(number);
            names.learn_pods([(7, &stays), (number, &comes)].into_iter());
        }
        assert_eq!(names.pod(7), Some(&stays), "it is in force");
        assert_eq!(names.pod(100), None, "the oldest gave way");
        assert_eq!(names.pod(last - 100), Some(&pod(last - 100)));
        assert!(names.pods.by_number.len() <= REMEMBERED + 2);
        assert_eq!(names.pods.by_number.len(), names.pods.order.len());
    }

    #[test]
    fn what_is_gone_is_forgotten_at_the_second_sweep() {
        let mut names = Names::default();
        let (stays, goes) = (pod(1), pod(2));
        names.learn_pods([(1, &stays), (2, &goes)].into_iter());
        names.sweep();
        names.sweep();
        assert_eq!(names.pod(2), Some(&goes), "it is in force");
        names.learn_pods(std::iter::once((1, &stays)));
        names.sweep();
        assert_eq!(names.pod(2), Some(&goes), "an event may be late");
        names.sweep();
        assert_eq!((names.pod(1), names.pod(2)), (Some(&stays), None));
        assert_eq!((names.pods.order.len(), names.pods.gone.len()), (1, 0));
    }

    #[test]
    fn whatever_is_in_force_has_its_name_however_much_that_is() {
        let mut names = Names::default();
        let pods: Vec<PodRef> = (0..3 * u32::try_from(REMEMBERED).expect("small"))
            .map(pod)
            .collect();
        let numbered = || (0_u32..).zip(&pods);
        names.learn_pods(numbered());
        assert!(numbered().all(|(number, pod)| names.pod(number) == Some(pod)));
        names.learn_pods(std::iter::empty());
        assert_eq!(names.pods.by_number.len(), REMEMBERED, "late events");
    }
}

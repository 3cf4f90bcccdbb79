//! What numbers in the kernel stand for: rules and endpoints, also those that
//! went a while ago, because an event may be late.

use std::collections::{BTreeMap, VecDeque};

use policy_core::desired::{PodRef, Provenance};

/// Names that are remembered after what they stand for is gone.
const REMEMBERED: usize = 16_384;

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    rules: Recent<Provenance>,
    pods: Recent<PodRef>,
}

impl Names {
    /// Takes in the rules in force.
    pub(super) fn learn_rules(&mut self, rules: &BTreeMap<u32, Provenance>) {
        for (id, provenance) in rules {
            self.rules.learn(*id, provenance);
        }
    }

    /// Takes in an endpoint's pod.
    pub(super) fn learn_pod(&mut self, number: u32, pod: &PodRef) {
        self.pods.learn(number, pod);
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
    order: VecDeque<u32>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            by_number: BTreeMap::new(),
            order: VecDeque::new(),
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
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.by_number.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outlive_what_they_stand_for_and_stay_bounded() {
        let mut names = Names::default();
        for number in 0..=u32::try_from(REMEMBERED).expect("small") {
            let pod = PodRef {
                namespace: "a".into(),
                name: number.to_string().into(),
            };
            names.learn_pod(number, &pod);
        }
        assert_eq!(names.pod(0), None, "the oldest gave way");
        assert_eq!(
            names.pod(7).map(|pod| pod.to_string()).as_deref(),
            Some("a/7")
        );
    }
}

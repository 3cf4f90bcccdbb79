//! How long pods of this node wait for their policies: from when a source first
//! told of one until its policies are in force. Pure: time is an argument.
//!
//! How long one ran without them is `births`'. What is so when the agent first
//! looks is not counted: nobody can tell since when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::state::PodUid;

/// Pods as they were when last looked at.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pods: BTreeMap<PodUid, Waiting>,
    looked: bool,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    in_force: bool,
}

impl Setup {
    /// Looks at every pod of this node, and whether its policies are in force as
    /// desired, at a time: how long those waited whose policies are now. What is new
    /// was heard of at another time before.
    pub(super) fn look(
        &mut self,
        pods: impl IntoIterator<Item = (PodUid, bool)>,
        heard: Instant,
        now: Instant,
    ) -> Vec<Duration> {
        let mut waited = Vec::new();
        let mut before = std::mem::take(&mut self.pods);
        for (pod, in_force) in pods {
            let known = before.remove(&pod);
            let is_counted = self.looked || known.is_some();
            let mut waiting = known.unwrap_or(Waiting {
                since: heard,
                in_force: false,
            });
            if in_force && !waiting.in_force {
                waiting.in_force = true;
                if is_counted {
                    waited.push(now.saturating_duration_since(waiting.since));
                }
            }
            self.pods.insert(pod, waiting);
        }
        self.looked = true;
        waited
    }
}

#[cfg(test)]
mod tests {
    use policy_core::desired::PodRef;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Looks in turn, a second apart, at pods and whether they are set up.
    fn looks(all: &[&[(&str, bool)]]) -> Vec<Vec<Duration>> {
        let mut setup = Setup::default();
        let start = Instant::now() + SECOND;
        let looks = all.iter().zip(0_u32..).map(|(pods, second)| {
            let pods = pods.iter().map(|(name, in_force)| {
                let pod = PodRef {
                    namespace: "shop".into(),
                    name: (*name).into(),
                };
                ((pod, "uid".into()), *in_force)
            });
            let now = start + SECOND * second;
            setup.look(pods, now - SECOND / 2, now)
        });
        looks.collect()
    }

    #[test]
    fn pod_is_waited_for_from_its_first_news_until_its_policies_are_in_force() {
        let found = looks(&[
            &[],
            &[("db", false)],
            &[("db", false), ("web", true)],
            &[("db", true), ("web", true)],
            &[("db", true), ("web", false)],
            &[("db", true), ("web", true)],
        ]);
        let expected = [
            vec![],
            vec![],
            vec![SECOND / 2],
            vec![SECOND * 5 / 2],
            vec![],
            vec![],
        ];
        assert_eq!(found, expected, "once for each pod");
    }

    #[test]
    fn pod_of_the_same_name_is_another_one_after_the_first_is_gone() {
        let found = looks(&[&[], &[("db", true)], &[], &[("db", false)], &[("db", true)]]);
        assert_eq!(found[4], [SECOND * 3 / 2]);
    }

    #[test]
    fn what_is_in_force_when_the_agent_first_looks_is_not_counted_and_the_rest_is() {
        let found = looks(&[
            &[("db", true), ("web", false)],
            &[("db", true), ("web", true)],
        ]);
        assert_eq!(found, [vec![], vec![SECOND * 3 / 2]]);
    }
}

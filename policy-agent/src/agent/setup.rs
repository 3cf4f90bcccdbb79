//! How long pods of this node wait for their policies, and how long one ran
//! without them. Pure: time is an argument.
//!
//! A pod is waited for from when a source first told of it until its policies
//! are in force. It runs unprotected while a policy isolates it, its interface is
//! there, and nothing of ours is on that interface; that may begin before the pod
//! is known. What is so when the agent first looks is not counted: nobody can
//! tell since when, and it ends with that very look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::state::PodUid;

/// Pods and interfaces as they were when last looked at.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pods: BTreeMap<PodUid, Waiting>,
    /// Since when an interface lets everything pass.
    open: BTreeMap<u32, Instant>,
    looked: bool,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    in_force: bool,
    /// Since when it runs unprotected.
    unprotected: Option<Instant>,
}

/// A pod of this node now.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) pod: PodUid,
    /// Interfaces that are its own.
    pub(super) interfaces: Vec<u32>,
    /// A policy isolates it.
    pub(super) isolated: bool,
    /// Its policies are in force as desired.
    pub(super) in_force: bool,
}

/// What a look found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// How long pods waited whose policies are in force now.
    pub(super) set_up: Vec<Duration>,
    /// Pods that are protected now, or gone, and ran unprotected this long.
    pub(super) were_unprotected: Vec<(PodUid, Duration)>,
    /// Pods that run unprotected now.
    pub(super) unprotected: usize,
}

impl Setup {
    /// Looks at every pod of this node, at every veth that is there, and at those
    /// of them that let nothing pass unjudged, at a time.
    pub(super) fn look(
        &mut self,
        pods: &[Seen],
        interfaces: impl Iterator<Item = u32>,
        guarded: impl Fn(u32) -> bool,
        now: Instant,
    ) -> Found {
        let open: BTreeSet<u32> = interfaces.filter(|index| !guarded(*index)).collect();
        let mut found = Found::default();
        let mut before = std::mem::take(&mut self.pods);
        for seen in pods {
            let known = before.remove(&seen.pod);
            let is_new = known.is_none();
            let mut waiting = known.unwrap_or(Waiting {
                since: now,
                in_force: false,
                unprotected: None,
            });
            if seen.in_force && !waiting.in_force {
                if !is_new || self.looked {
                    found
                        .set_up
                        .push(now.saturating_duration_since(waiting.since));
                }
                waiting.in_force = true;
            }
            let open_since = seen
                .interfaces
                .iter()
                .filter_map(|index| self.open.get(index));
            if seen.isolated
                && let Some(since) = open_since.min()
            {
                // Unprotected until this look, at least.
                waiting.unprotected.get_or_insert(*since);
            }
            let is_open = seen.interfaces.iter().any(|index| open.contains(index));
            if seen.isolated && is_open && !seen.in_force {
                if self.looked {
                    waiting.unprotected.get_or_insert(now);
                }
                found.unprotected += 1;
            } else if let Some(since) = waiting.unprotected.take() {
                found
                    .were_unprotected
                    .push(end(seen.pod.clone(), since, now));
            }
            self.pods.insert(seen.pod.clone(), waiting);
        }
        for (pod, gone) in before {
            if let Some(since) = gone.unprotected {
                found.were_unprotected.push(end(pod, since, now));
            }
        }
        self.open.retain(|index, _| open.contains(index));
        if self.looked {
            for index in open {
                self.open.entry(index).or_insert(now);
            }
        }
        self.looked = true;
        found
    }
}

fn end(pod: PodUid, since: Instant, now: Instant) -> (PodUid, Duration) {
    (pod, now.saturating_duration_since(since))
}

#[cfg(test)]
mod tests {
    use policy_core::desired::PodRef;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pod(name: &str) -> PodUid {
        let name = PodRef {
            namespace: "shop".into(),
            name: name.into(),
        };
        (name, "uid".into())
    }

    fn seen(name: &str, interfaces: &[u32], isolated: bool, in_force: bool) -> Seen {
        Seen {
            pod: pod(name),
            interfaces: interfaces.to_vec(),
            isolated,
            in_force,
        }
    }

    /// Looks in turn, a second apart; guarded are the interfaces listed last.
    fn looks(all: &[(&[Seen], &[u32], &[u32])]) -> Vec<Found> {
        let mut setup = Setup::default();
        let mut now = Instant::now();
        let mut found = Vec::new();
        for (pods, interfaces, guarded) in all {
            found.push(setup.look(
                pods,
                interfaces.iter().copied(),
                |index| guarded.contains(&index),
                now,
            ));
            now += SECOND;
        }
        found
    }

    fn set_up(seconds: u32) -> Found {
        Found {
            set_up: vec![SECOND * seconds],
            ..Found::default()
        }
    }

    #[test]
    fn pod_that_is_set_up_in_one_look_was_never_unprotected() {
        let db = [seen("db", &[7], true, true)];
        let found = looks(&[(&[], &[], &[]), (&db, &[7], &[7]), (&db, &[7], &[7])]);
        assert_eq!(found, [Found::default(), set_up(0), Found::default()]);
    }

    #[test]
    fn window_begins_with_the_interface_even_if_the_pod_is_known_later() {
        let late = [seen("db", &[7], true, true)];
        let found = looks(&[
            (&[], &[], &[]),
            (&[], &[7], &[]),
            (&[], &[7], &[]),
            (&late, &[7], &[7]),
        ]);
        assert_eq!(found[2], Found::default(), "nobody knows whose it is");
        let window = Found {
            set_up: vec![Duration::ZERO],
            were_unprotected: vec![(pod("db"), SECOND * 2)],
            unprotected: 0,
        };
        assert_eq!(found[3], window);
    }

    #[test]
    fn held_interface_is_no_window() {
        let late = [seen("db", &[7], true, true)];
        let found = looks(&[
            (&[], &[], &[]),
            (&[], &[7], &[7]),
            (&[], &[7], &[7]),
            (&late, &[7], &[7]),
        ]);
        assert_eq!(found[3], set_up(0));
    }

    #[test]
    fn pod_that_waits_is_counted_until_its_policies_are_in_force() {
        let waiting = [seen("db", &[7], true, false)];
        let ready = [seen("db", &[7], true, true)];
        let found = looks(&[
            (&[], &[], &[]),
            (&waiting, &[7], &[]),
            (&waiting, &[7], &[]),
            (&ready, &[7], &[7]),
        ]);
        assert_eq!(
            found.iter().map(|f| f.unprotected).collect::<Vec<_>>(),
            [0, 1, 1, 0]
        );
        assert_eq!(found[3].set_up, [SECOND * 2]);
        assert_eq!(found[3].were_unprotected, [(pod("db"), SECOND * 2)]);
    }

    #[test]
    fn pod_that_goes_unprotected_ends_its_window() {
        let waiting = [seen("db", &[7], true, false)];
        let found = looks(&[(&[], &[], &[]), (&waiting, &[7], &[]), (&[], &[], &[])]);
        assert_eq!(found[2].were_unprotected, [(pod("db"), SECOND)]);
        assert_eq!(found[2].unprotected, 0);
    }

    #[test]
    fn pod_that_nothing_isolates_is_never_unprotected() {
        let open = [seen("web", &[7], false, false)];
        let ready = [seen("web", &[7], false, true)];
        let found = looks(&[(&[], &[], &[]), (&open, &[7], &[]), (&ready, &[7], &[7])]);
        assert_eq!(found[1], Found::default());
        assert_eq!(found[2], set_up(1));
    }

    #[test]
    fn what_was_there_before_the_agent_is_no_window() {
        let ready = [seen("db", &[7], true, true)];
        let found = looks(&[(&ready, &[7], &[7]), (&ready, &[7], &[7])]);
        assert_eq!(found, [Found::default(), Found::default()]);
        // Also where the first look finds it open: since when, nobody can tell.
        let open = [seen("db", &[7], true, false)];
        let found = looks(&[(&open, &[7], &[]), (&ready, &[7], &[7])]);
        assert_eq!(found[0].unprotected, 1);
        assert_eq!(found[1].were_unprotected, []);
    }
}

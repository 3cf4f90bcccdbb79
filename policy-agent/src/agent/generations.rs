//! Which version of each policy is in force on this node: the one that the last
//! completed programming included.
//!
//! Pure bookkeeping, beside the engine: sources tell versions, the agent tells
//! when what they said is in the kernel. A pod that could not get its policies
//! keeps the versions that it had, and so do those policies.

use std::collections::{BTreeMap, BTreeSet};

use policy_core::desired::PodRef;
use policy_core::model::PolicyId;

use crate::source::version::{Told, Version};

/// Versions of policies by what became of them.
#[derive(Debug, Default)]
pub(super) struct Generations {
    policies: BTreeMap<PolicyId, Versions>,
    /// Policies of which something was told that is not in force yet.
    pending: BTreeSet<PolicyId>,
    endpoints: BTreeMap<PodRef, BTreeMap<PolicyId, Version>>,
    /// Words were stored since versions were last looked at.
    words: bool,
}

/// Versions of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Versions {
    /// In force on this node, for every pod that it applies to.
    pub(super) in_force: Option<Version>,
    /// Read and understood; the same, once it is in force.
    pub(super) taken: Option<Version>,
    /// Newer, and not understood.
    pub(super) refused: Option<Version>,
}

impl Versions {
    /// What is to be in force and is not.
    pub(super) fn pending(&self) -> Option<&Version> {
        self.taken
            .as_ref()
            .filter(|taken| Some(*taken) != self.in_force.as_ref())
    }
}

/// A local pod, as it is after a completed programming.
pub(super) struct Endpoint<'a> {
    pub(super) pod: &'a PodRef,
    /// Its policies are the desired ones.
    pub(super) current: bool,
    /// The policies that apply to it, by desire.
    pub(super) policies: Vec<&'a PolicyId>,
}

impl Generations {
    /// Takes in what a source tells, together with the events it belongs to.
    pub(super) fn tell(&mut self, news: impl IntoIterator<Item = (PolicyId, Told)>) {
        for (id, told) in news {
            match told {
                Told::Taken(version) => {
                    let versions = self.policies.entry(id.clone()).or_default();
                    versions.taken = Some(version);
                    versions.refused = None;
                    self.pending.insert(id);
                }
                Told::Refused(version) => {
                    self.policies.entry(id).or_default().refused = Some(version);
                }
                Told::Gone => {
                    self.policies.remove(&id);
                    self.pending.remove(&id);
                }
            }
        }
    }

    /// A pod has other policies than before.
    pub(super) fn word_stored(&mut self) {
        self.words = true;
    }

    /// Whether [`Self::completed`] would find something to note.
    pub(super) fn is_pending(&self) -> bool {
        self.words || !self.pending.is_empty()
    }

    /// All that was told is in force, but for endpoints that are not current.
    pub(super) fn completed<'a>(&mut self, endpoints: impl Iterator<Item = Endpoint<'a>>) {
        self.words = false;
        let mut behind: BTreeSet<&PolicyId> = BTreeSet::new();
        let mut before = std::mem::take(&mut self.endpoints);
        let mut current = Vec::new();
        for endpoint in endpoints {
            if endpoint.current {
                current.push(endpoint);
            } else {
                behind.extend(endpoint.policies);
                if let Some(kept) = before.remove(endpoint.pod) {
                    self.endpoints.insert(endpoint.pod.clone(), kept);
                }
            }
        }
        for Endpoint { pod, policies, .. } in current {
            let versions = policies.into_iter().filter_map(|id| {
                let version = self.policies.get(id)?.taken.clone()?;
                Some((id.clone(), version))
            });
            let versions = versions.collect();
            self.endpoints.insert(pod.clone(), versions);
        }
        let policies = &mut self.policies;
        self.pending.retain(|id| {
            if behind.contains(id) {
                return true;
            }
            if let Some(versions) = policies.get_mut(id) {
                versions.in_force.clone_from(&versions.taken);
            }
            false
        });
    }

    /// Every policy that was told of.
    pub(super) fn policies(&self) -> &BTreeMap<PolicyId, Versions> {
        &self.policies
    }

    /// Which version of each policy a pod has.
    pub(super) fn of_pod(&self, pod: &PodRef) -> Option<&BTreeMap<PolicyId, Version>> {
        self.endpoints.get(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PolicyId {
        PolicyId {
            kind: "NetworkPolicy".into(),
            namespace: Some("shop".into()),
            name: name.into(),
        }
    }

    fn version(generation: i64) -> Version {
        Version {
            generation: Some(generation),
            ..Version::default()
        }
    }

    fn pod(name: &str) -> PodRef {
        PodRef {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn complete(generations: &mut Generations, endpoints: &[(&PodRef, bool, &[&PolicyId])]) {
        generations.completed(endpoints.iter().map(|&(pod, current, policies)| Endpoint {
            pod,
            current,
            policies: policies.to_vec(),
        }));
    }

    #[test]
    fn version_is_in_force_once_programming_has_completed_and_not_before() {
        let mut generations = Generations::default();
        let (p, web) = (id("p"), pod("web"));
        generations.tell([(p.clone(), Told::Taken(version(1)))]);
        assert!(generations.is_pending());
        assert_eq!(generations.policies()[&p].in_force, None);
        assert_eq!(generations.policies()[&p].pending(), Some(&version(1)));
        complete(&mut generations, &[(&web, true, &[&p])]);
        assert!(!generations.is_pending());
        assert_eq!(generations.policies()[&p].in_force, Some(version(1)));
        assert_eq!(generations.policies()[&p].pending(), None);
        assert_eq!(generations.of_pod(&web).unwrap()[&p], version(1));
    }

    #[test]
    fn refused_version_leaves_the_good_one_in_force_until_a_newer_good_one_comes() {
        let mut generations = Generations::default();
        let p = id("p");
        generations.tell([(p.clone(), Told::Taken(version(1)))]);
        complete(&mut generations, &[]);
        generations.tell([(p.clone(), Told::Refused(version(2)))]);
        complete(&mut generations, &[]);
        let versions = &generations.policies()[&p];
        assert_eq!(versions.in_force, Some(version(1)));
        assert_eq!(versions.refused, Some(version(2)));
        generations.tell([(p.clone(), Told::Taken(version(3)))]);
        complete(&mut generations, &[]);
        let versions = &generations.policies()[&p];
        assert_eq!(versions.in_force, Some(version(3)));
        assert_eq!(versions.refused, None);
    }

    #[test]
    fn pod_that_is_behind_holds_back_its_policies_and_no_others() {
        let mut generations = Generations::default();
        let (p, q, web, db) = (id("p"), id("q"), pod("web"), pod("db"));
        generations.tell([
            (p.clone(), Told::Taken(version(1))),
            (q.clone(), Told::Taken(version(1))),
        ]);
        complete(
            &mut generations,
            &[(&web, true, &[&p]), (&db, true, &[&p, &q])],
        );
        generations.tell([
            (p.clone(), Told::Taken(version(2))),
            (q.clone(), Told::Taken(version(2))),
        ]);
        complete(
            &mut generations,
            &[(&web, false, &[&p]), (&db, true, &[&q])],
        );
        assert_eq!(generations.policies()[&p].in_force, Some(version(1)));
        assert_eq!(generations.policies()[&p].pending(), Some(&version(2)));
        assert_eq!(generations.policies()[&q].in_force, Some(version(2)));
        assert_eq!(generations.of_pod(&web).unwrap()[&p], version(1));
        assert_eq!(generations.of_pod(&db).unwrap().get(&p), None);
        complete(&mut generations, &[(&web, true, &[&p])]);
        assert_eq!(generations.policies()[&p].in_force, Some(version(2)));
        assert_eq!(generations.of_pod(&web).unwrap()[&p], version(2));
        assert_eq!(generations.of_pod(&db), None, "the pod is gone");
    }

    #[test]
    fn policy_that_is_gone_is_forgotten() {
        let mut generations = Generations::default();
        let p = id("p");
        generations.tell([(p.clone(), Told::Taken(version(1)))]);
        generations.tell([(p.clone(), Told::Gone)]);
        complete(&mut generations, &[]);
        assert!(generations.policies().is_empty() && !generations.is_pending());
    }
}

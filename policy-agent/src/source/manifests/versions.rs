//! Which versions of policies the files say, and which of them are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_core::model::PolicyId;
use policy_core::store::{Key, Object};

use super::file::{Claim, Definition};
use crate::source::version::{self, Version, Versions};

/// What was told of versions so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Told {
    by_policy: BTreeMap<PolicyId, Seen>,
}

/// Versions of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seen {
    /// The one that is in force.
    taken: Option<Arc<Version>>,
    /// One that is in the files and is not, because it cannot be understood or
    /// contradicts another.
    refused: Option<Arc<Version>>,
}

impl Told {
    /// What is different, with these definitions, of which these are in force.
    pub(super) fn news<'d>(
        &mut self,
        definitions: impl Iterator<Item = &'d Definition>,
        in_force: &BTreeMap<Key, Object>,
    ) -> Versions {
        let mut seen: BTreeMap<&PolicyId, Seen> = BTreeMap::new();
        let mut defined: BTreeSet<&PolicyId> = BTreeSet::new();
        for definition in definitions {
            let Key::Policy(id) = &definition.key else {
                continue;
            };
            defined.insert(id);
            let Some(version) = &definition.version else {
                continue;
            };
            let is_in_force = match &definition.claim {
                Claim::Is(object) => in_force.get(&definition.key) == Some(object),
                Claim::Stays(_) => false,
            };
            let of_policy = seen.entry(id).or_default();
            let place = if is_in_force {
                &mut of_policy.taken
            } else {
                &mut of_policy.refused
            };
            place.get_or_insert_with(|| version.clone());
        }
        let mut news = Versions::new();
        self.by_policy.retain(|id, _| {
            let is_there = defined.contains(id);
            if !is_there {
                news.push((id.clone(), version::Told::Gone));
            }
            is_there
        });
        for (id, now) in seen {
            if self.by_policy.get(id) == Some(&now) {
                continue;
            }
            if let Some(taken) = &now.taken {
                news.push((id.clone(), version::Told::Taken(Version::clone(taken))));
            }
            if let Some(refused) = &now.refused {
                news.push((id.clone(), version::Told::Refused(Version::clone(refused))));
            }
            self.by_policy.insert(id.clone(), now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use policy_core::model::{NamespaceMatch, Policy, Selector, Subject, Tier};

    use super::*;
    use crate::source::version::Told::{Gone, Refused, Taken};

    fn id() -> PolicyId {
        PolicyId {
            kind: "NetworkPolicy".into(),
            namespace: Some("shop".into()),
            name: "p".into(),
        }
    }

    fn object(order: i64) -> Object {
        Object::Policy(Arc::new(Policy {
            id: id(),
            tier: Tier::NetworkPolicy,
            order,
            subject: Subject {
                namespaces: NamespaceMatch::Name("shop".into()),
                pods: Selector::EVERYTHING,
            },
            ingress: None,
            egress: None,
        }))
    }

    fn version(generation: i64) -> Version {
        Version {
            generation: Some(generation),
            ..Version::default()
        }
    }

    fn definition(claim: Claim, generation: Option<i64>) -> Definition {
        Definition {
            key: Key::Policy(id()),
            claim,
            version: generation.map(|generation| Arc::new(version(generation))),
        }
    }

    #[test]
    fn refused_version_is_told_beside_the_one_that_stays() {
        let mut told = Told::default();
        let in_force = BTreeMap::from([(Key::Policy(id()), object(1))]);
        let good = [definition(Claim::Is(object(1)), Some(1))];
        assert_eq!(
            told.news(good.iter(), &in_force),
            [(id(), Taken(version(1)))]
        );
        assert_eq!(told.news(good.iter(), &in_force), [], "nothing is new");

        let bad = [definition(Claim::Stays(None), Some(2))];
        assert_eq!(
            told.news(bad.iter(), &in_force),
            [(id(), Refused(version(2)))]
        );
        // The file cannot be read for a while: nothing more is known.
        let unknown = [definition(Claim::Stays(None), None)];
        assert_eq!(told.news(unknown.iter(), &in_force), []);
        assert_eq!(told.news([].iter(), &BTreeMap::new()), [(id(), Gone)]);
    }

    #[test]
    fn of_two_files_that_differ_the_one_in_force_is_taken_and_the_other_refused() {
        let mut told = Told::default();
        let in_force = BTreeMap::from([(Key::Policy(id()), object(1))]);
        let both = [
            definition(Claim::Is(object(2)), Some(2)),
            definition(Claim::Is(object(1)), Some(1)),
        ];
        let news = told.news(both.iter(), &in_force);
        assert_eq!(
            news,
            [(id(), Taken(version(1))), (id(), Refused(version(2)))]
        );
    }
}

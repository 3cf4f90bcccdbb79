//! What policies say: those in the kernel to identities, those desired to classes.

use std::collections::{BTreeMap, BTreeSet};

use policy_common::abi::identity::{self, Identity};

use super::Mirror;
use super::contents::{Answer, Content, Contents, ZERO};
use crate::desired::{ClassId, DesiredState, PolicyRef, PortSetSpec};

/// The kernel's answers.
#[derive(Debug)]
pub(super) struct Kernel {
    policies: BTreeMap<u32, Vec<(Identity, Answer)>>,
}

impl Kernel {
    pub(super) fn new(mirror: &Mirror, contents: &mut Contents) -> Self {
        let mut sets: BTreeMap<u32, Content> = BTreeMap::new();
        let mut policies: BTreeMap<u32, Vec<(Identity, Answer)>> = BTreeMap::new();
        for (key, set) in &mirror.rows {
            let answer = (*set != 0).then(|| {
                *sets.entry(*set).or_insert_with(|| {
                    // An element that is not in the mirror is all zero.
                    mirror.port_sets.get(set).map_or(ZERO, |set| {
                        contents.number_of(PortSetSpec {
                            intervals: set.intervals.clone(),
                            default_rule: set.default_rule,
                            default_action: set.default_action,
                        })
                    })
                })
            });
            let rows = policies.entry(key.policy).or_default();
            rows.push((key.identity, answer));
        }
        Self { policies }
    }

    /// Numbers that have a row.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.policies.keys().copied()
    }

    /// Every policy number with its rows, sorted.
    pub(super) fn rows(&self) -> impl Iterator<Item = (u32, &[(Identity, Answer)])> {
        let policies = self.policies.iter();
        policies.map(|(policy, rows)| (*policy, rows.as_slice()))
    }

    /// What a policy number says to an identity.
    pub(super) fn answer(&self, policy: u32, identity: Identity) -> Answer {
        let rows = self.policies.get(&policy)?;
        let find = |identity| rows.binary_search_by_key(&identity, |row| row.0).ok();
        let at = find(identity).or_else(|| find(identity::OTHER))?;
        rows[at].1
    }

    /// What the row of exactly this identity says; outer `None`: there is none.
    pub(super) fn row(&self, policy: u32, identity: Identity) -> Option<Answer> {
        let rows = self.policies.get(&policy)?;
        let at = rows.binary_search_by_key(&identity, |row| row.0).ok()?;
        Some(rows[at].1)
    }

    /// What a policy number says to an identity without a row.
    pub(super) fn default(&self, policy: u32) -> Answer {
        self.answer(policy, identity::OTHER)
    }
}

/// The desired answers.
#[derive(Debug)]
pub(super) struct Wanted {
    policies: BTreeMap<PolicyRef, (Content, Vec<(ClassId, Content)>)>,
}

impl Wanted {
    pub(super) fn new(
        desired: &DesiredState,
        named: &BTreeSet<PolicyRef>,
        contents: &mut Contents,
    ) -> Self {
        let mut policies = BTreeMap::new();
        for policy in named {
            let Some(spec) = desired.policies.get(policy) else {
                continue;
            };
            let default = contents.number(&spec.default);
            let rows = spec.rows.iter();
            let rows = rows.map(|(class, set)| (*class, contents.number(set)));
            policies.insert(*policy, (default, rows.collect()));
        }
        Self { policies }
    }

    /// What a policy must say to a class. One that is not there denies.
    pub(super) fn answer(&self, policy: PolicyRef, class: ClassId) -> Content {
        let Some((default, rows)) = self.policies.get(&policy) else {
            return ZERO;
        };
        match rows.binary_search_by_key(&class, |row| row.0) {
            Ok(at) => rows[at].1,
            Err(_) => *default,
        }
    }
}

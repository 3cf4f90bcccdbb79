//! What the policies in force say to each class: the rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use policy_common::abi::Direction;

use super::state::{Handle, State};
use crate::compile::part::Part;
use crate::compile::program::{Program, defaults};
use crate::desired::{ClassId, CompiledPolicy, PolicyRef, PortSetSpec, Provenance};
use crate::model::{PolicyId, Tier};
use crate::resolve::atoms::Signature;
use crate::resolve::classes::ClassChanges;

/// What makes two pods have one compiled policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RulesetKey {
    pub(super) direction: Direction,
    /// In the order in which they are asked.
    pub(super) policies: Vec<Handle>,
    /// The points to which the pod resolves the names of ingress rules.
    pub(super) subject: Vec<Vec<u32>>,
}

/// A compiled policy, and what it is made from.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) key: RulesetKey,
    pub(super) endpoints: usize,
    program: Program,
    /// What can decide apart from rules.
    defaults: Vec<Provenance>,
}

impl Compiled {
    /// For one endpoint, yet to be compiled.
    pub(super) fn new(key: RulesetKey) -> Self {
        Self {
            key,
            endpoints: 1,
            program: Program::default(),
            defaults: Vec::new(),
        }
    }
}

impl State {
    /// Brings the compiled policies up to date.
    pub(super) fn settle_policies(&mut self) {
        self.drop_unused();
        let fresh = std::mem::take(&mut self.dirty.fresh);
        let mut again = self.collect_stale();
        for policy in again.iter().chain(&fresh) {
            self.count_defaults(*policy);
        }
        if self.rules.settle() {
            again.extend(self.compiled.keys().copied());
            for slot in self.slots.values_mut() {
                slot.parts = [None, None];
            }
        }
        if self.rules.take_changed() {
            self.out.rules = self.rules.by_id().clone();
            self.changes.rules = true;
        }
        let classes = self.classes.settle();
        self.note_classes(&classes);
        if !classes.is_empty() {
            let untouched =
                |policy: &&PolicyRef| !again.contains(policy) && !fresh.contains(policy);
            let others: Vec<_> = self.compiled.keys().filter(untouched).copied().collect();
            for policy in others {
                self.update_rows(policy, &classes);
            }
        }
        for policy in again.difference(&fresh) {
            self.compile_again(*policy, &classes);
        }
        for policy in fresh {
            let spec = self.compile(policy);
            self.out.policies.insert(policy, Arc::new(spec));
            self.changes.policies_added.insert(policy);
        }
    }

    fn drop_unused(&mut self) {
        for policy in std::mem::take(&mut self.dirty.unused) {
            let unused = |compiled: &Compiled| compiled.endpoints == 0;
            if !self.compiled.get(&policy).is_some_and(unused) {
                continue;
            }
            if let Some(compiled) = self.compiled.remove(&policy) {
                self.rulesets.remove(&compiled.key);
                for what in &compiled.defaults {
                    self.rules.remove(what);
                }
            }
            self.dirty.fresh.remove(&policy);
            self.forget(policy);
        }
    }

    fn forget(&mut self, policy: PolicyRef) {
        let was_there = self.out.policies.remove(&policy).is_some();
        if was_there && !self.changes.policies_added.remove(&policy) {
            self.changes.policies_removed.insert(policy);
        }
    }

    /// Compiled policies made from policies that say something else now.
    fn collect_stale(&mut self) -> BTreeSet<PolicyRef> {
        let changed = std::mem::take(&mut self.dirty.policies);
        if changed.is_empty() {
            return BTreeSet::new();
        }
        let stale = |compiled: &Compiled| compiled.key.policies.iter().any(|h| changed.contains(h));
        let compiled = self.compiled.iter();
        compiled
            .filter(|(_, compiled)| stale(compiled))
            .map(|(policy, _)| *policy)
            .collect()
    }

    fn count_defaults(&mut self, policy: PolicyRef) {
        let Some(compiled) = self.compiled.get(&policy) else {
            return;
        };
        let key = &compiled.key;
        let defaults = defaults(key.direction, &self.names_of(key));
        for what in &defaults {
            self.rules.add(what);
        }
        if let Some(compiled) = self.compiled.get_mut(&policy) {
            for what in std::mem::replace(&mut compiled.defaults, defaults) {
                self.rules.remove(&what);
            }
        }
    }

    /// Tiers and ids of the policies of a set, in the order in which they are
    /// asked.
    fn names_of(&self, key: &RulesetKey) -> Vec<(Tier, &PolicyId)> {
        let slots = key.policies.iter().filter_map(|h| self.slots.get(h));
        slots
            .map(|slot| (slot.policy.tier, &slot.policy.id))
            .collect()
    }

    /// The parts of a set of policies, in order.
    fn parts_of(&mut self, key: &RulesetKey) -> Vec<Arc<Part>> {
        let mut parts = Vec::with_capacity(key.policies.len());
        for handle in &key.policies {
            let Some(slot) = self.slots.get_mut(handle) else {
                continue;
            };
            let at = match key.direction {
                Direction::Ingress => 0,
                Direction::Egress => 1,
            };
            let part = slot.parts[at].get_or_insert_with(|| {
                let part = Part::new(&slot.policy, key.direction, &self.atoms, &self.rules);
                Arc::new(part)
            });
            parts.push(part.clone());
        }
        parts
    }

    /// Puts the program of a set of policies together.
    fn program(&mut self, key: &RulesetKey) -> Program {
        let parts = self.parts_of(key);
        let own_names = match key.direction {
            Direction::Ingress => {
                let names = self.subject_names(&key.policies).into_iter();
                names.zip(key.subject.iter().cloned()).collect()
            }
            Direction::Egress => Vec::new(),
        };
        let names = self.names_of(key);
        Program::new(key.direction, &names, parts, own_names, &self.rules)
    }

    fn note_classes(&mut self, classes: &ClassChanges) {
        self.changes.classes_added.extend(&classes.added);
        for class in &classes.gone {
            // One that came since the changes were last taken was never told.
            if !self.changes.classes_added.remove(class) {
                self.changes.classes_removed.insert(*class);
            }
        }
    }

    /// Prepares the program and asks it about every class.
    fn compile(&mut self, policy: PolicyRef) -> CompiledPolicy {
        let Some(compiled) = self.compiled.get(&policy) else {
            unreachable!("only policies of the table are compiled")
        };
        let key = compiled.key.clone();
        let program = self.program(&key);
        let default = Arc::new(program.answer(&Signature::default()));
        let mut answers: HashMap<Signature, Arc<PortSetSpec>> = HashMap::new();
        let mut rows = BTreeMap::new();
        let atoms = program.atoms();
        let mut candidates: Vec<ClassId> = atoms
            .flat_map(|atom| self.classes.with_atom(atom))
            .collect();
        if program.asks_names() {
            candidates.extend(self.classes.naming());
        }
        candidates.sort_unstable();
        candidates.dedup();
        for class in candidates {
            let Some(signature) = self.classes.signature(class) else {
                continue;
            };
            let peer = program.projection(signature);
            if peer == Signature::default() {
                continue;
            }
            let answer = answers
                .entry(peer)
                .or_insert_with_key(|peer| Arc::new(program.answer(peer)));
            if *answer != default {
                rows.insert(class, answer.clone());
            }
        }
        let spec = CompiledPolicy {
            direction: key.direction,
            default,
            rows,
        };
        if let Some(compiled) = self.compiled.get_mut(&policy) {
            compiled.program = program;
        }
        spec
    }

    /// Compiles a policy that is in force; if it answers anything else to a class
    /// that was there before, it becomes another policy.
    fn compile_again(&mut self, policy: PolicyRef, changes: &ClassChanges) {
        let spec = Arc::new(self.compile(policy));
        let Some(before) = self.out.policies.get(&policy) else {
            return;
        };
        let known = |class: &ClassId| !changes.added.contains(class);
        let same = before.default == spec.default
            && self
                .classes
                .iter()
                .map(|(class, _)| class)
                .filter(known)
                .all(|class| before.rows.get(&class) == spec.rows.get(&class));
        if same {
            self.out.policies.insert(policy, spec);
            return;
        }
        let successor = self.new_ref();
        self.forget(policy);
        self.out.policies.insert(successor, spec);
        self.changes.policies_added.insert(successor);
        if let Some(compiled) = self.compiled.remove(&policy) {
            self.rulesets.insert(compiled.key.clone(), successor);
            self.compiled.insert(successor, compiled);
        }
        for (key, local) in &mut self.local {
            for side in [&mut local.ingress, &mut local.egress] {
                if *side == Some(policy) {
                    *side = Some(successor);
                    self.changes.endpoints.insert(key.clone());
                }
            }
            if let Some(spec) = self.out.endpoints.get_mut(key) {
                (spec.ingress, spec.egress) = (local.ingress, local.egress);
            }
        }
    }

    /// Gives a policy the rows of classes that came, and takes those of classes
    /// that went.
    fn update_rows(&mut self, policy: PolicyRef, classes: &ClassChanges) {
        let (Some(compiled), Some(spec)) = (
            self.compiled.get(&policy),
            self.out.policies.get_mut(&policy),
        ) else {
            return;
        };
        for class in &classes.gone {
            if spec.rows.contains_key(class) {
                Arc::make_mut(spec).rows.remove(class);
            }
        }
        for class in classes.added.iter().chain(&classes.renamed) {
            let Some(signature) = self.classes.signature(*class) else {
                continue;
            };
            let peer = compiled.program.projection(signature);
            let answer = (peer != Signature::default())
                .then(|| Arc::new(compiled.program.answer(&peer)))
                .filter(|answer| *answer != spec.default);
            if spec.rows.get(class) == answer.as_ref() {
                continue;
            }
            let rows = &mut Arc::make_mut(spec).rows;
            match answer {
                Some(answer) => rows.insert(*class, answer),
                None => rows.remove(class),
            };
        }
    }

    pub(super) fn new_ref(&mut self) -> PolicyRef {
        loop {
            self.last_ref = self.last_ref.wrapping_add(1);
            let policy = PolicyRef(self.last_ref);
            if self.last_ref != 0 && !self.compiled.contains_key(&policy) {
                return policy;
            }
        }
    }
}

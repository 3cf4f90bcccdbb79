//! Which policies apply to which local pod, and so which are in force.

use std::net::IpAddr;

use policy_common::abi::Direction;

use super::policies::{Compiled, RulesetKey};
use super::state::{Handle, Local, State};
use crate::compile::part;
use crate::desired::{EndpointSpec, PodRef, PolicyRef};
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Pod, Policy};
use crate::resolve::atoms::{self, PortName, resolve};
use crate::store::Store;

impl State {
    /// Brings the endpoints up to date, and with them which policies are in
    /// force.
    pub(super) fn settle_endpoints(&mut self, store: &Store) {
        for key in std::mem::take(&mut self.dirty.endpoints) {
            self.settle_endpoint(store, &key);
        }
        for handle in std::mem::take(&mut self.dirty.idle) {
            let Some(slot) = self.slots.get(&handle) else {
                continue;
            };
            if slot.endpoints == 0 && slot.deleted {
                self.handles.remove(&slot.policy.id);
                self.slots.remove(&handle);
            }
        }
    }

    fn settle_endpoint(&mut self, store: &Store, key: &PodRef) {
        let pod = store.pod(key).filter(|pod| self.node.runs(pod));
        let spec = pod.and_then(|pod| endpoint(store, key, pod));
        let before = self.local.remove(key).unwrap_or_default();
        let mut after = Local::default();
        if let Some((pod, spec)) = pod.zip(spec) {
            after.handles = self.applicable(store, pod);
            // The new ones first, so that what both name is never unnamed.
            self.enter(&after.handles);
            let handles = &after.handles;
            after.ingress = self.ruleset(Direction::Ingress, handles, pod, before.ingress);
            after.egress = self.ruleset(Direction::Egress, handles, pod, before.egress);
            let spec = EndpointSpec {
                ingress: after.ingress,
                egress: after.egress,
                ..spec
            };
            if self.out.endpoints.get(key) != Some(&spec) {
                self.out.endpoints.insert(key.clone(), spec);
                self.changes.endpoints.insert(key.clone());
            }
            self.local.insert(key.clone(), after);
        } else if self.out.endpoints.remove(key).is_some() {
            self.changes.endpoints.insert(key.clone());
        }
        self.leave(&before);
    }

    /// Counts what a policy names and what of it can decide.
    pub(super) fn put_in_force(&mut self, policy: &Policy) {
        self.atoms.add(policy);
        for what in part::provenances(policy) {
            self.rules.add(&what);
        }
    }

    /// Takes that out of the count.
    pub(super) fn put_out_of_force(&mut self, policy: &Policy) {
        self.atoms.remove(policy);
        for what in part::provenances(policy) {
            self.rules.remove(&what);
        }
    }

    /// The policies whose subject matches a pod, sorted.
    fn applicable(&mut self, store: &Store, pod: &Pod) -> Vec<Handle> {
        let mut handles = Vec::new();
        let namespace = store.namespace_labels(&pod.namespace);
        self.subjects
            .matches(&pod.namespace, &namespace, &pod.labels, |handle| {
                handles.push(handle);
            });
        handles.sort_unstable();
        handles
    }

    fn enter(&mut self, handles: &[Handle]) {
        for handle in handles {
            let Some(slot) = self.slots.get_mut(handle) else {
                continue;
            };
            slot.endpoints += 1;
            if slot.endpoints == 1 {
                let policy = slot.policy.clone();
                self.put_in_force(&policy);
            }
        }
    }

    fn leave(&mut self, local: &Local) {
        for handle in &local.handles {
            let Some(slot) = self.slots.get_mut(handle) else {
                continue;
            };
            slot.endpoints -= 1;
            if slot.endpoints == 0 {
                // What it was prepared with may be gone when it is next needed.
                slot.parts = [None, None];
                let policy = slot.policy.clone();
                self.put_out_of_force(&policy);
                self.dirty.idle.insert(*handle);
            }
        }
        for policy in [local.ingress, local.egress].into_iter().flatten() {
            if let Some(compiled) = self.compiled.get_mut(&policy) {
                compiled.endpoints -= 1;
                if compiled.endpoints == 0 {
                    self.dirty.unused.insert(policy);
                }
            }
        }
    }

    /// The compiled policy for these policies of a pod; `None`: none of them says
    /// anything in this direction. `before` is the one that it had.
    fn ruleset(
        &mut self,
        direction: Direction,
        handles: &[Handle],
        pod: &Pod,
        before: Option<PolicyRef>,
    ) -> Option<PolicyRef> {
        let policies = self.in_order(direction, handles, before);
        if policies.is_empty() {
            return None;
        }
        let subject = match direction {
            Direction::Ingress => {
                let names = self.subject_names(&policies);
                names.iter().map(|name| resolve(pod, name)).collect()
            }
            Direction::Egress => Vec::new(),
        };
        let key = RulesetKey {
            direction,
            policies,
            subject,
        };
        if let Some(policy) = self.rulesets.get(&key) {
            if let Some(compiled) = self.compiled.get_mut(policy) {
                compiled.endpoints += 1;
            }
            return Some(*policy);
        }
        let policy = self.new_ref();
        self.rulesets.insert(key.clone(), policy);
        self.compiled.insert(policy, Compiled::new(key));
        self.dirty.fresh.insert(policy);
        Some(policy)
    }

    /// Those of some policies that say anything of the direction, in the order in
    /// which they are asked. Most are in the set of before, in order already.
    fn in_order(
        &self,
        direction: Direction,
        handles: &[Handle],
        before: Option<PolicyRef>,
    ) -> Vec<Handle> {
        let says = |handle: &Handle| self.slots.get(handle).is_some_and(|s| s.says(direction));
        let known = before.and_then(|policy| self.compiled.get(&policy));
        let known = known.map_or(&[][..], |compiled| &compiled.key.policies);
        let stays = |handle: &&Handle| {
            let still = handles.binary_search(handle).is_ok();
            still && says(handle) && !self.dirty.policies.contains(handle)
        };
        let mut order: Vec<Handle> = known.iter().filter(stays).copied().collect();
        let mut placed = order.clone();
        placed.sort_unstable();
        let place = |handle: &Handle| self.slots.get(handle).map(|slot| part::place(&slot.policy));
        for handle in handles {
            if says(handle) && placed.binary_search(handle).is_err() {
                let at = order.partition_point(|other| place(other) < place(handle));
                order.insert(at, *handle);
            }
        }
        order
    }

    /// The port names that subjects of some policies resolve, sorted.
    pub(super) fn subject_names(&self, policies: &[Handle]) -> Vec<PortName> {
        let slots = policies.iter().filter_map(|handle| self.slots.get(handle));
        let mut names: Vec<_> = slots
            .flat_map(|slot| &slot.subject_names)
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Ingress rules that name a port which no pod they apply to has.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all = Vec::new();
        for Compiled { key, .. } in self.compiled.values() {
            if key.direction == Direction::Egress {
                continue;
            }
            let slots = key.policies.iter().filter_map(|h| self.slots.get(h));
            let policies: Vec<&Policy> = slots.map(|slot| &*slot.policy).collect();
            for (name, points) in self.subject_names(&key.policies).iter().zip(&key.subject) {
                if !points.is_empty() {
                    continue;
                }
                for (policy, index) in rules_naming(&policies, name) {
                    all.push(Diagnostic {
                        object: format!("{} {}", policy.id.kind, policy.id),
                        source: None,
                        path: format!("spec.ingress[{index}].ports"),
                        severity: Severity::Info,
                        message: format!(
                            "a pod that the policy selects on this node has no {}port named {:?}; \
                             there this port allows nothing",
                            name.0.map_or(String::new(), |p| format!("{} ", p.name())),
                            &*name.1,
                        ),
                    });
                }
            }
        }
        all.sort();
        all.dedup();
        all
    }
}

/// The rules of policies that use a port name on ingress.
fn rules_naming<'p>(policies: &[&'p Policy], name: &PortName) -> Vec<(&'p Policy, u32)> {
    let mut found = Vec::new();
    for policy in policies {
        for rule in atoms::effective(policy.ingress.as_ref()) {
            if atoms::names(rule).any(|used| used == *name) {
                found.push((*policy, rule.index));
            }
        }
    }
    found
}

/// The endpoint that a local pod is; `None`: policy does not apply to it, or it
/// has no address of its own.
fn endpoint(store: &Store, key: &PodRef, pod: &Pod) -> Option<EndpointSpec> {
    if !pod.is_selectable() {
        return None;
    }
    let owns = |address: IpAddr| store.owner(address) == Some(key);
    let spec = EndpointSpec {
        uid: pod.uid.clone(),
        ipv4: pod.ipv4.filter(|address| owns(IpAddr::V4(*address))),
        ipv6: pod.ipv6.filter(|address| owns(IpAddr::V6(*address))),
        ingress: None,
        egress: None,
    };
    (spec.ipv4.is_some() || spec.ipv6.is_some()).then_some(spec)
}

//! Which policies apply to which local pod, and so which are in force.

use std::net::IpAddr;
use std::sync::Arc;

use policy_common::abi::Direction;

use super::policies::{Compiled, RulesetKey};
use super::state::{Handle, Local, State};
use crate::compile::program::Ruleset;
use crate::desired::{EndpointSpec, PodRef, PolicyRef};
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Pod, Policy};
use crate::resolve::atoms::resolve;
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
            after.ingress = self.ruleset(Direction::Ingress, &after.handles, pod);
            after.egress = self.ruleset(Direction::Egress, &after.handles, pod);
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
            if let Some(slot) = self.slots.get_mut(handle) {
                slot.endpoints += 1;
                if slot.endpoints == 1 {
                    self.atoms.add(&slot.policy);
                }
            }
        }
    }

    fn leave(&mut self, local: &Local) {
        for handle in &local.handles {
            if let Some(slot) = self.slots.get_mut(handle) {
                slot.endpoints -= 1;
                if slot.endpoints == 0 {
                    self.atoms.remove(&slot.policy);
                    self.dirty.idle.insert(*handle);
                }
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
    /// anything in this direction.
    fn ruleset(
        &mut self,
        direction: Direction,
        handles: &[Handle],
        pod: &Pod,
    ) -> Option<PolicyRef> {
        let policies = handles.iter().filter_map(|handle| self.slots.get(handle));
        let ruleset = Ruleset::new(direction, policies.map(|slot| &slot.policy));
        if ruleset.policies.is_empty() {
            return None;
        }
        let key = RulesetKey {
            direction,
            policies: ruleset
                .policies
                .iter()
                .filter_map(|policy| self.handles.get(&policy.id).copied())
                .collect(),
            subject: ruleset
                .subject_names()
                .iter()
                .map(|name| resolve(pod, name))
                .collect(),
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

    /// Ingress rules that name a port which no pod they apply to has.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all = Vec::new();
        for compiled in self.compiled.values() {
            let slots = compiled.key.policies.iter();
            let policies: Vec<&Arc<Policy>> = slots
                .filter_map(|handle| self.slots.get(handle))
                .map(|slot| &slot.policy)
                .collect();
            for (name, points) in compiled.subject_names(&policies) {
                if !points.is_empty() {
                    continue;
                }
                for (policy, index) in rules_naming(&policies, &name) {
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
fn rules_naming<'p>(
    policies: &[&'p Arc<Policy>],
    name: &crate::resolve::atoms::PortName,
) -> Vec<(&'p Policy, u32)> {
    let mut found = Vec::new();
    for policy in policies {
        for rule in crate::resolve::atoms::effective(policy.ingress.as_ref()) {
            if crate::resolve::atoms::names(rule).any(|used| used == *name) {
                found.push((&***policy, rule.index));
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

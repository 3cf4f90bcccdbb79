//! The desired state without the numbers that history gave it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::desired::{ClassId, CompiledPolicy, DesiredState, PolicyRef};

impl DesiredState {
    /// The same state, with classes and policies numbered in the order in which
    /// addresses, prefixes and endpoints name them. Two states that mean the same
    /// are equal in this form; what nothing names comes last and stays visible.
    pub fn canonical(&self) -> Self {
        let mut classes = BTreeMap::from([(ClassId::OTHER, ClassId::OTHER)]);
        let named = self.hosts.values().map(|host| host.class);
        let named = named.chain(self.prefixes.values().copied());
        let rows = self.policies.values().flat_map(|p| p.rows.keys().copied());
        for class in named.chain(rows) {
            let next = ClassId(number(classes.len()));
            classes.entry(class).or_insert(next);
        }
        let mut policies = BTreeMap::new();
        let endpoints = self.endpoints.values();
        let named = endpoints.flat_map(|e| [e.ingress, e.egress]).flatten();
        for policy in named.chain(self.policies.keys().copied()) {
            let next = PolicyRef(number(policies.len() + 1));
            policies.entry(policy).or_insert(next);
        }
        let mut state = self.clone();
        for host in state.hosts.values_mut() {
            host.class = classes[&host.class];
        }
        for class in state.prefixes.values_mut() {
            *class = classes[class];
        }
        for endpoint in state.endpoints.values_mut() {
            endpoint.ingress = endpoint.ingress.map(|policy| policies[&policy]);
            endpoint.egress = endpoint.egress.map(|policy| policies[&policy]);
        }
        state.policies = self
            .policies
            .iter()
            .map(|(policy, spec)| {
                let rows = spec.rows.iter();
                let spec = CompiledPolicy {
                    rows: rows.map(|(c, set)| (classes[c], set.clone())).collect(),
                    ..CompiledPolicy::clone(spec)
                };
                (policies[policy], Arc::new(spec))
            })
            .collect();
        state
    }
}

/// A place in a list, as a number.
fn number(place: usize) -> u32 {
    u32::try_from(place).expect("tables are numbered by u32")
}

//! Which pod an address belongs to.
//!
//! Addresses are released when a pod finishes, and may be another pod's before
//! the old object says so; for a moment several live pods may show one. What
//! decides is in the objects, so the answer never depends on their order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::change::{Change, note};
use crate::desired::PodRef;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::Pod;

/// Address ownership.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Owners {
    /// By address; unlike a hash table, it takes no more room than is in use.
    owner: BTreeMap<IpAddr, PodRef>,
    /// Addresses that several live pods show: all of these pods.
    contested: BTreeMap<IpAddr, BTreeSet<PodRef>>,
    /// Live selectable pods without any address.
    waiting: BTreeSet<PodRef>,
}

impl Owners {
    pub(super) fn owner(&self, address: IpAddr) -> Option<&PodRef> {
        self.owner.get(&address)
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &PodRef> {
        self.waiting.iter()
    }

    /// Takes a change of one pod in; `pods` is as after the change.
    pub(super) fn update(
        &mut self,
        key: &PodRef,
        old: Option<&Pod>,
        new: Option<&Pod>,
        pods: &BTreeMap<PodRef, Arc<Pod>>,
        changes: &mut BTreeMap<IpAddr, Change<PodRef>>,
    ) {
        if new.is_some_and(|pod| pod.is_selectable() && pod.addresses().next().is_none()) {
            self.waiting.insert(key.clone());
        } else {
            self.waiting.remove(key);
        }
        let (before, after) = (claims(old), claims(new));
        for address in before.iter().flatten() {
            if !after.contains(&Some(*address)) {
                self.release(*address, key);
            }
        }
        for address in after.iter().flatten() {
            self.claim(*address, key);
        }
        for address in before.iter().chain(&after).flatten() {
            self.decide(*address, key, pods, changes);
        }
    }

    fn claim(&mut self, address: IpAddr, key: &PodRef) {
        if let Some(claimants) = self.contested.get_mut(&address) {
            claimants.insert(key.clone());
        } else if let Some(owner) = self.owner.get(&address).filter(|owner| *owner != key) {
            let claimants = BTreeSet::from([owner.clone(), key.clone()]);
            self.contested.insert(address, claimants);
        }
    }

    fn release(&mut self, address: IpAddr, key: &PodRef) {
        if let Some(claimants) = self.contested.get_mut(&address) {
            claimants.remove(key);
        }
    }

    /// Gives the address to whom it belongs, after a change of `key`.
    fn decide(
        &mut self,
        address: IpAddr,
        key: &PodRef,
        pods: &BTreeMap<PodRef, Arc<Pod>>,
        changes: &mut BTreeMap<IpAddr, Change<PodRef>>,
    ) {
        let new = match self.contested.get(&address) {
            Some(claimants) => {
                let newest = claimants.iter().max_by_key(|claimant| rank(claimant, pods));
                let newest = newest.cloned();
                if claimants.len() < 2 {
                    self.contested.remove(&address);
                }
                newest
            }
            // Nobody else shows it: it is this pod's, or nobody's.
            None => {
                let pod = pods.get(key).map(Arc::as_ref);
                let claimed = claims(pod).contains(&Some(address));
                claimed.then(|| key.clone())
            }
        };
        let old = match new.clone() {
            Some(owner) => self.owner.insert(address, owner),
            None => self.owner.remove(&address),
        };
        if old != new {
            note(changes, address, old.map(Arc::new), new.map(Arc::new));
        }
    }

    /// A diagnostic for each pod that lost an address to a newer one.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = Diagnostic> {
        self.contested.iter().flat_map(move |(address, claimants)| {
            let owner = self.owner.get(address);
            let losers = claimants.iter().filter(move |pod| Some(*pod) != owner);
            losers.filter_map(move |loser| {
                let owner = owner?;
                Some(Diagnostic {
                    object: format!("Pod {loser}"),
                    source: None,
                    path: "status.podIPs".to_owned(),
                    severity: Severity::Warning,
                    message: format!(
                        "address {address} is also that of Pod {owner}, which is newer: \
                         traffic of the address is judged as {owner}; \
                         delete the pod that does not run any more"
                    ),
                })
            })
        })
    }
}

/// The addresses that a pod shows as its own.
fn claims(pod: Option<&Pod>) -> [Option<IpAddr>; 2] {
    match pod {
        Some(pod) if pod.is_selectable() => [pod.ipv4.map(IpAddr::V4), pod.ipv6.map(IpAddr::V6)],
        Some(_) | None => [None, None],
    }
}

/// Newer is greater.
fn rank<'a>(
    key: &'a PodRef,
    pods: &'a BTreeMap<PodRef, Arc<Pod>>,
) -> (Option<(i64, &'a str)>, &'a PodRef) {
    let pod = pods.get(key);
    (pod.map(|pod| (pod.created, &*pod.uid)), key)
}

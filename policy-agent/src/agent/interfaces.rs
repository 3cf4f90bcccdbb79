//! Pods and interfaces together: which interface each pod's policies are put
//! on, and which interfaces are held.
//!
//! What is there is `iface`'s to read and to assign; what a plan does with it is
//! `state`'s. Held means: the programs are attached and lead to no endpoint, so
//! that nothing but the node's own traffic passes.

use std::collections::{BTreeMap, BTreeSet};

use policy_core::desired::PodRef;
use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::ops::Op;
use policy_core::plan::{Attachment, Attachments, Programmed};

use super::state::{PodUid, State, node_problem};
use crate::iface::{
    AddressClass, Behind, Conflict, KnownInterface, NoInterface, Snapshot, assign_after,
};

impl State {
    /// Pods of this node and the interfaces that are theirs.
    pub(super) fn attachments(&mut self) -> Attachments {
        let (awaited, told) = self.told_interfaces();
        let desired = self.engine.desired();
        let mut pods: Vec<(PodUid, Vec<std::net::IpAddr>)> = desired
            .endpoints
            .iter()
            .map(|(pod, spec)| {
                let v4 = spec.ipv4.map(std::net::IpAddr::V4);
                let v6 = spec.ipv6.map(std::net::IpAddr::V6);
                let addresses = v4.into_iter().chain(v6).collect();
                ((pod.clone(), spec.uid.clone()), addresses)
            })
            .collect();
        let attached = &self.planner.mirror().attached;
        if !self.adopted {
            // A link that is alive proves that the interface is the one on which an
            // earlier agent put it; what is behind it now, its pod chooses.
            self.adopted = true;
            self.known = adopt(self.planner.mirror(), &self.snapshot, &pods);
            // What an earlier agent held, or the plugin while there was none.
            let leads = &self.planner.mirror().interfaces;
            let held = attached.iter().filter(|at| !leads.contains_key(at));
            self.holding.extend(held);
        }
        // An interface that carries our link is the same interface, wherever its
        // pod has moved the other end.
        for known in &mut self.known {
            if let Some(link) = self.snapshot.links.get(&known.interface)
                && attached.contains(&known.interface)
            {
                known.peer = link.peer;
            }
        }
        // Who was there when the interface was made knows better than addresses.
        self.known
            .retain(|known| told.iter().all(|told| told.interface != known.interface));
        let is_awaited: BTreeSet<PodUid> = awaited.iter().map(|(pod, _)| pod.clone()).collect();
        let latest: BTreeMap<PodUid, u32> = told
            .iter()
            .map(|told| (told.pod.clone(), told.interface))
            .collect();
        self.known.extend(told);
        pods.extend(awaited);
        self.assignment = assign_after(&self.snapshot, &pods, &self.known);
        self.known = self.assignment.known(&self.snapshot);
        let now = std::time::Instant::now();
        self.cni.births.assigned(&self.assignment, now);
        let chosen: BTreeMap<PodUid, u32> = self
            .assignment
            .interfaces
            .iter()
            .filter(|(pod, _)| !is_awaited.contains(pod))
            .filter_map(|(pod, interfaces)| {
                let addresses = pods
                    .iter()
                    .find(|(other, _)| other == pod)
                    .map(|(_, a)| a)?;
                let told = latest.get(pod).filter(|at| interfaces.contains(at));
                let chosen = told.copied();
                let chosen = chosen.or_else(|| self.choose(&pod.0, interfaces, addresses));
                Some((pod.clone(), chosen?))
            })
            .collect();
        let desired = self.engine.desired();
        // Of a pod whose object is not known, everything may be forbidden.
        let is_isolated = |pod: &PodUid| {
            is_awaited.contains(pod)
                || desired
                    .endpoints
                    .get(&pod.0)
                    .is_some_and(|spec| spec.ingress.is_some() || spec.egress.is_some())
        };
        // It cannot be told whose it is, and one of those whose it may be is
        // isolated: nothing but the node's own traffic.
        let contested = self
            .assignment
            .contested
            .iter()
            .filter(|(_, pods)| pods.iter().any(is_isolated))
            .map(|(interface, _)| *interface);
        // Further interfaces of an isolated pod are no way round its policies.
        let further = self
            .assignment
            .interfaces
            .iter()
            .filter(|(pod, _)| is_isolated(pod))
            .flat_map(|(pod, interfaces)| {
                let chosen = chosen.get(pod).copied();
                interfaces
                    .iter()
                    .copied()
                    .filter(move |i| Some(*i) != chosen)
            });
        let unknown = self.cni.births.unknown(&self.assignment, now);
        self.held = contested.chain(further).chain(unknown).collect();
        chosen
            .into_iter()
            .map(|((pod, _), ifindex)| {
                let attachment = Attachment {
                    ifindex,
                    link_local6: self.link_local(ifindex),
                };
                (pod, attachment)
            })
            .collect()
    }

    /// Which of a pod's interfaces its policies are put on: the one that they are
    /// on, unless its address has gone to another.
    fn choose(
        &self,
        pod: &PodRef,
        interfaces: &BTreeSet<u32>,
        addresses: &[std::net::IpAddr],
    ) -> Option<u32> {
        let has_address = |index: &u32| match self.snapshot.behind.get(index) {
            Some(Behind::Addresses(behind)) => behind
                .on_peer
                .iter()
                .any(|address| addresses.contains(address)),
            _ => false,
        };
        let current = self.programmed.get(pod).map(|now| now.ifindex);
        let current = current.filter(|index| interfaces.contains(index));
        current
            .filter(has_address)
            .or_else(|| interfaces.iter().copied().find(has_address))
            .or(current)
            .or_else(|| interfaces.first().copied())
    }

    fn link_local(&self, ifindex: u32) -> Option<std::net::Ipv6Addr> {
        let Some(Behind::Addresses(addresses)) = self.snapshot.behind.get(&ifindex) else {
            return None;
        };
        // An address of this node's own is not the pod's to announce.
        let is_own = |address: &std::net::IpAddr| {
            let own = &self.snapshot.own_addresses;
            own.iter().any(|own| own.address == *address)
        };
        let of_pod: Vec<std::net::Ipv6Addr> = addresses
            .on_peer
            .iter()
            .filter(|address| AddressClass::of(**address) == AddressClass::LinkLocal)
            .filter(|address| !is_own(address))
            .filter_map(|address| match address {
                std::net::IpAddr::V6(v6) => Some(*v6),
                std::net::IpAddr::V4(_) => None,
            })
            .collect();
        // The one that it had, for as long as it has it.
        let mirror = self.planner.mirror();
        let slot = mirror.interfaces.get(&ifindex);
        let known = slot.and_then(|slot| mirror.endpoints.get(slot));
        let known = known.map(|endpoint| std::net::Ipv6Addr::from(endpoint.link_local6));
        known
            .filter(|known| of_pod.contains(known))
            .or_else(|| of_pod.first().copied())
    }

    /// Held interfaces have the programs and no endpoint.
    pub(super) fn hold(
        &mut self,
        mut ops: Vec<Op>,
        endpoints: &BTreeMap<PodRef, Programmed>,
    ) -> Vec<Op> {
        ops.retain(|op| !matches!(op, Op::Detach { ifindex } if self.held.contains(ifindex)));
        let attached = &self.planner.mirror().attached;
        let missing = self.held.iter().filter(|held| !attached.contains(held));
        let holds = missing.map(|ifindex| Op::Attach { ifindex: *ifindex });
        let is_used = |ifindex: &u32| endpoints.values().any(|pod| pod.ifindex == *ifindex);
        let released = self
            .holding
            .iter()
            .filter(|ifindex| !self.held.contains(ifindex))
            .filter(|ifindex| attached.contains(ifindex) && !is_used(ifindex));
        let releases = released.map(|ifindex| Op::Detach { ifindex: *ifindex });
        // Before what may have to wait, after what changes verdicts.
        let at = ops.iter().position(|op| matches!(op, Op::Grace));
        let later = ops.split_off(at.unwrap_or(ops.len()));
        ops.extend(holds.chain(releases).chain(later));
        self.holding.extend(&self.held);
        self.holding
            .retain(|ifindex| self.snapshot.links.contains_key(ifindex));
        ops
    }

    pub(super) fn interface_problems(&self) -> Vec<Diagnostic> {
        let mut all = Vec::new();
        for interface in &self.snapshot.excessive {
            let name = self.snapshot.links.get(interface);
            let name = name.map_or_else(|| interface.to_string(), |link| link.name.clone());
            let message = "there are too many addresses behind it, or they never rest: they are \
                           not read, and what was known of them stays"
                .to_owned();
            all.push(Diagnostic {
                object: format!("interface {name}"),
                source: None,
                path: String::new(),
                severity: Severity::Warning,
                message,
            });
        }
        for ((pod, _), why) in &self.assignment.without_interface {
            let (severity, message) = match why {
                // The store says so already.
                NoInterface::NoAddress | NoInterface::HostNetwork => continue,
                NoInterface::Unsupported { interface, kind } => (
                    Severity::Error,
                    format!(
                        "it is behind interface {interface} of kind {kind:?}, which cannot be \
                         enforced: its policies are not in force"
                    ),
                ),
                NoInterface::Contested => (
                    Severity::Error,
                    "its addresses are in several places, so its interface cannot be told; \
                     those that may be its own pass the node's traffic only"
                        .to_owned(),
                ),
                NoInterface::NotSeen => (
                    Severity::Warning,
                    "its addresses are behind no interface of this node (yet): there is nothing \
                     to enforce its policies on; check status.podIPs and spec.nodeName"
                        .to_owned(),
                ),
            };
            all.push(pod_problem(pod, severity, message));
        }
        for ((pod, _), interfaces) in &self.assignment.interfaces {
            if interfaces.len() > 1 {
                let message = format!(
                    "it has {} interfaces: its policies are in force on one; the others \
                     pass the node's own traffic only while it is isolated \
                     (interface indexes {interfaces:?})",
                    interfaces.len()
                );
                all.push(pod_problem(pod, Severity::Warning, message));
            }
        }
        for conflict in &self.assignment.conflicts {
            let (object, message) = match conflict {
                Conflict::AddressInSeveralPlaces {
                    address,
                    interfaces,
                } => (
                    format!("address {address}"),
                    format!("it is behind several interfaces: {interfaces:?}"),
                ),
                Conflict::SeveralPodsBehind { interface, pods } => (
                    format!("interface {interface}"),
                    format!("addresses of several pods are behind it: {}", list(pods)),
                ),
                Conflict::AddressOfSeveralPods { address, pods } => (
                    format!("address {address}"),
                    format!("several pods have it: {}; the newest owns it", list(pods)),
                ),
            };
            all.push(Diagnostic {
                object,
                source: None,
                path: String::new(),
                severity: Severity::Warning,
                message,
            });
        }
        for problem in &self.snapshot.problems {
            all.push(node_problem("network namespaces", format!("{problem:?}")));
        }
        all
    }
}

/// The interfaces on which an earlier agent put the policies of these pods.
fn adopt(
    mirror: &policy_core::plan::Mirror,
    snapshot: &Snapshot,
    pods: &[(PodUid, Vec<std::net::IpAddr>)],
) -> Vec<KnownInterface<PodUid>> {
    let mut known = Vec::new();
    for endpoint in mirror.endpoints.values() {
        if !mirror.attached.contains(&endpoint.ifindex) {
            continue;
        }
        let v4 = (endpoint.addr4 != [0; 4]).then(|| endpoint.addr4.into());
        let v6 = (endpoint.addr6 != [0; 16]).then(|| endpoint.addr6.into());
        let addresses: Vec<std::net::IpAddr> = v4.into_iter().chain(v6).collect();
        let pod = pods.iter().find(|(_, of_pod)| *of_pod == addresses);
        let link = snapshot.links.get(&endpoint.ifindex);
        if let (Some((pod, _)), Some(link)) = (pod, link) {
            known.push(KnownInterface {
                interface: endpoint.ifindex,
                peer: link.peer,
                pod: pod.clone(),
            });
        }
    }
    known
}

fn list(pods: &BTreeSet<PodUid>) -> String {
    let names: Vec<String> = pods.iter().map(|(pod, _)| pod.to_string()).collect();
    names.join(", ")
}

fn pod_problem(pod: &PodRef, severity: Severity, message: String) -> Diagnostic {
    Diagnostic {
        object: format!("Pod {pod}"),
        source: None,
        path: String::new(),
        severity,
        message,
    }
}

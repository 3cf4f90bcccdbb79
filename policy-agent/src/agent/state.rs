//! Sources, engine, planner and datapath together: what the sources say becomes
//! what the kernel does, one change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_core::desired::PodRef;
use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::engine::Engine;
use policy_core::model::Pod;
use policy_core::ops::Op;
use policy_core::plan::{Attachment, Attachments, Plan, Planner, Programmed};
use policy_core::store::{Object, SourceEvent};

use super::cleanup::Cleanup;
use super::lines::Lines;
use super::names::Names;
use super::node;
use crate::datapath::{Applied, Datapath};
use crate::iface::{
    AddressClass, Assignment, Behind, Change, Conflict, KnownInterface, NoInterface, Scanner,
    Snapshot, assign_after,
};
use crate::source::manifests::Manifests;

/// A pod and which one of its name.
pub(super) type PodUid = (PodRef, Arc<str>);

/// Everything that the agent knows.
pub(super) struct State {
    given_name: Option<String>,
    name: Option<Arc<str>>,
    pub(super) engine: Engine,
    pub(super) planner: Planner,
    pub(super) datapath: Datapath,
    pub(super) manifests: Manifests,
    scanner: Scanner,
    pub(super) snapshot: Snapshot,
    /// Interfaces were read at least once.
    scanned: bool,
    /// Interfaces that were held, and whether endpoints were looked for that an
    /// earlier agent left.
    holding: BTreeSet<u32>,
    adopted: bool,
    pub(super) assignment: Assignment<PodUid>,
    known: Vec<KnownInterface<PodUid>>,
    pub(super) held: BTreeSet<u32>,
    /// What the last plan was made for, if it has been carried out whole.
    settled: Option<(Attachments, BTreeSet<u32>)>,
    pub(super) programmed: BTreeMap<PodRef, Programmed>,
    /// The same, of the plan that is being carried out.
    upcoming: BTreeMap<PodRef, Programmed>,
    pub(super) names: Names,
    pub(super) lines: Lines,
    cleanup: Cleanup,
    pub(super) source_problems: Vec<Diagnostic>,
    plan_problems: Vec<Diagnostic>,
    failure: Option<Diagnostic>,
    scan_failure: Option<Diagnostic>,
    pub(super) synced: bool,
    pub(super) changes: u64,
    pub(super) repairs: u64,
}

/// What a reconciliation leaves to the loop.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Removal waits for a grace period.
    pub(super) grace: bool,
    /// `Some(true)`: something could not be done, try again a little later;
    /// `Some(false)`: all was done; `None`: nothing was tried.
    pub(super) retry: Option<bool>,
}

impl Outcome {
    fn failed() -> Self {
        Self {
            grace: false,
            retry: Some(true),
        }
    }

    fn done(grace: bool) -> Self {
        Self {
            grace,
            retry: Some(false),
        }
    }
}

impl State {
    pub(super) fn new(
        given_name: Option<String>,
        datapath: Datapath,
        planner: Planner,
        manifests: Manifests,
        scanner: Scanner,
    ) -> Self {
        Self {
            given_name,
            name: None,
            engine: Engine::new(policy_core::engine::NodeContext::default()),
            planner,
            datapath,
            manifests,
            scanner,
            snapshot: Snapshot::default(),
            scanned: false,
            holding: BTreeSet::new(),
            adopted: false,
            assignment: assign_after(&Snapshot::default(), &[], &[]),
            known: Vec::new(),
            held: BTreeSet::new(),
            settled: None,
            programmed: BTreeMap::new(),
            upcoming: BTreeMap::new(),
            names: Names::default(),
            lines: Lines::stdout(),
            cleanup: Cleanup::default(),
            source_problems: Vec::new(),
            plan_problems: Vec::new(),
            failure: None,
            scan_failure: None,
            synced: false,
            changes: 0,
            repairs: 0,
        }
    }

    /// Reads the folder; true if anything is different.
    pub(super) fn read_manifests(&mut self) -> bool {
        let update = self.manifests.rescan();
        self.source_problems = update.diagnostics;
        if self.name.is_none() {
            if update.events.is_empty() {
                // Not even an empty list: the folder was not there to be read.
                return false;
            }
            // The name decides which pods are local, and may come from the only
            // Node among the objects: settled before anything is derived.
            let mut store = policy_core::store::Store::new();
            store.apply_all(update.events.iter().cloned());
            let name = node::name(self.given_name.as_deref(), &store);
            self.engine = Engine::new(node::context(&name, &store, self.snapshot.node_addresses()));
            self.name = Some(name);
        }
        let name = self.engine.node().name.clone();
        let changed = !update.events.is_empty();
        self.engine
            .apply(update.events.into_iter().map(|event| at_home(event, &name)));
        if !self.synced {
            // What an earlier agent left in force may come from what cannot be read
            // now: it stays until that can be told.
            let adopted = !self.planner.mirror().endpoints.is_empty();
            self.synced = !(update.partial && adopted);
            if !self.synced {
                self.source_problems.push(node_problem(
                    "manifests",
                    "not everything can be read, and policies of an earlier agent are in force: \
                     they stay as they are, for all pods, until every file can be read"
                        .to_owned(),
                ));
            }
            return self.synced;
        }
        changed
    }

    /// Reads interfaces and the addresses behind them. What cannot be read leaves
    /// what is known.
    pub(super) fn read_interfaces(&mut self, change: &Change) {
        match self.scanner.scan(change) {
            Ok(snapshot) => {
                self.snapshot = snapshot;
                self.scanned = true;
                self.scan_failure = None;
            }
            Err(error) => {
                self.scan_failure = Some(node_problem(
                    "interfaces",
                    format!("{error}; what was known of them stays in force"),
                ));
            }
        }
    }

    /// Puts in force what the sources say. Quick where nothing is different.
    pub(super) fn reconcile(&mut self) -> Outcome {
        if !self.synced {
            return Outcome::default();
        }
        if !self.scanned {
            // Nothing is known of interfaces: that is not the same as none.
            return Outcome::failed();
        }
        let context = node::context(
            &self.engine.node().name.clone(),
            self.engine.store(),
            self.snapshot.node_addresses(),
        );
        if context != *self.engine.node() {
            self.engine.set_node(context);
        }
        let attachments = self.attachments();
        let changes = self.engine.take_changes();
        let settled = self.settled.take();
        if changes.is_empty()
            && let Some((before, held)) = settled
            && before == attachments
            && held == self.held
        {
            self.settled = Some((before, held));
            return Outcome::done(false);
        }
        let desired = self.engine.desired();
        self.names.learn_rules(&desired.rules);
        let Plan {
            ops,
            problems,
            endpoints,
        } = self.planner.plan(desired, &attachments);
        self.plan_problems = problems;
        for (pod, programmed) in &endpoints {
            self.names.learn_pod(programmed.number, pod);
        }
        let ops = self.hold(ops, &endpoints);
        if ops.is_empty() {
            self.programmed = endpoints;
            self.failure = None;
            self.planner.renewed();
            if self.plan_problems.is_empty() {
                self.settled = Some((attachments, self.held.clone()));
            }
            return Outcome::done(false);
        }
        self.changes += 1;
        let (ops, grace) = self.cleanup.split(ops);
        self.upcoming = endpoints;
        if self.carry_out(&ops) {
            self.programmed = std::mem::take(&mut self.upcoming);
            self.planner.renewed();
            return Outcome::done(grace);
        }
        // What was to be removed afterwards may still be in force.
        self.cleanup.take();
        self.planner.renew_all();
        Outcome::failed()
    }

    /// The grace period of the last change has passed.
    pub(super) fn after_grace(&mut self) -> Outcome {
        let ops = self.cleanup.take();
        if ops.is_empty() {
            return Outcome::default();
        }
        if self.carry_out(&ops) {
            // What was removed may have made room for what did not fit.
            self.settled = None;
            return self.reconcile();
        }
        self.planner.renew_all();
        Outcome::failed()
    }

    /// Compares the kernel with what should be in it, and repairs.
    pub(super) fn verify(&mut self) -> Outcome {
        match self.datapath.read_back() {
            Ok(mirror) => {
                let differs = {
                    let known = self.planner.mirror();
                    mirror != *known
                };
                if !differs {
                    return Outcome::default();
                }
                self.planner.reread(mirror);
                self.settled = None;
                let before = self.changes;
                let outcome = self.reconcile();
                if self.changes != before {
                    self.repairs += 1;
                    eprintln!("repaired: the kernel's maps or links were not as they were left");
                }
                outcome
            }
            Err(error) => {
                self.failure = Some(node_problem(
                    "datapath",
                    format!("the kernel's maps cannot be read back: {error}"),
                ));
                Outcome::failed()
            }
        }
    }

    /// Does operations; false if not all of them could be done.
    fn carry_out(&mut self, ops: &[Op]) -> bool {
        let Applied {
            done,
            words,
            failure,
        } = self.datapath.apply(ops);
        self.planner.applied(ops.get(..done).unwrap_or(ops));
        for stored in words {
            self.announce(stored.slot, stored.word, stored.at_ns);
        }
        match failure {
            None => {
                self.failure = None;
                true
            }
            Some(failure) => {
                let message =
                    format!("{failure}; what was in force before stays, and it is tried again");
                self.failure = Some(node_problem("datapath", message));
                // What the failed operation left is not known: look.
                if let Ok(mirror) = self.datapath.read_back() {
                    self.planner.reread(mirror);
                }
                false
            }
        }
    }

    /// Says that a pod's policies took effect, and when.
    fn announce(&self, slot: u32, word: policy_common::abi::endpoint::PolicyWord, at_ns: u64) {
        use policy_common::abi::Direction;
        let pod = self
            .upcoming
            .iter()
            .chain(&self.programmed)
            .find(|(_, programmed)| programmed.slot == slot)
            .map(|(pod, _)| pod.to_string());
        let line = serde_json::json!({
            "type": "programmed",
            "pod": pod,
            "slot": slot,
            "generation": word.generation(),
            "ingress_isolated": word.policy(Direction::Ingress) != 0,
            "egress_isolated": word.policy(Direction::Egress) != 0,
            "stored_monotonic_ns": at_ns,
        });
        self.lines.write(&line);
    }

    /// Pods of this node and the interfaces that are theirs.
    fn attachments(&mut self) -> Attachments {
        let desired = self.engine.desired();
        let pods: Vec<(PodUid, Vec<std::net::IpAddr>)> = desired
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
        self.assignment = assign_after(&self.snapshot, &pods, &self.known);
        self.known = self.assignment.known(&self.snapshot);
        let chosen: BTreeMap<PodUid, u32> = self
            .assignment
            .interfaces
            .iter()
            .filter_map(|(pod, interfaces)| {
                let addresses = pods
                    .iter()
                    .find(|(other, _)| other == pod)
                    .map(|(_, a)| a)?;
                Some((pod.clone(), self.choose(&pod.0, interfaces, addresses)?))
            })
            .collect();
        let desired = self.engine.desired();
        let is_isolated = |pod: &PodUid| {
            desired
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
        self.held = contested.chain(further).collect();
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
    fn hold(&mut self, mut ops: Vec<Op>, endpoints: &BTreeMap<PodRef, Programmed>) -> Vec<Op> {
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

    /// Everything that is wrong or worth knowing, sorted.
    pub(super) fn diagnostics(&mut self) -> Vec<Diagnostic> {
        let mut all = self.source_problems.clone();
        all.extend(self.engine.diagnostics());
        all.extend(self.plan_problems.iter().cloned());
        all.extend(self.failure.iter().cloned());
        all.extend(self.scan_failure.iter().cloned());
        all.extend(self.interface_problems());
        all.extend(self.other_versions());
        all.sort();
        all.dedup();
        all
    }

    /// What another version left pinned goes on judging packets beside this one.
    fn other_versions(&self) -> impl Iterator<Item = Diagnostic> {
        self.datapath
            .other_versions()
            .iter()
            .map(|path| Diagnostic {
                object: path.display().to_string(),
                source: None,
                path: String::new(),
                severity: Severity::Warning,
                message:
                    "another version has pinned this: what it attached goes on denying what its \
                      policies denied; end this agent, run `policy-agent cleanup`, and start it \
                      again"
                        .to_owned(),
            })
    }

    fn interface_problems(&self) -> Vec<Diagnostic> {
        let mut all = Vec::new();
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

    /// Whether the datapath takes what it is told.
    pub(super) fn healthy(&self) -> bool {
        self.failure.is_none() && self.scan_failure.is_none()
    }

    /// Whether every endpoint has the policies that it should.
    pub(super) fn is_programmed(&self) -> bool {
        self.synced
            && self.healthy()
            && self
                .programmed
                .values()
                .all(|programmed| programmed.current)
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

/// A pod that names no node is this node's.
fn at_home(event: SourceEvent, name: &Arc<str>) -> SourceEvent {
    let home = |object: Object| match object {
        Object::Pod(pod) if pod.node.is_none() => Object::Pod(Arc::new(Pod {
            node: Some(name.clone()),
            ..Pod::clone(&pod)
        })),
        other => other,
    };
    match event {
        SourceEvent::Apply(object) => SourceEvent::Apply(home(object)),
        SourceEvent::Item(object) => SourceEvent::Item(home(object)),
        other => other,
    }
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

fn node_problem(part: &str, message: String) -> Diagnostic {
    Diagnostic {
        object: part.to_owned(),
        source: None,
        path: String::new(),
        severity: Severity::Error,
        message,
    }
}

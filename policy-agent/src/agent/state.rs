//! Sources, engine, planner and datapath together: what the sources say becomes
//! what the kernel does, one change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use policy_core::desired::PodRef;
use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::engine::{Changes, Engine};
use policy_core::ops::Op;
use policy_core::plan::{Attachments, Mirror, Plan, Planner, Programmed};

use super::cleanup::Cleanup;
use super::closed::Closed;
use super::cni::Cni;
use super::feedback::Feedback;
use super::lines::Lines;
use super::memory::Memory;
use super::names::Names;
use super::node;
use super::pressure::Pressure;
use super::rivals::Rivals;
use super::source::Source;
use crate::datapath::readback::ReadBackError;
use crate::datapath::settings::Settings;
use crate::datapath::{Applied, Datapath, Hook};
use crate::iface::{Assignment, Change, KnownInterface, Scanner, Snapshot, assign_after};

/// A pod and which one of its name.
pub(super) type PodUid = (PodRef, Arc<str>);

/// Everything that the agent knows.
pub(super) struct State {
    pub(super) engine: Engine,
    pub(super) planner: Planner,
    pub(super) datapath: Datapath,
    settings: Settings,
    pub(super) source: Source,
    scanner: Scanner,
    pub(super) snapshot: Snapshot,
    /// Interfaces were read at least once.
    pub(super) scanned: bool,
    /// Interfaces that were held, and whether endpoints were looked for that an
    /// earlier agent left.
    pub(super) holding: BTreeSet<u32>,
    pub(super) adopted: bool,
    pub(super) assignment: Assignment<PodUid>,
    pub(super) known: Vec<KnownInterface<PodUid>>,
    pub(super) held: BTreeSet<u32>,
    pub(super) cni: Cni,
    pub(super) closed: Closed,
    /// Interfaces that are no pods', and which of our programs are on them.
    pub(super) wired: BTreeSet<(u32, Hook)>,
    pub(super) wire_failure: Option<Diagnostic>,
    pub(super) rivals: Rivals,
    pub(super) pressure: Pressure,
    /// What the last plan was made for, if it has been carried out whole.
    pub(super) settled: Option<(Attachments, BTreeSet<u32>)>,
    /// Interfaces were looked at since the last reconciliation.
    pub(super) looked: bool,
    pub(super) programmed: BTreeMap<PodRef, Programmed>,
    /// The same, of the plan that is being carried out.
    upcoming: BTreeMap<PodRef, Programmed>,
    pub(super) names: Names,
    pub(super) lines: Lines,
    pub(super) feedback: Feedback,
    cleanup: Cleanup,
    pub(super) plan_problems: Vec<Diagnostic>,
    pub(super) failure: Option<Diagnostic>,
    scan_failure: Option<Diagnostic>,
    pub(super) synced: bool,
    pub(super) changes: u64,
    pub(super) repairs: u64,
    pub(super) memory: Memory,
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
    pub(super) fn failed() -> Self {
        Self {
            grace: false,
            retry: Some(true),
        }
    }

    /// What this and a later one leave together.
    pub(super) fn and(self, later: Self) -> Self {
        Self {
            grace: self.grace || later.grace,
            retry: later.retry.or(self.retry),
        }
    }

    pub(super) fn done(grace: bool) -> Self {
        Self {
            grace,
            retry: Some(false),
        }
    }
}

impl State {
    pub(super) fn new(
        source: Source,
        (datapath, settings): (Datapath, Settings),
        planner: Planner,
        scanner: Scanner,
        cni: Cni,
    ) -> Self {
        Self {
            engine: Engine::new(source.node()),
            planner,
            datapath,
            settings,
            source,
            scanner,
            snapshot: Snapshot::default(),
            scanned: false,
            holding: BTreeSet::new(),
            adopted: false,
            assignment: assign_after(&Snapshot::default(), &[], &[]),
            known: Vec::new(),
            held: BTreeSet::new(),
            cni,
            closed: Closed::default(),
            wired: BTreeSet::new(),
            wire_failure: None,
            rivals: Rivals::default(),
            pressure: Pressure::default(),
            settled: None,
            looked: true,
            programmed: BTreeMap::new(),
            upcoming: BTreeMap::new(),
            names: Names::default(),
            lines: Lines::stdout(),
            feedback: Feedback::default(),
            cleanup: Cleanup::default(),
            plan_problems: Vec::new(),
            failure: None,
            scan_failure: None,
            synced: false,
            changes: 0,
            repairs: 0,
            memory: Memory::default(),
        }
    }

    /// Reads interfaces and the addresses behind them. What cannot be read leaves
    /// what is known.
    pub(super) fn read_interfaces(&mut self, change: &Change) {
        match self.scanner.scan(change) {
            Ok(snapshot) => {
                self.looked = true;
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

    /// As [`Self::reconcile`], which tells people of it as well.
    pub(super) fn put_in_force(&mut self) -> Outcome {
        let now = Instant::now();
        self.take_told(now);
        if !self.synced {
            return self.hold_meanwhile(now);
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
        let changes = self.engine.take_changes();
        if let Some(outcome) = self.quick(&changes) {
            return outcome;
        }
        let attachments = self.attachments();
        self.looked = false;
        let wires = self.wires(&attachments);
        let wired = self.wire(&wires);
        let outcome = self.plan_for(attachments, &changes);
        if outcome.retry == Some(false) {
            self.unwire(&wires);
        }
        let closed = self.close();
        if wired && closed {
            return outcome;
        }
        self.settled = None;
        outcome.and(Outcome::failed())
    }

    /// Plans for these attachments, and carries it out.
    fn plan_for(&mut self, attachments: Attachments, changes: &Changes) -> Outcome {
        let settled = self.settled.take();
        if changes.is_empty()
            && let Some((before, held)) = settled
            && before == attachments
            && held == self.held
        {
            self.settled = Some((before, held));
            self.note_births();
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
        let numbered = endpoints.iter().map(|(pod, now)| (now.number, pod));
        self.names.learn_pods(numbered);
        let ops = self.hold(ops, &endpoints);
        if ops.is_empty() {
            self.programmed = endpoints;
            self.failure = None;
            self.planner.renewed();
            if self.plan_problems.is_empty() {
                let desired = self.engine.desired();
                self.planner.settle(desired, &self.programmed);
                self.settled = Some((attachments, self.held.clone()));
            }
            self.note_births();
            return Outcome::done(false);
        }
        self.changes += 1;
        let newcomers = self.remember_flows(&ops);
        let (ops, grace) = self.cleanup.split(ops);
        self.upcoming = endpoints;
        let is_done = self.carry_out(&ops);
        // Half-way too: some have their programs.
        self.remember_the_latest(&newcomers);
        if is_done {
            self.programmed = std::mem::take(&mut self.upcoming);
            self.planner.renewed();
            if !grace {
                self.settle(attachments);
            }
            self.note_births();
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
        match self.look() {
            Ok((put_right, mirror)) => {
                let differs = {
                    let known = self.planner.mirror();
                    mirror != *known
                };
                if !differs && !put_right {
                    return Outcome::default();
                }
                self.planner.reread(mirror);
                self.settled = None;
                let before = self.changes;
                let outcome = self.reconcile();
                if self.changes != before || put_right {
                    self.repaired();
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

    /// Something was not as it was left, and was put right.
    pub(super) fn repaired(&mut self) {
        self.repairs += 1;
        eprintln!("repaired: the kernel's maps or links were not as they were left");
    }

    /// What is in the kernel; whether something beside the mirror was not as it was
    /// left, and is put right or is about to be.
    fn look(&mut self) -> Result<(bool, Mirror), ReadBackError> {
        let moved = self.keep_in_front()?;
        let restored = self.datapath.maps().restore(
            &self.settings,
            self.planner.mirror().generation,
            self.planner.mirror().endpoint_number,
        )?;
        let wires = self.reread_wires()?;
        let closed = self.synced && self.scanned && self.verify_closed();
        let put_right = moved || restored || wires || closed;
        Ok((put_right, self.datapath.read_back()?))
    }

    /// Does operations; false if not all of them could be done.
    pub(super) fn carry_out(&mut self, ops: &[Op]) -> bool {
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
    fn announce(&mut self, slot: u32, word: policy_common::abi::endpoint::PolicyWord, at_ns: u64) {
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
        self.feedback.generations.word_stored();
    }

    /// Everything that is wrong or worth knowing, sorted.
    pub(super) fn diagnostics(&mut self) -> Vec<Diagnostic> {
        let mut all = self.source.problems(self.engine.store());
        all.extend(self.engine.diagnostics());
        all.extend(self.plan_problems.iter().cloned());
        all.extend(self.failure.iter().cloned());
        all.extend(self.scan_failure.iter().cloned());
        all.extend(self.wire_failure.iter().cloned());
        all.extend(self.rival_problems());
        all.extend(self.range_problems());
        all.extend(self.pressure.problems());
        all.extend(self.interface_problems());
        all.extend(self.cni_problems());
        all.extend(self.other_versions());
        all.extend(self.feedback.problems());
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

    /// Whether the datapath takes what it is told.
    pub(super) fn healthy(&self) -> bool {
        self.failure.is_none()
            && self.scan_failure.is_none()
            && self.wire_failure.is_none()
            && self.closed.works()
            && !self.rivals.any()
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

pub(super) fn node_problem(part: &str, message: String) -> Diagnostic {
    Diagnostic {
        object: part.to_owned(),
        source: None,
        path: String::new(),
        severity: Severity::Error,
        message,
    }
}

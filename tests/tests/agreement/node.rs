//! One node of the cluster with its tables in the kernel: what the agent does, without its I/O.
//!
//! The way is the product's: events into the engine, desired state and interfaces into the
//! planner, its operations into the datapath. Interfaces are never taken off the programs (that
//! costs two grace periods each time and is proven elsewhere); everything else is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy_agent::datapath::events::Events;
use policy_agent::datapath::test_run::{At, Trial};
use policy_agent::datapath::{Datapath, Hook, Options};
use policy_agent::object;
use policy_common::abi::event::VerdictEvent;
use policy_common::abi::{Direction, mark};
use policy_core::desired::{DesiredState, PodRef};
use policy_core::engine::{Engine, NodeContext};
use policy_core::ops::Op;
use policy_core::plan::{Attachment, Attachments, Limits, Mirror, Plan, Planner, Programmed};
use policy_core::store::{SourceEvent, Store};

/// Connection records that one endpoint may have.
const CT_BUDGET: u32 = 65_536;
/// So many that no event is withheld.
const EVENTS_PER_TICK: u32 = 1 << 30;
/// Plans until nothing is left to do: more means that planning does not end.
const PATIENCE: usize = 8;

/// How far a change is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// To the end, grace periods and removals included.
    Whole,
    /// Until it is in force; removals are left to the next change.
    InForce,
}

/// A node.
pub(crate) struct Node {
    bpffs: PathBuf,
    engine: Engine,
    planner: Planner,
    datapath: Datapath,
    events: Events,
    interfaces: Interfaces,
    /// What the kernel has of each pod.
    pub(crate) programmed: BTreeMap<PodRef, Programmed>,
}

/// What is to be in force.
pub(crate) struct Goal {
    pub(crate) desired: DesiredState,
    pub(crate) attachments: Attachments,
}

/// What became of a packet.
pub(crate) struct Tried {
    pub(crate) passes: bool,
    pub(crate) events: Vec<VerdictEvent>,
}

impl Node {
    /// A node that knows no objects, on an empty BPF file system. Call within a tokio runtime.
    pub(crate) fn new(name: &str, bpffs: PathBuf, interfaces: Vec<u32>) -> Self {
        let context = NodeContext {
            name: name.into(),
            ..NodeContext::default()
        };
        let (datapath, planner) = open(&bpffs);
        Self {
            events: Events::open(datapath.pins()).expect("pinned just now"),
            bpffs,
            engine: Engine::new(context),
            planner,
            datapath,
            interfaces: Interfaces {
                free: interfaces,
                taken: BTreeMap::new(),
            },
            programmed: BTreeMap::new(),
        }
    }

    /// The same node and its interfaces after its agent and all that was pinned are gone.
    pub(crate) fn renewed(self, bpffs: PathBuf) -> Self {
        let Self {
            engine,
            interfaces: Interfaces { mut free, taken },
            ..
        } = self;
        free.extend(taken.into_values());
        Self::new(&engine.node().name, bpffs, free)
    }

    /// The same node after its agent was started again: nothing is known but the objects and what
    /// is pinned.
    ///
    /// # Panics
    /// If that agent would change anything.
    pub(crate) fn restarted(self, objects: Vec<SourceEvent>) -> Self {
        let Self {
            bpffs,
            engine: old,
            planner: before,
            datapath,
            events,
            mut interfaces,
            programmed,
        } = self;
        drop(datapath);
        let (datapath, planner) = open(&bpffs);
        assert!(
            named(planner.mirror()) == named(before.mirror()),
            "what was read back differs from what was written"
        );
        let mut engine = Engine::new(old.node().clone());
        engine.apply(objects);
        let desired = engine.desired();
        let plan = planner.plan(desired, &interfaces.assign(desired));
        assert_eq!(without_detach(plan.ops), [], "an agent that starts again");
        assert_eq!(plan.endpoints, programmed);
        Self {
            bpffs,
            engine,
            planner,
            datapath,
            events,
            interfaces,
            programmed,
        }
    }

    /// Takes a change in and puts it in force.
    pub(crate) fn change(&mut self, events: &[SourceEvent], extent: Extent) {
        self.engine.apply(events.iter().cloned());
        let context = context(&self.engine.node().name, self.engine.store());
        if context != *self.engine.node() {
            self.engine.set_node(context);
        }
        let attachments = self.interfaces.assign(self.engine.desired());
        for _ in 0..PATIENCE {
            let Plan {
                ops,
                problems,
                endpoints,
            } = self.planner.plan(self.engine.desired(), &attachments);
            assert_eq!(problems, [], "everything has room");
            assert!(endpoints.values().all(|programmed| programmed.current));
            self.programmed = endpoints;
            let mut ops = without_detach(ops);
            if ops.is_empty() {
                return;
            }
            let grace = ops.iter().position(|op| matches!(op, Op::Grace));
            if let (Extent::InForce, Some(grace)) = (extent, grace) {
                ops.truncate(grace);
            }
            let applied = self.datapath.apply(&ops);
            if let Some(failure) = applied.failure {
                panic!("{failure}");
            }
            self.planner.applied(&ops);
            if extent == Extent::InForce {
                return;
            }
        }
        panic!("{PATIENCE} plans, and still something to do");
    }

    /// Takes a change in; what is to be in force then.
    pub(crate) fn goal(&mut self, events: &[SourceEvent]) -> Goal {
        self.engine.apply(events.iter().cloned());
        let context = context(&self.engine.node().name, self.engine.store());
        if context != *self.engine.node() {
            self.engine.set_node(context);
        }
        let desired = self.engine.desired().clone();
        let attachments = self.interfaces.assign(&desired);
        Goal {
            desired,
            attachments,
        }
    }

    /// What must be done for it now.
    pub(crate) fn plan(&mut self, goal: &Goal) -> Vec<Op> {
        let plan = self.planner.plan(&goal.desired, &goal.attachments);
        assert_eq!(plan.problems, [], "everything has room");
        self.programmed = plan.endpoints;
        without_detach(plan.ops)
    }

    /// Does operations, and stops. Grace periods are not waited for: no packet is being judged
    /// while a test's thread does this.
    pub(crate) fn carry_out(&mut self, ops: &[Op]) {
        let mut writes = ops.to_vec();
        writes.retain(|op| !matches!(op, Op::Grace));
        let applied = self.datapath.apply(&writes);
        if let Some(failure) = applied.failure {
            panic!("{failure}");
        }
        self.planner.applied(ops);
    }

    /// Does all that must be done for it.
    pub(crate) fn reach(&mut self, goal: &Goal) {
        for _ in 0..PATIENCE {
            let ops = self.plan(goal);
            if ops.is_empty() {
                return;
            }
            self.carry_out(&ops);
            self.planner.renewed();
        }
        panic!("{PATIENCE} plans, and still something to do");
    }

    /// Another agent, which knows nothing but what is in the kernel.
    pub(crate) fn succeeded(&mut self) {
        let mirror = self.datapath.read_back().expect("maps can be read");
        self.planner = Planner::new(mirror, Limits::default());
        self.planner.renew_all();
    }

    /// The same with programs of its own, as after a start.
    pub(crate) fn reopened(self) -> Self {
        let Self {
            bpffs,
            engine,
            datapath,
            events,
            interfaces,
            programmed,
            ..
        } = self;
        drop(datapath);
        let (datapath, mut planner) = open(&bpffs);
        planner.renew_all();
        Self {
            bpffs,
            engine,
            planner,
            datapath,
            events,
            interfaces,
            programmed,
        }
    }

    /// Whether the kernel has what was written, and nothing else.
    pub(crate) fn is_as_written(&self) -> bool {
        let mirror = self.datapath.read_back().expect("maps can be read");
        named(&mirror) == named(self.planner.mirror())
    }

    /// Changes the tables behind the planner's back.
    pub(crate) fn tamper(&self, ops: impl FnOnce(&Mirror) -> Vec<Op>) {
        let applied = self.datapath.apply(&ops(self.planner.mirror()));
        assert!(applied.failure.is_none());
    }

    /// Forgets all connections.
    pub(crate) fn forget_connections(&self) {
        let swept = self.datapath.maps().sweep_at(u64::MAX);
        assert_eq!(swept.expect("maps can be read").left, [0; 3]);
    }

    /// Tries a packet. One for a pod carries the mark that its sender's veth would
    /// have left, if that is a pod here: it was judged there.
    pub(crate) fn try_packet(&mut self, frame: &[u8], at: At) -> Tried {
        let (hook, mark) = match at.direction {
            Direction::Egress => (Hook::From, 0),
            Direction::Ingress => (
                Hook::To,
                mark::with(0, mark::DEFAULT_SHIFT, mark::DECIDED, 0),
            ),
        };
        let trial = Trial {
            hook,
            ifindex: at.ifindex,
            ingress_ifindex: at.ingress_ifindex,
            mark,
        };
        let answer = self.datapath.try_packet(frame, trial, 1);
        Tried {
            passes: answer.expect("a whole frame at an interface").passes,
            events: self.events.drain(),
        }
    }

    /// What must be in force.
    pub(crate) fn desired(&mut self) -> &DesiredState {
        self.engine.desired()
    }

    /// Name and addresses.
    pub(crate) fn context(&self) -> &NodeContext {
        self.engine.node()
    }
}

/// Loads the programs, adopts what is pinned and reads it.
pub(crate) fn open(bpffs: &Path) -> (Datapath, Planner) {
    let options = Options {
        bpffs: bpffs.to_owned(),
        backend: None,
    };
    let object = object::bytes().expect("build the programs first: cargo xtask build-ebpf");
    let datapath = Datapath::open(&options, object)
        .expect("the programs load (as root) and were built from these sources");
    let configured = datapath.maps().configure(CT_BUDGET, EVENTS_PER_TICK);
    configured.expect("the settings can be stored");
    let marked = datapath.maps().set_mark_shift(mark::DEFAULT_SHIFT);
    marked.expect("the settings can be stored");
    let mirror = datapath.read_back().expect("maps can be read");
    (datapath, Planner::new(mirror, Limits::default()))
}

/// As the agent finds it: the addresses are those of the Node object.
fn context(name: &Arc<str>, store: &Store) -> NodeContext {
    let node = store.nodes().get(name);
    NodeContext {
        name: name.clone(),
        addresses: node
            .iter()
            .flat_map(|node| &node.addresses)
            .copied()
            .collect(),
    }
}

/// What is in the kernel, less the port sets that no row names: what is left of them means nothing.
fn named(mirror: &Mirror) -> Mirror {
    let mut mirror = mirror.clone();
    let named: BTreeSet<u32> = mirror.rows.values().copied().collect();
    mirror.port_sets.retain(|id, _| named.contains(id));
    mirror
}

fn without_detach(mut ops: Vec<Op>) -> Vec<Op> {
    ops.retain(|op| !matches!(op, Op::Detach { .. }));
    ops
}

/// Which interface is whose: a pod keeps its own, a new pod gets the one used last.
struct Interfaces {
    free: Vec<u32>,
    /// By pod and UID.
    taken: BTreeMap<(PodRef, Arc<str>), u32>,
}

impl Interfaces {
    fn assign(&mut self, desired: &DesiredState) -> Attachments {
        let endpoints = &desired.endpoints;
        let free = &mut self.free;
        self.taken.retain(|(pod, uid), ifindex| {
            let stays = endpoints.get(pod).is_some_and(|spec| spec.uid == *uid);
            if !stays {
                free.push(*ifindex);
            }
            stays
        });
        let mut attachments = Attachments::new();
        for (pod, spec) in endpoints {
            let key = (pod.clone(), spec.uid.clone());
            let ifindex = *self
                .taken
                .entry(key)
                .or_insert_with(|| free.pop().expect("an interface for each pod"));
            let attachment = Attachment {
                ifindex,
                link_local6: None,
            };
            attachments.insert(pod.clone(), attachment);
        }
        attachments
    }
}

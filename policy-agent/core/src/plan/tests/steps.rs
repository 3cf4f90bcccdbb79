//! Carries plans out one operation at a time, and watches every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_common::abi::Direction;
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::protocol::TCP;
use policy_common::abi::service::{SVC_BACKENDS, SVC_MANY, SVC_OWN, SvcBackend};

use super::super::services;
use super::world::{Question, World, deny, questions};
use crate::desired::{Backend, Frontend};
use crate::memory::MemoryDatapath;
use crate::ops::Op;
use crate::plan::{Limits, Mirror, Plan, Planner};

/// An answer: allowed and by which rule; `None`: nothing isolates.
pub(super) type Said = Option<(bool, u32)>;

/// What the kernel says to all questions about the pod of an interface; `None`:
/// it leads nowhere.
pub(super) fn says(memory: &MemoryDatapath, ifindex: u32, all: &[Question]) -> Option<Vec<Said>> {
    memory.endpoint(ifindex)?;
    let ask = |q: &Question| {
        let judged = memory.judge(ifindex, q.direction, q.peer, q.protocol, q.port)?;
        Some((judged.allows(), judged.rule))
    };
    Some(all.iter().map(ask).collect())
}

/// What must be said, by interface.
pub(super) fn goal(world: &World, all: &[Question]) -> BTreeMap<u32, Vec<Said>> {
    let pods = world.attachments.iter();
    let pods = pods.filter(|(pod, _)| world.desired.endpoints.contains_key(pod));
    let answers = |pod| all.iter().map(|q| world.answer(pod, q)).collect();
    pods.map(|(pod, at)| (at.ifindex, answers(pod))).collect()
}

pub(super) fn allows(said: Said) -> bool {
    said.is_none_or(|(allowed, _)| allowed)
}

/// Whether the plan changes no word's policies: its addresses or rows do it.
fn is_wordless(plan: &Plan, memory: &MemoryDatapath) -> bool {
    let before = memory.mirror().endpoints;
    plan.ops.iter().all(|op| match op {
        Op::Word { slot, word } => before[slot].word & 0xffff_ffff == word.0 & 0xffff_ffff,
        _ => true,
    })
}

/// Carries a plan out and checks after each operation that every endpoint says
/// all the old or all the new; where addresses move alone, to each address.
pub(super) fn carry_out(memory: &mut MemoryDatapath, plan: &Plan, world: &World) {
    let all = questions();
    let goal = goal(world, &all);
    let start: BTreeMap<u32, _> = goal.keys().map(|i| (*i, says(memory, *i, &all))).collect();
    let alone = is_wordless(plan, memory);
    let mut flipped: BTreeSet<(u32, usize)> = BTreeSet::new();
    let per_address = 6;
    let ways = Ways::new(memory, world, |_| true);
    for (step, op) in plan.ops.iter().enumerate() {
        memory.apply(op);
        ways.check(memory, || format!("after {step} {op:?} of {:#?}", plan.ops));
        for (ifindex, new) in &goal {
            let context = || {
                format!(
                    "after {step} {op:?} of {:#?}, interface {ifindex}",
                    plan.ops
                )
            };
            let Some(now) = says(memory, *ifindex, &all) else {
                assert_eq!(start[ifindex], None, "led nowhere {}", context());
                continue;
            };
            let Some(old) = &start[ifindex] else {
                assert_eq!(now, *new, "a new endpoint {}", context());
                continue;
            };
            let width = if alone { per_address } else { all.len() };
            let chunks = now
                .chunks(width)
                .zip(old.chunks(width))
                .zip(new.chunks(width));
            for (at, ((now, old), new)) in chunks.enumerate() {
                let key = (*ifindex, at);
                if flipped.contains(&key) || now != old {
                    let peer = all[at * width].peer;
                    assert_eq!(now, new, "neither old nor new to {peer} {}", context());
                    flipped.insert(key);
                }
            }
        }
    }
    for (ifindex, new) in &goal {
        assert_eq!(
            says(memory, *ifindex, &all).as_ref(),
            Some(new),
            "{ifindex}: {:#?}",
            plan.ops
        );
    }
    check_rows(memory, world);
}

/// Whether what a pod sends to a Service's address passes its own side: some
/// backend that the row names is allowed. `None`: there is no row, and it is an
/// ordinary address.
fn passes(memory: &MemoryDatapath, ifindex: u32, frontend: &Frontend) -> Option<bool> {
    let row = memory.service(&services::key(frontend))?;
    let allowed = |backend: &SvcBackend| {
        let judged = memory.judge_identity(
            ifindex,
            Direction::Egress,
            backend.identity,
            TCP,
            backend.port,
        );
        judged.is_none_or(|judged| judged.allows())
    };
    Some(row.flags & SVC_MANY != 0 || services::stored(row).iter().any(allowed))
}

/// Ways from a pod by a Service to a backend that are open before a plan and
/// after it.
pub(super) struct Ways(Vec<(u32, Frontend, Backend)>);

impl Ways {
    /// Of the pods of some interfaces.
    pub(super) fn new(memory: &MemoryDatapath, world: &World, of: impl Fn(u32) -> bool) -> Self {
        let mut ways = Vec::new();
        for (pod, attachment) in &world.attachments {
            let ifindex = attachment.ifindex;
            let known = world.desired.endpoints.contains_key(pod);
            if memory.endpoint(ifindex).is_none() || !known || !of(ifindex) {
                continue;
            }
            for (frontend, backends) in &world.desired.services {
                if passes(memory, ifindex, frontend) == Some(false) {
                    continue;
                }
                ways.extend(backends.iter().filter_map(|backend| {
                    let question = Question {
                        direction: Direction::Egress,
                        peer: backend.address,
                        protocol: TCP,
                        port: backend.port,
                    };
                    let before = says(memory, ifindex, &[question])?;
                    let after = world.answer(pod, &question);
                    let open = allows(before[0]) && allows(after);
                    open.then_some((ifindex, *frontend, *backend))
                }));
            }
        }
        Self(ways)
    }

    /// None of them is dropped at its source. Where there is no row it was not
    /// there before either.
    pub(super) fn check(&self, memory: &MemoryDatapath, context: impl Fn() -> String) {
        for (ifindex, frontend, backend) in &self.0 {
            if memory.endpoint(*ifindex).is_none() {
                continue;
            }
            assert_ne!(
                passes(memory, *ifindex, frontend),
                Some(false),
                "interface {ifindex} does not reach {backend:?} by {frontend} {}",
                context()
            );
        }
    }
}

/// Rows name exactly the backends, and addresses of isolated pods their slots.
fn check_rows(memory: &MemoryDatapath, world: &World) {
    let mirror = memory.mirror();
    let mut keys = BTreeSet::new();
    for (frontend, backends) in &world.desired.services {
        let key = services::key(frontend);
        keys.insert(key);
        let row = memory.service(&key).expect("a row");
        let pairs: BTreeSet<(u32, u16)> = backends
            .iter()
            .map(|b| (memory.who(b.address).identity, b.port))
            .collect();
        let many = pairs.len() > SVC_BACKENDS;
        assert_eq!(row.flags & SVC_MANY != 0, many, "{frontend}");
        let own = |b: &Backend| {
            mirror
                .hosts
                .get(&b.address)
                .is_some_and(|row| row.slot != 0)
        };
        let own = !many && backends.iter().any(own);
        assert_eq!(row.flags & SVC_OWN != 0, own, "{frontend}");
        let named = services::stored(row).iter().map(|b| (b.identity, b.port));
        let expected = if many { BTreeSet::new() } else { pairs };
        assert_eq!(named.collect::<BTreeSet<_>>(), expected, "{frontend}");
    }
    assert_eq!(
        mirror.services.keys().copied().collect::<BTreeSet<_>>(),
        keys
    );
    let mut slots = BTreeMap::new();
    for (pod, spec) in &world.desired.endpoints {
        if let Some(at) = world.attachments.get(pod)
            && spec.egress.is_some()
        {
            let v4 = spec.ipv4.map(IpAddr::V4);
            let addresses = v4.into_iter().chain(spec.ipv6.map(IpAddr::V6));
            slots.extend(addresses.map(|a| (a, mirror.interfaces[&at.ifindex])));
        }
    }
    let marked = mirror.hosts.iter().filter(|(_, row)| row.slot != 0);
    let marked: BTreeMap<IpAddr, u32> = marked.map(|(a, row)| (*a, row.slot)).collect();
    assert_eq!(marked, slots);
}

/// Checks that an endpoint that allows less than before was given a new
/// generation by its last operation, and that no two share one.
pub(super) fn check_generations(before: &MemoryDatapath, plan: &Plan) {
    let all = questions();
    let mut memory = before.clone();
    let interfaces: Vec<u32> = before.mirror().interfaces.keys().copied().collect();
    let mut asked: BTreeMap<u32, Vec<Said>> = BTreeMap::new();
    let mut owed: BTreeSet<u32> = BTreeSet::new();
    for ifindex in &interfaces {
        asked.extend(says(before, *ifindex, &all).map(|said| (*ifindex, said)));
    }
    for op in &plan.ops {
        memory.apply(op);
        for (ifindex, old) in &mut asked {
            let Some(now) = says(&memory, *ifindex, &all) else {
                owed.remove(ifindex);
                continue;
            };
            let mut both = old.iter().zip(&now);
            if both.any(|(old, now)| allows(*old) && !allows(*now)) {
                owed.insert(*ifindex);
            }
            *old = now;
        }
        match op {
            Op::Word { slot, .. } => {
                let interfaces = memory.mirror().interfaces;
                owed.retain(|ifindex| interfaces.get(ifindex) != Some(slot));
            }
            // Another slot: nothing is remembered of it.
            Op::Interface { ifindex, .. } => {
                owed.remove(ifindex);
            }
            _ => {}
        }
    }
    let kept: BTreeSet<u32> = plan.endpoints.values().map(|e| e.ifindex).collect();
    owed.retain(|ifindex| kept.contains(ifindex));
    assert!(
        owed.is_empty(),
        "narrowed with an old generation: {owed:?} {:#?}",
        plan.ops
    );
    let words = memory.mirror().endpoints;
    let generations: BTreeSet<u32> = words
        .values()
        .map(|e| PolicyWord(e.word).generation())
        .collect();
    assert_eq!(generations.len(), words.len());
    assert!(!generations.contains(&0));
}

/// Without what no row names.
pub(super) fn essence(mirror: &Mirror) -> Mirror {
    let mut mirror = mirror.clone();
    let named: BTreeSet<u32> = mirror.rows.values().copied().collect();
    mirror.port_sets.retain(|id, _| named.contains(id));
    mirror.staged.clear();
    mirror
}

/// A kernel and the planner of an agent that runs.
pub(super) struct Node {
    pub(super) memory: MemoryDatapath,
    pub(super) planner: Planner,
}

impl Node {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            memory: MemoryDatapath::new(),
            planner: Planner::new(Mirror::default(), limits),
        }
    }

    pub(super) fn plan(&self, world: &World) -> Plan {
        self.planner.plan(&world.desired, &world.attachments)
    }

    /// Plans, carries out with every check, and finds nothing left to do.
    pub(super) fn reach(&mut self, world: &World) -> Plan {
        let plan = self.plan(world);
        assert_eq!(plan.problems, []);
        assert!(plan.endpoints.values().all(|e| e.current));
        check_generations(&self.memory, &plan);
        carry_out(&mut self.memory, &plan, world);
        self.planner.applied(&plan.ops);
        let read = self.memory.mirror();
        assert_eq!(essence(self.planner.mirror()), essence(&read));
        assert_eq!(self.plan(world).ops, [], "after {:#?}", plan.ops);
        let again = Planner::new(read, Limits::default());
        let again = again.plan(&world.desired, &world.attachments);
        assert_eq!(again.ops, [], "after a restart");
        assert_eq!(again.endpoints, self.plan(world).endpoints);
        plan
    }
}

#[test]
fn pods_that_something_isolates_get_their_programs_first() {
    let world = World::default()
        .policy(1, deny(), &[])
        .pod("a-open", 11, 1, [0, 0])
        .pod("b-receives", 12, 2, [1, 0])
        .pod("c-open", 13, 3, [0, 0])
        .pod("d-sends", 14, 4, [0, 1]);
    let plan = Node::new(Limits::default()).reach(&world);
    let attached = plan.ops.iter().filter_map(|op| match op {
        Op::Attach { ifindex } => Some(*ifindex),
        _ => None,
    });
    let attached: Vec<u32> = attached.collect();
    assert_eq!(attached, [12, 14, 11, 13]);
}

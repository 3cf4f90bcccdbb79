//! Random worlds after one another.

use super::steps::{Node, carry_out, check_generations};
use super::world::{Rng, World, like, random};
use crate::plan::{Limits, Planner};

#[test]
fn every_endpoint_says_all_the_old_or_all_the_new_after_every_operation() {
    for seed in 1..=5 {
        let mut rng = Rng(seed);
        let mut node = Node::new(Limits::default());
        let mut world = random(&mut rng);
        for _ in 0..12 {
            node.reach(&world);
            world = like(&world, &mut rng);
        }
    }
}

#[test]
fn a_crash_after_any_operation_leaves_each_endpoint_whole_and_the_next_plan_gets_there() {
    for seed in 1..=3 {
        let mut rng = Rng(seed ^ 0xc4a5);
        let mut node = Node::new(Limits::default());
        let mut world = random(&mut rng);
        for round in 0..3 {
            node.reach(&world);
            let next = like(&world, &mut rng);
            let plan = node.plan(&next);
            for stop in 0..plan.ops.len() {
                let mut memory = node.memory.clone();
                memory.apply_all(&plan.ops[..stop]);
                // Every other time the desired state is another one by then.
                let goal = if round % 2 == 0 {
                    next.clone()
                } else {
                    like(&next, &mut rng)
                };
                let again = Planner::new(memory.mirror(), Limits::default());
                let again = again.plan(&goal.desired, &goal.attachments);
                assert_eq!(again.problems, []);
                check_generations(&memory, &again);
                carry_out(&mut memory, &again, &goal);
                let settled = Planner::new(memory.mirror(), Limits::default());
                assert_eq!(settled.plan(&goal.desired, &goal.attachments).ops, []);
            }
            world = next;
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    let mut rng = Rng(0x1eaf);
    let mut node = Node::new(Limits::default());
    let mut world = random(&mut rng);
    let (mut identity, mut extent, mut port_set) = (0, 0, 0);
    for _ in 0..40 {
        node.reach(&world);
        world = like(&world, &mut rng);
        let mirror = node.planner.mirror();
        let policies = mirror
            .rows
            .keys()
            .filter(|k| k.policy != u32::from(super::super::DENY_ALL));
        identity = identity.max(policies.map(|k| k.identity).max().unwrap_or(0));
        let sets = mirror.port_sets.iter();
        extent = extent.max(sets.clone().map(|(_, set)| set.extent).max().unwrap_or(0));
        port_set = port_set.max(sets.map(|(id, _)| *id).max().unwrap_or(0));
    }
    assert!(identity < 60, "identities up to {identity}");
    assert!(extent < 60, "extents up to {extent}");
    assert!(port_set < 40, "port sets up to {port_set}");
    node.reach(&World::default());
    let mirror = node.memory.mirror();
    let left = (mirror.rows.len(), mirror.hosts.len(), mirror.prefixes.len());
    assert_eq!(left, (1, 0, 0), "the policy that denies everything stays");
    let left = (
        mirror.endpoints.len(),
        mirror.interfaces.len(),
        mirror.attached.len(),
    );
    assert_eq!(left, (0, 0, 0));
}

#[test]
fn slots_are_reused_late_and_numbers_never() {
    let mut node = Node::new(Limits {
        endpoints: 5,
        ..Limits::default()
    });
    let with = |name| World::default().pod(name, 3, 1, [0, 0]);
    let mut seen = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        node.reach(&with(name));
        let end = node.plan(&with(name)).endpoints[&super::world::pod(name)];
        seen.push((end.slot, end.number));
        let plan = node.plan(&World::default());
        node.memory.apply_all(&plan.ops);
        node.planner.applied(&plan.ops);
    }
    assert_eq!(seen, [(1, 1), (2, 2), (3, 3), (4, 4), (1, 5)]);
}

//! The short way against the long one.

use std::collections::{BTreeMap, BTreeSet};

use super::steps::{Node, carry_out, check_generations};
use super::world::{Rng, World, allow, deny, like, ports, random};
use crate::desired::ClassId;
use crate::engine::Changes;
use crate::ops::Op;
use crate::plan::{Limits, Plan};

fn differing<K: Ord + Clone, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> BTreeSet<K> {
    let keys = a.keys().chain(b.keys());
    let differs = keys.filter(|key| a.get(key) != b.get(key));
    differs.cloned().collect()
}

/// What an engine would say of the change; `None`: it gives such policies another
/// number.
fn changes(old: &World, new: &World) -> Option<Changes> {
    let classes = |world: &World| -> BTreeSet<ClassId> {
        let hosts = world.desired.hosts.values().map(|host| host.class);
        hosts
            .chain(world.desired.prefixes.values().copied())
            .collect()
    };
    let (before, after) = (classes(old), classes(new));
    let (old, new) = (&old.desired, &new.desired);
    (old.policies == new.policies).then(|| Changes {
        endpoints: differing(&old.endpoints, &new.endpoints),
        hosts: differing(&old.hosts, &new.hosts),
        prefixes: differing(&old.prefixes, &new.prefixes),
        services: differing(&old.services, &new.services),
        classes_added: after.difference(&before).copied().collect(),
        classes_removed: before.difference(&after).copied().collect(),
        ..Changes::default()
    })
}

/// Takes the short way from one world to another, with every check; `None`: it
/// was declined.
fn quickly(node: &mut Node, old: &World, new: &World) -> Option<Plan> {
    let changes = changes(old, new)?;
    let settled = node.plan(old);
    assert_eq!(settled.ops, []);
    node.planner.settle(&old.desired, &settled.endpoints);
    let quick = node.planner.quick(&new.desired, &changes)?;
    let plan = Plan {
        ops: quick.ops.clone(),
        problems: Vec::new(),
        endpoints: settled.endpoints,
    };
    check_generations(&node.memory, &plan);
    carry_out(&mut node.memory, &plan, new);
    node.planner.applied(&plan.ops);
    node.planner.done_quick(quick);
    Some(plan)
}

#[test]
fn whatever_goes_the_short_way_is_what_the_long_way_would_reach() {
    let mut short = 0;
    let mut renewing = 0;
    for seed in 1..=6 {
        let mut rng = Rng(seed ^ 0x0051_0c4e);
        let mut node = Node::new(Limits::default());
        let mut world = random(&mut rng);
        node.reach(&world);
        for _ in 0..30 {
            let next = like(&world, &mut rng);
            if let Some(plan) = quickly(&mut node, &world, &next) {
                assert_eq!(node.plan(&next).ops, [], "after {:#?}", plan.ops);
                short += 1;
                let words = plan.ops.iter().filter(|op| matches!(op, Op::Word { .. }));
                renewing += usize::from(words.count() > 0);
            }
            node.reach(&next);
            world = next;
        }
    }
    assert!(short > 10, "only {short} changes went the short way");
    assert!(renewing > 0, "only {renewing} of them renewed a word");
}

/// Class 1 may use port 80, class 2 everything, others nothing.
fn base() -> World {
    World::default()
        .policy(1, deny(), &[(1, ports(&[(80, 80)], 1)), (2, allow(2))])
        .pod("a", 3, 1, [1, 0])
        .pod("b", 4, 2, [0, 0])
        .host("10.0.0.5", 1)
        .host("10.0.0.10", 2)
        .host("10.0.1.20", 2)
        .prefix("10.0.1.0/24", 1)
}

#[test]
fn address_that_comes_takes_one_write_and_one_that_loses_renews_the_pod() {
    let mut node = Node::new(Limits::default());
    node.reach(&base());
    let more = base().host("10.0.0.15", 1);
    let plan = quickly(&mut node, &base(), &more).expect("an address of a class that is there");
    assert!(matches!(plan.ops[..], [Op::Host { .. }]), "{:?}", plan.ops);

    let less = more.clone().host("10.0.0.10", 1);
    let plan = quickly(&mut node, &more, &less).expect("from one class to another");
    assert!(
        matches!(plan.ops[..], [Op::Host { .. }, Op::Word { .. }]),
        "{:?}",
        plan.ops
    );

    let gone = base().host("10.0.0.10", 1);
    let plan = quickly(&mut node, &less, &gone).expect("out of a class");
    assert!(
        matches!(plan.ops[..], [Op::DeleteHost { .. }, Op::Word { .. }]),
        "{:?}",
        plan.ops
    );
}

#[test]
fn what_must_happen_at_once_goes_the_long_way() {
    let both = base().host("10.0.0.5", 2).host("10.0.0.10", 1);
    let unknown = base().host("10.0.0.15", 3);
    let mut of_node = base();
    for host in of_node.desired.hosts.values_mut() {
        host.node = true;
    }
    let wider = base().prefix("10.0.0.0/16", 2);
    let isolated = base().pod("b", 4, 2, [1, 0]);
    for next in [both, unknown, of_node, wider, isolated] {
        let mut node = Node::new(Limits::default());
        node.reach(&base());
        assert!(quickly(&mut node, &base(), &next).is_none(), "{next:?}");
    }
}

#[test]
fn after_anything_else_was_applied_only_the_long_way_is_taken() {
    let more = base().host("10.0.0.15", 1);
    let change = changes(&base(), &more).unwrap();
    let mut node = Node::new(Limits::default());
    node.reach(&base());
    let settled = node.plan(&base());
    node.planner.settle(&base().desired, &settled.endpoints);
    node.planner.reread(node.memory.mirror());
    assert!(node.planner.quick(&more.desired, &change).is_none());
    node.planner.settle(&base().desired, &settled.endpoints);
    node.planner.renew_all();
    assert!(node.planner.quick(&more.desired, &change).is_none());
}

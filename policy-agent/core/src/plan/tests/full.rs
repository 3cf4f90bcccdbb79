//! Maps that are too small.

use super::steps::{Node, Ways, allows, goal, says};
use super::world::{Rng, World, deny, like, pod, ports, questions, random};
use crate::memory::MemoryDatapath;
use crate::plan::{DENY_ALL, Limits, Plan};

fn within(memory: &MemoryDatapath, limits: &Limits) {
    let mirror = memory.mirror();
    assert!(mirror.rows.len() <= limits.rows);
    assert!(
        mirror
            .endpoints
            .keys()
            .all(|slot| (*slot as usize) < limits.endpoints)
    );
    for v6 in [false, true] {
        let hosts = mirror.hosts.keys().filter(|host| host.is_ipv6() == v6);
        assert!(hosts.count() <= limits.hosts);
        let prefixes = mirror.prefixes.keys().filter(|p| p.addr().is_ipv6() == v6);
        assert!(prefixes.count() <= limits.prefixes);
    }
    assert!(mirror.services.len() <= limits.services);
    for (id, set) in &mirror.port_sets {
        assert!((*id as usize) < limits.port_sets);
        if set.extent != 0 {
            assert!(set.extent as usize + set.intervals.len() <= limits.extents);
        }
    }
}

/// Carries a plan out; nobody is ever allowed what neither the state before nor
/// the desired one allows, and who is not current nothing beyond the former.
fn never_opens(node: &mut Node, limits: &Limits, world: &World) -> Plan {
    let all = questions();
    let plan = node.plan(world);
    let goal = goal(world, &all);
    let stale = |ifindex: u32| {
        plan.endpoints
            .values()
            .any(|e| e.ifindex == ifindex && !e.current)
    };
    let start: Vec<_> = goal
        .iter()
        .map(|(ifindex, new)| (*ifindex, says(&node.memory, *ifindex, &all), new))
        .collect();
    let ways = Ways::new(&node.memory, world, |ifindex| !stale(ifindex));
    for op in &plan.ops {
        node.memory.apply(op);
        within(&node.memory, limits);
        ways.check(&node.memory, || format!("after {op:?} of {:#?}", plan.ops));
        for (ifindex, old, new) in &start {
            let Some(now) = says(&node.memory, *ifindex, &all) else {
                continue;
            };
            for (at, said) in now.iter().enumerate() {
                let was = old.as_ref().is_some_and(|old| allows(old[at]));
                let is_new = !stale(*ifindex) || new[at].is_none();
                assert!(
                    !allows(*said) || was || (is_new && allows(new[at])),
                    "interface {ifindex} is open to {:?} after {op:?} of {:#?}, {:#?}, {:?}, was {:?}",
                    all[at],
                    plan.ops,
                    plan.problems,
                    plan.endpoints,
                    old.as_ref().map(|old| old[at]),
                );
            }
        }
    }
    node.planner.applied(&plan.ops);
    for end in plan.endpoints.values().filter(|end| end.current) {
        let said = says(&node.memory, end.ifindex, &all);
        assert_eq!(
            said.as_ref(),
            Some(&goal[&end.ifindex]),
            "{:#?}",
            plan.problems
        );
    }
    let stale = plan.endpoints.values().filter(|end| !end.current).count();
    assert!(plan.problems.len() >= stale);
    plan
}

#[test]
fn maps_of_any_size_never_open_anything_and_come_to_rest() {
    let (mut fit, mut did_not) = (0, 0);
    for seed in 1..=12 {
        let mut rng = Rng(seed ^ 0xf011);
        let limits = Limits {
            endpoints: 2 + rng.below(16) as usize,
            hosts: 1 + rng.below(36) as usize,
            prefixes: 1 + rng.below(20) as usize,
            services: 3 + rng.below(12) as usize,
            rows: 1 + rng.below(110) as usize,
            port_sets: 2 + rng.below(30) as usize,
            extents: 1 + rng.below(80) as usize,
        };
        let mut node = Node::new(limits);
        let mut world = random(&mut rng);
        for _ in 0..10 {
            let mut rounds = 0;
            loop {
                let plan = never_opens(&mut node, &limits, &world);
                if plan.ops.is_empty() {
                    if plan.problems.is_empty() {
                        fit += 1
                    } else {
                        did_not += 1
                    }
                    break;
                }
                rounds += 1;
                assert!(rounds < 12, "no rest: {:#?}", plan.ops);
            }
            world = like(&world, &mut rng);
        }
    }
    assert!(fit > 20 && did_not > 20, "{fit} fit, {did_not} did not");
}

#[test]
fn new_pod_whose_policy_does_not_fit_is_denied_everything_and_named() {
    let limits = Limits {
        rows: 2,
        ..Limits::default()
    };
    let world = World::default()
        .host("10.0.0.1", 1)
        .policy(1, deny(), &[(1, ports(&[(80, 80)], 1))])
        .pod("a", 3, 1, [1, 0]);
    let mut node = Node::new(limits);
    let plan = never_opens(&mut node, &limits, &world);
    let end = plan.endpoints[&pod("a")];
    assert_eq!((end.ingress, end.egress, end.current), (DENY_ALL, 0, false));
    let text = plan.problems[0].to_string();
    assert!(
        text.contains("ns/a") && text.contains("ns/rule") && text.contains("pa_policy"),
        "{text}"
    );
    let all = questions();
    let said = says(&node.memory, 3, &all).unwrap();
    let open = all.iter().zip(&said).filter(|(_, said)| allows(**said));
    assert!(open.clone().count() > 0, "egress is not isolated");
    assert!(
        open.map(|(q, _)| q.direction)
            .all(|d| d == policy_common::abi::Direction::Egress)
    );
}

//! Single changes and single losses, and exactly the operations they need.

use policy_common::abi::Direction;
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::policy::PolicyKey;
use policy_common::abi::protocol::TCP;

use super::steps::Node;
use super::world::{World, allow, deny, pod, ports};
use crate::ops::Op;
use crate::plan::{Limits, Planner};

/// Two policies, two kinds of peers.
fn small() -> World {
    World::default()
        .host("10.0.0.1", 1)
        .host("10.0.0.2", 1)
        .host("10.0.0.3", 2)
        .host("10.0.0.4", 2)
        .prefix("10.0.0.0/24", 3)
        .policy(
            1,
            deny(),
            &[(1, ports(&[(80, 80)], 1)), (3, ports(&[(443, 443)], 2))],
        )
        .policy(2, deny(), &[(2, allow(3))])
        .pod("a", 3, 1, [1, 2])
        .pod("b", 4, 2, [1, 0])
}

fn settled() -> Node {
    let mut node = Node::new(Limits::default());
    node.reach(&small());
    node
}

/// What repairs a kernel in which this was done.
fn repair(damage: impl FnOnce(&mut Node)) -> Vec<Op> {
    let mut node = settled();
    damage(&mut node);
    let read = node.memory.mirror();
    node.planner = Planner::new(read, Limits::default());
    node.reach(&small()).ops
}

fn row_of(node: &Node, pod_name: &str, peer: &str) -> PolicyKey {
    let end = node.plan(&small()).endpoints[&pod(pod_name)];
    PolicyKey {
        policy: u32::from(end.ingress),
        identity: node.memory.who(peer.parse().unwrap()).identity,
    }
}

#[test]
fn lost_row_is_written_again_and_nothing_else() {
    let ops = repair(|node| {
        let key = row_of(node, "a", "10.0.0.1");
        node.memory.apply(&Op::DeleteRow { key });
    });
    assert!(matches!(ops[..], [Op::Row { .. }]), "{ops:#?}");
}

#[test]
fn lost_row_for_every_other_is_written_again_and_nothing_else() {
    let ops = repair(|node| {
        let key = row_of(node, "a", "192.0.2.1");
        assert_eq!(key.identity, 0);
        node.memory.apply(&Op::DeleteRow { key });
    });
    assert!(matches!(ops[..], [Op::Row { .. }]), "{ops:#?}");
}

#[test]
fn row_that_allows_too_much_is_mended_in_place_and_remembered_verdicts_expire() {
    let ops = repair(|node| {
        let key = row_of(node, "a", "10.0.0.1");
        let end = node.plan(&small()).endpoints[&pod("a")];
        let policy = u32::from(end.egress);
        let identity = node.memory.who("10.0.0.3".parse().unwrap()).identity;
        let port_set = node.memory.mirror().rows[&PolicyKey { policy, identity }];
        node.memory.apply(&Op::Row { key, port_set });
    });
    let [Op::Row { .. }, Op::Word { .. }, Op::Word { .. }, Op::Grace] = ops[..] else {
        panic!("both pods have the policy: {ops:#?}");
    };
}

#[test]
fn lost_or_wrong_address_prefix_interface_word_and_programs_come_back_alone() {
    let host = repair(|node| {
        let address = "10.0.0.1".parse().unwrap();
        node.memory.apply(&Op::DeleteHost { address });
    });
    // It fell back on the prefix, which allows another port.
    assert!(
        matches!(
            host[..],
            [Op::Host { .. }, Op::Word { .. }, Op::Word { .. }]
        ),
        "{host:#?}"
    );
    let prefix = repair(|node| {
        let prefix = "10.0.0.0/24".parse().unwrap();
        node.memory.apply(&Op::DeletePrefix { prefix });
    });
    assert!(matches!(prefix[..], [Op::Prefix { .. }]), "{prefix:#?}");
    let word = repair(|node| {
        let slot = node.plan(&small()).endpoints[&pod("b")].slot;
        let word = PolicyWord::new(99, 0, 0);
        node.memory.apply(&Op::Word { slot, word });
    });
    assert!(matches!(word[..], [Op::Word { .. }]), "{word:#?}");
    let attached = repair(|node| node.memory.apply(&Op::Detach { ifindex: 4 }));
    assert_eq!(attached, [Op::Attach { ifindex: 4 }]);
    let led = repair(|node| node.memory.apply(&Op::DeleteInterface { ifindex: 4 }));
    let [
        Op::Endpoint { slot, .. },
        Op::Interface {
            ifindex: 4,
            slot: same,
        },
    ] = led[..]
    else {
        panic!("{led:#?}");
    };
    assert_eq!(slot, same);
}

#[test]
fn port_set_with_other_contents_is_replaced_by_a_new_one() {
    let ops = repair(|node| {
        let key = row_of(node, "a", "10.0.0.1");
        let id = node.memory.mirror().rows[&key];
        let value = policy_common::abi::policy::PortSet {
            count: 0,
            extent: 0,
            default_rule: 5,
            default_action: 1,
            inline: Default::default(),
        };
        node.memory.apply(&Op::PortSet { id, value });
    });
    let id = ops.iter().find_map(|op| match op {
        Op::PortSet { id, .. } => Some(*id),
        _ => None,
    });
    assert!(id.is_some(), "{ops:#?}");
}

#[test]
fn pod_of_a_known_kind_is_one_write() {
    let mut node = settled();
    let ops = node.reach(&small().host("10.1.0.9", 1)).ops;
    assert!(matches!(ops[..], [Op::Host { .. }]), "{ops:#?}");
    let many = small().host("10.1.0.9", 1).host("10.1.0.10", 2);
    let ops = node.reach(&many.host("10.1.0.11", 2)).ops;
    assert!(
        ops.iter().all(|op| matches!(op, Op::Host { .. })),
        "{ops:#?}"
    );
}

#[test]
fn address_that_leaves_a_kind_is_cut_and_remembered_verdicts_expire() {
    let mut node = settled();
    let peer = "10.0.0.3".parse().unwrap();
    let ask = |node: &Node| node.memory.judge(3, Direction::Egress, peer, TCP, 80);
    assert!(ask(&node).unwrap().allows());
    let ops = node.reach(&small().host("10.0.0.3", 1)).ops;
    assert!(!ask(&node).unwrap().allows());
    let words = ops
        .iter()
        .filter(|op| matches!(op, Op::Word { .. }))
        .count();
    assert_eq!(words, 1, "only the pod that allowed it: {ops:#?}");
}

#[test]
fn policy_that_turns_from_some_peers_to_others_does_so_at_once() {
    let world = |a, b| {
        World::default()
            .host("10.0.0.1", a)
            .host("10.0.0.2", b)
            .policy(1, deny(), &[(1, ports(&[(80, 80)], 1))])
            .pod("a", 3, 1, [1, 0])
    };
    let mut node = Node::new(Limits::default());
    node.reach(&world(1, 0));
    let plan = node.plan(&world(0, 1));
    let peers = ["10.0.0.1", "10.0.0.2"].map(|peer| peer.parse().unwrap());
    let mut seen = Vec::new();
    for op in &plan.ops {
        node.memory.apply(op);
        let judge = |peer| {
            node.memory
                .judge(3, Direction::Ingress, peer, TCP, 80)
                .unwrap()
                .allows()
        };
        seen.push(peers.map(judge));
    }
    seen.dedup();
    assert_eq!(seen, [[true, false], [false, true]], "{:#?}", plan.ops);
}

#[test]
fn pods_that_share_a_policy_share_its_number() {
    let node = settled();
    let ends = node.plan(&small()).endpoints;
    assert_eq!(ends[&pod("a")].ingress, ends[&pod("b")].ingress);
    assert_ne!(ends[&pod("a")].slot, ends[&pod("b")].slot);
    assert_eq!(ends[&pod("b")].egress, 0);
}

#[test]
fn pod_with_another_address_gets_a_new_slot_and_number() {
    let mut node = settled();
    let before = node.plan(&small()).endpoints[&pod("b")];
    let moved = small().pod("b", 4, 77, [1, 0]);
    node.reach(&moved);
    let after = node.plan(&moved).endpoints[&pod("b")];
    assert_ne!((before.slot, before.number), (after.slot, after.number));
    assert_eq!(
        (before.ifindex, before.ingress),
        (after.ifindex, after.ingress)
    );
}

fn with_service(backends: &[&str]) -> World {
    small().service("10.96.0.1", backends)
}

#[test]
fn lost_row_of_a_service_comes_back_alone() {
    let world = with_service(&["10.0.0.1:8080"]);
    let mut node = Node::new(Limits::default());
    node.reach(&world);
    let key = super::super::services::key(&super::world::frontend("10.96.0.1"));
    node.memory.apply(&Op::DeleteService { key });
    node.planner = Planner::new(node.memory.mirror(), Limits::default());
    let ops = node.reach(&world).ops;
    assert!(matches!(ops[..], [Op::Service { .. }]), "{ops:#?}");
}

#[test]
fn new_backend_of_a_known_kind_costs_nothing_and_another_kind_one_write() {
    let mut node = Node::new(Limits::default());
    node.reach(&with_service(&["10.0.0.1:8080"]));
    let ops = node
        .reach(&with_service(&["10.0.0.1:8080", "10.0.0.2:8080"]))
        .ops;
    assert_eq!(ops, []);
    let ops = node
        .reach(&with_service(&["10.0.0.1:8080", "10.0.0.3:8080"]))
        .ops;
    assert!(matches!(ops[..], [Op::Service { .. }]), "{ops:#?}");
}

#[test]
fn backend_that_goes_is_forgotten_a_grace_period_later() {
    let mut node = Node::new(Limits::default());
    node.reach(&with_service(&["10.0.0.1:8080", "10.0.0.3:8080"]));
    let ops = node.reach(&with_service(&["10.0.0.3:8080"])).ops;
    assert!(
        matches!(ops[..], [Op::Grace, Op::Service { .. }]),
        "{ops:#?}"
    );
    let ops = node.reach(&small()).ops;
    assert!(
        matches!(ops[..], [Op::Grace, Op::DeleteService { .. }]),
        "{ops:#?}"
    );
}

#[test]
fn service_with_more_backends_than_a_row_holds_says_so() {
    let backends: Vec<String> = (1..=9).map(|n| format!("10.0.0.1:80{n:02}")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let mut node = Node::new(Limits::default());
    let row = |node: &Node| *node.memory.mirror().services.values().next().unwrap();
    node.reach(&with_service(&backends[..8]));
    assert_eq!((row(&node).flags, row(&node).count), (0, 8));
    node.reach(&with_service(&backends));
    assert_eq!((row(&node).flags, row(&node).count), (1, 0));
}

#[test]
fn services_without_room_are_named_and_come_when_there_is_some() {
    let limits = Limits {
        services: 1,
        ..Limits::default()
    };
    let world = with_service(&["10.0.0.1:80"]).service("10.96.0.2", &["10.0.0.1:80"]);
    let mut node = Node::new(limits);
    let plan = node.plan(&world);
    assert_eq!(plan.problems.len(), 1);
    assert_eq!(plan.problems[0].object, "map pa_services");
    assert!(
        plan.problems[0].message.contains("10.96.0.2:80/TCP"),
        "{}",
        plan.problems[0].message
    );
    assert!(plan.endpoints.values().all(|end| end.current));
    node.memory.apply_all(&plan.ops);
    node.planner.applied(&plan.ops);
    assert_eq!(node.memory.mirror().services.len(), 1);
    let other = small().service("10.96.0.2", &["10.0.0.1:80"]);
    for _ in 0..2 {
        let plan = node.plan(&other);
        node.memory.apply_all(&plan.ops);
        node.planner.applied(&plan.ops);
    }
    assert_eq!(node.plan(&other).ops, []);
    assert_eq!(node.plan(&other).problems, []);
    assert_eq!(node.memory.mirror().services.len(), 1);
}

#[test]
fn address_of_a_pod_whose_egress_is_isolated_names_its_slot() {
    let node = settled();
    let row = |address: &str| {
        node.memory
            .mirror()
            .hosts
            .get(&address.parse().unwrap())
            .copied()
    };
    let slot = node.plan(&small()).endpoints[&pod("a")].slot;
    let isolated = row("10.244.0.1").expect("though no policy names it");
    assert_eq!(
        (isolated.identity, isolated.node, isolated.slot),
        (0, false, slot)
    );
    assert_eq!(row("10.244.0.2"), None, "ingress alone needs none");
    assert_eq!(row("10.0.0.1").unwrap().slot, 0);
}

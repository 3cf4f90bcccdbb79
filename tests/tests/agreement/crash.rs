//! An agent that ends between any two operations of a change leaves, for every packet at every
//! pod, the answer of before or that of after; the next agent finishes the change exactly.
//!
//! The changes are random ones of a random cluster: labels, policies and pods come, go and become
//! others. Each is begun anew for each number of its
//! operations, on maps of the kernel, and every packet is tried after that many. What is right
//! before and after is what the reference says (`probe`).

use policy_agent::datapath::test_run::At;
use policy_common::abi::Direction;
use policy_core::ops::Op;
use policy_tests::generate::{Rng, Shape, random_cluster, random_probes};
use policy_tests::reference::{Cluster, Packet};

use crate::bed::on_bed;
use crate::cluster::Objects;
use crate::node::{Extent, Goal, Node};
use crate::packet::opening;
use crate::worker::{self, Findings, nodes, probe, say};

/// Changes, and probes of each.
const CHANGES: usize = 3;
const PROBES: usize = 60;
/// Small enough that each number of operations can be tried, of every kind.
const SHAPE: Shape = Shape {
    namespaces: 2..=3,
    pods: 20..=24,
    policies: 6..=8,
    services: 0..=0,
    spoiled_percent: 8,
    shared_percent: 0,
};
/// What must have been tried, so that it says something.
const STOPS: usize = 40;
const ANSWERS: usize = 3_000;
const CHANGED: usize = 5;

/// A packet at a hook of a pod.
struct Trial {
    packet: Packet,
    at: At,
}

#[derive(Default)]
struct Tried {
    stops: usize,
    answers: usize,
    /// Packets with another answer after a change.
    changed: usize,
    reopened: usize,
}

#[test]
fn agent_that_ends_after_any_operation_leaves_the_old_policy_or_the_new_one() {
    on_bed("crash", |bed| {
        let runtime = worker::runtime();
        let _inside = runtime.enter();
        let mut rng = Rng::new(0x0063_7261_7368);
        // The pods of the generator are on several nodes; one of these is looked at.
        let outside = *bed.interfaces.last().expect("interfaces");
        let mut nodes = nodes(&bed, "crash");
        let mut objects = Objects::default();
        let cluster = random_cluster(1, &SHAPE);
        let first = objects.step(&mut rng, &cluster, true);
        for node in &mut nodes {
            node.change(&first, Extent::Whole);
        }
        let mut tried = Tried::default();
        for _ in 0..CHANGES {
            let before_values = objects.values();
            agrees(&mut rng, &objects, &mut nodes);
            let events = objects.step(&mut rng, &cluster, false);
            let after_values = objects.values();
            let packets = packets(&mut rng, &before_values, &after_values);
            // The others follow at once.
            let mut node = nodes.remove(0);
            for other in &mut nodes {
                other.change(&events, Extent::Whole);
            }
            let before = node.goal(&[]);
            let after = node.goal(&events);
            let trials = trials(&packets, &before, &after, &node, outside);
            node = change(&mut rng, node, &before, &after, &trials, &mut tried);
            nodes.insert(0, node);
            agrees(&mut rng, &objects, &mut nodes);
        }
        let Tried {
            stops,
            answers,
            changed,
            reopened,
        } = tried;
        say(&format!(
            "{stops} ends of an agent, {reopened} of them with a whole start after it; {answers} \
             answers, {changed} packets whose answer a change turned round"
        ));
        assert!(
            stops >= STOPS && answers >= ANSWERS && changed >= CHANGED && reopened > 0,
            "{stops} {answers} {changed} {reopened}"
        );
    });
}

/// Reference, `simulate` and kernel agree now.
fn agrees(rng: &mut Rng, objects: &Objects, nodes: &mut [Node]) {
    let found = probe(rng, objects, nodes, PROBES, &mut Findings::default());
    if let Err(problem) = found {
        panic!("{problem}");
    }
    for node in nodes {
        node.forget_connections();
    }
}

/// Packets that are the same before and after.
fn packets(
    rng: &mut Rng,
    before: &[serde_json::Value],
    after: &[serde_json::Value],
) -> Vec<Packet> {
    let (old, new) = (Cluster::from_objects(before), Cluster::from_objects(after));
    let mut probes = random_probes(rng.bits(), before, PROBES);
    probes.extend(random_probes(rng.bits(), after, PROBES));
    let both = probes.iter().filter_map(|probe| {
        let packet = old.packet(probe).ok()?;
        let same = new.packet(probe).is_ok_and(|other| {
            (other.source, other.destination, other.port)
                == (packet.source, packet.destination, packet.port)
        });
        same.then_some(packet)
    });
    both.collect()
}

/// Where they are seen on a node, at pods that are there before and after.
fn trials(
    packets: &[Packet],
    before: &Goal,
    after: &Goal,
    node: &Node,
    outside: u32,
) -> Vec<Trial> {
    let interface = |address: std::net::IpAddr| {
        let mut pods = before.desired.endpoints.iter();
        let (pod, spec) = pods.find(|(_, spec)| {
            spec.ipv4.is_some_and(|v4| address == v4) || spec.ipv6.is_some_and(|v6| address == v6)
        })?;
        let then = after.desired.endpoints.get(pod)?;
        let same = (&spec.uid, spec.ipv4, spec.ipv6) == (&then.uid, then.ipv4, then.ipv6);
        let attachment = before.attachments.get(pod)?;
        (same && after.attachments.get(pod) == Some(attachment)).then_some(attachment.ifindex)
    };
    let own = &node.context().addresses;
    let mut trials = Vec::new();
    for packet in packets {
        if own.contains(&packet.source) || own.contains(&packet.destination) {
            // The node's own is exempt, and that is no matter of maps.
            continue;
        }
        for (address, direction) in [
            (packet.source, Direction::Egress),
            (packet.destination, Direction::Ingress),
        ] {
            if let Some(ifindex) = interface(address) {
                let ingress_ifindex = match direction {
                    Direction::Egress => ifindex,
                    Direction::Ingress => outside,
                };
                trials.push(Trial {
                    packet: *packet,
                    at: At {
                        direction,
                        ifindex,
                        ingress_ifindex,
                    },
                });
            }
        }
    }
    trials
}

/// Carries a change out as many times as it has operations, each time one more of them.
fn change(
    rng: &mut Rng,
    mut node: Node,
    before: &Goal,
    after: &Goal,
    trials: &[Trial],
    tried: &mut Tried,
) -> Node {
    node.reach(before);
    let old = answers(rng, &mut node, trials);
    node.reach(after);
    let new = answers(rng, &mut node, trials);
    tried.changed += old.iter().zip(&new).filter(|(old, new)| old != new).count();
    for done in 0.. {
        node.reach(before);
        assert_eq!(answers(rng, &mut node, trials), old, "back where it was");
        let ops = node.plan(after);
        // Everything is in force before the removals, which wait.
        let in_force = ops
            .iter()
            .position(|op| matches!(op, Op::Grace))
            .unwrap_or(ops.len());
        node.carry_out(ops.get(..done).unwrap_or(&ops));
        let now = answers(rng, &mut node, trials);
        for ((now, trial), (old, new)) in now.iter().zip(trials).zip(old.iter().zip(&new)) {
            let Trial { packet, at } = trial;
            assert!(
                now == old || now == new,
                "{done} of {} operations ({:?}): {packet:?} at {at:?} was {old}, is to be {new}",
                ops.len(),
                done.checked_sub(1).and_then(|last| ops.get(last)),
            );
            assert!(
                now == new || done < in_force,
                "all is in force after {done} operations: {packet:?} at {at:?} is to be {new}"
            );
        }
        tried.stops += 1;
        tried.answers += now.len();
        // The next agent; now and then with all of its start.
        if tried.stops.is_multiple_of(30) {
            node = node.reopened();
            tried.reopened += 1;
        } else {
            node.succeeded();
        }
        node.reach(after);
        // Reading all of it takes a while.
        assert!(!done.is_multiple_of(8) || node.is_as_written());
        assert_eq!(
            answers(rng, &mut node, trials),
            new,
            "finished after {done}"
        );
        node.forget_connections();
        if done >= ops.len() {
            break;
        }
    }
    node
}

/// What becomes of each packet, of a new connection each time (or, should a port come twice, of one
/// that the word in force has judged).
fn answers(rng: &mut Rng, node: &mut Node, trials: &[Trial]) -> Vec<bool> {
    let answers = trials.iter().map(|trial| {
        let source_port = u16::try_from(1_024 + rng.below(60_000)).expect("a port");
        let frame = opening(rng, &trial.packet, source_port);
        node.try_packet(&frame, trial.at).passes
    });
    answers.collect()
}

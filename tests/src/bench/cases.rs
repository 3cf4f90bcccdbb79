//! What is measured, and what it may cost.

use policy_common::abi::{Direction, maps};

use super::packet::Segment;
use super::world::{Family, World};

/// What must become of the packets; it is checked with the product's own counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passes; how many of them by the flow cache is part of the result.
    Recalled,
    /// Each is judged, and passes.
    Passed,
    /// Each is judged, and dropped.
    Dropped,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// What a packet meets.
    pub(super) what: &'static str,
    /// What is in the tables.
    pub(super) world: World,
    /// Flows that packets belong to.
    pub(super) flows: u32,
    /// Each packet is of a flow of its own.
    pub(super) fresh: bool,
    /// The flow cache has forgotten the flow.
    pub(super) forget: bool,
    /// What it is.
    pub(super) segment: Segment,
    /// What must become of it.
    pub(super) outcome: Outcome,
    /// What it may cost at most, net, nanoseconds, by the design; `None`: nothing is promised.
    pub(super) target_ns: Option<f64>,
    /// One longest-prefix lookup may be added to it.
    pub(super) plus_lpm: bool,
}

/// Peers, and what the design promises for that many: packets judged by policy, first packets.
const PEERS: [(u32, f64, f64); 4] = [
    (1, 90.0, 300.0),
    (100, 100.0, 310.0),
    (1_000, 110.0, 320.0),
    (10_000, 140.0, 350.0),
];
/// Connections in a table that is three quarters full, as the design has it.
const MANY: u32 = 100_000;
const _: () = assert!((MANY as usize) < maps::CT_ENTRIES);
const ESTABLISHED_CACHED: f64 = 12.0;
const ESTABLISHED: f64 = 80.0;
const ESTABLISHED_MANY: f64 = 250.0;
const DENIED: f64 = 100.0;

/// All rows of a family. Those of one world are together, and those that fill its tables last.
pub(super) fn cases(family: Family) -> Vec<Case> {
    let mut all = Vec::new();
    let pods = |peers, connections| World {
        family,
        peers,
        prefixes: false,
        connections,
        direction: Direction::Ingress,
        other_policies: 0,
        closed: false,
    };
    for (peers, judged, first) in PEERS {
        let connections = if peers == 10_000 { MANY } else { peers };
        if peers != 100 {
            established(&mut all, pods(peers, connections));
        }
        // With few connections, as most pods have.
        policy(&mut all, pods(peers, peers.min(1_000)), judged, first);
    }
    // Connections of other flows are in the way.
    let mut busy = Vec::new();
    policy(&mut busy, pods(1_000, MANY), 0.0, 0.0);
    all.extend(busy.into_iter().map(|case| Case {
        target_ns: None,
        ..case
    }));
    for (peers, judged, _) in PEERS {
        let world = World {
            prefixes: true,
            ..pods(peers, 1)
        };
        all.push(Case {
            plus_lpm: true,
            ..judge(world, judged)
        });
    }
    let many = World {
        other_policies: 400,
        ..pods(1_000, 1_000)
    };
    all.push(judge(many, 110.0));
    let egress = World {
        direction: Direction::Egress,
        ..pods(1_000, 1_000)
    };
    established(&mut all, egress);
    policy(&mut all, egress, 110.0, 320.0);
    let closed = World {
        closed: true,
        ..egress
    };
    all.push(Case {
        what: "established, pod range closed",
        world: closed,
        flows: closed.connections,
        outcome: Outcome::Recalled,
        fresh: false,
        // The design knows no such range.
        target_ns: None,
        ..judge(closed, 0.0)
    });
    all
}

fn established(all: &mut Vec<Case>, world: World) {
    let base = Case {
        what: "established",
        world,
        flows: world.connections,
        fresh: false,
        forget: false,
        segment: Segment::Data,
        outcome: Outcome::Recalled,
        target_ns: Some(ESTABLISHED_CACHED),
        plus_lpm: false,
    };
    if world.connections > 10_000 {
        all.push(Case {
            outcome: Outcome::Passed,
            target_ns: Some(ESTABLISHED_MANY),
            ..base
        });
        return;
    }
    all.push(base.clone());
    all.push(Case {
        what: "established, not cached",
        forget: true,
        outcome: Outcome::Passed,
        target_ns: Some(ESTABLISHED),
        ..base
    });
}

fn judge(world: World, target_ns: f64) -> Case {
    Case {
        what: "judged by policy",
        world,
        flows: world.peers,
        fresh: true,
        forget: false,
        segment: Segment::Data,
        outcome: Outcome::Passed,
        target_ns: Some(target_ns),
        plus_lpm: false,
    }
}

fn policy(all: &mut Vec<Case>, world: World, judged: f64, first: f64) {
    let base = judge(world, judged);
    all.push(base.clone());
    all.push(Case {
        what: "denied SYN",
        segment: Segment::Syn,
        outcome: Outcome::Dropped,
        target_ns: Some(DENIED),
        ..base.clone()
    });
    all.push(Case {
        what: "first packet, with its record",
        segment: Segment::Syn,
        target_ns: Some(first),
        ..base
    });
}

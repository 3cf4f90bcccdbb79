//! Measures the packet programs, beside an empty program, one LRU lookup and one prefix lookup.
//!
//! Rounds are interleaved: each runs all of them once, so that what disturbs a while disturbs
//! them alike. From each round the empty program's time, which is the driver's and the harness's,
//! is subtracted; a row shows the median of its rounds.

use anyhow::{Context, Result, ensure};
use policy_common::abi::{Direction, stats};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use super::cases::{Case, Outcome, cases};
use super::kernel::{Kernel, Size, object};
use super::layout::{Drive, FORGET, FRESH, Raw};
use super::packet::{Segment, frame};
use super::world::{ALLOWED_PORT, DENIED_PORT, Family};

/// Answers of the programs: TCX_NEXT and TC_ACT_SHOT.
const PASS: u32 = u32::MAX;
const DROP: u32 = 2;
/// More runs than the largest table of records has elements, so that it is as full as it gets.
const FILL: u32 = 70_000;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Rounds of a row.
    pub(super) rounds: usize,
    /// Packets of a round, for each program.
    pub(super) packets: u32,
}

/// A measured row. Times are net of driver and harness, in nanoseconds, and medians.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) family: &'static str,
    pub(super) direction: &'static str,
    pub(super) what: &'static str,
    pub(super) peers: u32,
    pub(super) peers_are: &'static str,
    pub(super) flows: u32,
    pub(super) connections: u32,
    pub(super) policies: u32,
    /// The program under test.
    pub(super) ns: f64,
    /// Likewise, but of the fastest round of each: what it takes undisturbed.
    pub(super) least_ns: f64,
    /// Median distance of the rounds from `ns`.
    pub(super) spread_ns: f64,
    /// Driver, harness and empty program: not net.
    pub(super) empty_ns: f64,
    /// One LRU lookup in a table of as many flows.
    pub(super) lru_ns: f64,
    /// One prefix lookup among as many peers, where peers are prefixes.
    pub(super) lpm_ns: Option<f64>,
    /// With driver and harness, to the empty program with driver and harness.
    pub(super) to_empty: f64,
    /// To one LRU lookup, both net.
    pub(super) to_lru: f64,
    /// Share of the packets that the flow cache answered.
    pub(super) cached: f64,
    pub(super) target_ns: Option<f64>,
    pub(super) reached: Option<bool>,
}

/// Everything measured about the programs.
pub(super) struct Packets {
    pub(super) rows: Vec<Row>,
    pub(super) sizes: Vec<Size>,
}

/// Measures every case whose name has this text in it, and tells `each` as it goes.
pub(super) fn measure(effort: Effort, filter: &str, mut each: impl FnMut(&Row)) -> Result<Packets> {
    pin()?;
    let object = object()?;
    let mut packets = Packets {
        rows: Vec::new(),
        sizes: Vec::new(),
    };
    let mut loaded: Option<(Kernel, super::world::World)> = None;
    let all = [Family::V4, Family::V6].into_iter().flat_map(cases);
    for case in all.filter(|case| title(case).contains(filter)) {
        let kernel = match &mut loaded {
            Some((kernel, world)) if *world == case.world => kernel,
            _ => {
                // Before the next is loaded: the tables are large.
                drop(loaded.take());
                let kernel = Kernel::load(&object, &case.world)?;
                packets.sizes.clone_from(&kernel.sizes);
                &mut loaded.insert((kernel, case.world)).0
            }
        };
        let row = row(kernel, &case, effort).with_context(|| title(&case))?;
        each(&row);
        packets.rows.push(row);
    }
    ensure!(
        !packets.rows.is_empty(),
        "no row has {filter:?} in its name; one is called {:?}",
        title(&cases(Family::V4)[0])
    );
    Ok(packets)
}

/// The calling thread stays on the last CPU that it may use: the first has most of the
/// machine's interrupts.
pub(super) fn pin() -> Result<()> {
    let all = sched_getaffinity(None).context("ask for the CPUs")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu));
    let mut set = CpuSet::new();
    set.set(last.context("a thread runs somewhere")?);
    sched_setaffinity(None, &set).context("stay on one CPU")
}

fn title(case: &Case) -> String {
    format!(
        "{} {} {}, {} {}",
        family(case),
        direction(case),
        case.what,
        case.world.peers,
        peers_are(case)
    )
}

fn family(case: &Case) -> &'static str {
    match case.world.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn direction(case: &Case) -> &'static str {
    match case.world.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn peers_are(case: &Case) -> &'static str {
    if case.world.prefixes {
        "prefixes"
    } else {
        "pods"
    }
}

fn row(kernel: &mut Kernel, case: &Case, effort: Effort) -> Result<Row> {
    let world = &case.world;
    let port = match case.outcome {
        Outcome::Dropped => DENIED_PORT,
        Outcome::Passed | Outcome::Recalled => ALLOWED_PORT,
    };
    let flows: Vec<_> = (0..case.flows).map(|i| world.flow(i, port)).collect();
    let keys = flows.iter().map(|flow| {
        let mut key = world.record(0, 0).0;
        (key.peer, key.endpoint) = (flow.peer, 1);
        (key.peer_port, key.local_port) = (flow.peer_port, flow.local_port);
        (key.protocol, key.family) = (0, 0);
        (Raw(key), Raw(world.record(0, 0).1))
    });
    kernel.insert("pb_table", keys)?;
    kernel.set_elements("pb_flows", 0, flows.iter().copied().map(Raw))?;
    let flag = |on, flag| if on { flag } else { 0 };
    kernel.set_drive(Drive {
        random: 1,
        runs: 0,
        flows: case.flows,
        flags: flag(case.fresh, FRESH) | flag(case.forget, FORGET),
        place: match (world.family, world.direction) {
            (Family::V4, Direction::Ingress) => 0,
            (Family::V4, Direction::Egress) => 1,
            (Family::V6, Direction::Ingress) => 2,
            (Family::V6, Direction::Egress) => 3,
        },
        picked: 0,
    })?;
    let packet = frame(world.family, world.direction, case.segment);
    let program = match world.direction {
        Direction::Ingress => "to_pod",
        Direction::Egress => "from_pod",
    };
    let fills = case.fresh && case.segment == Segment::Syn && case.outcome == Outcome::Passed;
    let warm_up = effort.packets.min(2 * case.flows.max(1_000));
    kernel.run(program, &packet, if fills { FILL } else { warm_up })?;

    let (mut ours, mut empty, mut lru, mut lpm) = (vec![], vec![], vec![], vec![]);
    let (mut cached, mut fastest) = (0.0, f64::INFINITY);
    for _ in 0..effort.rounds {
        let mut run = |program: &str, answer: u32| -> Result<f64> {
            let series = kernel.run(program, &packet, effort.packets)?;
            ensure!(
                series.answer == answer,
                "{program} answered {:#x}, not {answer:#x}",
                series.answer
            );
            Ok(series.mean_ns)
        };
        let base = run("pb_empty", PASS)?;
        lru.push(run("pb_lru", PASS)? - base);
        if world.prefixes {
            lpm.push(run("pb_lpm", PASS)? - base);
        }
        empty.push(base);
        let (passed, dropped) = counted(kernel, world.direction)?;
        let answer = if case.outcome == Outcome::Dropped {
            DROP
        } else {
            PASS
        };
        let series = kernel.run(program, &packet, effort.packets)?;
        ensure!(
            series.answer == answer,
            "the answer is {:#x}",
            series.answer
        );
        let (passed_now, dropped_now) = counted(kernel, world.direction)?;
        let share = |count: u64| count as f64 / f64::from(effort.packets);
        let (passed, dropped) = (share(passed_now - passed), share(dropped_now - dropped));
        cached += (1.0 - passed - dropped) / effort.rounds as f64;
        let expected = match case.outcome {
            Outcome::Recalled => dropped == 0.0,
            // Of as many flows as there are connections the cache holds some all the same.
            Outcome::Passed => dropped == 0.0 && passed > 0.8,
            Outcome::Dropped => dropped == 1.0,
        };
        ensure!(
            expected,
            "{:.1} % judged and passed, {:.1} % dropped: not {:?}",
            passed * 100.0,
            dropped * 100.0,
            case.outcome
        );
        ours.push(series.mean_ns - base);
        fastest = fastest.min(series.mean_ns);
    }
    let (ns, empty_ns, lru_ns) = (median(&ours), median(&empty), median(&lru));
    let lpm_ns = (!lpm.is_empty()).then(|| median(&lpm));
    let distances: Vec<f64> = ours.iter().map(|value| (value - ns).abs()).collect();
    let allowance = if case.plus_lpm {
        lpm_ns.unwrap_or(0.0)
    } else {
        0.0
    };
    let target_ns = case.target_ns.map(|target| target + allowance);
    Ok(Row {
        family: family(case),
        direction: direction(case),
        what: case.what,
        peers: world.peers,
        peers_are: peers_are(case),
        flows: case.flows,
        connections: world.connections,
        policies: 1 + world.other_policies,
        ns,
        least_ns: fastest - empty.iter().copied().fold(f64::INFINITY, f64::min),
        spread_ns: median(&distances),
        empty_ns,
        lru_ns,
        lpm_ns,
        to_empty: (ns + empty_ns) / empty_ns,
        to_lru: ns / lru_ns.max(1.0),
        cached,
        target_ns,
        reached: target_ns.map(|target| ns <= target),
    })
}

/// Packets that were judged and passed, and those that were dropped by policy.
fn counted(kernel: &Kernel, direction: Direction) -> Result<(u64, u64)> {
    let policy = policy_common::abi::event::DropReason::Policy as u32;
    Ok((
        kernel.counter(stats::index(direction, stats::PASSED))?,
        kernel.counter(stats::index(direction, policy))?,
    ))
}

/// The middle one, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

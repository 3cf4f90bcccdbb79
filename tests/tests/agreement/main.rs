//! The main proof: reference evaluator, `simulate` and the kernel's own verdict
//! (`BPF_PROG_TEST_RUN` on the loaded programs and maps) agree on random probes, in both families.
//!
//! Random clusters, bad objects included, are reached through random states in between, each of
//! which is probed as well; some nodes start on empty maps, and after some changes an agent is
//! started again, which must change nothing. Every deny of the kernel must name the policies that
//! the reference names. Connections that are open during a change must be cut, or go on, as the
//! objects ask for afterwards. Needs root.
//!
//! | file | its part |
//! |---|---|
//! | `worker` | clusters one after the other, and what is asked in each state |
//! | `bed` | interfaces and BPF file systems |
//! | `cluster` | objects, and the steps between clusters |
//! | `node` | engine, planner and datapath of a node |
//! | `packet` | frames |
//! | `question` | a probe in the product's words |
//! | `compare` | the three answers to a probe |
//! | `flows` | connections that are open during a change |
//! | `crash` | agents that end between any two operations of a change |
//! | `frames` | any bytes, through the programs and through `policy-common` by itself |
//! | `services` | connections through Services: reference and `simulate` |

mod bed;
mod cluster;
mod compare;
mod crash;
mod flows;
mod frames;
mod node;
mod packet;
mod question;
mod services;
mod worker;

use std::thread;
use std::time::Instant;

use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::identity::OTHER;
use policy_common::abi::policy::PolicyKey;
use policy_core::ops::Op;
use policy_core::plan::Mirror;
use policy_tests::generate::{Rng, Shape, random_cluster};
use policy_tests::reference::{Feature, Histogram};

use bed::on_bed;
use cluster::Objects;
use compare::Counts;
use flows::Fates;
use node::Extent;
use worker::{Findings, nodes, probe, say, work};

/// Probes that must have been made, and how many of a thousand must at least be allowed, or be
/// decided by each of [`MUST_DECIDE`].
const PROBES: usize = 100_000;
const ALLOWED_PER_MILLE: usize = 300;
const DECIDED_PER_MILLE: usize = 10;
const MUST_DECIDE: [Feature; 6] = [
    Feature::Except,
    Feature::CidrOverlap,
    Feature::NegativeSelector,
    Feature::NamedPort,
    Feature::PortRange,
    Feature::UnknownPeer,
];
/// Open connections that a change must have left alone, and cut.
const KEPT: usize = 2_000;
const CUT: usize = 500;

/// Fixed, so that a cluster's past is the same on every machine. More than small machines have
/// processors: workers wait for grace periods.
const WORKERS: u64 = 4;

#[test]
fn reference_simulate_and_kernel_agree_on_every_probe() {
    let start = Instant::now();
    let sum = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let run = move || on_bed(&worker.to_string(), |bed| work(worker, WORKERS, &bed));
                scope.spawn(run)
            })
            .collect();
        let mut sum = Findings::default();
        for worker in workers {
            match worker.join() {
                Ok(findings) => sum.add(findings),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        sum
    });
    let Counts {
        packets,
        named,
        ipv4,
        forwarded,
    } = sum.counts;
    let Fates { kept, cut, halved } = sum.fates;
    say(&format!(
        "{}{ipv4} of them IPv4; {} states, {} restarts, {} starts on empty maps\n\
         {packets} packets tried in the kernel, {forwarded} of them forwarded in the node's name; \
         {named} denies named their policies\n\
         open connections: {kept} kept, {cut} cut, {halved} cut from the opener\n\
         {:.1} s; of all workers {:.1} s for probes, {:.1} s for changes, {:.1} s for answers",
        sum.histogram,
        sum.states,
        sum.restarts,
        sum.renewals,
        start.elapsed().as_secs_f64(),
        sum.generating.as_secs_f64(),
        sum.changing.as_secs_f64(),
        sum.asking.as_secs_f64(),
    ));
    assert!(sum.problems.is_empty(), "\n{}", sum.problems.join("\n"));
    assert_worth_asking(&sum);
}

/// What was asked must have been able to show a difference.
fn assert_worth_asking(findings: &Findings) {
    let histogram: &Histogram = &findings.histogram;
    assert!(histogram.probes >= PROBES, "{} probes", histogram.probes);
    let at_least = |what: &str, count: usize, per_mille: usize| {
        let is = histogram.per_mille(count);
        assert!(is >= per_mille, "{what}: {is} of a thousand");
    };
    let denied = histogram.probes - histogram.allowed;
    at_least("allowed", histogram.allowed, ALLOWED_PER_MILLE);
    at_least("denied", denied, 200);
    for feature in MUST_DECIDE {
        let what = format!("{feature:?}");
        at_least(&what, histogram.count(feature), DECIDED_PER_MILLE);
    }
    at_least("IPv4", findings.counts.ipv4, 250);
    at_least("IPv6", histogram.probes - findings.counts.ipv4, 250);
    assert!(
        findings.counts.named * 4 >= histogram.probes,
        "denies in the kernel"
    );
    assert!(findings.restarts >= 5 && findings.renewals >= 5);
    let Fates { kept, cut, .. } = findings.fates;
    assert!(kept >= KEPT && cut >= CUT, "{kept} kept, {cut} cut");
}

/// What this proof would find: tables that somebody changed behind the planner's back.
#[test]
fn tables_that_differ_from_the_plan_are_noticed() {
    on_bed("tampered", |bed| {
        let runtime = worker::runtime();
        let _inside = runtime.enter();
        let mut rng = Rng::new(1);
        let mut nodes = nodes(&bed, "start");
        let mut objects = Objects::default();
        let target = random_cluster(7, &Shape::default());
        let events = objects.step(&mut rng, &target, true);
        for node in &mut nodes {
            node.change(&events, Extent::Whole);
        }
        let changes: [(&str, Tampering); 4] = [
            ("nothing", |_| Vec::new()),
            ("peers are nobody", without_rows),
            ("peers are somebody again", rows),
            ("nobody is isolated", without_isolation),
        ];
        for (index, (what, ops)) in changes.into_iter().enumerate() {
            for node in &nodes {
                node.tamper(ops);
            }
            let answer = probe(
                &mut rng,
                &objects,
                &mut nodes,
                300,
                &mut Findings::default(),
            );
            let is_noticed = answer.is_err_and(|problem| problem.contains("passes: "));
            assert_eq!(is_noticed, index % 2 == 1, "{what}");
        }
    });
}

/// Operations that nobody planned, on tables that are as planned.
type Tampering = fn(&Mirror) -> Vec<Op>;

fn without_rows(mirror: &Mirror) -> Vec<Op> {
    let of_peers = mirror.rows.keys().filter(|key| key.identity != OTHER);
    of_peers.map(|key| Op::DeleteRow { key: *key }).collect()
}

fn rows(mirror: &Mirror) -> Vec<Op> {
    let row = |(key, port_set): (&PolicyKey, &u32)| Op::Row {
        key: *key,
        port_set: *port_set,
    };
    mirror.rows.iter().map(row).collect()
}

fn without_isolation(mirror: &Mirror) -> Vec<Op> {
    let word = PolicyWord::new(mirror.generation + 1, 0, 0);
    let slots = mirror.endpoints.keys();
    slots.map(|slot| Op::Word { slot: *slot, word }).collect()
}

//! The main proof: reference evaluator, `simulate` and the kernel's own verdict
//! (`BPF_PROG_TEST_RUN` on the loaded programs and maps) agree on random probes, in both families.
//!
//! Random clusters, bad objects included, are reached through random states in between, each of
//! which is probed as well; some start on empty maps, and after some the agent is started again,
//! which must change nothing. Every deny of the kernel must name the policies that the reference
//! names. Needs root.
//!
//! | file | its part |
//! |---|---|
//! | `bed` | interfaces and BPF file systems |
//! | `cluster` | objects, and the steps between clusters |
//! | `node` | engine, planner and datapath of a node |
//! | `packet` | the frame of a probe |
//! | `compare` | the three answers |

mod bed;
mod cluster;
mod compare;
mod node;
mod packet;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use policy_tests::generate::{Rng, Shape, random_cluster, random_probes};
use policy_tests::reference::{Cluster, Feature, Histogram, Packet, PortSpec, Probe, Protocol};

use bed::{Bed, on_bed};
use cluster::Objects;
use compare::{Counts, Scene};
use node::{Extent, Node};

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

/// Clusters, each the next one's past on the nodes of one of the workers.
const CLUSTERS: u64 = 72;
/// Fixed, so that a cluster's past is the same on every machine. More than most machines have
/// processors: workers wait for grace periods.
const WORKERS: u64 = 4;
/// Probes of a state in between, and of the cluster itself.
const PROBES_BETWEEN: usize = 200;
const PROBES_AT_LAST: usize = 1_150;
/// Disagreements after which a worker gives up.
const ENOUGH: usize = 5;

/// The nodes of the generator, and that of pods that name none.
const NODES: [&str; 3] = ["node-0", "node-1", ""];

/// IP protocols without ports or a state of their own, that ICMP probes are exchanged for at times:
/// GRE, ESP, OSPF, L2TP, and one for experiments (RFC 3692).
const OTHER_PROTOCOLS: [u8; 5] = [47, 50, 89, 115, 253];

/// What a worker found.
#[derive(Default)]
struct Findings {
    histogram: Histogram,
    counts: Counts,
    states: usize,
    restarts: usize,
    problems: Vec<String>,
    generating: Duration,
    changing: Duration,
    asking: Duration,
}

#[test]
fn reference_simulate_and_kernel_agree_on_every_probe() {
    let start = Instant::now();
    let all: Vec<Findings> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                scope.spawn(move || on_bed(&worker.to_string(), |bed| work(worker, &bed)))
            })
            .collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Findings>| match worker.join() {
            Ok(findings) => findings,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect()
    });
    let mut sum = Findings::default();
    for findings in all {
        sum.histogram.merge(&findings.histogram);
        sum.counts += findings.counts;
        sum.states += findings.states;
        sum.restarts += findings.restarts;
        sum.problems.extend(findings.problems);
        sum.generating += findings.generating;
        sum.changing += findings.changing;
        sum.asking += findings.asking;
    }
    let Counts {
        packets,
        named,
        ipv4,
        forwarded,
    } = sum.counts;
    say(&format!(
        "{}\n{CLUSTERS} clusters, {} states, {} restarts; {packets} packets tried in the kernel, \
         {named} denies with their policies' names, {forwarded} forwarded in the node's name; \
         {ipv4} probes of IPv4; {:.1} s (of all workers: {:.1} s for probes, {:.1} s for changes, \
         {:.1} s for answers)",
        sum.histogram,
        sum.states,
        sum.restarts,
        start.elapsed().as_secs_f64(),
        sum.generating.as_secs_f64(),
        sum.changing.as_secs_f64(),
        sum.asking.as_secs_f64(),
    ));
    assert!(sum.problems.is_empty(), "\n{}", sum.problems.join("\n"));
    assert_enough(&sum.histogram, sum.counts);
}

/// What was asked must have been worth asking.
fn assert_enough(histogram: &Histogram, counts: Counts) {
    assert!(histogram.probes >= PROBES, "{} probes", histogram.probes);
    let least = |what: &str, count: usize, per_mille: usize| {
        let is = histogram.per_mille(count);
        assert!(is >= per_mille, "{what}: {is} of a thousand");
    };
    least("allowed", histogram.allowed, ALLOWED_PER_MILLE);
    least(
        "denied",
        histogram.probes - histogram.allowed,
        ALLOWED_PER_MILLE,
    );
    for feature in MUST_DECIDE {
        let what = format!("{feature:?}");
        least(&what, histogram.count(feature), DECIDED_PER_MILLE);
    }
    least("IPv4", counts.ipv4, 250);
    least("IPv6", histogram.probes - counts.ipv4, 250);
}

/// One worker's clusters, on the same nodes one after the other.
fn work(worker: u64, bed: &Bed) -> Findings {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime for the ring's reader");
    let _inside = runtime.enter();
    let share = bed.interfaces.len() / NODES.len();
    let mut nodes: Vec<Node> = NODES
        .iter()
        .zip(bed.interfaces.chunks_exact(share))
        .map(|(name, interfaces)| {
            Node::new(name, bed.bpffs(&format!("at{name}")), interfaces.into())
        })
        .collect();
    let mut objects = Objects::default();
    let mut findings = Findings::default();
    for seed in (worker..CLUSTERS).step_by(WORKERS as usize) {
        let mut rng = Rng::new(seed ^ 0x6167_7265_656d);
        let target = random_cluster(seed, &Shape::default());
        // The first cluster meets empty maps at once, and so does one of eight after it.
        if seed >= WORKERS && rng.percent(12) {
            objects = Objects::default();
            nodes = (nodes.into_iter().zip(NODES))
                .map(|(node, name)| node.renewed(bed.bpffs(&format!("{seed}{name}"))))
                .collect();
        }
        let steps = if objects.values().is_empty() {
            1
        } else {
            2 + rng.below(4)
        };
        for step in 1..=steps {
            let last = step == steps;
            let _place = Place(format!("cluster {seed}, step {step} of {steps}"));
            let start = Instant::now();
            let events = objects.step(&mut rng, &target, last);
            let extent = if rng.percent(50) {
                Extent::Whole
            } else {
                Extent::InForce
            };
            for node in &mut nodes {
                node.change(&events, extent);
            }
            if last && rng.percent(40) {
                findings.restarts += 1;
                nodes = (nodes.into_iter())
                    .map(|mut node| {
                        node.change(&[], Extent::Whole);
                        node.restarted(objects.all())
                    })
                    .collect();
            }
            findings.changing += start.elapsed();
            let count = if last { PROBES_AT_LAST } else { PROBES_BETWEEN };
            let probed = probe_state(&mut rng, &objects, &mut nodes, count, &mut findings);
            findings.states += 1;
            if let Err(problem) = probed {
                findings
                    .problems
                    .push(format!("cluster {seed}, step {step} of {steps}: {problem}"));
            }
            if findings.problems.len() >= ENOUGH {
                return findings;
            }
        }
        say(&format!(
            "worker {worker}: cluster {seed}, {} probes",
            findings.histogram.probes
        ));
    }
    findings
}

/// Makes probes for the state that objects and nodes are in, and compares the answers.
fn probe_state(
    rng: &mut Rng,
    objects: &Objects,
    nodes: &mut [Node],
    count: usize,
    findings: &mut Findings,
) -> Result<(), String> {
    let values = objects.values();
    let cluster = Cluster::from_objects(&values);
    let start = Instant::now();
    let mut probes = random_probes(rng.bits(), &values, count);
    for probe in &mut probes {
        vary(rng, probe);
    }
    probes.retain(|probe| {
        cluster
            .packet(probe)
            .is_ok_and(|packet| !is_mapped(&packet))
    });
    for probe in &probes {
        let counted = findings.histogram.add(&cluster, probe);
        counted.map_err(|error| format!("{probe}: {error}"))?;
    }
    findings.generating += start.elapsed();
    let start = Instant::now();
    let mut scene = Scene::new(&cluster, &objects.store, nodes);
    let mut problems = String::new();
    for probe in &probes {
        if let Err(problem) = scene.compare(rng, probe) {
            let _ = writeln!(problems, "  {probe}\n    {problem}");
        }
    }
    findings.counts += scene.counts;
    findings.asking += start.elapsed();
    if problems.is_empty() {
        return Ok(());
    }
    let dump = std::env::temp_dir().join(format!("policy-agreement-{}.json", rng.bits()));
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": values});
    std::fs::write(&dump, list.to_string()).map_err(|error| error.to_string())?;
    Err(format!("objects in {}\n{problems}", dump.display()))
}

/// Exchanges ICMP for another protocol without ports, at times.
fn vary(rng: &mut Rng, probe: &mut Probe) {
    if probe.port == PortSpec::None && rng.percent(30) {
        probe.family = probe.family.or(match probe.protocol {
            Protocol::ICMP => Some(4),
            Protocol::ICMPV6 => Some(6),
            _ => None,
        });
        probe.protocol = Protocol(*rng.pick(&OTHER_PROTOCOLS));
    }
}

/// An IPv4-mapped IPv6 address has no place on the wire (RFC 4291 section 2.5.5.2): the programs take
/// such a packet for malformed, while semantics 13 would judge it as IPv6. Only a spoiled ipBlock
/// makes the generator ask for one.
fn is_mapped(packet: &Packet) -> bool {
    [packet.source, packet.destination]
        .iter()
        .any(|address| matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()))
}

/// Says where a panic happened.
struct Place(String);

impl Drop for Place {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("in {}", self.0);
        }
    }
}

/// Tells the user, also when the test passes: libtest withholds only what macros print.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

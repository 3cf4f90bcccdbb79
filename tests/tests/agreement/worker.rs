//! Clusters one after the other on the same nodes, and what is asked in each of their states.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use policy_tests::generate::{Rng, Shape, random_cluster, random_probes};
use policy_tests::reference::{Cluster, Histogram, Packet, PortSpec, Probe, Protocol};
use tokio::runtime::Runtime;

use crate::bed::Bed;
use crate::cluster::Objects;
use crate::compare::{Counts, Scene};
use crate::flows::{Fates, Flows};
use crate::node::{Extent, Node};

/// The nodes of the generator, and that of pods that name none.
pub(crate) const NODES: [&str; 3] = ["node-0", "node-1", ""];

/// Clusters, each the next one's past on the nodes of one of the workers.
const CLUSTERS: u64 = 72;
/// Probes of a state in between, and of the cluster itself.
const PROBES_BETWEEN: usize = 200;
const PROBES_AT_LAST: usize = 1_150;
/// Probes of each state whose connections stay open during the next change.
const OPEN: usize = 60;
/// In how many of a hundred clusters one of the nodes gets a new agent, or starts on empty maps.
/// Each means to load the programs, which takes the verifier a third of a second.
const RESTARTED: usize = 15;
const RENEWED: usize = 10;
/// States with disagreements after which a worker gives up.
const ENOUGH: usize = 3;
/// Disagreements of a state that are told.
const TOLD: usize = 10;

/// IP protocols without ports that ICMP is exchanged for at times: GRE, ESP, OSPF, L2TP, and one
/// for experiments (RFC 3692).
const OTHER_PROTOCOLS: [u8; 5] = [47, 50, 89, 115, 253];

/// What a worker found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) histogram: Histogram,
    pub(crate) counts: Counts,
    pub(crate) fates: Fates,
    pub(crate) states: usize,
    pub(crate) restarts: usize,
    pub(crate) renewals: usize,
    pub(crate) problems: Vec<String>,
    pub(crate) generating: Duration,
    pub(crate) changing: Duration,
    pub(crate) asking: Duration,
}

impl Findings {
    /// Adds what another worker found.
    pub(crate) fn add(&mut self, other: Self) {
        self.histogram.merge(&other.histogram);
        self.counts += other.counts;
        self.fates += other.fates;
        self.states += other.states;
        self.restarts += other.restarts;
        self.renewals += other.renewals;
        self.problems.extend(other.problems);
        self.generating += other.generating;
        self.changing += other.changing;
        self.asking += other.asking;
    }
}

/// One worker's share of the clusters.
pub(crate) fn work(worker: u64, workers: u64, bed: &Bed) -> Findings {
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut nodes = nodes(bed, "start");
    let mut objects = Objects::default();
    let mut findings = Findings::default();
    let mut flows = Flows::default();
    for seed in (worker..CLUSTERS).step_by(usize::try_from(workers).expect("few")) {
        let mut rng = Rng::new(seed ^ 0x6167_7265_656d);
        let target = random_cluster(seed, &Shape::default());
        // The first cluster comes in one change.
        let steps = if findings.states == 0 {
            1
        } else {
            2 + rng.below(4)
        };
        for step in 1..=steps {
            let place = Place(format!("cluster {seed}, step {step} of {steps}"));
            let last = step == steps;
            let start = Instant::now();
            change(&mut rng, &mut objects, &mut nodes, &target, last);
            if last && rng.percent(RESTARTED) {
                restart(&mut rng, &mut objects, &mut nodes);
                findings.restarts += 1;
            }
            let cluster = Cluster::from_objects(&objects.values());
            let fates = &mut findings.fates;
            let checked = flows.check(&mut rng, &cluster, &mut nodes, fates);
            if last && rng.percent(RENEWED) {
                let bpffs = bed.bpffs(&seed.to_string());
                renew(&mut rng, &mut objects, &mut nodes, bpffs);
                findings.renewals += 1;
            }
            findings.changing += start.elapsed();
            let count = if last { PROBES_AT_LAST } else { PROBES_BETWEEN };
            let probed = probe(&mut rng, &objects, &mut nodes, count, &mut findings);
            findings.states += 1;
            let opened = checked.and(probed);
            flows = opened.unwrap_or_else(|problem| {
                findings.problems.push(format!("{}: {problem}", place.0));
                Flows::default()
            });
            if findings.problems.len() >= ENOUGH {
                return findings;
            }
        }
        let probes = findings.histogram.probes;
        say(&format!("worker {worker}: cluster {seed}, {probes} probes"));
    }
    findings
}

/// What the ring's reader runs on.
pub(crate) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io().build().expect("a runtime")
}

/// Nodes that know nothing.
pub(crate) fn nodes(bed: &Bed, when: &str) -> Vec<Node> {
    let share = bed.interfaces.len() / NODES.len();
    let interfaces = bed.interfaces.chunks_exact(share);
    (NODES.iter().zip(interfaces))
        .map(|(name, interfaces)| {
            let bpffs = bed.bpffs(&format!("{when}{name}"));
            Node::new(name, bpffs, interfaces.into())
        })
        .collect()
}

/// A step towards the target, on all nodes.
fn change(
    rng: &mut Rng,
    objects: &mut Objects,
    nodes: &mut [Node],
    target: &[serde_json::Value],
    last: bool,
) {
    let events = objects.step(rng, target, last);
    let extent = match rng.percent(50) {
        true => Extent::Whole,
        false => Extent::InForce,
    };
    for node in nodes {
        node.change(&events, extent);
    }
}

/// The agent of one of the nodes is started again.
fn restart(rng: &mut Rng, objects: &mut Objects, nodes: &mut Vec<Node>) {
    let index = rng.below(nodes.len());
    let mut node = nodes.remove(index);
    node.change(&[], Extent::Whole);
    nodes.insert(index, node.restarted(objects.all()));
}

/// One of the nodes loses all that was pinned, and starts from scratch.
fn renew(rng: &mut Rng, objects: &mut Objects, nodes: &mut Vec<Node>, bpffs: std::path::PathBuf) {
    let index = rng.below(nodes.len());
    let mut node = nodes.remove(index).renewed(bpffs);
    node.change(&objects.all(), Extent::Whole);
    nodes.insert(index, node);
}

/// Puts probes to the state that objects and nodes are in, and opens connections.
///
/// # Errors
/// What the three do not agree on.
pub(crate) fn probe(
    rng: &mut Rng,
    objects: &Objects,
    nodes: &mut [Node],
    count: usize,
    findings: &mut Findings,
) -> Result<Flows, String> {
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
    let (mut problems, mut found) = (String::new(), 0);
    for probe in &probes {
        if let Err(problem) = scene.compare(rng, probe) {
            found += 1;
            if found <= TOLD {
                let _ = writeln!(problems, "  {probe}\n    {problem}");
            }
        }
    }
    let opened = match found {
        0 => Flows::open(&mut scene, rng, &probes[..OPEN.min(probes.len())]),
        _ => Err(format!("{found} of {} probes\n{problems}", probes.len())),
    };
    findings.counts += scene.counts;
    findings.asking += start.elapsed();
    opened
}

/// Exchanges ICMP for another protocol without ports, at times.
fn vary(rng: &mut Rng, probe: &mut Probe) {
    if probe.port == PortSpec::None && rng.percent(30) {
        probe.family = match probe.protocol {
            Protocol::ICMP => Some(4),
            _ => Some(6),
        };
        probe.protocol = Protocol(*rng.pick(&OTHER_PROTOCOLS));
    }
}

/// An IPv4-mapped IPv6 address has no place on the wire (RFC 4291 section 2.5.5.2): the programs
/// take such a packet for malformed, where semantics 13 would judge it as IPv6. Only a spoiled
/// ipBlock makes the generator ask for one.
fn is_mapped(packet: &Packet) -> bool {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    mapped(packet.source) || mapped(packet.destination)
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
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

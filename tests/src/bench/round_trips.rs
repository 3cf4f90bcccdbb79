//! What the programs cost two pods that talk to each other: round trips a second with
//! ours on the way, with an empty TCX program on the same hooks, and with none.
//!
//! In a lab of its own, over real sockets in the pods' network namespaces: each packet
//! goes through the node's stack from one veth to the other, past two of the four hooks.
//! Both pods are isolated both ways and policy allows this flow alone, so answers pass by
//! the connection's record, as they do in use. Rounds are interleaved and begin with
//! another of the three each time; ratios are of a round, and a row shows their median.
//! `ping_pong` is the exchange itself, and says why it stays on one CPU.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::EbpfLoader;
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use policy_agent::datapath::{Backend, Datapath, Options};
use policy_agent::object;
use policy_common::abi::{Direction, stats};
use policy_core::engine::{Engine, NodeContext};
use policy_core::plan::{Attachment, Attachments, Limits, Planner};
use serde::Serialize;
use serde_json::{Value, json};

use super::control::applied;
use super::flood::Bpffs;
use super::kernel;
use super::packets::{Effort, median};
use super::ping_pong::PingPong;
use crate::lab::{Family, Host, Lab, Outcome, Probe, Proto, ServeSpec, Server, Wiring, matrix};

/// The filter that selects this part alone.
pub(super) const NAME: &str = "round-trips";

/// What ours must reach of an empty program's round trips, by the design.
const TARGET: f64 = 0.99;
/// How long each of the three runs in a round, and before that, unmeasured: caches and
/// the flow's record are then as they are in the middle of a conversation.
const RUN: Duration = Duration::from_millis(300);
const WARM_UP: Duration = Duration::from_millis(30);
/// The port that policy allows, and one that it does not.
const ALLOWED: u16 = 7_000;
const DENIED: u16 = 7_001;
/// Hooks that a round trip passes: two veths, two directions.
const HOOKS: u64 = 4;
/// Settings that the agent makes; more than two pods need.
const CT_BUDGET: u32 = 1_000;
const EVENTS_PER_TICK: u32 = 64;
/// Plans until nothing is left to do.
const PLANS: usize = 8;
const NODE: &str = "node";

/// A flow's figures: round trips a second, and ratios of them, medians.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RoundTrips {
    pub(super) family: &'static str,
    pub(super) protocol: String,
    pub(super) none_per_second: f64,
    pub(super) empty_per_second: f64,
    pub(super) ours_per_second: f64,
    pub(super) empty_to_none: f64,
    pub(super) ours_to_none: f64,
    pub(super) ours_to_empty: f64,
    /// Median distance of the rounds from `ours_to_empty`.
    pub(super) spread: f64,
    /// Share of the packets that the flow cache answered.
    pub(super) cached: f64,
    pub(super) target: f64,
    pub(super) reached: bool,
}

/// What is on the hooks of both veths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Programs {
    None,
    Empty,
    Ours,
}

impl Programs {
    const ALL: [Self; 3] = [Self::None, Self::Empty, Self::Ours];
}

/// Measures UDP and TCP of both families, and tells `each` as it goes.
pub(super) fn measure(
    effort: Effort,
    mut each: impl FnMut(&RoundTrips) + Send,
) -> Result<Vec<RoundTrips>> {
    ensure!(
        Backend::best() == Backend::Tcx,
        "round trips are compared with a TCX program: this takes Linux 6.6"
    );
    let mut lab = Lab::new("bench-round-trips", Wiring::Routed)?;
    let mut pod = |name, last| {
        let v4 = Ipv4Addr::new(10, 244, 0, last);
        let v6 = Ipv6Addr::new(0xfd10, 0x244, 0, 0, 0, 0, 0, last.into());
        lab.pod(name, v4, v6)
    };
    let (client, server) = (pod("bench/client", 2)?, pod("bench/server", 3)?);
    let bpffs = Bpffs::mount(lab.dir().join("bpffs"))?;
    let denied = Server::start(&server, &ServeSpec::ports(&[DENIED]))?;
    let node = lab.node().clone();
    let rows = node.netns().run(|| {
        let mut way = Way::new(&bpffs, &node, [&client, &server])?;
        rows(&mut way, &client, &server, effort, &mut each)
    })?;
    drop(denied);
    rows
}

fn rows(
    way: &mut Way,
    client: &Host,
    server: &Host,
    effort: Effort,
    each: &mut dyn FnMut(&RoundTrips),
) -> Result<Vec<RoundTrips>> {
    for programs in Programs::ALL {
        way.put(programs)?;
        check(programs, client, server)?;
    }
    let mut rows = Vec::new();
    for proto in [Proto::Udp, Proto::Tcp] {
        for family in Family::BOTH {
            // Before ours, which must see a connection begin.
            way.put(Programs::Ours)?;
            let mut flow = PingPong::open(client, server, family, proto, ALLOWED)?;
            let row = row(way, &mut flow, family, proto, effort)?;
            each(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Policy is in force with ours on the way, and with nothing else.
fn check(programs: Programs, client: &Host, server: &Host) -> Result<()> {
    let mut probes = Vec::new();
    for family in Family::BOTH {
        for proto in [Proto::Udp, Proto::Tcp] {
            probes.push(Probe::new(client, server, family, DENIED, proto)?);
        }
    }
    for (probe, outcome) in probes.iter().zip(matrix(&probes)?) {
        let expected = if programs == Programs::Ours {
            outcome == Outcome::TimedOut
        } else {
            outcome.is_connected()
        };
        ensure!(expected, "{probe} with {programs:?} on the way: {outcome}");
    }
    Ok(())
}

fn row(
    way: &mut Way,
    flow: &mut PingPong,
    family: Family,
    proto: Proto,
    effort: Effort,
) -> Result<RoundTrips> {
    let mut rates = Programs::ALL.map(|_| Vec::new());
    let (mut judged, mut passed) = (0, 0);
    for round in 0..effort.rounds {
        for turn in 0..Programs::ALL.len() {
            let index = (round + turn) % Programs::ALL.len();
            let programs = Programs::ALL[index];
            way.put(programs)?;
            flow.run(WARM_UP)?;
            let before = way.judged()?;
            let run = flow.run(RUN)?;
            if programs == Programs::Ours {
                judged += way.judged()? - before;
                passed += HOOKS * run.round_trips;
            }
            rates[index].push(run.per_second);
        }
    }
    let [none, empty, ours] = &rates;
    let ratios = |of: &[f64], to: &[f64]| -> Vec<f64> {
        of.iter().zip(to).map(|(of, to)| of / to).collect()
    };
    let to_empty = ratios(ours, empty);
    let ours_to_empty = median(&to_empty);
    let distances: Vec<f64> = to_empty.iter().map(|r| (r - ours_to_empty).abs()).collect();
    Ok(RoundTrips {
        family: match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        },
        protocol: proto.to_string(),
        none_per_second: median(none),
        empty_per_second: median(empty),
        ours_per_second: median(ours),
        empty_to_none: median(&ratios(empty, none)),
        ours_to_none: median(&ratios(ours, none)),
        ours_to_empty,
        spread: median(&distances),
        cached: 1.0 - judged as f64 / passed as f64,
        target: TARGET,
        reached: ours_to_empty >= TARGET,
    })
}

/// The way from pod to pod, in the node's network namespace, and what is on it.
struct Way {
    datapath: Datapath,
    empty: SchedClassifier,
    links: Vec<SchedClassifierLinkId>,
    /// The node's ends of the veths.
    interfaces: [(String, u32); 2],
    on: Programs,
}

impl Way {
    /// Puts policy in force, with ours on the way.
    fn new(bpffs: &Bpffs, node: &Host, pods: [&Host; 2]) -> Result<Self> {
        let options = Options {
            bpffs: bpffs.0.clone(),
            backend: None,
        };
        let object = object::bytes().context("the agent's programs")?;
        let datapath = Datapath::open(&options, object)?;
        datapath.maps().configure(CT_BUDGET, EVENTS_PER_TICK)?;
        let interface = |pod: &Host| -> Result<(String, u32)> {
            let name = pod.node_interface().context("a pod has a veth")?;
            Ok((name.to_owned(), node.interface_index(name)?))
        };
        let interfaces = [interface(pods[0])?, interface(pods[1])?];
        enforce(&datapath, pods, &interfaces)?;
        Ok(Self {
            datapath,
            empty: empty_program(bpffs)?,
            links: Vec::new(),
            interfaces,
            on: Programs::Ours,
        })
    }

    /// Takes off the way what is on it, and puts these programs there.
    fn put(&mut self, programs: Programs) -> Result<()> {
        for link in self.links.drain(..) {
            self.empty.detach(link)?;
        }
        for (name, index) in &self.interfaces {
            if self.on == Programs::Ours && programs != Programs::Ours {
                self.datapath.detach(*index)?;
            }
            match programs {
                Programs::None => {}
                Programs::Ours => self.datapath.attach(*index)?,
                Programs::Empty => {
                    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
                        let link = self.empty.attach_with_options(name, side, first)?;
                        self.links.push(link);
                    }
                }
            }
        }
        self.on = programs;
        let attached = self.datapath.attached()?.len();
        let expected = if programs == Programs::Ours { 2 } else { 0 };
        ensure!(
            attached == expected,
            "our programs are on {attached} interfaces, not {expected}"
        );
        Ok(())
    }

    /// Packets that passed and were not the flow cache's.
    fn judged(&self) -> Result<u64> {
        let counters = self.datapath.maps().counters()?;
        let passed = |direction| counters.get(direction, stats::PASSED);
        Ok(passed(Direction::Ingress) + passed(Direction::Egress))
    }
}

/// The empty program; what its object has beside it goes again.
fn empty_program(bpffs: &Bpffs) -> Result<SchedClassifier> {
    let mut ebpf = EbpfLoader::new()
        .load(&kernel::object()?)
        .context("load the benchmark's object")?;
    let program = kernel::classifier(&mut ebpf, "pb_empty")?;
    program.load()?;
    let pin = bpffs.0.join("pb_empty");
    program.pin(&pin)?;
    Ok(SchedClassifier::from_pin(pin)?)
}

/// Does what the agent does with these pods and policies.
fn enforce(datapath: &Datapath, pods: [&Host; 2], interfaces: &[(String, u32); 2]) -> Result<()> {
    let mut engine = Engine::new(NodeContext {
        name: NODE.into(),
        ..NodeContext::default()
    });
    engine.apply(applied(&objects(pods)));
    let desired = engine.desired();
    let mut attachments = Attachments::new();
    for endpoint in desired.endpoints.keys() {
        let at = usize::from(*endpoint.name != *"client");
        let attachment = Attachment {
            ifindex: interfaces[at].1,
            link_local6: None,
        };
        attachments.insert(endpoint.clone(), attachment);
    }
    ensure!(attachments.len() == 2, "both pods have policies");
    let mut planner = Planner::new(datapath.read_back()?, Limits::default());
    for _ in 0..PLANS {
        let plan = planner.plan(desired, &attachments);
        ensure!(plan.problems.is_empty(), "{:?}", plan.problems);
        if plan.ops.is_empty() {
            return Ok(());
        }
        if let Some(failure) = datapath.apply(&plan.ops).failure {
            return Err(failure.into());
        }
        planner.applied(&plan.ops);
    }
    anyhow::bail!("{PLANS} plans, and still something to do")
}

/// Both pods, isolated both ways, and the one port that the client may use.
fn objects(pods: [&Host; 2]) -> [Value; 4] {
    let pod = |host: &Host, name: &str| {
        let ips: Vec<Value> = host
            .addresses()
            .iter()
            .map(|ip| json!({"ip": ip}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "bench", "name": name, "uid": name,
                "labels": {"app": name},
            },
            "spec": {"nodeName": NODE, "containers": []},
            "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips},
        })
    };
    let policy = |name: &str, direction: &str, peers: &str, peer: &str| {
        let ports = ["UDP", "TCP"].map(|proto| json!({"protocol": proto, "port": ALLOWED}));
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "bench", "name": name, "uid": name},
            "spec": {
                "podSelector": {"matchLabels": {"app": name}},
                "policyTypes": ["Ingress", "Egress"],
                direction: [{
                    peers: [{"podSelector": {"matchLabels": {"app": peer}}}],
                    "ports": ports,
                }],
            },
        })
    };
    let [client, server] = pods;
    [
        pod(client, "client"),
        pod(server, "server"),
        policy("client", "egress", "to", "server"),
        policy("server", "ingress", "from", "client"),
    ]
}

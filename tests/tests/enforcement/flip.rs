//! No packet sees a mixture of two policies, however often they change.
//!
//! A pod's policy, ingress and egress together, goes back and forth while its
//! peers send. The agent's log says which policy was in force when, so every
//! datagram that was judged between two changes has a known fate.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    ChurnSpec, Family, Host, ServeSpec, Server, TcpChurn, TcpFlow, TcpSpec, UdpReport, UdpSpec,
    UdpStream, Wiring, fewer, now_ns, slowness, wait_for,
};
use serde_json::Value;

use crate::expect::ensure_undisturbed;
use crate::folder::{Pod, Way, allow};
use crate::node::{BOUND, NODE, Node};

/// Changes of a run on a real machine, unless `POLICY_FLIPS` says otherwise.
const FLIPS: usize = 1000;
/// Time between datagrams.
const EVERY: Duration = Duration::from_millis(1);
/// Datagrams of a stream that meet one state and no other.
const BETWEEN: usize = 4;
/// How long after a sender is done with a datagram the kernel may be busy with
/// something else before it delivers it, on a real machine.
const LATE_NS: u64 = 2_000_000;

const ALWAYS: u16 = 82;

/// In which of the two states a stream passes.
type Passes = [bool; 2];

/// A stream between the pod and a peer.
struct Stream {
    what: String,
    passes: Passes,
    stream: UdpStream,
}

/// The pod `a/s`, its peers `a/a` and `a/b`, and `a/c`, which may always talk.
struct Bed {
    node: Node,
    pods: [Pod; 4],
    hosts: [Host; 4],
}

impl Bed {
    fn new(wiring: Wiring) -> Result<Self> {
        let mut node = Node::new("flip", wiring)?;
        let (mut hosts, mut pods) = (Vec::new(), Vec::new());
        for app in ["s", "a", "b", "c"] {
            let host = node.host(&format!("a/{app}"))?;
            pods.push(Pod::of(&host, &format!("uid-{app}")).label("app", app));
            hosts.push(host);
        }
        let four = || anyhow::anyhow!("four pods");
        Ok(Self {
            node,
            pods: pods.try_into().map_err(|_| four())?,
            hosts: hosts.try_into().map_err(|_| four())?,
        })
    }

    /// Objects of a state: labels of the peers, and the ports of each label.
    fn state(&self, labels: [&str; 2], rules: &[(&str, &[u16])]) -> Vec<Value> {
        let [s, a, b, c] = self.pods.clone();
        let peers = [a, b]
            .into_iter()
            .zip(labels)
            .map(|(pod, label)| pod.label("app", label));
        let rules: Vec<_> = rules
            .iter()
            .copied()
            .chain([("c", &[ALWAYS][..])])
            .collect();
        let policies = [
            allow(Way::Ingress, "a/in", "s", &rules),
            allow(Way::Egress, "a/out", "s", &rules),
        ];
        let pods = [s, c].into_iter().chain(peers);
        pods.map(|pod| pod.manifest(NODE)).chain(policies).collect()
    }

    /// Streams both ways between the pod and both peers, on two ports.
    fn streams(&self, passes: impl Fn(&str, u16) -> Passes) -> Result<Vec<Stream>> {
        let [s, a, b, c] = &self.hosts;
        let mut streams = Vec::new();
        let mut start = |from: &Host, to: &Host, family, port, passes| -> Result<()> {
            let spec = UdpSpec::new(from, to, family, port)?.interval(EVERY);
            streams.push(Stream {
                what: format!("{} -> {} {port} {family:?}", from.name(), to.name()),
                passes,
                stream: UdpStream::start(&spec)?,
            });
            Ok(())
        };
        for (peer, family) in [(a, Family::V4), (b, Family::V6)] {
            for port in [80, 81] {
                let passes = passes(peer.name(), port);
                start(peer, s, family, port, passes)?;
                start(s, peer, family, port, passes)?;
            }
        }
        for family in Family::BOTH {
            start(c, s, family, ALWAYS, [true, true])?;
            start(s, c, family, ALWAYS, [true, true])?;
            start(c, s, family, ALWAYS + 1, [false, false])?;
        }
        Ok(streams)
    }
}

/// When a state began: not before its manifests were written, and not after the
/// agent said that it had stored the pod's word (for the last time).
#[derive(Debug)]
struct Switch {
    written_ns: u64,
    stored_ns: u64,
}

/// Goes back and forth between two states under traffic. Which datagrams pass in
/// which of them is for `passes` to say, by the peer's name and the port.
fn flip(mut bed: Bed, states: &[Vec<Value>; 2], passes: fn(&str, u16) -> Passes) -> Result<()> {
    let flips = match std::env::var("POLICY_FLIPS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("POLICY_FLIPS={text}"))?,
        Err(_) => fewer(FLIPS),
    };
    bed.node.folder.put_all("state.json", &states[0])?;
    bed.node.start()?;
    let [s, _, _, c] = &bed.hosts;
    let spec = ServeSpec {
        tcp: vec![ALWAYS],
        ..ServeSpec::default()
    };
    let server = Server::start(s, &spec)?;
    let tcp = TcpFlow::start(&TcpSpec::new(c, s, Family::V4, ALWAYS)?)?;
    let churn = TcpChurn::start(&ChurnSpec::new(c, s, Family::V6, ALWAYS)?)?;
    let streams = bed.streams(passes)?;
    for stream in streams.iter().filter(|stream| stream.passes[0]) {
        stream.stream.wait_until_flowing(BOUND)?;
    }
    tcp.wait_until_flowing(BOUND)?;

    let since_ns = now_ns();
    let mut changes_ns = Vec::with_capacity(flips);
    for flip in 0..flips {
        changes_ns.push(now_ns());
        bed.node
            .folder
            .put_all("state.json", &states[(flip + 1) % 2])?;
        bed.node.settle()?;
        let sent = streams[0].stream.sent();
        wait_for("datagrams between changes", BOUND, || {
            streams[0].stream.sent() >= sent + BETWEEN
        })?;
    }
    let end_ns = now_ns();

    let (tcp, churn) = (tcp.stop()?, churn.stop()?);
    let reports = stop(streams)?;
    let switches = switches(&bed.node, since_ns, &changes_ns)?;
    let mut judged = [0; 2];
    for (what, passes, report) in &reports {
        let counts = judge(*passes, report, &switches, end_ns).with_context(|| what.clone())?;
        judged = [judged[0] + counts[0], judged[1] + counts[1]];
    }
    ensure!(
        judged.iter().all(|count| *count > flips),
        "only {judged:?} datagrams have a known fate in {flips} changes"
    );
    ensure_undisturbed(&server, &[tcp])?;
    ensure!(churn.is_undisturbed(), "{churn:?}");
    println!(
        "{flips} changes in {} ms: {} datagrams dropped and {} let through as they should",
        (end_ns - since_ns) / 1_000_000,
        judged[0],
        judged[1]
    );
    bed.node.finish()
}

fn stop(streams: Vec<Stream>) -> Result<Vec<(String, Passes, UdpReport)>> {
    thread::scope(|scope| {
        let threads: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let stop = move || (stream.what, stream.passes, stream.stream.stop());
                scope.spawn(stop)
            })
            .collect();
        let reports = threads.into_iter().map(|thread| {
            let (what, passes, report) = thread.join().expect("stopping does not panic");
            Ok((what, passes, report?))
        });
        reports.collect()
    })
}

/// When each change took effect at the pod, by the agent's own log; its last lines may
/// be written a moment after it has answered.
fn switches(node: &Node, since_ns: u64, changes_ns: &[u64]) -> Result<Vec<Switch>> {
    let mut found = told(node, since_ns, changes_ns);
    // What is wrong beyond the time is told below.
    let _ = wait_for("every change to be told", BOUND, || {
        found = told(node, since_ns, changes_ns);
        found.is_ok()
    });
    found
}

fn told(node: &Node, since_ns: u64, changes_ns: &[u64]) -> Result<Vec<Switch>> {
    let lines = node.lines()?;
    let stores: Vec<u64> = lines
        .iter()
        .filter(|line| line["type"] == "programmed" && line["pod"] == "a/s")
        .filter_map(|line| line["stored_monotonic_ns"].as_u64())
        .filter(|at_ns| *at_ns > since_ns)
        .collect();
    let ends_ns = changes_ns.iter().skip(1).copied().chain([u64::MAX]);
    changes_ns
        .iter()
        .zip(ends_ns)
        .enumerate()
        .map(|(number, (&written_ns, end_ns))| {
            let mut within = stores.iter().filter(|at| (written_ns..end_ns).contains(at));
            let stored_ns = *within.next_back().with_context(|| {
                format!(
                    "change {number} of {} without a store between {written_ns} and {end_ns}; \
                     stores at {stores:?}",
                    changes_ns.len()
                )
            })?;
            Ok(Switch {
                written_ns,
                stored_ns,
            })
        })
        .collect()
}

/// Checks every datagram that was certainly judged between two changes; how many
/// were dropped, and how many passed.
fn judge(
    passes: Passes,
    report: &UdpReport,
    switches: &[Switch],
    end_ns: u64,
) -> Result<[usize; 2]> {
    ensure!(
        report.queue_drops == 0 && report.send_errors == 0,
        "{}",
        report.summary()
    );
    ensure!(report.duplicates() == 0, "{}", report.summary());
    let lost = report.lost();
    if passes == [true, true] {
        ensure!(lost.is_empty(), "it may always pass: {}", report.summary());
    }
    if passes == [false, false] {
        ensure!(
            report.arrivals.is_empty(),
            "it never may pass: {}",
            report.summary()
        );
    }
    let next_ns = |seq: u64| {
        let next = usize::try_from(seq + 1).ok();
        let sent = next.and_then(|next| report.sent_ns.get(next));
        sent.map_or(u64::MAX, |at| at + LATE_NS * u64::from(slowness()))
    };
    // A datagram was judged between its sending and its arrival, or, when it did
    // not arrive, before its sender went on with the next one.
    let arrived = report
        .arrivals
        .iter()
        .map(|a| (a.sent_ns, a.received_ns, true));
    let lost = lost
        .iter()
        .map(|&(seq, sent_ns)| (sent_ns, next_ns(seq), false));
    let mut counts = [0; 2];
    for (from_ns, to_ns, passed) in arrived.chain(lost) {
        let begun = switches.partition_point(|switch| switch.stored_ns < from_ns);
        let ends_ns = switches
            .get(begun)
            .map_or(end_ns, |switch| switch.written_ns);
        if to_ns >= ends_ns {
            // The next state may have had it; and one that may have been in force
            // already when it was sent begins before it.
            continue;
        }
        let state = begun % 2;
        ensure!(
            passed == passes[state],
            "sent at {from_ns}, {} before {to_ns}, in state {state} after {begun} changes, which \
             {:?}: {}",
            if passed { "arrived" } else { "was lost" },
            begun.checked_sub(1).and_then(|last| switches.get(last)),
            report.summary()
        );
        counts[usize::from(passed)] += 1;
    }
    Ok(counts)
}

/// {a: 80, b: 81} and {a: 81, b: 80}.
fn policies(wiring: Wiring) -> Result<()> {
    let bed = Bed::new(wiring)?;
    let states = [
        bed.state(["a", "b"], &[("a", &[80]), ("b", &[81])]),
        bed.state(["a", "b"], &[("a", &[81]), ("b", &[80])]),
    ];
    flip(bed, &states, |peer, port| match (peer, port) {
        ("a/a", 80) | ("a/b", 81) => [true, false],
        _ => [false, true],
    })
}

/// Labels and policies change together so that the same passes all the time:
/// only a mixture would deny it, and let the rest pass.
fn policies_and_labels(wiring: Wiring) -> Result<()> {
    let bed = Bed::new(wiring)?;
    let states = [
        bed.state(["x", "y"], &[("x", &[80]), ("y", &[81])]),
        bed.state(["y", "x"], &[("x", &[81]), ("y", &[80])]),
    ];
    flip(bed, &states, |peer, port| match (peer, port) {
        ("a/a", 80) | ("a/b", 81) => [true, true],
        _ => [false, false],
    })
}

#[test]
fn no_packet_sees_a_mixture_of_policies_between_bridged_pods() -> Result<()> {
    policies(Wiring::Bridged)
}

#[test]
fn no_packet_sees_a_mixture_of_policies_between_routed_pods() -> Result<()> {
    policies(Wiring::Routed)
}

#[test]
fn no_packet_sees_a_mixture_of_labels_and_policies_between_bridged_pods() -> Result<()> {
    policies_and_labels(Wiring::Bridged)
}

#[test]
fn no_packet_sees_a_mixture_of_labels_and_policies_between_routed_pods() -> Result<()> {
    policies_and_labels(Wiring::Routed)
}

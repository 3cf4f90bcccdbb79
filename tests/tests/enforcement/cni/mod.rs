//! CNI: the chained plugin, called as a runtime calls it, the records of the CNI
//! library, and interfaces that nobody knows. With real veths and real packets.
//!
//! The lab wires a pod as the plugins before ours would; then ours is called.

mod births;
mod caller;
mod closed;
mod hold;
mod records;
mod verbs;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, Probe, Proto, UdpSpec, UdpStream, Wiring, probe};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

use crate::expect::PORT;
use crate::folder::{Pod, Way, allow};
use crate::node::{BOUND, Node};

/// A node with a `web` and a `stranger`, and the policy that only `web` may reach
/// what is called `db`. The agent is not started.
struct Scene {
    node: Node,
    web: Host,
    stranger: Host,
}

impl Scene {
    fn new(name: &str, wiring: Wiring) -> Result<Self> {
        let mut node = Node::new(name, wiring)?;
        let web = node.pod("shop/web", &[("app", "web")])?;
        let stranger = node.pod("shop/stranger", &[("app", "stranger")])?;
        let policy = allow(Way::Ingress, "shop/db", "db", &[("web", &[])]);
        node.folder.put_all("db.json", &[policy])?;
        Ok(Self {
            node,
            web,
            stranger,
        })
    }

    /// What the agent is told: unknown interfaces are held, and where records are.
    fn command(&self, unknown: &str) -> Command {
        let mut command = self.node.run_command(self.node.binary());
        command
            .args(["--unknown-interfaces", unknown, "--cni-results-dir"])
            .arg(self.node.lab.dir().join("results"));
        command
    }

    /// Starts the agent and waits until everything is in force.
    fn start(&mut self, unknown: &str) -> Result<Value> {
        let command = self.command(unknown);
        self.node.start_command(command)?;
        self.node.settle()
    }

    /// A pod as the plugins before ours leave it; `prepare` runs before it has a
    /// link.
    fn wire<T>(
        &mut self,
        name: &str,
        prepare: impl FnOnce(&Host) -> Result<T>,
    ) -> Result<(Host, T)> {
        let (v4, v6) = self.node.free_addresses();
        self.node.lab.pod_prepared(name, v4, v6, prepare)
    }

    /// Shows a pod as the API server has it before a kubelet has told its address.
    fn show_without_address(&self, host: &Host, uid: &str) -> Result<()> {
        let mut pod = Pod::of(host, uid).label("app", "db");
        pod.addresses.clear();
        self.node.show(&pod)
    }

    /// The status now.
    fn status(&self) -> Result<Value> {
        let output = self.node.status(&[])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Datagrams without pause from one pod to another, in both families.
fn flood(from: &Host, to: &Host, port: u16) -> Result<Vec<UdpStream>> {
    let stream = |family| {
        let spec = UdpSpec::new(from, to, family, port)?.interval(Duration::from_micros(500));
        UdpStream::start(&spec)
    };
    Family::BOTH.into_iter().map(stream).collect()
}

/// Not one of them may have arrived.
fn ensure_nothing_arrived(streams: Vec<UdpStream>) -> Result<()> {
    for stream in streams {
        let report = stream.stop()?;
        ensure!(report.arrivals.is_empty(), "denied: {}", report.summary());
        ensure!(!report.sent_ns.is_empty(), "nothing was sent");
    }
    Ok(())
}

/// From now on, none may be lost.
fn ensure_nothing_lost(from: &Host, to: &Host, port: u16) -> Result<()> {
    let streams = flood(from, to, port)?;
    for stream in &streams {
        policy_tests::lab::wait_for("datagrams", BOUND, || stream.sent() > 200)?;
    }
    for stream in streams {
        let report = stream.stop()?;
        ensure!(report.lost().is_empty(), "allowed: {}", report.summary());
    }
    Ok(())
}

/// Whether a first try passes, TCP in both families.
fn reaches(from: &Host, to: &Host) -> Result<bool> {
    let mut answers = Vec::new();
    for family in Family::BOTH {
        let asked = Probe::new(from, to, family, PORT, Proto::Tcp)?;
        answers.push(probe(&asked)?.is_connected());
    }
    ensure!(answers[0] == answers[1], "{answers:?}");
    Ok(answers[0])
}

/// Waits until the node reaches a pod, as a kubelet does; a neighbour that was
/// asked for before its link was up is asked again after a second only.
fn ensure_node_reaches(node: &Node, pod: &Host) -> Result<()> {
    policy_tests::lab::wait_for("the node to reach the pod", BOUND, || {
        reaches(node.lab.node(), pod).unwrap_or(false)
    })?;
    Ok(())
}

fn awaited(status: &Value) -> Vec<&str> {
    let all = status["awaited"].as_array();
    let pods = all.into_iter().flatten().map(|pod| &pod["pod"]);
    pods.filter_map(Value::as_str).collect()
}

fn in_force(status: &Value, pod: &str) -> bool {
    let all = status["endpoints"].as_array();
    let mut pods = all.into_iter().flatten();
    pods.any(|found| found["pod"] == pod && found["programmed"] == json!(true))
}

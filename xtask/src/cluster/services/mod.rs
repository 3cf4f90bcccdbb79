//! Who reaches whom through Services and host ports, by the kube-proxy and the
//! portmap plugin of the cluster, with the agent's policies in force.
//!
//! `tests/cluster/services` holds objects and what is expected of them; the
//! connections are opened and counted by `cluster-services` of `policy-tests`,
//! from inside the pods' network namespaces; `simulate` is asked the same.

mod asker;
mod expected;
mod replaced;

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    agent,
    lab::{CONTROL, Lab, Settings, netns_file, node_address, node_name, write},
    node, process,
};
use crate::{job::announce, optimised, workspace::Workspace};
use asker::Asker;
use expected::{Fault, Row};

/// The program that asks.
const PROGRAM: &str = "cluster-services";
const FOLDER: &str = "tests/cluster/services";
const NAMESPACE: &str = "services";
/// Somebody who is no part of the cluster, in the table.
const OUTSIDE: &str = "outside";
/// Where every pod listens.
const PORTS: [u16; 3] = [8080, 8081, 9090];
/// What a cloud's controller would write: the addresses of load balancers.
const BALANCERS: [(&str, &str); 2] = [("mixed", "203.0.113.20"), ("mixed-local", "203.0.113.21")];
/// How long kube-proxy may take to translate for all Services.
const TRANSLATED: Duration = Duration::from_secs(30);

/// Builds the program that asks, and returns its path.
///
/// # Errors
///
/// When it does not build.
pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    optimised::build(workspace, "policy-tests", PROGRAM, &[])
}

/// Where [`build`] leaves it.
pub(super) fn path(workspace: &Workspace) -> PathBuf {
    optimised::path(workspace, PROGRAM)
}

/// Asks all rows of the table, in a cluster in which the agent is installed, and
/// removes what it made.
///
/// `asker` is what [`build`] built, `agent` the agent's binary, for `simulate`.
///
/// # Errors
///
/// When one connection goes another way than the table says.
pub(super) fn prove(workspace: &Workspace, lab: &Lab, asker: &Path, agent: &Path) -> Result<()> {
    announce("cluster: Services");
    let start = Instant::now();
    let folder = workspace.root.join(FOLDER);
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let rows = expected::parse(&read("expected.txt")?)?;
    for objects in ["objects.yaml", "replaced.yaml"] {
        node::apply(lab, &read(objects)?)?;
    }
    let asked = World::new(lab, asker).and_then(|mut world| world.ask_all(&rows, agent));
    // Also those that would take their time to end.
    kubectl(
        lab,
        &[
            "delete",
            "pods",
            "--all",
            "--grace-period=1",
            "--wait=false",
        ],
    )?;
    kubectl(lab, &["delete", "namespace", NAMESPACE, "--wait"])?;
    println!("    Services: {} s", start.elapsed().as_secs());
    asked
}

/// The cluster's objects, and the program that asks.
struct World<'a> {
    lab: &'a Lab,
    settings: Settings,
    asker: Asker,
    services: Vec<Value>,
}

impl<'a> World<'a> {
    fn new(lab: &'a Lab, asker: &Path) -> Result<Self> {
        let settings = lab.require_up()?;
        for (service, address) in BALANCERS {
            let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
            let status = status.to_string();
            let patch = ["patch", "service", service, "--subresource=status"];
            kubectl(
                lab,
                &[&patch[..], &["--type=merge", "--patch", &status]].concat(),
            )?;
        }
        let ready = [
            "wait",
            "pod",
            "--all",
            "--for=condition=Ready",
            "--timeout=120s",
        ];
        kubectl(lab, &ready)?;
        let mut places = json!({});
        for pod in items(lab, "pods")? {
            let (name, place) = place(&pod)?;
            places[name] = place;
        }
        for number in settings.nodes() {
            places[node_name(number)] = json!({
                "netns": netns_file(&lab.node_ns(number)), "interface": "eth0",
                "address": node_address(number), "translates": true,
            });
        }
        places[OUTSIDE] = json!({
            "netns": netns_file(&lab.control_ns()), "interface": "switch", "address": CONTROL,
        });
        let mut asker = Asker::start(asker)?;
        asker.request(&json!({"join": places}))?;
        agent::settled(lab)?;
        Ok(Self {
            lab,
            settings,
            asker,
            services: items(lab, "services")?,
        })
    }

    /// Asks the table, a sender after the other, and replaces backends between.
    fn ask_all(&mut self, rows: &[Row], agent: &Path) -> Result<()> {
        let (mut simulated, mut replaced) = (false, false);
        for section in rows.chunk_by(|a, b| a.from == b.from) {
            let isolated = !matches!(section[0].from.as_str(), "free-1" | OUTSIDE);
            if isolated && !replaced {
                // By now all are known, to kube-proxy and to the API server.
                agent::settled(self.lab)?;
                self.simulate(rows, agent)?;
                replaced::prove(self)?;
                (simulated, replaced) = (true, true);
            }
            self.section(section, !isolated)?;
        }
        ensure!(simulated, "the table has no isolated sender");
        Ok(())
    }

    /// Asks the rows of one sender; `first`: kube-proxy may not be ready yet.
    fn section(&mut self, rows: &[Row], first: bool) -> Result<()> {
        let until = Instant::now() + TRANSLATED;
        loop {
            let account = self.ask(rows)?;
            let faults = expected::judge(rows, &account)?;
            if faults.is_empty() {
                report(rows, &account);
                return Ok(());
            }
            let patient = first && faults.iter().all(Fault::may_pass_by);
            if !patient || Instant::now() > until {
                bail!("{}", describe(&faults));
            }
        }
    }

    /// Opens the connections of rows, all at once.
    fn ask(&mut self, rows: &[Row]) -> Result<Value> {
        let questions: Vec<Value> = rows
            .iter()
            .map(|row| {
                let (address, port) = self.destination(&row.to)?;
                Ok(json!({
                    "from": row.from, "to": address, "port": port,
                    "connections": row.connections(),
                }))
            })
            .collect::<Result<_>>()?;
        self.asker.request(&json!({"ask": questions}))
    }

    /// What a word of the table stands for.
    fn destination(&self, word: &str) -> Result<(Ipv4Addr, u16)> {
        let (how, name) = word.split_once(':').context("a destination has a colon")?;
        let node = self.settings.nodes().find(|node| node_name(*node) == how);
        if let (Some(node), Ok(host_port)) = (node, name.parse()) {
            return Ok((node_address(node), host_port));
        }
        let mut services = self.services.iter();
        let service = services.find(|service| service["metadata"]["name"] == name);
        let service = service.with_context(|| format!("{word}: no such Service"))?;
        let port = |key: &str| -> Result<u16> {
            let port = service["spec"]["ports"][0][key].as_u64();
            let port = port.with_context(|| format!("{word}: the Service has no {key}"))?;
            Ok(u16::try_from(port)?)
        };
        if let Some(node) = node {
            return Ok((node_address(node), port("nodePort")?));
        }
        let address = match how {
            "vip" => &service["spec"]["clusterIP"],
            "external" => &service["spec"]["externalIPs"][0],
            "lb" => &service["status"]["loadBalancer"]["ingress"][0]["ip"],
            _ => bail!("{word}: {how} is no node, and none of vip, external, lb"),
        };
        let address = address.as_str().and_then(|text| text.parse().ok());
        let address =
            address.with_context(|| format!("{word}: the Service has no such address"))?;
        Ok((address, port("port")?))
    }

    /// Asks `simulate` about every row, on the objects of the API server.
    fn simulate(&self, rows: &[Row], agent: &Path) -> Result<()> {
        let folder = self.lab.state().join(NAMESPACE);
        let (objects, probes) = (folder.join("objects/all.yaml"), folder.join("probes.jsonl"));
        let kinds = "pods,namespaces,nodes,services,endpointslices,networkpolicies";
        let all = ["get", kinds, "--all-namespaces", "-o", "yaml"];
        write(&objects, &kubectl(self.lab, &all)?)?;
        let mut lines = String::new();
        for row in rows {
            let from = match row.from.as_str() {
                OUTSIDE => CONTROL.to_string(),
                pod => format!("{NAMESPACE}/{pod}"),
            };
            let (to, port) = self.destination(&row.to)?;
            for protocol in ["TCP", "UDP"] {
                let probe = json!({"from": from, "to": to, "port": port, "protocol": protocol});
                lines += &format!("{probe}\n");
            }
        }
        write(&probes, &lines)?;
        let mut simulate = Command::new(agent);
        simulate.args(["simulate", "-f"]).arg(&objects);
        simulate.arg("--probes").arg(&probes);
        let output = simulate
            .output()
            .context("cannot start the agent's binary")?;
        ensure!(output.status.success(), "simulate: {output:?}");
        let output = String::from_utf8(output.stdout).context("simulate wrote no text")?;
        let mut differ = Vec::new();
        let mut answers = output.lines();
        for row in rows {
            for protocol in ["TCP", "UDP"] {
                let answer = answers.next().context("an answer for each probe")?;
                let answer: Value = serde_json::from_str(answer).context("simulate")?;
                let backends = answer["backends"].as_array();
                let allowed: Option<BTreeSet<_>> = backends.map(|backends| {
                    let allowed = backends.iter().filter(|b| b["verdict"] == "allow");
                    let pods = allowed.filter_map(|backend| backend["pod"].as_str());
                    pods.filter_map(|pod| Some(pod.split_once('/')?.1.to_owned()))
                        .collect()
                });
                if answer["verdict"] != row.verdict() || allowed.is_some_and(|a| a != row.answer) {
                    let (from, to) = (&row.from, &row.to);
                    differ.push(format!("{from} -> {to} by {protocol}: {answer}"));
                }
            }
        }
        ensure!(
            differ.is_empty(),
            "simulate and the table differ:\n{}",
            differ.join("\n")
        );
        println!("    simulate: the same of all {} rows", rows.len());
        Ok(())
    }
}

/// A pod's name, and where it is.
fn place(pod: &Value) -> Result<(&str, Value)> {
    let name = pod["metadata"]["name"]
        .as_str()
        .context("a pod has a name")?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let address = &pod["status"]["podIP"];
    ensure!(address.is_string(), "{name} has no address");
    let pid = process::in_cgroup(&format!("pod{uid}"))
        .with_context(|| format!("no process of {name} is found"))?;
    let netns = format!("/proc/{pid}/ns/net");
    let place = json!({"netns": netns, "interface": "eth0", "address": address, "serve": PORTS});
    Ok((name, place))
}

/// Objects of a kind in the namespace.
fn items(lab: &Lab, kind: &str) -> Result<Vec<Value>> {
    let text = kubectl(lab, &["get", kind, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).context("kubectl wrote no JSON")?;
    list["items"]
        .as_array()
        .cloned()
        .context("kubectl wrote no list")
}

/// Asks as administrator, in the namespace; returns what was answered.
fn kubectl(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let mut kubectl = lab.kubectl(&["-n", NAMESPACE]);
    let output = kubectl
        .args(arguments)
        .output()
        .context("cannot start kubectl")?;
    ensure!(
        output.status.success(),
        "kubectl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).context("kubectl wrote no text")
}

fn describe(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Says how many connections a section was.
fn report(rows: &[Row], account: &Value) {
    let (mut answered, mut vanished, mut refused) = (0, 0, 0);
    for tally in account["asked"].as_array().into_iter().flatten() {
        for tally in [&tally["TCP"], &tally["UDP"]] {
            let counts = expected::counts(&tally["answered"]).unwrap_or_default();
            answered += counts.values().sum::<u64>();
            vanished += tally["vanished"].as_u64().unwrap_or_default();
            refused += tally["refused"].as_u64().unwrap_or_default();
        }
    }
    println!(
        "    {}: {} rows; {answered} connections answered, {vanished} vanished, {refused} refused",
        rows[0].from,
        rows.len(),
    );
}

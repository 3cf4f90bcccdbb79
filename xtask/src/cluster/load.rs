//! Pods that talk all the time, and what they lose while something is done to
//! the agent.
//!
//! The packets are sent and counted by `cluster-load` of `policy-tests`, from
//! inside the pods' network namespaces; here is who talks to whom, what is done
//! meanwhile, and what may come of it: nothing lost, nothing wrongly delivered.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{lab::Lab, node, process};
use crate::{
    job::{Job, announce, output_of},
    optimised,
    workspace::Workspace,
};

/// The program that sends.
const PROGRAM: &str = "cluster-load";
/// The pods and their policies.
const MANIFESTS: &str = "tests/cluster/load.yaml";
const NAMESPACE: &str = "load";
/// Names in it; the number is that of the pod's node.
const PODS: [&str; 5] = [
    "server-1",
    "server-2",
    "client-1",
    "stranger-1",
    "stranger-2",
];
const ALLOWED: [Pair; 2] = [("client-1", "server-1"), ("client-1", "server-2")];
const DENIED: [Pair; 3] = [
    ("stranger-1", "server-1"),
    ("stranger-1", "server-2"),
    ("stranger-2", "server-1"),
];

/// Sender and receiver.
type Pair = (&'static str, &'static str);

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// What policy allows: there is nobody yet who would deny anything.
    Allowed,
    /// Also what it denies.
    All,
    /// All that has no end on this node.
    WithoutNode(u8),
}

impl Traffic {
    fn allowed(self) -> Vec<Pair> {
        self.of(&ALLOWED)
    }

    fn denied(self) -> Vec<Pair> {
        match self {
            Self::Allowed => Vec::new(),
            Self::All | Self::WithoutNode(_) => self.of(&DENIED),
        }
    }

    fn of(self, pairs: &[Pair]) -> Vec<Pair> {
        let there = |name: &str| match self {
            Self::WithoutNode(node) => !name.ends_with(&format!("-{node}")),
            Self::Allowed | Self::All => true,
        };
        let pairs = pairs.iter().copied();
        pairs
            .filter(|(from, to)| there(from) && there(to))
            .collect()
    }
}

/// Builds the program that sends, and returns its path.
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

/// The pods, and the program that sends between them.
pub(super) struct Pods<'a> {
    lab: &'a Lab,
    program: PathBuf,
    places: Value,
}

impl<'a> Pods<'a> {
    /// Creates the pods, between which `program` will send.
    ///
    /// # Errors
    ///
    /// When a pod does not start.
    pub(super) fn create(workspace: &Workspace, lab: &'a Lab, program: PathBuf) -> Result<Self> {
        announce("cluster: pods for the load");
        let manifests = workspace.root.join(MANIFESTS);
        let text = fs::read_to_string(&manifests)
            .with_context(|| format!("cannot read {}", manifests.display()))?;
        node::apply(lab, &text)?;
        let wait = ["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod"];
        let mut ready = lab.kubectl(&wait);
        ready.args(["--all", "--timeout=60s"]).stdout(Stdio::null());
        Job::new("waiting for pods", ready, Duration::from_secs(90)).run()?;
        let mut pods = Self {
            lab,
            program,
            places: json!({}),
        };
        pods.find()?;
        Ok(pods)
    }

    /// Finds where the pods are, once they run: after a node was booted, in other
    /// namespaces and with other addresses than before.
    ///
    /// # Errors
    ///
    /// When one does not run within a bound.
    pub(super) fn find(&mut self) -> Result<()> {
        for pod in PODS {
            let mut found = None;
            // What the API server says of a node that has just booted is old.
            process::wait_for(&format!("{pod} runs"), 120, || {
                found = place(self.lab, pod).ok();
                found.is_some()
            })?;
            self.places[pod] = found.context("it was found")?;
        }
        Ok(())
    }

    /// Sends while `deed` is done, and fails if anything allowed was lost or
    /// anything denied came through.
    ///
    /// # Errors
    ///
    /// As said, or when the deed fails.
    pub(super) fn during(
        &self,
        what: &str,
        traffic: Traffic,
        deed: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        announce(&format!("cluster: under load: {what}"));
        let (allowed, denied) = (traffic.allowed(), traffic.denied());
        // Of a node that is down no pod can be entered.
        let pairs = allowed.iter().chain(&denied);
        let pods: BTreeMap<_, _> = pairs
            .flat_map(|(from, to)| [*from, *to])
            .map(|pod| (pod, &self.places[pod]))
            .collect();
        let cast = json!({"pods": pods, "allowed": allowed, "denied": denied});
        let sender = Sender::start(&self.program, &cast)?;
        let start = Instant::now();
        let done = deed();
        let took = start.elapsed();
        let account = sender.end()?;
        done.with_context(|| what.to_owned())?;
        println!(
            "    {what}: {} s; {} datagrams, {} messages and {} new connections allowed, \
             {} datagrams and {} connections denied",
            took.as_secs(),
            account["datagrams"],
            account["messages"],
            account["opened"],
            account["denied_datagrams"],
            account["denied_tried"],
        );
        judge(&account).with_context(|| what.to_owned())
    }

    /// Removes the pods.
    ///
    /// # Errors
    ///
    /// When kubectl fails.
    pub(super) fn remove(self) -> Result<()> {
        let mut delete = self
            .lab
            .kubectl(&["delete", "namespace", NAMESPACE, "--wait"]);
        delete.stdout(Stdio::null());
        Job::new("deleting the pods", delete, Duration::from_secs(120)).run()
    }
}

/// Where a pod is: a file of its network namespace, and its address.
fn place(lab: &Lab, pod: &str) -> Result<Value> {
    let ask = ["get", "pod", "-n", NAMESPACE, pod, "-o", "json"];
    let text = output_of(lab.kubectl(&ask)).with_context(|| format!("no pod {pod}"))?;
    let pod_object: Value = serde_json::from_str(&text).context("kubectl wrote no JSON")?;
    let uid = pod_object["metadata"]["uid"].as_str().unwrap_or_default();
    let address = &pod_object["status"]["podIP"];
    let address = address
        .as_str()
        .with_context(|| format!("{pod} has no address"))?;
    let pid = process::in_cgroup(&format!("pod{uid}"))
        .with_context(|| format!("no process of {pod} is found"))?;
    let netns = format!("/proc/{pid}/ns/net");
    let mut ask = Command::new("nsenter");
    ask.arg(format!("--net={netns}"));
    ask.args(["ip", "-brief", "address", "show", "to", address]);
    let own = output_of(ask).is_some_and(|text| !text.trim().is_empty());
    ensure!(own, "{pod} does not have the address {address}");
    Ok(json!({"netns": netns, "address": address}))
}

/// `cluster-load`, while it runs.
struct Sender {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sender {
    /// Starts it, and waits until everything allowed flows.
    fn start(program: &Path, cast: &Value) -> Result<Self> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut input = child.stdin.take().context("standard input is piped")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let mut output = BufReader::new(output);
        writeln!(input, "{cast}").context("cluster-load does not read")?;
        let mut line = String::new();
        output
            .read_line(&mut line)
            .context("cluster-load is silent")?;
        if line.trim() != "flowing" {
            let _ended = child.wait();
            anyhow::bail!("allowed traffic does not flow; see above");
        }
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Ends it, and returns its account.
    fn end(mut self) -> Result<Value> {
        drop(self.input);
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .context("cluster-load gave no account")?;
        let status = self.child.wait().context("cannot wait for cluster-load")?;
        ensure!(status.success(), "cluster-load failed; see above");
        serde_json::from_str(&line).context("cluster-load's account is no JSON")
    }
}

/// Fails for anything lost, broken or wrongly delivered.
fn judge(account: &Value) -> Result<()> {
    let count = |key: &str| -> Result<u64> {
        let number = account[key].as_u64();
        number.with_context(|| format!("the account has no {key}: {account}"))
    };
    ensure!(
        count("without_room")? == 0,
        "the machine was too busy to count: {account}"
    );
    for key in [
        "datagrams_lost",
        "messages_unanswered",
        "segments_lost",
        "connections_broken",
        "not_opened",
        "denied_delivered",
        "denied_opened",
    ] {
        ensure!(count(key)? == 0, "{key}: {account}");
    }
    for key in ["datagrams", "messages", "opened"] {
        ensure!(count(key)? > 0, "nothing was sent: {account}");
    }
    Ok(())
}

/// Kills every process on a node that runs the program of this file name, and
/// waits until it has been started again.
///
/// # Errors
///
/// When there is none, or it does not come back.
pub(super) fn kill(lab: &Lab, number: u8, program: &str) -> Result<()> {
    let netns = lab.node_ns(number);
    let running = || -> Vec<i32> {
        let mut processes = process::inside(&netns);
        processes.retain(|process| process.is_called(program));
        processes.iter().map(|process| process.pid).collect()
    };
    let killed = running();
    ensure!(!killed.is_empty(), "no {program} runs on node {number}");
    for pid in &killed {
        let pid = Pid::from_raw(*pid).context("a process id is not zero")?;
        kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill {program}"))?;
    }
    process::wait_for(
        &format!("{program} runs again on node {number}"),
        60,
        || {
            let now = running();
            !now.is_empty() && now.iter().all(|pid| !killed.contains(pid))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Value {
        json!({
            "datagrams": 9, "datagrams_lost": 0, "messages": 9, "messages_unanswered": 0,
            "segments_lost": 0, "connections_broken": 0, "opened": 9, "not_opened": 0,
            "denied_datagrams": 9, "denied_delivered": 0, "denied_tried": 9,
            "denied_opened": 0, "without_room": 0, "first": null,
        })
    }

    #[test]
    fn one_lost_or_wrongly_delivered_packet_fails_the_account() {
        assert!(judge(&account()).is_ok());
        for key in [
            "datagrams_lost",
            "messages_unanswered",
            "segments_lost",
            "connections_broken",
            "not_opened",
            "denied_delivered",
            "denied_opened",
            "without_room",
        ] {
            let mut bad = account();
            bad[key] = json!(1);
            assert!(judge(&bad).is_err(), "{key}");
        }
    }

    #[test]
    fn nobody_talks_to_a_node_that_is_down() {
        let traffic = Traffic::WithoutNode(2);
        assert_eq!(traffic.allowed(), [("client-1", "server-1")]);
        assert_eq!(traffic.denied(), [("stranger-1", "server-1")]);
        assert_eq!(Traffic::All.allowed(), ALLOWED);
        assert_eq!(Traffic::All.denied(), DENIED);
        assert_eq!(Traffic::Allowed.denied(), []);
    }

    #[test]
    fn an_account_of_nothing_proves_nothing() {
        for key in ["datagrams", "messages", "opened"] {
            let mut empty = account();
            empty[key] = json!(0);
            assert!(judge(&empty).is_err(), "{key}");
        }
        assert!(judge(&json!({})).is_err());
    }
}

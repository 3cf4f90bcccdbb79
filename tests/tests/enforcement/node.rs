//! A node with pods and the agent on it.
//!
//! Starts and ends the agent, asks it when a change is in force, reads what it
//! prints, and makes sure that nothing of it is left in the kernel at the end.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Host, Lab, NodeProcess, PodWanted, Wiring, slowed, wait_for};
use serde_json::{Value, json};

use crate::folder::{Folder, Pod};

/// Bounds what takes milliseconds on an idle machine.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// The name of the lab's node.
pub(crate) const NODE: &str = "node-1";

/// A lab with an agent.
pub(crate) struct Node {
    pub(crate) lab: Lab,
    pub(crate) folder: Folder,
    agent: Option<NodeProcess>,
    binary: PathBuf,
    outputs: Vec<PathBuf>,
    /// Of the maps, see [`Node::rehearse_layout`].
    layout: Option<&'static str>,
    made: u16,
    finished: bool,
}

impl Node {
    /// A node without pods; the agent is not started yet.
    pub(crate) fn new(name: &str, wiring: Wiring) -> Result<Self> {
        let lab = Lab::new(name, wiring)?;
        let folder = Folder::create(&lab.dir().join("manifests"))?;
        fs::create_dir(lab.dir().join("bpffs")).context("create the BPF file system's folder")?;
        let node = Self {
            lab,
            folder,
            agent: None,
            binary: binary()?,
            outputs: Vec::new(),
            layout: None,
            made: 0,
            finished: false,
        };
        node.give_range(&[])?;
        Ok(node)
    }

    /// Writes the Node's manifest, with these in `spec.podCIDRs`.
    pub(crate) fn give_range(&self, prefixes: &[&str]) -> Result<()> {
        let own = self.lab.node().addresses();
        let addresses = own
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}));
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDRs": prefixes},
            "status": {"addresses": addresses.collect::<Vec<Value>>()},
        });
        self.folder.put_all("node.json", &[object])
    }

    /// Addresses that no pod has had yet.
    pub(crate) fn free_addresses(&mut self) -> (Ipv4Addr, Ipv6Addr) {
        self.made += 1;
        // The first ten are for gateways and the like.
        let number = self.made + 10;
        let [high, low] = number.to_be_bytes();
        (
            Ipv4Addr::new(10, 244, high, low),
            Ipv6Addr::new(0xfd10, 0x244, 0, 0, 0, 0, 0, number),
        )
    }

    /// Creates a pod of the lab that no manifest shows yet.
    pub(crate) fn host(&mut self, name: &str) -> Result<Host> {
        let (v4, v6) = self.free_addresses();
        self.lab.pod(name, v4, v6)
    }

    /// Creates a pod, and its manifest.
    pub(crate) fn pod(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<Host> {
        let host = self.host(name)?;
        let mut pod = Pod::of(&host, &format!("uid-{}", self.made));
        for (key, value) in labels {
            pod = pod.label(key, value);
        }
        self.show(&pod)?;
        Ok(host)
    }

    /// Creates pods `(name, app)` several at a time, and their manifests one by one.
    pub(crate) fn pods_at_once(&mut self, wanted: &[(String, &str)]) -> Result<Vec<Host>> {
        let placed = wanted.iter().map(|(name, _)| {
            let (v4, v6) = self.free_addresses();
            let name = name.clone();
            PodWanted { name, v4, v6 }
        });
        let placed: Vec<_> = placed.collect();
        let hosts = self.lab.pods_at_once(&placed)?;
        for (host, (name, app)) in hosts.iter().zip(wanted) {
            self.show(&Pod::of(host, &format!("uid-{name}")).label("app", app))?;
        }
        Ok(hosts)
    }

    /// Writes a pod's manifest.
    pub(crate) fn show(&self, pod: &Pod) -> Result<()> {
        self.folder.put_all(&pod.file(), &[pod.manifest(NODE)])
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.lab.dir().join("run")
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.lab.dir().join("bpffs")
    }

    /// What `run` is told.
    pub(crate) fn run_command(&self, binary: &Path) -> Command {
        let mut command = self.command(binary);
        command
            .args(["run", "--node-name", NODE, "--manifests"])
            .arg(self.folder.path())
            .arg("--netns-dir")
            .arg(self.lab.netns_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--bpffs")
            .arg(self.bpffs());
        command
    }

    /// Agents from now on use this of the layouts that no release has yet
    /// (`datapath::layout`), as an agent of such a release would.
    pub(crate) fn rehearse_layout(&mut self, layout: &'static str) {
        self.layout = Some(layout);
    }

    fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        if let Some(layout) = self.layout {
            command.env("POLICY_AGENT_REHEARSE_LAYOUT", layout);
        }
        command
    }

    /// Starts the agent and waits until everything is in force.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_command(self.run_command(&self.binary))?;
        self.settle()?;
        Ok(())
    }

    /// Ends the agent as the system does; what is in force stays.
    pub(crate) fn stop(&self) -> Result<()> {
        let status = self.agent().terminate(BOUND)?;
        ensure!(status.success(), "{}", self.agent().describe());
        Ok(())
    }

    /// Starts an agent by a command of the test's own.
    pub(crate) fn start_command(&mut self, command: Command) -> Result<()> {
        let agent = self.lab.spawn_in_node(command)?;
        self.outputs.push(agent.stdout_path().to_owned());
        self.agent = Some(agent);
        Ok(())
    }

    /// The agent that was started last.
    pub(crate) fn agent(&self) -> &NodeProcess {
        self.agent.as_ref().expect("an agent was started")
    }

    /// The agent's binary.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Runs a subcommand to its end, in the node's network namespace.
    pub(crate) fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command(&self.binary);
        command.args(args);
        self.lab.node().netns().output(&mut command)
    }

    /// Waits until what was in the folder before is in force; the status then.
    pub(crate) fn settle(&self) -> Result<Value> {
        self.settle_within(BOUND)
    }

    /// As [`Self::settle`], where there is more to do.
    pub(crate) fn settle_within(&self, bound: Duration) -> Result<Value> {
        let bound = format!("{}s", slowed(bound).as_secs());
        let output = self.status(&["--wait", "--timeout", &bound])?;
        ensure!(
            output.status.success(),
            "status --wait: {}\n{}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.agent().describe()
        );
        serde_json::from_slice(&output.stdout).context("the status is JSON")
    }

    /// `status` with more arguments.
    pub(crate) fn status(&self, args: &[&str]) -> Result<Output> {
        Command::new(&self.binary)
            .args(["status", "-o", "json", "--run-dir"])
            .arg(self.run_dir())
            .args(args)
            .output()
            .context("run status")
    }

    /// Puts a file into the folder and waits until it is in force.
    pub(crate) fn apply(&self, file: &str, objects: &[Value]) -> Result<Value> {
        self.folder.put_all(file, objects)?;
        self.settle()
    }

    /// Removes a file from the folder and waits until that is in force.
    pub(crate) fn withdraw(&self, file: &str) -> Result<Value> {
        self.folder.remove(file)?;
        self.settle()
    }

    /// What all agents so far have printed.
    pub(crate) fn lines(&self) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        for output in &self.outputs {
            let text = fs::read_to_string(output)?;
            // The last line of an agent that was killed may be half a line.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for line in whole.lines() {
                lines.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
            }
        }
        Ok(lines)
    }

    /// The first line that is one of these. Agents write what they print a moment
    /// after they have answered about the same.
    pub(crate) fn line(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut found = None;
        let waited = wait_for(what, BOUND, || {
            let mut lines = self.lines().unwrap_or_default().into_iter();
            found = lines.find(&is);
            found.is_some()
        });
        waited.with_context(|| format!("{:?}", self.lines()))?;
        found.with_context(|| format!("a line about {what}"))
    }

    /// When a pod's word was first stored after `since_ns`, nanoseconds of
    /// CLOCK_MONOTONIC.
    pub(crate) fn stored_after(&self, pod: &str, since_ns: u64) -> Result<u64> {
        let at_ns = |line: &Value| line["stored_monotonic_ns"].as_u64();
        let line = self.line(&format!("a new policy of {pod}"), |line| {
            line["type"] == "programmed"
                && line["pod"] == pod
                && at_ns(line).is_some_and(|at_ns| at_ns > since_ns)
        })?;
        at_ns(&line).context("it says when")
    }

    /// Ends the agent and removes its traces; proves that nothing is left.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.finished = true;
        if let Some(agent) = self.agent.take() {
            let status = agent.terminate(BOUND)?;
            ensure!(status.success(), "{}", agent.describe());
        }
        let ids = self.kernel_objects()?;
        ensure!(!ids.is_empty(), "an agent leaves what is in force");
        self.cleanup()?;
        let root = self.bpffs().join("policy-agent");
        ensure!(!root.exists(), "{} is left", root.display());
        wait_for("the kernel to free what was removed", BOUND, || {
            exists(&ids).is_ok_and(|left| left.is_empty())
        })
        .with_context(|| format!("left: {:?}", exists(&ids)))?;
        Ok(())
    }

    /// `cleanup`, which must say that it succeeded.
    fn cleanup(&self) -> Result<()> {
        let mut cleanup = Command::new(&self.binary);
        cleanup
            .args(["cleanup", "--run-dir"])
            .arg(self.run_dir())
            .arg("--bpffs")
            .arg(self.bpffs());
        // Where the interfaces are: filters, unlike links, are found by interface.
        let output = self.lab.node().netns().output(&mut cleanup)?;
        ensure!(output.status.success(), "cleanup: {output:?}");
        Ok(())
    }

    /// Maps, programs and links behind the pins, as `(kind, id)`.
    pub(crate) fn kernel_objects(&self) -> Result<BTreeSet<(&'static str, u64)>> {
        let root = self.bpffs().join("policy-agent");
        let mut ids = BTreeSet::new();
        for pin in files_below(&root)? {
            let (kind, shown) = shown(&pin)?;
            ids.insert((kind, id_of(&shown)?));
            if let Some(program) = shown["prog_id"].as_u64() {
                ids.insert(("prog", program));
            }
        }
        Ok(ids)
    }

    /// Takes off their interfaces the programs whose pins are chosen, and leaves
    /// the pins, as somebody with bpftool or tc would.
    pub(crate) fn take_off(&self, chosen: impl Fn(&str) -> bool) -> Result<()> {
        let mut taken = 0;
        for pin in files_below(&self.bpffs().join("policy-agent"))? {
            let name = pin.file_name().unwrap_or_default().to_string_lossy();
            let is_on_interface = pin.parent().is_some_and(|folder| folder.ends_with("links"));
            let Some((ifindex, hook)) = name
                .split_once('-')
                .filter(|_| is_on_interface && chosen(&name))
            else {
                continue;
            };
            taken += 1;
            // The repair of damage done before counts from its first program on, and
            // may not have come to this one yet.
            let mut refused = String::new();
            wait_for("a program to be there", BOUND, || {
                match self.take_one_off(&pin, ifindex, hook) {
                    Ok(()) => true,
                    Err(error) => {
                        refused = format!("{error:#}");
                        false
                    }
                }
            })
            .with_context(|| format!("{}: {refused}", pin.display()))?;
        }
        ensure!(taken > 0, "there is nothing to take off");
        Ok(())
    }

    /// Takes one program off its interface.
    fn take_one_off(&self, pin: &Path, ifindex: &str, hook: &str) -> Result<()> {
        if let ("link", link) = shown(pin)? {
            bpftool(&["link", "detach", "id", &id_of(&link)?.to_string()])?;
            return Ok(());
        }
        // A program stands for a filter, on kernels without TCX.
        let way = if matches!(hook, "from" | "in") {
            "ingress"
        } else {
            "egress"
        };
        let interface = self.interface(ifindex.parse()?)?;
        let mut tc = Command::new("tc");
        tc.args(["filter", "del", "dev", &interface, way, "pref", "1"]);
        let output = self.lab.node().netns().output(&mut tc)?;
        ensure!(output.status.success(), "tc: {output:?}");
        Ok(())
    }

    /// The name of one of the node's interfaces.
    fn interface(&self, ifindex: u64) -> Result<String> {
        let mut ip = Command::new("ip");
        ip.args(["-j", "link", "show"]);
        let output = self.lab.node().netns().output(&mut ip)?;
        let links: Value = serde_json::from_slice(&output.stdout)?;
        let mut links = links.as_array().into_iter().flatten();
        links
            .find(|link| link["ifindex"] == ifindex)
            .and_then(|link| link["ifname"].as_str().map(str::to_owned))
            .with_context(|| format!("no interface {ifindex}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // A failed test leaves no programs behind either.
        if let Some(agent) = &self.agent {
            let _ = agent.kill();
        }
        if let Err(error) = self.cleanup() {
            eprintln!("while removing the agent's traces: {error:#}");
        }
    }
}

/// What a pin is, `map`, `prog` or `link`, and what bpftool shows of it. Where a
/// link would be there is a program on kernels without TCX.
fn shown(pin: &Path) -> Result<(&'static str, Value)> {
    let folder = pin.parent().and_then(Path::file_name);
    let show = |kind| {
        let shown = bpftool(&[kind, "show", "pinned", &pin.display().to_string()])?;
        Ok((kind, shown))
    };
    match folder.and_then(|name| name.to_str()) {
        Some("maps") => show("map"),
        Some("programs") => show("prog"),
        _ => show("link").or_else(|_| show("prog")),
    }
}

fn id_of(shown: &Value) -> Result<u64> {
    shown["id"]
        .as_u64()
        .with_context(|| format!("an id in {shown}"))
}

/// Which of the kernel's objects exist still.
fn exists(ids: &BTreeSet<(&'static str, u64)>) -> Result<BTreeSet<(&'static str, u64)>> {
    let mut left = BTreeSet::new();
    for kind in ["map", "prog", "link"] {
        let all = bpftool(&[kind, "show"])?;
        for object in all.as_array().into_iter().flatten() {
            let found = (kind, id_of(object)?);
            if ids.contains(&found) {
                left.insert(found);
            }
        }
    }
    Ok(left)
}

/// Runs bpftool; its answer as JSON.
pub(crate) fn bpftool(args: &[&str]) -> Result<Value> {
    let output = Command::new("bpftool")
        .arg("-j")
        .args(args)
        .output()
        .context("run bpftool")?;
    ensure!(output.status.success(), "bpftool {args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stdout);
        format!("bpftool {args:?} says JSON: {said}")
    })
}

/// All files below a folder, sorted.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("POLICY_AGENT").map_or_else(
        || {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            workspace.join("target/release/policy-agent")
        },
        PathBuf::from,
    );
    path.canonicalize().with_context(|| {
        format!(
            "{}: build it with `cargo xtask build`, or name it in POLICY_AGENT",
            path.display()
        )
    })
}

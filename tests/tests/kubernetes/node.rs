//! A node of the cluster: the lab with its pods, the control plane, the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Host, Lab, NodeProcess, Wiring};
use serde_json::{Value, json};

use crate::control_plane::{ADMIN, AGENT, ControlPlane};

/// Bounds what takes milliseconds on an idle machine.
pub(crate) const BOUND: Duration = Duration::from_secs(30);
/// The name of the lab's node.
pub(crate) const NODE: &str = "node-1";

/// The shipped role, and what belongs to it.
pub(crate) const SHIPPED: &str = "deploy/base/rbac.yaml";

/// A node with an agent that may do what the shipped role says.
pub(crate) struct Node {
    pub(crate) lab: Lab,
    pub(crate) plane: ControlPlane,
    agent: Option<NodeProcess>,
    binary: PathBuf,
}

impl Node {
    /// A node without pods in a cluster without objects; no agent runs yet.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let binary = binary()?;
        let mut lab = Lab::new(name, Wiring::Routed)?;
        fs::create_dir(lab.dir().join("bpffs")).context("create the BPF file system's folder")?;
        let plane = ControlPlane::start(&mut lab)?;
        let addresses = lab.node().addresses();
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        plane.create_node(NODE, &addresses)?;
        let node = Self {
            lab,
            plane,
            agent: None,
            binary,
        };
        node.grant(&shipped_role()?)?;
        Ok(node)
    }

    /// Lets the agent do what a ClusterRole says, a manifest.
    fn grant(&self, role: &str) -> Result<()> {
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        self.plane.create(roles, &json!(role))?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": AGENT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                        "name": "policy-agent"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User",
                          "name": AGENT}],
        });
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        self.plane.create(bindings, &binding)?;
        Ok(())
    }

    /// A pod of the lab that the cluster does not know yet, with addresses that end
    /// in `number`.
    pub(crate) fn host(&mut self, name: &str, number: u8, v4: bool, v6: bool) -> Result<Host> {
        let v4 = v4.then_some(Ipv4Addr::new(10, 244, 0, number));
        let v6 = v6.then_some(Ipv6Addr::new(0xfd10, 0x244, 0, 0, 0, 0, 0, number.into()));
        self.lab.pod(name, v4, v6)
    }

    fn run_dir(&self) -> PathBuf {
        self.lab.dir().join("run")
    }

    fn bpffs(&self) -> PathBuf {
        self.lab.dir().join("bpffs")
    }

    /// Starts the agent and does not wait for it.
    pub(crate) fn launch(&mut self) -> Result<()> {
        self.launch_as(NODE)
    }

    /// The same, for a node of another name.
    pub(crate) fn launch_as(&mut self, name: &str) -> Result<()> {
        let config = self.plane.kubeconfig(AGENT);
        self.launch_all(name, &config)
    }

    /// The same, with another way to the API server.
    pub(crate) fn launch_by(&mut self, kubeconfig: &Path) -> Result<()> {
        self.launch_all(NODE, kubeconfig)
    }

    fn launch_all(&mut self, name: &str, kubeconfig: &Path) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--node-name", name, "--kubeconfig"])
            .arg(kubeconfig)
            .arg("--netns-dir")
            .arg(self.lab.netns_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--bpffs")
            .arg(self.bpffs());
        self.agent = Some(self.lab.spawn_in_node(command)?);
        Ok(())
    }

    /// Starts the agent and waits until everything is in force.
    pub(crate) fn start(&mut self) -> Result<Value> {
        self.launch()?;
        self.settle()
    }

    pub(crate) fn agent(&self) -> &NodeProcess {
        self.agent.as_ref().expect("an agent was started")
    }

    /// Waits until all that the API server has is in force; the status then.
    pub(crate) fn settle(&self) -> Result<Value> {
        let output = self.ask("status", &["--wait", "--timeout", "30s"])?;
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

    /// Asks the agent.
    pub(crate) fn ask(&self, command: &str, args: &[&str]) -> Result<Output> {
        Command::new(&self.binary)
            .args([command, "-o", "json", "--run-dir"])
            .arg(self.run_dir())
            .args(args)
            .output()
            .with_context(|| format!("run {command}"))
    }

    /// Runs a command on the node, as a user who may do everything.
    pub(crate) fn as_admin(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .arg("--kubeconfig")
            .arg(self.plane.kubeconfig(ADMIN));
        self.lab.node().netns().output(&mut command)
    }

    /// The emergency switch.
    pub(crate) fn enforce(&self, on: bool) -> Result<()> {
        let output = Command::new(&self.binary)
            .args(["enforce", if on { "on" } else { "off" }, "--bpffs"])
            .arg(self.bpffs())
            .output()?;
        ensure!(output.status.success(), "enforce: {output:?}");
        Ok(())
    }

    fn asked(&self, command: &str) -> Result<Value> {
        let output = self.ask(command, &[])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{command}: {output:?}\n{}", self.agent().describe()))
    }

    /// The status now.
    pub(crate) fn status(&self) -> Result<Value> {
        self.asked("status")
    }

    /// Local pods, with the policies that isolate them for ingress; `None`: none do.
    pub(crate) fn isolation(&self) -> Result<BTreeMap<String, Option<Vec<String>>>> {
        let endpoints = self.asked("endpoints")?;
        let endpoints = endpoints.as_array().context("a list")?;
        let isolation = endpoints.iter().map(|endpoint| {
            let policies = endpoint["ingress"]["policies"].as_array();
            let policies = policies.map(|names| names.iter().map(text).collect());
            (text(&endpoint["pod"]), policies)
        });
        Ok(isolation.collect())
    }

    /// Who may reach a pod, by the policy in the kernel: addresses (pods by name).
    pub(crate) fn allowed(&self, pod: &str) -> Result<BTreeSet<String>> {
        let policies = self.asked("policies")?;
        let identities = self.asked("identities")?;
        let of_pod = json!(format!("{pod} ingress"));
        let policies = policies.as_array().context("a list")?;
        let policy = policies.iter().find(|policy| {
            let pods = policy["pods"].as_array();
            pods.is_some_and(|pods| pods.contains(&of_pod))
        });
        let policy = policy.with_context(|| format!("{pod} is isolated: {policies:?}"))?;
        let rows = policy["rows"].as_array().context("rows")?;
        let mut allowed = BTreeSet::new();
        for row in rows {
            let says = row["says"].as_array().context("what it says")?;
            if !says.iter().any(|line| text(line).starts_with("allow")) {
                continue;
            }
            let identities = identities.as_array().context("a list")?;
            let identity = identities.iter().find(|i| i["identity"] == row["identity"]);
            let members = identity.and_then(|identity| identity["members"].as_array());
            allowed.extend(members.into_iter().flatten().map(text));
        }
        Ok(allowed)
    }

    /// The policy words in the kernel: generation and policies of each pod.
    pub(crate) fn words(&self) -> Result<Vec<Value>> {
        let maps = self.bpffs().join("policy-agent");
        let mut pins = Vec::new();
        for version in fs::read_dir(&maps)? {
            pins.push(version?.path().join("maps/pa_endpoints"));
        }
        let pin = pins.pop().context("a version's folder")?;
        let output = Command::new("bpftool")
            .args(["-j", "map", "dump", "pinned"])
            .arg(pin)
            .output()
            .context("run bpftool")?;
        let dump: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("bpftool: {output:?}"))?;
        let elements = dump.as_array().context("a list")?;
        let used = elements
            .iter()
            .map(|element| &element["formatted"]["value"]);
        Ok(used
            .filter(|value| value["word"] != json!(0))
            .cloned()
            .collect())
    }

    /// Ends the agent, if one runs; what it put in force stays.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            let status = agent.terminate(BOUND)?;
            ensure!(status.success(), "{}", agent.describe());
        }
        Ok(())
    }

    /// Ends the agent and removes its traces.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.stop()?;
        self.cleanup()
    }

    /// Removes the traces of an agent that has ended.
    pub(crate) fn cleanup(&self) -> Result<()> {
        let output = Command::new(&self.binary)
            .args(["cleanup", "--run-dir"])
            .arg(self.run_dir())
            .arg("--bpffs")
            .arg(self.bpffs())
            .output()?;
        ensure!(output.status.success(), "cleanup: {output:?}");
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // After `finish` there is nothing left to do; a failed test leaves no programs
        // behind either.
        if let Some(agent) = self.agent.take() {
            let _ = agent.kill();
            if let Err(error) = self.cleanup() {
                eprintln!("while removing the agent's traces: {error:#}");
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The ClusterRole that is shipped, as its manifest says it.
pub(crate) fn shipped_role() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(SHIPPED);
    let manifest = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let role = manifest
        .split("\n---\n")
        .find(|document| document.contains("kind: ClusterRole\n"));
    Ok(role.context("a ClusterRole")?.to_owned())
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

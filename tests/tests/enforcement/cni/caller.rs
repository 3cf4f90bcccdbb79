//! A container runtime, as far as a CNI plugin sees one: environment, standard
//! input, and what comes back.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Host, wait_for};
use serde_json::{Value, json};

use crate::node::{BOUND, Node};

/// Name of the network.
pub(crate) const NETWORK: &str = "lab";

/// What the plugin answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Reply {
    /// The error code on standard output.
    pub(crate) fn code(&self) -> Option<u64> {
        let error: Value = serde_json::from_str(&self.stdout).ok()?;
        error["code"].as_u64().filter(|_| !self.success)
    }

    /// Fails unless it succeeded with exactly this on standard output.
    pub(crate) fn ensure_says(&self, stdout: &str) -> Result<()> {
        ensure!(self.success && self.stdout == stdout, "{self:?}");
        Ok(())
    }

    /// Fails unless it is this error.
    pub(crate) fn ensure_fails(&self, code: u64) -> Result<()> {
        ensure!(self.code() == Some(code), "code {code}: {self:?}");
        Ok(())
    }
}

/// A pod's sandbox, as the runtime knows it.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) container: String,
    /// `namespace/name`.
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) netns: PathBuf,
    /// What the plugins before ours answered, with a spelling of their own.
    pub(crate) result: String,
}

impl Sandbox {
    pub(crate) fn of(host: &Host, uid: &str) -> Self {
        let addresses: Vec<String> = host
            .addresses()
            .iter()
            .map(|ip| {
                let length = if ip.is_ipv4() { 32 } else { 128 };
                format!(r#"{{"interface":1, "address":"{ip}/{length}"}}"#)
            })
            .collect();
        let netns = host.netns().path().to_owned();
        let result = format!(
            r#"{{ "cniVersion":"1.0.0","zeta":12345678901234567890,"interfaces":[{{"name":"{}"}},
               {{"name":"eth0","sandbox":"{}"}}],"ips":[{}],"dns":{{}}}}"#,
            host.node_interface().expect("a pod has a veth"),
            netns.display(),
            addresses.join(",")
        );
        Self {
            container: format!("c0ffee-{}", host.name().replace('/', "-")),
            pod: host.name().to_owned(),
            uid: uid.to_owned(),
            netns,
            result,
        }
    }

    /// The record that the CNI library leaves of it.
    pub(crate) fn record(&self) -> Result<(String, String)> {
        let (namespace, name) = self.pod.split_once('/').context("namespace/name")?;
        let result: Value = serde_json::from_str(&self.result)?;
        let text = json!({
            "kind": "cniCacheV1",
            "containerId": self.container,
            "config": "e30=",
            "ifName": "eth0",
            "networkName": NETWORK,
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", namespace],
                ["K8S_POD_NAME", name], ["K8S_POD_UID", self.uid]],
            "result": result,
        });
        let file = format!("{NETWORK}-{}-eth0", self.container);
        Ok((file, text.to_string()))
    }
}

/// Calls the plugin of a node.
pub(crate) struct Caller {
    binary: PathBuf,
    /// The node, in whose namespace runtimes run.
    runtime: Host,
    run_dir: PathBuf,
    bpffs: PathBuf,
    /// How long ADD may wait.
    wait: Duration,
}

impl Caller {
    pub(crate) fn new(node: &Node) -> Self {
        Self::waiting(node, BOUND)
    }

    /// With another bound for ADD.
    pub(crate) fn waiting(node: &Node, wait: Duration) -> Self {
        Self {
            binary: node.binary().to_owned(),
            runtime: node.lab.node().clone(),
            run_dir: node.run_dir(),
            bpffs: node.bpffs().to_owned(),
            wait,
        }
    }

    /// The stage before the network's plugins.
    pub(crate) fn hold(&self, command: &str, sandbox: &Sandbox) -> Result<Reply> {
        let input = self.input(r#","stage":"hold""#);
        finish(self.call(&environment(command, sandbox)?, &input)?)
    }

    pub(crate) fn add(&self, sandbox: &Sandbox) -> Result<Reply> {
        finish(self.begin("ADD", sandbox)?)
    }

    pub(crate) fn del(&self, sandbox: &Sandbox) -> Result<Reply> {
        finish(self.begin("DEL", sandbox)?)
    }

    pub(crate) fn check(&self, sandbox: &Sandbox) -> Result<Reply> {
        finish(self.begin("CHECK", sandbox)?)
    }

    /// Only these sandboxes exist.
    pub(crate) fn gc(&self, valid: &[&Sandbox]) -> Result<Reply> {
        let valid: Vec<Value> = valid
            .iter()
            .map(|sandbox| json!({"containerID": sandbox.container, "ifname": "eth0"}))
            .collect();
        let more = format!(r#","cni.dev/valid-attachments":{}"#, json!(valid));
        finish(self.call(&[("CNI_COMMAND", "GC")], &self.input(&more))?)
    }

    pub(crate) fn status(&self) -> Result<Reply> {
        finish(self.call(&[("CNI_COMMAND", "STATUS")], &self.input(""))?)
    }

    /// Starts a call about a sandbox.
    pub(crate) fn begin(&self, command: &str, sandbox: &Sandbox) -> Result<Child> {
        let previous = format!(r#","prevResult":{}"#, sandbox.result);
        self.call(&environment(command, sandbox)?, &self.input(&previous))
    }

    fn input(&self, more: &str) -> String {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"{NETWORK}","type":"policy-cni","runDir":"{}",
               "bpffs":"{}","waitMilliseconds":{}{more}}}"#,
            self.run_dir.display(),
            self.bpffs.display(),
            self.wait.as_millis()
        )
    }

    fn call<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        &self,
        environment: &[(K, V)],
        input: &str,
    ) -> Result<Child> {
        let mut command = Command::new(&self.binary);
        command
            .arg0("/opt/cni/bin/policy-cni")
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.runtime.netns().spawn(&mut command)?;
        let mut stdin = child.stdin.take().context("piped")?;
        stdin.write_all(input.as_bytes())?;
        Ok(child)
    }
}

/// What a runtime says of a sandbox by environment.
fn environment(command: &str, sandbox: &Sandbox) -> Result<[(&'static str, String); 6]> {
    let (namespace, name) = sandbox.pod.split_once('/').context("namespace/name")?;
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        sandbox.container, sandbox.uid
    );
    Ok([
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", sandbox.container.clone()),
        ("CNI_NETNS", sandbox.netns.display().to_string()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_ARGS", args),
        ("CNI_PATH", "/opt/cni/bin".to_owned()),
    ])
}

/// What a call that was begun comes to.
pub(crate) fn finish(mut child: Child) -> Result<Reply> {
    let ended = wait_for("the plugin to end", 2 * BOUND, || {
        !matches!(child.try_wait(), Ok(None))
    });
    if ended.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    ended?;
    Ok(Reply {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

//! A node, seen from outside: how it is started, and how to get into it.
//!
//! A node is one process tree in namespaces of its own; its first process is
//! this program again (`boot`). Killing that is pulling the plug: pods, mounts
//! and pins go, the disk stays, and the next `up` boots it again.

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    cgroup,
    control::background,
    lab::{Lab, netns_file, node_name, pod_range},
    process::{self, wait_for},
};

/// Registers and boots a node, unless it runs.
///
/// # Errors
///
/// When it cannot be registered or started.
pub(super) fn start(lab: &Lab, node: u8) -> Result<()> {
    let netns = lab.node_ns(node);
    if process::init_of(&netns).is_some() {
        return Ok(());
    }
    register(lab, node)?;
    let mut command = Command::new("setsid");
    command
        .arg(lab.own_program()?)
        .args(["cluster", "enter-node", &node.to_string()]);
    let name = node_name(node);
    background(command, lab, &name)?;
    wait_for(&format!("{name} starts"), 20, || {
        process::init_of(&netns).is_some()
    })
    .with_context(|| format!("see {}", lab.log(&name).display()))
}

/// The API object, with the range of its pods: nobody here allocates ranges.
fn register(lab: &Lab, node: u8) -> Result<()> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node_name(node)},
        "spec": {"podCIDR": pod_range(node), "podCIDRs": [pod_range(node)]},
    });
    apply(lab, &object.to_string())
}

/// `kubectl apply` of what stands in `text`.
///
/// # Errors
///
/// When kubectl fails; its message is on standard error.
pub(super) fn apply(lab: &Lab, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = lab
        .kubectl(&["apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start kubectl")?;
    let mut input = child.stdin.take().context("standard input is piped")?;
    input
        .write_all(text.as_bytes())
        .context("kubectl does not read")?;
    drop(input);
    let status = child.wait().context("cannot wait for kubectl")?;
    anyhow::ensure!(status.success(), "kubectl apply failed; see above");
    Ok(())
}

/// `enter-node`: moves this process into the node's cgroups, then becomes the
/// parent of its first process, in new namespaces.
///
/// # Errors
///
/// When it cannot; it does not return otherwise.
pub(super) fn enter(lab: &Lab, node: u8) -> Result<()> {
    cgroup::enter(lab, node)?;
    let error = Command::new("nsenter")
        .arg(format!(
            "--net={}",
            netns_file(&lab.node_ns(node)).display()
        ))
        .args(["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup"])
        .args(["--fork", "--kill-child"])
        .arg(lab.own_program()?)
        .args(["cluster", "boot-node", &node.to_string()])
        .exec();
    Err(error).context("cannot start nsenter")
}

/// A command that runs in every namespace of a node.
///
/// # Errors
///
/// When the node does not run.
pub(super) fn inside(lab: &Lab, node: u8, program: impl AsRef<OsStr>) -> Result<Command> {
    let init = process::init_of(&lab.node_ns(node))
        .with_context(|| format!("node {node} does not run; boot it: cargo xtask cluster up"))?;
    let mut command = Command::new("nsenter");
    command
        .args(["--all", "--target", &init.to_string(), "--"])
        .arg(program)
        .env("PATH", lab.path());
    Ok(command)
}

//! The lab's wires: a switch, which is the control plane's network namespace,
//! and a namespace for each node with one port on it.
//!
//! The machine's own network has no part in it: no link, route or rule leads
//! from there into the lab. What is there already is left as it is.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::lab::{CONTROL, Cni, Lab, Settings, netns_file, node_address, pod_range};
use crate::job::Job;

const LIMIT: Duration = Duration::from_secs(20);
/// Longest prefix of every node's address and the control plane's.
const MASK: u8 = 24;

/// Makes what is missing for all nodes.
///
/// # Errors
///
/// When a namespace, link or route cannot be made.
pub(super) fn wire(lab: &Lab, settings: Settings) -> Result<()> {
    let switch = lab.control_ns();
    if !netns_file(&switch).exists() {
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link set lo up"))?;
        ip(&format!("-n {switch} link add switch type bridge"))?;
        ip(&format!("-n {switch} addr add {CONTROL}/{MASK} dev switch"))?;
        ip(&format!("-n {switch} link set switch up"))?;
        // A switch does not filter: with these, frames between nodes would pass
        // through the connection table of this namespace.
        sysctl(&switch, "net/bridge/bridge-nf-call-iptables", "0")?;
        sysctl(&switch, "net/bridge/bridge-nf-call-ip6tables", "0")?;
    }
    for node in settings.nodes() {
        let name = lab.node_ns(node);
        if netns_file(&name).exists() {
            continue;
        }
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        let port = format!("port-{node}");
        ip(&format!(
            "-n {name} link add eth0 type veth peer name {port} netns {switch}"
        ))?;
        ip(&format!(
            "-n {name} addr add {}/{MASK} dev eth0",
            node_address(node)
        ))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {switch} link set {port} master switch up"))?;
        ip(&format!("-n {name} route add default via {CONTROL}"))?;
        sysctl(&name, "net/ipv4/ip_forward", "1")?;
        // The switch stands for the world outside: it reaches pods directly.
        let own = pod_range(node);
        ip(&format!(
            "-n {switch} route replace {own} via {}",
            node_address(node)
        ))?;
        if settings.cni == Cni::Ptp {
            // An address that no pod has would go back and forth between node
            // and switch; pods' own routes are longer.
            ip(&format!("-n {name} route replace blackhole {own}"))?;
        }
    }
    for node in settings.nodes() {
        for other in settings.nodes().filter(|other| *other != node) {
            ip(&format!(
                "-n {} route replace {} via {}",
                lab.node_ns(node),
                pod_range(other),
                node_address(other)
            ))?;
        }
    }
    Ok(())
}

/// The names of all network namespaces of this lab.
pub(super) fn namespaces(lab: &Lab) -> Vec<String> {
    let prefix = lab.prefix();
    fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// Removes a node's network, as a loss of power does: links, addresses, routes,
/// rules and connections. [`wire`] makes it anew.
///
/// # Errors
///
/// When that fails.
pub(super) fn unplug(lab: &Lab, node: u8) -> Result<()> {
    // By name: what goes with its namespace goes some time later.
    ip(&format!("-n {} link del port-{node}", lab.control_ns()))?;
    remove(&lab.node_ns(node))
}

/// Removes a network namespace, and with it its links and routes.
///
/// # Errors
///
/// When that fails.
pub(super) fn remove(netns: &str) -> Result<()> {
    ip(&format!("netns del {netns}"))
}

/// Runs ip(8); no argument of ours holds a space.
fn ip(arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    Job::new("ip", command, LIMIT)
        .run()
        .with_context(|| format!("ip {arguments}"))
}

/// Sets a network setting in a namespace.
fn sysctl(netns: &str, key: &str, value: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", netns_file(netns).display()))
        .args(["sysctl", "-qw"])
        .arg(format!("{}={value}", key.replace('/', ".")));
    Job::new("sysctl", command, LIMIT)
        .run()
        .with_context(|| format!("{key} in {netns}"))
}

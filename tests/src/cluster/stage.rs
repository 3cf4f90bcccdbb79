//! The pods and policies between which is measured: created once, found again by
//! every measurement.
//!
//! | pod | node | role |
//! |---|---|---|
//! | client | 1 | sends what is allowed |
//! | target | 2 | receives it; nothing isolates it but what a measurement creates |
//! | server | 2 | isolated by 500 policies, of which one lets the client in |
//! | stranger | 2 | sends what is denied |
//! | churn-N | both | change their labels |

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::api::Api;
use super::{Node, Setting};
use crate::lab::{Host, wait_for};

/// The namespace of all that is created here.
pub(super) const NAMESPACE: &str = "bench";
/// Its pods.
pub(super) const PODS: &str = "/api/v1/namespaces/bench/pods";
/// Its policies.
pub(super) const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/bench/networkpolicies";
/// Policies that isolate the server.
const SERVER_POLICIES: u16 = 500;
/// Pods whose labels change.
pub(super) const CHURNING: usize = 20;
/// A container that does nothing; every node of the cluster has it.
const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// How long pods may take to start, or a namespace to go.
const BOUND: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// What all measurements use.
pub(super) struct Stage {
    pub(super) api: Api,
    pub(super) setting: Setting,
    pub(super) client: Host,
    pub(super) target: Host,
    pub(super) server: Host,
    pub(super) stranger: Host,
}

impl Stage {
    /// Finds what [`prepare`] made.
    ///
    /// # Errors
    /// When a pod does not run.
    pub(super) fn open(setting: Setting) -> Result<Self> {
        let api = Api::open()?;
        let pods = running(&api)?;
        let host = |name: &str| -> Result<Host> {
            let (uid, address) = pods.get(name).with_context(|| format!("no pod {name}"))?;
            Host::of_runtime(name, &netns_of(uid)?, *address)
        };
        Ok(Self {
            client: host("client")?,
            target: host("target")?,
            server: host("server")?,
            stranger: host("stranger")?,
            api,
            setting,
        })
    }

    /// The node of the target.
    pub(super) fn node(&self) -> &Node {
        &self.setting.nodes[1]
    }

    /// The IPv4 address of a pod of ours.
    pub(super) fn address(host: &Host) -> Result<Ipv4Addr> {
        host.v4()
            .with_context(|| format!("{} has no address", host.name()))
    }
}

/// A pod of one container on a node; it ends soon after it is deleted. (With no
/// time at all its object would be gone before its containers.)
pub(super) fn pod(name: &str, node: &str, role: &str, container: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"role": role}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "enableServiceLinks": false,
            "automountServiceAccountToken": false,
            "containers": [container],
        },
    })
}

/// A policy that isolates the pods of a role for ingress, but for `rules`.
pub(super) fn ingress(name: &str, role: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"role": role}},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    })
}

/// Pods with a label, as a peer.
pub(super) fn with_label(key: &str, value: &str) -> Value {
    json!({"podSelector": {"matchLabels": {key: value}}})
}

/// Creates namespace, pods and policies, and waits until the pods run.
///
/// # Errors
/// When the server refuses, or a pod does not start within a bound.
pub(super) fn prepare(setting: &Setting) -> Result<()> {
    ensure!(setting.nodes.len() >= 2, "two nodes are needed");
    let api = Api::open()?;
    // What a measurement that failed left behind.
    if api.get(&namespace_path())?.is_some() {
        clear()?;
    }
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    api.create("/api/v1/namespaces", &namespace)?;
    // A controller makes it; no pod is taken before.
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    poll("the namespace's service account", || {
        Ok(api.get(&account)?.is_some())
    })?;
    let pause = json!({"name": "pause", "image": PAUSE, "imagePullPolicy": "IfNotPresent"});
    let (first, second) = (&setting.nodes[0].name, &setting.nodes[1].name);
    for (name, node) in [
        ("client", first),
        ("target", second),
        ("server", second),
        ("stranger", second),
    ] {
        api.create(PODS, &pod(name, node, name, &pause))?;
    }
    for number in 0..CHURNING {
        let node = &setting.nodes[number % 2].name;
        api.create(
            PODS,
            &pod(&format!("churn-{number}"), node, "churn", &pause),
        )?;
    }
    let own = json!([{"from": [with_label("role", "client")]}]);
    api.create(POLICIES, &ingress("server-client", "server", &own))?;
    for number in 1..SERVER_POLICIES {
        let peer = with_label("peer-of", &number.to_string());
        let rules =
            json!([{"from": [peer], "ports": [{"protocol": "TCP", "port": 10_000 + number}]}]);
        api.create(
            POLICIES,
            &ingress(&format!("server-{number}"), "server", &rules),
        )?;
    }
    // Born pods are reached by the client only, and reach the target only.
    let mut newborn = ingress("newborn", "newborn", &own);
    newborn["spec"]["policyTypes"] = json!(["Ingress", "Egress"]);
    newborn["spec"]["egress"] = json!([{"to": [with_label("role", "target")]}]);
    api.create(POLICIES, &newborn)?;
    poll("all pods run", || Ok(running(&api)?.len() == 4 + CHURNING))
}

/// Removes everything that [`prepare`] created.
///
/// # Errors
/// When it is not gone within a bound.
pub(super) fn clear() -> Result<()> {
    let api = Api::open()?;
    let path = namespace_path();
    api.delete(&path)?;
    poll("the namespace is gone", || Ok(api.get(&path)?.is_none()))
}

fn namespace_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}")
}

/// UID and address of every pod that runs, by name.
fn running(api: &Api) -> Result<BTreeMap<String, (String, Ipv4Addr)>> {
    let list = api
        .get(PODS)?
        .context("the namespace of the measurements is not there")?;
    let pods = list["items"].as_array().context("a list has items")?;
    let place = |pod: &Value| {
        (pod["status"]["phase"] == "Running").then_some(())?;
        let text = |at: &str| pod.pointer(at)?.as_str();
        let uid = text("/metadata/uid")?.to_owned();
        let address = text("/status/podIP")?.parse().ok()?;
        Some((text("/metadata/name")?.to_owned(), (uid, address)))
    };
    Ok(pods.iter().filter_map(place).collect())
}

/// The network namespace of a pod of this machine: that of any process in its
/// control group.
fn netns_of(uid: &str) -> Result<PathBuf> {
    let name = format!("pod{uid}");
    let processes = fs::read_dir("/proc").context("list /proc")?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| groups.split(['/', '\n']).any(|part| part == name))
    });
    let pid = pid.with_context(|| format!("no process of pod {uid} is found"))?;
    Ok(format!("/proc/{pid}/ns/net").into())
}

/// Asks now and then, within a bound.
pub(super) fn poll(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut result = Ok(());
    wait_for(what, BOUND, || match done() {
        Ok(true) => true,
        Ok(false) => {
            std::thread::sleep(POLL);
            false
        }
        Err(error) => {
            result = Err(error);
            true
        }
    })?;
    result
}

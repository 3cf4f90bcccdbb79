//! What the cluster's users are told: Events, versions in force, and whether all
//! nodes have them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Foreign, Side, wait_for};
use serde_json::{Value, json};

use crate::node::{NODE, Node};

/// The agent looks every few seconds, and waits a while before it tells of a pod
/// without an interface.
const TOLD: Duration = Duration::from_secs(60);

/// Events of a namespace about an object, by reason.
fn events(node: &Node, namespace: &str, reason: &str) -> Result<Vec<Value>> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let list = node.plane.must("GET", &path, None)?;
    let items = list["items"].as_array().context("a list")?;
    let of_reason = items.iter().filter(|event| event["reason"] == reason);
    Ok(of_reason.cloned().collect())
}

/// The one Event of a reason, once it is `so`.
fn event(node: &Node, namespace: &str, reason: &str, so: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = Vec::new();
    wait_for(&format!("the Event {reason}"), TOLD, || {
        found = events(node, namespace, reason).unwrap_or_default();
        found.iter().any(&so)
    })
    .with_context(|| format!("{found:?}\n{}", node.agent().describe()))?;
    ensure!(found.len() == 1, "one Event for one thing: {found:?}");
    found.pop().context("an Event")
}

#[test]
fn users_are_told_by_events_and_the_same_again_is_a_count() -> Result<()> {
    let mut node = Node::new("k8s-events")?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.create_policy("a/p", "db", &json!([]))?;
    // An address that is behind no interface.
    let ghost = node.host("a/ghost", 11, true, false)?;
    node.lab.delete_pod("a/ghost")?;
    node.plane.run_pod(&ghost, &json!({"app": "db"}))?;
    node.start()?;

    let told = event(&node, "a", "NotProgrammed", |_| true)?;
    let pod = node
        .plane
        .must("GET", "/api/v1/namespaces/a/pods/ghost", None)?;
    let regarding = &told["regarding"];
    ensure!(regarding["uid"] == pod["metadata"]["uid"], "{told:#}");
    ensure!(regarding["name"] == "ghost", "{told:#}");
    ensure!(told["type"] == "Warning", "{told:#}");
    ensure!(told["reportingController"] == "policy-agent", "{told:#}");
    ensure!(told["reportingInstance"] == NODE, "{told:#}");
    let note = told["note"].as_str().unwrap_or_default();
    ensure!(
        note.contains("behind no interface") && note.contains(NODE),
        "{told:#}"
    );

    // Nothing is denied: that is the node's, which an agent that starts again
    // tells once more, on the same Event.
    node.enforce(false)?;
    let off = event(&node, "default", "EnforcementOff", |_| true)?;
    ensure!(off["regarding"]["kind"] == "Node", "{off:#}");
    ensure!(off["regarding"]["name"] == NODE, "{off:#}");
    ensure!(off.get("series").is_none(), "{off:#}");
    node.agent().kill()?;
    node.start()?;
    let again = event(&node, "default", "EnforcementOff", |event| {
        event["series"]["count"].as_u64() >= Some(2)
    })?;
    ensure!(again["metadata"]["name"] == off["metadata"]["name"]);
    node.enforce(true)?;
    node.finish()
}

/// A policy that allows a peer every second port, TCP and UDP: twice as many intervals.
fn every_second_port(name: &str, peer: &str, count: u16, first: u16) -> Value {
    let ports = (0..count).flat_map(|number| {
        let port = first + 2 * number;
        ["TCP", "UDP"].map(|protocol| json!({"port": port, "protocol": protocol}))
    });
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": name}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": peer}}}],
                "ports": ports.collect::<Vec<_>>(),
            }],
        },
    })
}

#[test]
fn full_maps_and_others_programs_are_told_on_whom_they_concern_and_on_nobody_else() -> Result<()> {
    let mut node = Node::new("k8s-full")?;
    node.plane.create_namespace("a", &json!({}))?;
    for (name, number) in [("db", 11), ("cache", 12), ("web", 13)] {
        let host = node.host(&format!("a/{name}"), number, true, false)?;
        node.plane.run_pod(&host, &json!({"app": name}))?;
    }
    let web = node.lab.get("a/web").clone();
    let policies = "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies";
    // 56,000 of 65,535 intervals.
    for policy in [
        every_second_port("db", "web", 10_000, 1001),
        every_second_port("cache", "web", 18_000, 2001),
    ] {
        node.plane.create(policies, &policy)?;
    }
    node.start()?;
    let is_the_nodes = |event: &Value| {
        let regarding = &event["regarding"];
        regarding["kind"] == "Node" && regarding["name"] == NODE && event["type"] == "Warning"
    };
    let says = |event: &Value, word: &str| event["note"].to_string().contains(word);
    let nearly = event(&node, "default", "MapPressure", |_| true)?;
    ensure!(
        is_the_nodes(&nearly) && says(&nearly, "pa_extents"),
        "{nearly:#}"
    );

    // The other way round it has no room beside what is there.
    let turned = every_second_port("db", "cache", 10_000, 1000);
    node.plane.patch(&format!("{policies}/db"), &turned)?;
    let full = event(&node, "a", "CapacityExceeded", |_| true)?;
    let pod = node
        .plane
        .must("GET", "/api/v1/namespaces/a/pods/db", None)?;
    ensure!(
        full["regarding"]["uid"] == pod["metadata"]["uid"],
        "{full:#}"
    );
    ensure!(
        full["regarding"]["kind"] == "Pod" && full["type"] == "Warning",
        "{full:#}"
    );
    ensure!(
        says(&full, "pa_extents is full") && says(&full, "old policy stays") && says(&full, NODE),
        "{full:#}"
    );

    let mut foreign = Foreign::load("intruder")?;
    let on = node.lab.node().clone();
    foreign.come_first(&on, &web, Side::Egress)?;
    let before = event(&node, "default", "ForeignProgram", |_| true)?;
    ensure!(
        is_the_nodes(&before) && says(&before, "intruder"),
        "{before:#}"
    );

    // The next agent finds the same: each is one Event still, with a count.
    node.agent().kill()?;
    foreign.leave();
    foreign.come_first(&on, &web, Side::Egress)?;
    node.launch()?;
    for (namespace, told) in [("default", nearly), ("a", full), ("default", before)] {
        let reason = told["reason"].as_str().context("a reason")?;
        let again = event(&node, namespace, reason, |event| {
            event["series"]["count"].as_u64() >= Some(2)
        })?;
        ensure!(told.get("series").is_none(), "once at first: {told:#}");
        ensure!(
            again["metadata"]["name"] == told["metadata"]["name"],
            "{again:#}"
        );
    }
    // Of the pods, policies and maps that are well nobody says anything.
    let all = node
        .plane
        .must("GET", "/apis/events.k8s.io/v1/events", None)?;
    let ours = all["items"].as_array().context("a list")?.iter();
    let ours = ours.filter(|event| event["reportingController"] == "policy-agent");
    let told: Vec<&Value> = ours.map(|event| &event["reason"]).collect();
    ensure!(told.len() == 3, "{told:?}");
    drop(foreign);
    node.finish()
}

#[test]
fn status_says_which_generation_is_in_force() -> Result<()> {
    let mut node = Node::new("k8s-versions")?;
    node.plane.create_namespace("a", &json!({}))?;
    let db = node.host("a/db", 11, true, false)?;
    node.plane.run_pod(&db, &json!({"app": "db"}))?;
    node.plane.create_policy("a/p", "db", &json!([]))?;
    node.start()?;
    let path = "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies/p";
    for generation in [1, 2] {
        let status = node.settle()?;
        let policy = node.plane.must("GET", path, None)?;
        ensure!(policy["metadata"]["generation"] == generation, "{policy:#}");
        let in_force = json!({
            "uid": policy["metadata"]["uid"],
            "generation": generation,
            "resource_version": policy["metadata"]["resourceVersion"],
        });
        let expected = json!([{"kind": "NetworkPolicy", "policy": "a/p", "in_force": in_force}]);
        ensure!(status["policies"] == expected, "{status:#}");
        let of_pod = &status["endpoints"][0]["ingress"]["versions"]["a/p"];
        ensure!(*of_pod == in_force, "{status:#}");
        let peers = json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
        node.plane.change_policy("a/p", &peers)?;
    }
    // A change that asks for nothing else is another version all the same.
    let annotated = json!({"metadata": {"annotations": {"a": "b"}}});
    let version = node.plane.patch(path, &annotated)?["metadata"]["resourceVersion"].clone();
    let status = node.settle()?;
    let in_force = &status["policies"][0]["in_force"];
    ensure!(in_force["resource_version"] == version, "{status:#}");
    node.plane.delete_policy("a/p")?;
    ensure!(node.settle()?["policies"] == json!([]));
    node.finish()
}

#[test]
fn nodes_without_an_agent_have_nothing_and_those_that_cannot_be_asked_are_unknown() -> Result<()> {
    let mut node = Node::new("k8s-rollout")?;
    let ask = |node: &Node| -> Result<(Option<i32>, Value)> {
        let output = node.as_admin(&["status", "--cluster", "-o", "json", "--timeout", "10s"])?;
        let lines = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the answer is JSON: {output:?}"))?;
        Ok((output.status.code(), lines))
    };
    let (code, lines) = ask(&node)?;
    ensure!(code == Some(1), "{lines:#}");
    let none = json!([{"node": NODE, "in_force": "no", "why": ["no agent runs here"]}]);
    ensure!(lines == none, "{lines:#}");

    // An agent on a node whose kubelet nobody reaches.
    node.plane.create_namespace("policy-agent", &json!({}))?;
    let labels = json!({"app.kubernetes.io/name": "policy-agent"});
    node.plane.create_pod("policy-agent/agent", NODE, &labels)?;
    let (code, lines) = ask(&node)?;
    ensure!(code == Some(3), "{lines:#}");
    ensure!(lines[0]["in_force"] == "unknown", "{lines:#}");
    let why = lines[0]["why"][0].as_str().unwrap_or_default();
    ensure!(why.starts_with("pod agent"), "{lines:#}");

    let output = node.as_admin(&["status", "--cluster", "--policy", "a/none"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("not found"), "{said}");
    let output = node.as_admin(&["status", "--cluster", "--policy", "none"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    // What was started has to be ended, and its traces to be removed.
    node.start()?;
    node.finish()
}

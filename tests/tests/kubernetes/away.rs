//! Bad days: the API server is away; the node has another name than before.

use anyhow::Result;
use policy_tests::lab::wait_for;
use serde_json::{Value, json};

use crate::node::{BOUND, NODE, Node};

fn web() -> Value {
    json!([{"podSelector": {"matchLabels": {"app": "web"}}}])
}

fn is_disconnected(node: &Node) -> bool {
    let status = node.status().unwrap_or_default();
    let sources = status["sources"].as_array().cloned().unwrap_or_default();
    let gone = |source: &Value| source["disconnected_seconds"].is_u64();
    sources.len() == 7 && sources.iter().all(gone)
}

#[test]
fn enforcement_goes_on_without_the_api_server_and_across_restarts() -> Result<()> {
    let mut node = Node::new("k8s-away")?;
    let db = node.host("a/db", 11, true, true)?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.run_pod(&db, &json!({"app": "db"}))?;
    node.plane.create_policy("a/db", "db", &web())?;
    node.start()?;
    let isolated = node.isolation()?;
    assert_eq!(isolated["a/db"], Some(vec!["a/db".to_owned()]));
    let words = node.words()?;
    assert_eq!(words.len(), 1);

    // The server goes away while the agent runs.
    node.plane.kill_server()?;
    wait_for("the agent to notice", BOUND, || is_disconnected(&node))?;
    let status = node.status()?;
    assert_eq!(
        (&status["healthy"], &status["synced"], &status["programmed"]),
        (&json!(true), &json!(true), &json!(true)),
        "{status:#}"
    );
    assert_eq!(node.isolation()?, isolated);
    assert_eq!(node.words()?, words);
    let wait = node.ask("status", &["--wait", "--timeout", "1s"])?;
    assert_eq!(wait.status.code(), Some(3), "nobody can say that it is all");

    let said = node.agent().stderr();
    assert_eq!(said.matches("API server: ").count(), 1, "{said}");

    // The agent is replaced while the server is away.
    node.agent().kill()?;
    node.launch()?;
    wait_for("the new agent", BOUND, || is_disconnected(&node))?;
    let status = node.status()?;
    assert_eq!(status["synced"], json!(false), "{status:#}");
    assert_eq!(node.words()?, words, "what is pinned stays as it is");

    // The server comes back, and what was written meanwhile takes effect.
    node.plane.start_server(&mut node.lab)?;
    node.plane.delete_policy("a/db")?;
    node.settle()?;
    assert_eq!(node.isolation()?["a/db"], None);
    node.agent()
        .wait_for_output("API server: everything is watched again", BOUND)?;
    node.finish()
}

#[test]
fn a_node_that_is_registered_under_another_name_keeps_its_pods_isolated() -> Result<()> {
    let mut node = Node::new("k8s-renamed")?;
    let db = node.host("a/db", 11, true, false)?;
    let old = node.host("a/old", 12, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.run_pod(&db, &json!({"app": "db"}))?;
    node.plane.run_pod(&old, &json!({"app": "old"}))?;
    node.plane.create_policy("a/db", "db", &web())?;
    node.start()?;
    assert_eq!(node.isolation()?.len(), 2);
    let words = node.words()?;

    // The node is gone, and one of its pods runs on it under the new name.
    node.agent().kill()?;
    node.plane.delete(&format!("/api/v1/nodes/{NODE}"))?;
    node.plane.delete_pod("a/db")?;
    node.plane
        .create_pod("a/db", "renamed", &json!({"app": "db"}))?;
    let addresses: Vec<String> = db.addresses().iter().map(ToString::to_string).collect();
    node.plane.set_addresses("a/db", &addresses)?;
    assert_eq!(node.words()?, words, "nobody runs who could change it");
    node.launch_as("renamed")?;
    let status = node.settle()?;
    assert_eq!(status["node"], json!("renamed"));
    let text = status["diagnostics"].to_string();
    assert!(text.contains("Node renamed"), "{status:#}");
    let isolation = node.isolation()?;
    assert_eq!(isolation["a/db"], Some(vec!["a/db".to_owned()]));
    assert!(!isolation.contains_key("a/old"), "{isolation:?}");

    node.plane.create_node("renamed", &[])?;
    let status = node.settle()?;
    let text = status["diagnostics"].to_string();
    assert!(!text.contains("Node renamed"), "{status:#}");
    node.finish()
}

//! What is written to the API server is what is in force: created, changed and
//! deleted, of every kind.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use policy_tests::lab::{Family, Host, Outcome, Probe, Proto, ServeSpec, Server, probe};
use serde_json::{Value, json};

use crate::control_plane::ADMIN;
use crate::node::{NODE, Node};
use crate::objects::{in_namespace, policy_object};

const PORT: u16 = 80;

fn labelled(app: &str) -> Value {
    json!({"app": app})
}

/// Pods of the same namespace with `app`.
fn pods(app: &str) -> Value {
    json!([{"podSelector": {"matchLabels": {"app": app}}}])
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Asks over both families, as far as both ends have them.
fn reaches(from: &Host, to: &Host, passes: bool) -> Result<()> {
    let mut asked = 0;
    for family in Family::BOTH {
        if from.address(family).is_err() || to.address(family).is_err() {
            continue;
        }
        let question = Probe::new(from, to, family, PORT, Proto::Tcp)?;
        asked += 1;
        let outcome = probe(&question)?;
        let as_it_should = match passes {
            true => outcome.is_connected(),
            false => outcome == Outcome::TimedOut,
        };
        ensure!(
            as_it_should,
            "{question}: {outcome}, and passing is to be {passes}"
        );
    }
    ensure!(asked > 0, "no family in common");
    Ok(())
}

#[test]
fn policies_pods_labels_and_namespaces_are_followed() -> Result<()> {
    let mut node = Node::new("k8s-follow")?;
    let db = node.host("shop/db", 11, true, true)?;
    let web = node.host("shop/web", 12, true, true)?;
    let old = node.host("shop/old", 13, true, false)?;
    let new = node.host("shop/new", 14, false, true)?;
    let guest = node.host("guest/web", 15, true, true)?;
    let _server = Server::start(&db, &ServeSpec::ports(&[PORT]))?;
    node.plane.create_namespace("shop", &json!({"team": "a"}))?;
    node.plane
        .create_namespace("guest", &json!({"team": "b"}))?;
    let status = node.start()?;
    assert_eq!(status["endpoints"], json!([]));
    assert_eq!(status["sources"].as_array().map(Vec::len), Some(7));

    // Pods, of every kind of address.
    for (host, app) in [
        (&db, "db"),
        (&web, "web"),
        (&old, "web"),
        (&new, "web"),
        (&guest, "web"),
    ] {
        node.plane.run_pod(host, &labelled(app))?;
    }
    let status = node.settle()?;
    let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
    assert_eq!(endpoints.len(), 5, "{status:#}");
    for endpoint in &endpoints {
        assert_ne!(endpoint["interface"], Value::Null, "{endpoint}");
    }
    assert_eq!(node.isolation()?["shop/db"], None);
    reaches(&guest, &db, true)?;

    // A policy.
    node.plane.create_policy("shop/db", "db", &pods("web"))?;
    node.settle()?;
    assert_eq!(
        node.isolation()?["shop/db"],
        Some(vec!["shop/db".to_owned()])
    );
    assert_eq!(node.isolation()?["shop/web"], None);
    let in_shop = set(&[
        "10.244.0.12 (shop/web)",
        "10.244.0.13 (shop/old)",
        "fd10:244::c (shop/web)",
        "fd10:244::e (shop/new)",
    ]);
    assert_eq!(node.allowed("shop/db")?, in_shop);
    for host in [&web, &old, &new] {
        reaches(host, &db, true)?;
    }
    reaches(&guest, &db, false)?;

    // A pod's labels, there and back.
    node.plane.label_pod("shop/web", &labelled("else"))?;
    node.settle()?;
    assert_eq!(
        node.allowed("shop/db")?,
        set(&["10.244.0.13 (shop/old)", "fd10:244::e (shop/new)"])
    );
    reaches(&web, &db, false)?;
    reaches(&old, &db, true)?;
    node.plane.label_pod("shop/web", &labelled("web"))?;
    node.settle()?;
    assert_eq!(node.allowed("shop/db")?, in_shop);
    reaches(&web, &db, true)?;

    // The policy changes, and asks for labels of namespaces.
    let team_b = json!([{"namespaceSelector": {"matchLabels": {"team": "b"}}}]);
    node.plane.change_policy("shop/db", &team_b)?;
    node.settle()?;
    let in_guest = set(&["10.244.0.15 (guest/web)", "fd10:244::f (guest/web)"]);
    assert_eq!(node.allowed("shop/db")?, in_guest);
    reaches(&guest, &db, true)?;
    reaches(&web, &db, false)?;
    let other_team = json!({"metadata": {"labels": {"team": "c"}}});
    node.plane.patch("/api/v1/namespaces/guest", &other_team)?;
    node.settle()?;
    assert_eq!(node.allowed("shop/db")?, set(&[]));
    reaches(&guest, &db, false)?;
    let team = json!({"metadata": {"labels": {"team": "b"}}});
    node.plane.patch("/api/v1/namespaces/guest", &team)?;
    node.settle()?;
    assert_eq!(node.allowed("shop/db")?, in_guest);

    // A pod of another node is a peer; it goes, and its address comes again as
    // somebody else's.
    node.plane
        .create_pod("guest/far", "node-2", &labelled("x"))?;
    node.plane
        .set_addresses("guest/far", &["10.244.9.9".to_owned()])?;
    node.settle()?;
    let far = "10.244.9.9 (guest/far)".to_owned();
    assert!(node.allowed("shop/db")?.contains(&far));
    node.plane.delete_pod("guest/far")?;
    node.plane
        .create_pod("shop/far", "node-2", &labelled("x"))?;
    node.plane
        .set_addresses("shop/far", &["10.244.9.9".to_owned()])?;
    node.settle()?;
    assert_eq!(node.allowed("shop/db")?, in_guest);

    // Deleted.
    node.plane.delete_policy("shop/db")?;
    node.settle()?;
    assert_eq!(node.isolation()?["shop/db"], None);
    reaches(&web, &db, true)?;
    node.plane.delete_pod("shop/old")?;
    node.settle()?;
    assert!(!node.isolation()?.contains_key("shop/old"));
    node.finish()
}

#[test]
fn pods_that_end_or_come_again_own_nothing_of_what_they_had() -> Result<()> {
    let mut node = Node::new("k8s-pods")?;
    let db = node.host("a/db", 11, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.run_pod(&db, &labelled("db"))?;
    node.plane.create_policy("a/db", "db", &pods("web"))?;
    node.start()?;
    assert_eq!(node.allowed("a/db")?, set(&[]));

    // A pod that has ended shows its address still.
    let address = ["10.244.9.1".to_owned()];
    node.plane.create_pod("a/job", "node-2", &labelled("web"))?;
    node.plane.set_addresses("a/job", &address)?;
    node.settle()?;
    assert_eq!(node.allowed("a/db")?, set(&["10.244.9.1 (a/job)"]));
    let ended = json!({"status": {"phase": "Succeeded"}});
    let path = format!("{}/job/status", in_namespace("a", "pods"));
    node.plane.patch(&path, &ended)?;
    node.settle()?;
    assert_eq!(node.allowed("a/db")?, set(&[]));

    // A pod of the same name comes to this node, and goes back.
    node.plane
        .create_pod("a/web-0", "node-2", &labelled("web"))?;
    node.plane.set_addresses("a/web-0", &address)?;
    node.settle()?;
    assert_eq!(node.allowed("a/db")?, set(&["10.244.9.1 (a/web-0)"]));
    let web = node.host("a/web-0", 12, true, false)?;
    node.plane.delete_pod("a/web-0")?;
    node.plane.run_pod(&web, &labelled("web"))?;
    node.settle()?;
    assert_eq!(node.allowed("a/db")?, set(&["10.244.0.12 (a/web-0)"]));
    assert!(node.isolation()?.contains_key("a/web-0"));
    node.plane.delete_pod("a/web-0")?;
    node.plane
        .create_pod("a/web-0", "node-2", &labelled("web"))?;
    node.plane.set_addresses("a/web-0", &address)?;
    node.settle()?;
    assert_eq!(node.allowed("a/db")?, set(&["10.244.9.1 (a/web-0)"]));
    assert!(!node.isolation()?.contains_key("a/web-0"));
    node.finish()
}

#[test]
fn a_thousand_policies_at_once_are_few_changes() -> Result<()> {
    let mut node = Node::new("k8s-many")?;
    let db = node.host("a/db", 11, true, true)?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.run_pod(&db, &labelled("db"))?;
    node.start()?;
    let before = node.status()?["changes"].as_u64().unwrap_or_default();
    let collection = in_namespace("a", "networkpolicies");
    let questions = (0..1000).map(|i| {
        let block = format!("10.{}.{}.0/24", i / 250, i % 250);
        let peers = json!([{"ipBlock": {"cidr": block}}]);
        let policy = policy_object(&format!("p{i}"), "db", &peers);
        ("POST".to_owned(), collection.clone(), Some(policy))
    });
    let answers = node.plane.ask_all(ADMIN, questions.collect())?;
    assert!(answers.iter().all(|(status, _)| *status == 201));
    let status = node.settle()?;
    assert_eq!(node.allowed("a/db")?.len(), 1000);
    let policies = node.isolation()?["a/db"].clone().unwrap_or_default();
    assert_eq!(policies.len(), 1000);
    let changes = status["changes"].as_u64().unwrap_or_default() - before;
    assert!((1..1000).contains(&changes), "{changes} changes");

    node.plane.delete(&collection)?;
    node.settle()?;
    assert_eq!(node.isolation()?["a/db"], None);
    node.finish()
}

#[test]
fn the_nodes_own_addresses_come_from_its_object_too() -> Result<()> {
    let mut node = Node::new("k8s-node")?;
    let db = node.host("a/db", 11, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.run_pod(&db, &labelled("db"))?;
    node.start()?;
    let identities = |node: &Node| -> Result<String> {
        let output = node.ask("identities", &[])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(!identities(&node)?.contains("198.51.100.7"));
    let status = json!({"status": {"addresses": [
        {"type": "ExternalIP", "address": "198.51.100.7"},
        {"type": "Hostname", "address": NODE},
    ]}});
    let path = format!("/api/v1/nodes/{NODE}/status");
    node.plane.patch(&path, &status)?;
    node.settle()?;
    assert!(identities(&node)?.contains("198.51.100.7 (this node)"));
    node.finish()
}

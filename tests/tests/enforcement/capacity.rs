//! A map that is nearly full is told of, once; what does not fit leaves the old
//! policy in force; and both are over when there is room again.
//!
//! The map of large port sets is the one that a few policies can fill: a policy
//! with every second port is as many intervals.

use std::fs;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Wiring, wait_for};
use serde_json::Value;

use crate::expect::{PORT, expect, serve};
use crate::feedback::{get, metric, start_serving};
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node};

/// What its metric is called.
const PRESSURE: &str = r#"policy_agent_map_pressure{map="pa_extents"}"#;

/// A policy that allows `web` this many ports, twice as many intervals, and
/// nothing else: TCP and UDP, so that a change of one is a change of all.
fn every_second_port(policy: &str, subject: &str, peer: &str, count: u16, first: u16) -> Value {
    let mut ports: Vec<u16> = (0..count).map(|number| first + 2 * number).collect();
    ports.push(PORT);
    allow(Way::Ingress, policy, subject, &[(peer, &ports)])
}

/// What `status` says of the map, if it says anything.
fn told(status: &Value) -> Option<String> {
    let diagnostics = status["diagnostics"].as_array()?;
    let of_map = diagnostics.iter().map(ToString::to_string);
    of_map
        .into_iter()
        .find(|text| text.contains("map pa_extents\""))
}

fn status(node: &Node) -> Result<Value> {
    Ok(serde_json::from_slice(&node.status(&[])?.stdout)?)
}

/// Waits until the agent has looked, and tells of the map or not.
fn wait_until_told(node: &Node, is_told: bool) -> Result<Value> {
    let mut last = Value::Null;
    wait_for("the agent to tell", BOUND, || {
        last = status(node).unwrap_or_default();
        let metrics = get(node, "/metrics")
            .map(|answer| answer.1)
            .unwrap_or_default();
        let gauge = metric(&metrics, PRESSURE).unwrap_or(-1.0);
        told(&last).is_some() == is_told && (gauge > 0.0) == is_told
    })
    .with_context(|| last["diagnostics"].to_string())?;
    Ok(last)
}

/// Lines of standard error about the map.
fn lines(node: &Node) -> Result<Vec<String>> {
    let text = fs::read_to_string(node.agent().stderr_path())?;
    let lines = text
        .lines()
        .filter(|line| line.starts_with("map pa_extents"));
    Ok(lines.map(str::to_owned).collect())
}

#[test]
fn nearly_full_map_is_told_of_and_what_does_not_fit_leaves_the_old_policy() -> Result<()> {
    let mut node = Node::new("capacity", Wiring::Bridged)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let cache = node.pod("shop/cache", &[("app", "cache")])?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let other = node.pod("shop/other", &[("app", "other")])?;
    let _servers = [serve(&db)?, serve(&cache)?];
    // 20,000 of 65,535 intervals, and nobody says anything.
    let first = every_second_port("shop/db", "db", "web", 10_000, 1001);
    node.folder
        .put_all("db.json", std::slice::from_ref(&first))?;
    start_serving(&mut node)?;
    let small = wait_until_told(&node, false)?;
    ensure!(small["diagnostics"] == serde_json::json!([]), "{small}");
    expect(&[(&web, &db, true), (&other, &db, false)])?;

    // 56,000: more than 80 %.
    let second = every_second_port("shop/cache", "cache", "web", 18_000, 2001);
    node.apply("cache.json", &[second])?;
    let full = wait_until_told(&node, true)?;
    ensure!(full["programmed"] == true, "it fits: {full}");
    let message = told(&full).context("told")?;
    ensure!(
        message.contains("% full") && message.contains("65535"),
        "{message}"
    );
    expect(&[
        (&web, &db, true),
        (&other, &db, false),
        (&web, &cache, true),
        (&other, &cache, false),
    ])?;

    // A change of the first finds no room beside what is there: the other way
    // round, and it stays as it is.
    let turned = every_second_port("shop/db", "db", "other", 10_000, 1000);
    node.folder.put_all("db.json", &[turned])?;
    // Told by the exit status, too: not everything is in force, for all that time.
    let output = node.status(&["--wait", "--timeout", "20s"])?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    let status: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(status["programmed"] == false, "{status}");
    let diagnostics = status["diagnostics"].to_string();
    ensure!(
        diagnostics.contains("Pod shop/db")
            && diagnostics.contains("pa_extents is full")
            && diagnostics.contains("the old policy stays in force"),
        "{diagnostics}"
    );
    let metrics = get(&node, "/metrics")?.1;
    ensure!(
        metric(&metrics, "policy_agent_endpoints_not_programmed")? == 1.0,
        "{metrics}"
    );
    expect(&[
        (&web, &db, true),
        (&other, &db, false),
        (&web, &cache, true),
    ])?;

    // With room again it is put in force by itself, and the map is told to be well.
    node.withdraw("cache.json")?;
    let well = wait_until_told(&node, false)?;
    ensure!(well["diagnostics"] == serde_json::json!([]), "{well}");
    ensure!(well["programmed"] == true, "{well}");
    expect(&[
        (&web, &db, false),
        (&other, &db, true),
        (&other, &cache, true),
    ])?;
    let lines = lines(&node)?;
    ensure!(
        lines.len() == 2 && lines[0].contains("% full") && lines[1].contains("below 75 %"),
        "once each: {lines:?}"
    );
    node.finish()
}

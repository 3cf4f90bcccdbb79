//! Thousands of pods come and go, and everything of the agent is where it was:
//! maps, programs, links, pins, rows, descriptors, threads and memory.
//!
//! In waves: pods of this node with an interface each, and many more elsewhere
//! that policy names. `POLICY_CHURN_PODS` is the number of those of this node;
//! with those elsewhere they are 5,000 by default, which takes half a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Host, Server, Wiring, wait_for};
use serde_json::{Value, json};

use crate::expect::{expect, serve};
use crate::folder::{Way, allow};
use crate::node::{Node, files_below};

/// Pods of this node in all, unless the environment says otherwise.
const LOCAL: usize = 100;
/// Of them in a wave.
const WAVE: usize = 20;
/// Pods elsewhere in a wave.
const REMOTE: usize = 980;
/// Waves between two looks at whether policy is in force.
const LOOK_EVERY: usize = 5;
/// Records of connections of pods that are gone are swept every 10 s.
const SWEPT: Duration = Duration::from_secs(40);
/// Memory that may stay, KiB, of the first waves: what the allocator keeps of the
/// most that was in use at once.
const WORKING_KIB: u64 = 24 * 1024;
/// Memory that may be added by all later waves, however many: names that late
/// events may ask for (16,384 pods at most), and tables of strings and selectors
/// that are pruned when they have doubled.
const KEPT_KIB: u64 = 24 * 1024;
/// Waves after which memory grows no more than that.
const WARM: usize = 2;

/// What must be as it was.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    /// Maps, programs and links behind pins.
    pinned: BTreeSet<(&'static str, u64)>,
    pins: usize,
    /// Maps, programs and links that the process has open, and all it has open.
    opened: BTreeSet<String>,
    descriptors: usize,
    threads: usize,
    /// Elements in use, by map.
    rows: BTreeMap<String, u64>,
}

fn holdings(node: &Node) -> Result<Holdings> {
    let process = format!("/proc/{}", node.agent().pid());
    let count = |folder: &str| -> Result<usize> {
        Ok(fs::read_dir(format!("{process}/{folder}"))?.count())
    };
    let mut opened = BTreeSet::new();
    for file in fs::read_dir(format!("{process}/fdinfo"))? {
        // One that was closed meanwhile is not open.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let ids = text.lines().filter(|line| {
            let ids = ["map_id:", "prog_id:", "link_id:"];
            ids.iter().any(|id| line.starts_with(id))
        });
        opened.extend(ids.map(str::to_owned));
    }
    let bpffs = node.bpffs().display().to_string();
    let maps = node.run(&["maps", "-o", "json", "--bpffs", &bpffs])?;
    let maps: Vec<Value> = serde_json::from_slice(&maps.stdout)?;
    let rows = maps.iter().filter_map(|map| {
        let used = map["used"].as_u64()?;
        Some((map["name"].as_str()?.to_owned(), used))
    });
    Ok(Holdings {
        pinned: node.kernel_objects()?,
        pins: files_below(&node.bpffs().join("policy-agent"))?.len(),
        opened,
        descriptors: count("fd")?,
        threads: count("task")?,
        rows: rows.collect(),
    })
}

/// Resident memory of the agent, KiB.
fn resident(node: &Node) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.agent().pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("VmRSS")?.trim().trim_end_matches("kB").trim();
    Ok(kib.parse()?)
}

/// Pods elsewhere, which policy names; no two waves have an address in common.
fn remote(wave: usize) -> Vec<Value> {
    let pod = |number: usize| {
        let unique = wave * REMOTE + number;
        let [_, _, _, _, _, a, b, c] = unique.to_be_bytes();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": format!("far-{unique}"),
                "uid": format!("far-{unique}"), "labels": {"app": "web", "n": unique.to_string()},
            },
            "spec": {"nodeName": "node-2"},
            "status": {"phase": "Running", "podIPs": [
                {"ip": format!("10.{}.{b}.{c}", 100 + usize::from(a))},
                {"ip": format!("fd10:999::{a:x}:{:x}", unique & 0xffff)},
            ]},
        })
    };
    (0..REMOTE).map(pod).collect()
}

/// Policies that come and go with a wave, so that rows, port sets and extents do.
fn policies(wave: usize) -> Vec<Value> {
    let ports: Vec<u16> = (0..8)
        .map(|port| 1000 + 2 * port + u16::from(wave.is_multiple_of(2)))
        .collect();
    vec![
        allow(Way::Ingress, "shop/p", "db", &[("web", &[])]),
        allow(Way::Egress, "shop/q", "batch", &[("db", &ports)]),
    ]
}

/// Pods of this node of a wave: the first is a server, the second may reach it.
fn come(node: &mut Node, wave: usize) -> Result<Vec<Host>> {
    let apps = ["db", "web", "other", "batch"];
    (0..WAVE)
        .map(|number| {
            let app = apps[number % apps.len()];
            node.pod(&format!("shop/{app}-{wave}-{number}"), &[("app", app)])
        })
        .collect()
}

fn go(node: &mut Node, pods: &[Host]) -> Result<()> {
    for pod in pods {
        node.lab.delete_pod(pod.name())?;
        node.folder
            .remove(&crate::folder::Pod::of(pod, "").file())?;
    }
    Ok(())
}

#[test]
fn nothing_stays_of_thousands_of_pods_that_came_and_went() -> Result<()> {
    let local = match std::env::var("POLICY_CHURN_PODS") {
        Ok(number) => number.parse().context("POLICY_CHURN_PODS")?,
        Err(_) => LOCAL,
    };
    let waves = local / WAVE;
    let mut node = Node::new("thousands", Wiring::Routed)?;
    node.start()?;
    let (start, begun) = (holdings(&node)?, resident(&node)?);
    let (mut warm, mut most) = (begun, begun);
    for wave in 0..waves {
        let mut objects = remote(wave);
        objects.extend(policies(wave));
        node.folder.put_all("wave.json", &objects)?;
        let pods = come(&mut node, wave)?;
        let status = node.settle()?;
        let endpoints = status["endpoints"].as_array().context("endpoints")?;
        ensure!(
            endpoints.len() == WAVE && endpoints.iter().all(|pod| pod["programmed"] == true),
            "wave {wave}: {status}"
        );
        ensure!(
            status["diagnostics"] == json!([]),
            "{}",
            status["diagnostics"]
        );
        if wave % LOOK_EVERY == LOOK_EVERY / 2 {
            let server: Server = serve(&pods[0])?;
            expect(&[
                (&pods[1], &pods[0], true),
                (&pods[2], &pods[0], false),
                (&pods[3], &pods[0], false),
            ])?;
            drop(server);
            let during = holdings(&node)?;
            let used = |map: &str| during.rows.get(map).copied().unwrap_or(0);
            ensure!(
                used("pa_endpoints") == WAVE as u64
                    && used("pa_id4") >= REMOTE as u64
                    && used("pa_ct") + used("pa_ct_pending") > 0
                    && used("pa_extents") > 0,
                "they are there: {during:?}"
            );
        }
        most = most.max(resident(&node)?);
        if wave < WARM {
            warm = most;
        }
        go(&mut node, &pods)?;
        node.folder.remove("wave.json")?;
    }
    node.settle()?;
    let mut end = holdings(&node)?;
    let back = wait_for("all to be as it was", SWEPT, || {
        if let Ok(now) = holdings(&node) {
            end = now;
        }
        end == start
    });
    ensure!(back.is_ok(), "before: {start:#?}\nafter: {end:#?}");
    let ended = resident(&node)?;
    println!(
        "{} pods here and {} elsewhere: {begun} KiB before, {warm} after {WARM} \
         waves, {most} at most, {ended} after all",
        waves * WAVE,
        waves * REMOTE
    );
    ensure!(
        warm <= begun + WORKING_KIB && ended <= warm + KEPT_KIB,
        "memory: {begun} KiB before, {warm} after {WARM} waves, {ended} after all"
    );
    // The agent is as good as new.
    let again = come(&mut node, waves)?;
    node.folder.put_all("wave.json", &policies(waves))?;
    node.settle()?;
    let _server = serve(&again[0])?;
    expect(&[(&again[1], &again[0], true), (&again[2], &again[0], false)])?;
    node.finish()
}

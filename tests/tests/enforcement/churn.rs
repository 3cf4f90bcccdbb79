//! Thousands of pods come and go, and everything of the agent is where it was:
//! maps, programs, links, pins, rows, descriptors, threads and memory.
//!
//! In waves: pods of this node with an interface each, and many more elsewhere
//! that policy names. `POLICY_CHURN_PODS` is the number of those of this node;
//! there are 14,000 elsewhere by default, which takes half a minute. With 5,000 of
//! this node it takes some minutes.

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
/// Of them in a wave: at most what a node usually has.
const WAVES: usize = 5;
const WAVE: std::ops::RangeInclusive<usize> = 20..=100;
/// Pods elsewhere in a wave, and in the first: as many as a large cluster has, since
/// what memory was left of those would not show with few.
const REMOTE: usize = 980;
const REMOTE_FIRST: usize = 10_000;
/// Waves between two looks at whether policy is in force, and between two that go
/// pod by pod.
const LOOK_EVERY: usize = 5;
/// A hundred interfaces get their programs one after the other, each after a grace
/// period of the kernel; this bounds a loaded machine.
const ATTACHED: Duration = Duration::from_secs(120);
/// Records of connections of pods that are gone are swept every 10 s, and memory
/// that they took is given back then.
const SWEPT: Duration = Duration::from_secs(40);
/// Memory that may be added by all waves, however many, KiB: tables that grew, and
/// pages of which a part is in use.
const KEPT_KIB: u64 = 4 * 1024;

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

/// Resident memory of the agent, KiB, without the pages of its binary, which come as
/// they are used.
fn resident(node: &Node) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.agent().pid()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line
        .context("RssAnon")?
        .trim()
        .trim_end_matches("kB")
        .trim();
    Ok(kib.parse()?)
}

/// Pods elsewhere, which policy names; no two waves have an address in common.
fn remote(wave: usize) -> Vec<Value> {
    let (first, count) = match wave {
        0 => (0, REMOTE_FIRST),
        _ => (REMOTE_FIRST + wave * REMOTE, REMOTE),
    };
    let pod = |number: usize| {
        let unique = first + number;
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
    (0..count).map(pod).collect()
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
fn come(node: &mut Node, wave: usize, count: usize) -> Result<Vec<Host>> {
    let apps = ["db", "web", "other", "batch"];
    let wanted = (0..count).map(|number| {
        let app = apps[number % apps.len()];
        (format!("shop/{app}-{wave}-{number}"), app)
    });
    node.pods_at_once(&wanted.collect::<Vec<_>>())
}

/// All pods of this node go, one by one or together.
fn go(node: &mut Node, pods: Vec<Host>, together: bool) -> Result<()> {
    if together {
        node.lab.delete_pods()?;
    }
    for pod in pods {
        if !together {
            node.lab.delete_pod(pod.name())?;
        }
        let file = crate::folder::Pod::of(&pod, "").file();
        node.folder.remove(&file)?;
    }
    Ok(())
}

#[test]
fn nothing_stays_of_thousands_of_pods_that_came_and_went() -> Result<()> {
    let local = match std::env::var("POLICY_CHURN_PODS") {
        Ok(number) => number.parse().context("POLICY_CHURN_PODS")?,
        Err(_) => LOCAL,
    };
    let size = (local / WAVES).clamp(*WAVE.start(), *WAVE.end());
    let waves = (local / size).max(1);
    let mut node = Node::new("thousands", Wiring::Routed)?;
    node.start()?;
    let (start, begun) = (holdings(&node)?, resident(&node)?);
    let mut most = begun;
    for wave in 0..waves {
        let mut objects = remote(wave);
        objects.extend(policies(wave));
        node.folder.put_all("wave.json", &objects)?;
        let pods = come(&mut node, wave, size)?;
        let status = node.settle_within(ATTACHED)?;
        let endpoints = status["endpoints"].as_array().context("endpoints")?;
        ensure!(
            endpoints.len() == size && endpoints.iter().all(|pod| pod["programmed"] == true),
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
                used("pa_endpoints") == size as u64
                    && used("pa_id4") >= REMOTE as u64
                    && used("pa_ct") + used("pa_ct_pending") > 0
                    && used("pa_extents") > 0,
                "they are there: {during:?}"
            );
        }
        most = most.max(resident(&node)?);
        go(&mut node, pods, wave % LOOK_EVERY != 0)?;
        node.folder.remove("wave.json")?;
    }
    node.settle_within(ATTACHED)?;
    let (mut end, mut ended) = (holdings(&node)?, resident(&node)?);
    let back = wait_for("all to be as it was", SWEPT, || {
        if let (Ok(now), Ok(memory)) = (holdings(&node), resident(&node)) {
            (end, ended) = (now, memory);
        }
        end == start && ended <= begun + KEPT_KIB
    });
    println!(
        "{} pods here and {} elsewhere: {begun} KiB before, {most} at most, {ended} after all; \
         {} pins before, {} after",
        waves * size,
        REMOTE_FIRST + (waves - 1) * REMOTE,
        start.pins,
        end.pins
    );
    println!("rows before {:?}\nrows after {:?}", start.rows, end.rows);
    ensure!(end == start, "before: {start:#?}\nafter: {end:#?}");
    ensure!(
        back.is_ok(),
        "memory: {begun} KiB before, {ended} after all"
    );
    // The agent is as good as new.
    let again = come(&mut node, waves, 4)?;
    node.folder.put_all("wave.json", &policies(waves))?;
    node.settle()?;
    let _server = serve(&again[0])?;
    expect(&[(&again[1], &again[0], true), (&again[2], &again[0], false)])?;
    node.finish()
}

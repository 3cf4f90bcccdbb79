//! Every verb of the plugin, with the agent there, away, killed, and never there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Wiring, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::caller::{Caller, Sandbox, finish};
use super::{
    Scene, awaited, ensure_node_reaches, ensure_nothing_arrived, ensure_nothing_lost, flood,
    in_force, reaches,
};
use crate::expect::serve;
use crate::folder::Pod;
use crate::node::{BOUND, bpftool};

const FLOOD: u16 = 8_000;
const ALLOWED: u16 = 8_001;

/// Long enough for an agent that would answer, short for a test.
const SOON: Duration = Duration::from_millis(300);

/// The notes of the plugin.
fn notes(scene: &Scene) -> Result<usize> {
    let folder = scene.node.run_dir().join("cni");
    match fs::read_dir(&folder) {
        Ok(entries) => Ok(entries.count()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The object is known, its address only to the plugin.
fn pod_is_protected_from_its_first_packet(wiring: Wiring) -> Result<()> {
    let mut scene = Scene::new("cni-first", wiring)?;
    scene.start("hold")?;
    let stranger = scene.stranger.clone();
    let (db, (denied, _server)) = scene.wire("shop/db", |db| {
        Ok((flood(&stranger, db, FLOOD)?, serve(db)?))
    })?;
    // What is held is found by its neighbour, as by a kubelet.
    ensure_node_reaches(&scene.node, &db)?;
    scene.show_without_address(&db, "uid-db")?;
    let sandbox = Sandbox::of(&db, "uid-db");
    let caller = Caller::new(&scene.node);
    let reply = caller.add(&sandbox)?;
    reply.ensure_says(&sandbox.result)?;
    ensure!(reply.stderr.is_empty(), "{reply:?}");
    // First tries, without a moment's rest.
    ensure_nothing_lost(&scene.web, &db, ALLOWED)?;
    ensure!(reaches(&scene.web, &db)?, "allowed");
    ensure!(!reaches(&scene.stranger, &db)?, "denied");
    let status = scene.status()?;
    ensure!(in_force(&status, "shop/db"), "{status}");
    ensure!(status["unprotected"] == json!([]), "{status}");
    // Told again: the same answer, and nothing is disturbed.
    let steady = flood(&scene.web, &db, ALLOWED)?;
    for _ in 0..3 {
        caller.add(&sandbox)?.ensure_says(&sandbox.result)?;
    }
    caller.check(&sandbox)?.ensure_says("")?;
    for stream in steady {
        let report = stream.stop()?;
        ensure!(report.lost().is_empty(), "allowed: {}", report.summary());
    }
    // The object's address comes, and changes nothing.
    scene
        .node
        .show(&Pod::of(&db, "uid-db").label("app", "db"))?;
    scene.node.settle()?;
    ensure!(reaches(&scene.web, &db)?, "allowed");
    ensure_nothing_arrived(denied)?;
    caller.del(&sandbox)?.ensure_says("")?;
    ensure!(notes(&scene)? == 0, "the note is gone");
    scene.node.finish()
}

#[test]
fn a_bridged_pod_is_protected_from_its_first_packet() -> Result<()> {
    pod_is_protected_from_its_first_packet(Wiring::Bridged)
}

#[test]
fn a_routed_pod_is_protected_from_its_first_packet() -> Result<()> {
    pod_is_protected_from_its_first_packet(Wiring::Routed)
}

#[test]
fn a_pod_that_nobody_knows_starts_isolated_until_it_is_known() -> Result<()> {
    let mut scene = Scene::new("cni-unknown", Wiring::Routed)?;
    scene.start("pass")?;
    let (db, _server) = scene.wire("shop/db", serve)?;
    let sandbox = Sandbox::of(&db, "uid-db");
    let reply = Caller::waiting(&scene.node, SOON).add(&sandbox)?;
    reply.ensure_says(&sandbox.result)?;
    ensure!(reply.stderr.contains("starts isolated"), "{reply:?}");
    let status = scene.status()?;
    ensure!(awaited(&status) == ["shop/db"], "{status}");
    // The node's own traffic passes, nothing else does, in either direction.
    ensure_node_reaches(&scene.node, &db)?;
    ensure!(!reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    let _web = serve(&scene.web)?;
    ensure!(!reaches(&db, &scene.web)?, "out of the pod");
    // A predecessor of the same name is another pod.
    scene.show_without_address(&db, "uid-before")?;
    let status = scene.node.settle()?;
    ensure!(awaited(&status) == ["shop/db"], "{status}");
    ensure!(!reaches(&scene.web, &db)?, "still held");
    scene.show_without_address(&db, "uid-db")?;
    let status = scene.node.settle()?;
    ensure!(
        awaited(&status).is_empty() && in_force(&status, "shop/db"),
        "{status}"
    );
    ensure!(reaches(&scene.web, &db)? && reaches(&db, &scene.web)?);
    ensure!(!reaches(&scene.stranger, &db)?);
    scene.node.finish()
}

#[test]
fn a_pod_added_while_the_agent_is_away_is_held_until_it_is_back() -> Result<()> {
    let mut scene = Scene::new("cni-away", Wiring::Bridged)?;
    scene.start("pass")?;
    scene.node.stop()?;
    let stranger = scene.stranger.clone();
    let (db, (denied, _server)) = scene.wire("shop/db", |db| {
        Ok((flood(&stranger, db, FLOOD)?, serve(db)?))
    })?;
    let sandbox = Sandbox::of(&db, "uid-db");
    let caller = Caller::new(&scene.node);
    let reply = caller.add(&sandbox)?;
    reply.ensure_says(&sandbox.result)?;
    ensure!(
        reply.stderr.contains("until the agent is back"),
        "{reply:?}"
    );
    let at = policy_tests::lab::now_ns();
    ensure!(!reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    ensure_node_reaches(&scene.node, &db)?;
    caller.check(&sandbox)?.ensure_says("")?;
    // Added again: it is there already.
    caller.add(&sandbox)?.ensure_says(&sandbox.result)?;
    // The agent does not know the object at first.
    let status = scene.start("pass")?;
    ensure!(awaited(&status) == ["shop/db"], "{status}");
    ensure!(!reaches(&scene.web, &db)?);
    scene.show_without_address(&db, "uid-db")?;
    scene.node.settle()?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    for stream in denied {
        let report = stream.stop()?;
        let late = report.delivered_sent_after(at);
        ensure!(late.is_empty(), "after ADD: {late:?}");
        ensure!(report.sent_ns.last().is_some_and(|last| *last > at));
    }
    // Another restart: the note says whose it is.
    scene.node.agent().kill()?;
    ensure!(reaches(&scene.web, &db)?, "what is in force stays");
    scene.start("pass")?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    scene.node.finish()
}

#[test]
fn an_agent_killed_before_its_answer_leaves_the_pod_held() -> Result<()> {
    let mut scene = Scene::new("cni-killed", Wiring::Routed)?;
    scene.start("pass")?;
    let (db, _server) = scene.wire("shop/db", serve)?;
    let sandbox = Sandbox::of(&db, "uid-db");
    // Nobody shows the pod, so the answer waits.
    let call = Caller::new(&scene.node).begin("ADD", &sandbox)?;
    wait_for("the question", BOUND, || {
        scene
            .status()
            .is_ok_and(|status| awaited(&status) == ["shop/db"])
    })?;
    scene.node.agent().kill()?;
    let reply = finish(call)?;
    reply.ensure_says(&sandbox.result)?;
    ensure!(
        reply.stderr.contains("until the agent is back"),
        "{reply:?}"
    );
    ensure!(!reaches(&scene.web, &db)?, "held");
    scene.show_without_address(&db, "uid-db")?;
    scene.start("pass")?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    scene.node.finish()
}

#[test]
fn an_agent_that_does_not_answer_in_time_is_as_good_as_none() -> Result<()> {
    let mut scene = Scene::new("cni-stuck", Wiring::Routed)?;
    scene.start("pass")?;
    let (db, _server) = scene.wire("shop/db", serve)?;
    let sandbox = Sandbox::of(&db, "uid-db");
    scene.node.agent().signal(Signal::STOP)?;
    let reply = Caller::waiting(&scene.node, SOON).add(&sandbox);
    scene.node.agent().signal(Signal::CONT)?;
    reply?.ensure_says(&sandbox.result)?;
    ensure!(!reaches(&scene.web, &db)?, "held");
    scene.show_without_address(&db, "uid-db")?;
    wait_for("the policies", BOUND, || {
        scene
            .status()
            .is_ok_and(|status| in_force(&status, "shop/db"))
    })?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    scene.node.finish()
}

#[test]
fn without_agent_and_pins_the_runtime_is_asked_to_try_again() -> Result<()> {
    let mut scene = Scene::new("cni-fresh", Wiring::Bridged)?;
    let (db, _server) = scene.wire("shop/db", serve)?;
    let sandbox = Sandbox::of(&db, "uid-db");
    let reply = Caller::new(&scene.node).add(&sandbox)?;
    reply.ensure_fails(11)?;
    let error: Value = serde_json::from_str(&reply.stdout)?;
    ensure!(error["cniVersion"] == "1.0.0", "{error}");
    ensure!(notes(&scene)? == 0, "nothing was added");
    Caller::new(&scene.node)
        .check(&sandbox)?
        .ensure_fails(101)?;
    Caller::new(&scene.node).status()?.ensure_fails(50)?;
    Caller::new(&scene.node).del(&sandbox)?.ensure_says("")?;
    // Tried again when the agent is there.
    scene.start("hold")?;
    scene.show_without_address(&db, "uid-db")?;
    Caller::new(&scene.node)
        .add(&sandbox)?
        .ensure_says(&sandbox.result)?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    Caller::new(&scene.node).status()?.ensure_says("")?;
    scene.node.finish()
}

#[test]
fn del_succeeds_whatever_is_gone_already() -> Result<()> {
    let mut scene = Scene::new("cni-del", Wiring::Routed)?;
    scene.start("hold")?;
    let mut sandboxes = Vec::new();
    for name in ["shop/a", "shop/b"] {
        let (host, ()) = scene.wire(name, |_| Ok(()))?;
        let sandbox = Sandbox::of(&host, name);
        Caller::waiting(&scene.node, SOON)
            .add(&sandbox)?
            .ensure_says(&sandbox.result)?;
        sandboxes.push(sandbox);
    }
    ensure!(notes(&scene)? == 2, "a note of each");
    // The namespace and the interface are gone, as after a node's crash.
    scene.node.lab.delete_pod("shop/a")?;
    let caller = Caller::new(&scene.node);
    for _ in 0..2 {
        caller.del(&sandboxes[0])?.ensure_says("")?;
    }
    let mut nowhere = sandboxes[0].clone();
    nowhere.netns = "".into();
    caller.del(&nowhere)?.ensure_says("")?;
    ensure!(notes(&scene)? == 1, "the other is not touched");
    let status = scene.status()?;
    ensure!(awaited(&status) == ["shop/b"], "{status}");
    // The agent away, the interface still there.
    scene.node.stop()?;
    Caller::new(&scene.node)
        .del(&sandboxes[1])?
        .ensure_says("")?;
    ensure!(notes(&scene)? == 0);
    let status = scene.start("hold")?;
    ensure!(awaited(&status).is_empty(), "{status}");
    scene.node.lab.delete_pod("shop/b")?;
    wait_for("the pins of what is gone to go", BOUND, || {
        scene.status().is_ok() && links(&scene).is_ok_and(|links| links == 4)
    })
    .with_context(|| format!("{:?}", links(&scene)))?;
    scene.node.finish()
}

/// Pins of programs on pods' interfaces.
fn links(scene: &Scene) -> Result<usize> {
    let root = scene.node.bpffs().join("policy-agent");
    let files = crate::node::files_below(&root)?;
    let is_pods = |file: &&PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with("-from") || name.ends_with("-to")
    };
    Ok(files.iter().filter(is_pods).count())
}

#[test]
fn check_finds_what_was_taken_off_and_what_was_never_added() -> Result<()> {
    let mut scene = Scene::new("cni-check", Wiring::Routed)?;
    scene.start("hold")?;
    let (db, ()) = scene.wire("shop/db", |_| Ok(()))?;
    scene.show_without_address(&db, "uid-db")?;
    let sandbox = Sandbox::of(&db, "uid-db");
    let caller = Caller::new(&scene.node);
    caller.check(&sandbox)?.ensure_fails(101)?;
    caller.add(&sandbox)?.ensure_says(&sandbox.result)?;
    caller.check(&sandbox)?.ensure_says("")?;
    scene.node.stop()?;
    Caller::new(&scene.node).check(&sandbox)?.ensure_says("")?;
    // Somebody detaches the program while nobody looks.
    let index = index_of(&scene, db.node_interface().context("a veth")?)?;
    scene.node.take_off(|pin| pin == format!("{index}-from"))?;
    Caller::new(&scene.node)
        .check(&sandbox)?
        .ensure_fails(101)?;
    scene.start("hold")?;
    Caller::new(&scene.node).check(&sandbox)?.ensure_says("")?;
    scene.node.finish()
}

fn index_of(scene: &Scene, interface: &str) -> Result<u64> {
    let mut ip = Command::new("ip");
    ip.args(["-j", "link", "show", interface]);
    let output = scene.node.lab.node().netns().output(&mut ip)?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    links[0]["ifindex"].as_u64().context("an index")
}

#[test]
fn gc_takes_back_what_is_not_in_the_list() -> Result<()> {
    let mut scene = Scene::new("cni-gc", Wiring::Routed)?;
    scene.start("hold")?;
    let mut sandboxes = Vec::new();
    for name in ["shop/a", "shop/b"] {
        let (host, ()) = scene.wire(name, |_| Ok(()))?;
        let sandbox = Sandbox::of(&host, name);
        Caller::waiting(&scene.node, SOON)
            .add(&sandbox)?
            .ensure_says(&sandbox.result)?;
        sandboxes.push(sandbox);
    }
    let caller = Caller::new(&scene.node);
    caller
        .gc(&[&sandboxes[0], &sandboxes[1]])?
        .ensure_says("")?;
    ensure!(notes(&scene)? == 2);
    caller.gc(&[&sandboxes[0]])?.ensure_says("")?;
    ensure!(notes(&scene)? == 1);
    let status = scene.status()?;
    ensure!(awaited(&status) == ["shop/a"], "{status}");
    scene.node.stop()?;
    Caller::new(&scene.node).gc(&[])?.ensure_says("")?;
    ensure!(notes(&scene)? == 0);
    scene.node.finish()
}

#[test]
fn a_pod_without_a_veth_is_refused() -> Result<()> {
    let mut scene = Scene::new("cni-none", Wiring::Routed)?;
    scene.start("hold")?;
    let (db, ()) = scene.wire("shop/db", |_| Ok(()))?;
    let mut sandbox = Sandbox::of(&db, "uid-db");
    // Nothing leads to the fabric's hosts from the node.
    let outside = scene.node.lab.outside("far", None, None)?;
    sandbox.netns = outside.netns().path().to_owned();
    Caller::new(&scene.node).add(&sandbox)?.ensure_fails(100)?;
    sandbox.netns = "/does/not/exist".into();
    Caller::new(&scene.node).add(&sandbox)?.ensure_fails(5)?;
    ensure!(notes(&scene)? == 0);
    let shown = bpftool(&["link", "show"])?;
    ensure!(shown.is_array());
    scene.node.finish()
}

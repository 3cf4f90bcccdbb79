//! Interfaces that nobody knows: held or left alone, and measured.

use std::fs;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::Wiring;
use serde_json::{Value, json};

use super::{Scene, ensure_node_reaches, in_force, reaches};
use crate::expect::serve;
use crate::folder::Pod;
use crate::node::BOUND;

fn interface<'s>(status: &'s Value, name: &str) -> Option<&'s Value> {
    let all = status["other_interfaces"].as_array()?;
    all.iter().find(|other| other["interface"] == name)
}

#[test]
fn what_appears_is_held_until_it_is_known_and_what_was_there_never() -> Result<()> {
    let mut scene = Scene::new("cni-hold", Wiring::Bridged)?;
    let (before, _server) = scene.wire("shop/before", serve)?;
    scene.start("hold")?;
    ensure!(
        reaches(&scene.web, &before)?,
        "it was there before the agent"
    );
    let (new, _other) = scene.wire("shop/new", serve)?;
    let status = scene.node.settle()?;
    let shown = interface(&status, new.node_interface().context("a veth")?);
    ensure!(shown.is_some_and(|shown| shown["held"] == true), "{status}");
    ensure!(!reaches(&scene.web, &new)? && !reaches(&new, &before)?);
    ensure_node_reaches(&scene.node, &new)?;
    // A restart does not let it go.
    scene.node.agent().kill()?;
    scene.start("hold")?;
    ensure!(!reaches(&scene.web, &new)? && reaches(&scene.web, &before)?);
    scene.node.show(&Pod::of(&new, "uid").label("app", "db"))?;
    let status = scene.node.settle()?;
    ensure!(in_force(&status, "shop/new"), "{status}");
    ensure!(reaches(&scene.web, &new)? && !reaches(&scene.stranger, &new)?);
    ensure!(status["unprotected_total"] == 0, "{status}");
    scene.node.finish()
}

#[test]
fn what_passes_is_measured_when_it_turns_out_to_be_an_isolated_pod() -> Result<()> {
    let mut scene = Scene::new("cni-pass", Wiring::Routed)?;
    scene.start("pass")?;
    let (new, _server) = scene.wire("shop/new", serve)?;
    scene.node.settle()?;
    ensure!(reaches(&scene.stranger, &new)?, "nobody knows it");
    scene
        .node
        .show(&Pod::of(&new, "uid-new").label("app", "db"))?;
    let status = scene.node.settle()?;
    ensure!(!reaches(&scene.stranger, &new)? && reaches(&scene.web, &new)?);
    let open = &status["unprotected"][0];
    ensure!(
        open["pod"] == "shop/new" && open["uid"] == "uid-new",
        "{status}"
    );
    ensure!(open["before_agent"] == false, "{status}");
    ensure!(
        open["milliseconds"].as_u64().is_some_and(|ms| ms > 0),
        "{status}"
    );
    ensure!(status["unprotected_total"] == 1, "{status}");
    scene.node.finish()
}

#[test]
fn the_plugin_is_chained_follows_the_network_and_goes_without_a_trace() -> Result<()> {
    let mut scene = Scene::new("cni-install", Wiring::Routed)?;
    let dir = scene.node.lab.dir().to_owned();
    let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
    fs::create_dir(&conf)?;
    let list =
        |kind: &str| json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": kind}]});
    let text = |path: &std::path::Path| path.display().to_string();
    let (run_dir, bpffs) = (text(&scene.node.run_dir()), text(&scene.node.bpffs()));
    let (bin_dir, conf_dir) = (text(&bin), text(&conf));
    let folders = [
        "--cni-bin-dir",
        &bin_dir,
        "--cni-conf-dir",
        &conf_dir,
        "--run-dir",
        &run_dir,
    ];
    let install: Vec<&str> = ["cni", "install"]
        .into_iter()
        .chain(folders)
        .chain(["--bpffs", &bpffs])
        .collect();
    let uninstall: Vec<&str> = ["cni", "uninstall"].into_iter().chain(folders).collect();

    let output = scene.node.run(&install)?;
    ensure!(
        output.status.code() == Some(1),
        "no network yet: {output:?}"
    );
    fs::write(conf.join("10-n.conflist"), list("bridge").to_string())?;
    let output = scene.node.run(&install)?;
    ensure!(output.status.success(), "{output:?}");
    let ours = conf.join("00-00-policy-agent.conflist");
    let kinds = || -> Result<Vec<Value>> {
        let list: Value = serde_json::from_slice(&fs::read(&ours)?)?;
        let plugins = list["plugins"].as_array().context("plugins")?;
        Ok(plugins
            .iter()
            .map(|plugin| plugin["type"].clone())
            .collect())
    };
    ensure!(kinds()? == ["policy-cni", "bridge", "policy-cni"]);
    // What is installed is the plugin.
    let mut plugin = std::process::Command::new(bin.join("policy-cni"));
    let output = plugin.env_clear().env("CNI_COMMAND", "VERSION").output()?;
    let versions: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        versions["supportedVersions"]
            .as_array()
            .is_some_and(|all| all.contains(&json!("1.1.0")))
    );

    let mut command = scene.command("hold");
    command.arg("--cni-conf-dir").arg(&conf);
    scene.node.start_command(command)?;
    scene.node.settle()?;
    fs::write(conf.join("10-n.conflist"), list("ptp").to_string())?;
    policy_tests::lab::wait_for("the change to be followed", BOUND, || {
        kinds().is_ok_and(|kinds| kinds == ["policy-cni", "ptp", "policy-cni"])
    })?;
    fs::remove_file(&ours)?;
    policy_tests::lab::wait_for("what was deleted to be back", BOUND, || ours.exists())?;
    // Half a file of the network's is a diagnostic and no change.
    fs::write(conf.join("10-n.conflist"), "{")?;
    policy_tests::lab::wait_for("the diagnostic", BOUND, || {
        scene
            .status()
            .is_ok_and(|status| status["diagnostics"].to_string().contains("10-n.conflist"))
    })?;
    ensure!(kinds()? == ["policy-cni", "ptp", "policy-cni"]);
    let output = scene.node.run(&uninstall)?;
    ensure!(output.status.code() == Some(1), "an agent runs: {output:?}");
    ensure!(ours.exists(), "nothing was removed");
    scene.node.stop()?;
    ensure!(ours.exists(), "it outlives the agent");
    for _ in 0..2 {
        let output = scene.node.run(&uninstall)?;
        ensure!(output.status.success(), "{output:?}");
    }
    let left: Vec<_> = fs::read_dir(&conf)?.chain(fs::read_dir(&bin)?).collect();
    ensure!(left.len() == 1, "the network's own alone: {left:?}");
    scene.node.finish()
}

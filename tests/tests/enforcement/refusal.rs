//! When the agent refuses to start, it says why and what to do, and changes
//! nothing; and the emergency switch.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Host, Server, Wiring};

use crate::expect::{expect, serve};
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node};

/// `shop/web` may talk to `shop/db`, and `shop/other` may not; no agent yet.
struct Shop {
    node: Node,
    pods: [Host; 3],
    _server: Server,
}

impl Shop {
    fn new(name: &str) -> Result<Self> {
        let mut node = Node::new(name, Wiring::Routed)?;
        let pods =
            ["db", "web", "other"].map(|app| node.pod(&format!("shop/{app}"), &[("app", app)]));
        let [db, web, other] = pods;
        let pods = [db?, web?, other?];
        let server = serve(&pods[0])?;
        node.folder.put_all(
            "p.json",
            &[allow(Way::Ingress, "shop/p", "db", &[("web", &[])])],
        )?;
        Ok(Self {
            node,
            pods,
            _server: server,
        })
    }

    fn enforced(&self, is: bool) -> Result<()> {
        let [db, web, other] = &self.pods;
        expect(&[(web, db, true), (other, db, !is)])
    }

    /// Runs a command in the node that has to end with an error; what it said.
    fn refused(&mut self, command: Command) -> Result<String> {
        let process = self.node.lab.spawn_in_node(command)?;
        let status = process.wait(BOUND)?;
        ensure!(
            status.code().is_some_and(|code| code != 0),
            "{}",
            process.describe()
        );
        ensure!(process.stdout().is_empty(), "{}", process.describe());
        Ok(process.stderr())
    }
}

fn says(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not in: {text}");
    }
    Ok(())
}

#[test]
fn second_agent_is_refused_and_the_first_goes_on() -> Result<()> {
    let mut shop = Shop::new("second")?;
    shop.node.start()?;
    let same = shop.node.run_command(shop.node.binary());
    let text = shop.refused(same)?;
    says(&text, &["another agent", "--run-dir"])?;
    // Another run directory, the same pins.
    let mut same_pins = Command::new(shop.node.binary());
    same_pins
        .arg("run")
        .arg("--manifests")
        .arg(shop.node.folder.path())
        .arg("--run-dir")
        .arg(shop.node.lab.dir().join("run2"))
        .arg("--bpffs")
        .arg(shop.node.bpffs());
    let text = shop.refused(same_pins)?;
    says(&text, &["another agent", "--bpffs"])?;
    let mut cleanup = Command::new(shop.node.binary());
    cleanup
        .args(["cleanup", "--run-dir"])
        .arg(shop.node.run_dir())
        .arg("--bpffs")
        .arg(shop.node.bpffs());
    let text = shop.refused(cleanup)?;
    says(&text, &["another agent"])?;
    shop.node.settle()?;
    shop.enforced(true)?;
    shop.node.finish()
}

#[test]
fn maps_of_another_layout_are_refused_with_the_next_step() -> Result<()> {
    let mut shop = Shop::new("layout")?;
    shop.node.start()?;
    shop.node.stop()?;
    let maps = maps_dir(&shop.node)?;
    let pin = maps.join("pa_id4");
    let kept = maps.with_file_name("pa_id4-kept");
    fs::rename(&pin, &kept)?;
    let made = Command::new("bpftool")
        .args(["map", "create"])
        .arg(&pin)
        .args([
            "type", "hash", "key", "4", "value", "99", "entries", "7", "name", "pa_id4",
        ])
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let text = shop.refused(shop.node.run_command(shop.node.binary()))?;
    says(&text, &["pa_id4", "value size", "policy-agent cleanup"])?;
    // What is in force stays in force.
    shop.enforced(true)?;
    fs::remove_file(&pin)?;
    fs::rename(&kept, &pin)?;
    shop.node.start()?;
    shop.enforced(true)?;
    shop.node.finish()
}

#[test]
fn pins_of_another_version_are_in_the_status_with_the_next_step() -> Result<()> {
    let mut shop = Shop::new("version")?;
    shop.node.start()?;
    shop.node.stop()?;
    let other = shop.node.bpffs().join("policy-agent/v0/maps");
    fs::create_dir_all(&other)?;
    let made = Command::new("bpftool")
        .args(["map", "create"])
        .arg(other.join("pa_old"))
        .args([
            "type", "array", "key", "4", "value", "8", "entries", "1", "name", "pa_old",
        ])
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    shop.node.start()?;
    let status = shop.node.settle()?;
    says(
        &status["diagnostics"].to_string(),
        &["policy-agent/v0", "another version", "policy-agent cleanup"],
    )?;
    shop.enforced(true)?;
    // Which removes those of every version.
    shop.node.finish()
}

fn maps_dir(node: &Node) -> Result<std::path::PathBuf> {
    let root = node.bpffs().join("policy-agent");
    let versions = fs::read_dir(&root)?;
    let version = versions.flatten().next().context("a version")?;
    Ok(version.path().join("maps"))
}

#[test]
fn missing_permissions_and_file_systems_have_a_next_step() -> Result<()> {
    let mut shop = Shop::new("permission")?;
    let run = shop.node.run_command(shop.node.binary());
    let mut powerless = Command::new("setpriv");
    powerless
        .args(["--bounding-set=-all", "--inh-caps=-all", "--"])
        .arg(run.get_program())
        .args(run.get_args());
    let text = shop.refused(powerless)?;
    says(&text, &["CAP_"])?;

    // A folder that is no BPF file system and cannot become one.
    let mut elsewhere = Command::new(shop.node.binary());
    let nowhere = Path::new("/proc/1/no-such-folder");
    elsewhere
        .arg("run")
        .arg("--manifests")
        .arg(shop.node.folder.path())
        .arg("--run-dir")
        .arg(shop.node.run_dir())
        .arg("--bpffs")
        .arg(nowhere);
    let text = shop.refused(elsewhere)?;
    says(&text, &["/proc/1/no-such-folder", "--bpffs"])?;

    // Neither left anything in the way.
    shop.node.start()?;
    shop.enforced(true)?;
    shop.node.finish()
}

#[test]
fn emergency_switch_opens_everything_and_closes_it_again() -> Result<()> {
    let mut shop = Shop::new("switch")?;
    shop.node.start()?;
    shop.enforced(true)?;
    for (word, on) in [("off", false), ("on", true), ("off", false)] {
        shop.switch(word)?;
        let status = shop.node.settle()?;
        ensure!(status["enforcing"] == on, "{status}");
        shop.enforced(on)?;
    }
    // It outlives the agent, which says so.
    shop.node.stop()?;
    shop.enforced(false)?;
    shop.node.start()?;
    let status = shop.node.settle()?;
    ensure!(status["enforcing"] == false, "{status}");
    shop.enforced(false)?;
    shop.switch("on")?;
    shop.enforced(true)?;
    shop.node.finish()
}

impl Shop {
    fn switch(&self, word: &str) -> Result<()> {
        let bpffs = self.node.bpffs();
        let output = self
            .node
            .run(&["enforce", word, "--bpffs", &bpffs.display().to_string()])?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }
}

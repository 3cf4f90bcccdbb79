//! The node's pod range while nobody has its addresses: without the plugin, nothing
//! that others send is received by a pod before its policies are in force, not even
//! by its kernel, and from then on what they allow.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use policy_agent::datapath::Pins;
use policy_common::abi::maps::PROTECTED;
use policy_tests::lab::{Family, Host, UdpSpec, UdpStream, Wiring, wait_for};
use serde_json::Value;

use super::hold::{ENOUGH, born_unheld, delivered, ensure_delivered};
use super::{Scene, ensure_node_reaches, ensure_nothing_arrived, ensure_nothing_lost, reaches};
use crate::expect::serve;
use crate::folder::Pod;
use crate::node::BOUND;

/// The lab's, as the Node object of a cluster would say.
const RANGE: &str = "10.244.0.0/16,fd10:244::/64";
const ALLOWED: u16 = 8_001;
const FLOOD_FROM_OUTSIDE: u16 = 8_002;

impl Scene {
    /// Starts an agent that leaves unknown interfaces alone, so that nothing but the
    /// range keeps packets from a pod.
    fn start_closed(&mut self, range: Option<&str>) -> Result<Value> {
        let mut command = self.command("pass");
        if let Some(range) = range {
            command.args(["--pod-range", range]);
        }
        self.node.start_command(command)?;
        self.node.settle()
    }

    /// The API server has the pod now, with its addresses.
    fn show_as_db(&self, pod: &Host) -> Result<()> {
        self.node.show(&Pod::of(pod, "uid").label("app", "db"))
    }
}

/// Datagrams from outside the node, of the older family.
fn from_outside(far: &Host, pod: &Host) -> Result<UdpStream> {
    let family = Family::V4;
    let spec = UdpSpec::new(far, pod, family, FLOOD_FROM_OUTSIDE)?;
    UdpStream::start(&spec.interval(Duration::from_micros(500)))
}

fn nothing_is_received_before_policies_are_in_force(wiring: Wiring) -> Result<()> {
    let mut scene = Scene::new("closed", wiring)?;
    let address = Ipv4Addr::new(192, 168, 77, 99);
    let far = scene.node.lab.outside("far", address, None)?;
    let with_far = |pod: &Host| Ok(vec![from_outside(&far, pod)?]);
    scene.start_closed(None)?;
    let (open, streams) = born_unheld(&mut scene, "shop/open", |_| Ok(Vec::new()))?;
    ensure_delivered(&open, "without a range")?;
    drop(streams);
    scene.node.lab.delete_pod("shop/open")?;
    scene.node.stop()?;

    scene.start_closed(Some(RANGE))?;
    let (db, denied) = born_unheld(&mut scene, "shop/db", with_far)?;
    ensure!(denied.len() == 3, "both families here, one from outside");
    ensure!(delivered(&db)? == 0, "{}", delivered(&db)?);
    let _server = serve(&db)?;
    ensure!(
        !reaches(&scene.web, &db)?,
        "whatever policies may allow later"
    );
    ensure_node_reaches(&scene.node, &db)?;

    scene.show_as_db(&db)?;
    scene.node.settle()?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    ensure_nothing_lost(&scene.web, &db, ALLOWED)?;

    // While no agent runs.
    scene.node.stop()?;
    let (late, also_denied) = born_unheld(&mut scene, "shop/late", with_far)?;
    ensure!(delivered(&late)? == 0, "{}", delivered(&late)?);
    ensure_nothing_lost(&scene.web, &db, ALLOWED)?;
    let _server = serve(&late)?;
    scene.start_closed(Some(RANGE))?;
    scene.show_as_db(&late)?;
    scene.node.settle()?;
    ensure!(reaches(&scene.web, &late)? && !reaches(&scene.stranger, &late)?);
    ensure_nothing_arrived(denied)?;
    ensure_nothing_arrived(also_denied)?;
    scene.node.stop()?;

    // Without it again, nothing is closed.
    scene.start_closed(None)?;
    let (open, streams) = born_unheld(&mut scene, "shop/open", |_| Ok(Vec::new()))?;
    ensure_delivered(&open, "opened again")?;
    ensure!(streams.iter().all(|stream| stream.sent() > ENOUGH));
    drop(streams);
    scene.node.finish()
}

#[test]
fn nothing_is_received_by_a_bridged_pod_before_its_policies_are_in_force() -> Result<()> {
    nothing_is_received_before_policies_are_in_force(Wiring::Bridged)
}

#[test]
fn nothing_is_received_by_a_routed_pod_before_its_policies_are_in_force() -> Result<()> {
    nothing_is_received_before_policies_are_in_force(Wiring::Routed)
}

#[test]
fn the_range_of_the_node_object_is_followed_and_repaired() -> Result<()> {
    let mut scene = Scene::new("closed-node", Wiring::Bridged)?;
    let status = scene.start_closed(Some("node"))?;
    let told = |status: &Value| status["diagnostics"].to_string();
    ensure!(told(&status).contains("spec.podCIDRs"), "{status}");
    let (open, streams) = born_unheld(&mut scene, "shop/open", |_| Ok(Vec::new()))?;
    ensure_delivered(&open, "the node has no range")?;
    drop(streams);

    scene
        .node
        .give_range(&RANGE.split(',').collect::<Vec<_>>())?;
    let status = scene.node.settle()?;
    ensure!(!told(&status).contains("spec.podCIDRs"), "{status}");
    let map = Pins::new(scene.node.bpffs()).map(PROTECTED);
    let dump = Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(&map)
        .output()?;
    let rows: Value = serde_json::from_slice(&dump.stdout)?;
    // Two pods in two families, and the gateways.
    ensure!(
        rows.as_array().is_some_and(|rows| rows.len() == 6),
        "{rows}"
    );
    let (db, denied) = born_unheld(&mut scene, "shop/db", |_| Ok(Vec::new()))?;
    ensure!(delivered(&db)? == 0, "{}", delivered(&db)?);

    // Nothing opens while there is no Node, not even for the next agent.
    scene.node.folder.remove("node.json")?;
    scene.node.settle()?;
    scene.node.stop()?;
    scene.start_closed(Some("node"))?;
    let (late, late_denied) = born_unheld(&mut scene, "shop/late", |_| Ok(Vec::new()))?;
    ensure!(delivered(&late)? == 0, "{}", delivered(&late)?);
    ensure_nothing_arrived(late_denied)?;

    // A row that somebody removed is there again.
    let web = scene.web.address(Family::V4)?;
    let IpAddr::V4(v4) = web else {
        bail!("{web} is of the other family")
    };
    let key = v4.to_ipv6_mapped().octets().map(|byte| byte.to_string());
    let mut delete = Command::new("bpftool");
    delete
        .args(["map", "delete", "pinned"])
        .arg(&map)
        .arg("key");
    ensure!(delete.args(&key).status()?.success());
    let _server = serve(&scene.web)?;
    wait_for("the row to be put back", BOUND, || {
        reaches(&scene.stranger, &scene.web).unwrap_or(false)
    })?;
    ensure_nothing_arrived(denied)?;
    scene.node.finish()
}

//! The node's pod range while nobody has its addresses: without the plugin, nothing
//! that others send is received by a pod before its policies are in force, not even
//! by its kernel, and from then on what they allow.

use anyhow::{Result, ensure};
use policy_tests::lab::{Host, UdpSpec, UdpStream, Wiring};

use super::hold::{ENOUGH, born_unheld, delivered};
use super::{Scene, ensure_nothing_arrived, ensure_nothing_lost, reaches};
use crate::expect::serve;
use crate::node::BOUND;

/// The lab's, as the Node object of a cluster would say.
const RANGE: &str = "10.244.0.0/16,fd10:244::/64";
const ALLOWED: u16 = 8_001;
const FLOOD_FROM_OUTSIDE: u16 = 8_002;

impl Scene {
    /// Starts an agent that leaves unknown interfaces alone, so that nothing but the
    /// range keeps packets from a pod.
    fn start_closed(&mut self, range: Option<&str>) -> Result<serde_json::Value> {
        let mut command = self.command("pass");
        if let Some(range) = range {
            command.args(["--pod-range", range]);
        }
        self.node.start_command(command)?;
        self.node.settle()
    }

    /// The API server has the pod now, with its addresses.
    fn show_as_db(&self, pod: &Host) -> Result<()> {
        self.node
            .show(&crate::folder::Pod::of(pod, "uid").label("app", "db"))
    }
}

/// Datagrams from outside the node, of the older family.
fn from_outside(far: &Host, pod: &Host) -> Result<UdpStream> {
    let family = policy_tests::lab::Family::V4;
    let spec = UdpSpec::new(far, pod, family, FLOOD_FROM_OUTSIDE)?;
    UdpStream::start(&spec.interval(std::time::Duration::from_micros(500)))
}

fn nothing_is_received_before_policies_are_in_force(wiring: Wiring) -> Result<()> {
    let mut scene = Scene::new("closed", wiring)?;
    let address = std::net::Ipv4Addr::new(192, 168, 77, 99);
    let far = scene.node.lab.outside("far", address, None)?;
    scene.start_closed(None)?;
    let (open, streams) = born_unheld(&mut scene, "shop/open", |_| Ok(Vec::new()))?;
    ensure!(delivered(&open)? > 0, "without a range");
    drop(streams);
    scene.node.lab.delete_pod("shop/open")?;
    scene.node.stop()?;

    scene.start_closed(Some(RANGE))?;
    let afar = far.clone();
    let with_far = move |pod: &Host| Ok(vec![from_outside(&afar, pod)?]);
    let (db, denied) = born_unheld(&mut scene, "shop/db", with_far)?;
    ensure!(denied.len() == 3, "both families here, one from outside");
    ensure!(delivered(&db)? == 0, "{}", delivered(&db)?);
    let _server = serve(&db)?;
    ensure!(
        !reaches(&scene.web, &db)?,
        "whatever policies may allow later"
    );
    super::ensure_node_reaches(&scene.node, &db)?;

    scene.show_as_db(&db)?;
    scene.node.settle()?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    ensure_nothing_lost(&scene.web, &db, ALLOWED)?;

    // While no agent runs.
    scene.node.stop()?;
    let afar = far.clone();
    let with_far = move |pod: &Host| Ok(vec![from_outside(&afar, pod)?]);
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
    ensure!(delivered(&open)? > 0, "opened again");
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
    let told = |status: &serde_json::Value| status["diagnostics"].to_string();
    ensure!(told(&status).contains("spec.podCIDRs"), "{status}");
    let (open, streams) = born_unheld(&mut scene, "shop/open", |_| Ok(Vec::new()))?;
    ensure!(delivered(&open)? > 0, "the node has no range");
    drop(streams);

    scene
        .node
        .give_range(&RANGE.split(',').collect::<Vec<_>>())?;
    let status = scene.node.settle()?;
    ensure!(!told(&status).contains("spec.podCIDRs"), "{status}");
    let pin = |name: &str| {
        scene
            .node
            .bpffs()
            .join(format!("policy-agent/v4/maps/{name}"))
    };
    let map = pin("pa_protected");
    let dump = std::process::Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(&map)
        .output()?;
    let rows: serde_json::Value = serde_json::from_slice(&dump.stdout)?;
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
    let web = scene.web.address(policy_tests::lab::Family::V4)?;
    let std::net::IpAddr::V4(v4) = web else {
        anyhow::bail!("{web} is of the other family")
    };
    let key = v4.to_ipv6_mapped().octets().map(|byte| byte.to_string());
    let mut delete = std::process::Command::new("bpftool");
    delete
        .args(["map", "delete", "pinned"])
        .arg(&map)
        .arg("key");
    ensure!(delete.args(&key).status()?.success());
    let _server = serve(&scene.web)?;
    policy_tests::lab::wait_for("the row to be put back", BOUND, || {
        reaches(&scene.stranger, &scene.web).unwrap_or(false)
    })?;
    ensure_nothing_arrived(denied)?;
    scene.node.finish()
}

//! The plugin's first stage: nothing is received in a pod's network namespace
//! before there are programs to judge it, not even by its kernel.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, Snmp, UdpStream, Wiring, now_ns, wait_for};

use super::caller::{Caller, Sandbox};
use super::{Scene, ensure_nothing_arrived, ensure_nothing_lost, flood, reaches};
use crate::expect::serve;
use crate::node::BOUND;

pub(super) const FLOOD: u16 = 8_000;
const ALLOWED: u16 = 8_001;
/// How many datagrams of a flood are enough.
pub(super) const ENOUGH: usize = 200;

/// Datagrams and segments of both families that the namespace's kernel has taken
/// in, by its counters.
pub(super) fn delivered(host: &Host) -> Result<u64> {
    let snmp = host.netns().run(Snmp::read)??;
    // Of the older family whatever arrives; neighbour discovery is of the newer.
    Ok(snmp.v4("Ip", "InDelivers")?
        + snmp.v4("Tcp", "InSegs")?
        + snmp.v6("Udp6InDatagrams")?
        + snmp.v6("Udp6NoPorts")?)
}

/// Waits until the namespace's kernel has taken something in.
pub(super) fn ensure_delivered(host: &Host, when: &str) -> Result<()> {
    let taken_in = || delivered(host).is_ok_and(|count| count > 0);
    wait_for("something to be received", BOUND, taken_in)
        .map(drop)
        .with_context(|| when.to_owned())
}

/// Waits until so many datagrams more were sent to a pod that has its link.
pub(super) fn wait_for_flood(streams: &[UdpStream]) -> Result<()> {
    let before: Vec<usize> = streams.iter().map(UdpStream::sent).collect();
    let more = || {
        let mut all = streams.iter().zip(&before);
        all.all(|(stream, before)| stream.sent() >= before + ENOUGH)
    };
    wait_for("datagrams", BOUND, more).map(drop)
}

/// Whether the node has found out who has an address, by ARP and by discovery.
fn is_found(node: &Host, pod: &Host) -> Result<bool> {
    for family in Family::BOTH {
        let address = pod.address(family)?.to_string();
        let mut ip = Command::new("ip");
        let output = node
            .netns()
            .output(ip.args(["neigh", "show", "to", &address]))?;
        if !String::from_utf8_lossy(&output.stdout).contains("lladdr") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn tables(host: &Host) -> Result<String> {
    let output = host
        .netns()
        .output(Command::new("nft").args(["list", "tables"]))?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// A pod into a flood, without the first stage, and into what else `more` sends.
pub(super) fn born_unheld(
    scene: &mut Scene,
    name: &str,
    more: impl Fn(&Host) -> Result<Vec<UdpStream>>,
) -> Result<(Host, Vec<UdpStream>)> {
    let stranger = scene.stranger.clone();
    let (v4, v6) = scene.node.free_addresses();
    let streams = |pod: &Host| {
        let mut streams = flood(&stranger, pod, FLOOD)?;
        streams.extend(more(pod)?);
        Ok(streams)
    };
    let lab = &mut scene.node.lab;
    let (pod, streams) = lab.pod_prepared_early(name, v4, v6, |_| Ok(()), streams)?;
    wait_for_flood(&streams)?;
    Ok((pod, streams))
}

/// A pod into a flood, held or not while it gets its interface.
fn born(scene: &mut Scene, name: &str, held: bool) -> Result<(Host, Vec<UdpStream>)> {
    let stranger = scene.stranger.clone();
    let caller = Caller::new(&scene.node);
    let hold = |pod: &Host| -> Result<()> {
        if held {
            let said = caller.hold("ADD", &Sandbox::of(pod, "uid"))?;
            said.ensure_says(r#"{"cniVersion":"1.0.0"}"#)?;
            ensure!(said.stderr.is_empty(), "{said:?}");
        }
        Ok(())
    };
    let (v4, v6) = scene.node.free_addresses();
    let lab = &mut scene.node.lab;
    let (pod, streams) =
        lab.pod_prepared_early(name, v4, v6, hold, |pod| flood(&stranger, pod, FLOOD))?;
    wait_for_flood(&streams)?;
    Ok((pod, streams))
}

fn nothing_is_received_before_policies_are_in_force(wiring: Wiring) -> Result<()> {
    let mut scene = Scene::new("cni-held", wiring)?;
    // Programs would come onto the interface by themselves.
    scene.start("pass")?;
    let (open, streams) = born(&mut scene, "shop/open", false)?;
    ensure_delivered(&open, "without the first stage")?;
    drop(streams);

    let (db, denied) = born(&mut scene, "shop/db", true)?;
    let _server = serve(&db)?;
    if wiring == Wiring::Routed {
        // Neighbours do not have to wait when it is let go.
        let node = scene.node.lab.node();
        wait_for("the pod to be found", BOUND, || {
            is_found(node, &db).unwrap_or(false)
        })?;
    }
    ensure!(!reaches(&scene.web, &db)? && !reaches(scene.node.lab.node(), &db)?);
    wait_for_flood(&denied)?;
    ensure!(delivered(&db)? == 0, "{}", delivered(&db)?);

    scene.show_without_address(&db, "uid")?;
    let sandbox = Sandbox::of(&db, "uid");
    let caller = Caller::new(&scene.node);
    caller.check(&sandbox)?.ensure_fails(101)?;
    ensure!(delivered(&db)? == 0, "a check changes nothing");
    caller.add(&sandbox)?.ensure_says(&sandbox.result)?;
    ensure_nothing_lost(&scene.web, &db, ALLOWED)?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    caller.check(&sandbox)?.ensure_says("")?;
    ensure!(tables(&db)?.is_empty(), "{}", tables(&db)?);
    ensure_nothing_arrived(denied)?;
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
fn a_namespace_stays_held_when_its_pod_could_not_be_protected() -> Result<()> {
    let mut scene = Scene::new("cni-held-on", Wiring::Routed)?;
    // No agent has run: there is nothing to protect it with.
    let (db, denied) = born(&mut scene, "shop/db", true)?;
    let sandbox = Sandbox::of(&db, "uid");
    let caller = Caller::new(&scene.node);
    caller.add(&sandbox)?.ensure_fails(11)?;
    wait_for_flood(&denied)?;
    ensure!(delivered(&db)? == 0, "{}", delivered(&db)?);
    for command in ["CHECK", "DEL", "GC", "STATUS"] {
        caller.hold(command, &sandbox)?.ensure_says("")?;
    }
    ensure!(tables(&db)?.contains("policy-cni-hold"), "{}", tables(&db)?);
    drop(denied);
    // Tried again in the same namespace, when an agent is there.
    scene.start("hold")?;
    scene.show_without_address(&db, "uid")?;
    caller.add(&sandbox)?.ensure_says(&sandbox.result)?;
    let _server = serve(&db)?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    scene.node.finish()
}

#[test]
fn a_namespace_that_is_in_use_is_not_held_again() -> Result<()> {
    let mut scene = Scene::new("cni-held-use", Wiring::Bridged)?;
    scene.start("hold")?;
    let (db, ()) = scene.wire("shop/db", |_| Ok(()))?;
    let _server = serve(&db)?;
    scene.show_without_address(&db, "uid")?;
    let sandbox = Sandbox::of(&db, "uid");
    let caller = Caller::new(&scene.node);
    caller.add(&sandbox)?.ensure_says(&sandbox.result)?;
    let steady = flood(&scene.web, &db, ALLOWED)?;
    let from = now_ns();
    let said = caller.hold("ADD", &sandbox)?;
    said.ensure_says(r#"{"cniVersion":"1.0.0"}"#)?;
    ensure!(said.stderr.contains("in use"), "{said:?}");
    wait_for_flood(&steady)?;
    for stream in steady {
        let report = stream.stop()?;
        ensure!(report.lost().is_empty(), "allowed: {}", report.summary());
        ensure!(report.sent_ns.last().is_some_and(|last| *last > from));
    }
    // What cannot be entered cannot be held.
    let mut gone = sandbox.clone();
    gone.netns = "/does/not/exist".into();
    caller.hold("ADD", &gone)?.ensure_fails(11)?;
    scene.node.finish()
}

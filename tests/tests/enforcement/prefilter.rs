//! The XDP prefilter: sources that the operator denies never reach the stack.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use policy_tests::lab::{Family, Host, Outcome, Probe, Proto, Wiring, matrix};
use serde_json::json;

use crate::expect::{PORT, serve};
use crate::node::Node;

/// Asks as `expect` does. A host on the link whose solicitations are dropped too
/// may find no route.
fn ask(pairs: &[(&Host, &Host, bool)]) -> Result<()> {
    let (mut probes, mut passing) = (Vec::new(), Vec::new());
    for (from, to, passes) in pairs {
        for family in Family::BOTH {
            for proto in [Proto::Tcp, Proto::Udp] {
                probes.push(Probe::new(from, to, family, PORT, proto)?);
                passing.push(*passes);
            }
        }
    }
    for ((probe, outcome), passes) in probes.iter().zip(matrix(&probes)?).zip(passing) {
        ensure!(
            outcome.is_connected() == passes && outcome != Outcome::Refused,
            "{probe}: {outcome}, and passing is to be {passes}"
        );
    }
    Ok(())
}

fn denied_sources_are_dropped(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("prefilter", wiring)?;
    let pod = node.pod("shop/web", &[])?;
    let outside = |last: u8| {
        let v4 = Ipv4Addr::new(198, 51, 100, last);
        (v4, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()))
    };
    let (v4, v6) = outside(7);
    let first = node.lab.outside("first", v4, v6)?;
    let (v4, v6) = outside(200);
    let second = node.lab.outside("second", v4, v6)?;
    let to_node = node.lab.node().clone();
    let _servers = [serve(&pod)?, serve(&to_node)?];
    let list = node.lab.dir().join("deny.txt");
    let deny = |text: &str| fs::write(&list, text);
    deny("# first of the two\n198.51.100.0/25\n2001:db8::/121 # likewise\n")?;
    let mut command = node.run_command(node.binary());
    command
        .args([
            "--prefilter-interface",
            to_node.interface(),
            "--deny-prefixes",
        ])
        .arg(&list);
    node.start_command(command)?;
    let status = node.settle()?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    let ask = |first_passes, second_passes| {
        ask(&[
            (&first, &pod, first_passes),
            (&first, &to_node, first_passes),
            (&second, &pod, second_passes),
            (&second, &to_node, second_passes),
        ])
    };
    ask(false, true)?;

    // Another list; then one that cannot be read, which changes nothing.
    deny("198.51.100.200\n2001:db8::c8\n")?;
    node.settle()?;
    ask(true, false)?;
    deny("198.51.100.7\nnonsense\n")?;
    let status = node.settle()?;
    let diagnostics = status["diagnostics"].to_string();
    ensure!(
        diagnostics.contains("deny.txt") && diagnostics.contains("line 2"),
        "{diagnostics}"
    );
    ask(true, false)?;
    // It outlives the agent, and an empty list lets everybody in.
    node.stop()?;
    ask(true, false)?;
    deny("")?;
    let mut command = node.run_command(node.binary());
    command
        .args([
            "--prefilter-interface",
            to_node.interface(),
            "--deny-prefixes",
        ])
        .arg(&list);
    node.start_command(command)?;
    node.settle()?;
    ask(true, true)?;
    // Without the option the program is taken away.
    deny("198.51.100.7\n")?;
    node.stop()?;
    node.start()?;
    ask(true, true)?;
    node.finish()
}

#[test]
fn prefilter_drops_denied_sources_before_bridged_pods() -> Result<()> {
    denied_sources_are_dropped(Wiring::Bridged)
}

#[test]
fn prefilter_drops_denied_sources_before_routed_pods() -> Result<()> {
    denied_sources_are_dropped(Wiring::Routed)
}

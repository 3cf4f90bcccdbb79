//! Connections that are older than the agent: those that policy allows go on,
//! also where the next word is the other side's; the others end.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use policy_tests::lab::{Family, Host, Wiring};
use serde_json::json;

use crate::node::Node;
use crate::silent::{Subscription, arrives};

const PORT: u16 = 9000;
/// Bounds what arrives at once; what is denied is waited for as long.
const SOON: Duration = Duration::from_secs(2);

/// Connection tracking works in a namespace once a rule asks for it.
fn track(node: &Host) -> Result<()> {
    for rule in [
        "add table inet earlier",
        "add chain inet earlier seen { type filter hook forward priority 0; }",
        "add rule inet earlier seen ct state invalid accept",
    ] {
        let output = node.netns().output(Command::new("nft").arg(rule))?;
        ensure!(output.status.success(), "nft {rule}: {output:?}");
    }
    Ok(())
}

/// Whether a datagram arrives that nobody has subscribed to.
fn unasked(feed: &Host, reader: &Host, family: Family) -> Result<bool> {
    let bind = |host: &Host| -> Result<UdpSocket> {
        let address = host.address(family)?;
        Ok(host.netns().run(|| UdpSocket::bind((address, 0)))??)
    };
    let (from, to) = (bind(feed)?, bind(reader)?);
    to.set_read_timeout(Some(SOON))?;
    from.send_to(b"stray", to.local_addr()?)?;
    arrives(|| to.recv(&mut [0; 16]))
}

fn isolate(pod: &str, types: &[&str]) -> serde_json::Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": format!("isolate-{pod}"), "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": pod}}, "policyTypes": types},
    })
}

#[test]
fn what_policy_allows_goes_on_and_what_it_denies_ends() -> Result<()> {
    let mut node = Node::new("earlier", Wiring::Routed)?;
    track(node.lab.node())?;
    let [feed, reader, muted] =
        ["feed", "reader", "muted"].map(|app| node.pod(&format!("shop/{app}"), &[("app", app)]));
    let (feed, reader, muted) = (feed?, reader?, muted?);
    node.folder.put_all(
        "isolated.json",
        &[
            // May send, so that answers are due to it.
            isolate("reader", &["Ingress"]),
            // May not send, and so has opened nothing.
            isolate("muted", &["Ingress", "Egress"]),
        ],
    )?;
    let mut subscribed = Vec::new();
    for (port, family) in (PORT..).zip(Family::BOTH) {
        let allowed = Subscription::open(&reader, &feed, family, port, SOON)?;
        let denied = Subscription::open(&muted, &feed, family, port + 10, SOON)?;
        subscribed.push((family, allowed, denied));
    }

    node.start()?;
    for (family, allowed, denied) in &mut subscribed {
        ensure!(
            allowed.delivers()? == (true, true),
            "{family:?}: the reader opened them, which it may"
        );
        ensure!(
            denied.delivers()? == (false, false),
            "{family:?}: the muted one may not open them"
        );
        ensure!(
            !unasked(&feed, &reader, *family)?,
            "{family:?}: nobody asked for that"
        );
    }
    node.finish()
}

//! Pods, namespaces, labels and policies come and go while the agent runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, UdpSpec, UdpStream, Wiring, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::expect::{expect, serve};
use crate::folder::{Pod, Way, allow};
use crate::node::{BOUND, Node};

/// Time between datagrams.
const EVERY: Duration = Duration::from_micros(500);

/// Deletes a pod as a node does: its interface, then its object.
fn remove(node: &mut Node, host: &Host) -> Result<()> {
    node.lab.delete_pod(host.name())?;
    let file = Pod::of(host, "").file();
    node.folder.remove(&file)
}

fn endpoint<'a>(status: &'a Value, pod: &str) -> Option<&'a Value> {
    let endpoints = status["endpoints"].as_array()?;
    endpoints.iter().find(|endpoint| endpoint["pod"] == pod)
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<String, Value> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn in_both_wirings(test: fn(Wiring) -> Result<()>) -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        test(wiring).with_context(|| format!("{wiring:?}"))?;
    }
    Ok(())
}

/// Each change and its opposite, of everything that policies look at.
fn every_change_converges(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("changes", wiring)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let far = node.pod("lab/far", &[("app", "web")])?;
    let _servers = [serve(&db)?, serve(&web)?, serve(&far)?];
    node.start()?;
    let all = |web_db: bool, far_db: bool, db_web: bool| {
        expect(&[
            (&web, &db, web_db),
            (&far, &db, far_db),
            (&db, &web, db_web),
        ])
    };
    all(true, true, true)?;

    // Policies appear, change, and go.
    node.apply("p.json", &[allow(Way::Ingress, "shop/p", "db", &[])])?;
    all(false, false, true)?;
    node.apply(
        "p.json",
        &[allow(Way::Ingress, "shop/p", "db", &[("web", &[])])],
    )?;
    all(true, false, true)?;
    node.apply("q.json", &[allow(Way::Egress, "shop/q", "db", &[])])?;
    all(true, false, false)?;
    node.withdraw("q.json")?;
    all(true, false, true)?;
    // The same name in a new file with another content, in one change.
    node.folder.remove("p.json")?;
    node.apply(
        "r.json",
        &[allow(Way::Ingress, "shop/p", "db", &[("nobody", &[])])],
    )?;
    all(false, false, true)?;
    node.withdraw("r.json")?;
    all(true, true, true)?;

    // Labels of peers and of the subject.
    node.apply(
        "p.json",
        &[allow(Way::Ingress, "shop/p", "db", &[("web", &[])])],
    )?;
    node.show(&Pod::of(&web, "uid-2").label("app", "api"))?;
    node.settle()?;
    all(false, false, true)?;
    node.show(&Pod::of(&web, "uid-2").label("app", "web"))?;
    node.settle()?;
    all(true, false, true)?;
    node.show(&Pod::of(&db, "uid-1").label("app", "free"))?;
    node.settle()?;
    all(true, true, true)?;
    node.show(&Pod::of(&db, "uid-1").label("app", "db"))?;
    node.settle()?;
    all(true, false, true)?;

    // Namespaces.
    let by_team = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "p"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]}],
        },
    });
    node.apply("p.json", &[by_team])?;
    all(false, false, true)?;
    node.apply("ns.json", &[namespace("lab", &[("team", "a")])])?;
    all(false, true, true)?;
    node.apply("ns.json", &[namespace("lab", &[("team", "b")])])?;
    all(false, false, true)?;
    node.apply(
        "ns.json",
        &[
            namespace("lab", &[("team", "a")]),
            namespace("shop", &[("team", "a")]),
        ],
    )?;
    all(true, true, true)?;
    node.withdraw("ns.json")?;
    all(false, false, true)?;
    node.withdraw("p.json")?;
    all(true, true, true)?;
    node.finish()
}

#[test]
fn every_change_and_its_opposite_take_effect() -> Result<()> {
    in_both_wirings(every_change_converges)
}

fn pods_come_and_go(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("coming", wiring)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let mut servers = vec![serve(&db)?];
    let policies = [
        allow(Way::Ingress, "shop/db", "db", &[("web", &[])]),
        allow(Way::Ingress, "shop/web", "web", &[("db", &[])]),
    ];
    node.folder.put_all("policies.json", &policies)?;
    node.start()?;
    for round in 0..3 {
        let web = node.pod(&format!("shop/web-{round}"), &[("app", "web")])?;
        let bare = node.pod(&format!("shop/bare-{round}"), &[])?;
        servers.push(serve(&web)?);
        servers.push(serve(&bare)?);
        let status = node.settle()?;
        let shown = endpoint(&status, web.name()).context("the new pod is an endpoint")?;
        ensure!(
            shown["interface"] == json!(web.node_interface()) && shown["programmed"] == true,
            "{shown}"
        );
        expect(&[
            (&web, &db, true),
            (&bare, &db, false),
            (&db, &web, true),
            (&bare, &web, false),
            (&web, &bare, true),
        ])?;
        remove(&mut node, &web)?;
        remove(&mut node, &bare)?;
        let status = node.settle()?;
        ensure!(endpoint(&status, web.name()).is_none(), "{status}");
        ensure!(
            status["diagnostics"] == json!([]),
            "{}",
            status["diagnostics"]
        );
    }
    let status = node.settle()?;
    let count = status["endpoints"].as_array().map(Vec::len);
    ensure!(count == Some(1), "{status}");
    node.finish()
}

#[test]
fn pods_that_come_are_enforced_and_those_that_go_leave_nothing() -> Result<()> {
    in_both_wirings(pods_come_and_go)
}

fn order_of_pod_and_interface(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("order", wiring)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let mut servers = vec![serve(&db)?];
    node.folder.put_all(
        "policies.json",
        &[
            allow(Way::Ingress, "shop/db", "db", &[("web", &[])]),
            allow(Way::Ingress, "shop/web", "web", &[("db", &[])]),
        ],
    )?;
    node.start()?;

    // Listed first: the interface is missed, said to be, and enforced when it is
    // there.
    let (v4, v6) = node.free_addresses();
    let mut early = Pod::of(&db, "uid-early").label("app", "web");
    early.name = "shop/early".into();
    early.addresses = vec![v4.to_string(), v6.to_string()];
    node.show(&early)?;
    let status = node.settle()?;
    let diagnostics = status["diagnostics"].to_string();
    ensure!(
        diagnostics.contains("Pod shop/early") && diagnostics.contains("behind no interface"),
        "{diagnostics}"
    );
    let early = node.lab.pod("shop/early", v4, v6)?;
    servers.push(serve(&early)?);

    // There first: left alone until it is listed.
    let late = node.host("shop/late")?;
    servers.push(serve(&late)?);
    let status = node.settle()?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    let others = status["other_interfaces"].to_string();
    ensure!(
        late.node_interface()
            .is_some_and(|name| others.contains(name)),
        "{others}"
    );
    expect(&[
        (&early, &db, true),
        (&late, &db, false),
        (&late, &early, false),
        (&db, &early, true),
        (&early, &late, true),
    ])?;
    node.show(&Pod::of(&late, "uid-late").label("app", "web"))?;
    node.settle()?;
    expect(&[
        (&late, &db, true),
        (&late, &early, false),
        (&early, &late, false),
        (&db, &late, true),
    ])?;
    node.finish()
}

#[test]
fn pod_and_interface_may_come_in_any_order() -> Result<()> {
    in_both_wirings(order_of_pod_and_interface)
}

/// Without asking the agent for anything: it hears of interfaces by itself.
fn noticed_without_being_asked(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("noticed", wiring)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let other = node.pod("shop/other", &[("app", "other")])?;
    node.folder.put_all(
        "policies.json",
        &[allow(Way::Ingress, "shop/db", "db", &[("web", &[])])],
    )?;
    node.start()?;
    let denied = UdpStream::start(&UdpSpec::new(&other, &db, Family::V4, 80)?.interval(EVERY))?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let allowed = UdpStream::start(&UdpSpec::new(&web, &db, Family::V4, 81)?.interval(EVERY))?;
    wait_for("the new pod to be a peer", BOUND, || allowed.received() > 0)?;
    node.lab.delete_pod(web.name())?;
    drop(allowed);
    node.folder.remove("policies.json")?;
    wait_for("the policy to end", BOUND, || denied.received() > 0)?;
    let denied = denied.stop()?;
    ensure!(denied.arrivals[0].seq > 0, "it was denied at first");
    drop(web);
    node.finish()
}

#[test]
fn agent_notices_pods_and_files_by_itself() -> Result<()> {
    in_both_wirings(noticed_without_being_asked)
}

/// The same addresses, another pod; and the same five-tuple as before.
fn address_used_again(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("reuse", wiring)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let peer = node.pod("shop/peer", &[("app", "peer")])?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let addresses = (web.v4(), web.v6());
    let mut servers = vec![serve(&db)?, serve(&web)?];
    node.folder.put_all(
        "policies.json",
        &[
            allow(Way::Ingress, "shop/db", "db", &[("web", &[])]),
            allow(Way::Ingress, "shop/web", "web", &[("db", &[])]),
        ],
    )?;
    node.start()?;
    expect(&[(&web, &db, true), (&peer, &web, false)])?;
    let stream = |from: &Host| -> Result<UdpStream> {
        let mut spec = UdpSpec::new(from, &db, Family::V4, 8000)?.interval(EVERY);
        spec.source_port = 4000;
        UdpStream::start(&spec.reply())
    };
    let before = stream(&web)?;
    before.wait_until_flowing(BOUND)?;
    drop(before);
    servers.pop();
    remove(&mut node, &web)?;

    // What was allowed to send is not any more, and what was isolated is open.
    let stranger = node.lab.pod("shop/stranger", addresses.0, addresses.1)?;
    let _server = serve(&stranger)?;
    node.show(&Pod::of(&stranger, "uid-stranger").label("app", "stranger"))?;
    node.settle()?;
    let denied = stream(&stranger)?;
    wait_for("datagrams to be sent", BOUND, || denied.sent() > 200)?;
    expect(&[(&stranger, &db, false), (&peer, &stranger, true)])?;
    let report = denied.stop()?;
    ensure!(
        report.arrivals.is_empty(),
        "by an old record: {}",
        report.summary()
    );

    // And once more the other way round, the new pod listed before the old one
    // is gone.
    let heir = Pod::of(&stranger, "uid-heir").label("app", "web");
    node.lab.delete_pod(stranger.name())?;
    let new = node.lab.pod("shop/heir", addresses.0, addresses.1)?;
    let mut heir_shown = heir.clone();
    heir_shown.name = "shop/heir".into();
    node.folder.remove(&heir.file())?;
    node.show(&heir_shown)?;
    let _second = serve(&new)?;
    node.settle()?;
    expect(&[(&new, &db, true), (&peer, &new, false)])?;
    node.finish()
}

#[test]
fn address_of_a_pod_that_is_gone_has_the_new_pods_rights() -> Result<()> {
    in_both_wirings(address_used_again)
}

/// Everything happens to the pods while there is no agent.
fn missed_while_away(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("away", wiring)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let gone = node.pod("shop/gone", &[("app", "web")])?;
    let mut servers = vec![serve(&db)?, serve(&web)?];
    node.folder.put_all(
        "policies.json",
        &[
            allow(Way::Ingress, "shop/db", "db", &[("web", &[])]),
            allow(Way::Ingress, "shop/web", "web", &[("db", &[])]),
        ],
    )?;
    node.start()?;
    expect(&[(&web, &db, true), (&gone, &db, true), (&gone, &web, false)])?;

    node.agent().kill()?;
    // A pod goes, and another one gets its addresses; a new one comes; one gets
    // another interface, as after a restart of its sandbox.
    let addresses = (gone.v4(), gone.v6());
    remove(&mut node, &gone)?;
    let heir = node.lab.pod("shop/heir", addresses.0, addresses.1)?;
    node.show(&Pod::of(&heir, "uid-heir").label("app", "other"))?;
    let new = node.pod("shop/new", &[("app", "web")])?;
    servers.push(serve(&new)?);
    let again = (web.v4(), web.v6());
    servers.remove(1);
    node.lab.delete_pod(web.name())?;
    let web = node.lab.pod("shop/web", again.0, again.1)?;
    servers.push(serve(&web)?);
    node.start()?;
    let status = node.settle()?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    expect(&[
        (&heir, &db, false),
        (&new, &db, true),
        (&web, &db, true),
        (&heir, &web, false),
        (&heir, &new, false),
        (&db, &new, true),
        (&db, &web, true),
    ])?;
    node.finish()
}

#[test]
fn what_happened_without_an_agent_is_found_at_its_start() -> Result<()> {
    in_both_wirings(missed_while_away)
}

/// A link that somebody takes away is found by the periodic comparison.
fn repaired(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("repair", wiring)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let _server = serve(&db)?;
    let policy = allow(Way::Ingress, "shop/db", "db", &[]);
    node.folder.put_all("p.json", &[policy])?;
    node.start()?;
    expect(&[(&web, &db, false)])?;
    // It would be repaired before anybody could see that it is off.
    node.agent().signal(Signal::STOP)?;
    let off = node
        .take_off(|_| true)
        .and_then(|()| expect(&[(&web, &db, true)]));
    node.agent().signal(Signal::CONT)?;
    off?;
    let mut repairs = json!(0);
    wait_for("the links to be repaired", BOUND, || {
        // Without asking it to look.
        let output = node
            .status(&[])
            .map(|output| output.stdout)
            .unwrap_or_default();
        let status: Value = serde_json::from_slice(&output).unwrap_or_default();
        repairs = status["repairs"].clone();
        repairs.as_u64().is_some_and(|count| count > 0)
    })?;
    expect(&[(&web, &db, false)])?;
    node.finish()
}

#[test]
fn links_that_somebody_detached_are_found_and_attached_again() -> Result<()> {
    in_both_wirings(repaired)
}

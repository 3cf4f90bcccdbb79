//! What is in force outlives the agent, and nothing is lost when it ends or comes.
//!
//! Datagrams, open connections and new ones run all the time, allowed and denied
//! ones, while the agent is killed, restarted and replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    ChurnSpec, Family, Host, Probe, Proto, ServeSpec, Server, TcpChurn, TcpFlow, TcpSpec, UdpSpec,
    UdpStream, Wiring, fewer, probe,
};

use crate::expect::ensure_undisturbed;
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node, bpftool, files_below};

/// Rounds of killing, and of ending in good order, for each wiring, on a real
/// machine.
const ROUNDS: usize = 25;
/// Versions that replace each other, likewise.
const UPGRADES: usize = 5;
/// Layouts of maps that follow the one in use, one after the other, and the maps
/// that each makes anew (`datapath::layout`): the other ones stay.
const LAYOUTS: [(&str, &[&str]); 2] = [
    ("1", &["pa_policy"]),
    ("2", &["pa_ct", "pa_ct_open", "pa_ct_pending"]),
];
/// Maps of which nothing outlives a layout.
const TRANSIENT: [&str; 6] = [
    "pa_counters",
    "pa_event_tokens",
    "pa_events",
    "pa_flows",
    "pa_peer_memo",
    "pa_policy_memo",
];
/// Time between datagrams.
const EVERY: Duration = Duration::from_micros(500);

const PORT: u16 = 80;
const CHURN_PORT: u16 = 81;

/// Traffic of one pair of pods.
struct Load {
    udp: Vec<UdpStream>,
    tcp: Vec<TcpFlow>,
    churn: Vec<TcpChurn>,
}

impl Load {
    fn start(from: &Host, to: &Host, port: u16) -> Result<Self> {
        let mut load = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            churn: Vec::new(),
        };
        for family in Family::BOTH {
            let datagrams = UdpSpec::new(from, to, family, port)?.interval(EVERY);
            load.udp.push(UdpStream::start(&datagrams.reply())?);
            let connections = ChurnSpec::new(from, to, family, CHURN_PORT)?;
            load.churn.push(TcpChurn::start(&connections)?);
        }
        Ok(load)
    }

    /// Adds a connection that stays open.
    fn connected(mut self, from: &Host, to: &Host) -> Result<Self> {
        for family in Family::BOTH {
            self.tcp
                .push(TcpFlow::start(&TcpSpec::new(from, to, family, PORT)?)?);
        }
        Ok(self)
    }

    /// Waits until everything has made progress from now on.
    fn wait_until_flowing(&self) -> Result<()> {
        for stream in &self.udp {
            stream.wait_until_flowing(BOUND)?;
        }
        for flow in &self.tcp {
            flow.wait_until_flowing(BOUND)?;
        }
        for churn in &self.churn {
            let before = churn.succeeded();
            policy_tests::lab::wait_for("a new connection", BOUND, || churn.succeeded() > before)?;
        }
        Ok(())
    }

    fn ensure_nothing_lost(self, server: &Server) -> Result<()> {
        for stream in self.udp {
            let report = stream.stop()?;
            ensure!(
                report.lost().is_empty() && report.unanswered().is_empty(),
                "datagrams: {}, lost {:?}",
                report.summary(),
                report.lost()
            );
            println!("{}", report.summary());
        }
        let flows = self.tcp.into_iter().map(TcpFlow::stop);
        let flows = flows.collect::<Result<Vec<_>>>()?;
        for churn in self.churn {
            let report = churn.stop()?;
            ensure!(report.is_undisturbed(), "new connections: {report:?}");
            println!(
                "{} new connections, slowest {:?}",
                report.succeeded, report.slowest
            );
        }
        ensure_undisturbed(server, &flows)?;
        for report in flows {
            println!("{}", report.summary());
        }
        Ok(())
    }

    fn ensure_nothing_passed(self) -> Result<()> {
        for stream in self.udp {
            let report = stream.stop()?;
            ensure!(report.arrivals.is_empty(), "denied: {}", report.summary());
            ensure!(report.sent_ns.len() > 1000, "{}", report.summary());
        }
        for churn in self.churn {
            let report = churn.stop()?;
            ensure!(
                report.succeeded == 0 && !report.failed.is_empty(),
                "denied connections: {report:?}"
            );
        }
        Ok(())
    }
}

/// Makes a change while there is no agent, and the next one puts it in force.
fn change_without_agent(node: &mut Node, newcomer: &Host, to: &Host) -> Result<()> {
    let ask = || -> Result<Vec<bool>> {
        let ask = |family| probe(&Probe::new(newcomer, to, family, PORT, Proto::Tcp)?);
        let answers = Family::BOTH.into_iter().map(ask);
        answers.map(|answer| Ok(answer?.is_connected())).collect()
    };
    for (rules, passes) in [
        (&[("web", &[][..]), ("newcomer", &[])][..], true),
        (&[("web", &[])], false),
    ] {
        node.agent().kill()?;
        let policy = allow(Way::Ingress, "shop/db", "db", rules);
        node.folder.put_all("db.json", &[policy])?;
        ensure!(
            ask()? == [!passes; 2],
            "the old policy, as long as there is no agent"
        );
        node.start()?;
        ensure!(ask()? == [passes; 2], "the new policy after the start");
    }
    Ok(())
}

fn programs(node: &Node) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let objects = node.kernel_objects()?;
    let of = |kind: &str| {
        let objects = objects.iter().filter(|(of, _)| *of == kind);
        objects.map(|(_, id)| *id).collect()
    };
    Ok((of("link"), of("prog")))
}

fn outlived(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("restart", wiring)?;
    let [web, stranger, newcomer, db] = ["web", "stranger", "newcomer", "db"]
        .map(|app| node.pod(&format!("shop/{app}"), &[("app", app)]));
    let (web, stranger, newcomer, db) = (web?, stranger?, newcomer?, db?);
    node.folder.put_all(
        "db.json",
        &[allow(Way::Ingress, "shop/db", "db", &[("web", &[])])],
    )?;
    node.folder.put_all(
        "web.json",
        &[allow(Way::Egress, "shop/web", "web", &[("db", &[])])],
    )?;
    let spec = ServeSpec {
        tcp: vec![PORT, CHURN_PORT],
        ..ServeSpec::default()
    };
    let server = Server::start(&db, &spec)?;
    node.start()?;

    let allowed = Load::start(&web, &db, 8000)?.connected(&web, &db)?;
    let denied = Load::start(&stranger, &db, 8001)?;
    allowed.wait_until_flowing()?;
    for round in 0..fewer(ROUNDS) {
        let gone = || format!("kill {round}");
        node.agent().kill()?;
        allowed.wait_until_flowing().with_context(gone)?;
        node.start()?;
        allowed.wait_until_flowing().with_context(gone)?;
    }
    let (_, kept) = programs(&node)?;
    for round in 0..fewer(ROUNDS) {
        let gone = || format!("restart {round}");
        node.stop()?;
        allowed.wait_until_flowing().with_context(gone)?;
        node.start()?;
        allowed.wait_until_flowing().with_context(gone)?;
    }
    let (_, now) = programs(&node)?;
    ensure!(kept == now, "the same programs are not loaded again");
    for version in 0..fewer(UPGRADES) {
        let copy = node.lab.dir().join(format!("policy-agent-{version}"));
        fs::copy(node.binary(), &copy)?;
        upgrade(&mut node, &copy)?;
        allowed.wait_until_flowing()?;
    }
    change_without_agent(&mut node, &newcomer, &db)?;
    for (layout, anew) in LAYOUTS {
        node.rehearse_layout(layout);
        migrate(&mut node, anew).with_context(|| format!("layout {layout}"))?;
        allowed.wait_until_flowing()?;
    }
    // The two loads end at the same time: each waits a while for late packets.
    thread::scope(|scope| {
        let allowed = scope.spawn(|| allowed.ensure_nothing_lost(&server));
        denied.ensure_nothing_passed()?;
        allowed.join().expect("stopping does not panic")
    })?;
    node.finish()
}

/// The pins of what is on interfaces, by name: links, or filters on kernels without
/// TCX, which have no id.
fn hooks(node: &Node) -> Result<BTreeSet<OsString>> {
    let pins = files_below(&node.bpffs().join("policy-agent"))?;
    let on_interfaces = pins.iter().filter(|pin| {
        let folder = pin.parent();
        folder.is_some_and(|folder| folder.ends_with("links"))
    });
    let names = on_interfaces.filter_map(|pin| pin.file_name());
    Ok(names.map(OsStr::to_owned).collect())
}

/// Ends one agent and starts another: links stay, programs are replaced.
fn upgrade(node: &mut Node, binary: &Path) -> Result<()> {
    let (links, before) = programs(node)?;
    let hooked = hooks(node)?;
    ensure!(!hooked.is_empty() && !before.is_empty());
    node.stop()?;
    forget_programs(node)?;
    node.start_command(node.run_command(binary))?;
    node.settle()?;
    let (links_now, now) = programs(node)?;
    ensure!(links == links_now, "links {links:?} became {links_now:?}");
    let hooked_now = hooks(node)?;
    ensure!(hooked == hooked_now, "{hooked:?} became {hooked_now:?}");
    ensure!(
        before.is_disjoint(&now),
        "programs {before:?} are still there"
    );
    Ok(())
}

/// Another release has other programs. This one's would be taken for what they are,
/// the same, but for the pin that says so.
fn forget_programs(node: &Node) -> Result<()> {
    let mut forgotten = 0;
    for file in files_below(&node.bpffs().join("policy-agent"))? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("same-") {
            fs::remove_file(&file)?;
            forgotten += 1;
        }
    }
    ensure!(
        forgotten == 1,
        "{forgotten} pins say which programs these are"
    );
    Ok(())
}

/// After a way back to an older layout, what that one has kept up is taken over,
/// and not what the newer one left when it went.
#[test]
fn a_newer_layout_takes_over_from_the_older_one_that_followed_it() -> Result<()> {
    let mut node = Node::new("way-back", Wiring::Routed)?;
    let [web, stranger, db] =
        ["web", "stranger", "db"].map(|app| node.pod(&format!("shop/{app}"), &[("app", app)]));
    let (web, stranger, db) = (web?, stranger?, db?);
    let _server = Server::start(&db, &ServeSpec::ports(&[PORT]))?;
    let reaches = |from: &Host| -> Result<bool> {
        Ok(probe(&Probe::new(from, &db, Family::V4, PORT, Proto::Tcp)?)?.is_connected())
    };
    let allow_only = |app| allow(Way::Ingress, "shop/db", "db", &[(app, &[])]);
    let (newer, anew) = LAYOUTS[0];
    node.folder.put_all("db.json", &[allow_only("stranger")])?;
    node.rehearse_layout(newer);
    node.start()?;
    ensure!(reaches(&stranger)? && !reaches(&web)?, "the newer one");
    node.stop()?;

    node.rehearse_layout("0");
    node.start()?;
    node.apply("db.json", &[allow_only("web")])?;
    ensure!(!reaches(&stranger)?, "the older one denies it");
    let kept_up = maps_of(&node, Some(policy_common::abi::ABI_VERSION))?;
    node.stop()?;

    node.rehearse_layout(newer);
    node.start()?;
    ensure!(
        !reaches(&stranger)? && reaches(&web)?,
        "the newer one again"
    );
    for (name, id) in maps(&node)? {
        let shared = !anew.contains(&name.as_str()) && !TRANSIENT.contains(&name.as_str());
        ensure!(
            !shared || kept_up.get(&name) == Some(&id),
            "{name} is not the older version's: {kept_up:?}"
        );
    }
    node.finish()
}

/// Ends one agent and starts another, whose maps have another layout.
fn migrate(node: &mut Node, anew: &[&str]) -> Result<()> {
    let before = maps(node)?;
    let binary = node.binary().to_owned();
    upgrade(node, &binary)?;
    let after = maps(node)?;
    ensure!(before.len() == after.len(), "{before:?} became {after:?}");
    let mut changed: Vec<&str> = Vec::new();
    for (name, id) in &before {
        ensure!(after.contains_key(name), "{name} is not pinned any more");
        if after[name] != *id && !TRANSIENT.contains(&name.as_str()) {
            changed.push(name);
        }
    }
    ensure!(
        changed == anew,
        "made anew: {changed:?}, expected: {anew:?}"
    );
    let status = node.settle()?;
    let problems = status["diagnostics"].as_array();
    ensure!(
        problems.is_some_and(Vec::is_empty),
        "nothing is wrong afterwards: {status}"
    );
    Ok(())
}

/// Name and id of every pinned map, of whatever version.
fn maps(node: &Node) -> Result<BTreeMap<String, u64>> {
    maps_of(node, None)
}

/// Name and id of every pinned map of a version.
fn maps_of(node: &Node, version: Option<u32>) -> Result<BTreeMap<String, u64>> {
    let root = node.bpffs().join("policy-agent");
    let root = version.map_or_else(|| root.clone(), |version| root.join(format!("v{version}")));
    let mut maps = BTreeMap::new();
    for pin in files_below(&root)? {
        let name = pin.file_name().and_then(|name| name.to_str());
        let name = name.context("a pin has a name")?.to_owned();
        if name.starts_with("pa_") {
            let path = pin.display().to_string();
            let shown = bpftool(&["map", "show", "pinned", &path])?;
            let id = shown["id"].as_u64().context("a map has an id")?;
            let twice = maps.insert(name, id);
            ensure!(twice.is_none(), "{path}: two versions are pinned");
        }
    }
    Ok(maps)
}

#[test]
fn kills_restarts_and_upgrades_disturb_nothing_between_bridged_pods() -> Result<()> {
    outlived(Wiring::Bridged)
}

#[test]
fn kills_restarts_and_upgrades_disturb_nothing_between_routed_pods() -> Result<()> {
    outlived(Wiring::Routed)
}

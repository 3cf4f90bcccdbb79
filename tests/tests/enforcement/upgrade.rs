//! One agent replaces another: of another release, or with maps of another layout.
//! Whatever is attached stays, policies stay in force and connections known.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, Probe, Proto, ServeSpec, Server, Wiring, probe};

use crate::expect::PORT;
use crate::folder::{Way, allow};
use crate::node::{Node, bpftool, files_below};

/// Layouts of maps that follow the one in use, one after the other, and the maps
/// that each makes anew (`datapath::layout`): the other ones stay.
pub(crate) const LAYOUTS: [(&str, &[&str]); 2] = [
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
/// The map of confirmed records of connections.
const CONFIRMED: &str = "pa_ct";
/// Maps with records of connections.
const RECORDS: [&str; 3] = [CONFIRMED, "pa_ct_open", "pa_ct_pending"];

/// Ids of links and of programs.
pub(crate) fn programs(node: &Node) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let objects = node.kernel_objects()?;
    let of = |kind: &str| {
        let objects = objects.iter().filter(|(of, _)| *of == kind);
        objects.map(|(_, id)| *id).collect()
    };
    Ok((of("link"), of("prog")))
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
pub(crate) fn upgrade(node: &mut Node, binary: &Path) -> Result<()> {
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

/// Ends one agent and starts another, whose maps have another layout and the same
/// records in them.
pub(crate) fn migrate(node: &mut Node, anew: &[&str], records: &[Record]) -> Result<()> {
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
    for record in records {
        let kept = record.is_in(node, record.map) || record.is_in(node, CONFIRMED);
        ensure!(kept, "forgotten: {record:?}");
    }
    let status = node.settle()?;
    let problems = status["diagnostics"].as_array();
    ensure!(
        problems.is_some_and(Vec::is_empty),
        "nothing is wrong afterwards: {status}"
    );
    Ok(())
}

/// A record of a connection that stays open.
#[derive(Debug)]
pub(crate) struct Record {
    map: &'static str,
    /// As bpftool writes its bytes.
    key: Vec<String>,
}

impl Record {
    /// Whether a map holds it; as soon as it is confirmed that is [`CONFIRMED`].
    fn is_in(&self, node: &Node, map: &str) -> bool {
        let found = pin_of(node, map).and_then(|pin| {
            let mut lookup = vec!["map", "lookup", "pinned", &pin, "key"];
            lookup.extend(self.key.iter().map(String::as_str));
            bpftool(&lookup)
        });
        found.is_ok()
    }
}

/// The records of all connections but those to one port, which come and go.
pub(crate) fn records(node: &Node, but: u16) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for map in RECORDS {
        let before = records.len();
        let rows = bpftool(&["map", "dump", "pinned", &pin_of(node, map)?])?;
        for row in rows.as_array().context("a list of rows")? {
            let key = &row["formatted"]["key"];
            let [local, peer] = ["local_port", "peer_port"].map(|end| key[end].as_u64());
            let ports = [local.context("a port")?, peer.context("a port")?];
            if !ports.contains(&but.into()) {
                let bytes = row["key"].as_array().context("a key")?.iter();
                let bytes = bytes.map(|byte| byte.as_str().map(str::to_owned));
                let key = bytes.collect::<Option<_>>().context("bytes")?;
                records.push(Record { map, key });
            }
        }
        ensure!(records.len() > before, "{map} holds nothing to keep");
    }
    Ok(records)
}

/// Where a map is pinned, of whatever version.
fn pin_of(node: &Node, map: &str) -> Result<String> {
    let pins = files_below(&node.bpffs().join("policy-agent"))?;
    let pin = pins.iter().find(|pin| pin.ends_with(map));
    let pin = pin.with_context(|| format!("{map} is pinned"))?;
    Ok(pin.display().to_string())
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

//! What bpftool shows: maps with named fields, and nothing after `cleanup`.

use anyhow::{Context, Result, ensure};
use policy_tests::lab::Wiring;
use serde_json::Value;

use crate::expect::{expect, serve};
use crate::folder::{Way, allow};
use crate::node::{Node, bpftool, files_below};

/// Maps that hold entries in this test; a dump of none of them may be empty.
const FILLED: [&str; 10] = [
    "pa_ifindex",
    "pa_endpoints",
    "pa_id4",
    "pa_id6",
    "pa_cidr4",
    "pa_policy",
    "pa_port_sets",
    "pa_ct",
    "pa_config",
    "pa_counters",
];

/// A named part somewhere in what BTF makes of keys and values.
fn has_names(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => items.iter().any(has_names),
        _ => false,
    }
}

#[test]
fn bpftool_prints_every_map_with_named_fields() -> Result<()> {
    let mut node = Node::new("maps", Wiring::Bridged)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let other = node.pod("shop/other", &[("app", "other")])?;
    let _server = serve(&db)?;
    let mut policy = allow(Way::Ingress, "shop/p", "db", &[("web", &[80, 81])]);
    let rules = policy["spec"]["ingress"].as_array_mut().context("rules")?;
    rules.push(serde_json::json!({"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}));
    node.folder.put_all("p.json", &[policy])?;
    node.start()?;
    expect(&[(&web, &db, true), (&other, &db, false)])?;

    let pins = files_below(&node.bpffs().join("policy-agent"))?;
    let maps = pins.iter().filter(|pin| {
        let dir = pin.parent();
        dir.is_some_and(|dir| dir.ends_with("maps"))
    });
    let mut seen = Vec::new();
    for pin in maps {
        let name = pin
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        let path = pin.display().to_string();
        let facts = bpftool(&["map", "show", "pinned", &path])?;
        ensure!(facts["name"] == name.as_str(), "{facts}");
        if facts["type"] == "ringbuf" {
            continue;
        }
        ensure!(
            facts["btf_id"].as_u64().is_some_and(|id| id > 0),
            "{name}: {facts}"
        );
        let entries = bpftool(&["map", "dump", "pinned", &path])?;
        let entries = entries.as_array().context("a list")?;
        if FILLED.contains(&name.as_str()) {
            ensure!(!entries.is_empty(), "{name} is empty");
        }
        for entry in entries.iter().take(1000) {
            let formatted = &entry["formatted"];
            let values = match formatted.get("values") {
                Some(values) => values,
                None => &formatted["value"],
            };
            // Keys of arrays are plain numbers; counters are single ones too.
            let plain = ["pa_counters", "pa_event_tokens"].contains(&name.as_str());
            ensure!(
                has_names(values) || plain && !values.is_null(),
                "{name}: {entry}"
            );
        }
        seen.push(name);
    }
    for name in FILLED {
        ensure!(
            seen.iter().any(|seen| seen == name),
            "{name} is not pinned: {seen:?}"
        );
    }
    println!("{} maps dumped: {seen:?}", seen.len());
    node.finish()
}

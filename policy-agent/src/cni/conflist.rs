//! The configuration that makes runtimes call the plugin: the network's own list
//! with our entry behind it, under a name that sorts first; before plugins that
//! are known to bear it also in front, so that there is a hold before there is an
//! interface. Pure.
//!
//! The network keeps its `name` (host-local stores leases by it) and its plugins
//! exactly as they are written. Others chain themselves into the file that sorts
//! first, so what somebody put into ours stays there when it is made again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::config::Stage;
use super::plugin::NAME;

/// Name of our file: before every other that has a number.
pub const FILE: &str = "00-00-policy-agent.conflist";

/// Endings of the files that runtimes read.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// First plugins that do not mind a result before theirs (tried in clusters, as
/// the CNI project ships them); of another one nobody knows whether it would take
/// that for the result of a plugin that it is chained to.
const HOLDABLE: [&str; 2] = ["bridge", "ptp"];

/// What our entries tell the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The agent's run directory, on the node.
    pub run_dir: &'a Path,
    /// Mount point of the BPF file system, on the node.
    pub bpffs: &'a Path,
    /// The kernel can hold namespaces.
    pub hold: bool,
}

/// Our file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Its text.
    pub text: String,
    /// Namespaces are held before their interface exists.
    pub holds: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OurPlugin<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    run_dir: &'a Path,
    bpffs: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chained: Option<Chained>,
}

/// What our file was made from.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Chained {
    /// Name of the network's own file.
    file: String,
    /// Types of the plugins in it.
    types: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Plugin {
    #[serde(rename = "type")]
    kind: String,
    run_dir: PathBuf,
    chained: Chained,
}

type Fields = BTreeMap<String, Box<RawValue>>;

/// The file that a runtime would take if ours was not there: the first by name.
pub fn first<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let is_configuration = |name: &&str| {
        let ending = Path::new(name).extension().and_then(|e| e.to_str());
        *name != FILE && ending.is_some_and(|ending| ENDINGS.contains(&ending))
    };
    names.filter(is_configuration).min()
}

/// Our file for the network in the file `name`; `ours` is what our file holds
/// now.
///
/// # Errors
/// What is wrong with the network's file.
pub fn chain(
    name: &str,
    network: &[u8],
    ours: Option<&[u8]>,
    entry: &Entry<'_>,
) -> Result<List, String> {
    let mut fields = list(network)?;
    let plugins = fields.remove("plugins").ok_or("it has no plugins")?;
    let plugins: Vec<Box<RawValue>> =
        serde_json::from_str(plugins.get()).map_err(|error| format!("plugins: {error}"))?;
    let mut all = Vec::new();
    let mut types = Vec::new();
    for (place, plugin) in plugins.into_iter().enumerate() {
        let kind = kind_of(&plugin).map_err(|error| format!("plugins[{place}]: {error}"))?;
        if kind.kind.is_empty() {
            return Err(format!("plugins[{place}]: it has no type"));
        }
        // A list that names us already is made ours all the same.
        if kind.kind != NAME {
            types.push(kind.kind);
            all.push(plugin);
        }
    }
    if all.is_empty() {
        return Err("plugins is empty".to_owned());
    }
    let holds = entry.hold
        && types
            .first()
            .is_some_and(|kind| HOLDABLE.contains(&kind.as_str()));
    let (before, after) = ours
        .map(|ours| added_by_others(ours, &types))
        .unwrap_or_default();
    let our_plugin = |stage, chained| {
        let plugin = OurPlugin {
            kind: NAME,
            run_dir: entry.run_dir,
            bpffs: entry.bpffs,
            stage,
            chained,
        };
        to_raw_value(&plugin).map_err(written)
    };
    if holds {
        all.insert(0, our_plugin(Some(Stage::Hold), None)?);
    }
    all.extend(before);
    let chained = Chained {
        file: name.to_owned(),
        types,
    };
    all.push(our_plugin(None, Some(chained))?);
    all.extend(after);
    fields.insert("plugins".to_owned(), to_raw_value(&all).map_err(written)?);
    let mut text = serde_json::to_string(&fields).map_err(written)?;
    text.push('\n');
    Ok(List { text, holds })
}

fn written(error: serde_json::Error) -> String {
    error.to_string()
}

/// The run directory of the agent that our file is for; `None`: of none.
pub fn run_dir(ours: &[u8]) -> Option<PathBuf> {
    let fields = list(ours).ok()?;
    let plugins: Vec<Plugin> = serde_json::from_str(fields.get("plugins")?.get()).ok()?;
    let ours = plugins.into_iter().find(|plugin| plugin.kind == NAME);
    ours.map(|plugin| plugin.run_dir)
}

/// The fields of a list; of a single plugin, the list that runtimes make of it.
fn list(network: &[u8]) -> Result<Fields, String> {
    let fields: Fields = serde_json::from_slice(network).map_err(|error| error.to_string())?;
    if !fields.contains_key("name") {
        return Err("it has no name".to_owned());
    }
    if fields.contains_key("plugins") {
        return Ok(fields);
    }
    if !fields.contains_key("type") {
        return Err("it has neither plugins nor type".to_owned());
    }
    let whole: Box<RawValue> =
        serde_json::from_slice(network).map_err(|error| error.to_string())?;
    let mut list: Fields = fields
        .into_iter()
        .filter(|(key, _)| key == "name" || key == "cniVersion")
        .collect();
    let plugins = to_raw_value(&[whole]).map_err(|error| error.to_string())?;
    list.insert("plugins".to_owned(), plugins);
    Ok(list)
}

fn kind_of(plugin: &RawValue) -> Result<Plugin, serde_json::Error> {
    serde_json::from_str(plugin.get())
}

/// Plugins that others have put into our file, before and behind our last entry.
/// What the network has meanwhile itself, by its `types`, is there already.
fn added_by_others(ours: &[u8], types: &[String]) -> (Vec<Box<RawValue>>, Vec<Box<RawValue>>) {
    #[derive(Deserialize)]
    struct List {
        plugins: Vec<Box<RawValue>>,
    }
    // One that cannot be read is replaced: runtimes cannot read it either.
    let Ok(List { plugins }) = serde_json::from_slice(ours) else {
        return Default::default();
    };
    let kinds: Vec<Plugin> = plugins
        .iter()
        .map(|plugin| kind_of(plugin).unwrap_or_default())
        .collect();
    let Some(at) = kinds.iter().rposition(|plugin| plugin.kind == NAME) else {
        return Default::default();
    };
    let from = &kinds[at].chained.types;
    let mut added = (Vec::new(), Vec::new());
    for (place, (plugin, kind)) in plugins.into_iter().zip(&kinds).enumerate() {
        if kind.kind == NAME || from.contains(&kind.kind) || types.contains(&kind.kind) {
            continue;
        }
        if place < at {
            added.0.push(plugin);
        } else {
            added.1.push(plugin);
        }
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn made_with(
        hold: bool,
        name: &str,
        network: &str,
        ours: Option<&str>,
    ) -> Result<List, String> {
        let entry = Entry {
            run_dir: Path::new("/run/policy-agent"),
            bpffs: Path::new("/sys/fs/bpf"),
            hold,
        };
        chain(name, network.as_bytes(), ours.map(str::as_bytes), &entry)
    }

    fn made(name: &str, network: &str, ours: Option<&str>) -> Result<String, String> {
        made_with(true, name, network, ours).map(|list| list.text)
    }

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).expect("JSON");
        let plugins = list["plugins"].as_array().expect("a list");
        let kind = |plugin: &Value| plugin["type"].as_str().expect("a type").to_owned();
        plugins.iter().map(kind).collect()
    }

    const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"lab","disableCheck":true,
        "plugins":[{"type":"bridge","ipam":{ "type" : "host-local" }},{"type":"portmap"}]}"#;

    #[test]
    fn what_others_put_into_both_files_is_there_once() {
        let made = |network: &str, ours: Option<&str>| {
            let list = made_with(false, "10.conflist", network, ours);
            list.expect("a list").text
        };
        let alone = r#"{"name":"lab","plugins":[{"type":"bridge"}]}"#;
        let ours = made(alone, None).replace("}]}", r#"},{"type":"mesh"},{"type":"tuning"}]}"#);
        let kept = made(alone, Some(&ours));
        assert_eq!(types(&kept), ["bridge", NAME, "mesh", "tuning"]);
        let both = r#"{"name":"lab","plugins":[{"type":"bridge"},{"type":"mesh"}]}"#;
        let next = made(both, Some(&ours));
        assert_eq!(types(&next), ["bridge", "mesh", NAME, "tuning"]);
        assert_eq!(made(both, Some(&next)), next);
    }

    #[test]
    fn the_first_configuration_by_name_is_taken_and_never_ours() {
        let cases: [(&[&str], Option<&str>); 6] = [
            (&[], None),
            (&["README", "x.bak", ".hidden.swp"], None),
            (&[FILE], None),
            (&[FILE, "20-b.conf", "10-a.conflist"], Some("10-a.conflist")),
            (&["87-podman.conflist", "05-x.json"], Some("05-x.json")),
            (&["a.conf", "B.conf"], Some("B.conf")),
        ];
        for (names, expected) in cases {
            assert_eq!(first(names.iter().copied()), expected, "{names:?}");
        }
        // What comes with a number comes behind ours.
        for name in ["00-multus.conf", "00-x.conflist", "10-flannel.conflist"] {
            assert!(FILE < name, "{name}");
        }
    }

    #[test]
    fn the_network_keeps_its_name_its_fields_and_its_plugins() {
        let text = made("10-lab.conflist", BRIDGE, None).expect("a list");
        assert_eq!(types(&text), [NAME, "bridge", "portmap", NAME]);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(list["name"], "lab");
        assert_eq!(list["cniVersion"], "1.0.0");
        assert_eq!(list["disableCheck"], true);
        assert!(text.contains(r#"{"type":"bridge","ipam":{ "type" : "host-local" }}"#));
        assert_eq!(list["plugins"][0]["stage"], "hold");
        let ours = &list["plugins"][3];
        assert_eq!(ours["stage"], Value::Null);
        assert_eq!(ours["runDir"], "/run/policy-agent");
        assert_eq!(run_dir(text.as_bytes()), Some("/run/policy-agent".into()));
        assert_eq!(run_dir(BRIDGE.as_bytes()), None);
        assert_eq!(ours["bpffs"], "/sys/fs/bpf");
        assert_eq!(ours["chained"]["file"], "10-lab.conflist");
    }

    #[test]
    fn a_single_plugin_becomes_a_list_and_made_again_it_is_the_same() {
        let single = r#"{"cniVersion":"0.3.1","name":"one","type":"ptp","mtu":1400}"#;
        let text = made("10-one.conf", single, None).expect("a list");
        assert_eq!(types(&text), [NAME, "ptp", NAME]);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&list["name"], &list["cniVersion"]),
            (&"one".into(), &"0.3.1".into())
        );
        assert_eq!(list["plugins"][1]["mtu"], 1400);
        assert_eq!(made("10-one.conf", single, Some(&text)), Ok(text));
    }

    #[test]
    fn what_others_chained_into_our_file_stays_and_what_the_network_dropped_goes() {
        let text = made("10-lab.conflist", BRIDGE, None).expect("a list");
        let mut list: Value = serde_json::from_str(&text).expect("JSON");
        let plugins = list["plugins"].as_array_mut().expect("a list");
        plugins.insert(0, serde_json::json!({"type": "first"}));
        plugins.push(serde_json::json!({"type": "mesh"}));
        let ours = list.to_string();
        let without = r#"{"name":"lab","plugins":[{"type":"bridge"},{"type":"tuning"}]}"#;
        let text = made("10-lab.conflist", without, Some(&ours)).expect("a list");
        let expected = [NAME, "bridge", "tuning", "first", NAME, "mesh"];
        assert_eq!(types(&text), expected);
        assert_eq!(made("10-lab.conflist", without, Some(&text)), Ok(text));
        // Half a file of ours is as good as none.
        let text = made("10-lab.conflist", BRIDGE, Some(&ours[..60])).expect("a list");
        assert_eq!(types(&text), [NAME, "bridge", "portmap", NAME]);
    }

    #[test]
    fn namespaces_are_held_where_kernel_and_network_bear_it() {
        let of = |hold: bool, kind: &str| {
            let network = format!(r#"{{"name":"n","plugins":[{{"type":"{kind}"}}]}}"#);
            let list = made_with(hold, "10-n.conflist", &network, None).expect("a list");
            assert_eq!(types(&list.text).len(), 2 + usize::from(list.holds));
            list.holds
        };
        for kind in HOLDABLE {
            assert!(of(true, kind) && !of(false, kind), "{kind}");
        }
        assert!(!of(true, "calico") && !of(true, "macvlan"));
    }

    #[test]
    fn the_list_of_an_agent_that_did_not_hold_is_brought_up_to_date() {
        let before = made_with(false, "10-lab.conflist", BRIDGE, None).expect("a list");
        let text = made("10-lab.conflist", BRIDGE, Some(&before.text)).expect("a list");
        assert_eq!(types(&text), [NAME, "bridge", "portmap", NAME]);
        let back = made_with(false, "10-lab.conflist", BRIDGE, Some(&text));
        assert_eq!(back.expect("a list").text, before.text);
    }

    #[test]
    fn a_list_that_names_us_already_names_us_once() {
        let network = format!(r#"{{"name":"n","plugins":[{{"type":"ptp"}},{{"type":"{NAME}"}}]}}"#);
        let text = made("x.conflist", &network, None).expect("a list");
        assert_eq!(types(&text), [NAME, "ptp", NAME]);
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_the_field() {
        let cases = [
            ("", "EOF"),
            ("[]", "invalid type"),
            (r#"{"plugins":[{"type":"x"}]}"#, "no name"),
            (r#"{"name":"n"}"#, "neither plugins nor type"),
            (r#"{"name":"n","plugins":[]}"#, "plugins is empty"),
            (r#"{"name":"n","plugins":{}}"#, "plugins: "),
            (
                r#"{"name":"n","plugins":[{"typ":"x"}]}"#,
                "plugins[0]: it has no type",
            ),
            (r#"{"name":"n","plugins":[{"type":"x"},7]}"#, "plugins[1]: "),
        ];
        for (network, part) in cases {
            let error = made("10-x.conflist", network, None).expect_err(network);
            assert!(error.contains(part), "{network}: {error}");
        }
    }
}

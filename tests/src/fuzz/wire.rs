//! Target `wire`: what container runtimes and their files say, decoded.
//!
//! The list of plugins that we make is one that a runtime takes: the network's
//! name and plugins as they are, in their order, and ours once behind them, and once
//! in front if there is to be a hold. Names that become parts of paths stay in
//! their folder.

use std::path::Path;

use policy_agent::cni::conflist::{self, Entry, List};
use policy_agent::cni::plugin::NAME;
use policy_agent::cni::protocol::Environment;
use policy_agent::cni::results;
use policy_agent::cni::statement::{Question, Statement};
use serde_json::Value;

/// Between the parts of an input; in no UTF-8.
const BREAK: u8 = 0xff;

pub(super) fn run(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let mut parts = rest.split(|byte| *byte == BREAK);
    match kind % 4 {
        0 => {
            let network = parts.next().unwrap_or_default();
            chained(kind & 4 == 0, network, parts.next());
        }
        1 => environment(parts),
        2 => record(rest),
        _ => told(rest),
    }
}

const ENTRY: (&str, &str) = ("/run/policy-agent", "/sys/fs/bpf");

fn chain(hold: bool, network: &[u8], ours: Option<&[u8]>) -> Option<List> {
    let entry = Entry {
        run_dir: Path::new(ENTRY.0),
        bpffs: Path::new(ENTRY.1),
        hold,
    };
    conflist::chain("10-net.conflist", network, ours, &entry).ok()
}

fn plugins(list: &Value) -> &[Value] {
    list["plugins"].as_array().map_or(&[], Vec::as_slice)
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == NAME
}

fn chained(hold: bool, network: &[u8], ours: Option<&[u8]>) {
    let Some(made) = chain(hold, network, ours) else {
        return;
    };
    let list: Value = serde_json::from_str(&made.text).expect("what is made is JSON");
    let network_value: Value = serde_json::from_slice(network).expect("a network is JSON");
    assert_eq!(
        list["name"], network_value["name"],
        "leases are stored by it"
    );
    let own: Vec<&Value> = if network_value.get("plugins").is_some() {
        let all = plugins(&network_value).iter();
        all.filter(|plugin| !is_ours(plugin)).collect()
    } else {
        vec![&network_value]
    };
    let mut all = plugins(&list);
    if made.holds {
        assert!(hold && is_ours(&all[0]), "nobody asked for it: {list}");
        all = &all[1..];
    }
    assert!(!own.is_empty() && all.len() > own.len());
    assert!(
        all.iter().zip(&own).all(|(plugin, own)| plugin == *own),
        "the network's plugins, as they are and in their order: {list}"
    );
    let places: Vec<usize> = (0..all.len()).filter(|at| is_ours(&all[*at])).collect();
    assert_eq!(places.len(), 1, "ours once: {list}");
    assert!(places[0] >= own.len(), "ours behind the network's: {list}");
    if ours.is_none() {
        assert_eq!(places[0], own.len(), "ours last: {list}");
    }
    let made = made.text;
    assert_eq!(
        conflist::run_dir(made.as_bytes()).as_deref(),
        Some(Path::new(ENTRY.0))
    );
    // Made again it is the same: nothing is written for nothing.
    let again = chain(hold, network, Some(made.as_bytes()));
    assert_eq!(again.map(|again| again.text), Some(made));
}

fn environment<'a>(parts: impl Iterator<Item = &'a [u8]>) {
    let names = [
        "CNI_COMMAND",
        "CNI_CONTAINERID",
        "CNI_NETNS",
        "CNI_IFNAME",
        "CNI_ARGS",
    ];
    let values: Vec<String> = parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let variable = |name: &str| {
        let place = names.iter().position(|known| *known == name)?;
        values.get(place).cloned()
    };
    let Ok(environment) = Environment::read(variable) else {
        return;
    };
    for name in [&environment.container, &environment.ifname] {
        let inside = Path::new("/folder").join(format!("{name}.json"));
        let needed = matches!(values[0].as_str(), "ADD" | "DEL" | "CHECK");
        assert!(
            !needed || inside.parent() == Some(Path::new("/folder")) && !name.is_empty(),
            "{name:?} leaves its folder"
        );
    }
    if let Ok(pod) = environment.pod() {
        assert!(!pod.namespace.is_empty() && !pod.name.is_empty());
    }
}

fn record(text: &[u8]) {
    if let Ok(Some(statement)) = results::parse(text) {
        assert!(!statement.namespace.is_empty() && !statement.name.is_empty());
        again(&statement);
    }
}

fn told(text: &[u8]) {
    if let Ok(statement) = serde_json::from_slice::<Statement>(text) {
        again(&statement);
    }
    if let Ok(question) = serde_json::from_slice::<Question>(text) {
        let written = serde_json::to_vec(&question).expect("a question is written");
        let read: Question = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(read, question);
    }
}

fn again(statement: &Statement) {
    let written = serde_json::to_vec(statement).expect("a statement is written");
    let read: Statement = serde_json::from_slice(&written).expect("and read again");
    assert_eq!(read, *statement);
}

/// A list, a single plugin, a list that others are in already; an ADD; a record.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;
    const SINGLE: &str = r#"{"cniVersion":"0.4.0","name":"lab","type":"ptp","mtu":1500}"#;
    const OURS: &str = r#"{"name":"lab","plugins":[{"type":"bridge"},{"type":"policy-cni","runDir":"/x","chained":{"file":"a","types":["bridge"]}},{"type":"istio-cni"}]}"#;
    const RECORD: &str = r#"{"kind":"cniCacheV1","containerId":"c0","ifName":"eth0","networkName":"lab","cniArgs":[["K8S_POD_NAMESPACE","a"],["K8S_POD_NAME","b"]],"result":{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/n"}],"ips":[{"interface":1,"address":"10.0.0.2/24"}]}}"#;
    const STATEMENT: &str = r#"{"id":{"container":"c0","ifname":"eth0"},"network":"lab","namespace":"a","name":"b","uid":"u","addresses":["10.0.0.2","fd00::2"],"node_interfaces":["veth1"],"ifindex":7}"#;
    let seed = |kind: u8, parts: &[&str]| {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        let mut seed = vec![kind];
        seed.extend(parts.join(&BREAK));
        seed
    };
    vec![
        seed(0, &[LIST]),
        seed(4, &[LIST]),
        seed(0, &[SINGLE]),
        seed(0, &[LIST, OURS]),
        seed(0, &[OURS]),
        seed(
            1,
            &[
                "ADD",
                "c0",
                "/run/netns/x",
                "eth0",
                "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
            ],
        ),
        seed(1, &["GC"]),
        seed(2, &[RECORD]),
        seed(3, &[STATEMENT]),
        seed(
            3,
            &[&format!(
                r#"{{"add":{{"statement":{STATEMENT},"wait_ms":9}}}}"#
            )],
        ),
    ]
}

//! Target `manifests`: files of any text, and policies that are valid but for one
//! part.
//!
//! Any text is read, compiled and asked about. A policy made from the input means
//! what the reference evaluator says. With one part broken it opens nothing that
//! was not open without it or with it whole.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use policy_agent::source::convert::{Converted, Names, Outcome, convert};
use policy_agent::source::manifests;
use policy_core::desired::PodRef;
use policy_core::simulate::{Port, Question, Simulator, Verdict, Who};
use policy_core::store::{SourceEvent, Store};
use serde_json::{Map, Value, json};

use super::input::Input;
use crate::reference::{self, Cluster, PortSpec, Probe, Protocol};

pub(super) fn run(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    if *kind < 64 {
        text(rest, kind & 1 == 0);
    } else {
        one_part_broken(&mut Input::new(rest));
    }
}

/// The larger a file, the longer it takes; here many are to be tried.
const LONGEST: usize = 16 * 1024;

/// Reads a file of this text, as `simulate` does, and asks about every pair of pods.
fn text(text: &[u8], yaml: bool) {
    if text.len() > LONGEST {
        return;
    }
    let path = file(yaml);
    fs::write(&path, text).expect("a file in the temporary folder");
    let update = manifests::read(std::slice::from_ref(&path));
    fs::remove_file(&path).expect("the file written above");
    let mut store = Store::new();
    store.apply_all(update.events);
    let pods: Vec<PodRef> = store.pods().keys().take(4).cloned().collect();
    let mut simulator = Simulator::new(&store);
    for from in &pods {
        for to in &pods {
            // A pod without an address cannot be asked about.
            let _ = simulator.ask(&question(
                Who::Pod(from.clone()),
                Who::Pod(to.clone()),
                80,
                6,
            ));
        }
    }
}

/// A name of this process's own.
fn file(yaml: bool) -> PathBuf {
    let ending = if yaml { "yaml" } else { "json" };
    let thread = std::thread::current().id();
    env::temp_dir().join(format!(
        "policy-fuzz-{}-{thread:?}.{ending}",
        std::process::id()
    ))
}

fn question(from: Who, to: Who, port: u16, protocol: u8) -> Question {
    Question {
        from,
        to,
        port: Port::Number(port),
        protocol,
        family: None,
    }
}

/// Namespace, name, address, `app`, and the number of the port "web".
const PODS: [(&str, &str, &str, &str, u16); 4] = [
    ("x", "a", "10.0.1.1", "a", 80),
    ("x", "b", "10.0.1.2", "b", 81),
    ("y", "c", "10.0.1.3", "a", 80),
    ("y", "d", "10.0.1.4", "d", 80),
];
const OUTSIDE: &str = "192.0.2.7";
const ASKED: [(u16, u8); 4] = [(80, 6), (81, 6), (80, 17), (443, 132)];

fn cluster() -> Vec<Value> {
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"team": "a"}}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.254"}]}}),
    ];
    objects.extend(PODS.map(|(namespace, name, address, app, web)| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": app}},
            "spec": {"nodeName": "n", "containers": [{"name": "c",
                "ports": [{"name": "web", "containerPort": web}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]}})
    }));
    objects
}

fn selector(input: &mut Input<'_>, key: &str) -> Value {
    let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    match input.below(6) {
        0 => json!({}),
        1 => json!({"matchLabels": {key: "a"}}),
        2 => expression("In", json!(["a", "b"])),
        3 => expression("NotIn", json!(["a"])),
        4 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
        _ => json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}),
    }
}

fn peer(input: &mut Input<'_>) -> Value {
    match input.below(6) {
        0 => json!({"podSelector": selector(input, "app")}),
        1 => json!({"namespaceSelector": selector(input, "team")}),
        2 => {
            json!({"podSelector": selector(input, "app"), "namespaceSelector": selector(input, "team")})
        }
        3 => json!({"ipBlock": {"cidr": "10.0.1.0/24", "except": ["10.0.1.2/31"]}}),
        4 => json!({"ipBlock": {"cidr": "0.0.0.0/0"}}),
        _ => json!({"ipBlock": {"cidr": "192.0.2.0/24"}}),
    }
}

fn port(input: &mut Input<'_>) -> Value {
    match input.below(6) {
        0 => json!({"port": 80}),
        1 => json!({"port": "web"}),
        2 => json!({"port": 80, "endPort": 81, "protocol": "TCP"}),
        3 => json!({"protocol": "UDP"}),
        4 => json!({"protocol": "SCTP", "port": 443}),
        _ => json!({}),
    }
}

fn rules(input: &mut Input<'_>, peers: &str) -> Vec<Value> {
    let count = input.below(3);
    (0..count)
        .map(|_| {
            let mut rule = Map::new();
            let count = input.below(3);
            if count != 0 {
                let list: Vec<Value> = (0..count).map(|_| peer(input)).collect();
                rule.insert(peers.to_owned(), list.into());
            }
            let count = input.below(3);
            if count != 0 {
                let list: Vec<Value> = (0..count).map(|_| port(input)).collect();
                rule.insert("ports".to_owned(), list.into());
            }
            rule.into()
        })
        .collect()
}

fn policy(input: &mut Input<'_>, name: &str) -> Value {
    let mut spec = Map::new();
    spec.insert("podSelector".to_owned(), selector(input, "app"));
    let types = [
        None,
        Some(json!(["Ingress"])),
        Some(json!(["Egress"])),
        Some(json!(["Ingress", "Egress"])),
    ];
    if let Some(types) = input.pick(&types) {
        spec.insert("policyTypes".to_owned(), types.clone());
    }
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        if input.flag() {
            spec.insert(section.to_owned(), rules(input, peers).into());
        }
    }
    let namespace = *input.pick(&["x", "y"]);
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// Replaces one part below `value` by what nobody understands; the field or `""`.
fn break_one(input: &mut Input<'_>, value: &mut Value) -> String {
    let junk = [
        json!(3.5),
        json!(true),
        json!("\u{1}"),
        json!([[]]),
        json!(-1),
    ];
    let goes_deeper = input.below(4) != 0;
    let mut name = String::new();
    let inner = match value {
        Value::Object(fields) if goes_deeper && !fields.is_empty() => {
            let place = input.below(fields.len());
            let inner = fields.iter_mut().nth(place);
            inner.map(|(key, inner)| {
                name.clone_from(key);
                inner
            })
        }
        Value::Array(items) if goes_deeper && !items.is_empty() => {
            let place = input.below(items.len());
            items.get_mut(place)
        }
        _ => None,
    };
    match inner {
        Some(inner) => {
            let deeper = break_one(input, inner);
            format!("{name}.{deeper}")
        }
        None => {
            *value = input.pick(&junk).clone();
            name
        }
    }
}

fn one_part_broken(input: &mut Input<'_>) {
    let mut objects = cluster();
    let others = input.below(3);
    objects.extend((0..others).map(|number| policy(input, &format!("q{number}"))));
    let without = verdicts(&objects);
    let whole = policy(input, "p");
    objects.push(whole.clone());
    let with = verdicts(&objects);
    same_as_reference(&objects, &with);
    let mut broken = whole.clone();
    let what = break_one(input, &mut broken["spec"]);
    if broken == whole {
        return;
    }
    objects.pop();
    // A pod selector that cannot be understood selects its whole namespace, types
    // that cannot be are both (semantics 14): then that is the policy when it is
    // whole.
    let read_as = [
        ("podSelector", json!({})),
        ("policyTypes", json!(["Ingress", "Egress"])),
    ];
    let mut meant = with;
    if let Some((field, value)) = read_as.iter().find(|(field, _)| what.starts_with(field)) {
        let mut wide = whole;
        wide["spec"][field] = value.clone();
        objects.push(wide);
        meant = verdicts(&objects);
        objects.pop();
    }
    objects.push(broken.clone());
    let after = verdicts(&objects);
    for (((probe, before), whole), after) in probes().iter().zip(&without).zip(&meant).zip(&after) {
        assert!(
            !after || *before || *whole,
            "{what} is broken, and {probe:?} is open that was not: {broken}"
        );
    }
}

type Ends = (String, String, u16, u8);

fn probes() -> Vec<Ends> {
    let mut ends: Vec<String> = PODS
        .map(|(namespace, name, ..)| format!("{namespace}/{name}"))
        .into();
    ends.push(OUTSIDE.to_owned());
    let mut probes = Vec::new();
    for from in &ends {
        for to in &ends {
            if from != to {
                probes.extend(
                    ASKED.map(|(port, protocol)| (from.clone(), to.clone(), port, protocol)),
                );
            }
        }
    }
    probes
}

/// What becomes of each probe, as the agent would have it that sees these objects
/// for the first time.
fn verdicts(objects: &[Value]) -> Vec<bool> {
    let mut names = Names::default();
    let mut events = Vec::new();
    for object in objects {
        convert(
            object,
            &mut names,
            &mut |Converted { outcome, .. }| match outcome {
                Outcome::Object(object) => events.push(SourceEvent::Apply(object)),
                Outcome::Undecodable { fallback, .. } => {
                    events.extend(fallback.map(SourceEvent::Apply));
                }
                other => panic!("{other:?} of {object}"),
            },
        );
    }
    let mut store = Store::new();
    store.apply_all(events);
    let mut simulator = Simulator::new(&store);
    let who = |end: &str| match end.split_once('/') {
        Some((namespace, name)) => Who::Pod(PodRef {
            namespace: Arc::from(namespace),
            name: Arc::from(name),
        }),
        None => Who::Address(end.parse::<IpAddr>().expect("an address")),
    };
    let probes = probes().into_iter().map(|(from, to, port, protocol)| {
        let answer = simulator.ask(&question(who(&from), who(&to), port, protocol));
        answer.expect("a question about one packet").verdict == Verdict::Allow
    });
    probes.collect()
}

fn same_as_reference(objects: &[Value], verdicts: &[bool]) {
    let cluster = Cluster::from_objects(objects);
    let who = |end: &str| match end.split_once('/') {
        Some((namespace, name)) => reference::Who::Pod(namespace.to_owned(), name.to_owned()),
        None => reference::Who::Address(end.parse().expect("an address")),
    };
    for ((from, to, port, protocol), verdict) in probes().iter().zip(verdicts) {
        let probe = Probe {
            from: who(from),
            to: who(to),
            port: PortSpec::Number(*port),
            protocol: Protocol(*protocol),
            family: None,
        };
        let answer = cluster
            .verdict(&probe)
            .expect("a question about one packet");
        assert_eq!(
            answer.allowed, *verdict,
            "{from} to {to}, {port} of {protocol}: {objects:?}"
        );
    }
}

/// Files of each kind, and policies with each way to break them.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x, labels: {app: a}}\nspec: {containers: [{name: c, ports: [{name: web, containerPort: 80}]}]}\nstatus: {podIPs: [{ip: 10.0.0.1}]}\n";
    const POLICY: &str = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {app: a}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {namespaceSelector: {}}]\n    ports: [{port: web}, {port: 80, endPort: 90, protocol: UDP}]\n";
    const LIST: &str = r#"{"kind":"List","items":[{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"x"}},{"kind":"Service","apiVersion":"v1","metadata":{"name":"s","namespace":"x"},"spec":{"clusterIPs":["10.9.0.1"],"ports":[{"port":80,"targetPort":"web"}],"selector":{"app":"a"}}}]}"#;
    let mut seeds = Vec::new();
    for (kind, text) in [(0, POD), (0, POLICY), (0, LIST), (1, LIST)] {
        let mut seed = vec![kind];
        seed.extend_from_slice(text.as_bytes());
        seeds.push(seed);
    }
    let both = [vec![0], POD.as_bytes().to_vec(), POLICY.as_bytes().to_vec()].concat();
    seeds.push(both);
    for number in 0..16u8 {
        let seed = (0..64u8).map(|place| place.wrapping_mul(37).wrapping_add(number * 11));
        seeds.push([64].into_iter().chain(seed).collect());
    }
    seeds
}

//! Bad manifests are said to be bad, by file, object and field, and change nothing
//! of what is in force for others.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Host, Server, Wiring};
use serde_json::{Value, json};

use crate::expect::{expect, serve};
use crate::folder::{Pod, Way, allow};
use crate::node::Node;

/// A policy that cannot be right: the part after `spec:`, the field that has to be
/// named, and a word of what is wrong with it.
const BAD_SPECS: &[(&str, &str, &str)] = &[
    (
        "{ingress: [{from: [{}]}]}",
        "spec.ingress[0].from[0]",
        "none of",
    ),
    (
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
        "spec.ingress[0].from[0]",
        "ipBlock",
    ),
    (
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
        "spec.ingress[0].from[0].ipBlock.cidr",
        "10.0.0.0/33",
    ),
    (
        "{ingress: [{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]}",
        "spec.ingress[0].from[0].ipBlock.cidr",
        "::ffff:10.0.0.0/104",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
        "10.0.0.0/8",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 192.0.2.0/24]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[1]",
        "192.0.2.0/24",
    ),
    (
        "{ingress: [{ports: [{endPort: 80}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "port",
    ),
    (
        "{ingress: [{ports: [{port: http, endPort: 80}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "port",
    ),
    (
        "{ingress: [{ports: [{port: 443}, {port: 80, endPort: 79}]}]}",
        "spec.ingress[0].ports[1].endPort",
        "79",
    ),
    (
        "{ingress: [{ports: [{port: 0}]}]}",
        "spec.ingress[0].ports[0].port",
        "0",
    ),
    (
        "{ingress: [{ports: [{port: 65536}]}]}",
        "spec.ingress[0].ports[0].port",
        "65536",
    ),
    (
        "{ingress: [{ports: [{port: '80'}]}]}",
        "spec.ingress[0].ports[0].port",
        "80",
    ),
    (
        "{ingress: [{ports: [{port: a-name-that-is-too-long}]}]}",
        "spec.ingress[0].ports[0].port",
        "a-name-that-is-too-long",
    ),
    (
        "{ingress: [{ports: [{port: 80, protocol: ICMP}]}]}",
        "spec.ingress[0].ports[0].protocol",
        "ICMP",
    ),
    (
        "{policyTypes: [Ingress, Sideways]}",
        "spec.policyTypes[1]",
        "Sideways",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: Near, values: [b]}]}}",
        "spec.podSelector.matchExpressions[0].operator",
        "Near",
    ),
    (
        "{ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}]}]}",
        "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].values",
        "In",
    ),
    (
        "{ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}]}",
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].values",
        "Exists",
    ),
    (
        "{ingress: [{from: [{podSelector: {matchLabels: {'not a key': b}}}]}]}",
        "spec.ingress[0].from[0].podSelector.matchLabels.not a key",
        "not a key",
    ),
];

/// The diagnostics that are about an object.
fn about<'a>(status: &'a Value, object: &str) -> Vec<&'a Value> {
    let all = status["diagnostics"].as_array().into_iter().flatten();
    all.filter(|diagnostic| diagnostic["object"] == object)
        .collect()
}

/// Makes sure that one diagnostic names object, file and field, and says a word.
fn ensure_said(status: &Value, object: &str, file: &str, path: &str, word: &str) -> Result<()> {
    let said = about(status, object).into_iter().any(|diagnostic| {
        let is = |key: &str, end: &str| {
            diagnostic[key]
                .as_str()
                .is_some_and(|text| text.ends_with(end))
        };
        is("source", file)
            && diagnostic["path"] == path
            && diagnostic["message"]
                .as_str()
                .is_some_and(|text| text.contains(word))
    });
    ensure!(
        said,
        "no diagnostic of {object} in {file} at {path:?} says {word:?}: {}",
        status["diagnostics"]
    );
    Ok(())
}

/// `shop/web` may talk to `shop/db`, and `shop/other` may not.
struct Shop {
    node: Node,
    db: Host,
    web: Host,
    other: Host,
    _server: Server,
}

impl Shop {
    fn new(name: &str) -> Result<Self> {
        let mut node = Node::new(name, Wiring::Routed)?;
        let db = node.pod("shop/db", &[("app", "db")])?;
        let web = node.pod("shop/web", &[("app", "web")])?;
        let other = node.pod("shop/other", &[("app", "other")])?;
        let server = serve(&db)?;
        node.folder.put_all("p.json", &[Self::policy("web")])?;
        node.start()?;
        Ok(Self {
            node,
            db,
            web,
            other,
            _server: server,
        })
    }

    /// The policy of the shop, with a peer of its own.
    fn policy(peer: &str) -> Value {
        allow(Way::Ingress, "shop/p", "db", &[(peer, &[])])
    }

    fn is_as_it_was(&self) -> Result<()> {
        expect(&[(&self.web, &self.db, true), (&self.other, &self.db, false)])
    }
}

#[test]
fn invalid_policies_are_named_by_file_object_and_field() -> Result<()> {
    let shop = Shop::new("invalid")?;
    for (number, (spec, _, _)) in BAD_SPECS.iter().enumerate() {
        shop.node.folder.put(
            &format!("bad-{number}.yaml"),
            &format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: bad-{number}, namespace: bad}}\nspec: {spec}\n"
            ),
        )?;
    }
    let status = shop.node.settle()?;
    let mut missing = String::new();
    for (number, (spec, path, word)) in BAD_SPECS.iter().enumerate() {
        let (object, file) = (
            format!("NetworkPolicy bad/bad-{number}"),
            format!("bad-{number}.yaml"),
        );
        if ensure_said(&status, &object, &file, path, word).is_err() {
            missing += &format!("{spec}: {path} {word}: {:?}\n", about(&status, &object));
        }
    }
    ensure!(missing.is_empty(), "{missing}");
    ensure!(
        about(&status, "NetworkPolicy shop/p").is_empty(),
        "{status}"
    );
    shop.is_as_it_was()?;
    let strict = shop.node.status(&["--wait", "--strict"])?;
    ensure!(strict.status.code() == Some(1), "{strict:?}");
    for number in 0..BAD_SPECS.len() {
        shop.node.folder.remove(&format!("bad-{number}.yaml"))?;
    }
    let status = shop.node.settle()?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    shop.node.finish()
}

#[test]
fn files_that_cannot_be_used_leave_what_is_in_force() -> Result<()> {
    let shop = Shop::new("files")?;
    let node = &shop.node;
    let p = node.folder.path().join("p.json");

    // Not YAML; in a file of its own, and in place of the policy.
    for file in ["broken.yaml", "p.json"] {
        node.folder.put(file, "kind: [NetworkPolicy\nmetadata: }")?;
        let status = node.settle()?;
        let diagnostics = status["diagnostics"].to_string();
        ensure!(diagnostics.contains(file), "{diagnostics}");
        shop.is_as_it_was()?;
    }
    node.folder.remove("broken.yaml")?;

    // Does not decode: its last good version stays.
    let mut undecodable = Shop::policy("other");
    undecodable["spec"]["podSelector"] = json!(5);
    let status = node.apply("p.json", &[undecodable])?;
    ensure_said(
        &status,
        "NetworkPolicy shop/p",
        "p.json",
        "spec.podSelector",
        "",
    )?;
    shop.is_as_it_was()?;

    // Cannot be read.
    fs::remove_file(&p)?;
    symlink("nowhere", &p)?;
    let status = node.settle()?;
    let diagnostics = status["diagnostics"].to_string();
    ensure!(
        diagnostics.contains("p.json") && diagnostics.contains("cannot be read"),
        "{diagnostics}"
    );
    shop.is_as_it_was()?;
    fs::remove_file(&p)?;
    fs::write(&p, [0xff, 0xfe, 0x00])?;
    let status = node.settle()?;
    ensure!(
        status["diagnostics"].to_string().contains("p.json"),
        "{status}"
    );
    shop.is_as_it_was()?;

    // Twice: neither version replaces what is in force.
    node.folder.put_all("p.json", &[Shop::policy("web")])?;
    let status = node.settle()?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    let status = node.apply("q.json", &[Shop::policy("other")])?;
    let said = about(&status, "NetworkPolicy shop/p");
    let text = format!("{said:?}");
    ensure!(
        text.contains("p.json") && text.contains("q.json"),
        "{}",
        status["diagnostics"]
    );
    shop.is_as_it_was()?;
    node.withdraw("q.json")?;

    // The folder is gone, and back.
    let away = node.lab.dir().join("away");
    fs::rename(node.folder.path(), &away)?;
    let status = node.settle()?;
    let diagnostics = status["diagnostics"].to_string();
    ensure!(diagnostics.contains("manifests"), "{diagnostics}");
    shop.is_as_it_was()?;
    fs::rename(&away, node.folder.path())?;
    let status = node.apply("p.json", &[Shop::policy("other")])?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    expect(&[(&shop.web, &shop.db, false), (&shop.other, &shop.db, true)])?;
    shop.node.finish()
}

#[test]
fn odd_objects_are_said_to_be_odd() -> Result<()> {
    let mut shop = Shop::new("odd")?;
    let node = &mut shop.node;
    node.folder.put(
        "kinds.yaml",
        "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: g}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: future}\n",
    )?;
    let file = |pod: &Pod| pod.file();
    // A pod without address, with one that is none, with one that is nowhere, and
    // with that of another pod.
    let (v4, v6) = node.free_addresses();
    let base = |name: &str, addresses: &[String]| {
        let mut pod = Pod::of(&shop.db, name);
        pod.name = format!("odd/{name}");
        pod.addresses = addresses.to_vec();
        pod
    };
    let none = base("none", &[]);
    let wrong = base("wrong", &["10.0.0.300".to_owned()]);
    let nowhere = base("nowhere", &[v4.to_string(), v6.to_string()]);
    for pod in [&none, &wrong, &nowhere] {
        node.show(pod)?;
    }
    let status = node.settle()?;
    let kinds = status["diagnostics"].to_string();
    ensure!(
        kinds.contains("Gadget") && kinds.contains("projectcalico.org/v3/NetworkPolicy"),
        "{kinds}"
    );
    ensure!(kinds.contains("kinds.yaml"), "{kinds}");
    let said = about(&status, "Pod odd/none");
    ensure!(format!("{said:?}").contains("status.podIPs"), "{kinds}");
    ensure_said(
        &status,
        "Pod odd/wrong",
        &file(&wrong),
        "status.podIPs[0].ip",
        "10.0.0.300",
    )?;
    let said = about(&status, "Pod odd/nowhere");
    ensure!(
        format!("{said:?}").contains("behind no interface"),
        "{kinds}"
    );
    shop.is_as_it_was()?;

    let node = &mut shop.node;
    let twin = base(
        "twin",
        &[shop.other.v4().context("an address")?.to_string()],
    );
    node.show(&twin)?;
    let status = node.settle()?;
    let text = status["diagnostics"].to_string();
    ensure!(
        text.contains("odd/twin") && text.contains("is also that of Pod shop/other"),
        "{text}"
    );
    // Nothing tells which of them is newer, so the address stays with its owner.
    expect(&[(&shop.web, &shop.db, true), (&shop.other, &shop.db, false)])?;
    for file in [&none, &wrong, &nowhere, &twin].map(file) {
        node.folder.remove(&file)?;
    }
    let status = node.withdraw("kinds.yaml")?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    shop.is_as_it_was()?;
    shop.node.finish()
}

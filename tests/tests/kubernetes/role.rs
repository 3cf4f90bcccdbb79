//! The shipped role: everything that the agent asks for, and nothing else.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::wait_for;
use serde_json::{Value, json};

use crate::control_plane::AGENT;
use crate::node::{BOUND, Node};

/// What the agent watches: collections across namespaces, and an object of each.
const WATCHED: [(&str, &str); 6] = [
    ("/api/v1/pods", "/api/v1/namespaces/default/pods/x"),
    ("/api/v1/namespaces", "/api/v1/namespaces/x"),
    ("/api/v1/nodes", "/api/v1/nodes/x"),
    ("/api/v1/services", "/api/v1/namespaces/default/services/x"),
    (
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/x",
    ),
    (
        "/apis/networking.k8s.io/v1/networkpolicies",
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/x",
    ),
];

#[test]
fn the_role_allows_list_and_watch_of_what_is_watched_and_nothing_else() -> Result<()> {
    let mut node = Node::new("k8s-role")?;
    let status = |method: &str, path: &str, body: Option<&Value>| {
        node.plane
            .ask(AGENT, method, path, body)
            .map(|(status, _)| status)
    };
    for (collection, object) in WATCHED {
        assert_eq!(status("GET", collection, None)?, 200, "list {collection}");
        let watch = format!("{collection}?watch=true&timeoutSeconds=1");
        assert_eq!(status("GET", &watch, None)?, 200, "watch {collection}");
        assert_eq!(status("GET", object, None)?, 403, "get {object}");
        assert_eq!(status("DELETE", object, None)?, 403, "delete {object}");
        let labels = json!({"metadata": {"labels": {"a": "b"}}});
        let patched = status("PATCH", object, Some(&labels))?;
        assert_eq!(patched, 403, "patch {object}");
    }
    for forbidden in [
        "/api/v1/secrets",
        "/api/v1/configmaps",
        "/apis/apps/v1/daemonsets",
    ] {
        assert_eq!(status("GET", forbidden, None)?, 403, "list {forbidden}");
    }
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Test", "reason": "Test",
        "type": "Normal", "note": "a test", "reportingController": "policy-agent/test",
        "reportingInstance": "test",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
    });
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    assert_eq!(status("POST", events, Some(&event))?, 201, "create events");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let patched = status("PATCH", &format!("{events}/e"), Some(&series))?;
    assert_eq!(patched, 200, "patch events");
    assert_eq!(status("GET", events, None)?, 403, "list events");

    // With that and no more it syncs, and what it watches reaches it.
    let synced = node.start()?;
    assert_eq!(synced["synced"], json!(true), "{synced:#}");
    node.plane.create_namespace("a", &json!({}))?;
    node.settle()?;
    node.finish()
}

/// Resources that the role lets the agent ask for, with their API group.
const RESOURCES: [(&str, &str); 6] = [
    ("", "pods"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "networkpolicies"),
];
const EVENTS: (&str, &str) = ("events.k8s.io", "events");
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/policy-agent";

/// The rules without one verb of one resource.
fn without(rules: &Value, verb: &str, resource: &str) -> Result<Value> {
    let mut left = Vec::new();
    let mut found = 0;
    for rule in rules.as_array().context("a role has rules")? {
        let resources = rule["resources"].as_array().context("resources")?;
        let verbs = rule["verbs"].as_array().context("verbs")?;
        if !resources.contains(&json!(resource)) {
            left.push(rule.clone());
            continue;
        }
        found += usize::from(verbs.contains(&json!(verb)));
        let others: Vec<_> = resources.iter().filter(|r| **r != resource).collect();
        if !others.is_empty() {
            let mut rule = rule.clone();
            rule["resources"] = json!(others);
            left.push(rule);
        }
        let mut own = rule.clone();
        own["resources"] = json!([resource]);
        own["verbs"] = verbs.iter().filter(|v| **v != verb).cloned().collect();
        left.push(own);
    }
    ensure!(
        found == 1,
        "the role has {verb} of {resource} once: {rules}"
    );
    Ok(json!(left))
}

/// Every verb of the role is one that some case below takes away.
fn ensure_all_are_tried(rules: &Value) -> Result<()> {
    let mut granted = BTreeSet::new();
    for rule in rules.as_array().context("a role has rules")? {
        for resource in rule["resources"].as_array().context("resources")? {
            for verb in rule["verbs"].as_array().context("verbs")? {
                let pair = (resource.as_str(), verb.as_str());
                granted.insert((pair.0.context("a name")?, pair.1.context("a name")?));
            }
        }
    }
    let watched = RESOURCES.iter();
    let mut tried: BTreeSet<_> = watched
        .flat_map(|(_, resource)| [(*resource, "list"), (*resource, "watch")])
        .collect();
    tried.extend([("events", "create"), ("events", "patch")]);
    ensure!(granted == tried, "granted {granted:?}, tried {tried:?}");
    Ok(())
}

/// Starts the agent anew, with a role that has one verb less.
fn start_without(node: &mut Node, rules: &Value, verb: &str, of: (&str, &str)) -> Result<()> {
    node.stop()?;
    let lacking = without(rules, verb, of.1)?;
    node.plane.patch(ROLE, &json!({"rules": lacking}))?;
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": verb, "group": of.0, "resource": of.1}},
    });
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    wait_for("the server to go by the role", BOUND, || {
        let answer = node.plane.ask(AGENT, "POST", reviews, Some(&question));
        answer.is_ok_and(|(_, answer)| answer["status"]["allowed"] == json!(false))
    })?;
    node.launch()
}

/// Waits until the agent says that it may not do this, and nothing else; the
/// status then.
fn is_named(node: &Node, verb: &str, resource: &str) -> Result<Value> {
    let named = format!("cannot {verb} resource \"{resource}\"");
    let mut status = Value::Null;
    let mut said = Vec::new();
    let waited = wait_for(&named, BOUND, || {
        status = node.status().unwrap_or_default();
        let all = status["diagnostics"].as_array().cloned();
        let messages = all.into_iter().flatten();
        said = messages
            .filter_map(|diagnostic| Some(diagnostic["message"].as_str()?.to_owned()))
            .filter(|message| message.contains(" cannot "))
            .collect();
        said.iter().any(|message| message.contains(&named))
    });
    waited.with_context(|| format!("{status:#}"))?;
    ensure!(
        said.iter().all(|message| message.contains(&named)),
        "{said:?}"
    );
    Ok(status)
}

#[test]
fn without_any_verb_of_the_role_something_fails_and_is_named() -> Result<()> {
    let mut node = Node::new("k8s-verbs")?;
    let db = node.host("a/db", 11, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.run_pod(&db, &json!({"app": "db"}))?;
    let all = json!([{"podSelector": {}}]);
    node.plane.create_policy("a/p", "db", &all)?;
    let rules = node.plane.must("GET", ROLE, None)?["rules"].clone();
    ensure_all_are_tried(&rules)?;

    // Where lists are streams, a watch is all that is asked for.
    for of in RESOURCES {
        start_without(&mut node, &rules, "watch", of)?;
        let status = is_named(&node, "watch", of.1)?;
        ensure!(status["synced"] == json!(false), "{of:?}: {status:#}");
        ensure!(
            node.words()?.is_empty(),
            "{of:?}: nothing is in force before all is known"
        );
    }
    // What is told to users as an Event, and told again.
    node.plane.patch(ROLE, &json!({"rules": rules}))?;
    node.enforce(false)?;
    start_without(&mut node, &rules, "create", EVENTS)?;
    is_named(&node, "create", EVENTS.1)?;
    node.plane.patch(ROLE, &json!({"rules": rules}))?;
    node.settle()?;
    node.stop()?;
    node.start()?;
    wait_for("the Event is there", BOUND, || {
        let path = "/apis/events.k8s.io/v1/namespaces/default/events";
        let events = node.plane.must("GET", path, None).unwrap_or_default();
        events["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty())
    })?;
    start_without(&mut node, &rules, "patch", EVENTS)?;
    is_named(&node, "patch", EVENTS.1)?;
    node.enforce(true)?;

    // Where they are not, there is a list and then a watch.
    node.stop()?;
    node.cleanup()?;
    node.plane.patch(ROLE, &json!({"rules": rules}))?;
    node.plane.kill_server()?;
    node.plane
        .start_server_without(&mut node.lab, "WatchList")?;
    for of in RESOURCES {
        start_without(&mut node, &rules, "list", of)?;
        let status = is_named(&node, "list", of.1)?;
        ensure!(status["synced"] == json!(false), "{of:?}: {status:#}");
        ensure!(
            node.words()?.is_empty(),
            "{of:?}: nothing is in force before all is known"
        );
    }

    // The role is put right, and the agent goes on by itself: it is enough.
    node.plane.patch(ROLE, &json!({"rules": rules}))?;
    let status = node.settle()?;
    ensure!(status["diagnostics"] == json!([]), "{status:#}");
    ensure!(node.isolation()?["a/db"] == Some(vec!["a/p".to_owned()]));
    node.finish()
}

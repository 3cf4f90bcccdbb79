//! The shipped role: everything that the agent asks for, and nothing else.

use anyhow::Result;
use serde_json::json;

use crate::control_plane::AGENT;
use crate::node::Node;
use crate::objects::in_namespace;

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
fn the_role_allows_get_list_and_watch_of_what_is_watched_and_nothing_else() -> Result<()> {
    let mut node = Node::new("k8s-role")?;
    let status = |method: &str, path: &str, body: Option<&serde_json::Value>| {
        node.plane
            .ask(AGENT, method, path, body)
            .map(|(status, _)| status)
    };
    for (collection, object) in WATCHED {
        assert_eq!(status("GET", collection, None)?, 200, "list {collection}");
        let watch = format!("{collection}?watch=true&timeoutSeconds=1");
        assert_eq!(status("GET", &watch, None)?, 200, "watch {collection}");
        // It may ask, and there is none.
        assert_eq!(status("GET", object, None)?, 404, "get {object}");
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

#[test]
fn without_a_verb_the_agent_says_which_and_puts_nothing_in_force() -> Result<()> {
    let mut node = Node::new("k8s-verbs")?;
    let db = node.host("a/db", 11, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    node.plane.run_pod(&db, &json!({"app": "db"}))?;
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/policy-agent";
    let shipped = node.plane.must("GET", role, None)?;
    let mut lacking = shipped["rules"].clone();
    let rules = lacking.as_array_mut().into_iter().flatten();
    for rule in rules.filter(|rule| rule["resources"] == json!(["networkpolicies"])) {
        rule["verbs"] = json!(["get", "list"]);
    }
    assert_ne!(lacking, shipped["rules"], "the role names the policies");
    node.plane.patch(role, &json!({"rules": lacking}))?;
    node.launch()?;
    let wait = node.ask("status", &["--wait", "--timeout", "5s"])?;
    assert_eq!(wait.status.code(), Some(3));
    let status = node.status()?;
    assert_eq!(status["synced"], json!(false));
    let text = status["diagnostics"].to_string();
    assert!(
        text.contains("get, list and watch of networkpolicies"),
        "{status:#}"
    );
    // The role is put right, and the agent goes on by itself.
    node.plane
        .patch(role, &json!({"rules": shipped["rules"]}))?;
    let all = json!([{"podSelector": {}}]);
    node.plane.create_policy("a/p", "db", &all)?;
    node.settle()?;
    assert_eq!(node.isolation()?["a/db"], Some(vec!["a/p".to_owned()]));
    node.plane
        .delete(&format!("{}/p", in_namespace("a", "networkpolicies")))?;
    node.finish()
}

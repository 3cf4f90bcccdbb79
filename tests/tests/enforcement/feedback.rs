//! What the agent tells people: health, metrics, live verdicts, versions.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Wiring, wait_for};
use serde_json::{Value, json};

use crate::expect::{expect, serve};
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node};

/// Where the agent is told to serve: the node has a network namespace of its own.
const ADDRESS: &str = "127.0.0.1:9410";

/// Starts an agent that serves, and waits until everything is in force and it does:
/// it listens on a thread of its own.
pub(crate) fn start_serving(node: &mut Node) -> Result<()> {
    start_with(node, |_| ())
}

/// The same, with more that it is told.
pub(crate) fn start_with(node: &mut Node, more: impl FnOnce(&mut Command)) -> Result<()> {
    let mut command = node.run_command(node.binary());
    command.args(["--http-address", ADDRESS]);
    more(&mut command);
    node.start_command(command)?;
    node.settle()?;
    wait_for("health to be told", BOUND, || get(node, "/healthz").is_ok()).map(drop)
}

/// Asks for a path, in the node's network namespace: status and body.
pub(crate) fn get(node: &Node, path: &str) -> Result<(u16, String)> {
    node.lab.node().netns().run(|| {
        let mut stream = TcpStream::connect(ADDRESS)?;
        stream.set_read_timeout(Some(BOUND))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    })?
}

/// The value of a metric's sample, by its name and labels.
pub(crate) fn metric(text: &str, sample: &str) -> Result<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let line = line.with_context(|| format!("{sample} in\n{text}"))?;
    Ok(line.parse()?)
}

/// A node on which nobody reaches `shop/db`, and its agent serves.
fn closed(name: &str) -> Result<Node> {
    let mut node = Node::new(name, Wiring::Bridged)?;
    node.pod("shop/db", &[("app", "db")])?;
    node.pod("shop/web", &[("app", "web")])?;
    node.folder
        .put_all("p.json", &[allow(Way::Ingress, "shop/p", "db", &[])])?;
    start_serving(&mut node)?;
    Ok(node)
}

#[test]
fn health_and_metrics_tell_what_happened() -> Result<()> {
    let node = closed("metrics")?;
    let (db, web) = (
        node.lab.get("shop/db").clone(),
        node.lab.get("shop/web").clone(),
    );
    let _servers = [serve(&db)?, serve(&web)?];
    ensure!(get(&node, "/healthz")?.0 == 200);
    ensure!(get(&node, "/readyz")?.0 == 200);
    let (_, before) = get(&node, "/metrics")?;
    expect(&[(&web, &db, false), (&db, &web, true)])?;
    // The first programming is not counted; a change of a policy is.
    node.apply(
        "q.json",
        &[allow(Way::Egress, "shop/q", "db", &[("web", &[])])],
    )?;
    let (status, after) = get(&node, "/metrics")?;
    ensure!(status == 200);
    let denied = r#"policy_agent_drops_total{direction="ingress",reason="policy"}"#;
    ensure!(
        metric(&after, denied)? > metric(&before, denied)?,
        "{after}"
    );
    let passed = r#"policy_agent_passed_total{direction="ingress"}"#;
    ensure!(
        metric(&after, passed)? > metric(&before, passed)?,
        "{after}"
    );
    for (sample, least) in [
        ("policy_agent_endpoints", 2.0),
        ("policy_agent_enforcing", 1.0),
        (
            "policy_agent_policy_programming_duration_seconds_count",
            1.0,
        ),
        (r#"policy_agent_map_entries{map="pa_endpoints"}"#, 2.0),
        (r#"policy_agent_map_capacity{map="pa_policy"}"#, 1.0),
        ("process_resident_memory_bytes", 1e6),
    ] {
        ensure!(metric(&after, sample)? >= least, "{sample} in\n{after}");
    }
    ensure!(metric(&after, "policy_agent_endpoints_not_programmed")? == 0.0);

    // The emergency switch is seen where alerts look.
    let bpffs = node.bpffs().display().to_string();
    ensure!(
        node.run(&["enforce", "off", "--bpffs", &bpffs])?
            .status
            .success()
    );
    ensure!(metric(&get(&node, "/metrics")?.1, "policy_agent_enforcing")? == 0.0);
    ensure!(
        node.run(&["enforce", "on", "--bpffs", &bpffs])?
            .status
            .success()
    );
    ensure!(metric(&get(&node, "/metrics")?.1, "policy_agent_enforcing")? == 1.0);

    // What the sources said and what is wrong with it comes with the next look.
    node.folder.put("bad.yaml", "kind: [")?;
    wait_for("the diagnostic to be counted", BOUND, || {
        let Ok((_, text)) = get(&node, "/metrics") else {
            return false;
        };
        let errors = metric(&text, r#"policy_agent_diagnostics{severity="error"}"#);
        let synced = metric(&text, r#"policy_agent_synced{kind="NetworkPolicy"}"#);
        errors.is_ok_and(|errors| errors >= 1.0) && synced.is_ok_and(|synced| synced == 1.0)
    })?;
    node.finish()
}

#[test]
fn agent_that_is_not_told_to_serve_listens_nowhere() -> Result<()> {
    let mut node = Node::new("silent", Wiring::Bridged)?;
    node.pod("shop/db", &[])?;
    node.start()?;
    ensure!(get(&node, "/healthz").is_err(), "somebody listens");
    node.finish()
}

fn monitor(node: &Node, args: &[&str]) -> Result<Child> {
    Command::new(node.binary())
        .args(["monitor", "--count", "1", "--run-dir"])
        .arg(node.run_dir())
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .context("start monitor")
}

/// What a monitor printed, after it has ended well.
fn printed(monitor: Child) -> Result<String> {
    let output = monitor.wait_with_output()?;
    ensure!(output.status.success(), "monitor: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn monitor_shows_denied_connections_with_the_policy_and_only_those_it_is_asked_for() -> Result<()> {
    let node = closed("monitor")?;
    let (db, web) = (
        node.lab.get("shop/db").clone(),
        node.lab.get("shop/web").clone(),
    );
    let _servers = [serve(&db)?, serve(&web)?];
    let mut other = monitor(&node, &["--namespace", "lab"])?;
    let mut json = monitor(
        &node,
        &["--pod", "shop/db", "--reason", "policy", "-o", "json"],
    )?;
    let mut table = monitor(&node, &["--direction", "ingress", "--policy", "shop/p"])?;
    // They may still be connecting when the first is denied.
    wait_for("both to have seen one", BOUND, || {
        let denied = expect(&[(&web, &db, false)]).is_ok();
        let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        denied && ended(&mut json) && ended(&mut table)
    })?;
    let line: Value = serde_json::from_str(&printed(json)?)?;
    ensure!(line["disposition"] == "deny", "{line}");
    ensure!(line["dest"]["pod_name"] == "db", "{line}");
    ensure!(line["policies"][0]["name"] == "p", "{line}");
    let text = printed(table)?;
    ensure!(
        text.contains("deny ingress") && text.ends_with("policy (shop/p)\n"),
        "{text}"
    );
    ensure!(
        text.contains("shop/web:") && text.contains("-> shop/db:80["),
        "{text}"
    );
    ensure!(other.try_wait()?.is_none(), "it was asked for lab only");
    other.kill()?;
    other.wait()?;
    node.finish()
}

fn versioned(generation: i64, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "namespace": "shop", "name": "p", "uid": "u-1",
            "generation": generation, "resourceVersion": format!("{}", generation * 100),
        },
        "spec": spec,
    })
}

fn of_policy(status: &Value) -> Value {
    let policies = status["policies"].as_array();
    let found = policies.and_then(|all| all.iter().find(|policy| policy["policy"] == "shop/p"));
    found.cloned().unwrap_or_default()
}

#[test]
fn status_says_which_version_is_in_force_and_which_was_refused() -> Result<()> {
    let mut node = Node::new("versions", Wiring::Bridged)?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let _servers = [serve(&db)?, serve(&web)?];
    let closed = json!({"podSelector": {"matchLabels": {"app": "db"}}});
    node.folder.put_all("p.json", &[versioned(1, &closed)])?;
    node.start()?;
    let version = |generation: i64| {
        json!({
            "uid": "u-1",
            "generation": generation,
            "resource_version": format!("{}", generation * 100),
        })
    };
    let status = node.settle()?;
    let expected = json!({"kind": "NetworkPolicy", "policy": "shop/p", "in_force": version(1)});
    ensure!(of_policy(&status) == expected, "{status}");
    let of_pod = |status: &Value| {
        let endpoints = status["endpoints"].as_array();
        let db = endpoints.and_then(|all| all.iter().find(|of| of["pod"] == "shop/db"));
        db.map(|db| db["ingress"]["versions"]["shop/p"].clone())
    };
    ensure!(of_pod(&status) == Some(version(1)), "{status}");
    expect(&[(&web, &db, false)])?;

    // A newer one that does not decode: the good one stays in force.
    let status = node.apply("p.json", &[versioned(2, &json!({"ingress": "all"}))])?;
    let expected = json!({
        "kind": "NetworkPolicy", "policy": "shop/p",
        "in_force": version(1), "refused": version(2),
    });
    ensure!(of_policy(&status) == expected, "{status}");
    ensure!(of_pod(&status) == Some(version(1)), "{status}");
    expect(&[(&web, &db, false)])?;

    // One that says something else, and one that says the same again.
    let open = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]});
    for generation in [3, 4] {
        let status = node.apply("p.json", &[versioned(generation, &open)])?;
        let expected =
            json!({"kind": "NetworkPolicy", "policy": "shop/p", "in_force": version(generation)});
        ensure!(of_policy(&status) == expected, "{status}");
        ensure!(of_pod(&status) == Some(version(generation)), "{status}");
        expect(&[(&web, &db, true)])?;
    }
    let status = node.withdraw("p.json")?;
    ensure!(of_policy(&status) == Value::Null, "{status}");
    node.finish()
}

#[test]
fn window_in_which_a_pod_ran_without_its_policies_is_told() -> Result<()> {
    let mut node = Node::new("window", Wiring::Bridged)?;
    node.folder
        .put_all("p.json", &[allow(Way::Ingress, "shop/p", "db", &[])])?;
    start_serving(&mut node)?;
    // The pod runs, and nobody has told the agent whose it is.
    let db = node.host("shop/db")?;
    node.settle()?;
    node.show(&crate::folder::Pod::of(&db, "uid-9").label("app", "db"))?;
    node.settle()?;
    let told = node.line("the window", |line| line["type"] == "unprotected")?;
    ensure!(told["pod"] == "shop/db" && told["uid"] == "uid-9", "{told}");
    ensure!(told["before_agent"] == false, "{told}");
    ensure!(told["milliseconds"].is_u64(), "{told}");
    let (_, text) = get(&node, "/metrics")?;
    ensure!(metric(&text, "policy_agent_unprotected_starts_total")? == 1.0);
    ensure!(metric(&text, "policy_agent_unprotected_seconds_total")? > 0.0);
    ensure!(metric(&text, "policy_agent_unprotected_pods")? == 0.0);
    node.finish()
}

//! Bad days of the API server, and what is in force meanwhile: counted by packets
//! that policy allows and packets that it denies, for as long as it lasts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Family, Host, Outcome, Probe, Proto, ServeSpec, Server, UdpSpec, UdpStream, matrix, probe,
    wait_for,
};
use serde_json::{Value, json};

use crate::control_plane::{ADMIN, AGENT, ControlPlane};
use crate::node::{BOUND, Node};
use crate::objects::{in_namespace, policy_object};
use crate::proxy::{Fault, Proxy};

const PORT: u16 = 80;
/// Where the datagrams go.
const UDP_PORT: u16 = 7000;
const INTERVAL: Duration = Duration::from_millis(2);
/// Datagrams of each kind that a fault has to outlast.
const DATAGRAMS: usize = 500;
/// How long the server is away for "minutes": longer than any wait between tries.
const LONG: Duration = Duration::from_secs(70);
/// Requests that a fault has to meet.
const MET: u64 = 3;

fn pods(app: &str) -> Value {
    json!([{"podSelector": {"matchLabels": {"app": app}}}])
}

/// Datagrams that are allowed, and others that are not.
struct Flows {
    allowed: UdpStream,
    denied: UdpStream,
}

impl Flows {
    fn start(allowed: &Host, denied: &Host, to: &Host) -> Result<Self> {
        let stream = |from: &Host, port| {
            UdpStream::start(&UdpSpec::new(from, to, Family::V4, port)?.interval(INTERVAL))
        };
        let flows = Self {
            allowed: stream(allowed, UDP_PORT)?,
            denied: stream(denied, UDP_PORT + 1)?,
        };
        flows.allowed.wait_until_flowing(BOUND)?;
        Ok(flows)
    }

    /// Waits until so many of each were sent.
    fn go_on(&self) -> Result<()> {
        let sent = || [&self.allowed, &self.denied].map(UdpStream::sent);
        let before = sent();
        wait_for("datagrams", BOUND, || {
            sent()
                .iter()
                .zip(before)
                .all(|(now, then)| now - then >= DATAGRAMS)
        })?;
        Ok(())
    }

    /// Not one was lost, and not one wrongly delivered.
    fn end(self, when: &str) -> Result<()> {
        let allowed = self.allowed.stop()?;
        ensure!(allowed.lost().is_empty(), "{when}: {}", allowed.summary());
        let denied = self.denied.stop()?;
        ensure!(denied.arrivals.is_empty(), "{when}: {}", denied.summary());
        ensure!(
            denied.sent_ns.len() >= DATAGRAMS,
            "{when}: nothing was sent"
        );
        Ok(())
    }
}

#[test]
fn nothing_changes_while_the_server_is_away_refuses_or_sends_rubbish() -> Result<()> {
    let mut node = Node::new("k8s-bad")?;
    let db = node.host("a/db", 11, true, false)?;
    let web = node.host("a/web", 12, true, false)?;
    let other = node.host("a/other", 13, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    for (host, app) in [(&db, "db"), (&web, "web"), (&other, "other")] {
        node.plane.run_pod(host, &json!({"app": app}))?;
    }
    node.plane.create_policy("a/db", "db", &pods("web"))?;
    let agent = node.plane.kubeconfig(AGENT);
    let proxy = Proxy::start(node.lab.node(), &agent, node.lab.dir())?;

    // Away at the start, and nothing is in force yet: that stays, and is said.
    proxy.set(Fault::Away);
    node.launch_by(proxy.kubeconfig())?;
    wait_for("the agent to ask", BOUND, || {
        proxy.faults() >= MET && node.status().is_ok()
    })?;
    ensure!(node.status()?["synced"] == json!(false));
    ensure!(node.words()?.is_empty(), "nobody has said whom to isolate");
    proxy.set(Fault::None);
    node.settle()?;

    let mut by_turns = [(&web, &other, "web"), (&other, &web, "other")]
        .into_iter()
        .cycle();
    let mut now = by_turns.next().context("a turn")?;
    for (fault, lasts) in [
        (Fault::Away, LONG),
        (Fault::Unauthorized, Duration::ZERO),
        (Fault::SlowLists, Duration::ZERO),
        (Fault::CutLists, Duration::ZERO),
        (Fault::Spoilt, Duration::ZERO),
    ] {
        let when = format!("{fault:?}");
        let (words, flows) = (node.words()?, Flows::start(now.0, now.1, &db)?);
        let (begun, met) = (Instant::now(), proxy.faults());
        proxy.set(fault);
        let next = by_turns.next().context("a turn")?;
        node.plane.change_policy("a/db", &pods(next.2))?;
        // What does not decode is told once.
        let enough = if fault == Fault::Spoilt { 1 } else { MET };
        wait_for(&when, BOUND, || proxy.faults() - met >= enough)?;
        wait_for(&when, lasts + BOUND, || begun.elapsed() >= lasts)?;
        flows.go_on()?;
        ensure!(node.words()? == words, "{when}: a word has changed");
        if fault == Fault::Spoilt {
            let status = node.settle()?;
            let text = status["diagnostics"].to_string();
            ensure!(text.contains("NetworkPolicy a/db"), "{when}: {status:#}");
            ensure!(node.words()? == words, "{when}: a word has changed");
        } else {
            let wait = node.ask("status", &["--wait", "--timeout", "1s"])?;
            ensure!(wait.status.code() == Some(3), "{when}: nobody can know");
        }
        flows.end(&when)?;

        // What was changed meanwhile is in force when it is over.
        proxy.set(Fault::None);
        node.settle()?;
        now = next;
        let flows = Flows::start(now.0, now.1, &db)?;
        flows.go_on()?;
        flows.end("afterwards")?;
    }

    // No watch at all: lists tell the same.
    let met = proxy.faults();
    proxy.set(Fault::Expired);
    wait_for("watches to be refused", BOUND, || {
        proxy.faults() - met >= MET
    })?;
    let next = by_turns.next().context("a turn")?;
    node.plane.change_policy("a/db", &pods(next.2))?;
    node.settle()?;
    let flows = Flows::start(next.0, next.1, &db)?;
    flows.go_on()?;
    flows.end("410")?;
    proxy.set(Fault::None);
    node.settle()?;
    node.finish()
}

/// How many pods come at once.
const CROWD: u8 = 200;

#[test]
fn two_hundred_pods_at_once_all_get_their_policies() -> Result<()> {
    let mut node = Node::new("k8s-crowd")?;
    let web = node.host("a/web", 11, true, false)?;
    let stranger = node.host("a/stranger", 12, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    for (host, app) in [(&web, "web"), (&stranger, "stranger")] {
        node.plane.run_pod(host, &json!({"app": app}))?;
    }
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let name = format!("a/crowd-{number}");
        crowd.push(node.host(&name, 20 + number, true, false)?);
    }
    let servers = crowd
        .iter()
        .map(|host| Server::start(host, &ServeSpec::ports(&[PORT])));
    let servers: Vec<Server> = servers.collect::<Result<_>>()?;
    node.plane.create_policy("a/crowd", "crowd", &pods("web"))?;
    node.start()?;
    let reached = |from: &Host| -> Result<usize> {
        let probes = crowd
            .iter()
            .map(|to| Probe::new(from, to, Family::V4, PORT, Proto::Tcp));
        let outcomes = matrix(&probes.collect::<Result<Vec<_>>>()?)?;
        Ok(outcomes.iter().filter(|o| o.is_connected()).count())
    };
    let all = usize::from(CROWD);
    ensure!(reached(&stranger)? == all, "nobody isolates them yet");

    let begun = Instant::now();
    let labels = json!({"app": "crowd"});
    let questions = crowd
        .iter()
        .map(|host| ControlPlane::running(host, &labels));
    let questions = questions.collect::<Result<Vec<_>>>()?;
    let (created, told): (Vec<_>, Vec<_>) = questions.into_iter().unzip();
    for questions in [created, told] {
        let answers = node.plane.ask_all(ADMIN, questions)?;
        let taken = |(status, _): &(u16, Value)| (200..300).contains(status);
        ensure!(answers.iter().all(taken), "{answers:?}");
    }
    let written = begun.elapsed();
    let wait = node.ask("status", &["--wait", "--timeout", "120s"])?;
    ensure!(wait.status.success(), "{wait:?}");
    let in_force = begun.elapsed();
    eprintln!("{CROWD} pods: written in {written:?}, in force after {in_force:?}");
    let isolation = node.isolation()?;
    let by_it = |policies: &&Vec<String>| **policies == ["a/crowd"];
    let isolated = isolation.values().flatten().filter(by_it).count();
    ensure!(isolated == all, "{isolation:?}");
    ensure!(reached(&web)? == all, "allowed");
    ensure!(reached(&stranger)? == 0, "denied");
    drop(servers);
    node.finish()
}

#[test]
fn a_thousand_changes_of_policies_disturb_nothing_that_stays_as_it_is() -> Result<()> {
    let mut node = Node::new("k8s-storm")?;
    let db = node.host("a/db", 11, true, false)?;
    let web = node.host("a/web", 12, true, false)?;
    let stranger = node.host("a/stranger", 13, true, false)?;
    node.plane.create_namespace("a", &json!({}))?;
    for (host, app) in [(&db, "db"), (&web, "web"), (&stranger, "stranger")] {
        node.plane.run_pod(host, &json!({"app": app}))?;
    }
    node.plane.create_policy("a/web", "db", &pods("web"))?;
    node.start()?;
    let flows = Flows::start(&web, &stranger, &db)?;
    let collection = in_namespace("a", "networkpolicies");
    let begun = Instant::now();
    let questions = (0..1000).map(|number| {
        // One of fifty is about the pod that the flows go to.
        let app = if number % 50 == 0 { "db" } else { "nobody" };
        let block = format!("10.9.{}.0/24", number / 50);
        let peers = json!([{"ipBlock": {"cidr": block}}]);
        let policy = policy_object(&format!("p{number}"), app, &peers);
        ("POST".to_owned(), collection.clone(), Some(policy))
    });
    let answers = node.plane.ask_all(ADMIN, questions.collect())?;
    let written = begun.elapsed();
    ensure!(answers.iter().all(|(status, _)| *status == 201));
    node.settle()?;
    let in_force = begun.elapsed();
    eprintln!("1000 changes: written in {written:?}, in force after {in_force:?}");
    flows.go_on()?;
    flows.end("under a thousand changes")?;
    let policies = node.isolation()?["a/db"].clone().unwrap_or_default();
    ensure!(policies.len() == 21, "{policies:?}");
    ensure!(node.allowed("a/db")?.len() == 21, "twenty blocks and a pod");

    // All of them go, and with them what isolated the pod.
    node.plane.delete(&collection)?;
    node.settle()?;
    let _server = Server::start(&db, &ServeSpec::ports(&[PORT]))?;
    let question = Probe::new(&stranger, &db, Family::V4, PORT, Proto::Tcp)?;
    let outcome = probe(&question)?;
    ensure!(matches!(outcome, Outcome::Connected(_)), "{outcome}");
    node.finish()
}

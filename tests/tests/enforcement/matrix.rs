//! What the policies of `rows.rs` let through, measured, in both wirings and
//! families, and as `simulate` answers it.
//!
//! Every row has namespaces of its own, so all of them share one node and are
//! probed at the same time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Family, Host, Outcome, Probe, Proto, ServeSpec, Server, Wiring, matrix, slowed,
};
use serde_json::{Value, json};

use crate::folder::Pod;
use crate::node::Node;
use crate::rows::{self, Row};

/// Ports that every host serves with TCP, UDP and SCTP.
const PORTS: [u16; 4] = [80, 81, 8080, 9090];
/// Protocol without ports that every host answers (RFC 3692).
const EXPERIMENT: u8 = 253;
/// Probes under way at once: the machine must keep up within their timeout.
const AT_ONCE: usize = 250;

/// Hosts outside, and the end of their addresses.
const OUTSIDE: [(&str, u8); 5] = [
    ("outside", 7),
    ("outside2", 200),
    ("remote", 101),
    ("ending", 102),
    ("host-network", 103),
];

/// One probe, and what ought to come of it.
struct Case {
    row: &'static str,
    probe: Probe,
    question: Value,
    passes: bool,
}

/// Names of a row's hosts, and of those that all rows share.
type Hosts = BTreeMap<String, Host>;

fn all_rows(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("matrix", wiring)?;
    let mut shared = Hosts::new();
    shared.insert("node".into(), node.lab.node().clone());
    for (name, last) in OUTSIDE {
        let host = node.lab.outside(
            name,
            std::net::Ipv4Addr::new(198, 51, 100, last),
            std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()),
        )?;
        shared.insert(name.into(), host);
    }
    let mut cases = Vec::new();
    for row in rows::all() {
        cases.extend(prepare(&mut node, &shared, row).with_context(|| row.name)?);
    }
    let spec = ServeSpec::all_ports(&PORTS).protocols(&[EXPERIMENT]);
    let hosts: Vec<Host> = node
        .lab
        .pods()
        .cloned()
        .chain(shared.into_values())
        .collect();
    let _servers = hosts
        .iter()
        .map(|host| Server::start(host, &spec))
        .collect::<Result<Vec<_>>>()?;
    node.start()?;

    let mut report = String::new();
    let simulated = simulate(&node, &cases)?;
    for (case, answer) in cases.iter().zip(simulated) {
        let verdict = if case.passes { "allow" } else { "deny" };
        if answer["verdict"] != verdict {
            writeln!(report, "{}: {}: simulate: {answer}", case.row, case.probe)?;
        }
    }
    for cases in cases.chunks(AT_ONCE) {
        let patient = |case: &Case| {
            let timeout = slowed(case.probe.timeout);
            let probe = case.probe.clone();
            Probe { timeout, ..probe }
        };
        let probes: Vec<Probe> = cases.iter().map(patient).collect();
        for (case, outcome) in cases.iter().zip(matrix(&probes)?) {
            // Denied means silence: a refusal would be an answer.
            let as_it_should = match case.passes {
                true => outcome.is_connected(),
                false => outcome == Outcome::TimedOut,
            };
            if !as_it_should {
                let wanted = if case.passes { "to pass" } else { "silence" };
                writeln!(
                    report,
                    "{}: {}: {outcome}, not {wanted}",
                    case.row, case.probe
                )?;
            }
        }
    }
    let passing = cases.iter().filter(|case| case.passes).count();
    ensure!(report.is_empty(), "of {} probes:\n{report}", cases.len());
    println!(
        "{wiring:?}: {} rows, {} probes, {passing} pass",
        rows::all().count(),
        cases.len()
    );
    node.finish()
}

/// Makes a row's pods and manifests; its probes.
fn prepare(node: &mut Node, shared: &Hosts, row: &'static Row) -> Result<Vec<Case>> {
    let mut hosts = shared.clone();
    for line in row.pods {
        let mut words = line.split_whitespace();
        let name = words.next().context("a pod has a name")?;
        let host = node.host(&full_name(row, name))?;
        let mut pod = Pod::of(&host, &format!("uid-{}", host.name().replace('/', "-")));
        for word in words {
            pod = described(pod, word)?;
        }
        node.show(&pod)?;
        hosts.insert(name.to_owned(), host);
    }
    let text = filled(row, &hosts);
    ensure!(!text.contains('$'), "an unknown name in {text}");
    node.folder.put(&format!("{}.yaml", row.name), &text)?;
    let mut cases = Vec::new();
    for line in row.probes {
        cases.extend(probes(row, &hosts, line).with_context(|| line.to_owned())?);
    }
    Ok(cases)
}

/// `name` is of the row's own namespace, `part/name` of another one of the row.
fn full_name(row: &Row, name: &str) -> String {
    match name.split_once('/') {
        Some((part, name)) => format!("{}-{part}/{name}", row.name),
        None => format!("{}/{name}", row.name),
    }
}

/// Adds a label `key=value` or a port `name:number/protocol`.
fn described(pod: Pod, word: &str) -> Result<Pod> {
    if let Some((key, value)) = word.split_once('=') {
        return Ok(pod.label(key, value));
    }
    let (name, port) = word.split_once(':').context("a label or a port")?;
    let (number, protocol) = port.split_once('/').context("number/protocol")?;
    Ok(pod.port(name, number.parse()?, protocol))
}

/// Puts in the row's namespace for `$ns`, addresses for `$4.host` and `$6.host`.
fn filled(row: &Row, hosts: &Hosts) -> String {
    let mut text = row.manifests.replace("$ns", row.name);
    // The longest name first: none is cut short by another.
    for (name, host) in hosts.iter().rev() {
        for (family, address) in [
            ("4", host.v4().map(IpAddr::V4)),
            ("6", host.v6().map(IpAddr::V6)),
        ] {
            if let Some(address) = address {
                text = text.replace(&format!("${family}.{name}"), &address.to_string());
            }
        }
    }
    text
}

/// Reads `[4|6] from > to: what passes | what does not`.
fn probes(row: &'static Row, hosts: &Hosts, line: &str) -> Result<Vec<Case>> {
    let (ends, what) = line.split_once(':').context("ends: ports")?;
    let (from, to) = ends.split_once('>').context("from > to")?;
    let (families, from) = match from.trim().split_once(' ') {
        Some(("4", from)) => (vec![Family::V4], from),
        Some(("6", from)) => (vec![Family::V6], from),
        _ => (Family::BOTH.to_vec(), from),
    };
    let (from, to) = (from.trim(), to.trim());
    let host = |name: &str| hosts.get(name).with_context(|| format!("no host {name}"));
    let (passing, denied) = what.split_once('|').unwrap_or((what, ""));
    let mut cases = Vec::new();
    for family in families {
        for (words, passes) in [(passing, true), (denied, false)] {
            for word in words.split_whitespace() {
                let (port, proto) = kind(word)?;
                let probe = Probe::new(host(from)?, host(to)?, family, port, proto)?;
                let who = |host: &Host| -> Result<String> {
                    Ok(match host.name().contains('/') {
                        true => host.name().to_owned(),
                        false => host.address(family)?.to_string(),
                    })
                };
                let question = json!({
                    "from": who(host(from)?)?,
                    "to": who(host(to)?)?,
                    "port": (port != 0).then_some(port),
                    "protocol": match (proto, family) {
                        (Proto::Tcp, _) => json!("TCP"),
                        (Proto::Udp, _) => json!("UDP"),
                        (Proto::Sctp, _) => json!("SCTP"),
                        (Proto::Icmp, Family::V4) => json!("ICMP"),
                        (Proto::Icmp, Family::V6) => json!("ICMPv6"),
                        (Proto::Other(number), _) => json!(number),
                    },
                    "family": match family { Family::V4 => 4, Family::V6 => 6 },
                });
                cases.push(Case {
                    row: row.name,
                    probe,
                    question,
                    passes,
                });
            }
        }
    }
    ensure!(!cases.is_empty(), "nothing is asked");
    Ok(cases)
}

/// Reads `80/TCP`, `icmp` or a number of a protocol.
fn kind(word: &str) -> Result<(u16, Proto)> {
    if let Some((port, proto)) = word.split_once('/') {
        let proto = match proto {
            "TCP" => Proto::Tcp,
            "UDP" => Proto::Udp,
            "SCTP" => Proto::Sctp,
            _ => anyhow::bail!("unknown protocol {proto}"),
        };
        return Ok((port.parse()?, proto));
    }
    match word {
        "icmp" => Ok((0, Proto::Icmp)),
        number => Ok((0, Proto::Other(number.parse()?))),
    }
}

/// What `simulate` answers, in the order of the cases.
fn simulate(node: &Node, cases: &[Case]) -> Result<Vec<Value>> {
    let questions = cases.iter().fold(String::new(), |mut text, case| {
        let _ = writeln!(text, "{}", case.question);
        text
    });
    let mut child = Command::new(node.binary())
        .args(["simulate", "--probes", "-", "-f"])
        .arg(node.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    stdin.write_all(questions.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "simulate: {}", output.status);
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(answers.len() == cases.len());
    Ok(answers)
}

#[test]
fn policies_mean_what_they_say_between_bridged_pods() -> Result<()> {
    all_rows(Wiring::Bridged)
}

#[test]
fn policies_mean_what_they_say_between_routed_pods() -> Result<()> {
    all_rows(Wiring::Routed)
}

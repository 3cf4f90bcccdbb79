//! `monitor`: live verdicts of a running agent.

use std::io::BufRead;

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::output::write;
use super::{DONE, RunDirArg, client};
use crate::api::{MonitorFilter, Request};

/// Arguments of `monitor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
policy-agent monitor --namespace shop\n  \
policy-agent monitor --pod shop/db --direction ingress --reason policy -o json\n\n\
Only what the kernel reports is shown: denied packets, as far as the limit of the event rate \
allows (see events-limited in status).")]
pub(super) struct MonitorArgs {
    /// Only verdicts with a pod of this namespace at either end.
    #[arg(short, long, env = "POLICY_AGENT_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only verdicts with this pod at either end: namespace/name, or a name in
    /// any namespace.
    #[arg(long, env = "POLICY_AGENT_POD", value_name = "POD")]
    pod: Option<String>,
    /// Only this verdict.
    #[arg(long, env = "POLICY_AGENT_VERDICT", value_parser = ["allow", "deny"])]
    verdict: Option<String>,
    /// Only this reason, for example policy or spoofed-source.
    #[arg(long, env = "POLICY_AGENT_REASON", value_parser = reason, value_name = "REASON")]
    reason: Option<String>,
    /// Only what the judged pod receives (ingress) or sends (egress).
    #[arg(long, env = "POLICY_AGENT_DIRECTION", value_parser = ["ingress", "egress"])]
    direction: Option<String>,
    /// Only verdicts that name this policy: namespace/name.
    #[arg(long, env = "POLICY_AGENT_POLICY", value_name = "POLICY")]
    policy: Option<String>,
    /// End after so many verdicts.
    #[arg(long, env = "POLICY_AGENT_COUNT", value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    run_dir: RunDirArg,
    /// A line for people, or the agent's JSON.
    #[arg(short, long, env = "POLICY_AGENT_OUTPUT", value_enum, default_value_t = Style::Table)]
    output: Style,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Style {
    /// For people.
    Table,
    /// As `run` writes it.
    Json,
}

/// A reason that verdicts may have.
fn reason(text: &str) -> Result<String, String> {
    use policy_common::abi::event::DropReason;
    let mut names = DropReason::ALL.iter().map(|reason| reason.name());
    if names.any(|name| name == text) {
        return Ok(text.to_owned());
    }
    let names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    Err(format!("there is {}", names.join(", ")))
}

/// `monitor`.
pub(super) fn monitor(args: &MonitorArgs) -> anyhow::Result<u8> {
    let filter = MonitorFilter {
        namespace: args.namespace.clone(),
        pod: args.pod.clone(),
        verdict: args.verdict.clone(),
        reason: args.reason.clone(),
        direction: args.direction.clone(),
        policy: args.policy.clone(),
    };
    let lines = client::follow(&args.run_dir.run_dir, &Request::Monitor(filter))?;
    watch(lines, args.output, args.count)
}

fn watch(mut lines: impl BufRead, style: Style, count: Option<u64>) -> anyhow::Result<u8> {
    let mut left = count;
    let mut line = String::new();
    while left != Some(0) {
        line.clear();
        if lines.read_line(&mut line).context("the agent's socket")? == 0 {
            bail!("the agent has ended");
        }
        if !line.contains("\"type\":\"lost\"") {
            left = left.map(|left| left - 1);
        }
        match style {
            Style::Json => write(&line),
            Style::Table => write(&row(&line)?),
        }
    }
    Ok(DONE)
}

/// A line of the agent, as far as a person reads it.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Line {
    Verdict(Box<Verdict>),
    Lost { lines: u64 },
}

#[derive(Debug, Deserialize)]
struct Verdict {
    timestamp: String,
    disposition: String,
    reason: String,
    connection: Connection,
    src: Value,
    dest: Value,
    policies: Vec<Policy>,
    rule: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    direction: String,
    src_ip: String,
    dest_ip: String,
    src_port: Option<u16>,
    dest_port: Option<u16>,
    protocol: String,
}

#[derive(Debug, Deserialize)]
struct Policy {
    namespace: Option<String>,
    name: String,
}

fn row(line: &str) -> anyhow::Result<String> {
    let line: Line = serde_json::from_str(line)
        .context("the agent's line is not understood: is it another version?")?;
    Ok(match line {
        Line::Lost { lines } => {
            format!("-- {lines} verdicts were lost: this reader was too slow\n")
        }
        Line::Verdict(verdict) => verdict.row(),
    })
}

impl Verdict {
    fn row(&self) -> String {
        let connection = &self.connection;
        let who = if self.policies.is_empty() {
            String::new()
        } else {
            let names: Vec<String> = self.policies.iter().map(policy).collect();
            format!(" ({})", names.join(", "))
        };
        let rule = self.rule.as_ref().map(|rule| format!(" {rule}"));
        format!(
            "{} {} {} {} {} -> {} {}{who}{}\n",
            time(&self.timestamp),
            self.disposition,
            connection.direction,
            connection.protocol,
            end(&self.src, &connection.src_ip, connection.src_port),
            end(&self.dest, &connection.dest_ip, connection.dest_port),
            self.reason,
            rule.unwrap_or_default(),
        )
    }
}

/// Hours to milliseconds of an RFC 3339 time.
fn time(timestamp: &str) -> &str {
    let clock = timestamp
        .split_once('T')
        .map_or(timestamp, |(_, clock)| clock);
    let clock = clock.trim_end_matches('Z');
    clock.get(..12).unwrap_or(clock)
}

fn policy(policy: &Policy) -> String {
    match &policy.namespace {
        Some(namespace) => format!("{namespace}/{}", policy.name),
        None => policy.name.clone(),
    }
}

fn end(end: &Value, ip: &str, port: Option<u16>) -> String {
    let text = |field: &str| end.get(field).and_then(Value::as_str);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    match (text("pod_namespace"), text("pod_name"), text("node_name")) {
        (Some(namespace), Some(name), _) => format!("{namespace}/{name}{port}[{ip}]"),
        (_, _, Some(node)) => format!("node {node}{port}[{ip}]"),
        _ if ip.contains(':') && !port.is_empty() => format!("[{ip}]{port}"),
        _ => format!("{ip}{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENIED: &str = r#"{"type":"verdict","timestamp":"2026-11-21T13:15:45.631538173Z","monotonic_ns":1,"node_name":"vm","disposition":"deny","reason":"policy","connection":{"direction":"ingress","src_ip":"10.99.0.4","dest_ip":"10.99.0.2","src_port":43094,"dest_port":5432,"protocol":"tcp"},"src":{"instance":"10.99.0.4"},"dest":{"pod_namespace":"shop","pod_name":"db"},"policies":[{"kind":"NetworkPolicy","namespace":"shop","name":"db-for-web"}]}"#;

    #[test]
    fn verdict_is_one_line_with_names_and_policies() {
        assert_eq!(
            row(DENIED).unwrap(),
            "13:15:45.631 deny ingress tcp 10.99.0.4:43094 -> shop/db:5432[10.99.0.2] policy (shop/db-for-web)\n"
        );
        assert_eq!(
            row(r#"{"type":"lost","lines":7}"#).unwrap(),
            "-- 7 verdicts were lost: this reader was too slow\n"
        );
        assert!(row("{}").is_err());
    }

    #[test]
    fn watching_ends_after_the_count_and_fails_when_the_agent_ends_before() {
        let lines = format!("{DENIED}\n{{\"type\":\"lost\",\"lines\":7}}\n{DENIED}\n");
        let watched = watch(lines.as_bytes(), Style::Json, Some(2));
        assert_eq!(watched.unwrap(), DONE);
        assert!(watch(lines.as_bytes(), Style::Json, Some(3)).is_err());
        assert!(watch(lines.as_bytes(), Style::Json, None).is_err());
    }

    #[test]
    fn reasons_are_those_of_verdicts() {
        assert!(reason("spoofed-source").is_ok());
        assert!(reason("because").is_err());
    }
}

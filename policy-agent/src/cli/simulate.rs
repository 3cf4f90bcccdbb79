//! `simulate`: verdicts from manifests alone.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use policy_core::diagnostic::Severity;
use policy_core::simulate::{Answer, Question, SideAnswer, Simulator, Verdict};
use policy_core::store::Store;
use serde::Serialize;
use serde_json::{Value, json};

use super::output::{Format, print, write};
use super::{DONE, NO, OutputArg, UNDECIDED, USAGE, probe};
use crate::source::manifests;

/// Arguments of `simulate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
policy-agent simulate -f manifests/ --from shop/web --to shop/db --port 5432/TCP\n  \
policy-agent simulate -f manifests/ --from 192.0.2.7 --to shop/web --port http/TCP\n  \
policy-agent simulate -f manifests/ --probes probes.jsonl\n\n\
A file of probes has a JSON object a line: {\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\
\"protocol\":\"TCP\"}; the answers come in the same order, a line each.")]
pub(super) struct SimulateArgs {
    /// Manifests: a file or folder; may be given more than once.
    #[arg(short, long = "file", env = "POLICY_AGENT_FILE", value_name = "PATH", required = true, num_args = 1.., value_delimiter = ',')]
    file: Vec<PathBuf>,
    /// Who opens the connection: namespace/pod, or an address.
    #[arg(
        long,
        env = "POLICY_AGENT_FROM",
        value_name = "WHO",
        requires = "to",
        conflicts_with = "probes"
    )]
    from: Option<String>,
    /// To whom: namespace/pod, or an address.
    #[arg(long, env = "POLICY_AGENT_TO", value_name = "WHO", requires = "from")]
    to: Option<String>,
    /// On which port: 80/TCP, dns/UDP (a name of the destination's ports), or a
    /// protocol without ports: ICMP.
    #[arg(
        long,
        env = "POLICY_AGENT_PORT",
        value_name = "PORT",
        requires = "from"
    )]
    port: Option<String>,
    /// 4 or 6; without it IPv4 if both ends have an IPv4 address.
    #[arg(
        long,
        env = "POLICY_AGENT_FAMILY",
        value_name = "FAMILY",
        requires = "from"
    )]
    family: Option<String>,
    /// File of probes, `-` for standard input.
    #[arg(
        long,
        env = "POLICY_AGENT_PROBES",
        value_name = "FILE",
        required_unless_present = "from"
    )]
    probes: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArg,
}

/// `simulate`.
pub(super) fn simulate(args: &SimulateArgs) -> anyhow::Result<u8> {
    for path in &args.file {
        if let Err(error) = std::fs::metadata(path) {
            eprintln!("policy-agent: {}: {error}", path.display());
            return Ok(USAGE);
        }
    }
    let update = manifests::read(&args.file);
    for diagnostic in &update.diagnostics {
        if diagnostic.severity > Severity::Info {
            eprintln!("{diagnostic}");
        }
    }
    let mut store = Store::new();
    store.apply_all(update.events);
    let mut simulator = Simulator::new(&store);
    match &args.probes {
        Some(file) => many(&mut simulator, file),
        None => one(&mut simulator, args),
    }
}

fn one(simulator: &mut Simulator<'_>, args: &SimulateArgs) -> anyhow::Result<u8> {
    let question = match question(args) {
        Ok(question) => question,
        Err(error) => {
            eprintln!("policy-agent: {error}");
            return Ok(USAGE);
        }
    };
    match simulator.ask(&question) {
        Ok(answer) => {
            print(args.output.output, &answer, table)?;
            Ok(match answer.verdict {
                Verdict::Allow => DONE,
                Verdict::Deny => NO,
                Verdict::Depends => UNDECIDED,
            })
        }
        Err(error) => {
            if args.output.output == Format::Table {
                eprintln!("policy-agent: {error}");
            } else {
                print(
                    args.output.output,
                    &json!({"error": error.to_string()}),
                    Value::to_string,
                )?;
            }
            Ok(USAGE)
        }
    }
}

fn question(args: &SimulateArgs) -> Result<Question, String> {
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        return Err("give --from and --to, or --probes".to_owned());
    };
    let Some(port) = &args.port else {
        return Err(
            "--port: give one, for example 80/TCP, or a protocol without ports: ICMP".to_owned(),
        );
    };
    let (port, protocol) = probe::port_and_protocol(port)?;
    Ok(Question {
        from: probe::who(from).map_err(|error| format!("--from: {error}"))?,
        to: probe::who(to).map_err(|error| format!("--to: {error}"))?,
        port,
        protocol,
        family: args
            .family
            .as_deref()
            .map(probe::family_named)
            .transpose()?,
    })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::Depends => "depends",
    }
}

fn table(answer: &Answer) -> String {
    let side = |name: &str, side: &Option<SideAnswer>| match side {
        None => format!("  {name}: not judged\n"),
        Some(side) => {
            let verdict = word(side.verdict);
            let by = if side.policies.is_empty() {
                String::new()
            } else {
                format!(": {}", side.policies.join(", "))
            };
            let rule = side
                .rule
                .as_ref()
                .map(|rule| format!(" {rule}"))
                .unwrap_or_default();
            format!("  {name}: {verdict}, {}{by}{rule}\n", side.reason)
        }
    };
    let sides = |egress, ingress| {
        let egress = side("egress of the sender", egress);
        egress + &side("ingress of the receiver", ingress)
    };
    let verdict = word(answer.verdict).to_uppercase();
    let mut text = format!("{verdict}: {}\n", answer.reason);
    if answer.backends.is_empty() {
        return text + &sides(&answer.egress, &answer.ingress);
    }
    for backend in &answer.backends {
        let at = SocketAddr::new(backend.address, backend.port);
        let who = backend.pod.as_ref();
        let who = who.map_or(String::new(), |pod| format!(" ({pod})"));
        let (verdict, reason) = (word(backend.verdict), &backend.reason);
        text += &format!("{at}{who}: {verdict}, {reason}\n");
        text += &sides(&backend.egress, &backend.ingress);
    }
    text
}

/// An answer beside the fields of its probe.
#[derive(Debug, Serialize)]
struct Answered<'a> {
    #[serde(flatten)]
    probe: &'a Value,
    #[serde(flatten)]
    answer: &'a Answer,
}

fn many(simulator: &mut Simulator<'_>, file: &Path) -> anyhow::Result<u8> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input")?;
    } else {
        match std::fs::read_to_string(file) {
            Ok(read) => text = read,
            Err(error) => {
                eprintln!("policy-agent: {}: {error}", file.display());
                return Ok(USAGE);
            }
        }
    }
    let mut out = String::new();
    let mut code = DONE;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match answer(simulator, line) {
            Ok(answered) => out.push_str(&answered),
            Err(error) => {
                code = USAGE;
                out.push_str(&json!({"error": error}).to_string());
            }
        }
        out.push('\n');
    }
    write(&out);
    Ok(code)
}

fn answer(simulator: &mut Simulator<'_>, line: &str) -> Result<String, String> {
    let probe: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let question = probe::from_json(&probe)?;
    let answer = simulator
        .ask(&question)
        .map_err(|error| error.to_string())?;
    let answered = Answered {
        probe: &probe,
        answer: &answer,
    };
    serde_json::to_string(&answered).map_err(|error| error.to_string())
}

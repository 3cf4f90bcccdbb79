//! Questions, asked twice: of the network with real sockets, and of
//! `policy-agent simulate` on the agent's own folder.
//!
//! Any difference ends the demo; the message says which probe.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::agent::Agent;
use super::cast::{Actor, COLUMNS, Cast};
use crate::lab::{Family, Lab, Outcome, Probe, Proto, matrix};

/// When silence counts: time for a second SYN, should a busy machine lose one.
const SILENCE: Duration = Duration::from_millis(1_500);
/// Differences that a message names.
const NAMED: usize = 10;

/// One connection to try.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) from: Actor,
    pub(super) to: Actor,
    /// 0 where the protocol has no ports.
    pub(super) port: u16,
    pub(super) proto: Proto,
    pub(super) family: Family,
}

/// What `simulate` says to one.
#[derive(Debug, Deserialize)]
pub(super) struct Expected {
    verdict: String,
    reason: String,
    egress: Option<Side>,
    ingress: Option<Side>,
}

/// What the policies of one end say.
#[derive(Debug, Deserialize)]
struct Side {
    verdict: String,
    policies: Vec<String>,
}

impl Expected {
    /// Whether the connection may be opened.
    pub(super) fn is_allowed(&self) -> bool {
        self.verdict == "allow"
    }

    /// The direction in which it is denied first, and the policies that do it.
    pub(super) fn denied_by(&self) -> Option<(&'static str, &[String])> {
        let sides = [("egress", &self.egress), ("ingress", &self.ingress)];
        sides.into_iter().find_map(|(direction, side)| {
            let side = side.as_ref().filter(|side| side.verdict == "deny")?;
            Some((direction, side.policies.as_slice()))
        })
    }
}

/// A question with both answers.
pub(super) struct Answer {
    pub(super) question: Question,
    pub(super) measured: Outcome,
    pub(super) expected: Expected,
}

impl Question {
    /// Everybody to everything, but nobody to himself, and nothing that passes
    /// no pod.
    pub(super) fn all(cast: &Cast) -> Vec<Self> {
        let mut all = Vec::new();
        for from in &cast.actors {
            for (to, port, proto) in COLUMNS {
                let to = cast.get(to);
                if from.name() == to.name() || !(from.is_pod || to.is_pod) {
                    continue;
                }
                all.extend(Family::BOTH.map(|family| Self {
                    from: from.clone(),
                    to: to.clone(),
                    port,
                    proto,
                    family,
                }));
            }
        }
        all
    }

    fn probe(&self) -> Result<Probe> {
        let (from, to) = (&self.from.host, &self.to.host);
        let mut probe = Probe::new(from, to, self.family, self.port, self.proto)?;
        probe.timeout = SILENCE;
        Ok(probe)
    }

    /// A line of a file for `simulate --probes`.
    fn json(&self) -> Result<String> {
        let protocol = match (self.proto, self.family) {
            (Proto::Icmp, Family::V4) => json!("ICMP"),
            (Proto::Icmp, Family::V6) => json!("ICMPv6"),
            (Proto::Other(number), _) => json!(number),
            (proto @ (Proto::Tcp | Proto::Udp | Proto::Sctp), _) => json!(proto.to_string()),
        };
        let line = json!({
            "from": self.from.who(self.family)?,
            "to": self.to.who(self.family)?,
            "port": (self.port != 0).then_some(self.port),
            "protocol": protocol,
            "family": match self.family { Family::V4 => 4, Family::V6 => 6 },
        });
        Ok(line.to_string())
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {} ", self.from.name(), self.to.name())?;
        if self.port != 0 {
            write!(f, "{}/", self.port)?;
        }
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        write!(f, "{} over {family}", self.proto)
    }
}

/// Asks the network and `simulate`.
///
/// # Errors
/// When a question cannot be asked, or any two answers differ.
pub(super) fn ask(lab: &Lab, agent: &Agent, questions: &[Question]) -> Result<Vec<Answer>> {
    let expected = simulate(lab, agent, questions)?;
    let probes = questions
        .iter()
        .map(Question::probe)
        .collect::<Result<Vec<_>>>()?;
    let measured = matrix(&probes)?;
    let answers: Vec<Answer> = questions
        .iter()
        .zip(measured.into_iter().zip(expected))
        .map(|(question, (measured, expected))| Answer {
            question: question.clone(),
            measured,
            expected,
        })
        .collect();
    let differing: Vec<String> = answers.iter().filter_map(Answer::difference).collect();
    let named = differing.len().min(NAMED);
    ensure!(
        differing.is_empty(),
        "{} of {} measurements differ from what `policy-agent simulate` says:\n  {}",
        differing.len(),
        answers.len(),
        differing[..named].join("\n  ")
    );
    Ok(answers)
}

fn simulate(lab: &Lab, agent: &Agent, questions: &[Question]) -> Result<Vec<Expected>> {
    let mut lines = String::new();
    for question in questions {
        lines.push_str(&question.json()?);
        lines.push('\n');
    }
    let file = lab.dir().join("probes.jsonl");
    fs::write(&file, lines).with_context(|| format!("write {}", file.display()))?;
    let path = |path: &std::path::Path| path.display().to_string();
    let output = agent.ask(&[
        "simulate",
        "-f",
        &path(agent.manifests()),
        "--probes",
        &path(&file),
    ])?;
    let expected = output
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("simulate answers what is not understood: {line}"))
        })
        .collect::<Result<Vec<Expected>>>()?;
    ensure!(
        expected.len() == questions.len(),
        "simulate gives {} answers to {} probes",
        expected.len(),
        questions.len()
    );
    Ok(expected)
}

impl Answer {
    /// How the answers differ. Denied means silence: an RST or an ICMP error
    /// is neither.
    fn difference(&self) -> Option<String> {
        let agree = match &self.measured {
            Outcome::Connected(_) => self.expected.is_allowed(),
            Outcome::TimedOut => !self.expected.is_allowed(),
            Outcome::Refused | Outcome::Error(_) => false,
        };
        let Expected {
            verdict, reason, ..
        } = &self.expected;
        (!agree).then(|| {
            format!(
                "{}: measured: {}; simulate: {verdict} ({reason})",
                self.question, self.measured
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(line: &str) -> Expected {
        serde_json::from_str(line).expect("a line of simulate")
    }

    #[test]
    fn the_side_that_denies_first_is_named() {
        let allow = expected(r#"{"verdict":"allow","reason":"r","egress":null,"ingress":null}"#);
        assert!(allow.is_allowed() && allow.denied_by().is_none());
        let deny = expected(
            r#"{"verdict":"deny","reason":"r",
                "egress":{"verdict":"allow","policies":["a/x"]},
                "ingress":{"verdict":"deny","policies":["b/y","b/z"]}}"#,
        );
        assert!(!deny.is_allowed());
        let policies = ["b/y".to_owned(), "b/z".to_owned()];
        assert_eq!(deny.denied_by(), Some(("ingress", &policies[..])));
    }
}

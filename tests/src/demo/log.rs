//! The agent's lines: denied connections with the policies that denied them,
//! and when a pod's policies took effect.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::agent::Agent;
use super::measure::Answer;
use crate::lab::{now_ns, wait_for};

/// Lines follow their packets within milliseconds; the rest is for a busy
/// machine.
const BOUND: Duration = Duration::from_secs(5);
/// Events carry the kernel's coarse clock, which is behind by a tick at most:
/// 10 ms at 100 ticks a second, the slowest that there is.
const TICK_NS: u64 = 10_000_000;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line {
    Verdict(Denial),
    Programmed(Programmed),
    #[serde(other)]
    Other,
}

/// A verdict.
#[derive(Debug, Deserialize)]
pub(super) struct Denial {
    monotonic_ns: u64,
    disposition: String,
    reason: String,
    connection: Connection,
    policies: Vec<Policy>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    direction: String,
    src_ip: IpAddr,
    dest_ip: IpAddr,
    dest_port: Option<u16>,
    protocol: String,
}

#[derive(Debug, Deserialize)]
struct Policy {
    namespace: Option<String>,
    name: String,
}

impl Denial {
    /// In which direction, as seen from the pod whose policies deny it.
    pub(super) fn direction(&self) -> &str {
        &self.connection.direction
    }

    /// The policies that deny it, as `namespace/name`.
    pub(super) fn policies(&self) -> Vec<String> {
        let name = |policy: &Policy| match &policy.namespace {
            Some(namespace) => format!("{namespace}/{}", policy.name),
            None => policy.name.clone(),
        };
        self.policies.iter().map(name).collect()
    }

    fn is_about(&self, answer: &Answer, since_ns: u64) -> Result<bool> {
        let question = &answer.question;
        let connection = &self.connection;
        Ok(self.disposition == "deny"
            && self.reason == "policy"
            && self.monotonic_ns + TICK_NS >= since_ns
            && connection.src_ip == question.from.host.address(question.family)?
            && connection.dest_ip == question.to.host.address(question.family)?
            && connection.dest_port == Some(question.port)
            && connection.protocol == question.proto.to_string().to_lowercase())
    }
}

/// A pod whose policies have been put in force.
#[derive(Debug, Deserialize)]
struct Programmed {
    pod: Option<String>,
    ingress_isolated: bool,
    stored_monotonic_ns: u64,
}

fn lines(agent: &Agent) -> impl Iterator<Item = Line> {
    let text = agent.log();
    // The last line may be half written.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let lines: Vec<Line> = text[..whole]
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    lines.into_iter()
}

/// The agent's line about a connection that was denied after `since_ns`, which
/// has to name what `simulate` names.
///
/// # Errors
/// When no such line comes, or when it differs.
pub(super) fn denial(agent: &Agent, answer: &Answer, since_ns: u64) -> Result<Denial> {
    let mut found = None;
    let mut result = Ok(());
    wait_for("the agent's line", BOUND, || {
        found = lines(agent).find_map(|line| match line {
            Line::Verdict(denial) => match denial.is_about(answer, since_ns) {
                Ok(about) => about.then_some(denial),
                Err(error) => {
                    result = Err(error);
                    None
                }
            },
            Line::Programmed(_) | Line::Other => None,
        });
        found.is_some()
    })
    .with_context(|| format!("{}: denied, but not reported", answer.question))?;
    result?;
    let denial = found.context("the condition was that it is found")?;
    let expected = answer
        .expected
        .denied_by()
        .with_context(|| format!("{}: simulate does not deny it", answer.question))?;
    let said = (denial.direction(), denial.policies());
    ensure!(
        (said.0, said.1.as_slice()) == expected,
        "{}: the agent's line names {said:?}, simulate {expected:?}",
        answer.question
    );
    Ok(denial)
}

/// When a pod's ingress policies were stored, by the agent's log.
///
/// # Errors
/// When the log does not say so.
pub(super) fn isolated_at(agent: &Agent, pod: &str, since_ns: u64) -> Result<u64> {
    let mut at = None;
    wait_for("the agent's line", BOUND, || {
        at = lines(agent).find_map(|line| match line {
            Line::Programmed(line) => (line.pod.as_deref() == Some(pod)
                && line.ingress_isolated
                && line.stored_monotonic_ns >= since_ns)
                .then_some(line.stored_monotonic_ns),
            Line::Verdict(_) | Line::Other => None,
        });
        at.is_some()
    })
    .with_context(|| format!("when did the policies of {pod} take effect?"))?;
    let at = at.context("the condition was that it is found")?;
    ensure!(at <= now_ns(), "{pod}: the agent's time is in the future");
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_by_type() {
        let verdict = r#"{"type":"verdict","monotonic_ns":5,"disposition":"deny",
            "reason":"policy","connection":{"direction":"ingress","src_ip":"10.0.0.1",
            "dest_ip":"10.0.0.2","src_port":1,"dest_port":2,"protocol":"tcp"},
            "policies":[{"kind":"NetworkPolicy","namespace":"a","name":"x"}]}"#;
        let Ok(Line::Verdict(denial)) = serde_json::from_str(verdict) else {
            panic!("a verdict");
        };
        assert_eq!(denial.policies(), ["a/x"]);
        assert_eq!(denial.direction(), "ingress");
        let programmed = r#"{"type":"programmed","pod":"a/p","slot":1,"generation":2,
            "ingress_isolated":true,"egress_isolated":false,"stored_monotonic_ns":7}"#;
        assert!(matches!(
            serde_json::from_str(programmed),
            Ok(Line::Programmed(Programmed {
                stored_monotonic_ns: 7,
                ..
            }))
        ));
        assert!(matches!(
            serde_json::from_str(r#"{"type":"news","x":1}"#),
            Ok(Line::Other)
        ));
    }
}

//! A node's agent, seen from outside: its process, what it needs, and what it
//! says of itself at its metrics endpoint.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::Node;
use crate::lab::Netns;

/// Its program.
const PROGRAM: &str = "policy-agent";
/// Where the shipped manifests have its metrics, on the node's loopback address.
const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9410);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A running agent.
pub(super) struct Agent {
    pub(super) pid: i32,
}

/// What an agent needed.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    cpu_seconds: f64,
    /// In memory, MiB; and of that what is not a file's.
    resident_mib: f64,
    anonymous_mib: f64,
}

impl Agent {
    /// The agent of a node.
    ///
    /// # Errors
    /// When none runs there.
    pub(super) fn on(node: &Node) -> Result<Self> {
        Self::find(node)?.with_context(|| format!("no {PROGRAM} runs on {}", node.name))
    }

    /// The same, if one runs.
    pub(super) fn find(node: &Node) -> Result<Option<Self>> {
        let wanted = fs::metadata(&node.netns)
            .with_context(|| format!("look at {}", node.netns.display()))?;
        let entries = fs::read_dir("/proc").context("list /proc")?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut pids = pids.filter(|pid| {
            let dir = PathBuf::from(format!("/proc/{pid}"));
            let program = fs::read_link(dir.join("exe")).unwrap_or_default();
            program.file_name().is_some_and(|name| name == PROGRAM)
                && is_run(&dir)
                && fs::metadata(dir.join("ns/net"))
                    .is_ok_and(|own| (own.dev(), own.ino()) == (wanted.dev(), wanted.ino()))
        });
        Ok(pids.next().map(|pid| Self { pid }))
    }

    /// Kills it without a word.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn kill(&self) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("a process id is not zero")?;
        kill_process(pid, Signal::KILL).context("kill the agent")
    }

    /// Processor time of all its threads so far; those that ended are left out,
    /// and it starts none while it works.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let dir = format!("/proc/{}/task", self.pid);
        let tasks = fs::read_dir(&dir).with_context(|| format!("list {dir}"))?;
        let mut sum = 0;
        for task in tasks.flatten() {
            // Nanoseconds on a processor, nanoseconds of waiting, slices
            // (Documentation/scheduler/sched-stats.rst).
            let text = fs::read_to_string(task.path().join("schedstat"))?;
            let ran = text
                .split_whitespace()
                .next()
                .and_then(|word| word.parse::<u64>().ok());
            sum += ran.with_context(|| format!("schedstat reads {text:?}"))?;
        }
        Ok(Duration::from_nanos(sum))
    }

    /// What it needed since [`Self::cpu`] was `before`.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn cost_since(&self, before: Duration) -> Result<Cost> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let mib = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            Ok(kib.with_context(|| format!("its status has no {name}"))? / 1024.0)
        };
        Ok(Cost {
            cpu_seconds: self.cpu()?.saturating_sub(before).as_secs_f64(),
            resident_mib: mib("VmRSS:")?,
            anonymous_mib: mib("RssAnon:")?,
        })
    }
}

/// Whether a process is an agent, and no command that talks to one.
fn is_run(dir: &Path) -> bool {
    let words = fs::read(dir.join("cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"run")
}

/// Times that an agent has measured itself.
pub(super) struct Durations {
    /// From the news of a policy to the last map write.
    pub(super) programming: Bins,
    /// The same of a peer.
    pub(super) propagation: Bins,
}

/// How many times were not longer than so many seconds; the last bin has no end.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Bins(Vec<(Option<f64>, u64)>);

impl Bins {
    /// What has come into each bin and no lower one since `before`; bins into
    /// which nothing has are left out.
    pub(super) fn since(&self, before: &Self) -> Vec<(Option<f64>, u64)> {
        let mut lower = 0;
        let mut own = Vec::new();
        for (index, (end, count)) in self.0.iter().enumerate() {
            let earlier = before.0.get(index).map_or(0, |(_, count)| *count);
            let up_to = count.saturating_sub(earlier);
            if up_to > lower {
                own.push((*end, up_to - lower));
            }
            lower = up_to;
        }
        own
    }
}

/// What the agent of a node has measured so far; nothing where none runs.
///
/// # Errors
/// When one runs that does not answer.
pub(super) fn durations(node: &Node) -> Result<Durations> {
    let text = match Agent::find(node)? {
        Some(_) => metrics(node)?,
        None => String::new(),
    };
    Ok(Durations {
        programming: bins(
            &text,
            "policy_agent_policy_programming_duration_seconds_bucket",
        ),
        propagation: bins(
            &text,
            "policy_agent_peer_propagation_duration_seconds_bucket",
        ),
    })
}

fn metrics(node: &Node) -> Result<String> {
    let asked = Netns::open(&node.netns)?.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&METRICS.into(), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let answer =
        asked.with_context(|| format!("ask the agent of {} for its metrics", node.name))?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "the agent of {} answers {:?}",
        node.name,
        answer.lines().next()
    );
    Ok(answer)
}

/// The bins of a histogram in the text format of Prometheus.
fn bins(text: &str, name: &str) -> Bins {
    let lines = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix("{le=\"")?;
        let (end, count) = rest.split_once("\"} ")?;
        // The last end is `+Inf`.
        let end = end.parse().ok().filter(|end: &f64| end.is_finite());
        Some((end, count.trim().parse().ok()?))
    });
    Bins(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_and_shown_without_what_was_before() {
        let text = |one: u64, two: u64, all: u64| {
            format!(
                "x_bucket{{le=\"0.001\"}} {one}\nx_bucket{{le=\"0.002\"}} {two}\n\
                 x_bucket{{le=\"+Inf\"}} {all}\nx_sum 1\nxy_bucket{{le=\"7\"}} 9\n"
            )
        };
        let (before, after) = (
            bins(&text(1, 2, 2), "x_bucket"),
            bins(&text(4, 5, 6), "x_bucket"),
        );
        assert_eq!(after.0.len(), 3);
        assert_eq!(after.since(&before), [(Some(0.001), 3), (None, 1)]);
        assert_eq!(after.since(&Bins::default())[1], (Some(0.002), 1));
        assert!(bins("", "x_bucket").since(&before).is_empty());
    }
}

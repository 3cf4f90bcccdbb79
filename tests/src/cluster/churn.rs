//! Labels that change all the time: 50 a second, on pods of which a policy of
//! the target speaks; and what that costs the agents.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::agent::{self, Cost};
use super::api::Api;
use super::stage::{CHURNING, PODS, POLICIES, Stage, ingress, with_label};

/// Connections on which labels are changed: one alone waits for each answer.
const CONNECTIONS: usize = 4;
/// Time between two changes of one connection: 50 a second of all.
const INTERVAL: Duration = Duration::from_millis(80);
/// Values that the label takes in turn; two of them are peers.
const VALUES: usize = 5;
const POLICY: &str = "churn";

/// Does something while labels change; with how many did a second.
///
/// # Errors
/// When a label cannot be changed, or the deed fails.
pub(super) fn during<T>(stage: &Stage, deed: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let peers = json!([{"from": [with_label(POLICY, "1"), with_label(POLICY, "3")]}]);
    stage
        .api
        .create(POLICIES, &ingress(POLICY, "target", &peers))?;
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let stop = &stop;
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|first| scope.spawn(move || change(first, stop)))
            .collect();
        let start = Instant::now();
        let done = deed();
        let seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let mut changed = 0.0;
        for thread in threads {
            let ended = thread.join().ok();
            changed += ended.context("a thread that changes labels died")??;
        }
        Ok((done?, changed / seconds))
    });
    stage.api.delete(&format!("{POLICIES}/{POLICY}"))?;
    result
}

/// Changes the labels of its own share of the pods, one after the other, over a
/// connection of its own.
fn change(first: usize, stop: &AtomicBool) -> Result<f64> {
    let api = Api::open()?;
    let pods: Vec<usize> = (first..CHURNING).step_by(CONNECTIONS).collect();
    let mut next = Instant::now();
    let mut changed = 0;
    while !stop.load(Ordering::Relaxed) {
        let (round, turn) = (changed / pods.len(), changed % pods.len());
        let pod = format!("{PODS}/churn-{}", pods[turn]);
        // Each pod has another value each time.
        let value = (round + turn) % VALUES;
        let labels = json!({"metadata": {"labels": {POLICY: value.to_string()}}});
        api.patch(&pod, &labels)?;
        changed += 1;
        // Whoever is late does not catch up in a burst.
        next = Instant::now().max(next + INTERVAL);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    // A few thousand at most.
    Ok(f64::from(u32::try_from(changed)?))
}

/// What the agents needed while labels changed.
#[derive(Debug, Serialize)]
pub(super) struct Load {
    seconds: usize,
    changed_per_second: f64,
    /// Of each node in turn.
    agents: Vec<Cost>,
}

/// Changes labels for some seconds.
///
/// # Errors
/// When no agent runs on a node.
pub(super) fn load(stage: &Stage, seconds: usize) -> Result<Load> {
    let nodes = || stage.setting.nodes.iter().take(2);
    let running = || -> Result<Vec<agent::Agent>> { nodes().map(agent::Agent::on).collect() };
    let agents = running()?;
    let before = agents
        .iter()
        .map(agent::Agent::cpu)
        .collect::<Result<Vec<Duration>>>()?;
    let span = Duration::from_secs(seconds as u64);
    let ((), changed_per_second) = during(stage, || {
        std::thread::sleep(span);
        Ok(())
    })?;
    let costs = agents
        .iter()
        .zip(before)
        .map(|(agent, before)| agent.cost_since(before));
    Ok(Load {
        seconds,
        changed_per_second,
        agents: costs.collect::<Result<_>>()?,
    })
}

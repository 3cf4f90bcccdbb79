//! `kill -9` of the agent of the target's node: what is lost of allowed traffic,
//! and when a policy that is created while nobody is there comes into force.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::agent::Agent;
use super::effects::{Change, Fates};
use super::spread::ms;
use super::stage::{POLICIES, Stage, ingress, with_label};
use crate::lab::{Family, UdpSpec, UdpStream, now_ns, wait_for};

/// Where the target listens; the second port is the stranger's.
const PORT: u16 = 7600;
/// Time between two datagrams, and how many are sent.
const INTERVAL: Duration = Duration::from_micros(500);
const DATAGRAMS: usize = 12_000;
/// Datagrams before the kill.
const BEFORE: usize = 2_000;
/// How long the next agent may take to be there, and to be at work.
const BOUND: Duration = Duration::from_secs(60);
/// How long the deny is watched.
const WATCH: Duration = Duration::from_millis(500);

/// What a kill does.
#[derive(Debug, Serialize)]
pub(super) struct Kill {
    /// Allowed datagrams that were sent, and those that never arrived.
    sent: usize,
    lost: usize,
    /// Until a process of the next agent was there, milliseconds.
    kill_to_start_ms: f64,
    /// From there until the new policy stopped its first datagram; none if it
    /// never did.
    start_to_effect_ms: Option<f64>,
    /// Denied datagrams that were delivered after that.
    flaps: usize,
}

/// Kills the agent once.
///
/// # Errors
/// When there is none, or none comes again.
pub(super) fn kill(stage: &Stage) -> Result<Kill> {
    let node = stage.node();
    let stream_of = |from, port| {
        let spec = UdpSpec::new(from, &stage.target, Family::V4, port)?.interval(INTERVAL);
        UdpStream::start(&spec)
    };
    let allowed = stream_of(&stage.client, PORT)?;
    let denied = stream_of(&stage.stranger, PORT + 1)?;
    allowed.wait_until_flowing(BOUND)?;
    denied.wait_until_flowing(BOUND)?;
    wait_for("datagrams before the kill", BOUND, || {
        allowed.sent() >= BEFORE
    })?;

    let killed = Agent::on(node)?;
    killed.kill()?;
    let killed_ns = now_ns();
    let peers = json!([{"from": [with_label("role", "client")]}]);
    let times = stage
        .api
        .create(POLICIES, &ingress("restart", "target", &peers))?;
    let mut started = Ok(None);
    wait_for("the next agent", BOUND, || {
        started = Agent::find(node).map(|found| found.filter(|next| next.pid != killed.pid));
        !matches!(started, Ok(None))
    })?;
    let started_ns = now_ns();
    started?.context("the next agent")?;
    // In vain when it never is; that is found in the account.
    let _ = wait_for("the policy to be in force", BOUND, || {
        let last_ns = denied.last_arrival().map_or(0, |last| last.sent_ns);
        Duration::from_nanos(now_ns().saturating_sub(last_ns)) > WATCH
    });
    wait_for("enough datagrams", BOUND, || allowed.sent() >= DATAGRAMS)?;
    let (allowed, denied) = (allowed.stop()?, denied.stop()?);
    stage.api.delete(&format!("{POLICIES}/restart"))?;
    // Told apart from what was lost on the way: nothing was without room.
    Fates::of(&allowed)?;
    let allows = false;
    let effect = Fates::of(&denied)?.after(&[Change { times, allows }])[0];
    Ok(Kill {
        sent: allowed.sent_ns.len(),
        lost: allowed.lost().len(),
        kill_to_start_ms: ms(started_ns - killed_ns),
        start_to_effect_ms: effect.first_ns.map(|at| ms(at.saturating_sub(started_ns))),
        flaps: effect.flaps,
    })
}

//! From the API server's answer about a change to its effect on packets, told by
//! datagrams from the client to the target every 0.5 ms.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::api::Times;
use super::effects::{Change, Effect, Fates};
use super::spread::Spread;
use super::stage::{PODS, POLICIES, Stage, ingress, with_label};
use super::{agent, churn};
use crate::lab::{Family, UdpSpec, UdpStream, now_ns, wait_for};

/// Where the target listens for these datagrams.
const PORT: u16 = 7300;
/// Time between two of them.
const INTERVAL: Duration = Duration::from_micros(500);
/// Silence after which a deny is taken to be in force.
const SILENCE: Duration = Duration::from_millis(10);
/// How long each change is watched after that.
const WATCH: Duration = Duration::from_millis(25);
/// How long a change may take; slower ones count as not in force.
const BOUND: Duration = Duration::from_secs(5);
/// What came of all changes together.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    changes: usize,
    /// From the answer to the first datagram that met the change, milliseconds.
    answer_to_effect_ms: Spread,
    denies_ms: Spread,
    allows_ms: Spread,
    /// From the request to the same.
    request_to_effect_ms: Spread,
    /// Changes that did not come into force in time.
    never: usize,
    /// Datagrams that met what was before, after one had met the change; and in
    /// how many changes.
    flaps: usize,
    flapping: usize,
    /// Label changes that were made meanwhile, a second.
    churned_per_second: f64,
    /// The agent's own share on the target's node: upper end of a bin in seconds
    /// (none for the last), and changes in it.
    programming: Vec<(Option<f64>, u64)>,
    propagation: Vec<(Option<f64>, u64)>,
}

/// Creates and deletes a policy that denies.
///
/// # Errors
/// When nothing can be measured.
pub(super) fn policy(stage: &Stage, rounds: usize) -> Result<Latency> {
    let deny = ingress("latency", "target", &json!([]));
    let path = format!("{POLICIES}/latency");
    flip(stage, rounds, |allow| {
        if allow {
            stage.api.delete(&path)
        } else {
            stage.api.create(POLICIES, &deny)
        }
    })
}

/// Changes the label by which a policy lets the client in.
///
/// # Errors
/// When nothing can be measured.
pub(super) fn label(stage: &Stage, rounds: usize) -> Result<Latency> {
    let path = format!("{PODS}/client");
    let set = |value: &str| {
        let change = json!({"metadata": {"labels": {"welcome": value}}});
        stage.api.patch(&path, &change)
    };
    set("yes")?;
    let rules = json!([{"from": [with_label("welcome", "yes")]}]);
    stage
        .api
        .create(POLICIES, &ingress("latency", "target", &rules))?;
    let result = flip(stage, rounds, |allow| set(if allow { "yes" } else { "no" }));
    stage.api.delete(&format!("{POLICIES}/latency"))?;
    result
}

/// Creates and deletes a policy that allows, while the labels of other peers of
/// the target change.
///
/// # Errors
/// When nothing can be measured.
pub(super) fn churn(stage: &Stage, rounds: usize) -> Result<Latency> {
    let own = json!([{"from": [with_label("role", "client")]}]);
    let allow = ingress("latency", "target", &own);
    let path = format!("{POLICIES}/latency");
    stage.api.create(POLICIES, &allow)?;
    let (mut latency, churned) = churn::during(stage, || {
        flip(stage, rounds, |allows| {
            if allows {
                stage.api.create(POLICIES, &allow)
            } else {
                stage.api.delete(&path)
            }
        })
    })?;
    stage.api.delete(&path)?;
    latency.churned_per_second = churned;
    Ok(latency)
}

/// Makes changes to and fro, and tells when each took effect.
fn flip(
    stage: &Stage,
    rounds: usize,
    mut make: impl FnMut(bool) -> Result<Times>,
) -> Result<Latency> {
    let before = agent::durations(stage.node())?;
    let spec = UdpSpec::new(&stage.client, &stage.target, Family::V4, PORT)?.interval(INTERVAL);
    let stream = UdpStream::start(&spec)?;
    stream.wait_until_flowing(BOUND)?;
    let mut changes = Vec::new();
    for allows in (0..rounds).flat_map(|_| [false, true]) {
        let times = make(allows)?;
        changes.push(Change { times, allows });
        // In vain when it never comes; that is found in the account.
        let _ = wait_for("a change to take effect", BOUND, || {
            let last_ns = stream.last_arrival().map_or(0, |last| last.sent_ns);
            if allows {
                last_ns > times.answered_ns
            } else {
                Duration::from_nanos(now_ns().saturating_sub(last_ns)) > SILENCE
            }
        });
        std::thread::sleep(WATCH);
    }
    let fates = Fates::of(&stream.stop()?)?;
    let after = agent::durations(stage.node())?;
    let effects = fates.after(&changes);
    let latencies = |wanted: &dyn Fn(bool) -> bool| {
        let chosen = effects.iter().filter(|one| wanted(one.change.allows));
        Spread::of_ns(chosen.filter_map(Effect::latency_ns))
    };
    let from_request = effects.iter().filter_map(|one| {
        let asked_ns = one.change.times.asked_ns;
        Some(one.first_ns?.saturating_sub(asked_ns))
    });
    Ok(Latency {
        changes: effects.len(),
        answer_to_effect_ms: latencies(&|_| true),
        denies_ms: latencies(&|allows| !allows),
        allows_ms: latencies(&|allows| allows),
        request_to_effect_ms: Spread::of_ns(from_request),
        never: effects.iter().filter(|one| one.first_ns.is_none()).count(),
        flaps: effects.iter().map(|one| one.flaps).sum(),
        flapping: effects.iter().filter(|one| one.flaps > 0).count(),
        churned_per_second: 0.0,
        programming: after.programming.since(&before.programming),
        propagation: after.propagation.since(&before.propagation),
    })
}

//! Pods that begin under a flood, in waves on one node and the other in turn:
//! what is delivered to each that its policy denies, and whether its first
//! allowed connections succeed at the first try.
//!
//! The flood is aimed at an address before there is a pod behind it, so that
//! each pod is also born into a flow of datagrams that is older than it.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::flood::{Flood, RATE, Sent};
use super::greeter::{Greeter, Tries};
use super::newborn::{CLIENT, LIFE, Life, MARK, SERVER};
use super::spread::Spread;
use super::stage::{NAMESPACE, PODS, Stage, pod, poll};
use super::{Node, leases};
use crate::lab::now_ns;

/// Pods that begin together.
const WAVE: usize = 20;
/// Addresses beyond theirs at which the flood is aimed: other pods may come.
const SPARE: usize = 4;
/// How long each lives at least.
const LIVES: Duration = Duration::from_secs(3);
const CONTAINER: &str = "newborn";

/// What came of all pods together.
#[derive(Debug, Default, Serialize)]
pub(super) struct Births {
    pods: usize,
    /// Packets a second that were sent to each wave, half SYNs, half datagrams.
    packets_per_second: usize,
    /// Sent to the pods' addresses while they were there or about to come.
    sent: Kinds,
    /// Least that was sent to one of them, both kinds.
    least_sent: u64,
    /// Delivered to a pod's network namespace before the pod's program ran.
    delivered_before: Kinds,
    /// Delivered to the running pod.
    delivered: Kinds,
    /// Pods to which anything was delivered.
    reached: usize,
    /// Pods whose flow of datagrams from before their birth was delivered.
    older_flow_passed: usize,
    /// First tries that succeeded, of so many pods.
    first: FirstTries,
    /// From the start of a pod's program to the first answer to a datagram of
    /// its own, and to its first connection, milliseconds.
    start_to_answer_ms: Spread,
    start_to_connection_ms: Spread,
    /// From the request to create a pod to the start of its program.
    request_to_start_ms: Spread,
    /// Pods that never got an answer.
    unanswered: usize,
    /// Pods besides whose container the runtime could not start.
    not_started: usize,
    /// The first pods that something was wrong with, in words.
    wrong: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Kinds {
    segments: u64,
    datagrams: u64,
}

#[derive(Debug, Default, Serialize)]
struct FirstTries {
    pod_datagram: usize,
    pod_connection: usize,
    client_datagram: usize,
    client_connection: usize,
}

/// How many pods are told of in words.
const WORDS: usize = 5;

/// A pod that was created.
pub(super) struct Birth {
    pub(super) name: String,
    pub(super) requested_ns: u64,
}

/// What is known of one pod in the end.
struct Told {
    name: String,
    life: Life,
    requested_ns: u64,
    tries: Tries,
    sent: Sent,
}

/// Lets `count` pods begin under a flood.
///
/// # Errors
/// When a pod does not start, or the flood was not aimed at its address.
pub(super) fn measure(stage: &Stage, count: usize) -> Result<Births> {
    let greeter = Greeter::start(&stage.target, &stage.client)?;
    let flood = Flood::start(&stage.stranger)?;
    let mut all = Vec::new();
    let mut not_started = 0;
    for wave in 0..count.div_ceil(WAVE) {
        let node = &stage.setting.nodes[wave % 2];
        let pods = WAVE.min(count - wave * WAVE);
        eprintln!("    wave {wave}: {pods} pods on {}", node.name);
        flood.aim_at(&leases::next(&node.leases, pods + SPARE)?)?;
        let births = (0..pods).map(|number| {
            let name = format!("newborn-{}-{wave}-{number}", std::process::id());
            create(stage, node, name, LIVES)
        });
        let births = births.collect::<Result<Vec<Birth>>>()?;
        for birth in &births {
            let Some((life, address)) = life_of(stage, node, &birth.name)? else {
                not_started += 1;
                continue;
            };
            let mut tries = None;
            poll("the client's tries", || {
                // A pod that was never heard of is not tried.
                tries = greeter
                    .take(address)
                    .or_else(|| life.first_answer_ns.is_none().then(Tries::default));
                Ok(tries.is_some())
            })?;
            let sent = flood.sent_to(address);
            ensure!(
                sent.segments > 0 && sent.datagrams > 0,
                "the flood was not aimed at {address} of {}",
                birth.name
            );
            all.push(Told {
                name: birth.name.clone(),
                life,
                requested_ns: birth.requested_ns,
                tries: tries.unwrap_or_default(),
                sent,
            });
        }
        flood.aim_at(&[])?;
        for birth in births {
            stage.api.delete(&format!("{PODS}/{}", birth.name))?;
        }
    }
    drop(flood);
    gone(stage)?;
    greeter.end();
    Ok(Births {
        not_started,
        ..sum(&all)
    })
}

/// Creates a pod that is measured.
pub(super) fn create(stage: &Stage, node: &Node, name: String, lives: Duration) -> Result<Birth> {
    let container = json!({
        "name": CONTAINER,
        "image": stage.setting.image,
        "imagePullPolicy": "Never",
        "securityContext": {"capabilities": {"add": ["NET_RAW"]}},
        "env": [
            {"name": SERVER, "value": Stage::address(&stage.target)?},
            {"name": CLIENT, "value": Stage::address(&stage.client)?},
            {"name": LIFE, "value": lives.as_millis().to_string()},
        ],
    });
    let requested_ns = now_ns();
    let made = stage
        .api
        .create(PODS, &pod(&name, &node.name, "newborn", &container));
    made?;
    Ok(Birth { name, requested_ns })
}

/// Waits for what a pod says of its life; with its address. None of a pod that
/// the runtime could not start.
pub(super) fn life_of(stage: &Stage, node: &Node, name: &str) -> Result<Option<(Life, Ipv4Addr)>> {
    let path = format!("{PODS}/{name}");
    let mut found = None;
    let mut failed = false;
    poll(&format!("{name} has lived"), || {
        let pod = stage.api.get(&path)?.context("a pod of ours is gone")?;
        failed = pod["status"]["phase"] == "Failed";
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        // The kubelet's layout: NAMESPACE_NAME_UID/CONTAINER/RESTARTS.log.
        let folder = node.logs.join(format!("{NAMESPACE}_{name}_{uid}"));
        let text = fs::read_to_string(folder.join(CONTAINER).join("0.log")).unwrap_or_default();
        found = life_in(&text);
        Ok(found.is_some() || failed)
    })?;
    let Some(life) = found else { return Ok(None) };
    let mut address = None;
    poll(&format!("{name} has an address"), || {
        let pod = stage.api.get(&path)?.context("a pod of ours is gone")?;
        let text = pod["status"]["podIP"].as_str();
        address = text.and_then(|text| text.parse().ok());
        Ok(address.is_some())
    })?;
    Ok(Some((life, address.context("an address")?)))
}

/// Finds the line of a newborn in a container's log.
fn life_in(log: &str) -> Option<Life> {
    let line = log
        .lines()
        .find_map(|line| Some(line.split_once(MARK)?.1))?;
    serde_json::from_str(line).ok()
}

/// Waits until no pod of ours that was born is left.
pub(super) fn gone(stage: &Stage) -> Result<()> {
    let path = format!("{PODS}?labelSelector=role%3Dnewborn");
    poll("newborn pods are gone", || {
        let list = stage.api.get(&path)?.unwrap_or(Value::Null);
        Ok(list["items"].as_array().is_some_and(Vec::is_empty))
    })
}

fn sum(all: &[Told]) -> Births {
    let mut births = Births {
        pods: all.len(),
        packets_per_second: RATE,
        least_sent: all
            .iter()
            .map(|told| told.sent.segments + told.sent.datagrams)
            .min()
            .unwrap_or(0),
        start_to_answer_ms: Spread::of_ns(all.iter().filter_map(|told| told.life.first_answer_ns)),
        start_to_connection_ms: Spread::of_ns(all.iter().filter_map(|told| told.life.connected_ns)),
        request_to_start_ms: Spread::of_ns(
            all.iter()
                .map(|told| told.life.started_ns.saturating_sub(told.requested_ns)),
        ),
        ..Births::default()
    };
    for told in all {
        let life = &told.life;
        births.sent.segments += told.sent.segments;
        births.sent.datagrams += told.sent.datagrams;
        births.delivered_before.segments += life.segments_before;
        births.delivered_before.datagrams += life.datagrams_before;
        births.delivered.segments += life.segments;
        births.delivered.datagrams += life.datagrams;
        let datagrams = life.datagrams_before + life.datagrams;
        let any = life.segments_before + life.segments + datagrams;
        births.reached += usize::from(any > 0);
        births.older_flow_passed += usize::from(datagrams > 0);
        births.unanswered += usize::from(life.first_answer_ns.is_none());
        let firsts = [
            (&mut births.first.pod_datagram, life.first_hello_answered),
            (
                &mut births.first.pod_connection,
                life.connected_ns.is_some(),
            ),
            (
                &mut births.first.client_datagram,
                told.tries.datagram_answered,
            ),
            (&mut births.first.client_connection, told.tries.connected),
        ];
        let mut succeeded = true;
        for (count, done) in firsts {
            *count += usize::from(done);
            succeeded &= done;
        }
        if (any > 0 || !succeeded) && births.wrong.len() < WORDS {
            births.wrong.push(format!(
                "{}: {life:?}, {:?}, {:?}",
                told.name, told.tries, told.sent
            ));
        }
    }
    births
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(life: Life, tries: Tries) -> Told {
        Told {
            name: "p".to_owned(),
            life,
            requested_ns: 0,
            tries,
            sent: Sent {
                segments: 3,
                datagrams: 4,
            },
        }
    }

    fn good() -> Told {
        let life = Life {
            first_hello_answered: true,
            first_answer_ns: Some(1_000_000),
            connected_ns: Some(2_000_000),
            ..Life::default()
        };
        told(
            life,
            Tries {
                connected: true,
                datagram_answered: true,
            },
        )
    }

    #[test]
    fn a_good_life_counts_for_everything_and_against_nothing() {
        let births = sum(&[good()]);
        assert_eq!((births.reached, births.unanswered), (0, 0));
        let first = &births.first;
        let firsts = [
            first.pod_datagram,
            first.pod_connection,
            first.client_connection,
        ];
        assert_eq!(firsts, [1; 3]);
        assert!(births.wrong.is_empty());
    }

    #[test]
    fn one_packet_before_the_program_ran_is_a_pod_that_was_reached() {
        let mut bad = good();
        bad.life.segments_before = 1;
        let births = sum(&[good(), bad]);
        assert_eq!((births.reached, births.older_flow_passed), (1, 0));
        assert_eq!(births.wrong.len(), 1);
    }

    #[test]
    fn a_life_is_found_in_what_a_container_runtime_writes() {
        let life = serde_json::to_string(&Life {
            segments: 7,
            ..Life::default()
        });
        let log = format!("2026 stdout F x\n2026 stdout F {MARK}{}\n", life.unwrap());
        assert_eq!(life_in(&log).map(|life| life.segments), Some(7));
        assert!(life_in("2026 stdout F x").is_none());
    }
}

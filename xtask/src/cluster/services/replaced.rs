//! Backends that are replaced while connections to them run.
//!
//! Two Services, one with a backend on the client's node and one with a backend
//! on another, have one allowed backend each. Beside it come another allowed one
//! and one that policy denies; then the first is deleted and takes its time to
//! end. All the while a connection to it runs.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    World, describe,
    expected::{self, Rest, Row},
    kubectl, report,
};

/// Who opens the connections: isolated, and allowed to all but the denied ones.
const CLIENT: &str = "web-1";
/// Of each Service: its name, the backend that goes, the one that comes, and one
/// that comes with it and is denied.
const REPLACED: [(&str, &str, &str, &str); 2] = [
    ("near", "near-old-1", "near-new-1", "log-1"),
    ("far", "far-old-2", "far-new-2", "log-2"),
];
/// How long a change may take to be everywhere.
const BOUND: Duration = Duration::from_secs(15);
/// Messages that have to be answered before a connection counts as going on.
const GOING_ON: u64 = 200;

/// Replaces the backends, and fails if a packet goes astray.
///
/// # Errors
///
/// When one does, or an open connection loses anything.
pub(super) fn prove(world: &mut World<'_>) -> Result<()> {
    let flows = REPLACED.map(|(service, ..)| {
        let (address, port) = world.destination(&format!("vip:{service}"))?;
        Ok(json!({"from": CLIENT, "to": address, "port": port}))
    });
    let flows: Vec<Value> = flows.into_iter().collect::<Result<_>>()?;
    world.asker.request(&json!({"open": flows}))?;

    for (service, _, new, denied) in REPLACED {
        let behind = format!("behind={service}");
        kubectl(world.lab, &["label", "pods", new, denied, &behind])?;
    }
    let both = rows(|old, new| vec![old, new]);
    let (rounds, joined) = until_as(world, &both, &both)?;

    let mut delete = vec!["delete", "pods", "--wait=false"];
    delete.extend(REPLACED.map(|(_, old, ..)| old));
    kubectl(world.lab, &delete)?;
    let new = rows(|_, new| vec![new]);
    let (more_rounds, replaced) = until_as(world, &new, &both)?;
    let at = echoed(world)?;
    let until = Instant::now() + BOUND;
    while echoed(world)?
        .iter()
        .zip(&at)
        .any(|(now, then)| *now < then + GOING_ON)
    {
        ensure!(
            Instant::now() < until,
            "a connection to a backend that drains stands still"
        );
    }

    let account = world.asker.request(&json!("close"))?;
    let mut messages = 0;
    for flow in account["flows"].as_array().context("flows")? {
        ensure!(
            flow["unanswered"] == 0 && flow["lost"] == 0 && flow["error"].is_null(),
            "a connection to a backend that was replaced: {flow}"
        );
        messages += flow["messages"].as_u64().context("messages")?;
    }
    ensure!(messages > 0, "nothing was sent: {account}");
    println!(
        "    replaced: new backends after {} ms, old ones gone after {} ms, {} rounds; \
         {messages} messages on open connections, none lost",
        joined.as_millis(),
        replaced.as_millis(),
        rounds + more_rounds,
    );
    Ok(())
}

/// A row for each Service: these answer, the others vanish.
fn rows(answer: fn(&'static str, &'static str) -> Vec<&'static str>) -> Vec<Row> {
    REPLACED
        .map(|(service, old, new, _)| Row {
            from: CLIENT.to_owned(),
            to: format!("vip:{service}"),
            answer: answer(old, new)
                .into_iter()
                .map(str::to_owned)
                .collect::<BTreeSet<_>>(),
            rest: Rest::Vanish,
        })
        .into()
}

/// Asks until it is as `wanted`, and fails at once if anybody answers, or gets a
/// packet, who may not by `bounds`, or one that may does not answer. Returns how often it asked, and for how long.
fn until_as(world: &mut World<'_>, wanted: &[Row], bounds: &[Row]) -> Result<(u32, Duration)> {
    let start = Instant::now();
    for round in 1.. {
        let account = world.ask(wanted)?;
        let mut out_of_bounds = expected::judge(bounds, &account)?;
        out_of_bounds.retain(|fault| !fault.may_pass_by());
        ensure!(out_of_bounds.is_empty(), "{}", describe(&out_of_bounds));
        let faults = expected::judge(wanted, &account)?;
        if faults.is_empty() {
            report(wanted, &account);
            return Ok((round, start.elapsed()));
        }
        if start.elapsed() > BOUND {
            bail!("{}", describe(&faults));
        }
    }
    bail!("asked too often")
}

/// How many messages of each flow were answered.
fn echoed(world: &mut World<'_>) -> Result<Vec<u64>> {
    let flows = world.asker.request(&json!("flows"))?;
    let echoed = flows["echoed"].as_array().context("flows")?.iter();
    echoed
        .map(|count| count.as_u64().context("a count"))
        .collect()
}

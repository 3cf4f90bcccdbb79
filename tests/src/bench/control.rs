//! Measures the control plane on generated clusters: all at once, and one event at a time.
//!
//! Everything from the text of an object to the operations on maps, on one thread; carrying them
//! out in the kernel is not in it. Pods of the node get an interface as soon as they are known.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use policy_agent::source::convert::{Names, Outcome, convert};
use policy_core::desired::DesiredState;
use policy_core::engine::{Engine, NodeContext, build};
use policy_core::ops::Op;
use policy_core::plan::{Attachment, Attachments, Limits, Mirror, Planner};
use policy_core::store::{Object, SourceEvent, Store};
use serde::Serialize;
use serde_json::Value;

use crate::generate::{Change, Class, Size, event_trace, scale_cluster};

/// Seed of every cluster here.
const SEED: u64 = 1;
/// The node whose agent this would be.
const NODE: &str = "node-0";

/// A step from nothing, on one size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cold {
    pub(super) size: &'static str,
    pub(super) step: &'static str,
    /// Least and median of the repetitions, milliseconds.
    pub(super) least_ms: f64,
    pub(super) median_ms: f64,
    /// What came out, in words.
    pub(super) result: String,
}

/// Events of a class, on one size, one at a time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Warm {
    pub(super) size: &'static str,
    pub(super) class: String,
    pub(super) events: usize,
    /// Events to desired state, microseconds.
    pub(super) engine: Percentiles,
    /// Desired state to operations, microseconds.
    pub(super) plan: Percentiles,
    /// Both.
    pub(super) both: Percentiles,
    /// Operations an event that write to maps, mean.
    pub(super) writes: f64,
    pub(super) target_p99_us: Option<f64>,
    pub(super) reached: Option<bool>,
}

/// Of times, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Control {
    pub(super) cold: Vec<Cold>,
    pub(super) warm: Vec<Warm>,
}

/// The size's name, and the most that its cold sync may take (`study/scale.md`, milliseconds).
pub(super) const fn named(size: Size) -> &'static str {
    match size {
        Size::Small => "small",
        Size::Medium => "medium",
        Size::Large => "large",
    }
}

/// Measures one size.
pub(super) fn measure(size: Size, repeat: usize, events: usize) -> Result<Control> {
    let objects = scale_cluster(size, SEED);
    let texts: Vec<Vec<u8>> = objects
        .iter()
        .map(serde_json::to_vec)
        .collect::<Result<_, _>>()?;
    let node = NodeContext {
        name: NODE.into(),
        addresses: [std::net::IpAddr::from([172, 18, 0, 2])].into(),
    };
    let mut control = Control::default();
    let mut cold = |step, times: &[Duration], result: String| {
        let mut ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        control.cold.push(Cold {
            size: named(size),
            step,
            least_ms: ms[0],
            median_ms: super::packets::median(&ms),
            result,
        });
    };

    let (times, values) = times_of(repeat, || -> Vec<Value> {
        let parsed = texts.iter().map(|text| serde_json::from_slice(text));
        parsed.filter_map(Result::ok).collect()
    });
    let bytes: usize = texts.iter().map(Vec::len).sum();
    cold(
        "JSON text to values",
        &times,
        format!("{} objects, {bytes} bytes", values.len()),
    );

    let (times, events_all) = times_of(repeat, || applied(&values));
    ensure!(
        events_all.len() == objects.len(),
        "only {} of {} objects convert",
        events_all.len(),
        objects.len()
    );
    cold(
        "values to model",
        &times,
        format!("{} objects", events_all.len()),
    );

    let (times, store) = times_of(repeat, || {
        let mut store = Store::new();
        store.apply_all(events_all.iter().cloned());
        store
    });
    cold("model into the store", &times, String::new());

    let (times, desired) = times_of(repeat, || build(&store, &node));
    cold("store to desired state", &times, summary(&desired));

    let mut attachments = Attachments::new();
    attach(&desired, &mut attachments);
    let empty = Planner::new(Mirror::default(), Limits::default());
    let (times, plan) = times_of(repeat, || empty.plan(&desired, &attachments));
    ensure!(plan.problems.is_empty(), "{:?}", plan.problems);
    cold(
        "desired state to operations",
        &times,
        format!("{} operations", plan.ops.len()),
    );

    let mut planner = empty;
    planner.applied(&plan.ops);
    let (times, again) = times_of(repeat, || planner.plan(&desired, &attachments));
    ensure!(
        again.ops.is_empty(),
        "a second plan has {:?}",
        again.ops.first()
    );
    cold("the same again: nothing to do", &times, String::new());

    let mut engine = Engine::new(node);
    engine.apply(events_all);
    let desired = engine.desired();
    let mut attachments = Attachments::new();
    attach(desired, &mut attachments);
    let mut planner = Planner::new(Mirror::default(), Limits::default());
    settle(&mut planner, desired, &attachments)?;
    control.warm = warm(size, engine, planner, attachments, &objects, events)?;
    Ok(control)
}

/// Times of each repetition, and the last result. One repetition more warms up.
fn times_of<T>(repeat: usize, mut step: impl FnMut() -> T) -> (Vec<Duration>, T) {
    let mut last = step();
    let times = (0..repeat).map(|_| {
        let start = Instant::now();
        let made = step();
        let time = start.elapsed();
        last = made;
        time
    });
    (times.collect(), last)
}

/// Objects as events, through the agent's own conversion.
pub(super) fn applied(values: &[Value]) -> Vec<SourceEvent> {
    let mut names = Names::default();
    let mut events = Vec::new();
    for value in values {
        convert(value, &mut names, &mut |converted| {
            if let Outcome::Object(object) = converted.outcome {
                events.push(SourceEvent::Apply(object));
            }
        });
    }
    events
}

/// Gives every endpoint an interface, and forgets those of pods that are gone.
fn attach(desired: &DesiredState, attachments: &mut Attachments) {
    attachments.retain(|pod, _| desired.endpoints.contains_key(pod));
    let newest = attachments.values().map(|at| at.ifindex).max();
    let mut next = newest.unwrap_or(100) + 1;
    for pod in desired.endpoints.keys() {
        if !attachments.contains_key(pod) {
            let attachment = Attachment {
                ifindex: next,
                link_local6: None,
            };
            attachments.insert(pod.clone(), attachment);
            next += 1;
        }
    }
}

/// Carries out plans until there is nothing left to do; gives the operations.
fn settle(
    planner: &mut Planner,
    desired: &DesiredState,
    attachments: &Attachments,
) -> Result<usize> {
    let mut writes = 0;
    for _ in 0..10 {
        let plan = planner.plan(desired, attachments);
        ensure!(plan.problems.is_empty(), "{:?}", plan.problems);
        if plan.ops.is_empty() {
            planner.settle(desired, &plan.endpoints);
            return Ok(writes);
        }
        writes += plan.ops.iter().filter(|op| writes_a_map(op)).count();
        planner.applied(&plan.ops);
    }
    anyhow::bail!("ten plans in a row found something to do")
}

fn writes_a_map(op: &Op) -> bool {
    !matches!(op, Op::Grace | Op::Attach { .. } | Op::Detach { .. })
}

fn summary(desired: &DesiredState) -> String {
    let rows: usize = desired.policies.values().map(|p| p.rows.len()).sum();
    format!(
        "{} endpoints, {} addresses, {} prefixes, {} policies, {rows} rows",
        desired.endpoints.len(),
        desired.hosts.len(),
        desired.prefixes.len(),
        desired.policies.len(),
    )
}

fn warm(
    size: Size,
    mut engine: Engine,
    mut planner: Planner,
    mut attachments: Attachments,
    objects: &[Value],
    count: usize,
) -> Result<Vec<Warm>> {
    let mut classes: BTreeMap<Class, Samples> = BTreeMap::new();
    let mut names = Names::default();
    for event in event_trace(size, SEED, objects, count) {
        let event_of = |value: &Value, names: &mut Names| {
            let mut object: Option<Object> = None;
            convert(value, names, &mut |converted| {
                if let Outcome::Object(made) = converted.outcome {
                    object = Some(made);
                }
            });
            object
        };
        let source_event = match &event.change {
            Change::Apply(value) => event_of(value, &mut names).map(SourceEvent::Apply),
            Change::Delete(value) => {
                event_of(value, &mut names).map(|object| SourceEvent::Delete(object.key()))
            }
        };
        let Some(source_event) = source_event else {
            anyhow::bail!("an object of the trace does not convert");
        };
        let start = Instant::now();
        engine.apply([source_event]);
        let desired = engine.desired();
        let derived = start.elapsed();
        // Interfaces come from elsewhere.
        attach(desired, &mut attachments);
        let changes = engine.take_changes();
        let start = Instant::now();
        let desired = engine.desired();
        let quick = planner.quick(desired, &changes);
        let ops = if let Some(quick) = quick {
            planner.applied(&quick.ops);
            let ops = quick.ops.clone();
            planner.done_quick(quick);
            ops
        } else {
            let plan = planner.plan(desired, &attachments);
            ensure!(plan.problems.is_empty(), "{:?}", plan.problems);
            planner.applied(&plan.ops);
            plan.ops
        };
        let planned = start.elapsed();
        let first = ops.iter().filter(|op| writes_a_map(op)).count();
        // What a first plan leaves for a second one is not urgent, nor is finding
        // out whether all is settled.
        let writes = first + settle(&mut planner, desired, &attachments)?;
        let samples = classes.entry(event.class).or_default();
        samples.engine.push(derived);
        samples.plan.push(planned);
        samples.both.push(derived + planned);
        samples.writes += writes;
    }
    let rows = classes.into_iter().map(|(class, samples)| {
        let both = percentiles(&samples.both);
        let target_p99_us = target(class);
        Warm {
            size: named(size),
            class: format!("{class:?}"),
            events: samples.both.len(),
            engine: percentiles(&samples.engine),
            plan: percentiles(&samples.plan),
            both,
            writes: share(samples.writes, samples.both.len()),
            target_p99_us,
            reached: target_p99_us.map(|target| both.p99 <= target),
        }
    });
    Ok(rows.collect())
}

#[derive(Default)]
struct Samples {
    engine: Vec<Duration>,
    plan: Vec<Duration>,
    both: Vec<Duration>,
    writes: usize,
}

/// What an event may take to its last map write, 99 of a hundred times, by the design.
fn target(class: Class) -> Option<f64> {
    match class {
        Class::Noop => Some(25.0),
        Class::RemotePod | Class::Relabel | Class::LocalPod => Some(100.0),
        Class::Policy | Class::Namespace => Some(1_000.0),
    }
}

fn percentiles(times: &[Duration]) -> Percentiles {
    let mut us: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e6).collect();
    us.sort_by(f64::total_cmp);
    let at = |percent: usize| us[(us.len() - 1) * percent / 100];
    Percentiles {
        p50: at(50),
        p99: at(99),
        max: at(100),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are small"
)]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

//! How long it takes from objects to the desired state: everything at once, and
//! one event at a time.
//!
//! `cargo bench -p policy-core` runs all sizes; names of sizes as arguments
//! choose. Times are of one thread; cold times are the least of five runs, event
//! times percentiles. What comes before (decoding) and after (map writes) is
//! measured elsewhere.

mod generate;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use generate::{Generator, LARGE, MEDIUM, SMALL, Size};
use policy_core::desired::PodRef;
use policy_core::engine::{Engine, NodeContext, build};
use policy_core::model::{Labels, Pod, Policy};
use policy_core::simulate::{Port, Question, Simulator, Who};
use policy_core::store::{Key, Object, SourceEvent, Store};

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    for size in [SMALL, MEDIUM, LARGE] {
        if wanted.is_empty() || wanted.iter().any(|name| name == size.name) {
            measure(size);
        }
    }
}

fn apply(pod: &Pod) -> SourceEvent {
    SourceEvent::Apply(Object::Pod(Arc::new(pod.clone())))
}

fn apply_policy(policy: Policy) -> SourceEvent {
    SourceEvent::Apply(Object::Policy(Arc::new(policy)))
}

fn key(pod: &Pod) -> PodRef {
    PodRef {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
    }
}

/// Times of single events, by name.
struct Events<'e> {
    engine: &'e mut Engine,
    rows: Vec<(&'static str, Vec<Duration>, usize)>,
}

impl Events<'_> {
    /// Times each of these events.
    fn row(&mut self, name: &'static str, events: impl IntoIterator<Item = SourceEvent>) {
        let events: Vec<_> = events.into_iter().collect();
        for event in events {
            self.time(name, event);
        }
    }

    fn time(&mut self, name: &'static str, event: SourceEvent) {
        let start = Instant::now();
        self.engine.apply([event]);
        self.engine.desired();
        let time = start.elapsed();
        let changes = self.engine.take_changes();
        let touched = changes.hosts.len() + changes.policies_added.len();
        match self.rows.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, times, sum)) => {
                times.push(time);
                *sum += touched;
            }
            None => self.rows.push((name, vec![time], touched)),
        }
    }

    fn print(self, size: &str) {
        for (name, mut times, touched) in self.rows {
            times.sort();
            let at = |percent: usize| times[(times.len() - 1) * percent / 100];
            println!(
                "event/{name:<22} {size:<7} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}  \
                 ({} events, {:.1} hosts and policies each)",
                at(50),
                at(99),
                at(100),
                times.len(),
                share(touched, times.len()),
            );
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are small"
)]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

fn measure(size: Size) {
    let mut generator = Generator::new(size);
    let mut store = Store::new();
    let namespaces =
        (0..size.namespaces).map(|i| Object::Namespace(Arc::new(generator.namespace(i, i))));
    let namespaces: Vec<_> = namespaces.map(SourceEvent::Apply).collect();
    // 100 pods of every size run here.
    let pods: Vec<Pod> = (0..size.pods)
        .map(|i| generator.pod(i % (size.pods / 100).max(1)))
        .collect();
    let policies: Vec<Policy> = (0..size.policies).map(|i| generator.policy(i)).collect();
    store.apply_all(namespaces.clone());
    store.apply_all(pods.iter().map(apply));
    store.apply_all(policies.iter().cloned().map(apply_policy));
    let node = NodeContext {
        name: "node-0".into(),
        addresses: BTreeSet::from(["192.168.0.1".parse().expect("an address")]),
    };

    let mut least = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let desired = build(&store, &node);
        least = least.min(start.elapsed());
        drop(desired);
    }
    let desired = build(&store, &node);
    println!(
        "build/cold/{:<10} {least:>9.1?}  ({} endpoints, {} hosts, {} prefixes, {} policies, {} classes, {} rows)",
        size.name,
        desired.endpoints.len(),
        desired.hosts.len(),
        desired.prefixes.len(),
        desired.policies.len(),
        desired
            .hosts
            .values()
            .map(|host| host.class)
            .collect::<BTreeSet<_>>()
            .len(),
        desired
            .policies
            .values()
            .map(|policy| policy.rows.len())
            .sum::<usize>(),
    );

    let mut engine = Engine::new(node);
    let all = namespaces.into_iter().chain(pods.iter().map(apply));
    let all: Vec<_> = all
        .chain(policies.iter().cloned().map(apply_policy))
        .collect();
    let start = Instant::now();
    engine.apply(all);
    let stored = start.elapsed();
    engine.desired();
    println!(
        "engine/cold/{:<9} {:>9.1?}  (of it store {stored:.1?})",
        size.name,
        start.elapsed()
    );
    engine.take_changes();
    events(&mut engine, &mut generator, &pods, size);
    simulate(&store, &pods, size);
}

fn events(engine: &mut Engine, generator: &mut Generator, pods: &[Pod], size: Size) {
    let mut rows = Events {
        engine,
        rows: Vec::new(),
    };
    let mut random = generator.random.clone();
    let mut some = |count: usize| -> Vec<&Pod> {
        (0..count)
            .map(|_| &pods[random.below(pods.len())])
            .collect()
    };
    let relabel = |pod: &Pod, key: &str, value: &str| {
        let mut labels: Labels = pod.labels.clone();
        labels.insert(key.into(), value.into());
        Pod {
            labels,
            ..pod.clone()
        }
    };
    let delete = |pod: &Pod| SourceEvent::Delete(Key::Pod(key(pod)));
    rows.row("pod-same", some(500).into_iter().map(apply));
    let unused = some(1_000).into_iter();
    rows.row(
        "pod-unused-label",
        unused.map(|pod| apply(&relabel(pod, "unused", "x"))),
    );
    let born: Vec<Pod> = (0..1_000).map(|_| generator.pod(1)).collect();
    rows.row("pod-added", born.iter().map(apply));
    let relabelled = born.iter().map(|pod| apply(&relabel(pod, "app", "app-1")));
    rows.row("pod-relabelled", relabelled);
    rows.row("pod-deleted", born.iter().map(delete));
    for _ in 0..300 {
        let pod = generator.pod(0);
        rows.time("local-pod-added", apply(&pod));
        rows.time("local-pod-deleted", delete(&pod));
    }
    for i in 0..300 {
        // Namespace 0 has most pods, also here.
        let index = size.policies + i;
        let policy = generator.policy(index);
        rows.time("policy-added", apply_policy(policy.clone()));
        rows.time(
            "policy-deleted",
            SourceEvent::Delete(Key::Policy(policy.id)),
        );
        let policy = generator.policy_in(index, 0);
        rows.time("local-policy-added", apply_policy(policy.clone()));
        let changed = generator.policy_in(index, 0);
        rows.time("local-policy-changed", apply_policy(changed));
        rows.time(
            "local-policy-deleted",
            SourceEvent::Delete(Key::Policy(policy.id)),
        );
    }
    for i in 0..200 {
        let value = i + 1 + i / size.namespaces;
        let namespace = generator.namespace(i % size.namespaces, value);
        let event = SourceEvent::Apply(Object::Namespace(Arc::new(namespace)));
        rows.time("namespace-relabelled", event);
    }
    rows.print(size.name);
}

fn simulate(store: &Store, pods: &[Pod], size: Size) {
    if size.pods > 10_000 {
        return;
    }
    let mut random = generate::Random::new(11);
    let questions: Vec<Question> = (0..10_000)
        .map(|_| {
            let mut pod = || Who::Pod(key(&pods[random.below(pods.len())]));
            Question {
                from: pod(),
                to: pod(),
                port: Port::Number(80),
                protocol: 6,
                family: None,
            }
        })
        .collect();
    let start = Instant::now();
    let mut simulator = Simulator::new(store);
    let denied = questions
        .iter()
        .filter_map(|question| simulator.ask(question).ok())
        .filter(|answer| answer.verdict == policy_core::simulate::Verdict::Deny)
        .count();
    println!(
        "simulate/10k-probes/{:<8} {:>9.1?}  ({denied} denied)",
        size.name,
        start.elapsed()
    );
}

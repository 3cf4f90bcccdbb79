//! What the agent counts and measures, for Prometheus.
//!
//! Every label has few values, whatever the cluster holds. The loop writes here
//! and never waits; what only the kernel knows is read by `kernel_metrics` when
//! somebody asks. The README has a table of all of them, which a test compares
//! with what is printed.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use policy_common::abi::maps::{CT_OPEN, CT_PENDING};
use policy_core::diagnostic::Severity;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::pressure::WATCHED;
use super::rivals::UNNAMED;
use crate::object;

/// In front of every name but those of the process.
const PREFIX: &str = "policy_agent";

/// One label.
pub(super) type Label = [(&'static str, &'static str); 1];

/// The tables of connection records that evict, as `Swept::books` has them.
const EVICTING: [&str; 2] = [CT_PENDING, CT_OPEN];

/// Where events may be lost, as the label `stage` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The kernel's ring was full.
    Ring,
    /// The kernel's rate limit.
    RateLimit,
    /// Nobody read standard output.
    Stdout,
    /// A `monitor` was too slow.
    Monitor,
    /// Kubernetes Events that found no room or could not be posted.
    Kubernetes,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::Ring,
        Self::RateLimit,
        Self::Stdout,
        Self::Monitor,
        Self::Kubernetes,
    ];

    pub(super) const fn label(self) -> Label {
        let name = match self {
            Self::Ring => "ring",
            Self::RateLimit => "rate-limit",
            Self::Stdout => "stdout",
            Self::Monitor => "monitor",
            Self::Kubernetes => "kubernetes",
        };
        [("stage", name)]
    }
}

/// Buckets of all histograms, seconds: from a map write to a node that hangs.
const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0, 30.0,
];

/// Handles to all metrics that the loop writes.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) synced: Family<Label, Gauge>,
    pub(super) objects: Family<Label, Gauge>,
    pub(super) programming: Histogram,
    pub(super) propagation: Histogram,
    pub(super) setup: Histogram,
    pub(super) changes: Counter,
    pub(super) failures: Counter,
    pub(super) repairs: Counter,
    pub(super) displaced: Family<[(&'static str, String); 1], Counter>,
    pub(super) pressure: Family<Label, Gauge>,
    pub(super) endpoints: Gauge,
    pub(super) not_programmed: Gauge,
    pub(super) held: Gauge,
    pub(super) unprotected: Gauge,
    pub(super) unprotected_seconds: Counter<f64, AtomicU64>,
    pub(super) unprotected_starts: Counter,
    pub(super) diagnostics: Family<Label, Gauge>,
    pub(super) monitors: Gauge,
    pub(super) lost: Family<Label, Counter>,
    pub(super) removed_connections: Counter,
    pub(super) evicted_connections: Family<Label, Counter>,
    pub(super) posted: Counter,
}

impl Metrics {
    /// All of them, and the registry that prints them. `synced` and `objects` are
    /// for these kinds.
    pub(super) fn new(kinds: &[&'static str]) -> (Self, Registry) {
        let seconds = || Histogram::new(SECONDS);
        let metrics = Self {
            synced: Family::default(),
            objects: Family::default(),
            programming: seconds(),
            propagation: seconds(),
            setup: seconds(),
            changes: Counter::default(),
            failures: Counter::default(),
            repairs: Counter::default(),
            displaced: Family::default(),
            pressure: Family::default(),
            endpoints: Gauge::default(),
            not_programmed: Gauge::default(),
            held: Gauge::default(),
            unprotected: Gauge::default(),
            unprotected_seconds: Counter::default(),
            unprotected_starts: Counter::default(),
            diagnostics: Family::default(),
            monitors: Gauge::default(),
            lost: Family::default(),
            removed_connections: Counter::default(),
            evicted_connections: Family::default(),
            posted: Counter::default(),
        };
        // What has not happened yet reads 0: a rate needs a beginning.
        for kind in kinds {
            metrics.synced.get_or_create(&[("kind", kind)]).set(0);
            metrics.objects.get_or_create(&[("kind", kind)]).set(0);
        }
        for severity in [Severity::Info, Severity::Warning, Severity::Error] {
            let label = severity_label(severity);
            metrics.diagnostics.get_or_create(&label).set(0);
        }
        drop(
            metrics
                .displaced
                .get_or_create(&[("program", UNNAMED.to_owned())]),
        );
        for map in WATCHED {
            metrics.pressure.get_or_create(&[("map", map)]).set(0);
        }
        for table in EVICTING {
            metrics
                .evicted_connections
                .get_or_create(&[("table", table)])
                .inc_by(0);
        }
        for stage in Stage::ALL {
            metrics.lost_so_far(stage, 0);
        }
        let mut registry = Registry::default();
        metrics.register(registry.sub_registry_with_prefix(PREFIX));
        (metrics, registry)
    }

    fn register(&self, registry: &mut Registry) {
        let build = Info::new(vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("programs", object::BUILD_ID),
        ]);
        registry.register("build", "Which agent, and which kernel programs", build);
        registry.register(
            "synced",
            "1: a complete list of the kind was seen",
            self.synced.clone(),
        );
        registry.register("objects", "Objects known", self.objects.clone());
        for (name, help, histogram) in [
            (
                "policy_programming_duration",
                "From the news of a policy to the last map write",
                &self.programming,
            ),
            (
                "peer_propagation_duration",
                "From the news of a peer to the last map write",
                &self.propagation,
            ),
            (
                "pod_setup_duration",
                "From the first news of a pod of this node to its policies in force",
                &self.setup,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        for (name, help, counter) in [
            ("changes", "Changes written to the kernel", &self.changes),
            (
                "programming_failures",
                "Changes that the kernel did not take at once",
                &self.failures,
            ),
            (
                "repairs",
                "Times that the kernel was not as it was left, and was put right",
                &self.repairs,
            ),
            (
                "unprotected_starts",
                "Isolated pods that ran without their policies",
                &self.unprotected_starts,
            ),
            (
                "connections_removed",
                "Connection records that the sweeper removed",
                &self.removed_connections,
            ),
            (
                "kubernetes_events",
                "Events of Kubernetes created or patched",
                &self.posted,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register_with_unit(
            "unprotected",
            "How long isolated pods ran without their policies, all together",
            Unit::Seconds,
            self.unprotected_seconds.clone(),
        );
        for (name, help, gauge) in [
            (
                "endpoints",
                "Pods of this node that policy applies to",
                &self.endpoints,
            ),
            (
                "endpoints_not_programmed",
                "Those whose policies are not in force as desired",
                &self.not_programmed,
            ),
            (
                "held_interfaces",
                "Interfaces that pass the node's own traffic only",
                &self.held,
            ),
            (
                "unprotected_pods",
                "Isolated pods that run without their policies now",
                &self.unprotected,
            ),
            ("monitors", "Readers of live verdicts", &self.monitors),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "connections_evicted",
            "Connection records that gave way to newer ones, at least so many",
            self.evicted_connections.clone(),
        );
        registry.register(
            "map_pressure",
            "1: the map is nearly full",
            self.pressure.clone(),
        );
        registry.register(
            "displaced",
            "Times that somebody else's program was before ours and was put behind it",
            self.displaced.clone(),
        );
        registry.register(
            "diagnostics",
            "What is wrong, or worth knowing, now",
            self.diagnostics.clone(),
        );
        registry.register(
            "events_lost",
            "Verdicts and Events that were not told",
            self.lost.clone(),
        );
    }

    /// A program was before ours; the name is one of few (`rivals`).
    pub(super) fn displaced_by(&self, name: &str) {
        let label = [("program", name.to_owned())];
        self.displaced.get_or_create(&label).inc();
    }

    /// So many more records were evicted from each table of [`EVICTING`].
    pub(super) fn evicted(&self, more: [u64; 2]) {
        for (table, more) in EVICTING.iter().zip(more) {
            self.evicted_connections
                .get_or_create(&[("table", *table)])
                .inc_by(more);
        }
    }

    /// Raises a counter of lost events to a total that is kept elsewhere.
    pub(super) fn lost_so_far(&self, stage: Stage, total: u64) {
        raise(&self.lost.get_or_create(&stage.label()), total);
    }
}

/// Raises a counter to a total that is kept elsewhere; never lowers it.
pub(super) fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// The label of diagnostics of a severity.
pub(super) const fn severity_label(severity: Severity) -> Label {
    let name = match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    [("severity", name)]
}

/// A number that a gauge can show.
pub(super) fn shown(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Adds a duration to a histogram.
pub(super) fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}

//! Metrics that only the kernel knows: packets by reason, how full the maps are,
//! whether anything is denied at all.
//!
//! Read when somebody asks, by the thread that answers, through descriptors of
//! its own: the loop is not held up. Counting a map reads it, so that is done
//! now and then only.

use std::time::{Duration, Instant};

use policy_common::abi::Direction;
use policy_common::abi::config::FLAG_ENFORCE_OFF;
use policy_common::abi::event::DropReason;
use policy_common::abi::stats;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::{Label, Metrics, Stage, raise, shown};
use crate::datapath::{Maps, Pins, layout};

/// How old a count of the maps' elements may be.
const COUNTED_EVERY: Duration = Duration::from_secs(10);

/// Two labels.
type Labels = [(&'static str, &'static str); 2];

/// The kernel's figures.
#[derive(Debug)]
pub(super) struct KernelMetrics {
    pins: Pins,
    maps: Option<Maps>,
    counted: Option<Instant>,
    shared: Metrics,
    enforcing: Gauge,
    drops: Family<Labels, Counter>,
    passed: Family<Label, Counter>,
    prefiltered: Counter,
    refused: Family<Label, Counter>,
    revalidated: Counter,
    revoked: Counter,
    entries: Family<Label, Gauge>,
    resident: Gauge,
}

const DIRECTIONS: [(Direction, &str); 2] = [
    (Direction::Ingress, "ingress"),
    (Direction::Egress, "egress"),
];

/// Connections that found no room, by why.
const REFUSED: [(u32, &str); 2] = [
    (stats::CT_OVER_BUDGET, "over-budget"),
    (stats::CT_FULL, "table-full"),
];

impl KernelMetrics {
    /// Adds the kernel's figures to a registry.
    pub(super) fn new(pins: Pins, shared: Metrics, registry: &mut Registry) -> Self {
        let metrics = Self {
            pins,
            maps: None,
            counted: None,
            shared,
            enforcing: Gauge::default(),
            drops: Family::default(),
            passed: Family::default(),
            prefiltered: Counter::default(),
            refused: Family::default(),
            revalidated: Counter::default(),
            revoked: Counter::default(),
            entries: Family::default(),
            resident: Gauge::default(),
        };
        registry.register_with_unit(
            "process_resident_memory",
            "Memory of the agent's process",
            Unit::Bytes,
            metrics.resident.clone(),
        );
        metrics.register(registry.sub_registry_with_prefix("policy_agent"));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "enforcing",
            "0: the emergency switch is off and nothing is denied",
            self.enforcing.clone(),
        );
        registry.register("drops", "Packets dropped", self.drops.clone());
        registry.register("passed", "Packets judged, and passed", self.passed.clone());
        registry.register(
            "connection_failures",
            "Connections that were not recorded where they should be",
            self.refused.clone(),
        );
        for (name, help, counter) in [
            (
                "prefilter_drops",
                "Packets that the prefilter dropped",
                &self.prefiltered,
            ),
            (
                "connections_revalidated",
                "Connections judged again after a change",
                &self.revalidated,
            ),
            (
                "connections_revoked",
                "Connections cut by a change",
                &self.revoked,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        let capacity: Family<Label, Gauge> = Family::default();
        for map in &layout::current().maps {
            let size = i64::from(map.max_entries);
            capacity.get_or_create(&[("map", map.name)]).set(size);
        }
        registry.register("map_capacity", "Elements that a map may have", capacity);
        registry.register(
            "map_entries",
            "Elements of a map that are in use",
            self.entries.clone(),
        );
    }

    /// Looks at the kernel. What cannot be read keeps its last value.
    pub(super) fn refresh(&mut self, now: Instant) {
        if let Some(bytes) = resident() {
            self.resident.set(bytes);
        }
        if self.maps.is_none() {
            self.maps = Maps::open(&self.pins).ok();
        }
        let Some(maps) = &self.maps else {
            return;
        };
        let off = maps.config().flags & FLAG_ENFORCE_OFF != 0;
        self.enforcing.set(i64::from(!off));
        if let Ok(counters) = maps.counters() {
            self.count(|direction, counter| counters.get(direction, counter));
        }
        let is_fresh = |counted| now.saturating_duration_since(counted) < COUNTED_EVERY;
        if !self.counted.is_some_and(is_fresh) {
            for map in maps.occupancy().unwrap_or_default() {
                if let Some(used) = map.used {
                    let label = [("map", map.spec.name)];
                    self.entries.get_or_create(&label).set(shown(used));
                }
            }
            self.counted = Some(now);
        }
    }

    /// Every metric with every label it may have, as if nothing was counted yet.
    #[cfg(test)]
    pub(super) fn show_zeros(&self) {
        self.count(|_, _| 0);
        for map in &layout::current().maps {
            self.entries.get_or_create(&[("map", map.name)]).set(0);
        }
    }

    fn count(&self, counter: impl Fn(Direction, u32) -> u64) {
        let mut lost = [0, 0];
        for (direction, name) in DIRECTIONS {
            for reason in DropReason::ALL {
                let label = [("direction", name), ("reason", reason.name())];
                raise(
                    &self.drops.get_or_create(&label),
                    counter(direction, u32::from(*reason as u8)),
                );
            }
            raise(
                &self.passed.get_or_create(&[("direction", name)]),
                counter(direction, stats::PASSED),
            );
            for (sum, stage) in lost
                .iter_mut()
                .zip([stats::EVENT_LOST, stats::EVENT_LIMITED])
            {
                *sum += counter(direction, stage);
            }
        }
        let sum = |number| {
            let of = DIRECTIONS.map(|(direction, _)| counter(direction, number));
            of.iter().sum()
        };
        for (number, reason) in REFUSED {
            let label = [("reason", reason)];
            raise(&self.refused.get_or_create(&label), sum(number));
        }
        raise(&self.prefiltered, sum(stats::PREFILTER_DROPPED));
        raise(&self.revalidated, sum(stats::CT_REVALIDATED));
        raise(&self.revoked, sum(stats::CT_REVOKED));
        let [ring, limit] = lost;
        self.shared.lost_so_far(Stage::Ring, ring);
        self.shared.lost_so_far(Stage::RateLimit, limit);
    }
}

/// Resident memory of this process, bytes.
fn resident() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

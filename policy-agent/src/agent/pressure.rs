//! Maps that are nearly full, told before anything does not fit.
//!
//! Told once when a map goes over a share of its capacity, and once when it is
//! well below it again, so that one that moves about the border is no flood. What
//! does not fit is the planner's to know, before anything is written
//! (`policy_core::plan`). Pure but for the methods of `State`.

use std::collections::{BTreeMap, BTreeSet};

use policy_common::abi::maps;
use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::plan::{Limits, Mirror};

use super::metrics::Metrics;
use super::state::State;

/// Percent of a map's capacity from which on it is told.
const TOLD_FROM: usize = 80;
/// Percent below which it is told that it is over.
const OVER_BELOW: usize = 75;

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    map: &'static str,
    used: usize,
    capacity: usize,
}

impl Usage {
    const fn percent(self) -> usize {
        self.used.saturating_mul(100) / self.capacity
    }
}

/// Maps that are told of.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    told: BTreeMap<&'static str, Usage>,
    beside: Beside,
}

/// How much is in maps that planning does not know.
#[derive(Debug, Clone, Copy, Default)]
struct Beside {
    /// Confirmed connections, when they were counted last.
    connections: usize,
    /// Prefixes that the prefilter drops, IPv4 and IPv6.
    denied: [usize; 2],
    /// Addresses of the pod range that are open.
    open: usize,
    /// Interfaces that share an element of the direct-mapped table with another.
    sharing: usize,
}

impl Pressure {
    /// The sweeper counted this many confirmed connections.
    pub(super) fn counted(&mut self, connections: usize) {
        self.beside.connections = connections;
    }

    /// The prefilter's list has so many prefixes, IPv4 and IPv6.
    pub(super) fn listed(&mut self, denied: [usize; 2]) {
        self.beside.denied = denied;
    }

    /// This is how full maps are; lines for what is new.
    fn look(&mut self, usages: &[Usage]) -> Vec<String> {
        let mut lines = Vec::new();
        for usage in usages {
            let percent = usage.percent();
            let Usage {
                map,
                used,
                capacity,
            } = usage;
            if let Some(told) = self.told.get_mut(map) {
                if percent >= OVER_BELOW {
                    *told = *usage;
                    continue;
                }
                self.told.remove(map);
                lines.push(format!(
                    "map {map} is below {OVER_BELOW} % again: {used} of {capacity}"
                ));
            } else if percent >= TOLD_FROM {
                self.told.insert(map, *usage);
                lines.push(format!(
                    "map {map} is {percent} % full: {used} of {capacity}; {}",
                    then(map)
                ));
            }
        }
        lines
    }

    /// Names of maps that are nearly full.
    pub(super) fn maps(&self) -> impl Iterator<Item = &'static str> {
        self.told.keys().copied()
    }

    pub(super) fn problems(&self) -> Vec<Diagnostic> {
        let told = self.told.values();
        told.map(|usage| Diagnostic {
            object: format!("map {}", usage.map),
            source: None,
            path: String::new(),
            severity: Severity::Warning,
            message: format!(
                "it is {} % full ({} of {}); {}",
                usage.percent(),
                usage.used,
                usage.capacity,
                then(usage.map)
            ),
        })
        .collect()
    }
}

/// What happens when a map is full, and what to do before.
pub(super) fn then(map: &str) -> &'static str {
    match map {
        maps::CT => {
            "beyond that, connections stay where the oldest gives way; look which pod has so many"
        }
        maps::SERVICES => {
            "Services beyond that are ordinary addresses, denied to pods whose egress is isolated \
             unless an ipBlock allows them"
        }
        maps::ENDPOINTS => "pods beyond that get no policies, and no traffic if they are isolated",
        maps::IFINDEX_MORE => {
            "beyond that, the interfaces of new pods lead to no policies and pass the node's \
             traffic only"
        }
        maps::PROTECTED => {
            "new pods whose addresses find no room in it receive nothing from others; let fewer \
             pods run on this node, or start the agent without --pod-range"
        }
        maps::DENY4 | maps::DENY6 => {
            "a list with more prefixes is refused, and the one in force stays; join or drop some"
        }
        _ => {
            "a change needs room for old and new, and what finds none leaves the old policy in \
             force; use fewer policies, peers or ports on this node"
        }
    }
}

/// The maps that are looked at. The others can be filled neither by a cluster's
/// objects nor by the operator's list, or give up what is oldest.
pub(super) const WATCHED: [&str; 14] = [
    maps::ENDPOINTS,
    maps::IFINDEX_MORE,
    maps::ID4,
    maps::ID6,
    maps::CIDR4,
    maps::CIDR6,
    maps::SERVICES,
    maps::POLICY,
    maps::PORT_SETS,
    maps::EXTENTS,
    maps::CT,
    maps::PROTECTED,
    maps::DENY4,
    maps::DENY6,
];

fn usages(mirror: &Mirror, beside: &Beside) -> [Usage; WATCHED.len()] {
    let limits = Limits::default();
    let v4 = mirror.hosts.keys().filter(|ip| ip.is_ipv4()).count();
    let prefixes4 = mirror.prefixes.keys();
    let prefixes4 = prefixes4.filter(|net| net.network().is_ipv4()).count();
    let named: BTreeSet<u32> = distinct(mirror, limits.port_sets);
    // Several may share a run.
    let runs: BTreeMap<u32, usize> = named
        .iter()
        .filter_map(|id| mirror.port_sets.get(id))
        .filter(|set| set.extent != 0)
        .map(|set| (set.extent, set.intervals.len()))
        .collect();
    let all = [
        // Element 0 of slots, port sets and extents is never given out.
        (mirror.endpoints.len(), limits.endpoints - 1),
        (beside.sharing, maps::IFINDEX_MORE_ENTRIES),
        (v4, limits.hosts),
        (mirror.hosts.len() - v4, limits.hosts),
        (prefixes4, limits.prefixes),
        (mirror.prefixes.len() - prefixes4, limits.prefixes),
        (mirror.services.len(), limits.services),
        (mirror.rows.len(), limits.rows),
        (named.len(), limits.port_sets - 1),
        (runs.values().sum(), limits.extents - 1),
        (beside.connections, maps::CT_ENTRIES),
        (beside.open, maps::PROTECTED_ENTRIES),
        (beside.denied[0], maps::DENY_ENTRIES),
        (beside.denied[1], maps::DENY_ENTRIES),
    ];
    let mut names = WATCHED.into_iter();
    all.map(|(used, capacity)| Usage {
        map: names.next().expect("as many names as figures"),
        used,
        capacity,
    })
}

/// Port sets that rows name. Rows are many and sets few, so each is marked once.
fn distinct(mirror: &Mirror, count: usize) -> BTreeSet<u32> {
    let mut seen = vec![false; count];
    for set in mirror.rows.values() {
        if let Some(seen) = seen.get_mut(*set as usize) {
            *seen = *set != 0;
        }
    }
    let marked = (0..).zip(seen).filter(|(_, seen)| *seen);
    marked.map(|(set, _)| set).collect()
}

impl State {
    /// Looks how full maps are, and tells what is new.
    pub(super) fn look_at_maps(&mut self) {
        // Where so few are, reading them all costs nothing; what cannot be read is told
        // by whoever compares the kernel with what should be in it.
        let sharing = self.datapath.maps().ifindex_more.entries();
        self.pressure.beside.sharing = sharing.map_or(0, |all| all.len());
        self.pressure.beside.open = self.closed.open();
        let usages = usages(self.planner.mirror(), &self.pressure.beside);
        for line in self.pressure.look(&usages) {
            eprintln!("{line}");
        }
        let metrics: &Metrics = &self.feedback.metrics;
        for map in WATCHED {
            let is_told = self.pressure.told.contains_key(map);
            let gauge = metrics.pressure.get_or_create(&[("map", map)]);
            gauge.set(i64::from(is_told));
        }
    }
}

#[cfg(test)]
mod tests {
    use policy_common::abi::policy::PolicyKey;

    use super::*;

    fn used(used: usize) -> [Usage; 1] {
        [Usage {
            map: maps::POLICY,
            used,
            capacity: 1_000,
        }]
    }

    #[test]
    fn map_is_told_of_once_above_and_once_below_and_not_at_the_border() {
        let mut pressure = Pressure::default();
        assert!(pressure.look(&used(799)).is_empty());
        assert!(pressure.problems().is_empty());
        let lines = pressure.look(&used(800));
        assert!(matches!(&lines[..], [line] if line.contains("pa_policy is 80 % full")));
        for moving in [801, 799, 750, 999, 1_000, 760] {
            assert!(pressure.look(&used(moving)).is_empty(), "{moving}");
        }
        let [problem] = &pressure.problems()[..] else {
            panic!("one is told of");
        };
        assert!(problem.message.contains("76 % full (760 of 1000)"));
        let lines = pressure.look(&used(749));
        assert!(matches!(&lines[..], [line] if line.contains("below 75 %")));
        assert!(pressure.problems().is_empty());
        assert!(pressure.look(&used(790)).is_empty(), "not before 80 again");
    }

    #[test]
    fn figures_are_those_of_the_map_that_they_are_told_for() {
        let mut mirror = Mirror::default();
        let row = |identity| PolicyKey {
            policy: 1,
            identity,
        };
        mirror.rows = (0..5)
            .map(|identity| (row(identity), identity % 2))
            .collect();
        let beside = Beside {
            connections: 7,
            denied: [4, 6],
            open: 3,
            sharing: 2,
        };
        let figures = usages(&mirror, &beside);
        let of = |map| {
            let usage = figures.iter().find(|usage| usage.map == map);
            usage.map(|usage| usage.used)
        };
        assert_eq!(of(maps::POLICY), Some(5));
        assert_eq!(of(maps::PORT_SETS), Some(1), "0 is none");
        assert_eq!(of(maps::CT), Some(7));
        assert_eq!(of(maps::SERVICES), Some(0));
        assert_eq!(of(maps::IFINDEX_MORE), Some(2));
        assert_eq!(of(maps::PROTECTED), Some(3));
        assert_eq!((of(maps::DENY4), of(maps::DENY6)), (Some(4), Some(6)));
    }
}

//! Packet counters, added up over all CPUs.

use std::os::fd::AsFd;

use policy_common::abi::{Direction, event::DropReason, maps::COUNTER_ENTRIES, stats};

use super::{
    map::MapError,
    maps::Maps,
    sys::elem::{self, Cursor, Step},
};

/// What is counted and is not a reason for a drop: number and name in output.
pub const NAMED: [(u32, &str); 8] = [
    (stats::PASSED, "passed"),
    (stats::CT_OVER_BUDGET, "connections-over-budget"),
    (stats::CT_FULL, "connections-table-full"),
    (stats::CT_REVALIDATED, "connections-revalidated"),
    (stats::CT_REVOKED, "connections-revoked"),
    (stats::EVENT_LOST, "events-lost"),
    (stats::EVENT_LIMITED, "events-limited"),
    (stats::PREFILTER_DROPPED, "prefilter-dropped"),
];

/// Counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    values: Vec<u64>,
}

impl Counters {
    /// Packets of a direction that were dropped for a reason.
    #[must_use]
    pub fn dropped(&self, direction: Direction, reason: DropReason) -> u64 {
        self.get(direction, u32::from(reason as u8))
    }

    /// A counter of [`policy_common::abi::stats`].
    #[must_use]
    pub fn get(&self, direction: Direction, counter: u32) -> u64 {
        let index = stats::index(direction, counter) as usize;
        self.values.get(index).copied().unwrap_or(0)
    }

    /// Every counter that is not zero, by direction and name.
    #[must_use]
    pub fn named(&self) -> Vec<(Direction, &'static str, u64)> {
        let reasons = DropReason::ALL
            .iter()
            .map(|reason| (u32::from(*reason as u8), reason.name()));
        let counters: Vec<_> = reasons.chain(NAMED).collect();
        [Direction::Ingress, Direction::Egress]
            .into_iter()
            .flat_map(|direction| {
                counters
                    .iter()
                    .map(move |&(counter, name)| (direction, counter, name))
            })
            .map(|(direction, counter, name)| (direction, name, self.get(direction, counter)))
            .filter(|(_, _, value)| *value != 0)
            .collect()
    }
}

impl Maps {
    /// Reads the counters.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn counters(&self) -> Result<Counters, MapError> {
        const ENTRIES: u32 = 2 * stats::PER_DIRECTION;
        let cpus = aya::util::nr_cpus()
            .map_err(|(_, source)| self.counters.error("number of CPUs", source))?;
        // The kernel gives each CPU's value in 8 bytes.
        let mut keys = vec![0; COUNTER_ENTRIES * 4];
        let mut values = vec![0; COUNTER_ENTRIES * 8 * cpus];
        let mut cursor = Cursor::default();
        let step = elem::lookup_batch(
            self.counters.as_fd(),
            &mut cursor,
            &mut keys,
            &mut values,
            ENTRIES,
        )
        .map_err(|source| self.counters.error("batched lookup", source))?;
        let (Step::More(found) | Step::End(found)) = step else {
            return Err(self
                .counters
                .error("batched lookup", std::io::ErrorKind::OutOfMemory.into()));
        };
        let sum = |per_cpu: &[u8]| {
            per_cpu
                .chunks_exact(8)
                .map(|value| u64::from_ne_bytes(value.try_into().expect("8 bytes")))
                .fold(0, u64::wrapping_add)
        };
        let values = values.chunks_exact(8 * cpus).take(found as usize).map(sum);
        Ok(Counters {
            values: values.collect(),
        })
    }
}

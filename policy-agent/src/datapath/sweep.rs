//! The sweeper of connection records: frees what has ended and keeps the books
//! of each endpoint's budget.
//!
//! Expiry is checked by the kernel at every lookup, so a late sweep costs memory
//! and budget, never a verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
};

use policy_common::{
    abi::{
        conntrack::{CtCount, CtEntry, CtKey},
        endpoint::FLAG_USED,
        maps::CT_COUNT,
    },
    conntrack::timeout_ns,
};

use super::{
    apply::monotonic_ns,
    map::{MapError, TypedMap},
    maps::Maps,
};

/// What a sweep found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Records that are left: confirmed, pending, of pods that nothing isolates.
    pub left: [usize; 3],
    /// Records removed: past their time, or of endpoints that are gone.
    pub removed: usize,
    /// Slots whose books were wrong and were put right.
    pub corrected: usize,
}

impl Maps {
    /// Removes records that have ended and those of endpoints that are gone.
    ///
    /// # Errors
    ///
    /// [`MapError`]; the next sweep goes on.
    pub fn sweep(&self) -> Result<Swept, MapError> {
        self.sweep_at(monotonic_ns())
    }

    /// As [`Self::sweep`], at a time: nanoseconds of CLOCK_MONOTONIC.
    ///
    /// # Errors
    ///
    /// As [`Self::sweep`].
    pub fn sweep_at(&self, now_ns: u64) -> Result<Swept, MapError> {
        let alive: BTreeSet<u32> = (0..self.slots())
            .filter_map(|slot| self.endpoint(slot))
            .filter(|endpoint| endpoint.flags & FLAG_USED != 0)
            .map(|endpoint| endpoint.number)
            .collect();
        let before = self.books();
        let main = sweep_table(&self.ct, &alive, now_ns)?;
        let pending = sweep_table(&self.ct_pending, &alive, now_ns)?;
        let open = sweep_table(&self.ct_open, &alive, now_ns)?;
        Ok(Swept {
            left: [main.left, pending.left, open.left],
            removed: main.removed + pending.removed + open.removed,
            corrected: self.keep_books(&before, &main)?,
        })
    }

    fn books(&self) -> BTreeMap<u32, CtCount> {
        (0..self.slots())
            .filter_map(|slot| Some((slot, self.ct_count(slot)?)))
            .filter(|(_, count)| *count != CtCount::default())
            .collect()
    }

    /// Adds what was removed to the books. Where the kernel made no record while
    /// the table was read, the count is exact, and the books are set to it.
    fn keep_books(&self, before: &BTreeMap<u32, CtCount>, main: &Table) -> Result<usize, MapError> {
        let mut corrected = 0;
        for (&slot, old) in before {
            let created = self.ct_count(slot).unwrap_or_default().created;
            let gone = main.removed_by_slot.get(&slot).copied().unwrap_or(0);
            let left = main.left_by_slot.get(&slot).copied().unwrap_or(0);
            let mut removed = old.removed.wrapping_add(gone);
            let exact = created.wrapping_sub(left);
            if created == old.created && removed != exact {
                removed = exact;
                corrected += 1;
            }
            if removed != old.removed {
                self.ct_count
                    .store(slot, offset_of!(CtCount, removed), removed)
                    .map_err(|source| MapError {
                        map: CT_COUNT,
                        what: "store",
                        source,
                    })?;
            }
        }
        Ok(corrected)
    }
}

/// A table after a sweep.
#[derive(Default)]
struct Table {
    left: usize,
    removed: usize,
    left_by_slot: BTreeMap<u32, u64>,
    removed_by_slot: BTreeMap<u32, u64>,
}

fn sweep_table(
    table: &TypedMap<CtKey, CtEntry>,
    alive: &BTreeSet<u32>,
    now_ns: u64,
) -> Result<Table, MapError> {
    let mut swept = Table::default();
    for (key, entry) in table.entries()? {
        let kept = if has_ended(&key, &entry, alive, now_ns) {
            // Between reading and removing, the kernel may have made a new record
            // under the same key: what was really removed tells.
            match table.take(&key)? {
                Some(taken) if !has_ended(&key, &taken, alive, now_ns) => {
                    table.set_new(&key, &taken)?;
                    Some(taken.slot)
                }
                Some(taken) => {
                    swept.removed += 1;
                    *swept.removed_by_slot.entry(taken.slot).or_default() += 1;
                    None
                }
                None => None,
            }
        } else {
            Some(entry.slot)
        };
        if let Some(slot) = kept {
            swept.left += 1;
            *swept.left_by_slot.entry(slot).or_default() += 1;
        }
    }
    Ok(swept)
}

fn has_ended(key: &CtKey, entry: &CtEntry, alive: &BTreeSet<u32>, now_ns: u64) -> bool {
    !alive.contains(&key.endpoint)
        || now_ns.saturating_sub(entry.last_seen_ns) > timeout_ns(key.protocol, entry.flags)
}

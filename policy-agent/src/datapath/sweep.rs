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
        Direction,
        conntrack::{CT_ALL_SLOT, CtCount, CtEntry, CtKey},
        endpoint::FLAG_USED,
        maps::CT_COUNT,
        stats,
    },
    conntrack::timeout_ns,
};

use super::{
    apply::monotonic_ns,
    counters::Counters,
    evictions::TableBooks,
    map::{MapError, TypedMap},
    maps::Maps,
};

/// What a sweep found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Records that are left: confirmed; of the others those of isolated pods, and of
    /// pods that nothing isolates.
    pub left: [usize; 3],
    /// Records removed: past their time, or of endpoints that are gone.
    pub removed: usize,
    /// The books of the tables that evict: pending, of pods that nothing isolates.
    pub books: [TableBooks; 2],
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
        // Before the tables are read, so that what comes meanwhile is only found.
        // Without them nothing is told of evictions, and what has ended goes all the same.
        let counters = self.counters().ok();
        let counters = counters.as_ref();
        let mut main = sweep_table(&self.ct, &alive, now_ns)?;
        main.sum_up();
        let pending = sweep_table(&self.ct_pending, &alive, now_ns)?;
        let open = sweep_table(&self.ct_open, &alive, now_ns)?;
        Ok(Swept {
            left: [main.left, pending.left, open.left],
            removed: main.removed + pending.removed + open.removed,
            books: [
                books(
                    counters,
                    [stats::CT_PENDING_MADE, stats::CT_PENDING_LEFT],
                    &pending,
                ),
                books(counters, [stats::CT_OPEN_MADE, stats::CT_OPEN_LEFT], &open),
            ],
            corrected: self.keep_books(&before, &main)?,
        })
    }

    fn books(&self) -> BTreeMap<u32, CtCount> {
        (0..self.slots())
            .filter_map(|slot| Some((slot, self.ct_count(slot)?)))
            .filter(|(slot, count)| *slot == CT_ALL_SLOT || *count != CtCount::default())
            .collect()
    }

    /// Brings the books up to what the table was seen to hold, see [`removed_by`].
    fn keep_books(&self, before: &BTreeMap<u32, CtCount>, main: &Table) -> Result<usize, MapError> {
        let mut corrected = 0;
        for (&slot, old) in before {
            let created = self.ct_count(slot).unwrap_or_default().created;
            let gone = main.removed_by_slot.get(&slot).copied().unwrap_or(0);
            let left = main.left_by_slot.get(&slot).copied().unwrap_or(0);
            let added = old.removed.wrapping_add(gone);
            let removed = removed_by(*old, created, left, gone);
            corrected += usize::from(removed != added);
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

fn books(counters: Option<&Counters>, [made, left]: [u32; 2], table: &Table) -> TableBooks {
    let sum = |counters: &Counters, counter| {
        [Direction::Ingress, Direction::Egress]
            .iter()
            .map(|direction| counters.get(*direction, counter))
            .fold(0, u64::wrapping_add)
    };
    let due = |counters| sum(counters, made).wrapping_sub(sum(counters, left));
    TableBooks {
        made: counters.map(due),
        removed: table.removed as u64,
        left: table.left as u64,
    }
}

/// How many records were ever removed: what the books said and what the sweeper has
/// removed since, `gone`, put right by what was `left`. `created` was read afterwards.
///
/// Whatever was not left of those that were made before the table was read is gone; and
/// whatever was left is among those that were made by now. Between the two the books
/// are believed. (One that is there and not booked yet, on each CPU, is put right by
/// the next sweep.)
fn removed_by(old: CtCount, created: u64, left: u64, gone: u64) -> u64 {
    let booked = old.removed.wrapping_add(gone);
    let least = old.created.wrapping_sub(left);
    let most = created.wrapping_sub(left);
    if least.wrapping_sub(booked).cast_signed() > 0 {
        least
    } else if most.wrapping_sub(booked).cast_signed() < 0 {
        most
    } else {
        booked
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

impl Table {
    /// Enters all endpoints together, which have books as each of them.
    fn sum_up(&mut self) {
        for by_slot in [&mut self.left_by_slot, &mut self.removed_by_slot] {
            let sum = by_slot.values().sum();
            by_slot.insert(CT_ALL_SLOT, sum);
        }
    }
}

fn sweep_table(
    table: &TypedMap<CtKey, CtEntry>,
    alive: &BTreeSet<u32>,
    now_ns: u64,
) -> Result<Table, MapError> {
    let mut swept = Table::default();
    for (key, entry) in table.entries()? {
        let kept = if has_ended(&key, &entry, alive, now_ns) {
            remove_ended(table, &key, alive, now_ns, &mut swept)?
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

/// Removes a record that had ended when the table was read: the slot of one that is
/// there instead.
///
/// A connection may have opened on its ports since. Asking again immediately before
/// leaves it no more than the time of a call for that, and if it takes that, it gets its
/// record back: only an answer in between would miss it.
fn remove_ended(
    table: &TypedMap<CtKey, CtEntry>,
    key: &CtKey,
    alive: &BTreeSet<u32>,
    now_ns: u64,
    swept: &mut Table,
) -> Result<Option<u32>, MapError> {
    let is_live = |entry: &CtEntry| !has_ended(key, entry, alive, now_ns);
    match table.get(key)? {
        None => return Ok(None),
        Some(found) if is_live(&found) => return Ok(Some(found.slot)),
        Some(_) => {}
    }
    Ok(match table.take(key)? {
        Some(taken) if is_live(&taken) => {
            table.set_new(key, &taken)?;
            Some(taken.slot)
        }
        Some(taken) => {
            swept.removed += 1;
            *swept.removed_by_slot.entry(taken.slot).or_default() += 1;
            None
        }
        None => None,
    })
}

fn has_ended(key: &CtKey, entry: &CtEntry, alive: &BTreeSet<u32>, now_ns: u64) -> bool {
    !alive.contains(&key.endpoint)
        || now_ns.saturating_sub(entry.last_seen_ns) > timeout_ns(key.protocol, entry.flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(created: u64, removed: u64) -> CtCount {
        CtCount {
            created,
            removed,
            opened: 0,
        }
    }

    #[test]
    fn books_follow_what_is_left_whoever_removed_it() {
        // Ten made, four removed before; one removed now; of the other five:
        assert_eq!(removed_by(books(10, 4), 10, 5, 1), 5, "all are left");
        assert_eq!(
            removed_by(books(10, 4), 10, 2, 1),
            8,
            "the kernel took three"
        );
        assert_eq!(removed_by(books(10, 4), 10, 7, 1), 3, "there are more");
        // Meanwhile the kernel made three, of which some are seen.
        for seen in 0..=3 {
            assert_eq!(removed_by(books(10, 4), 13, 5 + seen, 1), 5);
        }
        // As many are missing that they cannot all be among those not seen.
        assert_eq!(removed_by(books(10, 4), 13, 2, 1), 8);
        assert_eq!(
            removed_by(books(10, 4), 13, 2 + 3, 1),
            5,
            "not known, so not said"
        );
        // Of an agent that kept no books.
        assert_eq!(removed_by(books(0, 0), 0, 6, 0), 6_u64.wrapping_neg());
        assert_eq!(removed_by(books(0, 0), 1, 6, 0), 5_u64.wrapping_neg());
        assert_eq!(
            removed_by(books(10, 9), 13, 5, 0),
            8,
            "as many are there as were made"
        );
    }
}

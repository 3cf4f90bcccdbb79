//! Connection records as `policy-common` asks for them, over the maps. An element
//! that was given to another key meanwhile is told by its tag, as in `tables`.

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::offset_of;
use core::ptr::{NonNull, addr_of, addr_of_mut};

use aya_ebpf::bindings::BPF_ANY;
use policy_common::abi::config::Config;
use policy_common::abi::conntrack::{CT_ALL_SLOT, CtEntry, CtKey};
use policy_common::abi::{Direction, stats};
use policy_common::conntrack::may_confirm;
use policy_common::packet::{Packet, words6};
use policy_common::verdict::{Facts, Outcome, Records, Table, conclude, find_live, key_of};

use crate::clock;
use crate::emit;
use crate::maps;
use crate::settings::setting;

/// Notes that an endpoint may have records in the table for open ones.
#[inline(always)]
fn note_open(slot: u32) {
    if let Some(count) = maps::CT_COUNT.get_ptr_mut(slot) {
        // SAFETY: array elements stay; one aligned store, always of the same.
        unsafe { addr_of_mut!((*count).opened).write_volatile(1) }
    }
}

/// The same key, written in the pieces in which a hash map reads it: a load that spans two
/// stores waits for both.
#[inline(always)]
pub(crate) fn at_once(key: &CtKey) -> CtKey {
    let [a, b, c, d] = key.endpoint.to_ne_bytes();
    let [e, f] = key.local_port.to_ne_bytes();
    let [g, h] = key.peer_port.to_ne_bytes();
    let [peer_0, peer_1] = words6(key.peer);
    let ends = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let words = [peer_0, peer_1, ends];
    let rest = u32::from_ne_bytes([key.protocol, key.family, key.pad[0], key.pad[1]]);
    let key = Pieces { words, rest };
    // SAFETY: the pieces are as long as a key, and any bytes are one.
    unsafe { core::mem::transmute::<Pieces, CtKey>(key) }
}

/// A [`CtKey`] as a hash map reads it.
#[repr(C, packed(4))]
struct Pieces {
    words: [u64; 3],
    rest: u32,
}

/// Confirmed records in these books.
#[inline(always)]
fn confirmed(slot: u32) -> Option<u64> {
    let count = maps::CT_COUNT.get_ptr(slot)?;
    // SAFETY: array elements stay; each field is one aligned load.
    let (created, removed) = unsafe {
        (
            addr_of!((*count).created).read_volatile(),
            addr_of!((*count).removed).read_volatile(),
        )
    };
    Some(created.wrapping_sub(removed))
}

#[inline(always)]
fn add_created(slot: u32) {
    if let Some(count) = maps::CT_COUNT.get_ptr_mut(slot) {
        // SAFETY: array elements stay and are aligned; the result is not used, which
        // is the form of atomic addition that BPF has.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(addr_of_mut!((*count).created), 1);
        }
    }
}

/// The connection tables. `INLINE`: records are looked up where they are asked for,
/// which is faster, and much more for a verifier to look at where the program is
/// large already.
pub(crate) struct Connections<const INLINE: bool> {
    /// For the counters.
    pub(crate) direction: Direction,
}

impl<const INLINE: bool> Records for Connections<INLINE> {
    type Record = NonNull<CtEntry>;

    #[inline(always)]
    fn key(&self, endpoint: u32, direction: Direction, packet: &Packet) -> CtKey {
        at_once(&key_of(endpoint, direction, packet))
    }

    #[inline(always)]
    fn has_open(&self, slot: u32) -> bool {
        let Some(count) = maps::CT_COUNT.get_ptr(slot) else {
            return true;
        };
        // SAFETY: array elements stay; one aligned load.
        unsafe { addr_of!((*count).opened).read_volatile() != 0 }
    }

    #[inline(always)]
    fn find(&self, table: Table, key: &CtKey) -> Option<NonNull<CtEntry>> {
        let record = match table {
            Table::Main => maps::CT.get_ptr_mut(key),
            Table::Pending => maps::CT_PENDING.get_ptr_mut(key),
            Table::Open => maps::CT_OPEN.get_ptr_mut(key),
        };
        record.and_then(NonNull::new)
    }

    #[inline(always)]
    fn read(&self, record: NonNull<CtEntry>) -> CtEntry {
        let record = record.as_ptr();
        // SAFETY: as in `row`; the tag, read last, tells another key's record.
        unsafe {
            let last_seen_ns = addr_of!((*record).last_seen_ns).read_volatile();
            let slot = addr_of!((*record).slot).read_volatile();
            let generation = addr_of!((*record).generation).read_volatile();
            let flags = addr_of!((*record).flags).read_volatile();
            let tag = addr_of!((*record).tag).read_volatile();
            CtEntry {
                tag,
                flags,
                generation,
                slot,
                last_seen_ns,
            }
        }
    }

    #[inline(always)]
    fn write(&self, record: NonNull<CtEntry>, entry: &CtEntry) {
        let record = record.as_ptr();
        // SAFETY: as in `row`; each field is one aligned store. Two CPUs that
        // refresh one record write the same or the next state of it.
        unsafe {
            if addr_of!((*record).tag).read_volatile() != entry.tag {
                return;
            }
            addr_of_mut!((*record).last_seen_ns).write_volatile(entry.last_seen_ns);
            addr_of_mut!((*record).generation).write_volatile(entry.generation);
            addr_of_mut!((*record).flags).write_volatile(entry.flags);
        }
    }

    #[inline(always)]
    fn insert(&self, table: Table, key: &CtKey, entry: &CtEntry) -> bool {
        match table {
            Table::Main => maps::CT.insert(key, entry, BPF_ANY as u64).is_ok(),
            Table::Pending => {
                let made = maps::CT_PENDING.insert(key, entry, BPF_ANY as u64).is_ok();
                if made {
                    self.count(stats::CT_PENDING_MADE);
                }
                made
            }
            Table::Open => {
                note_open(entry.slot);
                let made = maps::CT_OPEN.insert(key, entry, BPF_ANY as u64).is_ok();
                if made {
                    self.count(stats::CT_OPEN_MADE);
                }
                made
            }
        }
    }

    #[inline(always)]
    fn delete(&self, table: Table, key: &CtKey) {
        // A record that is gone already is as good as deleted.
        match table {
            Table::Main => {
                let _ = maps::CT.remove(key);
            }
            Table::Pending => {
                if maps::CT_PENDING.remove(key).is_ok() {
                    self.count(stats::CT_PENDING_LEFT);
                }
            }
            Table::Open => {
                if maps::CT_OPEN.remove(key).is_ok() {
                    self.count(stats::CT_OPEN_LEFT);
                }
            }
        }
    }

    #[inline(always)]
    fn has_budget(&self, slot: u32, isolated: bool) -> bool {
        let (Some(own), Some(all)) = (confirmed(slot), confirmed(CT_ALL_SLOT)) else {
            return false;
        };
        let budget = setting(offset_of!(Config, ct_budget));
        may_confirm(own, all, budget, isolated)
    }

    #[inline(always)]
    fn count_created(&self, slot: u32) {
        add_created(slot);
        add_created(CT_ALL_SLOT);
    }

    #[inline(always)]
    fn count(&self, counter: u32) {
        emit::count(stats::index(self.direction, counter));
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        clock::coarse_ns()
    }

    #[inline(always)]
    fn look_up(&self, slot: u32, key: &CtKey, isolated: bool) -> (Option<Table>, CtEntry, u64) {
        if INLINE {
            return find_live(self, slot, key, isolated);
        }
        // Overwritten whole. Not zeros, for which the compiler calls a function that
        // writes byte by byte, and costs as much as a lookup.
        let mut entry = CtEntry {
            tag: 1,
            flags: 2,
            generation: 3,
            slot: 4,
            last_seen_ns: 5,
        };
        let how = u32::from(isolated) << 31 | slot;
        let found = pa_ct_look_up(key, how, &raw mut entry);
        (table_of(found), entry, found & !TABLE)
    }

    #[inline(always)]
    fn conclude(
        &self,
        facts: Facts,
        key: &CtKey,
        record: &CtEntry,
        current: u32,
        now_ns: u64,
    ) -> Outcome {
        let facts = u64::from(facts.0) << 32 | u64::from(current);
        Outcome(pa_ct_conclude(key, record, facts, now_ns))
    }
}

/// The bits of a table in a time: nobody counts single nanoseconds.
const TABLE: u64 = 3;

/// A table in a word; 0: none.
#[inline(always)]
const fn number_of(table: Option<Table>) -> u64 {
    match table {
        None => 0,
        Some(Table::Main) => 1,
        Some(Table::Pending) => 2,
        Some(Table::Open) => 3,
    }
}

/// The table that [`number_of`] put into the low bits of a word.
#[inline(always)]
const fn table_of(word: u64) -> Option<Table> {
    match word & TABLE {
        0 => None,
        1 => Some(Table::Main),
        2 => Some(Table::Pending),
        _ => Some(Table::Open),
    }
}

/// Looks for the record of a key: [`number_of`] its table, and in the other bits the
/// time by which it is live. A global function, as `pa_judge`: three tables, one after
/// the other, are many ways to get here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_ct_look_up(key: *const CtKey, how: u32, entry: *mut CtEntry) -> u64 {
    if key.is_null() || entry.is_null() {
        return 0;
    }
    let records = Connections::<true> {
        direction: Direction::Ingress,
    };
    // SAFETY: the caller passes its own key and entry. The key is copied, because
    // older kernels (6.1 among them) take none for a map that is behind an argument.
    let (key, entry) = unsafe { (key.read(), &mut *entry) };
    let slot = how & !(1 << 31);
    let isolated = how >> 31 != 0;
    let (found, live, now_ns) = find_live(&records, slot, &key, isolated);
    *entry = live;
    now_ns & !TABLE | number_of(found)
}

/// The last step of a decision. A global function, likewise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_ct_conclude(
    key: *const CtKey,
    record: *const CtEntry,
    facts_and_generation: u64,
    now_ns: u64,
) -> u32 {
    if key.is_null() || record.is_null() {
        return 0;
    }
    let facts = Facts((facts_and_generation >> 32) as u32);
    let current = (facts_and_generation & 0xffff_ffff) as u32;
    let records = Connections::<true> {
        direction: facts.direction(),
    };
    // SAFETY: the caller passes its own record.
    let record = unsafe { &*record };
    // SAFETY: and its own key. Copied, because older kernels (6.1 among them) take
    // none for a map that is behind an argument.
    let key = || unsafe { key.read() };
    conclude(&records, facts, key, record, current, now_ns).0
}

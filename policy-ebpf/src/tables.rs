//! Policy, identities and connection records as `policy-common` asks for them,
//! over the maps.
//!
//! A hash element may be given to another key while this program holds it. Where
//! that could change a verdict, the value repeats its key, and what does not
//! repeat the key that was asked for is looked up once more, then not trusted.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::lpm_trie::Key;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::offset_of;
use core::ptr::{NonNull, addr_of};
use policy_common::abi::config::Config;
use policy_common::abi::conntrack::{CtEntry, CtKey};
use policy_common::abi::identity::{self, Cidr4, Cidr6, FLAG_NODE, Id4, Id6, Identity};
use policy_common::abi::policy::{Interval, PolicyEntry, PolicyKey, PortSet};
use policy_common::abi::service::{SVC_BACKENDS, Svc, SvcBackend, SvcKey};
use policy_common::abi::{Direction, config, family, stats};
use policy_common::packet::{Words, bytes4, bytes16, words4, words6};
use policy_common::verdict::{
    Facts, Identities, Judgement, Outcome, Peer, PolicyTables, Records, Services, Table, conclude,
    find_live, judge,
};

use crate::emit;
use crate::maps;
use crate::settings::setting;

/// The maps, seen from one packet.
pub(crate) struct Tables {
    /// `Config::flags`.
    pub(crate) config_flags: u32,
}

impl PolicyTables for Tables {
    #[inline(always)]
    fn row(&self, key: PolicyKey) -> Option<u32> {
        let mut again = false;
        loop {
            let entry: *const PolicyEntry = maps::POLICY.get_ptr(&key)?;
            // SAFETY: the kernel keeps a map value readable for the program's
            // run; what another key wrote there is told by the repeated key.
            let (port_set, policy, identity) = unsafe {
                let port_set = addr_of!((*entry).port_set).read_volatile();
                (
                    port_set,
                    addr_of!((*entry).policy).read_volatile(),
                    addr_of!((*entry).identity).read_volatile(),
                )
            };
            if policy == key.policy && identity == key.identity {
                return Some(port_set);
            }
            if again {
                // Port set 0 is none: denied, and said to be incomplete.
                return Some(0);
            }
            again = true;
        }
    }

    #[inline(always)]
    fn port_set<R>(&self, id: u32, read: impl FnOnce(&PortSet) -> R) -> Option<R> {
        maps::PORT_SETS.get(id).map(read)
    }

    #[inline(always)]
    fn judge(&self, policy: u16, identity: Identity, protocol: u8, port: u16) -> Judgement {
        let point = u32::from(protocol) << 16 | u32::from(port);
        Judgement::from_word(pa_judge(u32::from(policy), identity, point))
    }

    #[inline(always)]
    fn extent(&self, index: u32) -> Option<Interval> {
        maps::EXTENTS.get(index).copied()
    }
}

impl Identities for Tables {
    #[inline(always)]
    fn peer(&self, family: u8, address: Words) -> Peer {
        let settings = u64::from(self.config_flags) << 8 | u64::from(family);
        Peer::from_word(pa_peer(address[0], address[1], settings))
    }
}

/// Who an address is: a [`Peer`] as a word, and [`local_slot_in`]. A global
/// function, as [`pa_judge`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_peer(high: u64, low: u64, flags_and_family: u64) -> u64 {
    let tables = Tables {
        config_flags: (flags_and_family >> 8) as u32,
    };
    let address = [high, low];
    let (peer, slot) = if (flags_and_family & 0xff) as u8 == family::V4 {
        tables.peer4(address)
    } else {
        tables.peer6(address)
    };
    peer.to_word() | u64::from(slot) << LOCAL_SHIFT
}

/// Where the slot of a pod of this node begins in what [`pa_peer`] answers; of
/// others it is 0.
const LOCAL_SHIFT: u32 = 40;

/// The slot in what [`pa_peer`] answered.
#[inline(always)]
pub(crate) const fn local_slot_in(peer: u64) -> u32 {
    (peer >> LOCAL_SHIFT & 0xffff) as u32
}

/// What a policy says. A global function: the verifier looks at it once, and
/// knows nothing of its answer, where an inlined one would multiply every path
/// before it with every path after it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_judge(policy: u32, identity: u32, protocol_and_port: u32) -> u64 {
    let tables = Tables { config_flags: 0 };
    let protocol = (protocol_and_port >> 16 & 0xff) as u8;
    let port = (protocol_and_port & 0xffff) as u16;
    judge(&tables, (policy & 0xffff) as u16, identity, protocol, port).to_word()
}

impl Services for Tables {
    type Row = NonNull<Svc>;

    #[inline(always)]
    fn find_service(&self, key: &SvcKey) -> Option<NonNull<Svc>> {
        maps::SERVICES.get_ptr_mut(key).and_then(NonNull::new)
    }

    #[inline(always)]
    fn extent_of(&self, row: NonNull<Svc>) -> (u32, u32) {
        let row = row.as_ptr();
        // SAFETY: as in `row`.
        unsafe {
            (
                addr_of!((*row).flags).read_volatile(),
                addr_of!((*row).count).read_volatile(),
            )
        }
    }

    #[inline(always)]
    fn backend(&self, row: NonNull<Svc>, index: u32) -> SvcBackend {
        // SAFETY: as in `row`; an address is taken, nothing is read.
        let backends = unsafe { addr_of!((*row.as_ptr()).backends) }.cast::<SvcBackend>();
        let index = index as usize & (SVC_BACKENDS - 1);
        // SAFETY: as in `row`; the index is below the array's length.
        unsafe {
            let backend = backends.add(index);
            SvcBackend {
                identity: addr_of!((*backend).identity).read_volatile(),
                port: addr_of!((*backend).port).read_volatile(),
                reserved: 0,
            }
        }
    }

    #[inline(always)]
    fn is_still(&self, row: NonNull<Svc>, key: &SvcKey) -> bool {
        let words = row.as_ptr().cast::<u32>();
        let asked = core::ptr::from_ref(key).cast::<u16>();
        let mut word = 0;
        while word < size_of::<SvcKey>() / 4 {
            // SAFETY: as in `row`. The row begins with its key, and both are as
            // long as the loop goes.
            let (found, asked) = unsafe {
                let low = asked.add(word * 2).read();
                let high = asked.add(word * 2 + 1).read();
                let asked = u32::from_ne_bytes(pair(low, high));
                (words.add(word).read_volatile(), asked)
            };
            if found != asked {
                return false;
            }
            word += 1;
        }
        true
    }
}

/// Two halves of a word as they stand in memory.
#[inline(always)]
fn pair(first: u16, second: u16) -> [u8; 4] {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = second.to_ne_bytes();
    [a, b, c, d]
}

const UNTRUSTED: Peer = Peer {
    identity: identity::UNRESOLVED,
    node: false,
};

impl Tables {
    /// Slot of the pod of this node that has an address; 0: none.
    #[inline(always)]
    pub(crate) fn local_slot(&self, family: u8, address: Words) -> u32 {
        // A row that is given to another address meanwhile is another's: 0, as if
        // it had been removed a moment before.
        if family == family::V4 {
            let key = bytes4(address);
            let Some(entry) = maps::ID4.get_ptr(&key) else {
                return 0;
            };
            let entry: *const Id4 = entry;
            // SAFETY: as in `row`.
            unsafe {
                let flags = addr_of!((*entry).flags).read_volatile();
                let addr = addr_of!((*entry).addr).cast::<u32>().read_volatile();
                if addr == u32::from_ne_bytes(key) {
                    identity::local_slot(flags)
                } else {
                    0
                }
            }
        } else {
            let key = bytes16(address);
            let Some(entry) = maps::ID6.get_ptr(&key) else {
                return 0;
            };
            let entry: *const Id6 = entry;
            // SAFETY: as in `row`.
            unsafe {
                let flags = addr_of!((*entry).flags).read_volatile();
                if words6(addr_of!((*entry).addr).read_volatile()) == address {
                    identity::local_slot(flags)
                } else {
                    0
                }
            }
        }
    }

    #[inline(always)]
    fn peer4(&self, address: Words) -> (Peer, u32) {
        let key = bytes4(address);
        let mut again = false;
        while let Some(entry) = maps::ID4.get_ptr(&key) {
            let entry: *const Id4 = entry;
            // SAFETY: as in `row`.
            let (identity, flags, addr) = unsafe {
                let identity = addr_of!((*entry).identity).read_volatile();
                let flags = addr_of!((*entry).flags).read_volatile();
                (
                    identity,
                    flags,
                    addr_of!((*entry).addr).cast::<u32>().read_volatile(),
                )
            };
            if addr == u32::from_ne_bytes(key) {
                let peer = Peer {
                    identity,
                    node: flags & FLAG_NODE != 0,
                };
                return (peer, identity::local_slot(flags));
            }
            if again {
                return (UNTRUSTED, 0);
            }
            again = true;
        }
        if self.config_flags & config::FLAG_CIDR4 == 0 {
            return (Peer::OTHER, 0);
        }
        let Some(entry) = maps::CIDR4.get(&Key::new(32, key)) else {
            return (Peer::OTHER, 0);
        };
        let entry: *const Cidr4 = entry;
        // SAFETY: as in `row`.
        let (identity, length, addr) = unsafe {
            let identity = addr_of!((*entry).identity).read_volatile();
            let length = addr_of!((*entry).prefix_len).read_volatile();
            (identity, length, addr_of!((*entry).addr).read_volatile())
        };
        let network = words4(addr);
        let covered = covers(network, address, length.saturating_add(96));
        (trusted(identity, covered), 0)
    }

    #[inline(always)]
    fn peer6(&self, address: Words) -> (Peer, u32) {
        let key = bytes16(address);
        let mut again = false;
        while let Some(entry) = maps::ID6.get_ptr(&key) {
            let entry: *const Id6 = entry;
            // SAFETY: as in `row`.
            let (identity, flags, addr) = unsafe {
                let identity = addr_of!((*entry).identity).read_volatile();
                let flags = addr_of!((*entry).flags).read_volatile();
                (identity, flags, addr_of!((*entry).addr).read_volatile())
            };
            if words6(addr) == address {
                let peer = Peer {
                    identity,
                    node: flags & FLAG_NODE != 0,
                };
                return (peer, identity::local_slot(flags));
            }
            if again {
                return (UNTRUSTED, 0);
            }
            again = true;
        }
        if self.config_flags & config::FLAG_CIDR6 == 0 {
            return (Peer::OTHER, 0);
        }
        let Some(entry) = maps::CIDR6.get(&Key::new(128, key)) else {
            return (Peer::OTHER, 0);
        };
        let entry: *const Cidr6 = entry;
        // SAFETY: as in `row`.
        let (identity, length, addr) = unsafe {
            let identity = addr_of!((*entry).identity).read_volatile();
            let length = addr_of!((*entry).prefix_len).read_volatile();
            (identity, length, addr_of!((*entry).addr).read_volatile())
        };
        (trusted(identity, covers(words6(addr), address, length)), 0)
    }
}

#[inline(always)]
fn trusted(identity: Identity, matches: bool) -> Peer {
    if matches {
        Peer {
            identity,
            node: false,
        }
    } else {
        UNTRUSTED
    }
}

/// Whether the first `length` bits of two addresses are equal.
#[inline(always)]
fn covers(network: Words, address: Words, length: u32) -> bool {
    let high = u64::from_be(network[0] ^ address[0]);
    let low = u64::from_be(network[1] ^ address[1]);
    if length >= 64 {
        high == 0 && (length >= 128 && low == 0 || length < 128 && head(low, length - 64) == 0)
    } else {
        head(high, length) == 0
    }
}

/// The first `bits` (0 to 63) of a word.
#[inline(always)]
fn head(word: u64, bits: u32) -> u64 {
    if bits == 0 {
        0
    } else {
        word >> (64 - (bits & 63))
    }
}

/// Notes that an endpoint may have records in the table for open ones.
#[inline(always)]
fn note_open(slot: u32) {
    if let Some(count) = maps::CT_COUNT.get_ptr_mut(slot) {
        // SAFETY: array elements stay; one aligned store, always of the same.
        unsafe { core::ptr::addr_of_mut!((*count).opened).write_volatile(1) }
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
            core::ptr::addr_of_mut!((*record).last_seen_ns).write_volatile(entry.last_seen_ns);
            core::ptr::addr_of_mut!((*record).generation).write_volatile(entry.generation);
            core::ptr::addr_of_mut!((*record).flags).write_volatile(entry.flags);
        }
    }

    #[inline(always)]
    fn insert(&self, table: Table, key: &CtKey, entry: &CtEntry) -> bool {
        match table {
            Table::Main => maps::CT.insert(key, entry, BPF_ANY as u64).is_ok(),
            Table::Pending => maps::CT_PENDING.insert(key, entry, BPF_ANY as u64).is_ok(),
            Table::Open => {
                note_open(entry.slot);
                maps::CT_OPEN.insert(key, entry, BPF_ANY as u64).is_ok()
            }
        }
    }

    #[inline(always)]
    fn delete(&self, table: Table, key: &CtKey) {
        // A record that is gone already is as good as deleted.
        let _ = match table {
            Table::Main => maps::CT.remove(key),
            Table::Pending => maps::CT_PENDING.remove(key),
            Table::Open => maps::CT_OPEN.remove(key),
        };
    }

    #[inline(always)]
    fn has_budget(&self, slot: u32) -> bool {
        let Some(count) = maps::CT_COUNT.get_ptr(slot) else {
            return false;
        };
        // SAFETY: array elements stay; each field is one aligned load.
        let (created, removed) = unsafe {
            (
                addr_of!((*count).created).read_volatile(),
                addr_of!((*count).removed).read_volatile(),
            )
        };
        created.wrapping_sub(removed) < u64::from(setting(offset_of!(Config, ct_budget)))
    }

    #[inline(always)]
    fn count_created(&self, slot: u32) {
        if let Some(count) = maps::CT_COUNT.get_ptr_mut(slot) {
            // SAFETY: array elements stay and are aligned; the result is not
            // used, which is the form of atomic addition that BPF has.
            unsafe {
                atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(
                    core::ptr::addr_of_mut!((*count).created),
                    1,
                );
            }
        }
    }

    #[inline(always)]
    fn count(&self, counter: u32) {
        emit::count(stats::index(self.direction, counter));
    }

    #[inline(always)]
    fn look_up(
        &self,
        slot: u32,
        key: &CtKey,
        isolated: bool,
        now_ns: u64,
    ) -> (Option<Table>, CtEntry) {
        if INLINE {
            return find_live(self, slot, key, isolated, now_ns);
        }
        let mut entry = CtEntry {
            tag: 0,
            flags: 0,
            generation: 0,
            slot: 0,
            last_seen_ns: 0,
        };
        let how = u32::from(isolated) << 31 | slot;
        let found = pa_ct_look_up(key, how, now_ns, &raw mut entry);
        (table_of(found), entry)
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

/// A table in a word; 0: none.
#[inline(always)]
const fn number_of(table: Option<Table>) -> u32 {
    match table {
        None => 0,
        Some(Table::Main) => 1,
        Some(Table::Pending) => 2,
        Some(Table::Open) => 3,
    }
}

/// The table that [`number_of`] put into the low bits of a word.
#[inline(always)]
const fn table_of(word: u32) -> Option<Table> {
    match word & 3 {
        0 => None,
        1 => Some(Table::Main),
        2 => Some(Table::Pending),
        _ => Some(Table::Open),
    }
}

/// Looks for the record of a key: [`number_of`] its table. A global function, as
/// [`pa_judge`]: three tables, one after the other, are many ways to get here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_ct_look_up(
    key: *const CtKey,
    slot_and_isolated: u32,
    now_ns: u64,
    entry: *mut CtEntry,
) -> u32 {
    if key.is_null() || entry.is_null() {
        return 0;
    }
    let records = Connections::<true> {
        direction: Direction::Ingress,
    };
    // SAFETY: the caller passes its own key and entry. The key is copied, because
    // older kernels (6.1 among them) take none for a map that is behind an argument.
    let (key, entry) = unsafe { (key.read(), &mut *entry) };
    let slot = slot_and_isolated & !(1 << 31);
    let isolated = slot_and_isolated >> 31 != 0;
    let (found, live) = find_live(&records, slot, &key, isolated, now_ns);
    *entry = live;
    number_of(found)
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

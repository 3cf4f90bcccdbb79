//! Policy, identities and Services as `policy-common` asks for them, over the maps.
//!
//! A hash element may be given to another key while this program holds it. Where
//! that could change a verdict, the value repeats its key, and what does not
//! repeat the key that was asked for is looked up once more, then not trusted.

use core::mem::offset_of;
use core::ptr::{NonNull, addr_of};

use aya_ebpf::btf_maps::lpm_trie::Key;
use policy_common::abi::config::{Config, FLAG_CIDR4, FLAG_CIDR6};
use policy_common::abi::event::DropReason;
use policy_common::abi::family;
use policy_common::abi::identity::{self, Cidr4, Cidr6, FLAG_NODE, Id4, Id6, Identity};
use policy_common::abi::policy::{Interval, PolicyEntry, PolicyKey, PortSet};
use policy_common::abi::service::{SVC_BACKENDS, Svc, SvcBackend, SvcKey};
use policy_common::memo::policy_key;
use policy_common::packet::{Words, bytes4, bytes16, words4, words6};
use policy_common::verdict::{Identities, Judgement, Peer, PolicyTables, Services, judge};

use crate::settings::setting;
use crate::{maps, memo};

/// The maps.
pub(crate) struct Tables;

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
        let [key, protocol] = policy_key(policy, identity, protocol, port);
        Judgement::from_word(pa_judge(key, protocol))
    }

    #[inline(always)]
    fn extent(&self, index: u32) -> Option<Interval> {
        maps::EXTENTS.get(index).copied()
    }
}

impl Identities for Tables {
    #[inline(always)]
    fn peer(&self, family: u8, address: Words) -> Peer {
        Peer::from_word(pa_peer(address[0], address[1], family.into()))
    }
}

/// Who an address is: a [`Peer`] as a word, and [`local_slot_in`]. A global
/// function, as [`pa_judge`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_peer(high: u64, low: u64, of: u32) -> u64 {
    let address = [high, low];
    let stamp = memo::stamp();
    if let Some(word) = memo::recalled(&maps::PEER_MEMO, address, stamp) {
        return word;
    }
    let (peer, slot) = if of as u8 == family::V4 {
        Tables.peer4(address)
    } else {
        Tables.peer6(address)
    };
    let word = peer.to_word() | u64::from(slot) << LOCAL_SHIFT;
    if peer.identity != identity::UNRESOLVED {
        memo::note(&maps::PEER_MEMO, address, word, stamp);
    }
    word
}

/// Where the slot of a pod of this node begins in what [`pa_peer`] answers; of
/// others it is 0.
const LOCAL_SHIFT: u32 = 40;

/// The slot in what [`pa_peer`] answered.
#[inline(always)]
pub(crate) const fn local_slot_in(peer: u64) -> u32 {
    (peer >> LOCAL_SHIFT & 0xffff) as u32
}

/// What a policy says, about what [`policy_key`] made. A global function: the
/// verifier looks at it once, and knows nothing of its answer, where an inlined one
/// would multiply every path before it with every path after it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_judge(key: u64, protocol: u64) -> u64 {
    let stamp = memo::stamp();
    if let Some(word) = memo::recalled(&maps::POLICY_MEMO, [key, protocol], stamp) {
        return word;
    }
    let (policy, identity, port) = (key & 0xffff, key >> 32, key >> 16 & 0xffff);
    let word = judge(
        &Tables,
        policy as u16,
        identity as u32,
        (protocol & 0xff) as u8,
        port as u16,
    )
    .to_word();
    // What is missing may be there at the next packet.
    let reason = word >> 32 & 0xff;
    if reason == 0 || reason == DropReason::Policy as u64 {
        memo::note(&maps::POLICY_MEMO, [key, protocol], word, stamp);
    }
    word
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
        if setting(offset_of!(Config, flags)) & FLAG_CIDR4 == 0 {
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
        if setting(offset_of!(Config, flags)) & FLAG_CIDR6 == 0 {
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

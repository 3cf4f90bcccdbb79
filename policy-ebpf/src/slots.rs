//! From an interface to its slot, and from a slot to its endpoint.

use core::ptr::addr_of;

use policy_common::abi::endpoint::{Endpoint, FLAG_USED, PolicyWord};
use policy_common::abi::maps::IFINDEX_ENTRIES;

use crate::maps;

/// The slot of an interface that has its own element in the direct-mapped table; 0
/// for all others.
#[inline(always)]
pub(crate) fn near_slot_of(ifindex: u32) -> u32 {
    match maps::IFINDEX.get(ifindex & (IFINDEX_ENTRIES as u32 - 1)) {
        Some(entry) if entry.ifindex == ifindex => entry.slot,
        _ => 0,
    }
}

/// The slot of an interface; 0: none.
#[inline(always)]
pub(crate) fn slot_of(ifindex: u32) -> u32 {
    if let Some(entry) = maps::IFINDEX.get(ifindex & (IFINDEX_ENTRIES as u32 - 1))
        && entry.ifindex == ifindex
    {
        return entry.slot;
    }
    // SAFETY: the value is one aligned word, read at once; a row that is given
    // to another interface meanwhile belongs to an interface that is gone.
    unsafe { maps::IFINDEX_MORE.get(&ifindex) }
        .copied()
        .unwrap_or(0)
}

/// The word of a slot; of one that holds no endpoint zero, which no endpoint's is
/// (generations begin at 1).
#[inline(always)]
pub(crate) fn word_of(slot: u32) -> PolicyWord {
    let Some(endpoint) = endpoint(slot) else {
        return PolicyWord(0);
    };
    // SAFETY: array elements stay; one aligned 8-byte load.
    PolicyWord(unsafe { addr_of!((*endpoint).word).read_volatile() })
}

/// The endpoint in a slot, if it holds one.
#[inline(always)]
pub(crate) fn endpoint(slot: u32) -> Option<*const Endpoint> {
    if slot == 0 {
        return None;
    }
    let endpoint: *const Endpoint = maps::ENDPOINTS.get_ptr(slot)?;
    // SAFETY: array elements stay; one aligned load.
    let flags = unsafe { addr_of!((*endpoint).flags).read_volatile() };
    if flags & FLAG_USED == 0 {
        None
    } else {
        Some(endpoint)
    }
}

//! The flow cache in its map: flows that passed on this CPU a moment ago.
//!
//! What a set holds and when a flow is forgotten is in
//! `policy_common::flow_cache`; what may be put in, the caller decides.

use policy_common::abi::maps::FLOW_SETS;
use policy_common::flow_cache::FlowKey;
use policy_common::packet::{Frame, Packet};

use crate::memory::FrameMemory;
use crate::{clock, maps, skb};

#[inline(always)]
fn flow_key(packet: &Packet, how: u32, slot: u32, generation: u32) -> FlowKey {
    FlowKey {
        src: packet.src,
        dst: packet.dst,
        tuple: u64::from(packet.src_port)
            | u64::from(packet.dst_port) << 16
            | u64::from(packet.protocol) << 32
            | u64::from(how & 1) << 40
            | u64::from(packet.family) << 48
            | u64::from(how >> 1 & 1) << 56,
        owner: u64::from(slot) | u64::from(generation) << 32,
    }
}

/// The state with which a flow passed a moment ago, if it did.
#[inline(always)]
pub(crate) fn recalled(memory: *mut Frame, how: u32, slot: u32, generation: u32) -> Option<u32> {
    // SAFETY: the one caller passes its own frame.
    let packet = unsafe { &(*memory).packet };
    let index = flow_key(packet, how, slot, generation).set_index();
    let set = maps::FLOWS.get_ptr_mut(index & (FLOW_SETS as u32 - 1))?;
    let now = clock::ticks();
    let mut way = 0;
    while way < 2 {
        // The key is read anew for each comparison, instead of being kept since
        // the hash: the stack is short.
        // SAFETY: as above.
        let packet = unsafe { &(*skb::opaque(memory)).packet };
        let key = flow_key(packet, how, slot, generation);
        // SAFETY: this CPU's element. A program on the other hook that interrupts
        // this one may change the set; the whole key is compared, so the worst is
        // a miss, or a hit on a flow that did pass.
        let state = unsafe { (&(*set).ways)[way].recall(&key, now) };
        if state.is_some() {
            return state;
        }
        way += 1;
    }
    None
}

/// Puts a flow that passed into the cache.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_remember(
    memory: *const FrameMemory,
    slot: u32,
    generation: u32,
    how: u32,
) -> u32 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the caller passes its own `Frame`.
    let packet = unsafe { &(*memory.cast::<Frame>()).packet };
    let key = flow_key(packet, how, slot, generation);
    if let Some(set) = maps::FLOWS.get_ptr_mut(key.set_index() & (FLOW_SETS as u32 - 1)) {
        // SAFETY: as in `recalled`.
        unsafe { (*set).insert(&key, how >> 2, clock::ticks()) }
    }
    1
}

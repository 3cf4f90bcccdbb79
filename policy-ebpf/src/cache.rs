//! The flow cache in its map: flows that passed on this CPU a moment ago.
//!
//! What a set holds and when a flow is forgotten is in
//! `policy_common::flow_cache`; what may be put in, the caller decides.

use core::ptr::addr_of;

use policy_common::abi::Direction;
use policy_common::abi::endpoint::Endpoint;
use policy_common::abi::maps::FLOW_SETS;
use policy_common::flow_cache::FlowKey;
use policy_common::packet::Packet;
use policy_common::verdict::gate::is_of_endpoint;

use crate::memory::{FrameMemory, Memory, SENDER_ASKED};
use crate::{clock, maps};

#[inline(always)]
fn flow_key(packet: &Packet, how: u32, slot: u32, generation: u32) -> FlowKey {
    let direction = Direction::from_index(how & 1);
    // Two loads: one that spans what was written in two pieces waits until both are in
    // the processor's cache, some four nanoseconds of about twenty.
    // SAFETY: a reference is readable.
    let (src_port, dst_port) = unsafe {
        (
            addr_of!(packet.src_port).read_volatile(),
            addr_of!(packet.dst_port).read_volatile(),
        )
    };
    let packet = &Packet {
        src_port,
        dst_port,
        ..*packet
    };
    FlowKey::new(packet, direction, how >> 1 & 1 != 0, slot, generation)
}

/// Whether a packet's own end is the address of the endpoint in a slot: of others
/// nothing is in the cache.
#[inline(always)]
pub(crate) fn may_hold(packet: &Packet, how: u32, slot: u32) -> bool {
    // A slot that nobody uses has addresses that are nobody's.
    let Some(endpoint) = maps::ENDPOINTS.get_ptr(slot) else {
        return false;
    };
    let endpoint: *const Endpoint = endpoint;
    // SAFETY: array elements stay, and addresses while the slot is in use; loaded in one
    // aligned word.
    let addr4 = || unsafe { addr_of!((*endpoint).addr4).cast::<u32>().read_volatile() };
    let addr6 = || {
        // SAFETY: likewise, in two.
        unsafe {
            let address = addr_of!((*endpoint).addr6).cast::<u64>();
            [address.read_volatile(), address.add(1).read_volatile()]
        }
    };
    is_of_endpoint(Direction::from_index(how & 1), packet, addr4, addr6)
}

/// The state with which a flow that the cache [`may_hold`] passed a moment ago, if it did.
#[inline(always)]
pub(crate) fn recalled(packet: &Packet, how: u32, slot: u32, generation: u32) -> Option<u32> {
    let key = flow_key(packet, how, slot, generation);
    let index = key.set_index();
    let set = maps::FLOWS.get_ptr_mut(index & (FLOW_SETS as u32 - 1))?;
    // SAFETY: this CPU's element. A program on the other hook that interrupts this
    // one may change the set; the whole key is compared, so the worst is a miss, or a
    // hit on a flow that did pass.
    unsafe { (*set).hit(&key, clock::ticks()) }
}

/// Puts a flow that passed into the cache, unless all its packets must be looked at:
/// fragments, and those whose sender is asked.
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
    // SAFETY: the caller passes its own `Memory`.
    let memory = unsafe { &*memory.cast::<Memory>() };
    let packet = &memory.frame.packet;
    if memory.source & SENDER_ASKED != 0 || !packet.is_whole() {
        return 0;
    }
    if !may_hold(packet, how, slot) {
        return 0;
    }
    let key = flow_key(packet, how, slot, generation);
    if let Some(set) = maps::FLOWS.get_ptr_mut(key.set_index() & (FLOW_SETS as u32 - 1)) {
        // SAFETY: as in `recalled`.
        unsafe { (*set).insert(&key, how >> 2, clock::ticks()) }
    }
    1
}

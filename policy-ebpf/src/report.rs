//! What became of a packet, told: a drop is counted, a verdict becomes an event.

use core::mem::offset_of;
use core::ptr::addr_of_mut;

use policy_common::abi::config::Config;
use policy_common::abi::event::VerdictEvent;
use policy_common::abi::{Direction, stats};
use policy_common::packet::Frame;
use policy_common::verdict::{Judgement, Verdict};

use crate::emit;
use crate::memory::FrameMemory;
use crate::settings::setting;

/// Tells what became of a packet of an endpoint, which is 0 where there is none.
#[inline(always)]
pub(crate) fn report(
    memory: *const FrameMemory,
    verdict: &Verdict,
    endpoint: u32,
    ifindex: u32,
    direction: Direction,
) {
    let judgement = Judgement {
        denied: verdict.denied,
        rule: verdict.rule,
        log: verdict.log,
    };
    pa_report(
        memory,
        judgement.to_word(),
        u64::from(verdict.identity) | u64::from(endpoint) << 32,
        ifindex,
        direction.index(),
    );
}

/// Counts a drop and sends the event of a verdict.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_report(
    memory: *const FrameMemory,
    judgement: u64,
    identity_and_endpoint: u64,
    ifindex: u32,
    direction: u32,
) -> u32 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the callers pass a `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    let judgement = Judgement::from_word(judgement);
    let direction = Direction::from_index(direction);
    let reason = judgement.denied.map_or(0, |reason| reason as u8);
    if reason != 0 {
        emit::count(stats::index(direction, u32::from(reason)));
    }
    emit::event(
        direction,
        setting(offset_of!(Config, events_per_tick)),
        |now_ns, event: *mut VerdictEvent| {
            // SAFETY: the ring's entry has room for one event, is aligned to eight
            // bytes, and is ours until it is submitted. Written field by field: a
            // whole event does not fit the stack beside the rest.
            unsafe {
                addr_of_mut!((*event).time_ns).write(now_ns);
                let src = addr_of_mut!((*event).src).cast::<u64>();
                src.write(frame.packet.src[0]);
                src.add(1).write(frame.packet.src[1]);
                let dst = addr_of_mut!((*event).dst).cast::<u64>();
                dst.write(frame.packet.dst[0]);
                dst.add(1).write(frame.packet.dst[1]);
                addr_of_mut!((*event).endpoint).write((identity_and_endpoint >> 32) as u32);
                addr_of_mut!((*event).ifindex).write(ifindex);
                addr_of_mut!((*event).identity).write((identity_and_endpoint & 0xffff_ffff) as u32);
                addr_of_mut!((*event).rule).write(judgement.rule);
                addr_of_mut!((*event).src_port).write(frame.packet.src_port);
                addr_of_mut!((*event).dst_port).write(frame.packet.dst_port);
                addr_of_mut!((*event).reason).write(reason);
                addr_of_mut!((*event).direction).write(direction.index() as u8);
                addr_of_mut!((*event).protocol).write(frame.packet.protocol);
                addr_of_mut!((*event).family).write(frame.packet.family);
                addr_of_mut!((*event).detail).write(frame.packet.detail);
                addr_of_mut!((*event).pad).write([0; 7]);
            }
        },
    );
    1
}

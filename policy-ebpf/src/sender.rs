//! The sender's egress policy, asked where its packet leaves: in `to_pod` of the
//! pod that receives it, or in `to_wire`.

use core::ptr::addr_of;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use policy_common::abi::endpoint::{Endpoint, PolicyWord};
use policy_common::abi::event::DropReason;
use policy_common::abi::{Direction, mark};
use policy_common::fragment::Place;
use policy_common::packet::{Class, Frame, Packet, words4, words6};
use policy_common::verdict::{Sender, Verdict, judge_sender};

use crate::memory::FrameMemory;
use crate::records::Connections;
use crate::report::report;
use crate::settings::head;
use crate::skb::Skb;
use crate::tables::Tables;
use crate::{follow, slots};

/// The sender's policy denies the packet; it was reported.
pub(crate) const DENIED: u32 = 0;
/// The sender's policy was asked, and the packet passes.
pub(crate) const ALLOWED: u32 = 1;
/// No pod of this node sent it whose egress is isolated.
pub(crate) const NOT_ASKED: u32 = 2;

/// Where the policy of a sender is asked, for what follows another's verdict.
const LEAVING: u32 = follow::at(Place::Leaving, mark::NONE);

/// Asks the policy of the pod that sent a packet, if there is one. `from` is how
/// offsets in the frame count.
#[inline(always)]
pub(crate) fn ask(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    receiver: u32,
    from: u32,
) -> u32 {
    // SAFETY: the callers pass their own `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    if frame.class == Class::Ip && follow::may_follow(frame.packet.kind) {
        // Not in `pa_sender`: one stack would not hold both.
        let slot = pa_sender_slot(skb, memory);
        if follow::pa_follow(skb, memory, slot, LEAVING, from) & follow::FOLLOWS != 0 {
            return ALLOWED;
        }
    }
    pa_sender(skb, memory, receiver)
}

/// Slot of the pod of this node that sent a packet; 0: none. A global function, as
/// `pa_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_sender_slot(skb: *mut __sk_buff, memory: *const FrameMemory) -> u32 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the caller passes its own `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    slot_of(frame, &Skb::new(&TcContext::new(skb))).0
}

/// Slot of the pod that sent a packet, and whether the packet's mark says so.
#[inline(always)]
fn slot_of(frame: &Frame, skb: &Skb) -> (u32, bool) {
    let shift = head().1;
    let mark = skb.mark();
    if mark::state(mark, shift) == mark::UNDECIDED {
        return (mark::slot(mark, shift), true);
    }
    if frame.class != Class::Ip || came_by_unisolated(skb.ingress_ifindex()) {
        return (0, false);
    }
    (
        Tables.local_slot(frame.packet.family, frame.packet.src),
        false,
    )
}

/// Judges the sender of a packet whose mark is not decided. `receiver` is the
/// slot of the pod that is to get it; 0: none. A global function, as `pa_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_sender(skb: *mut __sk_buff, memory: *const FrameMemory, receiver: u32) -> u32 {
    if memory.is_null() {
        return DENIED;
    }
    // SAFETY: the callers pass their own `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    let skb = Skb::new(&TcContext::new(skb));
    let (slot, marked) = slot_of(frame, &skb);
    let Some(endpoint) = slots::endpoint(slot) else {
        if marked {
            let verdict = Verdict::drop(DropReason::UnknownSender);
            return deny(memory, &verdict, 0, skb.ifindex());
        }
        return NOT_ASKED;
    };
    if receiver != 0 && slot == receiver && marked {
        // Back to the pod that sent it, through a Service.
        return ALLOWED;
    }
    // SAFETY: array elements stay; each field is one aligned load.
    let (word, number, ifindex) = unsafe {
        (
            PolicyWord(addr_of!((*endpoint).word).read_volatile()),
            addr_of!((*endpoint).number).read_volatile(),
            addr_of!((*endpoint).ifindex).read_volatile(),
        )
    };
    if word.policy(Direction::Egress) == PolicyWord::NOT_ISOLATED {
        return if marked { ALLOWED } else { NOT_ASKED };
    }
    let reason = match frame.class {
        Class::Ip => {
            if is_for(endpoint, &frame.packet) {
                return ALLOWED;
            }
            let records = Connections::<false> {
                direction: Direction::Egress,
            };
            let sender = Sender {
                slot,
                endpoint: number,
                word,
                marked,
            };
            let verdict = judge_sender(&Tables, &records, &sender, &frame.packet);
            if verdict.denied.is_some() {
                return deny(memory, &verdict, number, ifindex);
            }
            if verdict.log {
                deny(memory, &verdict, number, ifindex);
            }
            if frame.packet.is_first_fragment() {
                follow::pa_note_fragment(memory, slot, word.generation(), LEAVING);
            }
            return ALLOWED;
        }
        Class::Bad(reason) => reason,
        Class::Arp | Class::Other => DropReason::EtherType,
    };
    deny(memory, &Verdict::drop(reason), number, ifindex)
}

/// Whether a packet came in by the veth of a pod that nothing isolates for egress:
/// many do, and need no look at their address. (An interface that shares its
/// element with another is not looked for any further: that costs as much.)
#[inline(always)]
fn came_by_unisolated(ifindex: u32) -> bool {
    if ifindex == 0 {
        return false;
    }
    let Some(endpoint) = slots::endpoint(slots::near_slot_of(ifindex)) else {
        return false;
    };
    // SAFETY: array elements stay; one aligned 8-byte load.
    let word = PolicyWord(unsafe { addr_of!((*endpoint).word).read_volatile() });
    word.policy(Direction::Egress) == PolicyWord::NOT_ISOLATED
}

/// Whether a packet is addressed to the endpoint itself.
#[inline(always)]
fn is_for(endpoint: *const Endpoint, packet: &Packet) -> bool {
    // SAFETY: array elements stay, and addresses while the slot is in use.
    unsafe {
        if packet.is_v4() {
            packet.dst == words4(addr_of!((*endpoint).addr4).read_volatile())
        } else {
            packet.dst == words6(addr_of!((*endpoint).addr6).read_volatile())
        }
    }
}

/// Reports a verdict on what a pod sent.
#[inline(always)]
fn deny(memory: *const FrameMemory, verdict: &Verdict, endpoint: u32, ifindex: u32) -> u32 {
    report(memory, verdict, endpoint, ifindex, Direction::Egress);
    DENIED
}

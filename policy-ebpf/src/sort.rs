//! What a packet is allowed, or denied, before any policy is asked.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use policy_common::abi::config::FLAG_ENFORCE_OFF;
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::event::DropReason;
use policy_common::abi::{Direction, mark, stats};
use policy_common::packet::{Class, Frame, Kind};
use policy_common::verdict::gate::Pod;
use policy_common::verdict::{Gate, Identities, Verdict, gate};

use crate::answer::{JUDGE, NOBODY, PASS, STATE_SHIFT, direction};
use crate::emit;
use crate::memory::FrameMemory;
use crate::report::report;
use crate::settings::head;
use crate::skb::Skb;
use crate::slots::endpoint;
use crate::tables::Tables;

/// [`sort`] for what the pod sends.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_sort_from_pod(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    word: u64,
) -> u64 {
    sort::<true>(skb, memory, slot, PolicyWord(word))
}

/// [`sort`] for what the pod receives.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_sort_to_pod(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    word: u64,
) -> u64 {
    sort::<false>(skb, memory, slot, PolicyWord(word))
}

/// What a frame is allowed before any policy is asked: [`PASS`] with the state
/// for the mark, 0, or [`JUDGE`]. What is dropped was reported.
#[inline(always)]
fn sort<const EGRESS: bool>(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    word: PolicyWord,
) -> u64 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the one caller passes its own `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    let direction = direction::<EGRESS>();
    let skb = Skb::new(&TcContext::new(skb));
    let (flags, _) = head();
    let Some(endpoint) = endpoint(slot) else {
        return passes_without_endpoint(&skb, direction, memory, flags);
    };
    let off = flags & FLAG_ENFORCE_OFF != 0;
    let pod = Pod {
        word: if off { PolicyWord(0) } else { word },
        // SAFETY: array elements stay; the agent changes nothing but the word and
        // the link-local address while the slot is in use.
        endpoint: unsafe { &*endpoint },
    };
    match gate(&pod, direction, frame, &skb) {
        Gate::Judge(_) => return JUDGE,
        Gate::Drop(reason) if !off => {
            let verdict = Verdict::drop(reason);
            report(
                memory,
                &verdict,
                pod.endpoint.number,
                skb.ifindex(),
                direction,
            );
            return 0;
        }
        Gate::Pass | Gate::Drop(_) => {}
    }
    emit::count(stats::index(direction, stats::PASSED));
    let isolated = pod.word.policy(Direction::Egress) != PolicyWord::NOT_ISOLATED;
    let state = if EGRESS && isolated {
        mark::DECIDED
    } else {
        mark::NONE
    };
    PASS | u64::from(state) << STATE_SHIFT
}

/// An interface that has the programs and no endpoint: the node's own traffic
/// and what the link needs, nothing else.
#[inline(always)]
fn passes_without_endpoint(
    skb: &Skb,
    direction: Direction,
    memory: *const FrameMemory,
    flags: u32,
) -> u64 {
    // SAFETY: the caller passes a `Frame`, and checked that it is one.
    let frame = unsafe { &*memory.cast::<Frame>() };
    if flags & FLAG_ENFORCE_OFF != 0 {
        return PASS;
    }
    let packet = &frame.packet;
    let passes = match frame.class {
        Class::Arp => return PASS,
        Class::Ip => match packet.kind {
            Kind::NeighbourSolicitation
            | Kind::NeighbourAdvertisement
            | Kind::RouterSolicitation => return PASS,
            _ => match direction {
                Direction::Ingress => {
                    skb.ingress_ifindex() == 0 && Tables.peer(packet.family, packet.src).node
                }
                Direction::Egress => Tables.peer(packet.family, packet.dst).node,
            },
        },
        Class::Other | Class::Bad(_) => false,
    };
    if !passes {
        let verdict = Verdict::drop(DropReason::NoEndpoint);
        report(memory, &verdict, 0, skb.ifindex(), direction);
        return 0;
    }
    // What is translated on its way beyond the node is no longer the node's, and
    // there is nobody to ask about it.
    PASS | NOBODY | u64::from(mark::UNDECIDED) << STATE_SHIFT
}

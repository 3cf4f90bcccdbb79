//! The path of a packet out of the node: what was left undecided at a pod's veth
//! is judged here on its real destination, once.
//!
//! On most packets this is two loads and a few comparisons: those that are decided,
//! those that the node itself sends, and all while nothing isolates any pod for
//! egress. Where the pod range is closed (`closed`), that is asked before.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use policy_common::abi::config::{FLAG_EGRESS, FLAG_ENFORCE_OFF};
use policy_common::abi::{Direction, mark};
use policy_common::packet::{Frame, parse_network_into};

use crate::memory::{FrameMemory, Memory};
use crate::settings::head;
use crate::skb::{self, Copied, FROM_NETWORK, Skb};
use crate::{closed, sender};

/// Whether the packet passes.
#[inline(always)]
pub(crate) fn passes(ctx: &TcContext) -> bool {
    let skb = Skb::new(ctx);
    let (flags, shift) = head();
    if closed::is_in_use(flags)
        && skb.ingress_ifindex() != 0
        && closed::drops(ctx, Direction::Ingress)
    {
        // Onto a bridge, to where the node has translated it.
        return false;
    }
    let state = mark::state(skb.mark(), shift);
    if state == mark::DECIDED || flags & FLAG_ENFORCE_OFF != 0 {
        return true;
    }
    if state == mark::NONE && (flags & FLAG_EGRESS == 0 || skb.ingress_ifindex() == 0) {
        // What came in by no interface is the node's own, or was seen before it
        // was put into a tunnel.
        return true;
    }
    let mut memory = Memory::EMPTY;
    let memory: *mut FrameMemory = skb::opaque(addr_of_mut!(memory)).cast();
    pa_parse_network(ctx.skb.skb, memory);
    let answer = sender::ask(ctx.skb.skb, memory, 0, FROM_NETWORK);
    if answer == sender::DENIED {
        return false;
    }
    if state == mark::UNDECIDED {
        // So that those who see the packet again, in a tunnel or behind a bridge,
        // do not ask again.
        let before = skb.mark();
        let slot = mark::slot(before, shift);
        skb.set_mark(mark::with(before, shift, mark::DECIDED, slot));
    }
    true
}

/// Parses from the network header on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_parse_network(skb: *mut __sk_buff, memory: *mut FrameMemory) -> u32 {
    if memory.is_null() {
        return 0;
    }
    let mut frame = Frame::EMPTY;
    let ether_type = Skb::new(&TcContext::new(skb)).ether_type();
    parse_network_into(&Copied::new(skb, FROM_NETWORK), ether_type, &mut frame);
    // SAFETY: the caller passes its own `Frame`.
    unsafe { memory.cast::<Frame>().write(frame) }
    1
}

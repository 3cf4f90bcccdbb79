//! Addresses of the node's pod range to which nobody may send yet: asked where pods
//! send, where packets arrive at the node, and where they go on to a bridge.
//!
//! Where nothing is closed this costs what a pod sends one call and one load, since
//! the stack of `from_pod` has no room for the question itself. The destination is read from the network
//! header alone; the packet is parsed once it is to be dropped.

use core::mem::offset_of;
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use policy_common::abi::config::{Config, FLAG_CLOSED4, FLAG_CLOSED6, FLAG_ENFORCE_OFF};
use policy_common::abi::event::DropReason;
use policy_common::abi::{Direction, family};
use policy_common::packet::{Frame, PacketBytes, Words, bytes4, bytes16, link, words4, words6};
use policy_common::verdict::Verdict;
use policy_common::verdict::closed::{closes, is_exempt, lies_in4, lies_in6};

use crate::maps;
use crate::memory::{FrameMemory, Memory};
use crate::report::report;
use crate::settings::{setting, setting64};
use crate::skb::{self, Copied, FROM_NETWORK, Skb};
use crate::slots::{endpoint, slot_of};
use crate::wire::pa_parse_network;

/// In place of a family: behind more tags than anybody uses, which a receiver may all
/// take off.
const HIDDEN: u8 = 0;

/// Whether anything is closed, by `Config::flags`.
#[inline(always)]
pub(crate) const fn is_in_use(flags: u32) -> bool {
    flags & (FLAG_CLOSED4 | FLAG_CLOSED6) != 0 && flags & FLAG_ENFORCE_OFF == 0
}

/// Whether a packet goes where nobody but the node may send to: then it is dropped.
/// `direction`: egress of the pod that sends it, ingress where it arrives at the node.
#[inline(always)]
pub(crate) fn drops(ctx: &TcContext, direction: Direction) -> bool {
    pa_drops(ctx.skb.skb, direction.index()) != 0
}

/// [`drops`]. A global function: what it needs, the key of a lookup too, is on no stack
/// but its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_drops(skb: *mut __sk_buff, direction: u32) -> u32 {
    let flags = setting(offset_of!(Config, flags));
    if !is_in_use(flags) {
        return 0;
    }
    let ctx = TcContext::new(skb);
    let Some((of, address)) = destination(&ctx) else {
        // Not IP, or shorter than its header: nothing that anybody takes for it.
        return 0;
    };
    if of != HIDDEN && (!closes(flags, of) || is_open(of, address)) {
        return 0;
    }
    let mut memory = Memory::EMPTY;
    let memory: *mut FrameMemory = skb::opaque(addr_of_mut!(memory)).cast();
    pa_parse_network(skb, memory);
    // SAFETY: `opaque` gave back the address of the memory above.
    if is_exempt(unsafe { (*memory.cast::<Frame>()).packet.kind }) {
        return 0;
    }
    let ifindex = Skb::new(&ctx).ifindex();
    // SAFETY: array elements stay; one aligned load.
    let number = endpoint(slot_of(ifindex)).map_or(0, |endpoint| unsafe {
        addr_of!((*endpoint).number).read_volatile()
    });
    let verdict = Verdict::drop(DropReason::NoEndpoint);
    let direction = Direction::from_index(direction);
    report(memory, &verdict, number, ifindex, direction);
    1
}

/// Whether an address is not of the pod range, or a protected pod's or the node's.
#[inline(always)]
fn is_open(of: u8, address: Words) -> bool {
    const RANGE4: usize = offset_of!(Config, range4);
    const RANGE6: usize = offset_of!(Config, range6);
    let lies_in = if of == family::V4 {
        let range = [setting(RANGE4), setting(RANGE4 + 4)];
        lies_in4(u32::from_ne_bytes(bytes4(address)), range)
    } else {
        let network = [setting64(RANGE6), setting64(RANGE6 + 8)];
        let mask = [setting64(RANGE6 + 16), setting64(RANGE6 + 24)];
        lies_in6(address, [network, mask])
    };
    // SAFETY: only whether there is an element matters.
    !lies_in || unsafe { maps::PROTECTED.get(&bytes16(address)) }.is_some()
}

/// Family and destination of a packet, as its network header has them. The kernel has
/// taken one tag off before; a receiver takes off those that are behind it too.
#[inline(always)]
fn destination(ctx: &TcContext) -> Option<(u8, Words)> {
    let bytes = Copied::new(ctx.skb.skb, FROM_NETWORK);
    let mut ether_type = Skb::new(ctx).ether_type();
    let mut offset = 0;
    let mut tags = 0;
    while link::is_tag(ether_type) && tags < link::MAX_TAGS {
        ether_type = u16::from_be_bytes(bytes.load::<2>(offset + 2)?);
        offset += link::TAG;
        tags += 1;
    }
    match ether_type {
        tag if link::is_tag(tag) => Some((HIDDEN, [0; 2])),
        link::IPV4 => Some((family::V4, words4(bytes.load::<4>(offset + 16)?))),
        link::IPV6 => Some((family::V6, words6(bytes.load::<16>(offset + 24)?))),
        _ => None,
    }
}

//! The kernel programs: `from_pod` and `to_pod` on the host side of each pod's
//! veth, `to_wire` and `from_wire` on the node's other interfaces, and `prefilter`,
//! the XDP program on those that the operator names.
//!
//! One program per direction serves all pods. What they decide, and why, is in
//! `policy-common`; here is only what needs a kernel:
//!
//! - `maps`: the maps.
//! - `skb`: a packet's bytes and metadata.
//! - `slots`: from an interface to its endpoint.
//! - `tables`: policy, identities and connection records in the maps.
//! - `clock`: time; `settings`: what the agent sets while programs run.
//! - `emit`: counters and events. (`debug_log` has each verdict as text.)
//! - `pod`: the path of a packet from or to a pod.
//! - `cache`: flows that passed; `memo`: answers of tables.
//! - `follow`: packets that follow another's verdict: fragments, ICMP errors.
//! - `sender`: the sender's policy, asked where a packet leaves; `wire`: the
//!   program on the node's other interfaces.
//! - `closed`: addresses to which nobody may send yet; the program for what arrives
//!   at the node.
//! - `prefilter`: the XDP program.
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "atomic addition without a result is the only form that BPF has, and only the intrinsic is it"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "indexes, offsets and sizes are bounded by constants far below 32 bits, flags and packed words are masked"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key given by value is copied once more to a stack of 512 bytes"
)]
#![no_std]
#![no_main]

mod answer;
#[cfg(feature = "bench")]
mod bench;
mod cache;
mod clock;
mod closed;
#[cfg(feature = "debug-log")]
mod debug_log;
mod emit;
mod follow;
mod maps;
mod memo;
mod memory;
mod pod;
mod prefilter;
mod records;
mod report;
mod sender;
mod settings;
mod skb;
mod slots;
mod sort;
mod tables;
mod wire;

use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use policy_common::abi::Direction;

/// TCX_NEXT and TC_ACT_UNSPEC: the next program on the hook, if any, decides.
/// Never TCX_PASS, which would end the chain and disable other people's programs.
const NEXT: i32 = -1;

/// What the pod sends: TCX ingress (or clsact ingress) of its veth's host side.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    action(pod::passes::<true>(&ctx))
}

/// What the pod receives: TCX egress (or clsact egress) of its veth's host side.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    action(pod::passes::<false>(&ctx))
}

/// What leaves the node, or goes on to a bridge: TCX egress (or clsact egress) of
/// every interface that is no pod's.
#[classifier]
pub(crate) fn to_wire(ctx: TcContext) -> i32 {
    action(wire::passes(&ctx))
}

/// What arrives at the node: TCX ingress (or clsact ingress) of every interface that
/// is no pod's, where the node's pod range is closed.
#[classifier]
pub(crate) fn from_wire(ctx: TcContext) -> i32 {
    action(!closed::drops(&ctx, Direction::Ingress))
}

/// Drops the sources that the operator named, before the stack sees them.
#[xdp(frags)]
pub(crate) fn prefilter(ctx: XdpContext) -> u32 {
    if prefilter::denies(&ctx) {
        xdp_action::XDP_DROP
    } else {
        xdp_action::XDP_PASS
    }
}

#[inline(always)]
fn action(passes: bool) -> i32 {
    if passes { NEXT } else { TC_ACT_SHOT }
}

/// The licence that the kernel asks for: helpers used here are GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing in these programs panics; if a path that could were ever
    // compiled in, the verifier would reject the program, which is what we want.
    unsafe { core::hint::unreachable_unchecked() }
}

//! The path of a packet from or to a pod: endpoint, parser, flow cache, gate,
//! decision, and what is reported.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use policy_common::abi::config::{Config, FLAG_ENFORCE_OFF};
use policy_common::abi::endpoint::{Endpoint, FLAG_USED, PolicyWord};
use policy_common::abi::event::{DropReason, VerdictEvent};
use policy_common::abi::maps::{FLOW_SETS, IFINDEX_ENTRIES};
use policy_common::abi::{Direction, stats};
use policy_common::flow_cache::FlowKey;
use policy_common::packet::{Class, Frame, Kind, Packet, parse, parse_into};
use policy_common::verdict::gate::Pod;
use policy_common::verdict::{Gate, Identities, Judgement, Scene, Verdict, decide, gate};

use crate::skb::{self, Skb};
use crate::tables::{Connections, Tables};
use crate::{clock, emit, maps};

/// Settings, read once per packet.
struct Settings {
    flags: u32,
    ct_budget: u32,
    events_per_tick: u32,
}

/// Whether the packet passes.
///
/// Parser and flow cache are here; everything else is in [`slow`], a function of
/// its own, because both together would not fit a BPF stack.
#[inline(always)]
pub(crate) fn passes<const EGRESS: bool>(ctx: &TcContext) -> bool {
    let direction = direction::<EGRESS>();
    let mut skb = Skb::new(ctx);
    let mut memory = Frame::EMPTY;
    let memory: *mut Frame = skb::opaque(&raw mut memory);
    // SAFETY: `opaque` gave back the address of the frame above.
    let frame = unsafe { &mut *memory };
    parse_into(&skb, frame);
    if frame.class == Class::Bad(DropReason::Truncated) && skb.pull(ctx) {
        // Headers beyond the linear part: rare.
        pa_parse_again(ctx.skb.skb, memory.cast());
    }
    let ifindex = skb.ifindex();
    let ingress_ifindex = skb.ingress_ifindex();
    let slot = slot_of(ifindex);

    let local_origin = !EGRESS && ingress_ifindex == 0;
    let cacheable = frame.class == Class::Ip && frame.packet.kind.is_cacheable();
    if cacheable && let Some(word) = word_of(slot) {
        let key = flow_key(
            &frame.packet,
            direction,
            local_origin,
            slot,
            word.generation(),
        );
        if recalled(&key) && !is_off() {
            return true;
        }
    }
    let memory: *const FrameMemory = memory.cast_const().cast();
    let answer = if EGRESS {
        pa_from_pod(ctx.skb.skb, memory, slot)
    } else {
        pa_to_pod(ctx.skb.skb, memory, slot)
    };
    if answer & REMEMBER != 0 && cacheable {
        // The generation under which it was judged, not the one of now.
        let generation = (answer >> 32) as u32;
        pa_remember(
            memory,
            slot,
            generation,
            direction.index() | u32::from(local_origin) << 1,
        );
    }
    answer & PASS != 0
}

/// Bits of what [`slow`] answers; from bit 32 on the generation that was asked.
const PASS: u64 = 1;
const REMEMBER: u64 = 2;

#[inline(always)]
const fn direction<const EGRESS: bool>() -> Direction {
    if EGRESS {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

/// A [`Frame`] as the verifier sees it where it crosses a function's border. (It
/// rejects the BTF that an enum with data becomes in a signature.)
#[repr(C)]
pub(crate) struct FrameMemory {
    words: [u64; 7],
}

const _: () = assert!(size_of::<FrameMemory>() == size_of::<Frame>());

/// Parses once more, after more of the packet was made readable. A global
/// function, as all that follow: verified once, each by itself, instead of once
/// for every way in which a packet comes there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_parse_again(skb: *mut __sk_buff, memory: *mut FrameMemory) -> u32 {
    if memory.is_null() {
        return 0;
    }
    let parsed = parse(&Skb::new(&TcContext::new(skb)));
    // SAFETY: the caller passes its own `Frame`.
    unsafe { memory.cast::<Frame>().write(parsed) }
    1
}

/// [`slow`] for what the pod sends.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_from_pod(skb: *mut __sk_buff, memory: *const FrameMemory, slot: u32) -> u64 {
    slow::<true>(skb, memory, slot)
}

/// [`slow`] for what the pod receives.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_to_pod(skb: *mut __sk_buff, memory: *const FrameMemory, slot: u32) -> u64 {
    slow::<false>(skb, memory, slot)
}

/// Endpoint, gate, decision, report: [`PASS`] or not, and whether to
/// [`REMEMBER`].
#[inline(always)]
fn slow<const EGRESS: bool>(skb: *mut __sk_buff, memory: *const FrameMemory, slot: u32) -> u64 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the one caller passes its own `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    let direction = direction::<EGRESS>();
    let skb = Skb::new(&TcContext::new(skb));
    let ifindex = skb.ifindex();
    let settings = settings();
    let Some(endpoint) = endpoint(slot) else {
        return u64::from(passes_without_endpoint(&skb, direction, memory, &settings));
    };
    // SAFETY: array elements stay; the word is one aligned 8-byte load, the other
    // fields are written before the slot is published.
    let (word, number) = unsafe {
        (
            PolicyWord(addr_of!((*endpoint).word).read_volatile()),
            (*endpoint).number,
        )
    };
    let off = settings.flags & FLAG_ENFORCE_OFF != 0;
    let pod = Pod {
        word: if off { PolicyWord(0) } else { word },
        // SAFETY: array elements stay; the agent changes nothing but the word and
        // the link-local address while the slot is in use.
        endpoint: unsafe { &*endpoint },
    };
    let verdict = match gate(&pod, direction, frame, &skb) {
        Gate::Pass => Verdict::PASS,
        Gate::Drop(_) if off => Verdict::PASS,
        Gate::Drop(reason) => Verdict::drop(reason),
        Gate::Judge(packet) => {
            let ingress_ifindex = skb.ingress_ifindex();
            let scene = Scene {
                slot,
                endpoint: number,
                word,
                direction,
                local_origin: !EGRESS && ingress_ifindex == 0,
                hairpin: !EGRESS && ingress_ifindex == ifindex,
                off,
                now_ns: clock::coarse_ns(),
            };
            let tables = Tables {
                config_flags: settings.flags,
            };
            let records = Connections {
                budget: settings.ct_budget,
                direction,
            };
            decide(&tables, &records, &scene, packet)
        }
    };
    #[cfg(feature = "debug-log")]
    crate::debug_log::pa_log(
        slot,
        verdict.rule,
        direction.index() | verdict.denied.map_or(0, |reason| reason as u32) << 1,
    );
    if verdict.denied.is_some() || verdict.log {
        report(memory, &verdict, number, ifindex, direction, &settings);
    }
    if verdict.denied.is_some() {
        return 0;
    }
    emit::count(stats::index(direction, stats::PASSED));
    if verdict.cacheable {
        PASS | REMEMBER | u64::from(word.generation()) << 32
    } else {
        PASS
    }
}

/// An interface that has the programs and no endpoint: the node's own traffic
/// and what the link needs, nothing else.
#[inline(always)]
fn passes_without_endpoint(
    skb: &Skb,
    direction: Direction,
    memory: *const FrameMemory,
    settings: &Settings,
) -> bool {
    // SAFETY: the caller passes a `Frame`, and checked that it is one.
    let frame = unsafe { &*memory.cast::<Frame>() };
    if settings.flags & FLAG_ENFORCE_OFF != 0 {
        return true;
    }
    let tables = Tables {
        config_flags: settings.flags,
    };
    let packet = &frame.packet;
    let passes = match frame.class {
        Class::Arp => true,
        Class::Ip => match packet.kind {
            Kind::NeighbourSolicitation
            | Kind::NeighbourAdvertisement
            | Kind::RouterSolicitation => true,
            _ => match direction {
                Direction::Ingress => {
                    skb.ingress_ifindex() == 0 && tables.peer(packet.family, packet.src).node
                }
                Direction::Egress => tables.peer(packet.family, packet.dst).node,
            },
        },
        Class::Other | Class::Bad(_) => false,
    };
    if !passes {
        let verdict = Verdict::drop(DropReason::NoEndpoint);
        report(memory, &verdict, 0, skb.ifindex(), direction, settings);
    }
    passes
}

#[inline(always)]
fn settings() -> Settings {
    let Some(config) = maps::CONFIG.get_ptr(0) else {
        // Element 0 of an array of one is always there.
        return Settings {
            flags: 0,
            ct_budget: 0,
            events_per_tick: 0,
        };
    };
    let config: *const Config = config;
    // SAFETY: array elements stay; each field is one aligned load.
    unsafe {
        Settings {
            flags: addr_of!((*config).flags).read_volatile(),
            ct_budget: addr_of!((*config).ct_budget).read_volatile(),
            events_per_tick: addr_of!((*config).events_per_tick).read_volatile(),
        }
    }
}

#[inline(always)]
fn slot_of(ifindex: u32) -> u32 {
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

/// The word of a slot that holds an endpoint.
#[inline(always)]
fn word_of(slot: u32) -> Option<PolicyWord> {
    let endpoint = endpoint(slot)?;
    // SAFETY: array elements stay; one aligned 8-byte load.
    Some(PolicyWord(unsafe {
        addr_of!((*endpoint).word).read_volatile()
    }))
}

#[inline(always)]
fn is_off() -> bool {
    settings().flags & FLAG_ENFORCE_OFF != 0
}

#[inline(always)]
fn endpoint(slot: u32) -> Option<*const Endpoint> {
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

#[inline(always)]
fn flow_key(
    packet: &Packet,
    direction: Direction,
    local_origin: bool,
    slot: u32,
    generation: u32,
) -> FlowKey {
    FlowKey {
        src: packet.src,
        dst: packet.dst,
        tuple: u64::from(packet.src_port)
            | u64::from(packet.dst_port) << 16
            | u64::from(packet.protocol) << 32
            | u64::from(direction.index()) << 40
            | u64::from(packet.family) << 48
            | u64::from(local_origin) << 56,
        owner: u64::from(slot) | u64::from(generation) << 32,
    }
}

#[inline(always)]
fn recalled(key: &FlowKey) -> bool {
    let Some(set) = maps::FLOWS.get_ptr_mut(key.set_index() & (FLOW_SETS as u32 - 1)) else {
        return false;
    };
    // SAFETY: this CPU's element. A program on the other hook that interrupts
    // this one may change the set; the whole key is compared, so the worst is a
    // miss, or a hit on a flow that did pass.
    unsafe { (*set).hit(key, clock::ticks()).is_some() }
}

/// Puts a flow that passed into the cache.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_remember(memory: *const FrameMemory, slot: u32, generation: u32, how: u32) -> u32 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the caller passes its own `Frame`.
    let packet = unsafe { &(*memory.cast::<Frame>()).packet };
    let key = flow_key(
        packet,
        Direction::from_index(how & 1),
        how & 2 != 0,
        slot,
        generation,
    );
    if let Some(set) = maps::FLOWS.get_ptr_mut(key.set_index() & (FLOW_SETS as u32 - 1)) {
        // SAFETY: as in `recalled`.
        unsafe { (*set).insert(&key, 0, clock::ticks()) }
    }
    1
}

#[inline(always)]
fn report(
    memory: *const FrameMemory,
    verdict: &Verdict,
    endpoint: u32,
    ifindex: u32,
    direction: Direction,
    settings: &Settings,
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
        settings.events_per_tick << 1 | direction.index(),
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
    rate_and_direction: u32,
) -> u32 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the callers pass a `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    let judgement = Judgement::from_word(judgement);
    let direction = Direction::from_index(rate_and_direction & 1);
    let reason = judgement.denied.map_or(0, |reason| reason as u8);
    if reason != 0 {
        emit::count(stats::index(direction, u32::from(reason)));
    }
    emit::event(
        direction,
        rate_and_direction >> 1,
        |now_ns, event: *mut VerdictEvent| {
            // SAFETY: the ring's entry has room for one event, is aligned to eight
            // bytes, and is ours until it is submitted. Written field by field: a
            // whole event does not fit the stack beside the rest.
            unsafe {
                addr_of_mut!((*event).time_ns).write(now_ns);
                addr_of_mut!((*event).src)
                    .cast::<[u64; 2]>()
                    .write(frame.packet.src);
                addr_of_mut!((*event).dst)
                    .cast::<[u64; 2]>()
                    .write(frame.packet.dst);
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

//! The path of a packet from or to a pod: endpoint, parser, flow cache, gate,
//! decision, and what is reported.

use core::ptr::addr_of;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use policy_common::abi::config::{Config, FLAG_ENFORCE_OFF};
use policy_common::abi::endpoint::{Endpoint, FLAG_USED, PolicyWord};
use policy_common::abi::event::{DropReason, VerdictEvent};
use policy_common::abi::maps::{FLOW_SETS, IFINDEX_ENTRIES};
use policy_common::abi::{Direction, stats};
use policy_common::flow_cache::FlowKey;
use policy_common::packet::{Frame, Kind, Packet, bytes16, parse, words6};
use policy_common::verdict::gate::Pod;
use policy_common::verdict::{Gate, Identities, Scene, Verdict, decide, gate};

use crate::skb::Skb;
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
    let mut frame = parse(&skb);
    if frame == Err(DropReason::Truncated) && skb.pull(ctx) {
        parse_again(ctx.skb.skb, (&raw mut frame).cast());
    }
    let ifindex = skb.ifindex();
    let ingress_ifindex = skb.ingress_ifindex();
    let slot = slot_of(ifindex);

    let mut cache_key = None;
    if let Ok(Frame::Ip(packet)) = &frame {
        if packet.kind.is_cacheable() {
            if let Some(word) = word_of(slot) {
                let local_origin = !EGRESS && ingress_ifindex == 0;
                let key = flow_key(packet, direction, local_origin, slot, word);
                if recalled(&key) && !is_off() {
                    return true;
                }
                cache_key = Some(key);
            }
        }
    }
    let answer = slow::<EGRESS>(ctx.skb.skb, (&raw const frame).cast(), slot);
    if answer & REMEMBER != 0 {
        if let Some(key) = &cache_key {
            remember(key);
        }
    }
    answer & PASS != 0
}

/// Bits of what [`slow`] answers.
const PASS: u32 = 1;
const REMEMBER: u32 = 2;

#[inline(always)]
const fn direction<const EGRESS: bool>() -> Direction {
    if EGRESS {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

/// Parses a packet whose headers were beyond the linear part: rare.
#[inline(never)]
fn parse_again(skb: *mut __sk_buff, frame: *mut u8) {
    let parsed = parse(&Skb::new(&TcContext::new(skb)));
    // SAFETY: the one caller passes its own `Parsed`.
    unsafe { frame.cast::<Parsed>().write(parsed) }
}

/// What the parser says. Functions that are not inlined get it by a pointer to
/// bytes: the kernel rejects the BTF that an enum with data becomes in a
/// function's signature.
type Parsed = Result<Frame, DropReason>;

/// Endpoint, gate, decision, report: [`PASS`] or not, and whether to
/// [`REMEMBER`].
#[inline(never)]
fn slow<const EGRESS: bool>(skb: *mut __sk_buff, frame: *const u8, slot: u32) -> u32 {
    // SAFETY: the one caller passes its own `Parsed`.
    let frame = unsafe { &*frame.cast::<Parsed>() };
    let direction = direction::<EGRESS>();
    let skb = Skb::new(&TcContext::new(skb));
    let ifindex = skb.ifindex();
    let settings = settings();
    let Some(endpoint) = endpoint(slot) else {
        return u32::from(passes_without_endpoint(&skb, direction, frame, &settings));
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
    // SAFETY: as above.
    let pod = unsafe {
        Pod {
            flags: (*endpoint).flags,
            word: if off { PolicyWord(0) } else { word },
            addr4: (*endpoint).addr4,
            addr6: words6((*endpoint).addr6),
            link_local6: words6((*endpoint).link_local6),
        }
    };
    let verdict = match gate(&pod, direction, frame, &skb) {
        Gate::Pass => Verdict::PASS,
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
    if verdict.denied.is_some() || verdict.log {
        report(frame, &verdict, number, ifindex, direction, &settings);
    }
    if verdict.denied.is_some() {
        return 0;
    }
    emit::count(stats::index(direction, stats::PASSED));
    if verdict.cacheable {
        PASS | REMEMBER
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
    frame: &Parsed,
    settings: &Settings,
) -> bool {
    if settings.flags & FLAG_ENFORCE_OFF != 0 {
        return true;
    }
    let tables = Tables {
        config_flags: settings.flags,
    };
    let passes = match frame {
        Ok(Frame::Arp { .. }) => true,
        Ok(Frame::Ip(packet)) => match packet.kind {
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
        _ => false,
    };
    if !passes {
        let verdict = Verdict::drop(DropReason::NoEndpoint);
        report(frame, &verdict, 0, skb.ifindex(), direction, settings);
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
    if let Some(entry) = maps::IFINDEX.get(ifindex & (IFINDEX_ENTRIES as u32 - 1)) {
        if entry.ifindex == ifindex {
            return entry.slot;
        }
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
    word: PolicyWord,
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
        owner: u64::from(slot) | u64::from(word.generation()) << 32,
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
    unsafe { (*set).hit(key, clock::ticks()) }
}

#[inline(always)]
fn remember(key: &FlowKey) {
    if let Some(set) = maps::FLOWS.get_ptr_mut(key.set_index() & (FLOW_SETS as u32 - 1)) {
        // SAFETY: as in `recalled`.
        unsafe { (*set).insert(key, clock::ticks()) }
    }
}

#[inline(always)]
fn report(
    frame: &Parsed,
    verdict: &Verdict,
    endpoint: u32,
    ifindex: u32,
    direction: Direction,
    settings: &Settings,
) {
    if let Some(reason) = verdict.denied {
        emit::count(stats::index(direction, reason as u32));
    }
    emit::event(
        direction,
        settings.events_per_tick,
        |now_ns, event: *mut VerdictEvent| {
            let mut filled = EMPTY_EVENT;
            filled.time_ns = now_ns;
            filled.endpoint = endpoint;
            filled.ifindex = ifindex;
            filled.identity = verdict.identity;
            filled.rule = verdict.rule;
            filled.reason = verdict.denied.map_or(0, |reason| reason as u8);
            filled.direction = direction.index() as u8;
            if let Ok(Frame::Ip(packet)) = frame {
                filled.src = bytes16(packet.src);
                filled.dst = bytes16(packet.dst);
                filled.src_port = packet.src_port;
                filled.dst_port = packet.dst_port;
                filled.protocol = packet.protocol;
                filled.family = packet.family;
                filled.detail = packet.detail;
            }
            // SAFETY: the ring's entry has room for one event and is ours until it
            // is submitted.
            unsafe { event.write(filled) }
        },
    );
}

const EMPTY_EVENT: VerdictEvent = VerdictEvent {
    time_ns: 0,
    src: [0; 16],
    dst: [0; 16],
    endpoint: 0,
    ifindex: 0,
    identity: 0,
    rule: 0,
    src_port: 0,
    dst_port: 0,
    reason: 0,
    direction: 0,
    protocol: 0,
    family: 0,
    detail: 0,
    pad: [0; 7],
};

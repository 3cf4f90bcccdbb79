//! The path of a packet from or to a pod: parser, endpoint, flow cache, what `sort`
//! lets through or drops, what a connection's record says by itself, what follows
//! another's verdict, and the decision.

use core::mem::{MaybeUninit, offset_of};
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use policy_common::abi::config::{Config, FLAG_EGRESS, FLAG_ENFORCE_OFF, FLAG_SERVICES};
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::event::DropReason;
use policy_common::abi::{Direction, mark, stats};
use policy_common::fragment::Place;
use policy_common::packet::{Class, Frame, Kind, parse, plain};
use policy_common::verdict::gate::hands_over;
use policy_common::verdict::service::key_of;
use policy_common::verdict::{Middle, Peer, Scene, Service, ask_service, decide, established};

use crate::answer::{ASK_SERVICE, JUDGE, NOBODY, PASS, REMEMBER, STATE_SHIFT, direction};
use crate::memory::{FrameMemory, Memory, SENDER_ASKED, SOURCE_KNOWN};
use crate::records::Connections;
use crate::report::report;
use crate::settings::{head, setting};
use crate::skb::{self, FROM_FRAME, Skb};
use crate::slots::{endpoint, slot_of, word_of};
use crate::sort::{pa_sort_from_pod, pa_sort_to_pod};
use crate::tables::{Tables, local_slot_in, pa_peer};
use crate::{cache, closed, emit, follow, sender};

/// Whether the packet passes.
///
/// Plain frames and the flow cache are here; everything else is in functions of its own,
/// called one after the other, because all together would not fit a BPF stack.
#[inline(always)]
pub(crate) fn passes<const EGRESS: bool>(ctx: &TcContext) -> bool {
    // Before the cache, which knows who had an address before; and before all else,
    // while nothing has to be kept for later on the stack.
    if EGRESS && closed::drops(ctx, Direction::Egress) {
        return false;
    }
    let direction = direction::<EGRESS>();
    let mut skb = Skb::new(ctx);
    let mut memory = MaybeUninit::<Memory>::uninit();
    let memory: *mut Memory = skb::opaque(memory.as_mut_ptr());
    // SAFETY: `opaque` gave back the address of the memory above. All of it is written
    // here before anything is read.
    let frame = unsafe {
        addr_of_mut!((*memory).source).write(0);
        let frame = addr_of_mut!((*memory).frame);
        if plain::parse(&skb, |plain| frame.write(plain)).is_none() {
            // The verifiers of older kernels let no function see memory that was never
            // written.
            frame.write(Frame::EMPTY);
            pa_parse(ctx.skb.skb, memory.cast());
            if (*frame).class == Class::Bad(DropReason::Truncated) && skb.pull(ctx) {
                // Headers beyond the linear part: rare.
                pa_parse(ctx.skb.skb, memory.cast());
            }
        }
        &*frame
    };
    let ifindex = skb.ifindex();
    let slot = slot_of(ifindex);
    // What is read from context and settings is read anew where it is needed
    // once more: keeping it would take stack that the functions below need.
    let word = word_of(slot);
    let known = word.0 != 0 && frame.class == Class::Ip;
    let how_now = how(direction, is_local_origin::<EGRESS>(&skb), mark::NONE);
    let own = known && cache::may_hold(&frame.packet, how_now, slot);
    // The first fragment of a datagram is one that others follow; of what is marked
    // undecided the sender is asked about every packet.
    if own
        && frame.packet.kind.is_cacheable()
        && frame.packet.is_whole()
        && (EGRESS || mark_state(&skb) != mark::UNDECIDED)
        && let Some(state) = cache::recalled(&frame.packet, how_now, slot, word.generation())
        && setting(offset_of!(Config, flags)) & FLAG_ENFORCE_OFF == 0
    {
        if EGRESS {
            set_mark(&skb, state, slot);
        }
        return true;
    }
    // Then `sort` is not asked: it would say the same.
    let judges = known && hands_over(direction, &frame.packet, own);
    let memory: *mut FrameMemory = memory.cast();
    if !EGRESS {
        match sender_of(&skb, memory, slot) {
            sender::DENIED => return false,
            // SAFETY: the memory above.
            sender::ALLOWED => unsafe { (*memory.cast::<Memory>()).source |= SENDER_ASKED },
            _ => {}
        }
    }
    let mut answer = if judges {
        JUDGE
    } else if EGRESS {
        pa_sort_from_pod(ctx.skb.skb, memory, slot, word.0)
    } else {
        pa_sort_to_pod(ctx.skb.skb, memory, slot, word.0)
    };
    if judges && frame_kind(memory) == Kind::TcpData {
        answer = if EGRESS {
            pa_established_out(memory, slot, word.0)
        } else {
            pa_established_in(ctx.skb.skb, memory, slot, word.0)
        };
    }
    if answer & JUDGE != 0 {
        answer = follows::<EGRESS>(ctx.skb.skb, memory, slot);
        if answer & PASS == 0 {
            answer = judged::<EGRESS>(ctx.skb.skb, memory, slot, word);
            note_fragment::<EGRESS>(memory, slot, answer);
        }
    }
    let state = (answer >> STATE_SHIFT & 3) as u32;
    if answer & REMEMBER != 0 {
        // The generation under which it was judged, not the one of now.
        let generation = (answer >> 32) as u32;
        let how = how(direction, is_local_origin::<EGRESS>(&skb), state);
        cache::pa_remember(memory, slot, generation, how);
    }
    if EGRESS {
        set_mark(&skb, state, if answer & NOBODY == 0 { slot } else { 0 });
    }
    answer & PASS != 0
}

/// It did not come in by any interface.
#[inline(always)]
fn is_local_origin<const EGRESS: bool>(skb: &Skb) -> bool {
    !EGRESS && skb.ingress_ifindex() == 0
}

/// What else the cache knows of a flow, in one word: direction in bit 0, sent by
/// the node in bit 1, the state for the mark from bit 2 on.
#[inline(always)]
fn how(direction: Direction, local_origin: bool, state: u32) -> u32 {
    direction.index() | u32::from(local_origin) << 1 | state << 2
}

#[inline(always)]
fn mark_state(skb: &Skb) -> u32 {
    match skb.mark() {
        // Most: wherever our bits are, they are zero.
        0 => mark::NONE,
        mark => mark::state(mark, setting(offset_of!(Config, mark_shift))),
    }
}

/// Overwrites our bits of the mark, unless the state is [`mark::NONE`].
#[inline(always)]
fn set_mark(skb: &Skb, state: u32, slot: u32) {
    if state != mark::NONE {
        let shift = setting(offset_of!(Config, mark_shift));
        skb.set_mark(mark::with(skb.mark(), shift, state, slot));
    }
}

/// Asks the policy of the pod of this node that sent a packet to another, where
/// that has not been done at its veth.
#[inline(always)]
fn sender_of(skb: &Skb, memory: *mut FrameMemory, slot: u32) -> u32 {
    let (flags, shift) = head();
    let asks = match mark::state(skb.mark(), shift) {
        // Nobody is asked, and the cache must not learn that: it would know when
        // enforcement is on again.
        mark::UNDECIDED if flags & FLAG_ENFORCE_OFF != 0 => return sender::ALLOWED,
        mark::UNDECIDED => true,
        _ if flags & FLAG_ENFORCE_OFF != 0 => false,
        mark::NONE => flags & FLAG_EGRESS != 0 && is_local(memory),
        _ => false,
    };
    if asks {
        sender::ask(skb.raw(), memory, slot, FROM_FRAME)
    } else {
        sender::NOT_ASKED
    }
}

/// Whether a packet's source is a pod of this node. Most are from elsewhere, and
/// who the source is must be found out for its receiver anyway: it is noted.
#[inline(always)]
fn is_local(memory: *mut FrameMemory) -> bool {
    // SAFETY: the one caller passes its own `Memory`.
    let memory = unsafe { &mut *memory.cast::<Memory>() };
    if memory.frame.class != Class::Ip {
        return false;
    }
    let packet = &memory.frame.packet;
    let source = pa_peer(packet.src[0], packet.src[1], packet.family.into());
    memory.source |= source | SOURCE_KNOWN;
    local_slot_in(source) != 0
}

#[inline(always)]
fn frame_kind(memory: *const FrameMemory) -> Kind {
    // SAFETY: the callers pass their own `Frame`.
    unsafe { (*memory.cast::<Frame>()).packet.kind }
}

/// What follows another's verdict: [`PASS`] with the state for the mark, or 0.
#[inline(always)]
fn follows<const EGRESS: bool>(skb: *mut __sk_buff, memory: *const FrameMemory, slot: u32) -> u64 {
    if !follow::may_follow(frame_kind(memory)) {
        return 0;
    }
    let place = follow::at(place::<EGRESS>(), mark::NONE);
    let answer = follow::pa_follow(skb, memory, slot, place, FROM_FRAME);
    if answer & follow::FOLLOWS == 0 {
        return 0;
    }
    emit::count(stats::index(direction::<EGRESS>(), stats::PASSED));
    PASS | u64::from(follow::state(answer)) << STATE_SHIFT
}

/// Notes the first fragment of a datagram if it passed.
#[inline(always)]
fn note_fragment<const EGRESS: bool>(memory: *const FrameMemory, slot: u32, answer: u64) {
    // SAFETY: the one caller passes its own `Frame`.
    let is_first = unsafe { (*memory.cast::<Frame>()).packet.is_first_fragment() };
    if is_first && answer & PASS != 0 {
        let at = follow::at(place::<EGRESS>(), (answer >> STATE_SHIFT & 3) as u32);
        // The generation under which it was judged, not the one of now.
        follow::pa_note_fragment(memory, slot, (answer >> 32) as u32, at);
    }
}

#[inline(always)]
const fn place<const EGRESS: bool>() -> Place {
    if EGRESS {
        Place::Egress
    } else {
        Place::Ingress
    }
}

/// Asks [`judge`], and [`pa_service`] before it where that matters.
#[inline(always)]
fn judged<const EGRESS: bool>(
    skb: *mut __sk_buff,
    memory: *mut FrameMemory,
    slot: u32,
    word: PolicyWord,
) -> u64 {
    // SAFETY: the one caller passes its own `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    let direction = direction::<EGRESS>();
    // Whether the peer is a Service matters to an opener of an isolated pod, and
    // seldom to others: those ask for it.
    let mut service = Service::UNKNOWN;
    if setting(offset_of!(Config, flags)) & FLAG_SERVICES == 0 {
        service = Service::NONE;
    } else if EGRESS && !frame.packet.kind.is_midstream_tcp() {
        service = Service(pa_service(memory, word.0, direction.index()));
    }
    let mut word = word;
    let mut tries = 0;
    loop {
        let answer = if EGRESS {
            pa_from_pod(skb, memory, slot, service.0, word.0)
        } else {
            pa_to_pod(skb, memory, slot, service.0, word.0)
        };
        if answer & ASK_SERVICE == 0 || tries == TRIES {
            return answer;
        }
        tries += 1;
        word = word_of(slot);
        // SAFETY: the one caller passes its own `Memory`. An address belongs to the
        // word that was read before it was looked up.
        unsafe { (*memory.cast::<Memory>()).source &= SENDER_ASKED };
        service = Service(pa_service(memory, word.0, direction.index()));
    }
}

/// How often the word may change while one packet is judged.
const TRIES: u32 = 3;

/// Parses what is not plain. A global function, as all that follow: verified once,
/// each by itself, instead of once for every way in which a packet comes there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_parse(skb: *mut __sk_buff, memory: *mut FrameMemory) -> u32 {
    if memory.is_null() {
        return 0;
    }
    let parsed = parse(&Skb::new(&TcContext::new(skb)));
    // SAFETY: the caller passes its own `Frame`.
    unsafe { memory.cast::<Frame>().write(parsed) }
    1
}

/// [`established`] for what the pod sends. (Without the context, which it does not need:
/// the compiler would pass anything, and the verifier not.)
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_established_out(memory: *const FrameMemory, slot: u32, word: u64) -> u64 {
    in_the_middle::<true>(|_| false, memory, slot, PolicyWord(word))
}

/// [`established`] for what the pod receives.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_established_in(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    word: u64,
) -> u64 {
    let skb = Skb::new(&TcContext::new(skb));
    let exempt = |shift| is_exempt(&skb, shift, slot);
    in_the_middle::<false>(exempt, memory, slot, PolicyWord(word))
}

/// What a connection's record says of a packet by itself: [`PASS`] with the state for the
/// mark, or [`JUDGE`]. `exempt`: whether policy may have nothing to say of it; it is given
/// the mark's shift.
#[inline(always)]
fn in_the_middle<const EGRESS: bool>(
    exempt: impl FnOnce(u32) -> bool,
    memory: *const FrameMemory,
    slot: u32,
    word: PolicyWord,
) -> u64 {
    if memory.is_null() {
        return JUDGE;
    }
    // SAFETY: the one caller passes its own `Frame`.
    let packet = unsafe { &(*memory.cast::<Frame>()).packet };
    let (flags, shift) = head();
    if flags & FLAG_ENFORCE_OFF != 0 || exempt(shift) {
        return JUDGE;
    }
    let Some(endpoint) = endpoint(slot) else {
        return JUDGE;
    };
    // SAFETY: array elements stay; one aligned load. Of an endpoint that has the slot
    // since the word was read, no record has the word's generation.
    let number = unsafe { addr_of!((*endpoint).number).read_volatile() };
    let direction = direction::<EGRESS>();
    let records = Connections::<true> { direction };
    match established(&Tables, &records, word, number, direction, packet) {
        Middle::Passes => {}
        Middle::Ask => return JUDGE,
    }
    emit::count(stats::index(direction, stats::PASSED));
    let isolated = word.policy(Direction::Egress) != PolicyWord::NOT_ISOLATED;
    let state = if EGRESS && isolated {
        mark::DECIDED
    } else {
        mark::NONE
    };
    PASS | REMEMBER | u64::from(state) << STATE_SHIFT | u64::from(word.generation()) << 32
}

/// Whether policy may have nothing to say of a packet to the pod in a slot: the node sent
/// it, or that pod itself.
#[inline(always)]
fn is_exempt(skb: &Skb, shift: u32, slot: u32) -> bool {
    skb.ingress_ifindex() == 0 || is_hairpin(skb, shift, slot)
}

/// Whether a packet to the pod in a slot comes back to who sent it.
#[inline(always)]
fn is_hairpin(skb: &Skb, shift: u32, slot: u32) -> bool {
    skb.ingress_ifindex() == skb.ifindex() || skb::is_marked_by(skb.mark(), shift, slot)
}

/// [`judge`] for what the pod sends.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_from_pod(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    service: u64,
    word: u64,
) -> u64 {
    judge::<true>(skb, memory, slot, Service(service), word)
}

/// [`judge`] for what the pod receives.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_to_pod(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    service: u64,
    word: u64,
) -> u64 {
    judge::<false>(skb, memory, slot, Service(service), word)
}

/// What the egress policy in this word says of the packet's peer as a Service.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pa_service(memory: *const FrameMemory, word: u64, direction: u32) -> u64 {
    if memory.is_null() {
        return 0;
    }
    let policy = PolicyWord(word).policy(Direction::Egress);
    if policy == PolicyWord::NOT_ISOLATED {
        return Service::NONE.0;
    }
    // SAFETY: the caller passes its own `Frame`.
    let packet = unsafe { &(*memory.cast::<Frame>()).packet };
    let direction = Direction::from_index(direction);
    let own = match direction {
        Direction::Ingress => packet.dst,
        Direction::Egress => packet.src,
    };
    let key = key_of(packet, direction);
    ask_service(&Tables, policy, own, &key).0
}

/// Decision and report on what [`sort`] leaves to policy: [`PASS`] or not, the
/// state for the mark, and whether to [`REMEMBER`].
#[inline(always)]
fn judge<const EGRESS: bool>(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    service: Service,
    asked_word: u64,
) -> u64 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the one caller passes its own `Frame`.
    let frame = unsafe { &*memory.cast::<Frame>() };
    let direction = direction::<EGRESS>();
    let skb = Skb::new(&TcContext::new(skb));
    let Some(endpoint) = endpoint(slot) else {
        // Its slot was emptied a moment ago.
        return 0;
    };
    // SAFETY: array elements stay; the word is one aligned 8-byte load, the other
    // fields are written before the slot is published.
    let (word, number) = unsafe {
        (
            PolicyWord(addr_of!((*endpoint).word).read_volatile()),
            (*endpoint).number,
        )
    };
    if service.is_found() && word.0 != asked_word {
        // The Service was judged under another word.
        return ASK_SERVICE;
    }
    // SAFETY: the one caller passes its own `Memory`.
    let source = unsafe { (*memory.cast::<Memory>()).source };
    // Looked up after a word was read: good for that word only.
    let peer = if !EGRESS && source & SOURCE_KNOWN != 0 && word.0 == asked_word {
        Some(Peer::from_word(source))
    } else {
        None
    };
    let (flags, shift) = head();
    // While enforcement is off, as if nothing isolated the pod. One variable says
    // both, which the short stack is glad of: no endpoint's word is zero.
    let word = if flags & FLAG_ENFORCE_OFF == 0 {
        word
    } else {
        PolicyWord(0)
    };
    let off = word.0 == 0;
    let scene = Scene {
        slot,
        endpoint: number,
        word,
        direction,
        local_origin: is_local_origin::<EGRESS>(&skb),
        hairpin: !EGRESS && is_hairpin(&skb, shift, slot),
        off,
        service,
        peer,
    };
    let verdict = decide(
        &Tables,
        &Connections::<EGRESS> { direction },
        &scene,
        &frame.packet,
    );
    if verdict.ask_service {
        return ASK_SERVICE;
    }
    #[cfg(feature = "debug-log")]
    crate::debug_log::pa_log(
        slot,
        verdict.rule,
        direction.index() | verdict.denied.map_or(0, |reason| reason as u32) << 1,
    );
    if verdict.denied.is_some() || verdict.log {
        // Found anew instead of being kept: the stack is short.
        let (number, ifindex) = whose(skb.raw(), slot);
        report(memory, &verdict, number, ifindex, direction);
    }
    if verdict.denied.is_some() {
        return 0;
    }
    emit::count(stats::index(direction, stats::PASSED));
    let isolated = word.policy(Direction::Egress) != PolicyWord::NOT_ISOLATED;
    let state = match (EGRESS && isolated, verdict.undecided) {
        (false, _) => mark::NONE,
        (true, false) => mark::DECIDED,
        (true, true) => mark::UNDECIDED,
    };
    let remember = if verdict.cacheable { REMEMBER } else { 0 };
    PASS | remember | u64::from(state) << STATE_SHIFT | u64::from(word.generation()) << 32
}

/// Number of the endpoint in a slot, and the packet's interface.
#[inline(always)]
fn whose(skb: *mut __sk_buff, slot: u32) -> (u32, u32) {
    // SAFETY: array elements stay; one aligned load.
    let number = endpoint(slot).map_or(0, |endpoint| unsafe {
        addr_of!((*endpoint).number).read_volatile()
    });
    // SAFETY: the kernel's own context, readable for the program's run.
    let ifindex = unsafe { addr_of!((*skb).ifindex).read_volatile() };
    (number, ifindex)
}

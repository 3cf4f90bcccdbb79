//! Packets that follow another's verdict: fragments without ports that of the first
//! of their datagram, ICMP errors that of the flow which they quote.

use core::ptr::addr_of;

use aya_ebpf::bindings::{__sk_buff, BPF_ANY};
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::fragment::FragEntry;
use policy_common::abi::{Direction, config, mark};
use policy_common::fragment::{self, Place};
use policy_common::packet::quote::{is_about_a_flow, parse_quote};
use policy_common::packet::{Frame, Kind, Packet};
use policy_common::verdict::{Owner, is_related};

use crate::memory::FrameMemory;
use crate::records::Connections;
use crate::settings::head;
use crate::skb::Copied;
use crate::tables::Tables;
use crate::{clock, maps, slots};

/// Nothing is known that the packet could follow.
pub(crate) const ALONE: u32 = 0;
/// It passes; the state for the mark stands above.
pub(crate) const FOLLOWS: u32 = 1;

/// The state for the mark of a packet that follows another.
#[inline(always)]
pub(crate) const fn state(answer: u32) -> u32 {
    answer >> 1
}

/// Whether packets of a kind may follow another's verdict.
#[inline(always)]
pub(crate) const fn may_follow(kind: Kind) -> bool {
    matches!(kind, Kind::Fragment | Kind::IcmpError)
}

/// Where a packet is judged, for a function that is given integers: a [`Place`],
/// and the state for the mark above it.
#[inline(always)]
pub(crate) const fn at(place: Place, state: u32) -> u32 {
    place.number() as u32 | state << 8
}

/// Asks whether a packet follows another: [`ALONE`], or [`FOLLOWS`] with the state
/// for the mark. `slot` is that of the endpoint whose policy would be asked else;
/// `from` is how offsets in the frame count. A global function, as `pa_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_follow(
    skb: *mut __sk_buff,
    memory: *const FrameMemory,
    slot: u32,
    place: u32,
    from: u32,
) -> u32 {
    if memory.is_null() {
        return ALONE;
    }
    let Some(endpoint) = slots::endpoint(slot) else {
        return ALONE;
    };
    // SAFETY: array elements stay; each field is one aligned load.
    let (word, number) = unsafe {
        (
            PolicyWord(addr_of!((*endpoint).word).read_volatile()),
            addr_of!((*endpoint).number).read_volatile(),
        )
    };
    let (flags, _) = head();
    let direction = Direction::from_index(place);
    if word.policy(direction) == PolicyWord::NOT_ISOLATED || flags & config::FLAG_ENFORCE_OFF != 0 {
        return ALONE;
    }
    // SAFETY: the callers pass their own `Frame`.
    let packet = unsafe { &(*memory.cast::<Frame>()).packet };
    if packet.kind == Kind::Fragment {
        return recall(packet, number, word, place);
    }
    if !is_about_a_flow(packet) {
        return ALONE;
    }
    let mut quoted = Packet::EMPTY;
    if !parse_quote(&Copied::new(skb, from), packet, &mut quoted) {
        return ALONE;
    }
    let owner = Owner {
        slot,
        endpoint: number,
        word,
        direction,
    };
    if !is_related(
        &Tables,
        &Connections::<false> { direction },
        &owner,
        packet,
        &quoted,
    ) {
        return ALONE;
    }
    match direction {
        Direction::Ingress => FOLLOWS | mark::NONE << 1,
        // It goes to who sent what it quotes.
        Direction::Egress => FOLLOWS | mark::DECIDED << 1,
    }
}

/// Looks for the first fragment of a datagram.
#[inline(always)]
fn recall(packet: &Packet, number: u32, word: PolicyWord, place: u32) -> u32 {
    let key = fragment::key_of(packet, number, place as u8);
    let Some(entry) = maps::FRAGMENTS.get_ptr(&key) else {
        return ALONE;
    };
    let entry: *const FragEntry = entry;
    // SAFETY: the kernel keeps a map value readable for the program's run; the tag,
    // read last, tells another key's record.
    let entry = unsafe {
        FragEntry {
            seen_ns: addr_of!((*entry).seen_ns).read_volatile(),
            generation: addr_of!((*entry).generation).read_volatile(),
            units: addr_of!((*entry).units).read_volatile(),
            state: addr_of!((*entry).state).read_volatile(),
            pad: 0,
            tag: addr_of!((*entry).tag).read_volatile(),
            reserved: 0,
        }
    };
    let tag = fragment::tag(&key);
    let now_ns = clock::coarse_ns();
    if fragment::follows(&entry, tag, word.generation(), packet, now_ns) {
        FOLLOWS | u32::from(entry.state) << 1
    } else {
        ALONE
    }
}

/// Notes that the first fragment of a datagram passed, under this generation; `at`
/// is [`at`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pa_note_fragment(
    memory: *const FrameMemory,
    slot: u32,
    generation: u32,
    at: u32,
) -> u32 {
    if memory.is_null() {
        return 0;
    }
    let Some(endpoint) = slots::endpoint(slot) else {
        return 0;
    };
    // SAFETY: array elements stay; each field is one aligned load.
    let (word, number) = unsafe {
        (
            PolicyWord(addr_of!((*endpoint).word).read_volatile()),
            addr_of!((*endpoint).number).read_volatile(),
        )
    };
    let (place, state) = (at & 0xff, at >> 8 & 0xff);
    if word.policy(Direction::from_index(place)) == PolicyWord::NOT_ISOLATED {
        // Fragments need nobody to follow, and shall not fill the table.
        return 0;
    }
    // SAFETY: the callers pass their own `Frame`.
    let packet = unsafe { &(*memory.cast::<Frame>()).packet };
    let key = fragment::key_of(packet, number, place as u8);
    let tag = fragment::tag(&key);
    let now_ns = clock::coarse_ns();
    let entry = fragment::record_of(packet, tag, generation, state as u8, now_ns);
    // If it cannot be noted, the others are dropped.
    u32::from(maps::FRAGMENTS.insert(&key, &entry, BPF_ANY as u64).is_ok())
}

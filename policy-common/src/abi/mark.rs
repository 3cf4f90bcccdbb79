//! What the packet's mark tells from the veth on which a pod sent it to the hook
//! where it leaves: who sent it, and whether that pod's egress policy has judged
//! its real destination.
//!
//! The mark is `skb->mark`, which the network stack, nftables and iptables share;
//! only [`BITS`] adjacent bits of it are ours. It does not survive the way from
//! one network namespace into another, so no pod can set it.

/// Bits of the state.
pub const STATE_BITS: u32 = 2;
/// Bits of the sender's slot.
pub const SLOT_BITS: u32 = 12;
/// Bits of the mark that are ours: the state, then the slot above it.
pub const BITS: u32 = STATE_BITS + SLOT_BITS;
/// The lowest of our bits, unless the operator chooses others. Clear of
/// kube-proxy (0x4000, 0x8000), portmap (0x2000) and the AWS CNI (0x80).
pub const DEFAULT_SHIFT: u32 = 16;
/// The highest place for the lowest bit.
pub const MAX_SHIFT: u32 = u32::BITS - BITS;

/// State: no endpoint's egress policy stands behind the packet, or somebody wiped
/// the mark.
pub const NONE: u32 = 0;
/// State: it may be translated on its way; whoever sees its real destination
/// judges it.
pub const UNDECIDED: u32 = 1;
/// State: judged, and passed.
pub const DECIDED: u32 = 2;

const STATE: u32 = (1 << STATE_BITS) - 1;
const SLOT: u32 = (1 << SLOT_BITS) - 1;

/// The bits that are ours.
#[inline(always)]
pub const fn mask(shift: u32) -> u32 {
    ((1 << BITS) - 1) << (shift & 31)
}

/// The shift whose [`mask`] this is; `None`: it is no such mask.
pub const fn shift_of(mask: u32) -> Option<u32> {
    let shift = mask.trailing_zeros();
    if shift <= MAX_SHIFT && self::mask(shift) == mask {
        Some(shift)
    } else {
        None
    }
}

/// The state in a mark. What is none of ours is [`NONE`].
#[inline(always)]
pub const fn state(mark: u32, shift: u32) -> u32 {
    let state = mark >> (shift & 31) & STATE;
    if state > DECIDED { NONE } else { state }
}

/// The sender's slot in a mark.
#[inline(always)]
pub const fn slot(mark: u32, shift: u32) -> u32 {
    mark >> (shift & 31) >> STATE_BITS & SLOT
}

/// A mark with our bits replaced.
#[inline(always)]
pub const fn with(mark: u32, shift: u32, state: u32, slot: u32) -> u32 {
    let bits = (slot & SLOT) << STATE_BITS | state & STATE;
    mark & !mask(shift) | bits << (shift & 31)
}

const _: () = assert!(super::maps::ENDPOINT_ENTRIES <= 1 << SLOT_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_gives_back_what_was_put_in_and_leaves_other_bits_alone() {
        for shift in [0, 7, DEFAULT_SHIFT, MAX_SHIFT] {
            for (state, slot) in [(NONE, 0), (UNDECIDED, 4_095), (DECIDED, 1)] {
                for before in [0, u32::MAX, 0x0000_c080] {
                    let mark = with(before, shift, state, slot);
                    assert_eq!(super::state(mark, shift), state);
                    assert_eq!(super::slot(mark, shift), slot);
                    assert_eq!(mark & !mask(shift), before & !mask(shift));
                }
            }
        }
    }

    #[test]
    fn default_bits_are_clear_of_those_that_others_use() {
        for theirs in [0x4000, 0x8000, 0x2000, 0x80] {
            assert_eq!(mask(DEFAULT_SHIFT) & theirs, 0, "{theirs:#x}");
        }
    }

    #[test]
    fn only_a_run_of_as_many_bits_as_are_needed_is_a_mask() {
        for shift in 0..=MAX_SHIFT {
            assert_eq!(shift_of(mask(shift)), Some(shift));
        }
        for wrong in [
            0,
            1,
            u32::MAX,
            mask(4) << 1 | 1,
            mask(4) & !(1 << 8),
            mask(18) << 1,
        ] {
            assert_eq!(shift_of(wrong), None, "{wrong:#x}");
        }
    }

    #[test]
    fn state_that_nobody_gave_is_none() {
        assert_eq!(state(0b11 << 16, 16), NONE);
    }
}

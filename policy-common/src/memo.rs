//! What a CPU was told a moment ago, so that it need not ask again: who an address
//! is, and what a policy says of it. A hash lookup is four calls; this is none.
//!
//! An entry is good while nothing that the answer came from has changed: it carries
//! a [`stamp`], which the agent moves on after every change of a table that answers
//! come from, before the next word is stored. Whoever asks must read the word
//! first, then the stamp, and only then the tables: an answer that is older than the
//! word is then never taken for it.

use crate::packet::Words;

/// Ticks that a stamp lasts at most, as a power of two: should an agent end between a
/// change and the next stamp, what was known before it is forgotten in 2.6 s at 100 Hz,
/// 1 s at 250 Hz.
const LASTS_LOG2: u32 = 8;

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Memo {
    /// What was asked.
    pub key: Words,
    /// What was answered.
    pub answer: u64,
    /// The [`stamp`] read before it was asked; 0: nothing was.
    pub stamp: u64,
}

const _: () = assert!(size_of::<Memo>() == 32);

/// The one element of [`crate::abi::maps::EPOCH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Epoch {
    /// Runs of changes so far.
    pub changes: u64,
}

/// The stamp of now. `epoch`: [`Epoch::changes`]; `ticks`: jiffies.
///
/// Neither goes back, so their sum stays the same only while both do.
#[inline(always)]
pub const fn stamp(epoch: u64, ticks: u64) -> u64 {
    1 + epoch + (ticks >> LASTS_LOG2)
}

/// Where the answer to a question is kept, in a table of `entries`, a power of two.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "24 bits are left, and an index takes fewer"
)]
pub const fn index(key: Words, entries: usize) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let once = (key[0].rotate_left(32) ^ key[1]).wrapping_mul(K);
    let twice = (once ^ once >> 32).wrapping_mul(K);
    (twice >> 40) as u32 & (entries as u32 - 1)
}

/// The question what a policy says of an identity.
#[inline(always)]
pub const fn policy_key(policy: u16, identity: u32, protocol: u8, port: u16) -> Words {
    [
        policy as u64 | (port as u64) << 16 | (identity as u64) << 32,
        protocol as u64,
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::packet::words4;

    #[test]
    fn stamp_moves_on_with_either_and_is_never_that_of_an_empty_entry() {
        assert_ne!(stamp(0, 0), Memo::default().stamp);
        assert_eq!(stamp(7, 256), stamp(7, 511));
        assert_ne!(stamp(7, 511), stamp(7, 512));
        assert_ne!(stamp(7, 256), stamp(8, 256));
        // An epoch and a span later it is not the stamp of either.
        assert_ne!(stamp(8, 512), stamp(7, 512));
        assert_ne!(stamp(8, 512), stamp(8, 256));
    }

    #[test]
    fn questions_that_differ_in_anything_have_different_keys() {
        let base = policy_key(1, 2, 6, 80);
        for other in [
            policy_key(2, 2, 6, 80),
            policy_key(1, 3, 6, 80),
            policy_key(1, 2, 17, 80),
            policy_key(1, 2, 6, 81),
            policy_key(80, 2, 6, 1),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn addresses_that_count_up_spread_over_the_table() {
        let entries = 4_096;
        let places: HashSet<u32> = (0..1_000u32)
            .map(|number| index(words4((0x0a00_0000 + number).to_be_bytes()), entries))
            .collect();
        assert!(places.iter().all(|place| *place < 4_096));
        assert!(places.len() > 800, "{} of 1,000 places", places.len());
    }
}

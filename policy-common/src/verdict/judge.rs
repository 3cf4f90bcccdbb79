//! What a policy says: one row, one port set, one interval.
//!
//! Everything that is missing or inconsistent denies, with a reason that says
//! that it was not policy.

use crate::abi::event::DropReason;
use crate::abi::identity::{self, Identity};
use crate::abi::policy::{
    ACTION_ALLOW, ACTION_LOG, EXTENT_STEPS, INLINE_INTERVALS, Interval, PolicyKey, PortSet, RuleId,
    point,
};

/// The policy tables, wherever they are.
pub trait PolicyTables: Sized {
    /// Number of the port set in this row; `None`: there is no such row.
    fn row(&self, key: PolicyKey) -> Option<u32>;

    /// Calls `read` with a port set; `None`: there is none of this number.
    fn port_set<R>(&self, id: u32, read: impl FnOnce(&PortSet) -> R) -> Option<R>;

    /// An interval of an extent; `None`: beyond the table.
    fn extent(&self, index: u32) -> Option<Interval>;

    /// [`judge`] over these tables; an implementation calls it wherever it suits
    /// it best.
    #[inline(always)]
    fn judge(&self, policy: u16, identity: Identity, protocol: u8, port: u16) -> Judgement {
        judge(self, policy, identity, protocol, port)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "three")]
const INLINE: u32 = INLINE_INTERVALS as u32;

/// A policy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// `None`: allowed.
    pub denied: Option<DropReason>,
    /// The rule that decided; 0 if none did.
    pub rule: RuleId,
    /// A rule asks for a report.
    pub log: bool,
}

impl Judgement {
    /// Allowed without asking a policy.
    pub const ALLOW: Self = Self {
        denied: None,
        rule: 0,
        log: false,
    };

    /// Whether it allows.
    #[inline(always)]
    pub const fn allows(&self) -> bool {
        self.denied.is_none()
    }

    /// The judgement as one word, for a function that returns no more: rule in
    /// bits 0 to 31, [`DropReason`] (0: none) in bits 32 to 39, log in bit 40.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let reason = match self.denied {
            Some(reason) => reason as u64,
            None => 0,
        };
        self.rule as u64 | reason << 32 | (self.log as u64) << 40
    }

    /// The judgement that [`Self::to_word`] made. A reason that nobody knows
    /// denies.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let reason = (word >> 32 & 0xff) as u8;
        let denied = match DropReason::from_number(reason) {
            None if reason != 0 => Some(DropReason::Incomplete),
            denied => denied,
        };
        Self {
            denied,
            rule: (word & 0xffff_ffff) as u32,
            log: word >> 40 & 1 != 0,
        }
    }

    #[inline(always)]
    const fn deny(reason: DropReason) -> Self {
        Self {
            denied: Some(reason),
            rule: 0,
            log: false,
        }
    }

    #[inline(always)]
    const fn from_action(action: u32, rule: RuleId) -> Self {
        Self {
            denied: if action & ACTION_ALLOW != 0 {
                None
            } else {
                Some(DropReason::Policy)
            },
            rule,
            log: action & ACTION_LOG != 0,
        }
    }
}

/// Asks policy number `policy` (not 0) about a peer of this identity.
///
/// `port` is the destination's, 0 for protocols without ports.
#[inline(always)]
pub fn judge<T: PolicyTables>(
    tables: &T,
    policy: u16,
    identity: Identity,
    protocol: u8,
    port: u16,
) -> Judgement {
    if identity == identity::UNRESOLVED {
        return Judgement::deny(DropReason::Unresolved);
    }
    let policy = policy as u32;
    let row = match tables.row(PolicyKey { policy, identity }) {
        Some(port_set) => Some(port_set),
        None if identity != identity::OTHER => tables.row(PolicyKey {
            policy,
            identity: identity::OTHER,
        }),
        None => None,
    };
    let Some(id) = row else {
        return Judgement::deny(DropReason::Incomplete);
    };
    let point = point(protocol, port);
    let answer = tables.port_set(id, |set| ask(tables, set, point));
    match answer {
        Some(judgement) if id != 0 => judgement,
        _ => Judgement::deny(DropReason::Incomplete),
    }
}

#[inline(always)]
fn ask<T: PolicyTables>(tables: &T, set: &PortSet, point: u32) -> Judgement {
    if set.extent == 0 {
        let mut i = 0;
        while i < INLINE {
            let interval = &set.inline[i as usize];
            if i < set.count && interval.first <= point && point <= interval.last {
                return Judgement::from_action(interval.action, interval.rule);
            }
            i += 1;
        }
        return Judgement::from_action(set.default_action, set.default_rule);
    }
    match bisect(tables, set, point) {
        (true, interval) if interval.first <= point && point <= interval.last => {
            Judgement::from_action(interval.action, interval.rule)
        }
        (true, _) => Judgement::from_action(set.default_action, set.default_rule),
        (false, _) => Judgement::deny(DropReason::Incomplete),
    }
}

/// An interval that no point is in.
const NOWHERE: Interval = Interval {
    first: 1,
    last: 0,
    rule: 0,
    action: 0,
};

/// Whether the extent could be searched, and the last interval that starts at or
/// before the point, or [`NOWHERE`].
#[inline(always)]
fn bisect<T: PolicyTables>(tables: &T, set: &PortSet, point: u32) -> (bool, Interval) {
    // Invariant: intervals before `low` start at or before the point, those from
    // `high` on start after it.
    let mut low = 0u32;
    let mut high = set.count;
    let mut step = 0;
    while step < EXTENT_STEPS && low < high {
        let middle = low + (high - low) / 2;
        let Some(interval) = tables.extent(set.extent.wrapping_add(middle)) else {
            return (false, NOWHERE);
        };
        if interval.first <= point {
            low = middle + 1;
        } else {
            high = middle;
        }
        step += 1;
    }
    if low < high {
        return (false, NOWHERE);
    }
    if low == 0 {
        return (true, NOWHERE);
    }
    // Read once more, instead of being kept on the way: a kernel's stack is short.
    match tables.extent(set.extent.wrapping_add(low - 1)) {
        Some(interval) => (true, interval),
        None => (false, NOWHERE),
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes here are small by construction"
)]
mod tests {
    use std::collections::HashMap;
    use std::vec::Vec;

    use super::*;
    use crate::abi::policy::ACTION_DENY;
    use crate::abi::protocol::{TCP, UDP};

    #[derive(Default)]
    struct Tables {
        rows: HashMap<(u32, u32), u32>,
        sets: HashMap<u32, PortSet>,
        extents: Vec<Interval>,
    }

    impl PolicyTables for Tables {
        fn row(&self, key: PolicyKey) -> Option<u32> {
            self.rows.get(&(key.policy, key.identity)).copied()
        }
        fn port_set<R>(&self, id: u32, read: impl FnOnce(&PortSet) -> R) -> Option<R> {
            self.sets.get(&id).map(read)
        }
        fn extent(&self, index: u32) -> Option<Interval> {
            self.extents.get(index as usize).copied()
        }
    }

    fn interval(protocol: u8, first: u16, last: u16, rule: u32) -> Interval {
        Interval {
            first: point(protocol, first),
            last: point(protocol, last),
            rule,
            action: ACTION_ALLOW,
        }
    }

    fn set(inline: &[Interval]) -> PortSet {
        let mut value = PortSet {
            count: inline.len() as u32,
            extent: 0,
            default_rule: 99,
            default_action: ACTION_DENY,
            inline: [Interval::default(); INLINE_INTERVALS],
        };
        value.inline[..inline.len()].copy_from_slice(inline);
        value
    }

    fn one_policy() -> Tables {
        let mut tables = Tables::default();
        tables.rows.insert((5, 0), 1);
        tables.rows.insert((5, 7), 2);
        tables.sets.insert(1, set(&[]));
        tables.sets.insert(2, set(&[interval(TCP, 80, 90, 3)]));
        tables
    }

    #[test]
    fn row_of_the_identity_decides_and_names_its_rule() {
        let tables = one_policy();
        let yes = judge(&tables, 5, 7, TCP, 90);
        assert!(yes.allows() && yes.rule == 3);
        for (protocol, port) in [(TCP, 79), (TCP, 91), (UDP, 80)] {
            let no = judge(&tables, 5, 7, protocol, port);
            assert_eq!((no.denied, no.rule), (Some(DropReason::Policy), 99));
        }
    }

    #[test]
    fn identity_without_a_row_gets_the_answer_for_every_other() {
        let no = judge(&one_policy(), 5, 8, TCP, 80);
        assert_eq!((no.denied, no.rule), (Some(DropReason::Policy), 99));
    }

    #[test]
    fn what_is_missing_denies_and_says_so() {
        let mut tables = one_policy();
        assert_eq!(
            judge(&tables, 6, 7, TCP, 80).denied,
            Some(DropReason::Incomplete),
            "no such policy"
        );
        tables.sets.remove(&2);
        assert_eq!(
            judge(&tables, 5, 7, TCP, 80).denied,
            Some(DropReason::Incomplete),
            "no such port set"
        );
        tables.rows.insert((5, 7), 0);
        tables.sets.insert(0, set(&[interval(TCP, 0, 65_535, 3)]));
        assert_eq!(
            judge(&tables, 5, 7, TCP, 80).denied,
            Some(DropReason::Incomplete),
            "set 0 is none"
        );
        assert_eq!(
            judge(&tables, 5, identity::UNRESOLVED, TCP, 80).denied,
            Some(DropReason::Unresolved)
        );
    }

    #[test]
    fn extent_of_any_size_answers_for_each_of_its_points() {
        for count in [1usize, 2, 3, 4, 5, 100, 1_000, 16_000] {
            let mut tables = one_policy();
            tables.extents.push(Interval::default());
            for i in 0..count {
                let port = (i * 4) as u16;
                tables
                    .extents
                    .push(interval(UDP, port, port + 1, i as u32 + 1));
            }
            let big = PortSet {
                count: count as u32,
                extent: 1,
                ..set(&[])
            };
            tables.sets.insert(2, big);
            for i in (0..count).step_by(1 + count / 50).chain([count - 1]) {
                let port = (i * 4) as u16;
                let yes = judge(&tables, 5, 7, UDP, port + 1);
                assert!(
                    yes.allows() && yes.rule == i as u32 + 1,
                    "{count} intervals, port {port}"
                );
                assert!(!judge(&tables, 5, 7, UDP, port + 2).allows());
            }
            assert!(!judge(&tables, 5, 7, TCP, 0).allows());
        }
    }

    #[test]
    fn judgement_survives_its_word() {
        let judgements = DropReason::ALL
            .iter()
            .map(|reason| Some(*reason))
            .chain([None]);
        for denied in judgements {
            let judgement = Judgement {
                denied,
                rule: u32::MAX - 7,
                log: denied.is_none(),
            };
            assert_eq!(Judgement::from_word(judgement.to_word()), judgement);
        }
        assert!(
            !Judgement::from_word(200 << 32).allows(),
            "an unknown reason"
        );
    }

    #[test]
    fn extent_beyond_the_table_denies() {
        let mut tables = one_policy();
        tables.sets.insert(
            2,
            PortSet {
                count: 4,
                extent: 10,
                ..set(&[])
            },
        );
        assert_eq!(
            judge(&tables, 5, 7, TCP, 80).denied,
            Some(DropReason::Incomplete)
        );
    }
}

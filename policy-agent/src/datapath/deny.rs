//! The prefixes whose packets the prefilter drops: one list put in force in place of
//! another, element by element, while packets come in.
//!
//! An address that both lists name is dropped throughout, also by another prefix of
//! each; one that neither names is never dropped. In which order that is so, and
//! within the maps' capacity, is planned here, pure, before anything is written; so a
//! change that stops half-way is finished by planning again from what is there.
//! Whose list it is, and when to look again, is the agent's.

use std::collections::BTreeSet;

use ipnet::IpNet;
use policy_common::abi::maps::{DENY_ENTRIES, PrefixKey};

use super::{
    Plain, TypedMap,
    encode::{key4, key6},
    map::MapError,
    maps::Maps,
};

/// What a new list changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DenyChange {
    /// Prefixes that were not there.
    pub added: usize,
    /// Prefixes that are no longer there.
    pub removed: usize,
    /// IPv4 prefixes that are there now.
    pub listed4: usize,
    /// IPv6 prefixes that are there now.
    pub listed6: usize,
}

/// The list of prefixes cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    /// Too long.
    #[error(
        "{needed} {family} prefixes to deny, and there is room for {DENY_ENTRIES}; shorten the \
         list"
    )]
    TooMany {
        /// IPv4 or IPv6.
        family: &'static str,
        /// How many there are.
        needed: usize,
    },
    /// It fits, but not beside what it replaces.
    #[error(
        "{family} prefixes to deny overlap others that they replace, so that both have to be \
         there for a moment: {needed}, and there is room for {DENY_ENTRIES}; change them in \
         several steps"
    )]
    NoRoom {
        /// IPv4 or IPv6.
        family: &'static str,
        /// How many at once.
        needed: usize,
    },
    /// A map refuses.
    #[error(
        "{0}; some prefixes may be changed already and others not; what the list before and this \
         one both name is dropped all the same"
    )]
    Map(#[from] MapError),
}

impl Maps {
    /// Puts a list of prefixes in force in place of the one that was.
    ///
    /// # Errors
    ///
    /// [`DenyError`]; but with `Map` nothing has changed then.
    pub fn deny(&self, prefixes: &[IpNet]) -> Result<DenyChange, DenyError> {
        let mut wanted4 = BTreeSet::new();
        let mut wanted6 = BTreeSet::new();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => wanted4.insert(key4(prefix)),
                IpNet::V6(prefix) => wanted6.insert(key6(prefix)),
            };
        }
        let steps4 = plan(&keys(&self.deny4)?, &wanted4, DENY_ENTRIES);
        let steps6 = plan(&keys(&self.deny6)?, &wanted6, DENY_ENTRIES);
        let steps4 = steps4.map_err(|full| full.told("IPv4"))?;
        let steps6 = steps6.map_err(|full| full.told("IPv6"))?;
        let mut change = DenyChange {
            listed4: wanted4.len(),
            listed6: wanted6.len(),
            ..DenyChange::default()
        };
        carry_out(&self.deny4, &steps4, &mut change)?;
        carry_out(&self.deny6, &steps6, &mut change)?;
        Ok(change)
    }
}

fn keys<const N: usize>(
    map: &TypedMap<PrefixKey<N>, u32>,
) -> Result<BTreeSet<PrefixKey<N>>, MapError>
where
    PrefixKey<N>: Plain,
{
    Ok(map.entries()?.into_iter().map(|(key, _)| key).collect())
}

fn carry_out<const N: usize>(
    map: &TypedMap<PrefixKey<N>, u32>,
    steps: &[Step<N>],
    change: &mut DenyChange,
) -> Result<(), MapError>
where
    PrefixKey<N>: Plain,
{
    for step in steps {
        let result = match step {
            Step::Add(keys) => {
                change.added += keys.len();
                map.set_all(keys, &vec![1; keys.len()])
            }
            Step::Remove(keys) => {
                change.removed += keys.len();
                map.remove_all(keys)
            }
        };
        result.map_err(|stopped| stopped.error)?;
    }
    Ok(())
}

/// A part of a change; within it the order does not matter.
#[derive(Debug, PartialEq, Eq)]
enum Step<const N: usize> {
    Add(Vec<PrefixKey<N>>),
    Remove(Vec<PrefixKey<N>>),
}

/// There is no room for so many elements.
#[derive(Debug, PartialEq, Eq)]
enum Full {
    Wanted(usize),
    Both(usize),
}

impl Full {
    fn told(self, family: &'static str) -> DenyError {
        match self {
            Self::Wanted(needed) => DenyError::TooMany { family, needed },
            Self::Both(needed) => DenyError::NoRoom { family, needed },
        }
    }
}

/// How to get from one list to the other.
fn plan<const N: usize>(
    there: &BTreeSet<PrefixKey<N>>,
    wanted: &BTreeSet<PrefixKey<N>>,
    capacity: usize,
) -> Result<Vec<Step<N>>, Full> {
    if wanted.len() > capacity {
        return Err(Full::Wanted(wanted.len()));
    }
    let add: Vec<_> = wanted.difference(there).copied().collect();
    let remove: Vec<_> = there.difference(wanted).copied().collect();
    if there.len() + add.len() <= capacity {
        return Ok(vec![Step::Add(add), Step::Remove(remove)]);
    }
    // What is new may have addresses in common with what goes: that has to be there
    // before, and the rest makes room for it.
    let (gained, lost) = (Spans::of(&add), Spans::of(&remove));
    let (replacing, fresh): (Vec<_>, Vec<_>) = add.iter().partition(|key| lost.meets(key));
    let (replaced, free): (Vec<_>, Vec<_>) = remove.iter().partition(|key| gained.meets(key));
    let both = there.len() - free.len() + replacing.len();
    if both > capacity {
        return Err(Full::Both(both));
    }
    Ok(vec![
        Step::Remove(free),
        Step::Add(replacing),
        Step::Remove(replaced),
        Step::Add(fresh),
    ])
}

/// The addresses of some prefixes: first and last of each run, sorted and disjoint.
struct Spans<const N: usize>(Vec<([u8; N], [u8; N])>);

impl<const N: usize> Spans<N> {
    fn of(prefixes: &[PrefixKey<N>]) -> Self {
        let mut all: Vec<_> = prefixes.iter().map(span).collect();
        // Of two prefixes one holds the other, or they are disjoint.
        all.sort_unstable_by_key(|(first, last)| (*first, std::cmp::Reverse(*last)));
        all.dedup_by(|later, kept| later.1 <= kept.1);
        Self(all)
    }

    /// Whether any of the prefix's addresses is one of them.
    fn meets(&self, prefix: &PrefixKey<N>) -> bool {
        let (first, last) = span(prefix);
        let at = self.0.partition_point(|(_, end)| *end < first);
        self.0.get(at).is_some_and(|(begin, _)| *begin <= last)
    }
}

/// First and last address of a prefix.
fn span<const N: usize>(prefix: &PrefixKey<N>) -> ([u8; N], [u8; N]) {
    let mut last = prefix.addr;
    for (byte, first_bit) in last.iter_mut().zip((0u32..).step_by(8)) {
        let own = prefix.prefix_len.saturating_sub(first_bit).min(8);
        *byte |= 0xffu8.checked_shr(own).unwrap_or(0);
    }
    (prefix.addr, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Keys = BTreeSet<PrefixKey<4>>;

    fn keys(texts: &[&str]) -> Keys {
        let prefix = |text: &&str| key4(&text.parse().unwrap());
        texts.iter().map(prefix).collect()
    }

    fn denies(keys: &Keys, address: [u8; 4]) -> bool {
        keys.iter()
            .map(span)
            .any(|(first, last)| (first..=last).contains(&address))
    }

    /// The lists after each element, the first included.
    fn states(there: &Keys, steps: &[Step<4>]) -> Vec<Keys> {
        let mut now = there.clone();
        let mut states = vec![now.clone()];
        for step in steps {
            let (keys, adds) = match step {
                Step::Add(keys) => (keys, true),
                Step::Remove(keys) => (keys, false),
            };
            for key in keys {
                let changed = if adds {
                    now.insert(*key)
                } else {
                    now.remove(key)
                };
                assert!(changed, "nothing is done twice");
                states.push(now.clone());
            }
        }
        states
    }

    #[test]
    fn spans_are_the_prefixes_addresses() {
        let of = |text: &str| span(&key4(&text.parse().unwrap()));
        assert_eq!(of("10.1.2.3/32"), ([10, 1, 2, 3], [10, 1, 2, 3]));
        assert_eq!(of("10.1.2.0/23"), ([10, 1, 2, 0], [10, 1, 3, 255]));
        assert_eq!(of("0.0.0.0/0"), ([0; 4], [255; 4]));
        let spans = Spans::of(&Vec::from_iter(keys(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "12.0.0.0/8",
        ])));
        let meets = |text: &str| spans.meets(&key4(&text.parse().unwrap()));
        for text in [
            "10.1.2.3/32",
            "8.0.0.0/5",
            "12.255.255.255/32",
            "10.0.0.0/8",
        ] {
            assert!(meets(text), "{text}");
        }
        for text in [
            "9.255.255.255/32",
            "11.0.0.0/8",
            "13.0.0.0/8",
            "128.0.0.0/1",
        ] {
            assert!(!meets(text), "{text}");
        }
    }

    #[test]
    fn full_list_gives_way_to_another_and_what_is_split_is_there_before_the_whole_goes() {
        let there = keys(&["10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24"]);
        let wanted = keys(&["10.0.0.0/9", "10.128.0.0/9", "198.51.100.0/24"]);
        assert_eq!(plan(&there, &wanted, 3), Err(Full::Both(4)));
        let after: Vec<_> = states(&there, &plan(&there, &wanted, 4).unwrap());
        assert!(after.iter().all(|now| denies(now, [10, 200, 0, 1])));
        assert_eq!(after.last(), Some(&wanted));
        let elsewhere = keys(&["11.0.0.0/9", "11.128.0.0/9", "198.51.100.0/24"]);
        let after = states(&there, &plan(&there, &elsewhere, 3).unwrap());
        assert!(after.iter().all(|now| denies(now, [198, 51, 100, 7])));
        assert_eq!(after.last(), Some(&elsewhere));
    }

    #[test]
    fn list_that_is_too_long_is_told_by_its_length() {
        let wanted = keys(&["10.0.0.0/8", "11.0.0.0/8"]);
        assert_eq!(plan(&keys(&[]), &wanted, 1), Err(Full::Wanted(2)));
    }

    /// Lists of prefixes of one small network, wherever a change stops: what both
    /// deny is denied, what neither does is not, it fits, and the rest can be done.
    #[test]
    fn change_that_stops_anywhere_opens_nothing_that_stays_and_can_be_finished() {
        const CAPACITY: usize = 6;
        let mut seed = 1u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % below
        };
        let (mut tight, mut refused) = (0, 0);
        for _ in 0..4_000 {
            let mut list = || -> Keys {
                let count = random(7);
                let prefix = |_| {
                    let length = 28 + u8::try_from(random(5)).unwrap();
                    let address = u8::try_from(random(16)).unwrap();
                    let net = ipnet::Ipv4Net::new([10, 0, 0, address].into(), length);
                    key4(&net.unwrap().trunc())
                };
                (0..count).map(prefix).collect()
            };
            let (there, wanted) = (list(), list());
            let Ok(steps) = plan(&there, &wanted, CAPACITY) else {
                refused += 1;
                continue;
            };
            tight += usize::from(steps.len() > 2);
            let states = states(&there, &steps);
            assert_eq!(states.last(), Some(&wanted));
            for now in &states {
                assert!(now.len() <= CAPACITY, "{there:?} to {wanted:?}");
                for last in 0..16 {
                    let address = [10, 0, 0, last];
                    let ends = (denies(&there, address), denies(&wanted, address));
                    if ends.0 == ends.1 {
                        assert_eq!(denies(now, address), ends.0, "{there:?} to {wanted:?}");
                    }
                }
                plan(now, &wanted, CAPACITY).expect("the rest can be done");
            }
        }
        assert!(tight > 100 && refused > 100, "{tight}, {refused}");
    }
}

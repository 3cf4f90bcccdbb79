//! Which policy numbers each endpoint's word gets.

use std::collections::{BTreeMap, BTreeSet};

use policy_common::abi::identity;

use super::contents::Contents;
use super::limits::Full;
use super::room::{DENY_ALL, Room};
use super::scheme::{Admitted, Facts, Scheme, Way};
use super::seats::Seat;
use crate::desired::PolicyRef;

/// What an endpoint's word names, and whether that is what is desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    /// Ingress, egress.
    pub(super) policies: [u16; 2],
    pub(super) current: bool,
}

/// Gives every endpoint its numbers and writes the rows of new ones.
pub(super) fn give(
    facts: &Facts<'_>,
    admitted: &Admitted,
    scheme: &Scheme,
    room: &mut Room<'_>,
    contents: &Contents,
) -> Result<Vec<Given>, Full> {
    let mut numbers = Numbers {
        facts,
        scheme,
        known: BTreeMap::new(),
        used: BTreeMap::new(),
        fresh: BTreeSet::new(),
    };
    for (policy, wanted) in &facts.standing {
        numbers.used.entry(*policy).or_insert(*wanted);
        if scheme.way != Way::Words {
            numbers.known.entry(*wanted).or_insert(*policy);
        }
    }
    let mut given = Vec::with_capacity(facts.seats.len());
    for (place, seat) in facts.seats.iter().enumerate() {
        let barred = seat.policies.iter().flatten();
        let barred = barred.clone().any(|policy| facts.barred.contains(policy));
        let may = !barred
            && match admitted {
                Admitted::All => true,
                Admitted::These(places) => places.contains(&place),
                Admitted::Nothing => false,
            };
        given.push(match numbers.kept(seat) {
            Some(policies) => Given {
                policies,
                current: !barred,
            },
            None if may => Given {
                policies: numbers.of(seat, room)?,
                current: true,
            },
            None => Given {
                policies: held(seat),
                current: held(seat) == [0; 2] && seat.policies == [None; 2],
            },
        });
    }
    numbers.write(room, contents)?;
    Ok(given)
}

/// What an endpoint has that may not get what it should: what it had, and where
/// nothing isolated it and something must, everything denied.
fn held(seat: &Seat<'_>) -> [u16; 2] {
    let mut policies = seat.old().unwrap_or_default();
    for (number, wanted) in policies.iter_mut().zip(&seat.policies) {
        if *number == 0 && wanted.is_some() {
            *number = DENY_ALL;
        }
    }
    policies
}

/// What everybody has when nothing may change.
pub(super) fn held_all(facts: &Facts<'_>) -> Vec<Given> {
    let seats = facts.seats.iter();
    seats
        .map(|seat| Given {
            policies: held(seat),
            current: false,
        })
        .collect()
}

struct Numbers<'a> {
    facts: &'a Facts<'a>,
    scheme: &'a Scheme,
    /// Numbers that endpoints without one of their own get.
    known: BTreeMap<PolicyRef, u32>,
    /// What each number in use stands for.
    used: BTreeMap<u32, PolicyRef>,
    /// Numbers without rows yet.
    fresh: BTreeSet<u32>,
}

impl Numbers<'_> {
    /// The numbers in force, if they say what they should.
    fn kept(&self, seat: &Seat<'_>) -> Option<[u16; 2]> {
        let old = seat.old()?;
        let mut both = old.iter().zip(&seat.policies);
        let fits = both.all(|(number, wanted)| match wanted {
            None => *number == 0,
            Some(_) if *number == 0 => false,
            Some(_) if self.scheme.way != Way::Words => true,
            Some(wanted) => self.facts.fits(u32::from(*number), *wanted),
        });
        fits.then_some(old)
    }

    fn of(&mut self, seat: &Seat<'_>, room: &mut Room<'_>) -> Result<[u16; 2], Full> {
        let mut policies = [0; 2];
        for (place, wanted) in seat.policies.iter().enumerate() {
            let Some(wanted) = wanted else { continue };
            let old = seat.old().map_or(0, |old| u32::from(old[place]));
            let keeps = old != 0 && self.facts.fits(old, *wanted);
            let number = if keeps {
                old
            } else {
                self.number(*wanted, room)?
            };
            policies[place] = u16::try_from(number).expect("numbers have 16 bits");
        }
        Ok(policies)
    }

    fn number(&mut self, wanted: PolicyRef, room: &mut Room<'_>) -> Result<u32, Full> {
        if let Some(number) = self.known.get(&wanted) {
            return Ok(*number);
        }
        let number = match self.find(wanted) {
            Some(number) => number,
            None => {
                let number = u32::from(room.policy()?);
                self.fresh.insert(number);
                number
            }
        };
        self.known.insert(wanted, number);
        self.used.entry(number).or_insert(wanted);
        Ok(number)
    }

    /// A number in the kernel that says all this already.
    fn find(&self, wanted: PolicyRef) -> Option<u32> {
        let facts = self.facts;
        let settled = |pair: &(u32, crate::desired::ClassId)| {
            self.scheme.way != Way::Move || self.scheme.target.get(pair) == Some(&pair.0)
        };
        let says = |number: &u32| {
            let mut pairs = facts.pairs.keys().filter(|pair| settled(pair));
            pairs.all(|pair| facts.agrees(*number, wanted, *pair))
        };
        let live = facts.live.iter().copied();
        let numbers = live.chain(facts.kernel.numbers().filter(|n| !facts.live.contains(n)));
        let free = |number: &u32| {
            // Where addresses move under it, a number stands for one policy.
            let other = self.scheme.way != Way::Words && self.used.contains_key(number);
            (1..u32::from(DENY_ALL)).contains(number) && !other
        };
        numbers.filter(free).find(says)
    }

    /// Writes the rows of new numbers, those of new identities, and those that
    /// are mended.
    fn write(&self, room: &mut Room<'_>, contents: &Contents) -> Result<(), Full> {
        let facts = self.facts;
        for (number, (identity, content)) in &self.scheme.mended {
            let number = u16::try_from(*number).expect("from a word");
            room.row(number, *identity, Some(*content), contents)?;
        }
        for (number, wanted) in &self.used {
            let policy = u16::try_from(*number).expect("numbers have 16 bits");
            let fresh = self.fresh.contains(number);
            let default = facts.wanted.answer(*wanted, crate::desired::ClassId::OTHER);
            if fresh {
                room.row(policy, identity::OTHER, Some(default), contents)?;
            } else if !self.serves(*number, *wanted) {
                continue;
            }
            for (identity, class) in &self.scheme.claims {
                let want = facts.wanted.answer(*wanted, *class);
                let new = if fresh {
                    want != default
                } else {
                    self.scheme.origin.contains_key(identity)
                        && facts.kernel.answer(*number, *identity) != Some(want)
                };
                if new && *identity != identity::OTHER {
                    room.row(policy, *identity, Some(want), contents)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a number that was there is to go on standing for the policy.
    fn serves(&self, number: u32, wanted: PolicyRef) -> bool {
        self.scheme.way != Way::Words || self.facts.fits(number, wanted)
    }
}

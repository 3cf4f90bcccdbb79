//! How a change is put in force: which identity each class gets, and what takes
//! effect where.
//!
//! Three ways, the cheapest that is right:
//!
//! - **In place**: one row of a policy in force is missing or says something
//!   else, and no address moves. Its write is one store, so writing it is as
//!   atomic as a new word would be; a row that was lost comes back alone.
//! - **Move**: an address joins another class, under policies that stay. It is
//!   pointed elsewhere in one write, which is the change. So do several that all
//!   move from one class to another, if both keep members: a peer was added or
//!   removed, no policy was edited.
//! - **Words**: everything else. Pointing addresses elsewhere changes nothing,
//!   each endpoint's word changes all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use policy_common::abi::identity::{self, Identity};
use policy_common::abi::service::SvcKey;

use super::answers::{Kernel, Wanted};
use super::contents::{Content, Contents};
use super::limits::{Full, Limits};
use super::mirror::Mirror;
use super::regions::Region;
use super::room::{DENY_ALL, Room};
use super::seats::Seat;
use crate::desired::{Backends, ClassId, PolicyRef};

/// Addresses with this identity that must be in this class.
pub(super) type Pair = (Identity, ClassId);

/// What a plan is made from.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) limits: Limits,
    pub(super) seats: &'a [Seat<'a>],
    pub(super) regions: &'a [Region],
    /// With how many regions have it; sorted.
    pub(super) pairs: BTreeMap<Pair, usize>,
    pub(super) kernel: Kernel,
    pub(super) wanted: Wanted,
    /// Policy numbers that interfaces lead to.
    pub(super) live: BTreeSet<u32>,
    /// Policy numbers in force, with what must be in force there.
    pub(super) standing: BTreeSet<(u32, PolicyRef)>,
    /// Policies that would say something else than they should, because an
    /// address or prefix has no room.
    pub(super) barred: BTreeSet<PolicyRef>,
    /// What must be behind addresses and ports of Services, of those that have
    /// room.
    pub(super) services: BTreeMap<SvcKey, &'a Backends>,
}

impl Facts<'_> {
    /// Whether a policy number says to a pair what it should.
    pub(super) fn agrees(&self, policy: u32, wanted: PolicyRef, pair: Pair) -> bool {
        let want = self.wanted.answer(wanted, pair.1);
        self.kernel.answer(policy, pair.0) == Some(want)
    }

    /// Whether a policy number says to everybody what it should.
    pub(super) fn fits(&self, policy: u32, wanted: PolicyRef) -> bool {
        let mut pairs = self.pairs.keys();
        pairs.all(|pair| self.agrees(policy, wanted, *pair))
    }

    /// Whether nobody's answer depends on which of the identities an address
    /// has, under the words that are in force.
    fn same(&self, a: Identity, b: Identity) -> bool {
        let answer = |policy: &u32, identity| self.kernel.answer(*policy, identity);
        a == b || self.live.iter().all(|p| answer(p, a) == answer(p, b))
    }

    /// An identity of no address that has the rows of a class: the class's, if
    /// its addresses were lost.
    fn idle(&self, class: ClassId, claims: &BTreeMap<Identity, ClassId>) -> Option<Identity> {
        let named: BTreeSet<Identity> = self.pairs.keys().map(|pair| pair.0).collect();
        let spare = |i: &Identity| !named.contains(i) && !claims.contains_key(i);
        let rows = self.mirror.rows.keys().map(|key| key.identity);
        let idle: BTreeSet<Identity> = rows.filter(spare).collect();
        idle.into_iter().find(|identity| {
            let mut standing = self.standing.iter();
            standing.all(|(policy, wanted)| self.agrees(*policy, *wanted, (*identity, class)))
        })
    }

    /// Whether every endpoint keeps its slot and its isolation.
    fn is_steady(&self) -> bool {
        self.barred.is_empty()
            && self.seats.iter().all(|seat| {
                let kept = seat.old().is_none_or(|old| {
                    let mut both = old.iter().zip(&seat.policies);
                    both.all(|(old, policy)| (*old != 0) == policy.is_some())
                });
                kept && !seat.moves
            })
    }
}

/// Which endpoints may change.
#[derive(Debug, Clone)]
pub(super) enum Admitted {
    All,
    /// Those at these places.
    These(BTreeSet<usize>),
    /// None, and no address either.
    Nothing,
}

/// The way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    InPlace,
    Move,
    Words,
}

/// Who gets which identity.
#[derive(Debug)]
pub(super) struct Scheme {
    pub(super) way: Way,
    /// The class that an identity stands for when all is done.
    pub(super) claims: BTreeMap<Identity, ClassId>,
    /// The identity that a class is to have.
    pub(super) canon: BTreeMap<ClassId, Identity>,
    /// Where a pair's addresses are pointed before any word changes.
    pub(super) target: BTreeMap<Pair, Identity>,
    /// New identities, and those used again, with the one whose answers they repeat under policies
    /// that are in force.
    pub(super) origin: BTreeMap<Identity, Identity>,
    /// Rows that are mended: policy, identity, content.
    pub(super) mended: BTreeMap<u32, (Identity, Content)>,
}

impl Scheme {
    /// The identity whose answers in the kernel this one has.
    pub(super) fn origin(&self, identity: Identity) -> Identity {
        self.origin.get(&identity).copied().unwrap_or(identity)
    }

    fn new(way: Way, facts: &Facts<'_>, keep: impl Fn(Pair) -> bool) -> Self {
        let mut scheme = Self {
            way,
            claims: BTreeMap::from([(identity::OTHER, ClassId::OTHER)]),
            canon: BTreeMap::from([(ClassId::OTHER, identity::OTHER)]),
            target: BTreeMap::new(),
            origin: BTreeMap::new(),
            mended: BTreeMap::new(),
        };
        // Pairs under which nothing changes come first, then those of many.
        let order = |(pair, count): (&Pair, &usize)| (!keep(*pair), usize::MAX - count, *pair);
        let mut pairs: Vec<(bool, usize, Pair)> = facts.pairs.iter().map(order).collect();
        pairs.sort_unstable();
        for (differs, _, (identity, class)) in pairs {
            if way == Way::Move && differs {
                break;
            }
            if !scheme.claims.contains_key(&identity) && !scheme.canon.contains_key(&class) {
                scheme.claims.insert(identity, class);
                scheme.canon.insert(class, identity);
            }
        }
        scheme
    }

    /// Chooses the way.
    pub(super) fn choose(
        facts: &Facts<'_>,
        admitted: &Admitted,
        room: &mut Room<'_>,
        contents: &Contents,
    ) -> Result<Self, Full> {
        let agreed: BTreeSet<Pair> = {
            let pairs = facts.pairs.keys().copied();
            let agrees = |pair: &Pair| {
                let mut all = facts.standing.iter();
                all.all(|(policy, wanted)| facts.agrees(*policy, *wanted, *pair))
            };
            pairs.filter(agrees).collect()
        };
        let keep = |pair: Pair| agreed.contains(&pair);
        if matches!(admitted, Admitted::All) && facts.is_steady() {
            let mut scheme = Self::new(Way::InPlace, facts, keep);
            if scheme.mend(facts) {
                return Ok(scheme);
            }
            let mut scheme = Self::new(Way::Move, facts, keep);
            if scheme.is_move(facts, &agreed) {
                scheme.settle(facts, room);
                return Ok(scheme);
            }
        }
        let mut scheme = Self::new(Way::Words, facts, keep);
        scheme.repeat(facts, room, contents)?;
        Ok(scheme)
    }

    /// In place: whether one row of each policy that differs puts it right.
    fn mend(&mut self, facts: &Facts<'_>) -> bool {
        let at_home = |pair: &&Pair| self.canon.get(&pair.1) == Some(&pair.0);
        if facts.pairs.keys().filter(at_home).count() != facts.pairs.len() {
            return false;
        }
        let mut differing: BTreeMap<u32, BTreeSet<(Identity, Content)>> = BTreeMap::new();
        for (policy, wanted) in &facts.standing {
            for pair in facts.pairs.keys() {
                if !facts.agrees(*policy, *wanted, *pair) {
                    let want = facts.wanted.answer(*wanted, pair.1);
                    let differing = differing.entry(*policy).or_default();
                    differing.insert((pair.0, want));
                }
            }
        }
        for (policy, differing) in &differing {
            let Some((first, content)) = differing.first().copied() else {
                continue;
            };
            let has_row = |identity| facts.kernel.row(*policy, identity).is_some();
            let lone = differing.len() == 1;
            let row = if lone && first != identity::OTHER {
                first
            } else {
                identity::OTHER
            };
            let says = |identity| {
                let falls = row == identity::OTHER && !has_row(identity);
                if identity == row || falls {
                    Some(content)
                } else {
                    facts.kernel.answer(*policy, identity)
                }
            };
            let mut mine = facts.standing.iter().filter(|(p, _)| p == policy);
            let right = mine.all(|(_, wanted)| {
                let mut pairs = facts.pairs.keys();
                pairs.all(|pair| says(pair.0) == Some(facts.wanted.answer(*wanted, pair.1)))
            });
            if !right || *policy == u32::from(DENY_ALL) {
                return false;
            }
            self.mended.insert(*policy, (row, content));
        }
        // Two rows for one endpoint would be two moments.
        let mut words = facts.seats.iter().filter_map(Seat::old);
        let twice = words.any(|[ingress, egress]| {
            let mended = |policy: u16| self.mended.contains_key(&u32::from(policy));
            ingress != egress && mended(ingress) && mended(egress)
        });
        self.target = facts.pairs.keys().map(|pair| (*pair, pair.0)).collect();
        !twice
    }

    /// Move: whether pointing addresses elsewhere one by one is right.
    fn is_move(&self, facts: &Facts<'_>, agreed: &BTreeSet<Pair>) -> bool {
        if !agreed.contains(&(identity::OTHER, ClassId::OTHER)) {
            return false;
        }
        let moving = |pair: &&Pair| !agreed.contains(*pair);
        let changing: Vec<&Pair> = facts.pairs.keys().filter(moving).collect();
        let alone = match changing[..] {
            [] => true,
            [pair] => {
                facts.pairs[pair] == 1
                    || (self.claims.contains_key(&pair.0) && self.canon.contains_key(&pair.1))
            }
            _ => false,
        };
        // One number that must say two things to a new class is two policies.
        let mut standing = facts.standing.iter().peekable();
        let mut one = true;
        while let Some((policy, wanted)) = standing.next() {
            if let Some((next, other)) = standing.peek()
                && next == policy
            {
                let mut classes = facts.pairs.keys().map(|pair| pair.1);
                let says = |policy, class| facts.wanted.answer(policy, class);
                one &= classes.all(|class| says(*wanted, class) == says(*other, class));
            }
        }
        alone && one
    }

    /// Move: classes without an identity get one; every pair goes to its class.
    fn settle(&mut self, facts: &Facts<'_>, room: &mut Room<'_>) {
        for pair in facts.pairs.keys() {
            let identity = match self.canon.get(&pair.1) {
                Some(identity) => *identity,
                None => {
                    let (identity, origin) = match facts.idle(pair.1, &self.claims) {
                        Some(idle) => (idle, idle),
                        None => (room.identity(), identity::OTHER),
                    };
                    self.canon.insert(pair.1, identity);
                    self.claims.insert(identity, pair.1);
                    self.origin.insert(identity, origin);
                    identity
                }
            };
            self.target.insert(*pair, identity);
        }
    }

    /// Words: every pair gets an identity that says what it does now to the
    /// policies in force, and is free to say what it must to the new ones.
    fn repeat(
        &mut self,
        facts: &Facts<'_>,
        room: &mut Room<'_>,
        contents: &Contents,
    ) -> Result<(), Full> {
        let mut fresh: HashMap<ClassId, Vec<Identity>> = HashMap::new();
        for pair in facts.pairs.keys() {
            let (identity, class) = *pair;
            let canon = self.canon.get(&class).copied();
            let mut usable = canon
                .into_iter()
                .chain(fresh.get(&class).into_iter().flatten().copied());
            let target = if canon == Some(identity) {
                identity
            } else if let Some(found) =
                usable.find(|other| facts.same(self.origin(*other), identity))
            {
                found
            } else if self.claims.get(&identity).is_none_or(|c| *c == class) {
                self.claims.insert(identity, class);
                identity
            } else {
                let new = room.identity();
                for policy in &facts.live {
                    let answer = facts.kernel.answer(*policy, identity);
                    if answer != facts.kernel.default(*policy) {
                        let policy = u16::try_from(*policy).expect("from a word");
                        room.row(policy, new, answer, contents)?;
                    }
                }
                self.claims.insert(new, class);
                self.origin.insert(new, identity);
                self.canon.entry(class).or_insert(new);
                fresh.entry(class).or_default().push(new);
                new
            };
            self.target.insert(*pair, target);
        }
        Ok(())
    }
}

//! One try at a plan: operations in their order.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnet::IpNet;
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::identity::{self, Identity};
use policy_common::abi::policy::PolicyKey;

use super::contents::{Answer, Contents, ZERO};
use super::limits::Full;
use super::numbers::{self, Given};
use super::regions::{Place, Prefixes, Region};
use super::room::{DENY_ALL, Room};
use super::scheme::{Admitted, Facts, Pair, Scheme, Way};
use super::seats::Seats;
use super::services;
use crate::ops::Op;

/// A plan, and what it gives to each endpoint.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) ops: Vec<Op>,
    /// Beside the seats: their numbers and the word's generation.
    pub(super) given: Vec<(Given, u32)>,
}

/// Makes a plan that changes those who are admitted.
pub(super) fn draft(
    facts: &Facts<'_>,
    all: &Seats<'_>,
    admitted: &Admitted,
    contents: &mut Contents,
) -> Result<Draft, Full> {
    let mut room = Room::new(facts.mirror, facts.limits, contents);
    let mut first = Vec::new();
    if facts.kernel.row(u32::from(DENY_ALL), identity::OTHER) != Some(Some(ZERO)) {
        // Without it the number denies just as well, and says that it is
        // incomplete: no reason to stop.
        let _no_room = room.row(DENY_ALL, identity::OTHER, Some(ZERO), contents);
        first.append(&mut room.port_sets);
        first.append(&mut room.row_ops);
    }
    let scheme = match admitted {
        Admitted::Nothing => None,
        _ => Some(Scheme::choose(facts, admitted, &mut room, contents)?),
    };
    let given = match &scheme {
        Some(scheme) => numbers::give(facts, admitted, scheme, &mut room, contents)?,
        None => numbers::held_all(facts),
    };
    let mut writer = Writer {
        facts,
        contents,
        scheme: scheme.as_ref(),
        ops: first,
        generation: newest_generation(facts),
        narrowed: BTreeSet::new(),
        finals: Vec::with_capacity(facts.regions.len()),
        slots: Vec::with_capacity(facts.regions.len()),
        before: 0,
    };
    writer.shut(all);
    writer.ops.append(&mut room.extents);
    writer.ops.append(&mut room.port_sets);
    writer.ops.append(&mut room.row_ops);
    let frozen = writer.frozen(&given);
    writer.before = writer.ops.len();
    writer.point();
    let moves = scheme
        .as_ref()
        .is_some_and(|scheme| scheme.way == Way::Move);
    if moves {
        writer.remove(&frozen);
    }
    let generations = writer.endpoints(all, &given);
    let mut generations = writer.renew(&given, generations, all.renew);
    writer.attach(all, &given);
    writer.leave(all);
    writer.mark();
    if !moves {
        // A packet that read the old word and looks its peer up only now must
        // still find the identity that the old policy knows.
        let words = writer.ops.len();
        writer.narrowed.clear();
        writer.settle(&frozen);
        writer.remove(&frozen);
        if writer.ops.len() > words {
            writer.ops.insert(words, Op::Grace);
        }
        generations = writer.renew(&given, generations, false);
    }
    writer.free(all, &given, &room);
    let ops = writer.ops;
    Ok(Draft {
        ops,
        given: given.into_iter().zip(generations).collect(),
    })
}

fn newest_generation(facts: &Facts<'_>) -> u32 {
    let words = facts.mirror.endpoints.values();
    let newest = words.map(|e| PolicyWord(e.word).generation()).max();
    facts.mirror.generation.max(newest.unwrap_or(0))
}

struct Writer<'a> {
    facts: &'a Facts<'a>,
    contents: &'a mut Contents,
    scheme: Option<&'a Scheme>,
    ops: Vec<Op>,
    generation: u32,
    /// Policy numbers in force that allow somebody less than they did.
    narrowed: BTreeSet<u32>,
    /// Identity of each region's row when all is done; `None`: it has no row.
    finals: Vec<Option<Identity>>,
    /// The slot in each region's row so far.
    slots: Vec<u32>,
    /// Where among the operations anything begins to change.
    before: usize,
}

impl Writer<'_> {
    /// Policy numbers that stay in force without being what is desired.
    fn frozen(&self, given: &[Given]) -> BTreeSet<u32> {
        let stale = given.iter().filter(|given| !given.current);
        let numbers = stale.flat_map(|given| given.policies);
        let numbers = numbers.filter(|number| *number != 0 && *number != DENY_ALL);
        numbers.map(u32::from).collect()
    }

    /// Interfaces of pods for which there is no slot, before anything changes for
    /// the word that they may have had: where something isolates the pod, the
    /// programs stay and lead nowhere, so that only the node's own traffic passes.
    fn shut(&mut self, all: &Seats<'_>) {
        let mirror = self.facts.mirror;
        for (ifindex, isolated) in all.standing.iter().copied() {
            match (isolated, mirror.attached.contains(&ifindex)) {
                (true, false) => self.ops.push(Op::Attach { ifindex }),
                (false, true) => self.ops.push(Op::Detach { ifindex }),
                _ => {}
            }
            if mirror.interfaces.contains_key(&ifindex) {
                self.ops.push(Op::DeleteInterface { ifindex });
            }
        }
    }

    /// Gives addresses and prefixes the identities that the scheme says.
    fn point(&mut self) {
        let seats = self.facts.seats.iter().filter(|seat| seat.old().is_some());
        let there: HashSet<u32> = seats.map(|seat| seat.slot).collect();
        for region in self.facts.regions {
            let row = region.row;
            // A slot that is not written yet would tell of somebody else.
            let before = row.map_or(0, |row| row.slot);
            let slot = if there.contains(&region.slot) {
                region.slot
            } else {
                before
            };
            self.slots.push(slot);
            let Some(scheme) = self.scheme else {
                self.finals.push(row.map(|row| row.identity));
                continue;
            };
            let target = scheme.target[&(region.identity, region.class)];
            let node = match (region.want, row) {
                (Some(want), _) => want.node,
                // What goes is not pointed elsewhere where removing it is the
                // change.
                (None, Some(row)) if scheme.way == Way::Words => row.node,
                (None, _) => {
                    self.finals.push(row.map(|row| row.identity));
                    continue;
                }
            };
            if row.is_none_or(|row| (row.identity, row.node, row.slot) != (target, node, slot)) {
                self.ops.push(write(region.place, target, node, slot));
            }
            self.finals.push(Some(target));
        }
        if let Some(scheme) = self.scheme {
            match scheme.way {
                Way::Words => {}
                Way::Move => self.note_moves(scheme),
                Way::InPlace => self.note_mended(scheme),
            }
        }
    }

    fn note_moves(&mut self, scheme: &Scheme) {
        for (policy, wanted) in &self.facts.standing {
            for (pair, target) in &scheme.target {
                let old = self.facts.kernel.answer(*policy, pair.0);
                let new = Some(self.facts.wanted.answer(*wanted, pair.1));
                if *target != pair.0 && self.contents.narrows(old, new) {
                    self.narrowed.insert(*policy);
                }
            }
        }
    }

    fn note_mended(&mut self, scheme: &Scheme) {
        for (policy, wanted) in &self.facts.standing {
            if !scheme.mended.contains_key(policy) {
                continue;
            }
            for pair in self.facts.pairs.keys() {
                let old = self.facts.kernel.answer(*policy, pair.0);
                let new = Some(self.facts.wanted.answer(*wanted, pair.1));
                if self.contents.narrows(old, new) {
                    self.narrowed.insert(*policy);
                }
            }
        }
    }

    /// New endpoints, then all words; gives each endpoint's generation.
    fn endpoints(&mut self, all: &Seats<'_>, given: &[Given]) -> Vec<u32> {
        let mut generations = Vec::with_capacity(given.len());
        let mut words = Vec::new();
        for (seat, given) in all.seats.iter().zip(given) {
            let ifindex = seat.value.ifindex;
            let [ingress, egress] = given.policies;
            let same = seat.old() == Some(given.policies);
            if !same {
                self.generation += 1;
            }
            let word = PolicyWord::new(self.generation, ingress, egress);
            match seat.found.filter(|_| seat.led) {
                Some(found) => {
                    if found.link_local6 != seat.value.link_local6 {
                        let address = seat.value.link_local6.into();
                        let slot = seat.slot;
                        self.ops.push(Op::LinkLocal { slot, address });
                    }
                    if same {
                        generations.push(PolicyWord(found.word).generation());
                    } else {
                        generations.push(word.generation());
                        let slot = seat.slot;
                        words.push(Op::Word { slot, word });
                    }
                }
                None => {
                    let (slot, mut value) = (seat.slot, seat.value);
                    value.word = word.0;
                    self.ops.push(Op::Endpoint { slot, value });
                    self.ops.push(Op::Interface { ifindex, slot });
                    generations.push(word.generation());
                }
            }
        }
        self.ops.append(&mut words);
        generations
    }

    /// Puts the programs where they are missing: after all words, so that an
    /// interface that refuses holds up nobody else's policy. Each takes the kernel some
    /// ten milliseconds, and a pod is open until then: isolated ones come first.
    fn attach(&mut self, all: &Seats<'_>, given: &[Given]) {
        for isolated in [true, false] {
            for (seat, given) in all.seats.iter().zip(given) {
                let ifindex = seat.value.ifindex;
                let is_isolated = given.policies != [PolicyWord::NOT_ISOLATED; 2];
                if is_isolated == isolated && !self.facts.mirror.attached.contains(&ifindex) {
                    self.ops.push(Op::Attach { ifindex });
                }
            }
        }
    }

    /// Says whose the addresses of pods of this node are, where that could not be
    /// said before their slots were written.
    fn mark(&mut self) {
        if self.scheme.is_none() {
            return;
        }
        for (at, region) in self.facts.regions.iter().enumerate() {
            let (Some(want), Some(now)) = (region.want, self.finals[at]) else {
                continue;
            };
            if self.slots[at] != region.slot {
                self.ops
                    .push(write(region.place, now, want.node, region.slot));
                self.slots[at] = region.slot;
            }
        }
    }

    /// Points every address to its class's own identity.
    fn settle(&mut self, frozen: &BTreeSet<u32>) {
        let Some(scheme) = self.scheme else { return };
        for (at, region) in self.facts.regions.iter().enumerate() {
            let (Some(want), Some(now)) = (region.want, self.finals[at]) else {
                continue;
            };
            let canon = scheme.canon.get(&region.class).copied().unwrap_or(now);
            if canon != now && self.lets(frozen, now, canon) {
                let slot = self.slots[at];
                self.ops.push(write(region.place, canon, want.node, slot));
                self.finals[at] = Some(canon);
            }
        }
    }

    /// Removes rows that are not desired: prefixes, shortest first, so that what
    /// an address falls back on is never one that goes as well; then addresses.
    fn remove(&mut self, frozen: &BTreeSet<u32>) {
        if self.scheme.is_none() {
            return;
        }
        let mut prefixes: BTreeMap<IpNet, Identity> = BTreeMap::new();
        let mut leaving = Vec::new();
        for (at, region) in self.facts.regions.iter().enumerate() {
            match (region.want, region.place, self.finals[at]) {
                (Some(_), Place::Prefix(prefix), Some(identity)) => {
                    prefixes.insert(prefix, identity);
                }
                (None, _, Some(identity)) => leaving.push((at, identity)),
                _ => {}
            }
        }
        if leaving.is_empty() {
            return;
        }
        let (hosts, nets): (Vec<_>, Vec<_>) = leaving
            .into_iter()
            .partition(|(at, _)| matches!(self.facts.regions[*at].place, Place::Host(_)));
        let mut table = Prefixes::new(prefixes.clone());
        for (at, identity) in nets.into_iter().rev() {
            let Place::Prefix(prefix) = self.facts.regions[at].place else {
                continue;
            };
            let falls = table.around(&prefix).unwrap_or(identity::OTHER);
            if self.lets(frozen, identity, falls) {
                self.ops.push(Op::DeletePrefix { prefix });
                self.finals[at] = None;
            } else {
                prefixes.insert(prefix, identity);
                table = Prefixes::new(prefixes.clone());
            }
        }
        for (at, identity) in hosts {
            let Place::Host(address) = self.facts.regions[at].place else {
                continue;
            };
            let falls = table.of_address(address).unwrap_or(identity::OTHER);
            if self.lets(frozen, identity, falls) {
                self.ops.push(Op::DeleteHost { address });
                self.finals[at] = None;
            }
        }
    }

    /// Whether an address of one identity may get another without any policy
    /// that was to stay allowing more; notes which allow less.
    fn lets(&mut self, frozen: &BTreeSet<u32>, from: Identity, to: Identity) -> bool {
        let Some(scheme) = self.scheme else {
            return false;
        };
        let answer = |policy: &u32, identity| -> Answer {
            self.facts.kernel.answer(*policy, scheme.origin(identity))
        };
        let mut less = Vec::new();
        for policy in frozen {
            let (old, new) = (answer(policy, from), answer(policy, to));
            if self.contents.narrows(new, old) {
                return false;
            }
            if old != new {
                less.push(*policy);
            }
        }
        self.narrowed.extend(less);
        true
    }

    /// A new generation for every endpoint whose policy narrowed without a new
    /// number: what was remembered of it must be asked again.
    fn renew(&mut self, given: &[Given], mut generations: Vec<u32>, all: bool) -> Vec<u32> {
        for (at, seat) in self.facts.seats.iter().enumerate() {
            let policies = given[at].policies;
            let mut numbers = policies.iter().map(|number| u32::from(*number));
            let stale = (all && seat.led) || numbers.any(|n| self.narrowed.contains(&n));
            if seat.old() == Some(policies) && stale {
                self.generation += 1;
                let word = PolicyWord::new(self.generation, policies[0], policies[1]);
                let slot = seat.slot;
                self.ops.push(Op::Word { slot, word });
                generations[at] = self.generation;
            }
        }
        generations
    }

    /// Takes the programs and the rows of interfaces away that nobody has.
    fn leave(&mut self, all: &Seats<'_>) {
        let mirror = self.facts.mirror;
        let seats = all.seats.iter().map(|seat| seat.value.ifindex);
        let standing = all.standing.iter().map(|(ifindex, _)| *ifindex);
        let wanted: HashSet<u32> = seats.chain(standing).collect();
        let led = mirror.interfaces.keys().copied();
        let gone = all.gone.iter().map(|slot| mirror.endpoints[slot].ifindex);
        let leaving: BTreeSet<u32> = led.chain(gone).filter(|i| !wanted.contains(i)).collect();
        for ifindex in leaving {
            if mirror.attached.contains(&ifindex) {
                self.ops.push(Op::Detach { ifindex });
            }
            if mirror.interfaces.contains_key(&ifindex) {
                self.ops.push(Op::DeleteInterface { ifindex });
            }
        }
    }

    /// Frees what nothing names any more, a grace period later.
    fn free(&mut self, all: &Seats<'_>, given: &[Given], room: &Room<'_>) {
        let facts = self.facts;
        let mut live: HashSet<u32> = HashSet::from([u32::from(DENY_ALL)]);
        live.extend(given.iter().flat_map(|g| g.policies).map(u32::from));
        let mut named: HashSet<Identity> = self.finals.iter().flatten().copied().collect();
        named.insert(identity::OTHER);
        let said = |key: PolicyKey, old: Option<Answer>| -> Option<Answer> {
            room.written.get(&key).copied().or(old)
        };
        let dead = |policy: u32, identity: Identity, answer: Answer, default: Option<Answer>| {
            let spare = identity != identity::OTHER && Some(answer) == default;
            spare || !live.contains(&policy) || !named.contains(&identity)
        };
        let default = |policy: u32| {
            let identity = identity::OTHER;
            let old = facts.kernel.row(policy, identity);
            said(PolicyKey { policy, identity }, old)
        };
        let mut rows: BTreeSet<PolicyKey> = BTreeSet::new();
        for (policy, old) in facts.kernel.rows() {
            let default = default(policy);
            for (identity, answer) in old.iter().copied() {
                let key = PolicyKey { policy, identity };
                let answer = said(key, Some(answer)).flatten();
                if dead(policy, identity, answer, default) {
                    rows.insert(key);
                }
            }
        }
        for (key, answer) in &room.written {
            if dead(key.policy, key.identity, *answer, default(key.policy)) {
                rows.insert(*key);
            }
        }
        let services = services::rows(facts, &self.finals);
        if room.replaced || !rows.is_empty() || !all.gone.is_empty() || !services.after.is_empty() {
            self.ops.push(Op::Grace);
        }
        // Whoever read the old word may still ask what its policy knows.
        self.ops.extend(services.after);
        let rows = rows.into_iter().map(|key| Op::DeleteRow { key });
        self.ops.extend(rows);
        let slots = all
            .gone
            .iter()
            .map(|slot| Op::DeleteEndpoint { slot: *slot });
        self.ops.extend(slots);
        self.ops.splice(self.before..self.before, services.before);
    }
}

fn write(place: Place, identity: Identity, node: bool, slot: u32) -> Op {
    match place {
        Place::Host(address) => Op::Host {
            address,
            identity,
            node,
            slot,
        },
        Place::Prefix(prefix) => Op::Prefix { prefix, identity },
    }
}

/// Pairs of identity and class, with how many regions have each.
pub(super) fn pairs(regions: &[Region]) -> BTreeMap<Pair, usize> {
    let mut counts: std::collections::HashMap<Pair, usize> = std::collections::HashMap::new();
    for region in regions {
        *counts.entry((region.identity, region.class)).or_default() += 1;
    }
    let mut pairs: BTreeMap<Pair, usize> = counts.into_iter().collect();
    // The addresses that nobody names.
    let rest = (identity::OTHER, crate::desired::ClassId::OTHER);
    *pairs.entry(rest).or_default() += 1;
    pairs
}

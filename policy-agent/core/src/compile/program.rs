//! A set of policies in the order in which it is asked, ready to answer for any
//! class of peers.
//!
//! Here order, tiers and unions are resolved. Policies are asked tier by tier,
//! in a tier by order and id, in a policy by the place of the rule; the first
//! rule that allows or denies decides. The NetworkPolicy tier is asked in the
//! same way: its rules only allow, so the first that matches is as good as any.

use std::sync::Arc;

use policy_common::abi::Direction;
use policy_common::abi::policy::{ACTION_ALLOW, ACTION_DENY, RuleId};

use super::part::{Part, PartRule};
use super::rules::Rules;
use super::space::{EVERYTHING, Space};
use crate::desired::{PortSetSpec, Provenance};
use crate::model::{Action, PolicyId, Tier};
use crate::resolve::atoms::{AtomId, NameId, OWN_NODE, PortName, Signature};

/// Policies that apply to some pods in one direction, and what does not depend
/// on the peer.
#[derive(Debug, Clone, Default)]
pub struct Program {
    parts: Vec<Arc<Part>>,
    /// Where each rule is: part and place in it, in the order in which they are
    /// asked.
    rules: Vec<(usize, usize)>,
    tiers: Vec<TierEnd>,
    /// Who decides what no tier does.
    end: RuleId,
    /// Rules that match every peer, by place in `rules`.
    unconditional: Vec<usize>,
    /// Which rules name an atom, sorted.
    by_atom: Vec<(AtomId, usize)>,
    /// Every name that the peer resolves, sorted.
    names: Vec<NameId>,
    /// What the subject resolves, sorted.
    own_names: Vec<(PortName, Vec<u32>)>,
}

/// A tier, and what it does with what no rule decides.
#[derive(Debug, Clone)]
struct TierEnd {
    /// Its rules end before this place.
    rules: usize,
    /// The rule that grants the own node.
    own_node: Option<RuleId>,
    /// The rule that denies the rest.
    rest: Option<RuleId>,
}

/// What can decide for policies of these tiers and ids, apart from their rules.
pub fn defaults(direction: Direction, policies: &[(Tier, &PolicyId)]) -> Vec<Provenance> {
    let isolated = Tier::ALL
        .into_iter()
        .filter_map(|tier| isolated(direction, tier, policies));
    isolated
        .chain([Provenance::OwnNode, Provenance::Default])
        .collect()
}

/// What denies the rest of a tier, if anything does.
fn isolated(
    direction: Direction,
    tier: Tier,
    policies: &[(Tier, &PolicyId)],
) -> Option<Provenance> {
    let of_tier = policies.iter().filter(|(of, _)| *of == tier);
    let mut policies: Vec<PolicyId> = of_tier.map(|(_, id)| (*id).clone()).collect();
    policies.sort();
    let isolates = tier.denies_by_default() && !policies.is_empty();
    isolates.then_some(Provenance::Isolated {
        policies,
        direction,
    })
}

impl Program {
    /// Puts policies together. `policies` are in the order in which they are
    /// asked; `own_names` are the names that the subject resolves, sorted, with
    /// their points; `rules` knows all of [`defaults`].
    pub fn new(
        direction: Direction,
        policies: &[(Tier, &PolicyId)],
        parts: Vec<Arc<Part>>,
        own_names: Vec<(PortName, Vec<u32>)>,
        rules: &Rules,
    ) -> Self {
        let mut program = Self {
            end: rules.id(&Provenance::Default),
            own_names,
            ..Self::default()
        };
        for (at, part) in parts.iter().enumerate() {
            for (place, rule) in part.rules.iter().enumerate() {
                let number = program.rules.len();
                program.rules.push((at, place));
                match &rule.peers {
                    None => program.unconditional.push(number),
                    Some(peers) => {
                        let named = peers.iter().map(|atom| (*atom, number));
                        program.by_atom.extend(named);
                    }
                }
                program.names.extend(&rule.peer_names);
            }
        }
        for tier in Tier::ALL {
            let rest = isolated(direction, tier, policies).map(|what| rules.id(&what));
            let grants_node = rest.is_some() && direction == Direction::Egress;
            let upto = program
                .rules
                .partition_point(|(part, _)| parts[*part].tier <= tier);
            program.tiers.push(TierEnd {
                rules: upto,
                own_node: grants_node.then(|| rules.id(&Provenance::OwnNode)),
                rest,
            });
        }
        program.by_atom.sort_unstable();
        program.names.sort_unstable();
        program.names.dedup();
        program.parts = parts;
        program
    }

    /// Every atom that the answer may depend on, sorted.
    pub fn atoms(&self) -> impl Iterator<Item = AtomId> {
        let node = self.grants_node().then_some(OWN_NODE);
        let mut last = None;
        let named = self.by_atom.iter().filter_map(move |(atom, _)| {
            let again = last.replace(*atom) == Some(*atom);
            (!again).then_some(*atom)
        });
        node.into_iter().chain(named)
    }

    fn grants_node(&self) -> bool {
        self.tiers.iter().any(|tier| tier.own_node.is_some())
    }

    /// Whether a rule asks for port names of the peer.
    pub fn asks_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The part of a signature that can make a difference to the answer.
    pub fn projection(&self, signature: &Signature) -> Signature {
        let atoms = signature.atoms.iter().copied();
        let names = signature.names.iter();
        Signature {
            atoms: atoms
                .filter(|atom| match *atom {
                    OWN_NODE => self.grants_node(),
                    atom => !self.naming(atom).is_empty(),
                })
                .collect(),
            names: names
                .filter(|(name, _)| self.names.binary_search(name).is_ok())
                .cloned()
                .collect(),
        }
    }

    /// The rules that name an atom.
    fn naming(&self, atom: AtomId) -> &[(AtomId, usize)] {
        let first = self.by_atom.partition_point(|(named, _)| *named < atom);
        let rest = &self.by_atom[first..];
        let count = rest.iter().take_while(|(named, _)| *named == atom).count();
        &rest[..count]
    }

    /// What the policies say to peers of a signature.
    pub fn answer(&self, peer: &Signature) -> PortSetSpec {
        let mut matching = self.unconditional.clone();
        for atom in &peer.atoms {
            matching.extend(self.naming(*atom).iter().map(|(_, rule)| *rule));
        }
        matching.sort_unstable();
        matching.dedup();
        let mut space = Space::default();
        let mut matching = matching.into_iter().peekable();
        for tier in &self.tiers {
            while let Some(number) = matching.next_if(|number| *number < tier.rules) {
                let (part, place) = self.rules[number];
                self.lay(&self.parts[part].rules[place], peer, &mut space);
            }
            let is_node = peer.atoms.binary_search(&OWN_NODE).is_ok();
            if let Some(id) = tier.own_node.filter(|_| is_node) {
                space.decide(EVERYTHING, id, ACTION_ALLOW);
            }
            if let Some(id) = tier.rest {
                space.decide(EVERYTHING, id, ACTION_DENY);
            }
            space.end_tier();
        }
        space.finish(self.end, ACTION_ALLOW)
    }

    fn lay(&self, rule: &PartRule, peer: &Signature, space: &mut Space) {
        let mut each = |range| match rule.action {
            Action::Allow => space.decide(range, rule.id, ACTION_ALLOW),
            Action::Deny => space.decide(range, rule.id, ACTION_DENY),
            Action::Pass => space.pass(range),
            Action::Log => space.log(range),
        };
        rule.ranges.iter().for_each(|range| each(*range));
        for name in &rule.own_names {
            let found = self.own_names.binary_search_by(|(own, _)| own.cmp(name));
            let points = found.map_or(&[][..], |at| &self.own_names[at].1);
            points.iter().for_each(|at| each((*at, *at)));
        }
        for name in &rule.peer_names {
            let found = peer.names.binary_search_by_key(name, |(name, _)| *name);
            let points = found.map_or(&[][..], |at| &peer.names[at].1);
            points.iter().for_each(|at| each((*at, *at)));
        }
    }
}

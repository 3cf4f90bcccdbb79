//! A set of policies in the order in which it is asked, ready to answer for any
//! class of peers.
//!
//! Here order, tiers and unions are resolved. Policies are asked tier by tier,
//! in a tier by order and id, in a policy by the place of the rule; the first
//! rule that allows or denies decides. The NetworkPolicy tier is asked in the
//! same way: its rules only allow, so the first that matches is as good as any.

use std::sync::Arc;

use policy_common::abi::Direction;
use policy_common::abi::policy::{ACTION_ALLOW, ACTION_DENY, RuleId, point};

use super::rules::Rules;
use super::space::{EVERYTHING, Space};
use crate::desired::{PortSetSpec, Provenance};
use crate::model::{Action, Peers, Policy, PortMatch, Ports, Rule, Tier};
use crate::resolve::atoms::{self, AtomId, Atoms, NameId, OWN_NODE, PortName, Signature};

/// Policies that apply to some pods in one direction, in the order in which they
/// are asked.
#[derive(Debug, Clone)]
pub struct Ruleset<'p> {
    /// Which way they look.
    pub direction: Direction,
    /// The policies.
    pub policies: Vec<&'p Arc<Policy>>,
}

impl<'p> Ruleset<'p> {
    /// Of these policies, those that say anything about the direction.
    pub fn new(direction: Direction, policies: impl IntoIterator<Item = &'p Arc<Policy>>) -> Self {
        let mut policies: Vec<_> = policies
            .into_iter()
            .filter(|policy| says_anything(policy, direction))
            .collect();
        policies.sort_by(|a, b| (a.tier, a.order, &a.id).cmp(&(b.tier, b.order, &b.id)));
        Self {
            direction,
            policies,
        }
    }

    /// The port names that are the subject's own to resolve, sorted: those of
    /// ingress rules.
    pub fn subject_names(&self) -> Vec<PortName> {
        if self.direction == Direction::Egress {
            return Vec::new();
        }
        let rules = self
            .policies
            .iter()
            .flat_map(|policy| atoms::effective(rules_of(policy, self.direction).as_ref()));
        let mut names: Vec<_> = rules.flat_map(atoms::names).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Everything that can decide.
    pub fn provenances(&self) -> Vec<Provenance> {
        let rules = self.policies.iter().flat_map(|policy| {
            let rules = atoms::effective(rules_of(policy, self.direction).as_ref());
            rules
                .filter(|rule| matches!(rule.action, Action::Allow | Action::Deny))
                .map(|rule| self.provenance(policy, rule))
        });
        let isolated = Tier::ALL.into_iter().filter_map(|tier| self.isolated(tier));
        rules
            .chain(isolated)
            .chain([Provenance::OwnNode, Provenance::Default])
            .collect()
    }

    fn provenance(&self, policy: &Policy, rule: &Rule) -> Provenance {
        Provenance::Rule {
            policy: policy.id.clone(),
            direction: self.direction,
            index: rule.index,
        }
    }

    /// What denies the rest of a tier, if anything does.
    fn isolated(&self, tier: Tier) -> Option<Provenance> {
        let policies = self.policies.iter().filter(|policy| policy.tier == tier);
        let mut policies: Vec<_> = policies.map(|policy| policy.id.clone()).collect();
        policies.sort();
        let isolates = tier.denies_by_default() && !policies.is_empty();
        isolates.then_some(Provenance::Isolated {
            policies,
            direction: self.direction,
        })
    }
}

/// The rules of a direction.
pub fn rules_of(policy: &Policy, direction: Direction) -> &Option<Vec<Rule>> {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Whether a policy isolates in the direction or has a rule for it.
fn says_anything(policy: &Policy, direction: Direction) -> bool {
    rules_of(policy, direction)
        .as_ref()
        .is_some_and(|rules| policy.tier.denies_by_default() || !rules.is_empty())
}

/// A ruleset with peers as atoms and ports as points.
#[derive(Debug, Clone, Default)]
pub struct Program {
    tiers: Vec<TierProgram>,
    /// Who decides what no tier does.
    end: RuleId,
    /// Every atom that a rule asks about, sorted.
    atoms: Vec<AtomId>,
    /// Every name that the peer resolves, sorted.
    names: Vec<NameId>,
}

#[derive(Debug, Clone)]
struct TierProgram {
    rules: Vec<RuleProgram>,
    /// The rule that grants the own node.
    own_node: Option<RuleId>,
    /// The rule that denies the rest.
    rest: Option<RuleId>,
}

#[derive(Debug, Clone)]
struct RuleProgram {
    action: Action,
    id: RuleId,
    /// `None`: every peer.
    peers: Option<Vec<AtomId>>,
    ranges: Vec<(u32, u32)>,
    names: Vec<NameId>,
}

impl Program {
    /// Prepares a ruleset. `subject` holds the points of each of
    /// [`Ruleset::subject_names`], in their order; `atoms` and `rules` know
    /// everything that the ruleset names.
    pub fn new(ruleset: &Ruleset<'_>, subject: &[Vec<u32>], atoms: &Atoms, rules: &Rules) -> Self {
        let names = ruleset.subject_names();
        let own = |name: &PortName| {
            let at = names.binary_search(name).ok()?;
            subject.get(at)
        };
        let mut program = Self {
            end: rules.id(&Provenance::Default),
            ..Self::default()
        };
        for tier in Tier::ALL {
            let rest = ruleset.isolated(tier).map(|what| rules.id(&what));
            let grants_node = rest.is_some() && ruleset.direction == Direction::Egress;
            let of_tier = ruleset.policies.iter().filter(|policy| policy.tier == tier);
            let prepared = of_tier.flat_map(|policy| {
                let list = atoms::effective(rules_of(policy, ruleset.direction).as_ref());
                list.map(|rule| {
                    let id = rules.id(&ruleset.provenance(policy, rule));
                    RuleProgram::new(rule, id, ruleset.direction, &own, atoms)
                })
            });
            let tier = TierProgram {
                rules: prepared.collect(),
                own_node: grants_node.then(|| rules.id(&Provenance::OwnNode)),
                rest,
            };
            if !tier.rules.is_empty() || tier.rest.is_some() {
                program.tiers.push(tier);
            }
        }
        program.collect_needs();
        program
    }

    fn collect_needs(&mut self) {
        for tier in &self.tiers {
            self.atoms.extend(tier.own_node.map(|_| OWN_NODE));
            for rule in &tier.rules {
                self.atoms.extend(rule.peers.iter().flatten());
                self.names.extend(&rule.names);
            }
        }
        self.atoms.sort_unstable();
        self.atoms.dedup();
        self.names.sort_unstable();
        self.names.dedup();
    }

    /// Every atom that a rule asks about, sorted.
    pub fn atoms(&self) -> &[AtomId] {
        &self.atoms
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
                .filter(|atom| self.atoms.binary_search(atom).is_ok())
                .collect(),
            names: names
                .filter(|(name, _)| self.names.binary_search(name).is_ok())
                .cloned()
                .collect(),
        }
    }

    /// What the policies say to peers of a signature.
    pub fn answer(&self, peer: &Signature) -> PortSetSpec {
        let mut space = Space::default();
        for tier in &self.tiers {
            for rule in &tier.rules {
                if rule.matches(peer) {
                    rule.ranges
                        .iter()
                        .for_each(|range| rule.lay(&mut space, *range));
                    for name in &rule.names {
                        for at in points(peer, *name) {
                            rule.lay(&mut space, (*at, *at));
                        }
                    }
                }
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
}

impl RuleProgram {
    fn new<'a>(
        rule: &Rule,
        id: RuleId,
        direction: Direction,
        own: &impl Fn(&PortName) -> Option<&'a Vec<u32>>,
        atoms: &Atoms,
    ) -> Self {
        let peers = match &rule.peers {
            Peers::Any => None,
            Peers::Of(peers) => {
                let known = peers.iter().filter_map(|peer| atoms.atom(peer));
                Some(known.collect())
            }
        };
        let mut prepared = Self {
            action: rule.action,
            id,
            peers,
            ranges: Vec::new(),
            names: Vec::new(),
        };
        let ports = match &rule.ports {
            Ports::Any => {
                prepared.ranges.push(EVERYTHING);
                &[]
            }
            Ports::Of(ports) => ports.as_slice(),
        };
        for port in ports {
            match port {
                PortMatch::Range {
                    protocol,
                    first,
                    last,
                } => {
                    let at = |port| point(protocol.number(), port);
                    if first <= last {
                        prepared.ranges.push((at(*first), at(*last)));
                    }
                }
                PortMatch::Named { protocol, name } => {
                    let name = (*protocol, name.clone());
                    match direction {
                        Direction::Ingress => {
                            let points = own(&name).into_iter().flatten();
                            prepared.ranges.extend(points.map(|at| (*at, *at)));
                        }
                        Direction::Egress => prepared.names.extend(atoms.name(&name)),
                    }
                }
            }
        }
        prepared
    }

    fn matches(&self, peer: &Signature) -> bool {
        self.peers.as_ref().is_none_or(|peers| {
            peers
                .iter()
                .any(|atom| peer.atoms.binary_search(atom).is_ok())
        })
    }

    fn lay(&self, space: &mut Space, range: (u32, u32)) {
        match self.action {
            Action::Allow => space.decide(range, self.id, ACTION_ALLOW),
            Action::Deny => space.decide(range, self.id, ACTION_DENY),
            Action::Pass => space.pass(range),
            Action::Log => space.log(range),
        }
    }
}

/// The points to which a peer resolves a name.
fn points(peer: &Signature, name: NameId) -> &[u32] {
    let found = peer.names.binary_search_by_key(&name, |(name, _)| *name);
    found.map_or(&[], |at| &peer.names[at].1)
}

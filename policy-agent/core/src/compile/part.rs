//! One policy in one direction, prepared: peers as atoms, ports as points.
//!
//! A part is made once for a policy in force, whatever the number of pods and of
//! sets of policies that it is in.

use policy_common::abi::Direction;
use policy_common::abi::policy::{RuleId, point};

use super::rules::Rules;
use super::space::EVERYTHING;
use crate::desired::Provenance;
use crate::model::{Action, Peers, Policy, PolicyId, PortMatch, Ports, Rule, Tier};
use crate::resolve::atoms::{self, AtomId, Atoms, NameId, PortName};

/// One direction of a policy in force.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its tier.
    pub tier: Tier,
    /// Its rules, in order, without those that match nothing.
    pub rules: Vec<PartRule>,
}

/// A rule.
#[derive(Debug, Clone)]
pub struct PartRule {
    /// What it does.
    pub action: Action,
    /// Its number.
    pub id: RuleId,
    /// Its peers; `None`: every one.
    pub peers: Option<Vec<AtomId>>,
    /// Points that it matches.
    pub ranges: Vec<(u32, u32)>,
    /// Names that the subject resolves (ingress).
    pub own_names: Vec<PortName>,
    /// Names that the peer resolves (egress).
    pub peer_names: Vec<NameId>,
}

impl Part {
    /// Prepares a policy; `atoms` and `rules` know everything that it names.
    pub fn new(policy: &Policy, direction: Direction, atoms: &Atoms, rules: &Rules) -> Self {
        let list = atoms::effective(rules_of(policy, direction));
        let prepared = list.map(|rule| {
            let id = rules.id(&provenance(policy, direction, rule));
            PartRule::new(rule, id, direction, atoms)
        });
        Self {
            tier: policy.tier,
            rules: prepared.collect(),
        }
    }
}

impl PartRule {
    fn new(rule: &Rule, id: RuleId, direction: Direction, atoms: &Atoms) -> Self {
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
            own_names: Vec::new(),
            peer_names: Vec::new(),
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
                        Direction::Ingress => prepared.own_names.push(name),
                        Direction::Egress => prepared.peer_names.extend(atoms.name(&name)),
                    }
                }
            }
        }
        prepared
    }
}

/// The rules of a direction; `None`: the policy says nothing of it.
pub fn rules_of(policy: &Policy, direction: Direction) -> Option<&Vec<Rule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

/// Whether a policy isolates in the direction or has a rule for it.
pub fn says_anything(policy: &Policy, direction: Direction) -> bool {
    rules_of(policy, direction)
        .is_some_and(|rules| policy.tier.denies_by_default() || !rules.is_empty())
}

/// The place of a policy among those that are asked: lower is asked first.
pub fn place(policy: &Policy) -> (Tier, i64, &PolicyId) {
    (policy.tier, policy.order, &policy.id)
}

/// The port names that subjects of the policy resolve: those of ingress rules.
pub fn subject_names(policy: &Policy) -> Vec<PortName> {
    let rules = atoms::effective(policy.ingress.as_ref());
    rules.flat_map(atoms::names).collect()
}

/// Every rule of a policy that can decide.
pub fn provenances(policy: &Policy) -> Vec<Provenance> {
    let of = |direction| {
        let rules = atoms::effective(rules_of(policy, direction));
        let decide = |rule: &&Rule| matches!(rule.action, Action::Allow | Action::Deny);
        let rules = rules.filter(decide);
        rules.map(move |rule| provenance(policy, direction, rule))
    };
    let ingress = of(Direction::Ingress);
    ingress.chain(of(Direction::Egress)).collect()
}

fn provenance(policy: &Policy, direction: Direction, rule: &Rule) -> Provenance {
    Provenance::Rule {
        policy: policy.id.clone(),
        direction,
        index: rule.index,
    }
}

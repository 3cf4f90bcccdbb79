//! A NetworkPolicy, defaulted as the API server does it (semantics 2) and closed where it cannot
//! be understood (semantics 14).
//!
//! The smallest thing that is wrong is what matches nothing: a peer, a port entry, or a rule. A
//! rule of which one peer is wrong still allows through its other peers. Unknown fields are
//! ignored, as API server and typed clients drop them.

use serde_json::Value;

use super::block::Block;
use super::json::{self, NotUnderstood};
use super::port::PortEntry;
use super::selector::Selector;

/// Which half of a connection a rule is about, seen from the pod that the policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Packets to the pod.
    Ingress,
    /// Packets from the pod.
    Egress,
}

/// One NetworkPolicy.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subject: Selector,
    pub(super) isolates: Vec<Direction>,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

/// One rule: some peer AND some port entry. An empty list is "every".
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) peers: Vec<Peer>,
    pub(super) ports: Vec<Option<PortEntry>>,
}

/// One item of `from` or `to` (the table in semantics 3).
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// Pods by label; `namespaces: None` is the policy's own namespace, `pods: None` every pod.
    Pods {
        pods: Option<Selector>,
        namespaces: Option<Selector>,
    },
    /// Addresses.
    Block(Block),
    /// Nothing that we know: matches nothing.
    Nothing,
}

impl Policy {
    /// Reads an object whose identity the caller has established.
    pub(super) fn parse(namespace: &str, name: &str, object: &Value) -> Self {
        let nothing = Value::Null;
        let spec = json::field(object, "spec").unwrap_or(&nothing);
        let subject = match json::field(spec, "podSelector") {
            None => Selector::everything(),
            // Semantics 14: a pod selector that cannot be understood selects its whole namespace.
            Some(value) => Selector::parse(value).unwrap_or_else(|_| Selector::everything()),
        };
        let ingress = parse_rules(spec, "ingress", "from");
        let egress = parse_rules(spec, "egress", "to");
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subject,
            isolates: policy_types(spec, !egress.is_empty()),
            ingress,
            egress,
        }
    }

    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The rules of one direction.
    pub(super) fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The rules of one direction, to be altered.
    pub(super) fn rules_mut(&mut self, direction: Direction) -> &mut [Rule] {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

/// The directions that the policy isolates.
///
/// Semantics 2: without types Ingress, and Egress iff there is an egress rule. Unknown entries
/// are ignored; if no known one is left, somebody meant to isolate something that we cannot
/// read, so both directions are closed (our choice, semantics 14: must not un-isolate).
fn policy_types(spec: &Value, has_egress_rules: bool) -> Vec<Direction> {
    use Direction::{Egress, Ingress};
    let types = json::list(spec, "policyTypes");
    if matches!(types, Ok([])) {
        return if has_egress_rules {
            vec![Ingress, Egress]
        } else {
            vec![Ingress]
        };
    }
    let listed = |name: &str| types.is_ok_and(|types| types.iter().any(|item| item == name));
    match (listed("Ingress"), listed("Egress")) {
        (true, false) => vec![Ingress],
        (false, true) => vec![Egress],
        (true, true) | (false, false) => vec![Ingress, Egress],
    }
}

fn parse_rules(spec: &Value, section: &str, peers: &str) -> Vec<Rule> {
    match json::list(spec, section) {
        Ok(rules) => rules.iter().map(|rule| Rule::parse(rule, peers)).collect(),
        Err(NotUnderstood) => vec![Rule::nothing()],
    }
}

impl Rule {
    /// Reads a rule; `peers` is the name of its peer list, `from` or `to`.
    fn parse(value: &Value, peers: &str) -> Self {
        let (true, Ok(peers), Ok(ports)) = (
            value.is_object(),
            json::list(value, peers),
            json::list(value, "ports"),
        ) else {
            return Self::nothing();
        };
        Self {
            peers: peers.iter().map(Peer::parse).collect(),
            ports: ports.iter().map(|p| PortEntry::parse(p).ok()).collect(),
        }
    }

    /// A rule that allows nothing.
    fn nothing() -> Self {
        Self {
            peers: vec![Peer::Nothing],
            ports: Vec::new(),
        }
    }
}

impl Peer {
    fn parse(value: &Value) -> Self {
        let selector = |name| json::field(value, name).map(Selector::parse).transpose();
        let (Ok(pods), Ok(namespaces)) = (selector("podSelector"), selector("namespaceSelector"))
        else {
            return Self::Nothing;
        };
        match (json::field(value, "ipBlock"), &pods, &namespaces) {
            (Some(block), None, None) => Block::parse(block).map_or(Self::Nothing, Self::Block),
            (None, None, None) | (Some(_), _, _) => Self::Nothing,
            (None, _, _) => Self::Pods { pods, namespaces },
        }
    }
}

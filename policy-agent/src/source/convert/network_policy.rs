//! `networking.k8s.io/v1` NetworkPolicy.
//!
//! The smallest thing that cannot be understood is what matches nothing: a peer,
//! a port entry, a rule. What isolates is read the other way: a pod selector
//! that cannot be understood selects the whole namespace, and policy types that
//! cannot be are both. What the own node may always do is not written here; the
//! compiler adds it.

use policy_core::model::{
    Action, NamespaceMatch, Peers, Policy, PolicyId, Ports, Rule, Selector, Subject, Tier,
};
use serde_json::Value;

use super::names::Names;
use super::path::Path;
use super::report::{Fields, Report, field};
use super::{peer, port, selector};

/// Its API kind.
pub(super) const KIND: &str = "NetworkPolicy";

const RULE_CONSEQUENCE: &str = "this rule allows nothing";
const TYPES_CONSEQUENCE: &str = "the policy isolates both directions";
const SUBJECT_CONSEQUENCE: &str = "the policy selects every pod of its namespace";

/// The two directions of a policy.
struct Section {
    /// Its field, and the field of the peers in its rules.
    name: &'static str,
    peers: &'static str,
    /// Its name in `policyTypes`.
    policy_type: &'static str,
}

const INGRESS: Section = Section {
    name: "ingress",
    peers: "from",
    policy_type: "Ingress",
};
const EGRESS: Section = Section {
    name: "egress",
    peers: "to",
    policy_type: "Egress",
};

/// Converts it. If the report says that it does not decode, the result is still
/// safe: it isolates, and allows what could be understood.
pub(super) fn convert(
    object: &Value,
    id: PolicyId,
    names: &mut Names,
    report: &mut Report,
) -> Policy {
    let at = Path::root("spec");
    let empty = Fields::new();
    let namespace = id.namespace.clone().unwrap_or_default();
    let policy = |pods, ingress, egress| Policy {
        subject: Subject {
            namespaces: NamespaceMatch::Name(namespace.clone()),
            pods,
        },
        id,
        tier: Tier::NetworkPolicy,
        order: 0,
        ingress,
        egress,
    };
    let spec = match object.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(fields)) => fields,
        Some(_) => {
            let consequence = "the policy isolates every pod of its namespace and allows nothing";
            report.malformed(at, "an object with fields", consequence);
            return policy(Selector::EVERYTHING, Some(Vec::new()), Some(Vec::new()));
        }
    };
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    report.unknown_fields(&at, spec, &known);
    let pods = match field(spec, "podSelector") {
        None => Selector::EVERYTHING,
        Some(value) => {
            let at = at.field("podSelector");
            selector::convert(value, &at, SUBJECT_CONSEQUENCE, names, report)
                .unwrap_or(Selector::EVERYTHING)
        }
    };
    let mut reader = Reader {
        spec,
        namespace: namespace.clone(),
        names,
        report,
    };
    let ingress = reader.rules(&INGRESS, &at);
    let egress = reader.rules(&EGRESS, &at);
    let types = reader.types(!egress.is_empty(), &at);
    let ingress = reader.in_force(&INGRESS, types.0, ingress, &at);
    let egress = reader.in_force(&EGRESS, types.1, egress, &at);
    policy(pods, ingress, egress)
}

struct Reader<'r> {
    spec: &'r Fields,
    namespace: std::sync::Arc<str>,
    names: &'r mut Names,
    report: &'r mut Report,
}

impl Reader<'_> {
    /// Whether the policy has the types Ingress and Egress.
    fn types(&mut self, has_egress_rules: bool, at: &Path<'_>) -> (bool, bool) {
        let types = (self.report).list(at, self.spec, "policyTypes", TYPES_CONSEQUENCE);
        let at = at.field("policyTypes");
        let Ok(types) = types else {
            return (true, true);
        };
        if types.is_empty() {
            return (true, has_egress_rules);
        }
        let (mut ingress, mut egress) = (false, false);
        for (i, item) in types.iter().enumerate() {
            match item {
                Value::String(text) if text == INGRESS.policy_type => ingress = true,
                Value::String(text) if text == EGRESS.policy_type => egress = true,
                Value::String(text) => self.report.error(
                    at.index(i),
                    &format!(
                        "{text:?} is not Ingress or Egress, so it is ignored; \
                         if no other type is left, {TYPES_CONSEQUENCE}"
                    ),
                ),
                other => self.report.malformed(
                    at.index(i),
                    "text, Ingress or Egress",
                    &format!("{other} is ignored; if no other type is left, {TYPES_CONSEQUENCE}"),
                ),
            }
        }
        if ingress || egress {
            (ingress, egress)
        } else {
            (true, true)
        }
    }

    /// The rules of a section, if the policy has its type.
    fn in_force(
        &mut self,
        section: &Section,
        has_type: bool,
        rules: Vec<Rule>,
        at: &Path<'_>,
    ) -> Option<Vec<Rule>> {
        if !has_type && !rules.is_empty() {
            self.report.warning(
                at.field(section.name),
                &format!(
                    "has no effect: policyTypes does not list {}",
                    section.policy_type
                ),
            );
        }
        has_type.then_some(rules)
    }

    fn rules(&mut self, section: &Section, at: &Path<'_>) -> Vec<Rule> {
        let consequence = "the policy isolates this direction and allows nothing in it";
        let list = (self.report).list(at, self.spec, section.name, consequence);
        let at = at.field(section.name);
        let Ok(list) = list else {
            return vec![nothing(0)];
        };
        let rules = list.iter().enumerate().map(|(i, value)| {
            let index = u32::try_from(i).unwrap_or(u32::MAX);
            let rule = self.rule(index, value, section, &at.index(i));
            rule.unwrap_or_else(|| nothing(index))
        });
        rules.collect()
    }

    /// A rule; `None` if it allows nothing, which is reported.
    fn rule(
        &mut self,
        index: u32,
        value: &Value,
        section: &Section,
        at: &Path<'_>,
    ) -> Option<Rule> {
        let fields = self.report.fields(at, value, RULE_CONSEQUENCE).ok()?;
        let known = [section.peers, "ports"];
        // Without the fields that nobody knows this would be the rule that allows
        // everything, which is hardly what its author meant.
        if !fields.is_empty() && !known.iter().any(|name| fields.contains_key(*name)) {
            let names: Vec<_> = fields.keys().map(String::as_str).collect();
            self.report.error(
                at,
                &format!(
                    "has only unknown fields ({}), known are {}; {RULE_CONSEQUENCE}",
                    names.join(", "),
                    known.join(", ")
                ),
            );
            return None;
        }
        self.report.unknown_fields(at, fields, &known);
        let peers = (self.report).list(at, fields, section.peers, RULE_CONSEQUENCE);
        let ports = (self.report).list(at, fields, "ports", RULE_CONSEQUENCE);
        let (peers, ports) = (peers.ok()?, ports.ok()?);
        let peers_at = at.field(section.peers);
        let ports_at = at.field("ports");
        Some(Rule {
            index,
            action: Action::Allow,
            peers: if peers.is_empty() {
                Peers::Any
            } else {
                let peers = peers.iter().enumerate().filter_map(|(i, value)| {
                    let at = peers_at.index(i);
                    peer::convert(value, &self.namespace, &at, self.names, self.report)
                });
                Peers::Of(peers.collect())
            },
            ports: if ports.is_empty() {
                Ports::Any
            } else {
                let ports = ports.iter().enumerate().filter_map(|(i, value)| {
                    let at = ports_at.index(i);
                    port::convert(value, &at, self.names, self.report)
                });
                Ports::Of(ports.collect())
            },
        })
    }
}

/// A rule that matches nothing. It stays in the list, so that rules keep their
/// places and the section is not an empty one.
fn nothing(index: u32) -> Rule {
    Rule {
        index,
        action: Action::Allow,
        peers: Peers::Of(Vec::new()),
        ports: Ports::Any,
    }
}

//! Verdicts without a kernel: what would become of a connection.
//!
//! The tables are those that the node of each end would have, and they are asked
//! by the code that the kernel runs; see [`tables`]. Here is only what the
//! datapath knows from elsewhere: whose an address is, that a node reaches its own
//! pods, and where a Service leads (`route`).

pub mod question;
mod route;
pub mod tables;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use policy_common::abi::Direction;
use policy_common::abi::event::DropReason;
use serde::Serialize;

pub use question::{Family, Packet, Port, Question, QuestionError, Who};

use crate::desired::{Backend, PodRef, Provenance};
use crate::engine::{NodeContext, build};
use crate::store::Store;
use route::{Leg, Route, Routes};
use tables::NodeTables;

/// Whether a connection may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not: its packets vanish.
    Deny,
    /// It may to some endpoints of a Service, and to others not: it depends on
    /// which is chosen.
    Depends,
}

impl Verdict {
    const fn from_bool(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }
}

/// Why a side allows or denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No policy applies to the pod in this direction.
    NotIsolated,
    /// A rule says so.
    Rule,
    /// Policies isolate the pod, and no rule of theirs allows it.
    Isolated,
    /// The other end is the pod's own node.
    OwnNode,
    /// The Service has no endpoints: there is nobody whom policy could allow.
    NoEndpoints,
    /// No rule of the policies that apply decides.
    NoRule,
    /// The tables lack something; never, unless there is a defect.
    Defect,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotIsolated => "no policy applies",
            Self::Rule => "a rule matches",
            Self::Isolated => "isolated, and no rule allows it",
            Self::OwnNode => "the peer is the pod's own node",
            Self::NoEndpoints => "the Service has no endpoints",
            Self::NoRule => "no rule matches, and nothing isolates",
            Self::Defect => "the tables are incomplete",
        })
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the policies of one end say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SideAnswer {
    /// Whether this side allows it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The policy of the rule, or all policies that isolate the pod, as
    /// `namespace/name`.
    pub policies: Vec<String>,
    /// The rule that decided, as a path in the policy: `spec.ingress[0]`.
    pub rule: Option<String>,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether both sides allow it.
    pub verdict: Verdict,
    /// Why, in a few words.
    pub reason: String,
    /// What the sender's policies say; `None`: the sender is no pod that policy
    /// applies to, or nothing is judged.
    pub egress: Option<SideAnswer>,
    /// What the receiver's policies say, likewise.
    pub ingress: Option<SideAnswer>,
    /// Where the destination is translated: what becomes of a connection to each
    /// endpoint. The sides above are those of the first one, and `None` where
    /// endpoints differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendAnswer>,
}

/// What becomes of a connection that is translated to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendAnswer {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The pod that it is, as `namespace/name`.
    pub pod: Option<String>,
    /// Whom it sees: the sender, or the node that sends in its stead.
    pub source: IpAddr,
    /// Whether both sides allow it.
    pub verdict: Verdict,
    /// Why, in a few words.
    pub reason: String,
    /// What the sender's policies say.
    pub egress: Option<SideAnswer>,
    /// What the receiver's policies say.
    pub ingress: Option<SideAnswer>,
}

/// Answers questions about a set of objects.
#[derive(Debug)]
pub struct Simulator<'s> {
    store: &'s Store,
    routes: Routes<'s>,
    nodes: HashMap<Arc<str>, Node>,
}

/// What one side's policies are asked.
#[derive(Debug)]
struct Asked {
    /// The other end.
    peer: IpAddr,
    protocol: u8,
    /// Destination port.
    port: u16,
    /// It comes in the name of a node that did not send it: that node's rights are
    /// not its.
    forwarded: bool,
}

/// An answer that no policy gives.
fn plain(verdict: Verdict, reason: Reason) -> SideAnswer {
    SideAnswer {
        verdict,
        reason,
        policies: Vec::new(),
        rule: None,
    }
}

/// A node that has been asked about.
#[derive(Debug)]
struct Node {
    context: NodeContext,
    tables: NodeTables,
}

impl<'s> Simulator<'s> {
    /// Over these objects.
    pub fn new(store: &'s Store) -> Self {
        Self {
            store,
            routes: Routes::new(store),
            nodes: HashMap::new(),
        }
    }

    /// Answers a question.
    ///
    /// # Errors
    /// If the question is not about one packet.
    pub fn ask(&mut self, question: &Question) -> Result<Answer, QuestionError> {
        Ok(self.judge(&question.packet(self.store)?))
    }

    /// What becomes of a connection that this packet opens.
    pub fn judge(&mut self, packet: &Packet) -> Answer {
        match self.routes.find(self.store, packet) {
            None => {
                let at = Backend {
                    address: packet.destination,
                    port: packet.port,
                };
                self.way(packet, &Leg::plain(packet.source, at))
            }
            Some(route) => self.judge_route(packet, &route),
        }
    }

    /// What becomes of it by any of several ways.
    fn judge_route(&mut self, packet: &Packet, route: &Route) -> Answer {
        let by = route.by.join(" and ");
        if route.legs.is_empty() {
            return self.judge_nowhere(packet, &by);
        }
        let ways = route.legs.iter().map(|leg| {
            let answer = self.way(packet, leg);
            let pod = self.store.owner(leg.backend.address);
            BackendAnswer {
                address: leg.backend.address,
                port: leg.backend.port,
                pod: pod.map(ToString::to_string),
                source: leg.source,
                verdict: answer.verdict,
                reason: answer.reason,
                egress: answer.egress,
                ingress: answer.ingress,
            }
        });
        let backends: Vec<_> = ways.collect();
        let allowed = backends.iter().filter(|b| b.verdict == Verdict::Allow);
        let (allowed, all) = (allowed.count(), backends.len());
        let first = &backends[0];
        if allowed != 0 && allowed != all {
            return Answer {
                verdict: Verdict::Depends,
                reason: format!("{by}: {allowed} of {all} endpoints may be reached"),
                egress: None,
                ingress: None,
                backends,
            };
        }
        Answer {
            verdict: first.verdict,
            reason: format!("{by}: {}", first.reason),
            egress: first.egress.clone(),
            ingress: first.ingress.clone(),
            backends,
        }
    }

    /// What becomes of it where a Service leads nowhere: nothing, whether or not
    /// anything isolates the sender.
    fn judge_nowhere(&mut self, packet: &Packet, by: &str) -> Answer {
        let sender = self.store.owner(packet.source);
        let isolated = |node: &mut Node, pod| {
            let endpoint = node.tables.desired.endpoints.get(pod);
            endpoint.is_some_and(|endpoint| endpoint.egress.is_some())
        };
        let egress = sender.map(|pod| {
            if isolated(self.node_of(pod), pod) {
                plain(Verdict::Deny, Reason::NoEndpoints)
            } else {
                plain(Verdict::Allow, Reason::NotIsolated)
            }
        });
        Answer {
            verdict: Verdict::Deny,
            reason: format!("{by}: {}", Reason::NoEndpoints),
            egress,
            ingress: None,
            backends: Vec::new(),
        }
    }

    /// What becomes of it by one way.
    fn way(&mut self, packet: &Packet, leg: &Leg) -> Answer {
        let sender = self.store.owner(packet.source);
        let receiver = self.store.owner(leg.backend.address);
        if sender.is_some() && sender == receiver && leg.is_near() {
            // It never leaves the pod; through a Service it comes back to it.
            return Answer {
                verdict: Verdict::Allow,
                reason: "a pod reaches itself".to_owned(),
                egress: None,
                ingress: None,
                backends: Vec::new(),
            };
        }
        let egress = sender.map(|pod| {
            let asked = Asked {
                peer: leg.egress.address,
                protocol: packet.protocol,
                port: leg.egress.port,
                forwarded: false,
            };
            self.side(pod, Direction::Egress, &asked)
        });
        let ingress = receiver.map(|pod| {
            let asked = Asked {
                peer: leg.source,
                protocol: packet.protocol,
                port: leg.backend.port,
                forwarded: leg.source != packet.source,
            };
            self.side(pod, Direction::Ingress, &asked)
        });
        let sides = [("egress", sender, &egress), ("ingress", receiver, &ingress)];
        let denied = |side: &Option<SideAnswer>| {
            side.as_ref()
                .is_some_and(|side| side.verdict == Verdict::Deny)
        };
        let reason =
            sides
                .iter()
                .filter(|(_, _, side)| denied(side))
                .find_map(|(direction, pod, side)| {
                    let (pod, side) = (pod.as_ref()?, side.as_ref()?);
                    Some(format!("{direction} of {pod}: {}", side.reason))
                });
        let both = egress.iter().chain(&ingress);
        let open = both.clone().all(|side| side.reason == Reason::NotIsolated);
        Answer {
            verdict: Verdict::from_bool(reason.is_none()),
            reason: reason.unwrap_or_else(|| {
                let allowed = if open {
                    "no policy applies"
                } else {
                    "allowed wherever a policy applies"
                };
                allowed.to_owned()
            }),
            egress,
            ingress,
            backends: Vec::new(),
        }
    }

    /// What the policies of `subject` say to a peer.
    fn side(&mut self, subject: &PodRef, direction: Direction, asked: &Asked) -> SideAnswer {
        let answer = plain;
        let peer = asked.peer;
        let node = self.node_of(subject);
        let endpoint = node.tables.desired.endpoints.get(subject);
        let policy = endpoint.map(|endpoint| match direction {
            Direction::Ingress => endpoint.ingress,
            Direction::Egress => endpoint.egress,
        });
        let policy = match policy {
            Some(Some(policy)) => policy,
            Some(None) => return answer(Verdict::Allow, Reason::NotIsolated),
            None => return answer(Verdict::Deny, Reason::Defect),
        };
        let own = node.context.addresses.contains(&peer) && !asked.forwarded;
        if direction == Direction::Ingress && own {
            // The datapath lets the node's own packets in before it asks.
            return answer(Verdict::Allow, Reason::OwnNode);
        }
        let Some(table) = node.tables.policy(policy) else {
            return answer(Verdict::Deny, Reason::Defect);
        };
        let class = node.tables.identities.class(peer);
        let judgement = table.judge(class, asked.protocol, asked.port);
        let verdict = Verdict::from_bool(judgement.allows());
        if judgement
            .denied
            .is_some_and(|why| why != DropReason::Policy)
        {
            return answer(verdict, Reason::Defect);
        }
        match node.tables.desired.rules.get(&judgement.rule) {
            None => answer(verdict, Reason::Defect),
            Some(Provenance::OwnNode) => answer(verdict, Reason::OwnNode),
            Some(Provenance::Default) => answer(verdict, Reason::NoRule),
            Some(Provenance::Isolated { policies, .. }) => SideAnswer {
                policies: policies.iter().map(ToString::to_string).collect(),
                ..answer(verdict, Reason::Isolated)
            },
            Some(Provenance::Rule {
                policy,
                direction,
                index,
            }) => SideAnswer {
                policies: vec![policy.to_string()],
                rule: Some(rule_path(*direction, *index)),
                ..answer(verdict, Reason::Rule)
            },
        }
    }

    /// The node that a pod runs on, with its tables.
    fn node_of(&mut self, pod: &PodRef) -> &mut Node {
        let name = self
            .store
            .pod(pod)
            .and_then(|pod| pod.node.clone())
            .unwrap_or_default();
        let store = self.store;
        self.nodes.entry(name).or_insert_with_key(|name| {
            let node = store.nodes().get(name);
            let addresses = node.iter().flat_map(|node| &node.addresses);
            let context = NodeContext {
                name: name.clone(),
                addresses: addresses.copied().collect(),
            };
            let tables = NodeTables::new(build(store, &context));
            Node { context, tables }
        })
    }
}

/// A rule's place in its policy, as users write paths.
pub fn rule_path(direction: Direction, index: u32) -> String {
    match direction {
        Direction::Ingress => format!("spec.ingress[{index}]"),
        Direction::Egress => format!("spec.egress[{index}]"),
    }
}

#[cfg(test)]
mod tests;

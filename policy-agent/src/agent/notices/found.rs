//! From the agent's state to what users must know of it.

use std::sync::Arc;

use policy_common::abi::config::FLAG_ENFORCE_OFF;
use policy_core::desired::PodRef;
use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::model::PolicyId;

use super::super::feedback::told_of;
use super::super::pressure::then;
use super::super::state::State;
use super::{Notice, Reason, Regarding};
use crate::api::Unprotected;

impl State {
    /// Everything that users must know and that is so now.
    pub(in super::super) fn conditions(&mut self) -> Vec<Notice> {
        let mut all = Vec::new();
        for problem in self.source.problems(self.engine.store()) {
            let Some(reason) = of_policy(&problem) else {
                continue;
            };
            all.extend(self.named_policy(&problem.object).map(|regarding| Notice {
                regarding,
                reason,
                note: note(&problem),
            }));
        }
        let node = self.engine.node().name.clone();
        let full = self.plan_problems.iter().map(|problem| {
            let regarding = self.named_pod(&problem.object);
            Notice {
                regarding: regarding.unwrap_or_else(|| of_node(&node)),
                reason: Reason::CapacityExceeded,
                note: format!("{} (node {node})", note(problem)),
            }
        });
        all.extend(full);
        for problem in self.interface_problems() {
            let is_problem = problem.severity > Severity::Info;
            all.extend(
                self.named_pod(&problem.object)
                    .filter(|_| is_problem)
                    .map(|regarding| Notice {
                        regarding,
                        reason: Reason::NotProgrammed,
                        note: format!("{} (node {node})", note(&problem)),
                    }),
            );
        }
        if self.datapath.maps().config().flags & FLAG_ENFORCE_OFF != 0 {
            all.push(Notice {
                regarding: of_node(&node),
                reason: Reason::EnforcementOff,
                note: "network policy is switched off on this node and nothing is denied; to \
                       switch it on: policy-agent enforce on"
                    .to_owned(),
            });
        }
        // Without figures, which change: one Event for as long as it lasts.
        all.extend(self.pressure.maps().map(|map| Notice {
            regarding: of_node(&node),
            reason: Reason::MapPressure,
            note: format!("map {map} is nearly full; {}", then(map)),
        }));
        let rivals = self.rivals.names();
        if !rivals.is_empty() {
            all.push(Notice {
                regarding: of_node(&node),
                reason: Reason::ForeignProgram,
                note: format!(
                    "{} came before policy-agent's programs on interfaces of this node: packets \
                     that it passed by itself were judged by no policy; policy-agent puts its \
                     own first again (see: policy-agent status)",
                    rivals.join(", ")
                ),
            });
        }
        all.extend(self.feedback.others().iter().map(|other| Notice {
            regarding: of_node(&node),
            reason: Reason::OtherEnforcer,
            note: told_of(other),
        }));
        all
    }

    /// The pod that a diagnostic names, if it is one of the cluster's.
    fn named_pod(&self, object: &str) -> Option<Regarding> {
        let (namespace, name) = object.strip_prefix("Pod ")?.split_once('/')?;
        let pod = self.engine.store().pod(&PodRef {
            namespace: namespace.into(),
            name: name.into(),
        })?;
        Some(Regarding::Pod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        })
    }

    fn named_policy(&self, object: &str) -> Option<Regarding> {
        let (kind, name) = object.split_once(' ')?;
        let (namespace, name) = name.split_once('/')?;
        let id = PolicyId {
            kind: kind.into(),
            namespace: Some(namespace.into()),
            name: name.into(),
        };
        let versions = self.feedback.generations.policies().get(&id)?;
        let newest = versions.refused.as_ref().or(versions.taken.as_ref());
        Some(Regarding::Policy {
            namespace: namespace.into(),
            name: name.into(),
            uid: newest?.uid.clone().unwrap_or_default(),
        })
    }
}

/// What users must know of a policy; `None`: this is not about one, or nothing.
fn of_policy(problem: &Diagnostic) -> Option<Reason> {
    problem.object.strip_prefix("NetworkPolicy ")?;
    match problem.severity {
        Severity::Error => Some(Reason::InvalidPolicy),
        Severity::Warning => Some(Reason::UnsupportedField),
        Severity::Info => None,
    }
}

fn note(problem: &Diagnostic) -> String {
    if problem.path.is_empty() {
        problem.message.clone()
    } else {
        format!("{}: {}", problem.path, problem.message)
    }
}

fn of_node(node: &Arc<str>) -> Regarding {
    Regarding::Node { name: node.clone() }
}

/// A pod ran without its policies.
pub(in super::super) fn unprotected(window: &Unprotected, node: &str) -> Option<Notice> {
    let (namespace, name) = window.pod.split_once('/')?;
    Some(Notice {
        regarding: Regarding::Pod {
            namespace: namespace.into(),
            name: name.into(),
            uid: window.uid.as_str().into(),
        },
        reason: Reason::UnprotectedStart,
        note: format!(
            "policies isolate it, and it could be reached without them for {} ms on node {node}; \
             connections made meanwhile are judged now",
            window.milliseconds
        ),
    })
}

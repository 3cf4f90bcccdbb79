//! What users must know, as Events of Kubernetes on their pods and policies.
//!
//! ```text
//! State -> Conditions (what begins, what lasts) -> Notice -> Recorder -> Post -> API server
//! ```
//!
//! - `found`: what is so now; `conditions`: from what is so now to what is told, pure.
//! - `recorder`: from what is told to requests: the same twice is one Event with
//!   a count, nothing is posted faster than a rate, and what waits is bounded;
//!   pure, time is an argument.
//! - [`mod@post`]: a thread that posts. Nobody waits for it, and an API server
//!   that is away or says no costs Events and nothing else.

pub(super) mod conditions;
pub(super) mod found;
pub(super) mod post;
mod recorder;

use std::sync::Arc;

/// What is told, of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Notice {
    pub(super) regarding: Regarding,
    pub(super) reason: Reason,
    /// For people; at most [`NOTE_BYTES`] of it are posted.
    pub(super) note: String,
}

/// Bytes of a note at most (k8s.io/kubernetes, `NoteLengthLimit`).
const NOTE_BYTES: usize = 1024;

/// The object that a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Regarding {
    /// A pod of this node.
    Pod {
        namespace: Arc<str>,
        name: Arc<str>,
        uid: Arc<str>,
    },
    /// A NetworkPolicy.
    Policy {
        namespace: Arc<str>,
        name: Arc<str>,
        uid: Arc<str>,
    },
    /// This node.
    Node { name: Arc<str> },
}

/// Why a notice is given: `reason` of the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reason {
    /// An isolated pod ran without its policies for a while.
    UnprotectedStart,
    /// A part of a policy cannot be understood or has no effect.
    UnsupportedField,
    /// A policy, or a part of it, is wrong.
    InvalidPolicy,
    /// Maps are full.
    CapacityExceeded,
    /// A map is nearly full.
    MapPressure,
    /// A pod's policies are not in force.
    NotProgrammed,
    /// Somebody else enforces policies on the node.
    OtherEnforcer,
    /// Somebody else's program came before ours.
    ForeignProgram,
    /// The emergency switch is off: nothing is denied.
    EnforcementOff,
}

impl Reason {
    /// Every reason.
    #[cfg(test)]
    const ALL: [Self; 9] = [
        Self::UnprotectedStart,
        Self::UnsupportedField,
        Self::InvalidPolicy,
        Self::CapacityExceeded,
        Self::MapPressure,
        Self::NotProgrammed,
        Self::OtherEnforcer,
        Self::ForeignProgram,
        Self::EnforcementOff,
    ];

    /// As Events spell it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::UnprotectedStart => "UnprotectedStart",
            Self::UnsupportedField => "UnsupportedField",
            Self::InvalidPolicy => "InvalidPolicy",
            Self::CapacityExceeded => "CapacityExceeded",
            Self::MapPressure => "MapPressure",
            Self::NotProgrammed => "NotProgrammed",
            Self::OtherEnforcer => "OtherEnforcer",
            Self::ForeignProgram => "ForeignProgram",
            Self::EnforcementOff => "EnforcementOff",
        }
    }

    /// What was being done: `action` of the Event.
    const fn action(self) -> &'static str {
        match self {
            Self::UnsupportedField | Self::InvalidPolicy => "ReadPolicy",
            _ => "Enforce",
        }
    }

    /// Every node's agent finds the same: one Event is enough for all of them.
    const fn is_the_clusters(self) -> bool {
        matches!(self, Self::UnsupportedField | Self::InvalidPolicy)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn readme_has_every_reason_and_no_other() {
        const README: &str = include_str!("../../../../README.md");
        let mut lines = README
            .lines()
            .skip_while(|line| *line != "| reason | on | when |");
        assert!(lines.next().is_some(), "README.md has no table of Events");
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        let told: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let facts: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(told, facts);
    }
}

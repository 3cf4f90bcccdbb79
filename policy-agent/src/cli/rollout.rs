//! Whether all nodes have a policy: what the API server has, compared with what
//! each node's agent says is in force. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::{PolicyVersions, Status, Version};

/// What a node's agent said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// Its status.
    Status(Box<Status>),
    /// No agent runs on the node.
    NoAgent,
    /// There is an agent, and it could not be asked: why.
    Silent(String),
}

/// Whether a node has what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Has {
    /// All of it.
    Yes,
    /// Not all.
    No,
    /// It could not be asked.
    Unknown,
}

/// A node's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) node: String,
    pub(super) in_force: Has,
    /// What is missing.
    pub(super) why: Vec<String>,
}

/// How many reasons of a node are told; the rest is a number.
const REASONS: usize = 5;

/// Compares. `wanted`: the policies that the API server has, by
/// `namespace/name`; `all`: these are all that there are, so that a policy which
/// a node has and which is not among them is one too many.
pub(super) fn compare(
    wanted: &BTreeMap<String, Version>,
    all: bool,
    nodes: &BTreeMap<String, Answer>,
) -> Vec<Line> {
    let lines = nodes.iter().map(|(node, answer)| {
        let (in_force, mut why) = match answer {
            Answer::NoAgent => (Has::No, vec!["no agent runs here".to_owned()]),
            Answer::Silent(why) => (Has::Unknown, vec![why.clone()]),
            Answer::Status(status) => {
                let why = missing(wanted, all, status);
                (if why.is_empty() { Has::Yes } else { Has::No }, why)
            }
        };
        if why.len() > REASONS {
            let more = why.len() - REASONS;
            why.truncate(REASONS);
            why.push(format!("and {more} more"));
        }
        Line {
            node: node.clone(),
            in_force,
            why,
        }
    });
    lines.collect()
}

/// The answer for all nodes: no beats unknown.
pub(super) fn verdict(lines: &[Line]) -> Has {
    let any = |has| lines.iter().any(|line| line.in_force == has);
    if any(Has::No) {
        Has::No
    } else if any(Has::Unknown) {
        Has::Unknown
    } else {
        Has::Yes
    }
}

fn missing(wanted: &BTreeMap<String, Version>, all: bool, status: &Status) -> Vec<String> {
    let mut why = Vec::new();
    for (is_so, what) in [
        (status.enforcing, "enforcement is switched off"),
        (status.synced, "the agent has not read everything yet"),
        (status.healthy, "the agent is not healthy: see its status"),
    ] {
        if !is_so {
            why.push(what.to_owned());
        }
    }
    let on_node: BTreeMap<&str, &PolicyVersions> = status
        .policies
        .iter()
        .filter(|policy| policy.kind == "NetworkPolicy")
        .map(|policy| (policy.policy.as_str(), policy))
        .collect();
    for (name, version) in wanted {
        if let Some(what) = difference(version, on_node.get(name.as_str()).copied()) {
            why.push(format!("{name}: {what}"));
        }
    }
    if all {
        let extra = on_node.keys().filter(|name| !wanted.contains_key(**name));
        why.extend(extra.map(|name| format!("{name}: deleted, and still in force here")));
    }
    why
}

/// What a node lacks of a policy.
fn difference(wanted: &Version, found: Option<&PolicyVersions>) -> Option<String> {
    let Some(found) = found else {
        return Some("not known here yet".to_owned());
    };
    let number = |version: &Version| {
        let generation = version.generation;
        generation.map_or_else(|| "without number".to_owned(), |number| number.to_string())
    };
    let is_wanted = |version: &Version| {
        version.uid == wanted.uid
        // One that was made after we asked is as good.
        && version.generation >= wanted.generation
    };
    match &found.in_force {
        Some(in_force) if is_wanted(in_force) => None,
        in_force => {
            let what = match in_force {
                Some(in_force) if in_force.uid == wanted.uid => format!(
                    "generation {} is in force, and not {}",
                    number(in_force),
                    number(wanted)
                ),
                Some(_) => "an older object of this name is in force".to_owned(),
                None => format!("generation {} is not in force", number(wanted)),
            };
            let refused = found.refused.as_ref();
            let refused = refused
                .map(|version| format!("; generation {} cannot be understood", number(version)));
            Some(what + &refused.unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(uid: &str, generation: i64) -> Version {
        Version {
            uid: Some(uid.to_owned()),
            generation: Some(generation),
            resource_version: None,
        }
    }

    fn policy(name: &str, in_force: Option<Version>, refused: Option<Version>) -> PolicyVersions {
        PolicyVersions {
            kind: "NetworkPolicy".to_owned(),
            policy: name.to_owned(),
            in_force,
            pending: None,
            refused,
        }
    }

    fn status(policies: Vec<PolicyVersions>) -> Status {
        serde_json::from_value(serde_json::json!({
            "version": "", "programs": "", "node": "n", "pid": 1, "healthy": true,
            "synced": true, "programmed": true, "enforcing": true, "attachment": "tcx",
            "changes": 0, "repairs": 0, "endpoints": [], "other_interfaces": [],
            "diagnostics": [], "counters": {}, "policies": policies, "sources": [],
        }))
        .expect("a status")
    }

    fn wanted() -> BTreeMap<String, Version> {
        BTreeMap::from([("shop/p".to_owned(), version("u", 4))])
    }

    /// What is said of one node that answers so.
    fn one(all: bool, answer: Answer) -> (Has, Vec<String>) {
        let nodes = BTreeMap::from([("node-1".to_owned(), answer)]);
        let mut lines = compare(&wanted(), all, &nodes);
        let line = lines.remove(0);
        assert_eq!(line.node, "node-1");
        assert_eq!(verdict(std::slice::from_ref(&line)), line.in_force);
        (line.in_force, line.why)
    }

    fn with(in_force: Option<Version>, refused: Option<Version>) -> (Has, Vec<String>) {
        let status = status(vec![policy("shop/p", in_force, refused)]);
        one(true, Answer::Status(Box::new(status)))
    }

    #[test]
    fn node_has_a_policy_if_its_generation_or_a_later_one_is_in_force() {
        assert_eq!(with(Some(version("u", 4)), None), (Has::Yes, vec![]));
        assert_eq!(with(Some(version("u", 5)), None), (Has::Yes, vec![]));
        for (in_force, refused, why) in [
            (
                Some(version("u", 3)),
                None,
                "shop/p: generation 3 is in force, and not 4",
            ),
            (
                Some(version("u", 3)),
                Some(version("u", 4)),
                "shop/p: generation 3 is in force, and not 4; generation 4 cannot be understood",
            ),
            (
                Some(version("old", 9)),
                None,
                "shop/p: an older object of this name is in force",
            ),
            (None, None, "shop/p: generation 4 is not in force"),
        ] {
            assert_eq!(with(in_force, refused), (Has::No, vec![why.to_owned()]));
        }
    }

    #[test]
    fn node_that_does_not_know_a_policy_or_keeps_one_too_many_has_not_all() {
        let none = Answer::Status(Box::new(status(vec![])));
        let unknown = vec!["shop/p: not known here yet".to_owned()];
        assert_eq!(one(true, none), (Has::No, unknown));
        let more = || {
            let own = policy("shop/p", Some(version("u", 4)), None);
            let more = policy("shop/q", Some(version("v", 1)), None);
            Answer::Status(Box::new(status(vec![own, more])))
        };
        let extra = vec!["shop/q: deleted, and still in force here".to_owned()];
        assert_eq!(one(true, more()), (Has::No, extra));
        assert_eq!(one(false, more()), (Has::Yes, vec![]), "one was asked for");
    }

    #[test]
    fn node_that_enforces_nothing_has_nothing_and_one_that_is_silent_is_unknown() {
        let mut off = status(vec![policy("shop/p", Some(version("u", 4)), None)]);
        off.enforcing = false;
        let why = vec!["enforcement is switched off".to_owned()];
        assert_eq!(one(true, Answer::Status(Box::new(off))), (Has::No, why));
        assert_eq!(one(true, Answer::NoAgent).0, Has::No);
        let silent = Answer::Silent("timed out".to_owned());
        assert_eq!(
            one(true, silent),
            (Has::Unknown, vec!["timed out".to_owned()])
        );
    }

    #[test]
    fn no_of_one_node_beats_unknown_of_another_and_yes_takes_all() {
        let line = |in_force| Line {
            node: String::new(),
            in_force,
            why: Vec::new(),
        };
        let (yes, no, unknown) = (line(Has::Yes), line(Has::No), line(Has::Unknown));
        assert_eq!(verdict(&[yes.clone(), unknown.clone(), no]), Has::No);
        assert_eq!(verdict(&[yes.clone(), unknown]), Has::Unknown);
        assert_eq!(verdict(&[yes.clone(), yes]), Has::Yes);
    }

    #[test]
    fn reasons_of_a_node_are_cut() {
        let wanted = (0..20)
            .map(|number| (format!("shop/{number:02}"), version("u", 1)))
            .collect();
        let answer = Answer::Status(Box::new(status(vec![])));
        let nodes = BTreeMap::from([("n".to_owned(), answer)]);
        let lines = compare(&wanted, true, &nodes);
        assert_eq!(lines[0].why.len(), REASONS + 1);
        assert_eq!(lines[0].why[REASONS], "and 15 more");
    }
}

//! Answers to the command line: what is in force, in words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy_common::abi::Direction;
use policy_common::abi::config::FLAG_ENFORCE_OFF;
use policy_common::abi::policy::{ACTION_ALLOW, Interval, LAST_POINT};
use policy_core::desired::{DesiredState, PolicyRef, Provenance};
use policy_core::model::PolicyId;
use policy_core::plan::StoredPortSet;
use policy_core::simulate::rule_path;

use super::state::State;
use super::verdicts::protocol;
use crate::api::{
    Endpoint, Identity, Isolation, OtherInterface, Policy, PolicyVersions, Row, Status,
};
use crate::iface::NotAPod;
use crate::object;

/// The whole status.
pub(super) fn status(state: &mut State, extra: &[policy_core::diagnostic::Diagnostic]) -> Status {
    let mut diagnostics = state.diagnostics();
    diagnostics.extend(extra.iter().cloned());
    diagnostics.sort();
    let counters = state.datapath.maps().counters();
    let mut counters: BTreeMap<String, u64> = counters
        .map(|counters| {
            let named = counters.named();
            let name = |direction| match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            named
                .into_iter()
                .map(|(direction, counter, value)| {
                    (format!("{}/{counter}", name(direction)), value)
                })
                .collect()
        })
        .unwrap_or_default();
    if state.lines.lost() != 0 {
        counters.insert("output/lines-lost".to_owned(), state.lines.lost());
    }
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        programs: object::BUILD_ID.to_owned(),
        node: state.engine.node().name.to_string(),
        pid: std::process::id(),
        healthy: state.healthy(),
        synced: state.synced,
        programmed: state.is_programmed(),
        enforcing: state.datapath.maps().config().flags & FLAG_ENFORCE_OFF == 0,
        attachment: format!("{:?}", state.datapath.backend()).to_lowercase(),
        changes: state.changes,
        repairs: state.repairs,
        sources: state.source.states(),
        endpoints: endpoints(state),
        policies: versions(state),
        awaited: state.awaited(),
        unprotected: state.cni.births.unprotected().cloned().collect(),
        unprotected_total: state.cni.births.unprotected_total(),
        other_interfaces: other_interfaces(state),
        diagnostics: diagnostics.iter().map(Into::into).collect(),
        counters,
    }
}

/// Every local pod that policy could apply to.
pub(super) fn endpoints(state: &mut State) -> Vec<Endpoint> {
    let hosts = state.planner.mirror().hosts.clone();
    let links: BTreeMap<u32, String> = state
        .snapshot
        .links
        .iter()
        .map(|(index, link)| (*index, link.name.to_string()))
        .collect();
    let programmed = state.programmed.clone();
    let desired = state.engine.desired();
    let generations = &state.feedback.generations;
    let isolation = |pod, policy: Option<PolicyRef>, direction: Direction, number: Option<u16>| {
        policy.map(|policy| {
            let policies = isolating(desired, policy, direction);
            let versions = generations.of_pod(pod).into_iter().flat_map(|of_pod| {
                let known = policies.iter().filter_map(|id| of_pod.get_key_value(*id));
                known.map(|(id, version)| (id.to_string(), version.into()))
            });
            Isolation {
                policy: number.filter(|number| *number != 0),
                versions: versions.collect(),
                policies: policies.iter().map(ToString::to_string).collect(),
            }
        })
    };
    let mut all = Vec::new();
    for (pod, spec) in &desired.endpoints {
        let now = programmed.get(pod);
        let addresses: Vec<IpAddr> = spec
            .ipv4
            .map(IpAddr::V4)
            .into_iter()
            .chain(spec.ipv6.map(IpAddr::V6))
            .collect();
        let identities = addresses.iter().filter_map(|address| hosts.get(address));
        all.push(Endpoint {
            pod: pod.to_string(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            interface: now.and_then(|now| links.get(&now.ifindex).cloned()),
            ifindex: now.map(|now| now.ifindex),
            slot: now.map(|now| now.slot),
            generation: now.map(|now| now.generation),
            identities: identities.map(|row| row.identity).collect(),
            ingress: isolation(
                pod,
                spec.ingress,
                Direction::Ingress,
                now.map(|now| now.ingress),
            ),
            egress: isolation(
                pod,
                spec.egress,
                Direction::Egress,
                now.map(|now| now.egress),
            ),
            programmed: now.is_some_and(|now| now.current),
        });
    }
    all
}

/// The policies that isolate a pod which has this compiled policy, found at
/// whatever rule answers where nothing allows.
pub(super) fn isolating(
    desired: &DesiredState,
    policy: PolicyRef,
    direction: Direction,
) -> Vec<&PolicyId> {
    let Some(compiled) = desired.policies.get(&policy) else {
        return Vec::new();
    };
    let set = &compiled.default;
    let ids = || {
        let intervals = set.intervals.iter().map(|interval| interval.rule);
        std::iter::once(set.default_rule).chain(intervals)
    };
    for id in ids() {
        if let Some(Provenance::Isolated {
            policies,
            direction: of,
        }) = desired.rules.get(&id)
            && *of == direction
        {
            return policies.iter().collect();
        }
    }
    // Everything is allowed by rules: they name their policies.
    let mut policies: Vec<&PolicyId> = ids()
        .filter_map(|id| match desired.rules.get(&id) {
            Some(Provenance::Rule { policy, .. }) => Some(policy),
            _ => None,
        })
        .collect();
    policies.dedup();
    policies
}

/// What became of the versions of each policy.
fn versions(state: &State) -> Vec<PolicyVersions> {
    let policies = state.feedback.generations.policies().iter();
    policies
        .map(|(id, versions)| PolicyVersions {
            kind: id.kind.to_string(),
            policy: id.to_string(),
            in_force: versions.in_force.as_ref().map(Into::into),
            pending: versions.pending().map(Into::into),
            refused: versions.refused.as_ref().map(Into::into),
        })
        .collect()
}

fn other_interfaces(state: &State) -> Vec<OtherInterface> {
    let name = |index: &u32| {
        state
            .snapshot
            .links
            .get(index)
            .map_or_else(|| index.to_string(), |link| link.name.to_string())
    };
    let held = state
        .assignment
        .contested
        .iter()
        .map(|(index, pods)| OtherInterface {
            interface: name(index),
            ifindex: *index,
            why: format!(
                "it cannot be told whose it is: {}",
                pods.iter()
                    .map(|(pod, _)| pod.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            held: state.held.contains(index),
        });
    let given_up = state.given_up();
    let left = state.assignment.not_pods.iter().filter_map(|(index, why)| {
        let why = match why {
            NotAPod::PeerHere | NotAPod::PeerGone => return None,
            NotAPod::NoAddress => "the far end has no address (yet)",
            NotAPod::NoPodsAddress => "no address of a pod of this node is behind it",
            NotAPod::Denied => "the kernel does not tell what is behind it",
            NotAPod::Unsettled => "it is changing",
            NotAPod::Excessive => "there are too many addresses behind it, or they never rest",
            NotAPod::Filtered => "its namespace is not in the folder of namespaces",
        };
        let why = if given_up.contains(index) {
            format!("{why}; nobody knew it in time, so it is taken for no pod's")
        } else {
            why.to_owned()
        };
        Some(OtherInterface {
            interface: name(index),
            ifindex: *index,
            why,
            held: state.held.contains(index),
        })
    });
    held.chain(left).collect()
}

/// Every identity that an address or prefix in the kernel has.
pub(super) fn identities(state: &State) -> Vec<Identity> {
    let mirror = state.planner.mirror();
    let mut members: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (prefix, identity) in &mirror.prefixes {
        members
            .entry(*identity)
            .or_default()
            .push(prefix.to_string());
    }
    for (address, row) in &mirror.hosts {
        let pod = state.engine.store().owner(*address);
        let text = match (pod, row.node) {
            (Some(pod), _) => format!("{address} ({pod})"),
            (None, true) => format!("{address} (this node)"),
            (None, false) => address.to_string(),
        };
        members.entry(row.identity).or_default().push(text);
    }
    members
        .into_iter()
        .map(|(identity, members)| Identity { identity, members })
        .collect()
}

/// Every compiled policy in the kernel.
pub(super) fn policies(state: &State) -> Vec<Policy> {
    let mirror = state.planner.mirror();
    let mut all: BTreeMap<u32, Policy> = BTreeMap::new();
    for (key, port_set) in &mirror.rows {
        // Kept ready for what finds no room; nobody's until then.
        let spare = key.policy == u32::from(policy_core::plan::DENY_ALL);
        if spare && !is_used(state, policy_core::plan::DENY_ALL) {
            continue;
        }
        let policy = all.entry(key.policy).or_insert_with(|| Policy {
            policy: key.policy,
            pods: Vec::new(),
            rows: Vec::new(),
        });
        policy.rows.push(Row {
            identity: key.identity,
            says: mirror.port_sets.get(port_set).map_or_else(
                || vec!["deny everything: there is no port set".to_owned()],
                |set| says(state, set),
            ),
        });
    }
    for (pod, programmed) in &state.programmed {
        for (number, direction) in [
            (programmed.ingress, "ingress"),
            (programmed.egress, "egress"),
        ] {
            if let Some(policy) = all.get_mut(&u32::from(number)) {
                policy.pods.push(format!("{pod} {direction}"));
            }
        }
    }
    all.into_values().collect()
}

fn is_used(state: &State, policy: u16) -> bool {
    let mut programmed = state.programmed.values();
    programmed.any(|programmed| programmed.ingress == policy || programmed.egress == policy)
}

fn says(state: &State, set: &StoredPortSet) -> Vec<String> {
    let mut lines: Vec<String> = set
        .intervals
        .iter()
        .map(|interval| {
            format!(
                "{} {}{}",
                verb(interval.action),
                span(interval),
                because(state, interval.rule)
            )
        })
        .collect();
    let rest = if set.intervals.is_empty() {
        "everything"
    } else {
        "everything else"
    };
    lines.push(format!(
        "{} {rest}{}",
        verb(set.default_action),
        because(state, set.default_rule)
    ));
    lines
}

fn verb(action: u32) -> &'static str {
    if action & ACTION_ALLOW != 0 {
        "allow"
    } else {
        "deny"
    }
}

fn span(interval: &Interval) -> String {
    let (first, last) = (interval.first, interval.last);
    if first == 0 && last == LAST_POINT {
        return "everything".to_owned();
    }
    let proto = |point: u32| protocol(u8::try_from(point >> 16).unwrap_or(u8::MAX)).to_uppercase();
    let (first_port, last_port) = (first & 0xffff, last & 0xffff);
    if first >> 16 == last >> 16 {
        return match (first_port, last_port) {
            (0, 0xffff) => proto(first),
            (one, same) if one == same => format!("{} {one}", proto(first)),
            _ => format!("{} {first_port}-{last_port}", proto(first)),
        };
    }
    format!(
        "{} {first_port} to {} {last_port}",
        proto(first),
        proto(last)
    )
}

fn because(state: &State, rule: u32) -> String {
    match state.names.rule(rule) {
        Some(Provenance::Rule {
            policy,
            direction,
            index,
        }) => format!(" ({policy} {})", rule_path(*direction, *index)),
        Some(Provenance::Isolated { policies, .. }) => {
            let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
            format!(" (isolated by {})", names.join(", "))
        }
        Some(Provenance::OwnNode) => " (the pod's own node)".to_owned(),
        Some(Provenance::Default) | None => String::new(),
    }
}

//! Events from the kernel, with names: one JSON line each.
//!
//! Field names follow what log pipelines know from other systems
//! (`connection.src_ip`, `policies[].namespace`), with what those leave out:
//! the rule, the reason, and the isolating policies of a default deny.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_common::abi::Direction;
use policy_common::abi::event::{DropReason, VerdictEvent};
use policy_core::desired::Provenance;
use policy_core::simulate::rule_path;
use policy_core::store::Store;
use serde::{Serialize, Serializer};

use super::names::Names;
use crate::api::MonitorFilter;

/// A verdict in words.
#[derive(Debug, Clone, Serialize)]
pub(super) struct VerdictLine {
    r#type: &'static str,
    /// RFC 3339, UTC: when it was written.
    timestamp: String,
    /// When it was decided, nanoseconds of CLOCK_MONOTONIC.
    monotonic_ns: u64,
    node_name: String,
    disposition: &'static str,
    reason: &'static str,
    connection: Connection,
    src: End,
    dest: End,
    #[serde(serialize_with = "first")]
    policies: Vec<NamedPolicy>,
    /// How many more there are than the line names.
    #[serde(skip_serializing_if = "is_zero")]
    policies_omitted: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

/// Policies that a line names at most: a thousand of them on one pod and a flood
/// that they deny would be megabytes of lines.
const NAMED: usize = 16;

fn first<S: Serializer>(policies: &[NamedPolicy], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(policies.iter().take(NAMED))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde wants"
)]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[derive(Debug, Clone, Serialize)]
struct Connection {
    direction: &'static str,
    src_ip: String,
    dest_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    protocol: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum End {
    Pod {
        pod_namespace: String,
        pod_name: String,
    },
    Node {
        node_name: String,
    },
    Other {
        instance: String,
    },
}

#[derive(Debug, Clone, Serialize)]
struct NamedPolicy {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
}

impl VerdictLine {
    /// Whether a watcher with this filter wants it.
    pub(super) fn matches(&self, filter: &MonitorFilter) -> bool {
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        };
        let of_namespace = |namespace: &String| {
            let ends = [&self.src, &self.dest];
            ends.iter().any(|end| end.is_pod(Some(namespace), None))
        };
        let of_pod = |pod: &String| {
            let (namespace, name) = match pod.split_once('/') {
                Some((namespace, name)) => (Some(namespace), name),
                None => (None, pod.as_str()),
            };
            let ends = [&self.src, &self.dest];
            ends.iter().any(|end| end.is_pod(namespace, Some(name)))
        };
        let of_policy = |policy: &String| self.policies.iter().any(|named| named.is(policy));
        is(&filter.verdict, self.disposition)
            && is(&filter.reason, self.reason)
            && is(&filter.direction, self.connection.direction)
            && filter.namespace.as_ref().is_none_or(of_namespace)
            && filter.pod.as_ref().is_none_or(of_pod)
            && filter.policy.as_ref().is_none_or(of_policy)
    }
}

impl End {
    /// Whether it is a pod of this namespace and name, as far as they are given.
    fn is_pod(&self, namespace: Option<&str>, name: Option<&str>) -> bool {
        match self {
            Self::Pod {
                pod_namespace,
                pod_name,
            } => {
                namespace.is_none_or(|wanted| wanted == pod_namespace)
                    && name.is_none_or(|wanted| wanted == pod_name)
            }
            Self::Node { .. } | Self::Other { .. } => false,
        }
    }
}

impl NamedPolicy {
    /// Whether it is `namespace/name`, or a name without namespace.
    fn is(&self, wanted: &str) -> bool {
        match (&self.namespace, wanted.split_once('/')) {
            (Some(namespace), Some((of, name))) => namespace == of && self.name == name,
            (None, None) => self.name == wanted,
            _ => false,
        }
    }
}

/// What names an event needs.
pub(super) struct Context<'a> {
    pub(super) store: &'a Store,
    pub(super) names: &'a Names,
    pub(super) node: &'a policy_core::engine::NodeContext,
}

impl Context<'_> {
    /// Puts an event into words.
    pub(super) fn line(&self, event: &VerdictEvent) -> VerdictLine {
        let direction = Direction::from_index(u32::from(event.direction));
        let src = address(event.src, event.family);
        let dst = address(event.dst, event.family);
        let own = |pod: bool, address: IpAddr| match self.names.pod(event.endpoint) {
            // The endpoint's own end is its pod's, whatever the address says.
            Some(name) if pod => End::Pod {
                pod_namespace: name.namespace.to_string(),
                pod_name: name.name.to_string(),
            },
            _ => self.end(address),
        };
        let has_ports = event.protocol != 0 && (event.src_port, event.dst_port) != (0, 0);
        let (policies, rule) = match self.names.rule(event.rule) {
            Some(provenance) => named(provenance),
            None => (Vec::new(), None),
        };
        VerdictLine {
            r#type: "verdict",
            timestamp: jiff::Timestamp::now().to_string(),
            monotonic_ns: event.time_ns,
            node_name: self.node.name.to_string(),
            disposition: if event.reason == 0 { "allow" } else { "deny" },
            reason: DropReason::from_number(event.reason).map_or("logged", DropReason::name),
            connection: Connection {
                direction: match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                },
                src_ip: src.to_string(),
                dest_ip: dst.to_string(),
                src_port: has_ports.then_some(event.src_port),
                dest_port: has_ports.then_some(event.dst_port),
                protocol: protocol(event.protocol),
            },
            src: own(direction == Direction::Egress, src),
            dest: own(direction == Direction::Ingress, dst),
            policies_omitted: policies.len().saturating_sub(NAMED),
            policies,
            rule,
        }
    }

    fn end(&self, address: IpAddr) -> End {
        if let Some(pod) = self.store.owner(address) {
            return End::Pod {
                pod_namespace: pod.namespace.to_string(),
                pod_name: pod.name.to_string(),
            };
        }
        if self.node.addresses.contains(&address) {
            return End::Node {
                node_name: self.node.name.to_string(),
            };
        }
        End::Other {
            instance: address.to_string(),
        }
    }
}

fn named(provenance: &Provenance) -> (Vec<NamedPolicy>, Option<String>) {
    let policy = |id: &policy_core::model::PolicyId| NamedPolicy {
        kind: id.kind.to_string(),
        namespace: id.namespace.as_deref().map(str::to_owned),
        name: id.name.to_string(),
    };
    match provenance {
        Provenance::Rule {
            policy: id,
            direction,
            index,
        } => (vec![policy(id)], Some(rule_path(*direction, *index))),
        Provenance::Isolated { policies, .. } => (policies.iter().map(policy).collect(), None),
        Provenance::OwnNode | Provenance::Default => (Vec::new(), None),
    }
}

fn address(bytes: [u8; 16], family: u8) -> IpAddr {
    if family == policy_common::abi::family::V4 {
        let [.., a, b, c, d] = bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes))
    }
}

/// A protocol as logs name it; numbers for those without a common name.
pub(super) fn protocol(number: u8) -> String {
    use policy_common::abi::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
    match number {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        SCTP => "sctp".to_owned(),
        ICMP => "icmp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The denied ingress of a pod, from an address outside.
    pub(in super::super) fn line(namespace: &str, name: &str) -> VerdictLine {
        VerdictLine {
            r#type: "verdict",
            timestamp: String::new(),
            monotonic_ns: 1,
            node_name: "node-1".to_owned(),
            disposition: "deny",
            reason: "policy",
            connection: Connection {
                direction: "ingress",
                src_ip: "192.0.2.1".to_owned(),
                dest_ip: "10.0.0.1".to_owned(),
                src_port: Some(4000),
                dest_port: Some(80),
                protocol: "tcp".to_owned(),
            },
            src: End::Other {
                instance: "192.0.2.1".to_owned(),
            },
            dest: End::Pod {
                pod_namespace: namespace.to_owned(),
                pod_name: name.to_owned(),
            },
            policies: vec![NamedPolicy {
                kind: "NetworkPolicy".to_owned(),
                namespace: Some(namespace.to_owned()),
                name: "p".to_owned(),
            }],
            policies_omitted: 0,
            rule: None,
        }
    }

    #[test]
    fn a_line_names_so_many_policies_and_counts_the_others() {
        let mut long = line("shop", "db");
        let short = serde_json::to_value(&long).unwrap();
        assert_eq!(short["policies"].as_array().unwrap().len(), 1);
        assert!(short.get("policies_omitted").is_none());
        long.policies = vec![long.policies[0].clone(); NAMED + 3];
        long.policies_omitted = 3;
        let text = serde_json::to_value(&long).unwrap();
        assert_eq!(text["policies"].as_array().unwrap().len(), NAMED);
        assert_eq!(text["policies_omitted"], 3);
    }

    #[test]
    fn filter_wants_all_that_it_names_and_leaves_open_what_it_does_not() {
        let line = line("shop", "db");
        let some = |text: &str| Some(text.to_owned());
        let all = MonitorFilter::default;
        let wanted = [
            all(),
            MonitorFilter {
                namespace: some("shop"),
                ..all()
            },
            MonitorFilter {
                pod: some("db"),
                ..all()
            },
            MonitorFilter {
                pod: some("shop/db"),
                ..all()
            },
            MonitorFilter {
                verdict: some("deny"),
                reason: some("policy"),
                ..all()
            },
            MonitorFilter {
                direction: some("ingress"),
                policy: some("shop/p"),
                ..all()
            },
        ];
        for filter in wanted {
            assert!(line.matches(&filter), "{filter:?}");
        }
        let unwanted = [
            MonitorFilter {
                namespace: some("lab"),
                ..all()
            },
            MonitorFilter {
                pod: some("web"),
                ..all()
            },
            MonitorFilter {
                pod: some("lab/db"),
                ..all()
            },
            MonitorFilter {
                verdict: some("allow"),
                ..all()
            },
            MonitorFilter {
                verdict: some("deny"),
                reason: some("fragment"),
                ..all()
            },
            MonitorFilter {
                direction: some("egress"),
                ..all()
            },
            MonitorFilter {
                policy: some("lab/p"),
                ..all()
            },
            MonitorFilter {
                policy: some("p"),
                ..all()
            },
        ];
        for filter in unwanted {
            assert!(!line.matches(&filter), "{filter:?}");
        }
    }
}

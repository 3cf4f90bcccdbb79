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
use serde::Serialize;

use super::names::Names;

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
    policies: Vec<NamedPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
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

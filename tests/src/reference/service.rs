//! Services: where a connection ends that is sent to one (semantics 9).
//!
//! Written from what kube-proxy does. A policy is asked about the endpoint; whom the endpoint sees
//! depends on how it was asked. What no object tells is decided as the README of the product says.

use std::net::IpAddr;

use serde_json::Value;

use super::block::parse_address;
use super::cluster::Cluster;
use super::json;
use super::judge::{Answer, Way, judge_way};
use super::port::Protocol;
use super::probe::{Packet, Probe, ProbeError};

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing translates it.
    Plain(Answer),
    /// It ends at one of these, sorted; if there are none, nowhere.
    Translated(Vec<Ending>),
}

/// One endpoint of a Service, and what becomes of a connection to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whom it sees, unless the sender reaches itself.
    pub seen_as: IpAddr,
    /// What becomes of it.
    pub answer: Answer,
}

impl Outcome {
    /// Whether it is allowed; `None`: to some endpoints, to others not.
    pub fn allowed(&self) -> Option<bool> {
        match self {
            Self::Plain(answer) => Some(answer.allowed),
            Self::Translated(endings) => {
                let allowed = endings.iter().filter(|end| end.answer.allowed).count();
                match allowed {
                    0 => Some(false),
                    all if all == endings.len() => Some(true),
                    _ => None,
                }
            }
        }
    }
}

/// A Service that nodes translate.
#[derive(Clone, Debug)]
pub(super) struct Service {
    cluster: Vec<IpAddr>,
    /// External addresses, and those of load balancers that are not proxies.
    outside: Vec<IpAddr>,
    ports: Vec<Port>,
    internal_local: bool,
    external_local: bool,
}

#[derive(Clone, Debug)]
struct Port {
    name: String,
    protocol: Protocol,
    number: u16,
    node: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    service: String,
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    address: IpAddr,
    node: String,
    ready: bool,
    serves_while_it_ends: bool,
}

/// How a Service was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By<'c> {
    ClusterAddress,
    OutsideAddress,
    /// A port of this node.
    NodePort(&'c str),
}

impl Service {
    /// `None`: headless, or a name for something else.
    pub(super) fn parse(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let texts = |list: &str| -> Vec<String> {
            let items = json::list(spec, list).unwrap_or_default().iter();
            items
                .filter_map(|item| Some(item.as_str()?.to_owned()))
                .collect()
        };
        let mut cluster = texts("clusterIPs");
        if cluster.is_empty() {
            cluster.extend(json::text(spec, "clusterIP").map(str::to_owned));
        }
        cluster.retain(|text| !text.is_empty());
        let is_name = json::text(spec, "type") == Some("ExternalName");
        if is_name || cluster.is_empty() || cluster.iter().any(|text| text == "None") {
            return None;
        }
        let ingress = json::list(&object["status"]["loadBalancer"], "ingress").unwrap_or_default();
        let translated = ingress.iter().filter(|entry| entry["ipMode"] != "Proxy");
        let mut outside = texts("externalIPs");
        outside.extend(translated.filter_map(|entry| Some(json::text(entry, "ip")?.to_owned())));
        let addresses = |texts: Vec<String>| -> Vec<IpAddr> {
            texts
                .iter()
                .filter_map(|text| parse_address(text))
                .collect()
        };
        let ports = json::list(spec, "ports").unwrap_or_default().iter();
        let local = |field| json::text(spec, field) == Some("Local");
        Some(Self {
            cluster: addresses(cluster),
            outside: addresses(outside),
            ports: ports.filter_map(Port::parse).collect(),
            internal_local: local("internalTrafficPolicy"),
            external_local: local("externalTrafficPolicy"),
        })
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.cluster.contains(&address) || self.outside.contains(&address)
    }
}

impl Port {
    fn parse(object: &Value) -> Option<Self> {
        Some(Self {
            name: json::text(object, "name").unwrap_or_default().to_owned(),
            protocol: protocol(object)?,
            number: number(&object["port"])?,
            node: number(&object["nodePort"]),
        })
    }
}

fn number(value: &Value) -> Option<u16> {
    let number = u16::try_from(value.as_u64()?).ok()?;
    (number != 0).then_some(number)
}

fn protocol(object: &Value) -> Option<Protocol> {
    match json::text(object, "protocol").unwrap_or_default() {
        "" | "TCP" => Some(Protocol::TCP),
        "UDP" => Some(Protocol::UDP),
        "SCTP" => Some(Protocol::SCTP),
        _ => None,
    }
}

impl Slice {
    /// `None`: behind no Service, or of host names.
    pub(super) fn parse(object: &Value) -> Option<Self> {
        let labels = json::string_map(&object["metadata"], "labels").unwrap_or_default();
        let service = labels.get("kubernetes.io/service-name")?.clone();
        let ipv4 = match json::text(object, "addressType")? {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let endpoints = json::list(object, "endpoints").unwrap_or_default().iter();
        let endpoints = endpoints.filter_map(|endpoint| {
            // Semantics of the API: only the first address means anything.
            let first = json::list(endpoint, "addresses").ok()?.first()?;
            let address = parse_address(first.as_str()?).filter(|a| a.is_ipv4() == ipv4)?;
            let conditions = &endpoint["conditions"];
            let ready = conditions["ready"] != false;
            let serving = conditions["serving"].as_bool().unwrap_or(ready);
            Some(Endpoint {
                address,
                node: json::text(endpoint, "nodeName")
                    .unwrap_or_default()
                    .to_owned(),
                ready,
                serves_while_it_ends: serving && conditions["terminating"] == true,
            })
        });
        let ports = json::list(object, "ports").unwrap_or_default().iter();
        let ports = ports.filter_map(|port| {
            let name = json::text(port, "name").unwrap_or_default().to_owned();
            Some((name, protocol(port)?, number(&port["port"])?))
        });
        Some(Self {
            service,
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        })
    }
}

impl Cluster {
    /// What becomes of the connection that the probe describes, translated or not.
    ///
    /// # Errors
    /// If the probe does not describe one packet; see [`ProbeError`].
    pub fn outcome(&self, probe: &Probe) -> Result<Outcome, ProbeError> {
        let packet = self.packet(probe)?;
        let Some(ways) = self.ways(&packet) else {
            return Ok(Outcome::Plain(self.judge(&packet)));
        };
        let mut endings: Vec<Ending> = Vec::new();
        for way in ways {
            let ending = Ending {
                address: way.destination,
                port: way.port.unwrap_or_default(),
                seen_as: way.seen_as,
                answer: judge_way(self, self.policies.values(), &way),
            };
            if !endings.contains(&ending) {
                endings.push(ending);
            }
        }
        endings.sort_by_key(|end| (end.address, end.port, end.seen_as));
        Ok(Outcome::Translated(endings))
    }

    /// The numbers that Services with an address give a port name.
    pub(super) fn service_ports(
        &self,
        address: IpAddr,
        name: &str,
        protocol: Protocol,
    ) -> Vec<u16> {
        let services = self.services.values().filter(|s| s.has_address(address));
        let ports = services.flat_map(|service| &service.ports);
        let named = ports.filter(|port| port.name == name && port.protocol == protocol);
        named.map(|port| port.number).collect()
    }

    /// The ways that a packet may take; `None`: nothing translates it.
    fn ways(&self, packet: &Packet) -> Option<Vec<Way>> {
        let asked = packet.port?;
        let to = packet.destination;
        let mut ways = Vec::new();
        let mut translated = false;
        for (key, service) in &self.services {
            for port in &service.ports {
                if (port.protocol, port.number) != (packet.protocol, asked) {
                    continue;
                }
                for (list, by) in [
                    (&service.cluster, By::ClusterAddress),
                    (&service.outside, By::OutsideAddress),
                ] {
                    if list.contains(&to) {
                        translated = true;
                        self.ways_of(key, service, port, by, packet, &mut ways);
                    }
                }
            }
        }
        if translated {
            return Some(ways);
        }
        let node = self.node_at(to)?;
        for (key, service) in &self.services {
            for port in &service.ports {
                if (port.protocol, port.node) == (packet.protocol, Some(asked)) {
                    translated = true;
                    self.ways_of(key, service, port, By::NodePort(node), packet, &mut ways);
                }
            }
        }
        if !translated {
            self.host_port_ways(node, packet, &mut ways);
        }
        (translated || !ways.is_empty()).then_some(ways)
    }

    /// By a host port of a node: the client's address stays, unless it is in the
    /// subnet of the pod, that of the node's pods, which portmap masquerades.
    fn host_port_ways(&self, node: &str, packet: &Packet, ways: &mut Vec<Way>) {
        let sender = self.sender(packet);
        let is_pod = self.node_at(packet.source).is_none();
        let v4 = packet.destination.is_ipv4();
        let lent = self.lowest_address(node, v4);
        let lent = lent.filter(|_| is_pod && sender == Some(node));
        for pod in self.pods.values().filter(|pod| pod.counts()) {
            for port in &pod.host_ports {
                let asked = (port.protocol, Some(port.port)) == (packet.protocol, packet.port)
                    && port.address.is_none_or(|at| at == packet.destination)
                    && pod.node.as_deref().unwrap_or_default() == node;
                let holds = |address: &&IpAddr| {
                    let holder = self.owner(**address);
                    address.is_ipv4() == packet.destination.is_ipv4()
                        && holder == Some(pod.full_name())
                };
                let Some(address) = pod.addresses.iter().find(holds).filter(|_| asked) else {
                    continue;
                };
                let end = (*address, Some(port.target));
                ways.push(Way {
                    source: packet.source,
                    destination: end.0,
                    protocol: packet.protocol,
                    port: end.1,
                    sent_to: if sender == Some(node) {
                        end
                    } else {
                        (packet.destination, packet.port)
                    },
                    seen_as: lent
                        .filter(|_| *address != packet.source)
                        .unwrap_or(packet.source),
                });
            }
        }
    }

    /// The node that sends, or whose pod does.
    fn sender(&self, packet: &Packet) -> Option<&str> {
        match self.pod_at(packet.source) {
            Some(pod) => Some(pod.node.as_deref().unwrap_or_default()),
            None => self.node_at(packet.source),
        }
    }

    fn ways_of(
        &self,
        (namespace, name): &(String, String),
        service: &Service,
        port: &Port,
        by: By<'_>,
        packet: &Packet,
        ways: &mut Vec<Way>,
    ) {
        let own_node = self.sender(packet);
        let is_node = self.node_at(packet.source).is_some();
        let only = match by {
            By::ClusterAddress if service.internal_local => own_node,
            By::NodePort(node) if service.external_local && own_node.is_none() => Some(node),
            _ => None,
        };
        let far = matches!(by, By::NodePort(node) if own_node != Some(node));
        for (address, number) in self.endpoints(namespace, name, port, packet.destination, only) {
            let lender = match by {
                By::ClusterAddress => None,
                _ if service.external_local || is_node => None,
                By::NodePort(node) => Some(node),
                By::OutsideAddress => own_node.or_else(|| {
                    let owner = self.pod_at(address)?;
                    Some(owner.node.as_deref().unwrap_or_default())
                }),
            };
            let lent = lender.and_then(|node| self.lowest_address(node, address.is_ipv4()));
            ways.push(Way {
                source: packet.source,
                destination: address,
                protocol: packet.protocol,
                port: Some(number),
                sent_to: if far {
                    (packet.destination, packet.port)
                } else {
                    (address, Some(number))
                },
                seen_as: lent.unwrap_or(packet.source),
            });
        }
    }

    /// The endpoints that are chosen from: those that are ready, or, where none is, those that
    /// serve while they end.
    fn endpoints(
        &self,
        namespace: &str,
        name: &str,
        port: &Port,
        asked: IpAddr,
        only: Option<&str>,
    ) -> Vec<(IpAddr, u16)> {
        let mut ready = Vec::new();
        let mut ending = Vec::new();
        for ((of, _), slice) in &self.slices {
            if of != namespace || slice.service != name {
                continue;
            }
            for (port_name, protocol, number) in &slice.ports {
                if (port_name, *protocol) != (&port.name, port.protocol) {
                    continue;
                }
                for endpoint in &slice.endpoints {
                    let family = endpoint.address.is_ipv4() == asked.is_ipv4();
                    let here = only.is_none_or(|node| endpoint.node == node);
                    if !family || !here {
                        continue;
                    }
                    let end = (endpoint.address, *number);
                    if endpoint.ready {
                        ready.push(end);
                    }
                    if endpoint.serves_while_it_ends {
                        ending.push(end);
                    }
                }
            }
        }
        if ready.is_empty() { ending } else { ready }
    }
}

//! Proposes probes that lie on the borders which policies draw.
//!
//! Most proposals start from a policy: one of its rules, a peer on or beside the border of one of
//! the rule's peers, and a port on or beside the border of one of its port entries. Nothing here
//! judges; `probes` chooses among the proposals.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Rng;
use super::addresses::outside;
use crate::reference::{PortSpec, Probe, Protocol, Who};

/// UDP ports of DHCP, which passes whatever policies say: no probe asks for them.
const DHCP: [u16; 4] = [67, 68, 546, 547];

/// What proposals are made of.
pub(super) struct Candidates<'o> {
    pods: Vec<PodEnd>,
    /// Indexes of pods.
    by_namespace: BTreeMap<String, Vec<usize>>,
    nodes: Vec<IpAddr>,
    policies: Vec<&'o Value>,
}

struct PodEnd {
    namespace: String,
    name: String,
    labels: Value,
    addresses: Vec<IpAddr>,
    /// Name, number, protocol.
    ports: Vec<(String, u16, Protocol)>,
}

/// One end of a proposal: an index of a pod, or an address.
#[derive(Clone, Copy)]
enum End {
    Pod(usize),
    Address(IpAddr),
}

impl<'o> Candidates<'o> {
    pub(super) fn of(objects: &'o [Value]) -> Self {
        let of_kind = |kind: &'static str| objects.iter().filter(move |o| o["kind"] == kind);
        let pods = of_kind("Pod").map(PodEnd::read);
        let nodes =
            of_kind("Node").flat_map(|node| addresses(&node["status"]["addresses"], "address"));
        let pods: Vec<PodEnd> = pods.filter(|pod| !pod.addresses.is_empty()).collect();
        let mut by_namespace: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, pod) in pods.iter().enumerate() {
            let indexes = by_namespace.entry(pod.namespace.clone()).or_default();
            indexes.push(index);
        }
        Self {
            pods,
            by_namespace,
            nodes: nodes.collect(),
            policies: of_kind("NetworkPolicy").collect(),
        }
    }

    /// One proposal. It may still turn out to describe no packet.
    pub(super) fn propose(&self, rng: &mut Rng) -> Probe {
        if !self.policies.is_empty() && rng.percent(85) {
            let policy = *rng.pick(&self.policies);
            if let Some(probe) = self.near(rng, policy) {
                return probe;
            }
        }
        let ipv4 = rng.percent(55);
        let (from, to) = (self.anyone(rng, ipv4), self.anyone(rng, ipv4));
        let (port, protocol) = self.any_port(rng, to, ipv4);
        self.probe(rng, from, to, port, protocol, ipv4)
    }

    /// Somebody: a pod, a node, or an address outside.
    fn anyone(&self, rng: &mut Rng, ipv4: bool) -> End {
        match rng.weighted(&[70, 8, 22]) {
            0 if !self.pods.is_empty() => End::Pod(rng.below(self.pods.len())),
            1 if !self.nodes.is_empty() => End::Address(*rng.pick(&self.nodes)),
            _ => End::Address(outside(rng, ipv4)),
        }
    }

    /// A probe on the border of one rule of the policy; `None` if its namespace has no pod.
    fn near(&self, rng: &mut Rng, policy: &Value) -> Option<Probe> {
        let namespace = policy["metadata"]["namespace"].as_str()?;
        let subject = self.pod_of(rng, namespace, &policy["spec"]["podSelector"])?;
        let ingress = rng.percent(50);
        let (section, peers) = if ingress {
            ("ingress", "from")
        } else {
            ("egress", "to")
        };
        let nothing = Value::Null;
        let rule = pick(rng, &policy["spec"][section]).unwrap_or(&nothing);
        let ipv4 = rng.percent(55);
        let (peer, ipv4) = self.near_peer(rng, namespace, &rule[peers], ipv4);
        let (from, to) = if ingress {
            (peer, subject)
        } else {
            (subject, peer)
        };
        let (port, protocol) = match pick(rng, &rule["ports"]) {
            Some(entry) if rng.percent(92) => self.near_port(rng, entry, to),
            _ => self.any_port(rng, to, ipv4),
        };
        Some(self.probe(rng, from, to, port, protocol, ipv4))
    }

    /// A pod of the namespace, mostly one that has the selector's matchLabels.
    fn pod_of(&self, rng: &mut Rng, namespace: &str, selector: &Value) -> Option<End> {
        let indexes = self.by_namespace.get(namespace)?;
        let wanted = selector["matchLabels"].as_object();
        let matching: Vec<usize> = indexes
            .iter()
            .copied()
            .filter(|index| {
                let labels = &self.pods[*index].labels;
                let mut wanted = wanted.into_iter().flatten();
                wanted.all(|(key, value)| labels[key] == *value)
            })
            .collect();
        if matching.is_empty() || rng.percent(20) {
            return Some(End::Pod(*rng.pick(indexes)));
        }
        Some(End::Pod(*rng.pick(&matching)))
    }

    /// Somebody on the border of one of the peers of a policy of the namespace, and the family.
    fn near_peer(&self, rng: &mut Rng, namespace: &str, peers: &Value, ipv4: bool) -> (End, bool) {
        let peer = pick(rng, peers);
        let block = peer.map(|peer| &peer["ipBlock"]);
        let cidr = block.and_then(|block| net(&block["cidr"]));
        let (Some(block), Some(cidr)) = (block, cidr) else {
            let selector = peer.map(|peer| &peer["podSelector"]);
            let end = selector
                .filter(|_| rng.percent(60))
                .and_then(|selector| self.pod_of(rng, namespace, selector))
                .unwrap_or_else(|| self.anyone(rng, ipv4));
            return (end, ipv4);
        };
        let except = pick(rng, &block["except"]).and_then(net);
        let address = match except {
            Some(except) if rng.percent(60) => self.near_border(rng, except),
            _ => self.near_border(rng, cidr),
        };
        (End::Address(address), address.is_ipv4())
    }

    /// An address inside a prefix (of somebody, if possible), at its ends, or just outside.
    fn near_border(&self, rng: &mut Rng, net: IpNet) -> IpAddr {
        let everybody = self.pods.iter().flat_map(|pod| &pod.addresses);
        let known: Vec<IpAddr> = everybody
            .chain(&self.nodes)
            .copied()
            .filter(|address| net.contains(address))
            .collect();
        match rng.weighted(&[45, 25, 10, 10, 5, 5]) {
            0 if !known.is_empty() => *rng.pick(&known),
            2 => net.network(),
            3 => net.broadcast(),
            4 => step(net.network(), false),
            5 => step(net.broadcast(), true),
            _ => {
                let address = outside(rng, net.addr().is_ipv4());
                if net.contains(&address) {
                    address
                } else {
                    net.addr()
                }
            }
        }
    }

    /// A port on the border of a port entry.
    fn near_port(&self, rng: &mut Rng, entry: &Value, to: End) -> (PortSpec, Protocol) {
        let protocol = match rng.percent(12) {
            true => *rng.pick(&[Protocol::TCP, Protocol::UDP, Protocol::SCTP]),
            false => entry["protocol"]
                .as_str()
                .and_then(|p| p.parse().ok())
                .unwrap_or(Protocol::TCP),
        };
        if !protocol.has_ports() {
            return (PortSpec::None, protocol);
        }
        let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
        let port = match (&entry["port"], number(&entry["port"])) {
            (_, Some(first)) => {
                let last = number(&entry["endPort"]).unwrap_or(first).max(first);
                let middle = first + (last - first) / 2;
                let near = [
                    first,
                    last,
                    middle,
                    first.saturating_sub(1),
                    last.saturating_add(1),
                ];
                near[rng.weighted(&[25, 25, 25, 10, 15])]
            }
            (Value::String(name), None) => {
                return (self.near_name(rng, name, to, protocol), protocol);
            }
            _ => *rng.pick(&[53, 80, 8080]),
        };
        (PortSpec::Number(port.max(1)), protocol)
    }

    /// The destination's number for a name, the name itself, or another pod's number for it.
    fn near_name(&self, rng: &mut Rng, name: &str, to: End, protocol: Protocol) -> PortSpec {
        let own = self.pod(to).and_then(|pod| {
            let mut ports = pod.ports.iter();
            ports.find(|(its, _, p)| its == name && *p == protocol)
        });
        let others: Vec<u16> = self
            .pods
            .iter()
            .flat_map(|pod| &pod.ports)
            .filter(|(its, _, _)| its == name)
            .map(|(_, number, _)| *number)
            .collect();
        match (own, rng.weighted(&[60, 15, 25])) {
            (Some((_, number, _)), 0) => PortSpec::Number(*number),
            (Some(_), 1) => PortSpec::Name(name.to_owned()),
            _ if !others.is_empty() => PortSpec::Number(*rng.pick(&others)),
            _ => PortSpec::Number(80),
        }
    }

    fn any_port(&self, rng: &mut Rng, to: End, ipv4: bool) -> (PortSpec, Protocol) {
        let icmp = if ipv4 {
            Protocol::ICMP
        } else {
            Protocol::ICMPV6
        };
        let protocol =
            [Protocol::TCP, Protocol::UDP, Protocol::SCTP, icmp][rng.weighted(&[50, 18, 10, 22])];
        if !protocol.has_ports() {
            return (PortSpec::None, protocol);
        }
        let number = *rng.pick(&[1, 53, 80, 443, 8080, 9090, 9100, 30000, 65535]);
        match self.pod(to).map(|pod| &pod.ports) {
            Some(ports) if !ports.is_empty() && rng.percent(30) => {
                let (_, number, protocol) = rng.pick(ports);
                (PortSpec::Number(*number), *protocol)
            }
            _ => (PortSpec::Number(number), protocol),
        }
    }

    /// The pod at an end, if the proposal names one or its address.
    fn pod(&self, end: End) -> Option<&PodEnd> {
        match end {
            End::Pod(index) => self.pods.get(index),
            End::Address(address) => {
                let mut pods = self.pods.iter();
                pods.find(|pod| pod.addresses.contains(&address))
            }
        }
    }

    fn probe(
        &self,
        rng: &mut Rng,
        from: End,
        to: End,
        port: PortSpec,
        protocol: Protocol,
        ipv4: bool,
    ) -> Probe {
        let port = match port {
            PortSpec::Number(number) if protocol == Protocol::UDP && DHCP.contains(&number) => {
                PortSpec::Number(number + 2)
            }
            port => port,
        };
        let family = if ipv4 { 4 } else { 6 };
        Probe {
            from: self.who(rng, from, ipv4),
            to: self.who(rng, to, ipv4),
            port,
            protocol,
            family: rng.percent(60).then_some(family),
        }
    }

    /// Pods mostly by name, sometimes by their address.
    fn who(&self, rng: &mut Rng, end: End, ipv4: bool) -> Who {
        match end {
            End::Address(address) => Who::Address(address),
            End::Pod(index) => {
                let pod = &self.pods[index];
                let mut addresses = pod.addresses.iter();
                match addresses.find(|address| address.is_ipv4() == ipv4) {
                    Some(address) if rng.percent(25) => Who::Address(*address),
                    _ => Who::Pod(pod.namespace.clone(), pod.name.clone()),
                }
            }
        }
    }
}

impl PodEnd {
    fn read(pod: &Value) -> Self {
        let text = |name: &str| {
            pod["metadata"][name]
                .as_str()
                .unwrap_or("default")
                .to_owned()
        };
        let list = |name: &str| pod["spec"][name].as_array().into_iter().flatten();
        let containers = list("containers").chain(list("initContainers"));
        let ports =
            containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        Self {
            namespace: text("namespace"),
            name: text("name"),
            labels: pod["metadata"]["labels"].clone(),
            addresses: addresses(&pod["status"]["podIPs"], "ip").collect(),
            ports: ports
                .filter_map(|port| {
                    let protocol = port["protocol"].as_str().unwrap_or("TCP").parse().ok()?;
                    let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
                    Some((port["name"].as_str()?.to_owned(), number, protocol))
                })
                .collect(),
        }
    }
}

fn addresses<'v>(list: &'v Value, field: &'static str) -> impl Iterator<Item = IpAddr> + 'v {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(move |entry| entry[field].as_str()?.parse().ok())
}

/// One item of a list, if there is any.
fn pick<'v>(rng: &mut Rng, list: &'v Value) -> Option<&'v Value> {
    let items = list.as_array().filter(|items| !items.is_empty())?;
    Some(rng.pick(items))
}

fn net(text: &Value) -> Option<IpNet> {
    text.as_str()?.parse::<IpNet>().ok().map(|net| net.trunc())
}

/// The next or the previous address; the space's ends stay.
fn step(address: IpAddr, up: bool) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            let next = if up {
                bits.saturating_add(1)
            } else {
                bits.saturating_sub(1)
            };
            IpAddr::V4(next.into())
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let next = if up {
                bits.saturating_add(1)
            } else {
                bits.saturating_sub(1)
            };
            IpAddr::V6(next.into())
        }
    }
}

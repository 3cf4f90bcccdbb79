//! Where a packet goes that is sent to an address of a Service, to a node port or
//! to a pod's host port.
//!
//! Says what kube-proxy and the portmap plugin make of it, which is known from the objects but for
//! these assumptions:
//!
//! - A sender is taken to be on its pod's node, or to be the node that it is; one
//!   that is neither comes in on the node of the endpoint that it reaches.
//! - What is sent to an outside address or a node port comes to the endpoint in
//!   the name of the node that translates it, by the lowest address that its Node
//!   object lists; with `externalTrafficPolicy: Local` in the sender's own.
//! - What is sent to a cluster address comes in the sender's own name.
//! - What is sent to a host port comes in the sender's own name, but for other pods
//!   of that node: portmap sends the subnet of the pod on in the name of the node,
//!   so that answers come back through it.
//! - Another node's node port or host port is an address like others to the sender's policies:
//!   it is translated over there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::question::Packet;
use crate::desired::{Backend, Frontend};
use crate::model::{HostPort, Pod, Protocol, Service, ServicePort};
use crate::resolve::services::behind;
use crate::store::Store;

/// Everything that is translated.
#[derive(Debug, Default)]
pub(super) struct Routes<'s> {
    /// By address, protocol and port.
    fronts: HashMap<Frontend, Vec<Front<'s>>>,
    /// By protocol and node port.
    node_ports: HashMap<(Protocol, u16), Vec<Front<'s>>>,
    /// By protocol and host port.
    host_ports: HashMap<(Protocol, u16), Vec<(&'s Pod, &'s HostPort)>>,
    /// Names of nodes by their addresses.
    nodes: HashMap<IpAddr, &'s Arc<str>>,
}

/// A port of a Service.
#[derive(Debug, Clone, Copy)]
struct Front<'s> {
    service: &'s Service,
    port: &'s ServicePort,
    /// By a cluster address; else from outside.
    internal: bool,
}

/// Where a packet may go.
#[derive(Debug)]
pub(super) struct Route {
    /// By whom, in words, sorted: one, unless somebody made a mistake.
    pub(super) by: Vec<String>,
    /// One for each endpoint, sorted.
    pub(super) legs: Vec<Leg>,
}

/// The way to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leg {
    /// The endpoint.
    pub(super) backend: Backend,
    /// What the sender's policies are asked about: the endpoint, or what is
    /// translated too far from the sender for them to know.
    pub(super) egress: Backend,
    /// Who the endpoint sees.
    pub(super) source: IpAddr,
}

impl Route {
    fn new(mut by: Vec<String>, mut legs: Vec<Leg>) -> Self {
        by.sort();
        by.dedup();
        legs.sort();
        legs.dedup();
        Self { by, legs }
    }
}

impl Leg {
    /// Of a packet that nothing translates.
    pub(super) fn plain(source: IpAddr, backend: Backend) -> Self {
        Self {
            backend,
            egress: backend,
            source,
        }
    }

    /// It is translated where the sender is.
    pub(super) fn is_near(&self) -> bool {
        self.egress == self.backend
    }
}

impl<'s> Routes<'s> {
    pub(super) fn new(store: &'s Store) -> Self {
        let mut routes = Self::default();
        for service in store.services().values() {
            for port in &service.ports {
                let lists = [(&service.cluster_ips, true), (&service.external_ips, false)];
                for (addresses, internal) in lists {
                    for address in addresses {
                        let frontend = Frontend {
                            address: *address,
                            protocol: port.protocol,
                            port: port.port,
                        };
                        let front = Front {
                            service,
                            port,
                            internal,
                        };
                        routes.fronts.entry(frontend).or_default().push(front);
                    }
                }
                if let Some(node_port) = port.node_port {
                    let key = (port.protocol, node_port);
                    routes.node_ports.entry(key).or_default().push(Front {
                        service,
                        port,
                        internal: false,
                    });
                }
            }
        }
        for pod in store.pods().values().filter(|pod| pod.is_selectable()) {
            for port in &pod.host_ports {
                let known = routes.host_ports.entry((port.protocol, port.port));
                known.or_default().push((pod, port));
            }
        }
        for (name, node) in store.nodes() {
            for address in &node.addresses {
                routes.nodes.entry(*address).or_insert(name);
            }
        }
        routes
    }

    /// Where a packet goes; `None`: nothing translates it.
    pub(super) fn find(&self, store: &Store, packet: &Packet) -> Option<Route> {
        let protocol = Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.number() == packet.protocol)?;
        let frontend = Frontend {
            address: packet.destination,
            protocol,
            port: packet.port,
        };
        let mut legs = Vec::new();
        let (fronts, at) = match self.fronts.get(&frontend) {
            Some(fronts) => (fronts, None),
            None => {
                let node = *self.nodes.get(&packet.destination)?;
                match self.node_ports.get(&(protocol, packet.port)) {
                    Some(fronts) => (fronts, Some(node)),
                    None => return self.host_port(store, packet, protocol, node),
                }
            }
        };
        let by = fronts
            .iter()
            .map(|f| format!("Service {}", f.service.key()));
        for front in fronts {
            self.legs(store, packet, front, at, &mut legs);
        }
        Some(Route::new(by.collect(), legs))
    }

    /// Where it goes by a host port of a node; `None`: the port is no pod's.
    fn host_port(
        &self,
        store: &Store,
        packet: &Packet,
        protocol: Protocol,
        node: &str,
    ) -> Option<Route> {
        let (mut by, mut legs) = (Vec::new(), Vec::new());
        for (pod, port) in self.host_ports.get(&(protocol, packet.port))? {
            let own = |address: &IpAddr| {
                (store.owner(*address))
                    .is_some_and(|o| (&o.namespace, &o.name) == (&pod.namespace, &pod.name))
            };
            let asked = port.address.is_none_or(|at| at == packet.destination);
            let mut addresses = pod.addresses().filter(own);
            let v6 = packet.destination.is_ipv6();
            let address = addresses.find(|address| address.is_ipv6() == v6);
            let Some(address) = address.filter(|_| asked) else {
                continue;
            };
            if pod.node.as_deref().unwrap_or_default() != node {
                continue;
            }
            let backend = Backend {
                address,
                port: port.target,
            };
            by.push(format!("host port of {}/{}", pod.namespace, pod.name));
            let near = self.sender(store, packet) == Some(node);
            let renamed = near && !self.is_node(packet) && packet.source != address;
            let name = renamed.then(|| node_address(store, node, v6)).flatten();
            legs.push(Leg {
                backend,
                egress: if near { backend } else { sent(packet) },
                source: name.unwrap_or(packet.source),
            });
        }
        (!legs.is_empty()).then(|| Route::new(by, legs))
    }

    /// The node that sends a packet, or whose pod does.
    fn sender<'n>(&self, store: &'n Store, packet: &Packet) -> Option<&'n str>
    where
        's: 'n,
    {
        match store.owner(packet.source).and_then(|pod| store.pod(pod)) {
            Some(pod) => Some(pod.node.as_deref().unwrap_or_default()),
            None => self.nodes.get(&packet.source).map(|name| &***name),
        }
    }

    /// The ways through one Service; `at`: by a port of this node.
    fn legs(
        &self,
        store: &Store,
        packet: &Packet,
        front: &Front<'_>,
        at: Option<&Arc<str>>,
        legs: &mut Vec<Leg>,
    ) {
        let service = front.service;
        let own = self.sender(store, packet);
        let on = if front.internal {
            own.filter(|_| service.internal_local)
        } else {
            let stranger = own.is_none() && service.external_local;
            at.map(|node| &**node).filter(|_| stranger)
        };
        let v6 = packet.destination.is_ipv6();
        for backend in behind(store, service, front.port, v6, on) {
            let far = at.is_some_and(|node| own != Some(&**node));
            // Nodes send in their own name as it is.
            let renamed = !front.internal && !service.external_local && !self.is_node(packet);
            let translator = at.map(|node| &**node).or(own).or_else(|| {
                let owner = store.pod(store.owner(backend.address)?)?;
                Some(owner.node.as_deref().unwrap_or_default())
            });
            let name = translator.filter(|_| renamed);
            let source = name.and_then(|node| node_address(store, node, v6));
            legs.push(Leg {
                backend,
                egress: if far { sent(packet) } else { backend },
                source: source.unwrap_or(packet.source),
            });
        }
    }

    fn is_node(&self, packet: &Packet) -> bool {
        self.nodes.contains_key(&packet.source)
    }
}

/// What the sender asked for.
fn sent(packet: &Packet) -> Backend {
    Backend {
        address: packet.destination,
        port: packet.port,
    }
}

/// The lowest address of a node in an IP version.
fn node_address(store: &Store, node: &str, v6: bool) -> Option<IpAddr> {
    let addresses = &store.nodes().get(node)?.addresses;
    addresses.iter().copied().find(|a| a.is_ipv6() == v6)
}

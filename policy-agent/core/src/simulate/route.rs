//! Where a packet goes that is sent to an address of a Service or to a node port.
//!
//! Says what kube-proxy makes of it, which is known from the objects but for
//! these assumptions:
//!
//! - A sender is taken to be on its pod's node, or to be the node that it is; one
//!   that is neither comes in on the node of the endpoint that it reaches.
//! - What is sent to an outside address or a node port comes to the endpoint in
//!   the name of the node that translates it, by the lowest address that its Node
//!   object lists; with `externalTrafficPolicy: Local` in the sender's own.
//! - What is sent to a cluster address comes in the sender's own name.
//! - Another node's node port is an address like others to the sender's policies:
//!   it is translated over there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::question::Packet;
use crate::desired::{Backend, Frontend};
use crate::model::{NamespacedName, Protocol, Service, ServicePort};
use crate::resolve::services::behind;
use crate::store::Store;

/// Everything that is translated.
#[derive(Debug, Default)]
pub(super) struct Routes<'s> {
    /// By address, protocol and port.
    fronts: HashMap<Frontend, Vec<Front<'s>>>,
    /// By protocol and node port.
    node_ports: HashMap<(Protocol, u16), Vec<Front<'s>>>,
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
    /// The Services, sorted: one, unless somebody made a mistake.
    pub(super) services: Vec<NamespacedName>,
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
        let (fronts, at) = match self.fronts.get(&frontend) {
            Some(fronts) => (fronts, None),
            None => {
                let node = self.nodes.get(&packet.destination)?;
                (self.node_ports.get(&(protocol, packet.port))?, Some(*node))
            }
        };
        let mut services: Vec<_> = fronts.iter().map(|front| front.service.key()).collect();
        let mut legs = Vec::new();
        for front in fronts {
            self.legs(store, packet, front, at, &mut legs);
        }
        services.sort();
        services.dedup();
        legs.sort();
        legs.dedup();
        Some(Route { services, legs })
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
        let pod = store.owner(packet.source).and_then(|pod| store.pod(pod));
        let own = match pod {
            Some(pod) => Some(pod.node.as_deref().unwrap_or_default()),
            None => self.nodes.get(&packet.source).map(|name| &***name),
        };
        let on = if front.internal {
            own.filter(|_| service.internal_local)
        } else {
            let stranger = own.is_none() && service.external_local;
            at.map(|node| &**node).filter(|_| stranger)
        };
        let sent = Backend {
            address: packet.destination,
            port: packet.port,
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
                egress: if far { sent } else { backend },
                source: source.unwrap_or(packet.source),
            });
        }
    }

    fn is_node(&self, packet: &Packet) -> bool {
        self.nodes.contains_key(&packet.source)
    }
}

/// The lowest address of a node in an IP version.
fn node_address(store: &Store, node: &str, v6: bool) -> Option<IpAddr> {
    let addresses = &store.nodes().get(node)?.addresses;
    addresses.iter().copied().find(|a| a.is_ipv6() == v6)
}

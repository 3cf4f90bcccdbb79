//! Services and what is behind them, as far as policy needs them.
//!
//! A target port is not here: the EndpointSlice has it resolved for each
//! endpoint, also where it is a name that means another number in each pod. Nor
//! are the types of Services: what is left of them is which addresses and node
//! ports there are.

use std::net::IpAddr;
use std::sync::Arc;

use super::object::Protocol;

/// An object of a namespace, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service.
///
/// Headless Services and those of type ExternalName have no address and no port
/// here: nothing translates what is sent to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.clusterIPs`, sorted, without duplicates.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs` and those of `status.loadBalancer.ingress` that nodes
    /// translate (`ipMode` is not `Proxy`), sorted, without duplicates.
    pub external_ips: Vec<IpAddr>,
    /// `spec.ports`, sorted, without duplicates.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy` is `Local`: behind the cluster addresses are
    /// only the endpoints of the node that sends.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy` is `Local`. What pods send to outside
    /// addresses and node ports reaches every endpoint all the same.
    pub external_local: bool,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// Its name, by which slices tell what is behind it; empty where a Service
    /// has a single port.
    pub name: Arc<str>,
    /// Protocol, TCP if the object names none.
    pub protocol: Protocol,
    /// The port of its addresses, 1 to 65535.
    pub port: u16,
    /// The port of every node's addresses, 1 to 65535.
    pub node_port: Option<u16>,
}

/// A part of what is behind a Service (`discovery.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The Service's name: label `kubernetes.io/service-name`. Without it the
    /// slice is behind no Service.
    pub service: Option<Arc<str>>,
    /// Its ports, sorted, without duplicates.
    pub ports: Vec<SlicePort>,
    /// Its endpoints, sorted, without duplicates; none where `addressType` is
    /// `FQDN`.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of every endpoint of a slice: where a port of the Service leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlicePort {
    /// The name of the Service's port; may be empty.
    pub name: Arc<str>,
    /// Protocol, TCP if the object names none.
    pub protocol: Protocol,
    /// The port of the endpoint, 1 to 65535.
    pub port: u16,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceEndpoint {
    /// Its first address; the API gives others no meaning.
    pub address: IpAddr,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// `conditions.ready`; unknown counts as ready.
    pub ready: bool,
    /// `conditions.serving` and `conditions.terminating`: on its way out, and
    /// used where no endpoint is ready.
    pub draining: bool,
}

impl Service {
    /// Its name.
    pub fn key(&self) -> NamespacedName {
        NamespacedName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl EndpointSlice {
    /// Its own name.
    pub fn key(&self) -> NamespacedName {
        NamespacedName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// The Service that it is behind.
    pub fn service_key(&self) -> Option<NamespacedName> {
        Some(NamespacedName {
            namespace: self.namespace.clone(),
            name: self.service.clone()?,
        })
    }
}

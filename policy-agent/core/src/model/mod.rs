//! The cluster's objects in our own types, and the general policy model.
//!
//! Front ends (NetworkPolicy v1, later others) turn API objects into these
//! types; nothing right of them knows an API type. Everything here is plain
//! data that is valid by construction.

pub mod labels;
pub mod object;
pub mod policy;
pub mod selector;
pub mod service;

pub use labels::Labels;
pub use object::{HostPort, Namespace, Node, Pod, PodPort, Protocol};
pub use policy::{
    Action, IpBlock, NamespaceMatch, Peer, Peers, Policy, PolicyId, PortMatch, Ports, Rule,
    Subject, Tier,
};
pub use selector::{Requirement, Selector};
pub use service::{EndpointSlice, NamespacedName, Service, ServicePort, SliceEndpoint, SlicePort};

//! What sources tell the store.

use std::sync::Arc;

use crate::desired::PodRef;
use crate::model::{
    EndpointSlice, Namespace, NamespacedName, Node, Pod, Policy, PolicyId, Service,
};

/// A kind of object, as far as lists are concerned: each has lists of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Pods.
    Pod,
    /// Namespaces.
    Namespace,
    /// Nodes.
    Node,
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// Policies of this API kind, for example `NetworkPolicy`.
    Policy(Arc<str>),
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A pod.
    Pod(Arc<Pod>),
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// A node.
    Node(Arc<Node>),
    /// A Service.
    Service(Arc<Service>),
    /// A part of what is behind a Service.
    EndpointSlice(Arc<EndpointSlice>),
    /// A policy.
    Policy(Arc<Policy>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Policy(policy) => Kind::Policy(policy.id.kind.clone()),
        }
    }

    /// Its key.
    pub fn key(&self) -> Key {
        match self {
            Self::Pod(pod) => Key::Pod(PodRef {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
            }),
            Self::Namespace(namespace) => Key::Namespace(namespace.name.clone()),
            Self::Node(node) => Key::Node(node.name.clone()),
            Self::Service(service) => Key::Service(service.key()),
            Self::EndpointSlice(slice) => Key::EndpointSlice(slice.key()),
            Self::Policy(policy) => Key::Policy(policy.id.clone()),
        }
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A pod.
    Pod(PodRef),
    /// A namespace.
    Namespace(Arc<str>),
    /// A node.
    Node(Arc<str>),
    /// A Service.
    Service(NamespacedName),
    /// A part of what is behind a Service.
    EndpointSlice(NamespacedName),
    /// A policy.
    Policy(PolicyId),
}

impl Key {
    /// The kind of the object.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Policy(id) => Kind::Policy(id.kind.clone()),
        }
    }
}

impl std::fmt::Display for Key {
    /// `Kind namespace/name`, as diagnostics name objects.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "Pod {pod}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
            Self::Policy(id) => write!(f, "{} {id}", id.kind),
        }
    }
}

/// One thing that a source tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// The object is there, like this.
    Apply(Object),
    /// The object is gone.
    Delete(Key),
    /// A complete list of the kind begins. One that has begun already is
    /// forgotten.
    Begin(Kind),
    /// An object of the list.
    Item(Object),
    /// The list is complete: objects of the kind that are not in it are gone.
    /// Without a beginning it means nothing.
    End(Kind),
}

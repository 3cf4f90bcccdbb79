//! What is told about a container's interface: whose it is, its addresses, and
//! what the node calls its other end. Data; goes over the socket and into notes.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which interface of which container, the runtime's own key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The runtime's id of the sandbox.
    pub container: String,
    /// Name of the interface in it.
    pub ifname: String,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container)
    }
}

/// What is said of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Which attachment.
    pub id: AttachmentId,
    /// Name of the CNI network.
    pub network: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// `metadata.name` of the pod.
    pub name: String,
    /// `metadata.uid` of the pod; empty if the runtime does not say.
    pub uid: String,
    /// Addresses of the container's interface.
    pub addresses: Vec<IpAddr>,
    /// Names of interfaces of the node that may be its other end.
    pub node_interfaces: Vec<String>,
    /// Index of its other end, in the node's network namespace, where the teller
    /// has seen it itself.
    pub ifindex: Option<u32>,
}

/// What the plugin asks the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Protect this pod; answered when its policies are in force, or after so
    /// many milliseconds, held until they are.
    Add {
        /// The pod.
        statement: Statement,
        /// How long to wait.
        wait_ms: u64,
    },
    /// Is the pod protected as when it was added?
    Check {
        /// The pod.
        statement: Statement,
    },
    /// The attachment goes.
    Del {
        /// Which.
        id: AttachmentId,
    },
    /// Of this network, only these exist.
    Gc {
        /// Name of the network.
        network: String,
        /// The attachments.
        valid: Vec<AttachmentId>,
    },
    /// Could an ADD be served now?
    Status,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// ADD: the pod's policies are in force. CHECK, STATUS: yes. DEL, GC: done.
    Yes,
    /// ADD: not yet, and nothing but the node's own traffic passes until then.
    Held {
        /// What is waited for.
        why: String,
    },
    /// It is not so, or cannot be done.
    No {
        /// Why.
        why: String,
    },
}

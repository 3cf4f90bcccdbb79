//! An independent reading of NetworkPolicy v1: plain Kubernetes JSON objects in, verdicts out.
//!
//! This is the oracle that compiler, simulator and datapath are compared with. It is written
//! straight from the semantics page (`semantics.md`; comments such as "semantics 4" name its
//! sections), shares no code with the product, and prefers being obvious to being fast: every
//! verdict walks the policies of the subject's namespace.
//!
//! | file | its one question |
//! |---|---|
//! | `json` | is this field missing, well formed, or not understood? |
//! | `selector` | does this label selector match these labels? |
//! | `block` | does this ipBlock cover this address? |
//! | `port` | does this `ports` entry match this destination? |
//! | `policy` | what does this NetworkPolicy say, once defaulted? |
//! | `object` | what is this Pod, Namespace or Node? |
//! | `cluster` | whose address is this? |
//! | `service` | where does a connection to a Service end? |
//! | `probe` | which packet does this question mean? |
//! | `judge` | may it pass, and who says so? |
//! | `feature` | which fine points of the semantics decided that? |
//! | `ablation` | what would an evaluator say that gets one point wrong? |
//!
//! Left out on purpose: replies and open connections (semantics 12; a probe is the first packet of a connection from an ephemeral
//! port), ClusterNetworkPolicy (semantics 10), and the packets that always pass (ARP, neighbour
//! discovery, MLD, DHCP, related ICMP errors: semantics 6).

mod ablation;
mod block;
mod cluster;
mod feature;
mod json;
mod judge;
mod object;
mod policy;
mod port;
mod probe;
mod selector;
mod service;

#[cfg(test)]
mod tests;

pub use block::Cidr;
pub use cluster::Cluster;
pub use feature::{Feature, Features, Histogram, decides, features};
pub use judge::{Answer, Reason, RuleRef, Side};
pub use policy::Direction;
pub use port::Protocol;
pub use probe::{Packet, PortSpec, Probe, ProbeError, Who};
pub use service::{Ending, Outcome};

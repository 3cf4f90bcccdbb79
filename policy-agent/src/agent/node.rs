//! Which node this is: its name and its addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use policy_core::engine::NodeContext;
use policy_core::store::Store;

/// The node's name: the one given, else that of the only Node among the objects,
/// else the host's. It is settled once, when the agent starts.
pub(super) fn name(given: Option<&str>, store: &Store) -> Arc<str> {
    if let Some(name) = given {
        return name.into();
    }
    let mut nodes = store.nodes().keys();
    if let (Some(only), None) = (nodes.next(), nodes.next()) {
        return only.clone();
    }
    let host = rustix::system::uname();
    host.nodename().to_string_lossy().as_ref().into()
}

/// The node with all its addresses: those of its Node object, and those of every
/// interface in the agent's network namespace.
pub(super) fn context(name: &Arc<str>, store: &Store, interfaces: BTreeSet<IpAddr>) -> NodeContext {
    let mut addresses = interfaces;
    if let Some(node) = store.nodes().get(name) {
        addresses.extend(node.addresses.iter().copied());
    }
    NodeContext {
        name: name.clone(),
        addresses,
    }
}

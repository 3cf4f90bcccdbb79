//! The objects of one cluster, and whose an address is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::json;
use super::judge::{Answer, judge};
use super::object::{Pod, namespace_labels, node_addresses};
use super::policy::Policy;
use super::probe::{Packet, Probe, ProbeError};
use super::selector::Labels;
use super::service::{Service, Slice};

/// A set of Kubernetes objects, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub(super) pods: BTreeMap<(String, String), Pod>,
    pub(super) policies: BTreeMap<(String, String), Policy>,
    namespaces: BTreeMap<String, Labels>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    pub(super) services: BTreeMap<(String, String), Service>,
    pub(super) slices: BTreeMap<(String, String), Slice>,
    owners: BTreeMap<IpAddr, (String, String)>,
}

impl Cluster {
    /// Takes Pods, Namespaces, Nodes, NetworkPolicies, Services, EndpointSlices and lists of them;
    /// other kinds are ignored.
    ///
    /// An object without a name is ignored. Of two objects of one kind and name the later wins,
    /// as with `kubectl apply`.
    pub fn from_objects(objects: &[Value]) -> Self {
        let mut cluster = Self::default();
        for object in objects {
            cluster.add(object, "");
        }
        cluster.find_owners();
        cluster
    }

    /// What becomes of the connection that the probe describes.
    ///
    /// # Errors
    /// If the probe does not describe one packet; see [`ProbeError`].
    pub fn verdict(&self, probe: &Probe) -> Result<Answer, ProbeError> {
        Ok(self.judge(&self.packet(probe)?))
    }

    /// What becomes of a connection whose first packet this is.
    pub fn judge(&self, packet: &Packet) -> Answer {
        judge(self, self.policies.values(), packet)
    }

    /// The name (`namespace/name`) of the pod whose address this is, if it counts as a pod.
    pub fn owner(&self, address: IpAddr) -> Option<String> {
        self.pod_at(address).map(Pod::full_name)
    }

    fn add(&mut self, object: &Value, default_kind: &str) {
        let kind = json::text(object, "kind").unwrap_or(default_kind);
        if let Some(item_kind) = kind.strip_suffix("List") {
            for item in json::list(object, "items").unwrap_or_default() {
                self.add(item, item_kind);
            }
            return;
        }
        let Some(name) = json::text_at(object, &["metadata", "name"]).filter(|n| !n.is_empty())
        else {
            return;
        };
        let namespace = json::text_at(object, &["metadata", "namespace"])
            .filter(|n| !n.is_empty())
            .unwrap_or("default");
        let key = (namespace.to_owned(), name.to_owned());
        match (kind, api_group(object)) {
            ("Pod", "") => {
                self.pods.insert(key, Pod::parse(namespace, name, object));
            }
            ("Namespace", "") => {
                let labels = namespace_labels(name, Some(object));
                self.namespaces.insert(name.to_owned(), labels);
            }
            ("Node", "") => {
                self.nodes.insert(name.to_owned(), node_addresses(object));
            }
            ("Service", "") => {
                self.services
                    .extend(Service::parse(object).map(|service| (key, service)));
            }
            ("EndpointSlice", "discovery.k8s.io") => {
                self.slices
                    .extend(Slice::parse(object).map(|slice| (key, slice)));
            }
            ("NetworkPolicy", "" | "networking.k8s.io") => {
                self.policies
                    .insert(key, Policy::parse(namespace, name, object));
            }
            _ => {}
        }
    }

    /// Gives every address to one pod.
    ///
    /// Semantics 7: a finished pod has released its address, and its later updates must not
    /// steal it back; several live pods may show one address for a moment. The newest of them
    /// has it: by creationTimestamp, then uid, then name, a missing one being the oldest.
    fn find_owners(&mut self) {
        let mut by_age: Vec<_> = self.pods.iter().filter(|(_, pod)| pod.counts()).collect();
        by_age.sort_by_key(|(name, pod)| (pod.age.clone(), (*name).clone()));
        self.owners = by_age
            .into_iter()
            .flat_map(|(name, pod)| pod.addresses.iter().map(|ip| (*ip, name.clone())))
            .collect();
    }

    /// The chosen pods, altered, with their namespaces and nodes; without policies.
    pub(super) fn excerpt(&self, choose: impl Fn(&Pod) -> bool, alter: impl Fn(&mut Pod)) -> Self {
        let mut excerpt = Self::default();
        for (key, pod) in self.pods.iter().filter(|(_, pod)| choose(pod)) {
            let mut pod = pod.clone();
            alter(&mut pod);
            let labels = self.namespace_labels(&pod.namespace);
            excerpt.namespaces.insert(pod.namespace.clone(), labels);
            if let Some(entry) = pod.node.as_ref().and_then(|n| self.nodes.get_key_value(n)) {
                excerpt.nodes.insert(entry.0.clone(), entry.1.clone());
            }
            excerpt.pods.insert(key.clone(), pod);
        }
        excerpt.find_owners();
        excerpt
    }

    /// The pod whose address this is, for subjects, selectors and named ports.
    pub(super) fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.get(self.owners.get(&address)?)
    }

    /// Semantics 8: a node is all addresses of the Node object that the pod names.
    pub(super) fn is_own_node(&self, pod: &Pod, address: IpAddr) -> bool {
        let node = pod.node.as_ref().and_then(|name| self.nodes.get(name));
        node.is_some_and(|addresses| addresses.contains(&address))
    }

    /// The node whose address this is.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<&str> {
        let mut nodes = self.nodes.iter();
        let (name, _) = nodes.find(|(_, addresses)| addresses.contains(&address))?;
        Some(name)
    }

    /// The lowest address of a node in a family.
    pub(super) fn lowest_address(&self, node: &str, ipv4: bool) -> Option<IpAddr> {
        let mut addresses: Vec<_> = self.nodes.get(node)?.clone();
        addresses.sort();
        addresses.into_iter().find(|a| a.is_ipv4() == ipv4)
    }

    /// A namespace that nobody declared has its name's label alone.
    pub(super) fn namespace_labels(&self, name: &str) -> Labels {
        match self.namespaces.get(name) {
            Some(labels) => labels.clone(),
            None => namespace_labels(name, None),
        }
    }
}

/// The group in `group/version`; the core group, and a missing apiVersion, are empty.
fn api_group(object: &Value) -> &str {
    let version = json::text(object, "apiVersion").unwrap_or_default();
    version.split_once('/').map_or("", |(group, _)| group)
}

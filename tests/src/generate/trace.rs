//! A stream of changes to a large cluster, in a stated mix: 40 % pod updates that change nothing
//! a policy sees, 36 % the life of pods of other nodes (added, given an address, deleted), 12 %
//! the same on `node-0`, 4 % pods relabelled, 6 % policies, 2 % namespaces.
//!
//! A deleted pod's address goes to the next pod of the same node, on purpose.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::Rng;
use super::scale::{Size, give_address, labels, namespace, pod, policy};

/// What a change is about; times are measured for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A pod update that no policy can see.
    Noop,
    /// Life of a pod of another node.
    RemotePod,
    /// Life of a pod of `node-0`.
    LocalPod,
    /// A pod's labels change.
    Relabel,
    /// A policy is added, changed or deleted.
    Policy,
    /// A namespace is added, relabelled, or deleted while it is empty.
    Namespace,
}

impl Class {
    /// Every class, with how many of a hundred events are of it.
    pub const MIX: [(Self, usize); 6] = [
        (Self::Noop, 40),
        (Self::RemotePod, 36),
        (Self::LocalPod, 12),
        (Self::Relabel, 4),
        (Self::Policy, 6),
        (Self::Namespace, 2),
    ];
}

/// What happens to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is added or replaced.
    Apply(Value),
    /// The object, as last seen, is deleted.
    Delete(Value),
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it is about.
    pub class: Class,
    /// What happens.
    pub change: Change,
}

/// So many events that follow on the objects of [`super::scale_cluster`] of the same size.
pub fn event_trace(size: Size, seed: u64, objects: &[Value], count: usize) -> Vec<Event> {
    let mut tracer = Tracer::new(size, seed, objects);
    let weights = Class::MIX.map(|(_, weight)| weight);
    (0..count)
        .map(|_| {
            let class = Class::MIX[tracer.rng.weighted(&weights)].0;
            let change = tracer.change(class);
            Event { class, change }
        })
        .collect()
}

/// The objects after the events: in no particular order, each once.
pub fn replay(objects: &[Value], events: &[Event]) -> Vec<Value> {
    let mut state: BTreeMap<[String; 3], Value> =
        objects.iter().map(|o| (key(o), o.clone())).collect();
    for event in events {
        match &event.change {
            Change::Apply(object) => state.insert(key(object), object.clone()),
            Change::Delete(object) => state.remove(&key(object)),
        };
    }
    state.into_values().collect()
}

fn key(object: &Value) -> [String; 3] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    [
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    ]
}

struct Tracer {
    rng: Rng,
    size: Size,
    pods: Vec<Value>,
    policies: Vec<Value>,
    namespaces: Vec<Value>,
    /// Pods that the trace added and that wait for their address, by "is local".
    pending: [Vec<Value>; 2],
    /// Addresses that deleted pods had, by node.
    released: HashMap<usize, Vec<Ipv4Addr>>,
    /// Numbers new objects, and versions changed ones.
    next: usize,
}

impl Tracer {
    fn new(size: Size, seed: u64, objects: &[Value]) -> Self {
        let of_kind = |kind: &str| -> Vec<Value> {
            objects
                .iter()
                .filter(|o| o["kind"] == kind)
                .cloned()
                .collect()
        };
        Self {
            rng: Rng::new(seed ^ 0x0074_7261_6365),
            size,
            pods: of_kind("Pod"),
            policies: of_kind("NetworkPolicy"),
            namespaces: of_kind("Namespace"),
            pending: [Vec::new(), Vec::new()],
            released: HashMap::new(),
            next: objects.len(),
        }
    }

    fn change(&mut self, class: Class) -> Change {
        self.next += 1;
        match class {
            Class::Noop => self.change_pod(|pod, _, number| {
                pod["metadata"]["annotations"]["example.com/heartbeat"] = json!(number.to_string());
            }),
            Class::Relabel => self.change_pod(|pod, rng, number| {
                pod["metadata"]["labels"] = labels(rng, number % 5, number);
            }),
            Class::RemotePod => self.pod_life(false),
            Class::LocalPod => self.pod_life(true),
            Class::Policy => self.policy(),
            Class::Namespace => self.namespace(),
        }
    }

    fn change_pod(&mut self, alter: impl Fn(&mut Value, &mut Rng, usize)) -> Change {
        let index = self.rng.below(self.pods.len());
        let pod = &mut self.pods[index];
        alter(pod, &mut self.rng, self.next);
        pod["metadata"]["resourceVersion"] = json!(self.next.to_string());
        Change::Apply(pod.clone())
    }

    /// A pod is added, or the oldest that waits is given an address, or one is deleted.
    fn pod_life(&mut self, local: bool) -> Change {
        let waiting = self.pending[usize::from(local)].len();
        match self.rng.below(3) {
            0 => self.add_pod(local),
            1 if waiting > 0 => self.start_pod(local),
            2 => self
                .delete_pod(local)
                .unwrap_or_else(|| self.add_pod(local)),
            _ => self.add_pod(local),
        }
    }

    fn add_pod(&mut self, local: bool) -> Change {
        let scale = self.size.scale();
        let node = if local {
            0
        } else {
            1 + self.rng.below(scale.nodes - 1)
        };
        let pod = pod(&mut self.rng, &scale, self.next, node);
        self.pending[usize::from(local)].push(pod.clone());
        Change::Apply(pod)
    }

    fn start_pod(&mut self, local: bool) -> Change {
        let mut pod = self.pending[usize::from(local)].remove(0);
        let node = node_of(&pod);
        let address = self.released.get_mut(&node).and_then(Vec::pop);
        let address = address.unwrap_or_else(|| self.unused_address(node));
        give_address(&mut self.rng, &mut pod, address, node);
        pod["metadata"]["resourceVersion"] = json!(self.next.to_string());
        self.pods.push(pod.clone());
        Change::Apply(pod)
    }

    /// An address of the node's /24 behind its first pods' (which end at .101).
    fn unused_address(&mut self, node: usize) -> Ipv4Addr {
        let node = u32::try_from(node).expect("few nodes");
        let host = 102 + u32::try_from(self.next % 150).expect("below 150");
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + node * 256 + host)
    }

    /// Deletes a pod of the kind asked for, if a few looks find one.
    fn delete_pod(&mut self, local: bool) -> Option<Change> {
        let index = if local {
            (0..self.pods.len())
                .rev()
                .find(|index| node_of(&self.pods[*index]) == 0)
        } else {
            (0..20)
                .map(|_| self.rng.below(self.pods.len()))
                .find(|index| node_of(&self.pods[*index]) != 0)
        }?;
        let pod = self.pods.swap_remove(index);
        let address = pod["status"]["podIP"]
            .as_str()
            .and_then(|ip| ip.parse().ok());
        if let (Some(address), false) = (address, pod["spec"]["hostNetwork"] == true) {
            self.released
                .entry(node_of(&pod))
                .or_default()
                .push(address);
        }
        Some(Change::Delete(pod))
    }

    fn policy(&mut self) -> Change {
        let scale = self.size.scale();
        let fresh = policy(&mut self.rng, &scale, self.next);
        let index = self.rng.below(self.policies.len());
        match self.rng.below(3) {
            0 => {
                self.policies.push(fresh.clone());
                Change::Apply(fresh)
            }
            1 if self.policies.len() > 1 => Change::Delete(self.policies.swap_remove(index)),
            _ => {
                let old = &mut self.policies[index];
                old["spec"] = fresh["spec"].clone();
                old["metadata"]["resourceVersion"] = json!(self.next.to_string());
                Change::Apply(old.clone())
            }
        }
    }

    fn namespace(&mut self) -> Change {
        let scale = self.size.scale();
        let fresh = namespace(&mut self.rng, &scale, self.next);
        // Those that the trace added are behind the first ones, and no pod is ever in them.
        let empty = self.namespaces.len() > scale.namespaces;
        match self.rng.below(3) {
            0 => {
                self.namespaces.push(fresh.clone());
                Change::Apply(fresh)
            }
            1 if empty => Change::Delete(self.namespaces.pop().expect("more than at first")),
            _ => {
                let index = self.rng.below(scale.namespaces);
                let old = &mut self.namespaces[index];
                old["metadata"]["labels"] = fresh["metadata"]["labels"].clone();
                old["metadata"]["resourceVersion"] = json!(self.next.to_string());
                Change::Apply(old.clone())
            }
        }
    }
}

fn node_of(pod: &Value) -> usize {
    let name = pod["spec"]["nodeName"].as_str();
    name.and_then(|name| name.strip_prefix("node-")?.parse().ok())
        .expect("the generator names nodes by number")
}

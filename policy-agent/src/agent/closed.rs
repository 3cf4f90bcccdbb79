//! The node's pod range, closed where nobody calls the agent before a pod starts:
//! an address of it takes packets, other than the node's own, once the policies of
//! the pod that has it are in force.
//!
//! A pod that CNI made without our plugin has its address, and a route to it, before
//! anybody can have put programs on its interface. So what is sent to an address that
//! no protected pod has is dropped: at the sender's interface, where it arrives at the
//! node, and where the node has translated it and it goes onto a bridge. That goes on
//! while no agent runs. What is not held back is in ARCHITECTURE, "Closed addresses".

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use policy_core::diagnostic::{Diagnostic, Severity};

use super::state::{State, node_problem};
use crate::datapath::ClosedRange;

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodRange {
    /// Nothing is closed.
    #[default]
    Open,
    /// The prefixes in `spec.podCIDRs` of this node's Node.
    OfNode,
    /// These.
    Given(ClosedRange),
}

impl FromStr for PodRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "node" {
            return Ok(Self::OfNode);
        }
        let prefixes: Result<Vec<IpNet>, String> = text
            .split(',')
            .map(|part| {
                let bad = |_| format!("{part:?} is neither a prefix nor `node`");
                part.trim().parse().map_err(bad)
            })
            .collect();
        ClosedRange::of(&prefixes?).map(Self::Given)
    }
}

/// What is closed now, and what was found wrong with it.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// What was asked for.
    asked: PodRange,
    /// What was in force last, if only since an earlier agent: it stands while there is
    /// no Node to ask.
    last: ClosedRange,
    /// Put in force: range and addresses that are open.
    stored: Option<(ClosedRange, BTreeSet<IpAddr>)>,
    /// Addresses of it that pods of other nodes have.
    strangers: BTreeSet<IpAddr>,
    failure: Option<Diagnostic>,
}

impl Closed {
    /// `last`: what an earlier agent left in force.
    pub(super) fn new(asked: PodRange, last: ClosedRange) -> Self {
        Self {
            asked,
            last,
            ..Self::default()
        }
    }

    /// How many addresses are open.
    pub(super) fn open(&self) -> usize {
        self.stored.as_ref().map_or(0, |(_, open)| open.len())
    }

    /// Whether what is to be open and closed could be written.
    pub(super) fn works(&self) -> bool {
        self.failure.is_none()
    }
}

impl State {
    /// What is to be closed.
    pub(super) fn range(&self) -> ClosedRange {
        match self.closed.asked {
            PodRange::Open => ClosedRange::default(),
            PodRange::Given(range) => range,
            PodRange::OfNode => match self.pod_ranges() {
                // What is wrong with it is told in `range_problems`.
                Some(ranges) => ClosedRange::of(ranges).unwrap_or_default(),
                None => self.closed.last,
            },
        }
    }

    /// `None`: there is no Node.
    fn pod_ranges(&self) -> Option<&[IpNet]> {
        let node = self.engine.store().nodes().get(&self.engine.node().name)?;
        Some(&node.pod_ranges)
    }

    /// Whether another range is to be closed than is.
    pub(super) fn range_moved(&self) -> bool {
        let stored = self.closed.stored.as_ref();
        stored.is_some_and(|(range, _)| *range != self.range())
    }

    /// Opens the addresses of the pods whose policies are in force, and no others of
    /// the range; false where that failed.
    pub(super) fn close(&mut self) -> bool {
        let range = self.range();
        if self.closed.stored.is_none() {
            self.closed.strangers = self.strangers(&range);
        }
        let open = self.open_addresses(&range);
        let wanted = (range, open);
        if self.closed.stored.as_ref() == Some(&wanted) {
            return true;
        }
        self.put_closed(wanted).is_some()
    }

    /// [`Self::close`] whatever is known to be in force; whether something was not
    /// as it was left.
    pub(super) fn verify_closed(&mut self) -> bool {
        let range = self.range();
        self.closed.strangers = self.strangers(&range);
        let wanted = (range, self.open_addresses(&range));
        let known = self.closed.stored.as_ref() == Some(&wanted);
        self.put_closed(wanted) == Some(true) && known
    }

    /// Puts it in force; whether anything had to be written, `None`: it failed.
    fn put_closed(&mut self, wanted: (ClosedRange, BTreeSet<IpAddr>)) -> Option<bool> {
        match self.datapath.maps().close(&wanted.0, &wanted.1) {
            Ok(changed) => {
                self.closed.last = wanted.0;
                self.closed.stored = Some(wanted);
                self.closed.failure = None;
                Some(changed)
            }
            Err(error) => {
                self.closed.stored = None;
                self.closed.failure = Some(node_problem(
                    "pod range",
                    format!("{error}; pods whose addresses could not be opened receive nothing"),
                ));
                None
            }
        }
    }

    /// What the kernel has, not what is planned: an address that is open has programs,
    /// endpoint and word.
    fn open_addresses(&mut self, range: &ClosedRange) -> BTreeSet<IpAddr> {
        if range.is_empty() {
            return BTreeSet::new();
        }
        let kernel = self.planner.mirror();
        let attached = |(ifindex, slot): (&u32, &u32)| {
            let endpoint = kernel.attached.contains(ifindex).then_some(slot)?;
            kernel.endpoints.get(endpoint)
        };
        let mut open = BTreeSet::new();
        for pod in kernel.interfaces.iter().filter_map(attached) {
            open.insert(IpAddr::from(pod.addr4));
            open.insert(IpAddr::from(pod.addr6));
        }
        // Nothing is denied to those, wherever their interfaces are.
        let free = self.engine.desired().endpoints.values();
        for pod in free.filter(|pod| pod.ingress.is_none()) {
            open.extend(pod.ipv4.map(IpAddr::from));
            open.extend(pod.ipv6.map(IpAddr::from));
        }
        open.extend(&self.engine.node().addresses);
        open.retain(|address| range.contains(*address));
        open.extend(&self.closed.strangers);
        open
    }

    /// Addresses of the range that pods of other nodes have: then it is not this
    /// node's alone.
    fn strangers(&self, range: &ClosedRange) -> BTreeSet<IpAddr> {
        if range.is_empty() {
            return BTreeSet::new();
        }
        let name = &*self.engine.node().name;
        let pods = self.engine.store().pods().values();
        pods.filter(|pod| pod.node.as_deref().is_some_and(|node| node != name))
            .flat_map(|pod| pod.addresses())
            .filter(|address| range.contains(*address))
            .collect()
    }

    /// What is wrong with the range.
    pub(super) fn range_problems(&self) -> Vec<Diagnostic> {
        let mut problems: Vec<_> = self.closed.failure.iter().cloned().collect();
        let warning = |message| Diagnostic {
            severity: Severity::Warning,
            ..node_problem("pod range", message)
        };
        if self.closed.asked == PodRange::OfNode && self.synced {
            let name = &self.engine.node().name;
            let ranges = match self.pod_ranges() {
                Some(ranges) => ClosedRange::of(ranges),
                None => Ok(self.closed.last),
            };
            match ranges {
                Ok(range) if range.is_empty() => problems.push(warning(format!(
                    "there is no Node {name}, or it has no spec.podCIDRs: a new pod is open to \
                     others until its policies are in force; give the range to --pod-range, or \
                     use the CNI plugin"
                ))),
                Ok(_) => {}
                Err(error) => problems.push(warning(format!(
                    "spec.podCIDRs of Node {name}: {error}: a new pod is open to others until \
                     its policies are in force; give the range to --pod-range"
                ))),
            }
        }
        if let Some(address) = self.closed.strangers.first() {
            problems.push(warning(format!(
                "a pod of another node has {address}: the range is not this node's alone, and \
                 such addresses are closed to pods of this node until the agent has seen them; \
                 start it without --pod-range, or give it the node's own"
            )));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_nodes_or_prefixes() {
        assert_eq!("node".parse(), Ok(PodRange::OfNode));
        let Ok(PodRange::Given(range)) = "10.1.2.0/24, fd00:1::/64".parse() else {
            panic!("two prefixes")
        };
        assert!(range.contains("10.1.2.3".parse().unwrap()));
        assert!(range.contains("fd00:1::3".parse().unwrap()));
        for bad in [
            "",
            "nodes",
            "10.1.2.3",
            "10.1.2.0/24,10.1.3.0/24",
            "10.0.0.0/0",
        ] {
            assert!(bad.parse::<PodRange>().is_err(), "{bad}");
        }
    }
}

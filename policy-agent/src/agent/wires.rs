//! Programs on the node's interfaces that are no pod's, as they come and go:
//! `to_wire`, where packets that pods sent through a Service leave with their real
//! destination, and, where the node's pod range is closed, `from_wire`, where packets
//! to addresses arrive that no pod has yet.
//!
//! An interface gets them before anything changes for pods, and loses them after
//! the pod's own are there, so that at no time a packet passes that nobody has judged.

use std::collections::BTreeSet;

use policy_core::plan::Attachments;

use super::state::{State, node_problem};
use crate::datapath::{AttachError, Hook};

/// Every network namespace's first interface is its loopback
/// (`LOOPBACK_IFINDEX`, `include/net/flow.h`): what is on it has arrived.
const LOOPBACK: u32 = 1;

impl State {
    /// What belongs on interfaces that are neither pods' nor held nor the loopback.
    pub(super) fn wires(&self, attachments: &Attachments) -> BTreeSet<(u32, Hook)> {
        let hooks: &[Hook] = if self.range().is_empty() {
            &[Hook::Wire]
        } else {
            &[Hook::Wire, Hook::Arrive]
        };
        let pods: BTreeSet<u32> = attachments.values().map(|pod| pod.ifindex).collect();
        let links = self.snapshot.links.keys().copied();
        links
            .filter(|index| *index != LOOPBACK)
            .filter(|index| !pods.contains(index) && !self.held.contains(index))
            .flat_map(|index| hooks.iter().map(move |hook| (index, *hook)))
            .collect()
    }

    /// Puts them where they are missing; false where that failed.
    pub(super) fn wire(&mut self, wanted: &BTreeSet<(u32, Hook)>) -> bool {
        let missing: Vec<(u32, Hook)> = wanted.difference(&self.wired).copied().collect();
        let mut failure = None;
        for (ifindex, hook) in missing {
            match self.datapath.attach_wire(ifindex, hook) {
                Ok(()) => {
                    self.wired.insert((ifindex, hook));
                }
                // The next scan tells.
                Err(AttachError::Gone { .. }) => {}
                Err(error) => failure = Some((error, hook)),
            }
        }
        self.wire_failure = failure.map(|(error, hook)| {
            let so = if hook == Hook::Arrive {
                "new pods are open to what comes in by this interface until they are known"
            } else {
                "what pods send through Services out by this interface is not judged on its \
                 real destination"
            };
            node_problem("interfaces", format!("{error}; {so}"))
        });
        self.wire_failure.is_none()
    }

    /// Takes them off where they do not belong any more.
    pub(super) fn unwire(&mut self, wanted: &BTreeSet<(u32, Hook)>) {
        let surplus: Vec<(u32, Hook)> = self.wired.difference(wanted).copied().collect();
        for (ifindex, hook) in surplus {
            // What cannot be taken off does no harm, and is tried again.
            if self.datapath.detach_wire(ifindex, hook).is_ok() {
                self.wired.remove(&(ifindex, hook));
            }
        }
    }

    /// Looks where they are; true if that is not where they were left.
    pub(super) fn reread_wires(&mut self) -> Result<bool, AttachError> {
        let wires = self.datapath.wires()?;
        let live = |place: &(u32, Hook)| wires.get(place).copied().unwrap_or(false);
        let differs = !self.wired.iter().all(live);
        self.wired.clear();
        for ((ifindex, hook), live) in wires {
            if live {
                self.wired.insert((ifindex, hook));
            } else {
                // Its interface is gone, or somebody detached it: the pin stands for
                // nothing.
                self.datapath.detach_wire(ifindex, hook)?;
            }
        }
        Ok(differs)
    }
}

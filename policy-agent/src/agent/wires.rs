//! `to_wire` on the node's interfaces that are no pod's, as they come and go:
//! where packets that pods sent through a Service leave with their real
//! destination.
//!
//! An interface gets it before anything changes for pods, and loses it after
//! `to_pod` is there, so that at no time a packet leaves that nobody has judged.

use std::collections::BTreeSet;

use policy_core::plan::Attachments;

use super::state::{State, node_problem};
use crate::datapath::AttachError;

/// Every network namespace's first interface is its loopback
/// (`LOOPBACK_IFINDEX`, `include/net/flow.h`): what is on it has arrived.
const LOOPBACK: u32 = 1;

impl State {
    /// Interfaces that are neither pods' nor held nor the loopback.
    pub(super) fn wires(&self, attachments: &Attachments) -> BTreeSet<u32> {
        let pods: BTreeSet<u32> = attachments.values().map(|pod| pod.ifindex).collect();
        let links = self.snapshot.links.keys().copied();
        links
            .filter(|index| *index != LOOPBACK)
            .filter(|index| !pods.contains(index) && !self.held.contains(index))
            .collect()
    }

    /// Puts `to_wire` where it is missing; false where that failed.
    pub(super) fn wire(&mut self, wanted: &BTreeSet<u32>) -> bool {
        let missing: Vec<u32> = wanted.difference(&self.wired).copied().collect();
        let mut failure = None;
        for ifindex in missing {
            match self.datapath.attach_wire(ifindex) {
                Ok(()) => {
                    self.wired.insert(ifindex);
                }
                // The next scan tells.
                Err(AttachError::Gone { .. }) => {}
                Err(error) => failure = Some(error),
            }
        }
        self.wire_failure = failure.map(|error| {
            node_problem(
                "interfaces",
                format!(
                    "{error}; what pods send through Services out by this interface is not \
                     judged on its real destination"
                ),
            )
        });
        self.wire_failure.is_none()
    }

    /// Takes it off where it does not belong any more.
    pub(super) fn unwire(&mut self, wanted: &BTreeSet<u32>) {
        let surplus: Vec<u32> = self.wired.difference(wanted).copied().collect();
        for ifindex in surplus {
            // What cannot be taken off does no harm, and is tried again.
            if self.datapath.detach_wire(ifindex).is_ok() {
                self.wired.remove(&ifindex);
            }
        }
    }

    /// Looks where it is; true if that is not where it was left.
    pub(super) fn reread_wires(&mut self) -> Result<bool, AttachError> {
        let wires = self.datapath.wires()?;
        let live = |index: &u32| wires.get(index).copied().unwrap_or(false);
        let differs = !self.wired.iter().all(live);
        self.wired.clear();
        for (ifindex, live) in wires {
            if live {
                self.wired.insert(ifindex);
            } else {
                // Its interface is gone, or somebody detached it: the pin stands for
                // nothing.
                self.datapath.detach_wire(ifindex)?;
            }
        }
        Ok(differs)
    }
}

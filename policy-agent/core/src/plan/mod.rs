//! From the desired state and what is in the kernel to ordered operations.
//!
//! A change takes effect for an endpoint in one store: its word, or, where that
//! is all that changes, an address's row or a policy's row (`scheme` says when).
//! Everything that a new word needs is written before it, under numbers that
//! nobody uses; what nothing names any more is removed after it, a grace period
//! later. So a list of operations may stop anywhere.
//!
//! - [`mirror`]: what is in the kernel.
//! - `regions`, `answers`, `contents`: both states, made comparable.
//! - `seats`: which slot each pod has.
//! - `scheme`: which identity each class has, and how the change is made.
//! - `numbers`, `room`: policy numbers, port sets and what else is given out.
//! - `services`: rows of Services, from which a packet's way is guessed.
//! - `quick`: the short way, where only addresses changed.
//! - `draft`: the operations; `capacity`: what is done without when maps are
//!   full.

mod answers;
mod capacity;
mod contents;
mod draft;
mod limits;
pub mod mirror;
mod numbers;
mod quick;
mod regions;
mod room;
mod scheme;
mod seats;
mod services;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;

use policy_common::abi::endpoint::FLAG_NO_SPOOF_CHECK;

use crate::desired::{DesiredState, PodRef};
use crate::diagnostic::Diagnostic;
use crate::ops::Op;
pub use limits::Limits;
pub use mirror::{HostRow, Mirror, StoredPortSet};
pub use quick::{Quick, Settled};
pub use room::DENY_ALL;

/// The interface of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// Index of the host side of its veth.
    pub ifindex: u32,
    /// The link-local address of the pod's side; `None`: not known (yet).
    pub link_local6: Option<Ipv6Addr>,
}

/// Interfaces of pods. A pod without one has no slot.
pub type Attachments = BTreeMap<PodRef, Attachment>;

/// What the kernel knows of a pod once a plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Programmed {
    /// Its slot.
    pub slot: u32,
    /// Its endpoint number.
    pub number: u32,
    /// Its interface.
    pub ifindex: u32,
    /// Number of its ingress policy; 0: not isolated.
    pub ingress: u16,
    /// Number of its egress policy; 0: not isolated.
    pub egress: u16,
    /// Generation of its word.
    pub generation: u32,
    /// Its policies are the desired ones; else a problem says why not.
    pub current: bool,
}

/// What must be done to reach the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Op>,
    /// What cannot be put in force.
    pub problems: Vec<Diagnostic>,
    /// Every pod that has a slot.
    pub endpoints: BTreeMap<PodRef, Programmed>,
}

/// Makes plans, and keeps up what is in the kernel.
#[derive(Debug, Clone)]
pub struct Planner {
    mirror: Mirror,
    limits: Limits,
    /// Slots to give, the longest unused first.
    free: VecDeque<u32>,
    /// Flags of new slots.
    flags: u32,
    /// A change may have stopped between an answer and the generations that it
    /// makes stale.
    renew: bool,
    /// Set while a short plan may be made.
    settled: Option<Settled>,
}

impl Planner {
    /// For a kernel in this state, with maps of these sizes.
    pub fn new(mirror: Mirror, limits: Limits) -> Self {
        let slots = u32::try_from(limits.endpoints).unwrap_or(u32::MAX);
        let free = (1..slots).filter(|slot| !mirror.endpoints.contains_key(slot));
        Self {
            free: free.collect(),
            mirror,
            limits,
            flags: 0,
            renew: false,
            settled: None,
        }
    }

    /// The next plan gives every endpoint a new generation, so that connections
    /// and cached flows are judged again. For an agent that starts, and after
    /// operations that failed: an answer may have changed without the generations
    /// that belong to it.
    pub fn renew_all(&mut self) {
        self.renew = true;
    }

    /// What the last plan was to do is done: generations are what they should be.
    pub fn renewed(&mut self) {
        self.renew = false;
    }

    /// Whether pods may send from their own addresses only; so it is unless
    /// somebody says otherwise. A pod that was there with the other setting gets
    /// a new slot, and its connections new records.
    pub fn set_spoof_check(&mut self, on: bool) {
        self.flags = if on { 0 } else { FLAG_NO_SPOOF_CHECK };
    }

    /// What is in the kernel.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// These operations were done. A caller that failed half-way tells those
    /// before the failure, and plans again.
    pub fn applied(&mut self, ops: &[Op]) {
        if !ops.is_empty() {
            self.settled = None;
        }
        for op in ops {
            match op {
                Op::Endpoint { slot, .. } => {
                    if let Some(at) = self.free.iter().position(|free| free == slot) {
                        self.free.remove(at);
                    }
                }
                Op::DeleteEndpoint { slot } if self.mirror.endpoints.contains_key(slot) => {
                    self.free.push_back(*slot);
                }
                _ => {}
            }
            self.mirror.apply(op);
        }
    }

    /// The kernel was read anew and looks like this.
    pub fn reread(&mut self, mirror: Mirror) {
        self.settled = None;
        let slots = u32::try_from(self.limits.endpoints).unwrap_or(u32::MAX);
        self.free
            .retain(|slot| !mirror.endpoints.contains_key(slot));
        let lost = self.mirror.endpoints.keys().copied();
        let lost = lost.filter(|slot| *slot < slots && !mirror.endpoints.contains_key(slot));
        self.free.extend(lost);
        self.mirror = mirror;
    }

    /// What must be done to reach the desired state, with these interfaces.
    ///
    /// Whatever finds no room is left out whole and named in
    /// [`Plan::problems`]; a plan that removes something may make room for it:
    /// plan again once it is carried out, until there are no operations.
    pub fn plan(&self, desired: &DesiredState, attachments: &Attachments) -> Plan {
        let mut seats = seats::seats(&self.mirror, desired, attachments, &self.free, self.flags);
        seats.renew = self.renew;
        capacity::plan(&self.mirror, self.limits, desired, seats)
    }
}

#[cfg(test)]
mod tests;

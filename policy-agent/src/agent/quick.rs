//! The short way through a change: where only addresses changed, nothing of the
//! rest is looked at again.
//!
//! `plan`'s quick way decides whether a change is of that kind. This knows when it
//! may be asked at all: everything was settled, and nothing was seen of
//! interfaces since.

use policy_core::engine::Changes;
use policy_core::plan::Attachments;

use super::state::{Outcome, State};

impl State {
    /// Puts a change in force the short way; `None`: it takes the long one.
    pub(super) fn quick(&mut self, changes: &Changes) -> Option<Outcome> {
        if self.looked || self.settled.is_none() || self.range_moved() {
            return None;
        }
        if changes.is_empty() {
            return Some(Outcome::done(false));
        }
        let desired = self.engine.desired();
        let quick = self.planner.quick(desired, changes)?;
        if changes.rules {
            self.names.learn_rules(&desired.rules);
        }
        if !quick.ops.is_empty() {
            self.changes += 1;
            if !self.carry_out(&quick.ops) {
                self.settled = None;
                self.planner.renew_all();
                return Some(Outcome::failed());
            }
        }
        for (slot, generation) in &quick.renewed {
            let mut pods = self.programmed.values_mut();
            if let Some(pod) = pods.find(|pod| pod.slot == *slot) {
                pod.generation = *generation;
            }
        }
        self.planner.done_quick(quick);
        Some(Outcome::done(false))
    }

    /// After a change that leaves nothing to remove: whether the next one may take
    /// the short way. Off the path of the change itself.
    pub(super) fn settle(&mut self, attachments: Attachments) {
        let desired = self.engine.desired();
        let plan = self.planner.plan(desired, &attachments);
        if plan.ops.is_empty() && plan.problems.is_empty() {
            self.planner.settle(desired, &plan.endpoints);
            self.settled = Some((attachments, self.held.clone()));
        }
    }
}

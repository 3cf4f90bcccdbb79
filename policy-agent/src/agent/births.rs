//! Interfaces that appeared while the agent runs: which of them are held because
//! nobody knows whose they are, and which pods could be reached before their
//! policies were in force. Pure; the clock is a parameter.
//!
//! What was there before the agent is never held: it may be the uplink. A veth
//! that nobody knows after [`UNKNOWN_HELD`] is no pod's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::api::Unprotected;
use crate::iface::{Assignment, LinkKind, NotAPod, Snapshot};

/// How long an interface that nobody knows is held. A pod is told of by CNI at
/// once and by the API server within a second or two; what is no pod's waits for
/// this long once.
pub(super) const UNKNOWN_HELD: Duration = Duration::from_secs(30);

/// How many unprotected pods are remembered.
const REMEMBERED: usize = 100;

/// What happens to an interface that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum UnknownInterfaces {
    /// Only the node's own traffic passes, for a while.
    Hold,
    /// Everything passes.
    Pass,
}

/// What is remembered of a veth.
#[derive(Debug, Clone, Copy)]
struct Seen {
    since: Instant,
    /// It was there when the agent first looked, without our programs.
    before_agent: bool,
    /// It was a pod's.
    owned: bool,
    /// It was there when something was last put in force.
    settled: bool,
    /// It was left without our programs since; `None`: it has them, or was not
    /// left yet.
    open_since: Option<Instant>,
}

/// The veths of the node, since when, and whose windows were open.
#[derive(Debug)]
pub(super) struct Births {
    mode: UnknownInterfaces,
    looked: bool,
    seen: BTreeMap<u32, Seen>,
    unprotected: VecDeque<Unprotected>,
    total: u64,
}

impl Births {
    pub(super) fn new(mode: UnknownInterfaces) -> Self {
        Self {
            mode,
            looked: false,
            seen: BTreeMap::new(),
            unprotected: VecDeque::new(),
            total: 0,
        }
    }

    /// Takes in what is there. `attached` are the interfaces with our programs:
    /// of those that were there before the agent, an earlier one or the plugin
    /// has put them there, so they are as if they had come just now.
    pub(super) fn look(&mut self, snapshot: &Snapshot, attached: &BTreeSet<u32>, now: Instant) {
        self.seen
            .retain(|index, _| snapshot.links.contains_key(index));
        let veths = snapshot.links.values().filter(|l| l.kind == LinkKind::Veth);
        for link in veths {
            // A pair is made here and one end is moved: that is when it begins.
            if self.looked && link.foreign_peer().is_none() {
                continue;
            }
            let before_agent = !self.looked && !attached.contains(&link.index);
            self.seen.entry(link.index).or_insert(Seen {
                since: now,
                before_agent,
                owned: false,
                settled: false,
                open_since: before_agent.then_some(now),
            });
        }
        self.looked = true;
    }

    /// Takes in whose interfaces are. One that was a pod's and is not any more,
    /// while it is still there, begins anew: its pod may still run.
    pub(super) fn assigned<P: Ord + Clone>(&mut self, assignment: &Assignment<P>, now: Instant) {
        let owned: BTreeSet<u32> = assignment.interfaces.values().flatten().copied().collect();
        for (index, seen) in &mut self.seen {
            let is_owned = owned.contains(index);
            if seen.owned && !is_owned {
                seen.since = now;
                seen.before_agent = false;
            }
            seen.owned = is_owned;
        }
    }

    /// An interface begins anew: what was told of it was taken back.
    pub(super) fn again(&mut self, interface: u32, now: Instant) {
        if let Some(seen) = self.seen.get_mut(&interface) {
            seen.since = now;
            seen.before_agent = false;
        }
    }

    /// The interfaces that are held because nobody knows them.
    pub(super) fn unknown<P: Ord + Clone>(
        &self,
        assignment: &Assignment<P>,
        now: Instant,
    ) -> BTreeSet<u32> {
        let may_be = |why: &NotAPod| match why {
            NotAPod::NoAddress
            | NotAPod::NoPodsAddress
            | NotAPod::Denied
            | NotAPod::Unsettled
            | NotAPod::Excessive => true,
            NotAPod::PeerHere | NotAPod::PeerGone | NotAPod::Filtered => false,
        };
        let is_young = |index: &u32| {
            let seen = self.seen.get(index);
            seen.is_some_and(|seen| !seen.before_agent && now < seen.since + UNKNOWN_HELD)
        };
        if self.mode == UnknownInterfaces::Pass {
            return BTreeSet::new();
        }
        assignment
            .not_pods
            .iter()
            .filter(|(index, why)| may_be(why) && is_young(index))
            .map(|(index, _)| *index)
            .collect()
    }

    /// Whether an interface was there before the agent, without programs: what
    /// uses it goes on undisturbed until policies are known.
    pub(super) fn was_open(&self, interface: u32) -> bool {
        self.seen
            .get(&interface)
            .is_some_and(|seen| seen.before_agent)
    }

    /// Whether an interface was held for as long as that is done.
    pub(super) fn is_given_up(&self, interface: u32, now: Instant) -> bool {
        let seen = self.seen.get(&interface);
        self.mode == UnknownInterfaces::Hold
            && seen.is_some_and(|seen| !seen.before_agent && now >= seen.since + UNKNOWN_HELD)
    }

    /// When the next of the held interfaces is let go.
    pub(super) fn deadline(&self, held: &BTreeSet<u32>, now: Instant) -> Option<Instant> {
        let ends = held.iter().filter_map(|index| self.seen.get(index));
        let ends = ends.map(|seen| seen.since + UNKNOWN_HELD);
        ends.filter(|end| *end > now).min()
    }

    /// An isolated pod's policies are in force on an interface: notes for how
    /// long the interface had been left open.
    pub(super) fn protected(&mut self, interface: u32, pod: &str, uid: &str, now: Instant) {
        let Some(seen) = self.seen.get_mut(&interface) else {
            return;
        };
        let Some(since) = seen.open_since.take() else {
            return;
        };
        let open = now.saturating_duration_since(since);
        self.total += 1;
        self.unprotected.push_back(Unprotected {
            pod: pod.to_owned(),
            uid: uid.to_owned(),
            milliseconds: u64::try_from(open.as_millis()).unwrap_or(u64::MAX),
            before_agent: seen.before_agent,
        });
        if self.unprotected.len() > REMEMBERED {
            self.unprotected.pop_front();
        }
    }

    /// The plugin told of an interface before any container of its pod started:
    /// that it was open until then exposed nobody.
    pub(super) fn told_in_time(&mut self, interface: u32) {
        if let Some(seen) = self.seen.get_mut(&interface)
            && !seen.before_agent
        {
            seen.open_since = None;
        }
    }

    /// What has no programs now is left open, since it was first seen or since
    /// they were taken off.
    pub(super) fn settle(&mut self, attached: &BTreeSet<u32>, now: Instant) {
        for (index, seen) in &mut self.seen {
            if attached.contains(index) {
                seen.open_since = None;
            } else if seen.open_since.is_none() {
                let since = if seen.settled { now } else { seen.since };
                seen.open_since = Some(since);
            }
            seen.settled = true;
        }
    }

    /// The latest pods that were unprotected.
    pub(super) fn unprotected(&self) -> impl Iterator<Item = &Unprotected> {
        self.unprotected.iter()
    }

    /// How many there were.
    pub(super) const fn unprotected_total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests;

//! When to look again: events in, due changes out. Pure; the clock is a
//! parameter.
//!
//! The first event of a source is due at once. Further ones wait until a gap
//! has passed, and are then one. The gap of a namespace that keeps changing
//! doubles: a pod that adds and removes addresses in a loop delays news about
//! itself and of nobody else. Besides, everything is read again from time to
//! time, soon after a change and ever more rarely later, for what gave no event.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::snapshot::Nsid;

/// Shortest time between two changes of one source: what the creation of one
/// pod's interfaces takes, so that it is seen as one or two changes.
const GAP: Duration = Duration::from_millis(5);

/// Longest time by which a source that never rests is put off.
const MAX_GAP: Duration = Duration::from_millis(200);

/// What has to be read again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// All of it: events may have been lost, or it is time for the safety poll.
    pub everything: bool,
    /// Links or addresses of the agent's namespace changed.
    pub own: bool,
    /// Addresses changed in these namespaces.
    pub namespaces: BTreeSet<Nsid>,
}

impl Change {
    /// The change that makes a scan read everything.
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }
}

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Links or addresses of the agent's namespace.
    Own,
    /// The folder of namespaces.
    Folder,
    /// Events of the agent's namespace were lost.
    OwnOverrun,
    /// Events of other namespaces were lost.
    ForeignOverrun,
    /// Addresses of this namespace.
    Namespace(Nsid),
}

impl Source {
    /// Whether others than the node's own administration can cause it at will.
    fn is_foreign(self) -> bool {
        match self {
            Self::Namespace(_) | Self::ForeignOverrun => true,
            Self::Own | Self::Folder | Self::OwnOverrun => false,
        }
    }
}

/// How often everything is read for safety.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Polls {
    /// Time from a change of the node to the first poll.
    pub(super) first: Duration,
    /// Each interval is this many times the one before,
    pub(super) factor: u32,
    /// up to this.
    pub(super) slowest: Duration,
}

impl Polls {
    /// When the kernel tells what happens in other namespaces.
    pub(super) const WITH_EVENTS: Self = Self {
        first: Duration::from_millis(100),
        factor: 4,
        slowest: Duration::from_secs(5),
    };
    /// When an address that a pod gets after its link gives no event, or when
    /// a namespace may be mounted in the folder after its name appeared there.
    pub(super) const WITHOUT_EVENTS: Self = Self {
        first: Duration::from_millis(10),
        factor: 2,
        slowest: Duration::from_secs(1),
    };
}

/// What is known about one source.
#[derive(Debug)]
struct Recent {
    /// There is something to tell.
    waiting: bool,
    /// Last time something was told.
    told: Option<Instant>,
    gap: Duration,
}

impl Recent {
    fn due(&self, now: Instant) -> Instant {
        self.told.map_or(now, |told| told + self.gap)
    }
}

/// Decides when which change is told.
#[derive(Debug)]
pub(super) struct Pace {
    polls: Polls,
    interval: Duration,
    next_poll: Instant,
    sources: BTreeMap<Source, Recent>,
}

impl Pace {
    /// Starts with a poll that is due at once.
    pub(super) fn new(polls: Polls, now: Instant) -> Self {
        Self {
            polls,
            interval: polls.first,
            next_poll: now,
            sources: BTreeMap::new(),
        }
    }

    /// Takes note of an event.
    pub(super) fn event(&mut self, source: Source) {
        self.sources
            .entry(source)
            .or_insert(Recent {
                waiting: false,
                told: None,
                gap: GAP,
            })
            .waiting = true;
    }

    /// When [`Pace::take`] is worth calling next, if no event comes before.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        self.sources
            .values()
            .filter(|recent| recent.waiting)
            .map(|recent| recent.due(now))
            .fold(self.next_poll, Instant::min)
    }

    /// The change that is due, if one is.
    pub(super) fn take(&mut self, now: Instant) -> Option<Change> {
        let poll = now >= self.next_poll;
        let mut change = Change::default();
        let mut any = poll;
        let mut restart = false;
        for (source, recent) in &mut self.sources {
            // What is due a little later is told by a full reading as well.
            if !recent.waiting || (!poll && recent.due(now) > now) {
                continue;
            }
            any = true;
            recent.waiting = false;
            let quiet = recent
                .told
                .is_none_or(|told| now.duration_since(told) > 4 * recent.gap);
            recent.gap = if quiet || !source.is_foreign() {
                GAP
            } else {
                (2 * recent.gap).min(MAX_GAP)
            };
            recent.told = Some(now);
            restart |= !source.is_foreign();
            match source {
                Source::Own => change.own = true,
                Source::Folder | Source::OwnOverrun | Source::ForeignOverrun => {
                    change.everything = true;
                }
                Source::Namespace(nsid) => {
                    change.namespaces.insert(*nsid);
                }
            }
        }
        if poll {
            change.everything = true;
            self.interval = (self.interval * self.polls.factor).min(self.polls.slowest);
            self.next_poll = now + self.interval;
            // Numbers of namespaces that are gone would pile up.
            self.sources.retain(|_, recent| {
                recent.waiting || recent.told.is_some_and(|told| now < told + 8 * MAX_GAP)
            });
        }
        if restart {
            // Never later than it was: changes without pause must not put off
            // the poll for ever.
            self.interval = self.polls.first;
            self.next_poll = self.next_poll.min(now + self.interval);
        }
        any.then_some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A pace whose first poll has been told.
    fn started() -> (Pace, Instant) {
        let now = Instant::now();
        let mut pace = Pace::new(Polls::WITH_EVENTS, now);
        assert_eq!(pace.take(now), Some(Change::everything()));
        assert_eq!(pace.take(now), None);
        (pace, now)
    }

    fn of_namespace(nsid: u32) -> Option<Change> {
        Some(Change {
            namespaces: [Nsid(nsid)].into(),
            ..Change::default()
        })
    }

    #[test]
    fn the_first_event_is_due_at_once_and_a_burst_is_one_change() {
        let (mut pace, start) = started();
        let own = Some(Change {
            own: true,
            ..Change::default()
        });
        pace.event(Source::Own);
        assert_eq!(pace.take(start + ms(1)), own);
        pace.event(Source::Own);
        pace.event(Source::Own);
        assert_eq!(pace.take(start + ms(2)), None);
        assert_eq!(pace.deadline(start + ms(2)), start + ms(6));
        assert_eq!(pace.take(start + ms(6)), own);
        assert_eq!(pace.take(start + ms(20)), None);
    }

    #[test]
    fn a_namespace_that_never_rests_waits_longer_and_others_do_not() {
        let (mut pace, start) = started();
        let mut told = Vec::new();
        for at in 0..1_900 {
            pace.event(Source::Namespace(Nsid(1)));
            if let Some(change) = pace.take(start + ms(at))
                && !change.everything
            {
                told.push(at);
            }
        }
        assert!(told.len() < 25, "told {} times", told.len());
        assert!(told.windows(2).all(|pair| pair[1] - pair[0] <= 800));
        pace.event(Source::Namespace(Nsid(2)));
        assert_eq!(pace.take(start + ms(1_900)), of_namespace(2));
    }

    #[test]
    fn a_namespace_that_rested_is_told_at_once_again() {
        let (mut pace, start) = started();
        for at in 0..90 {
            pace.event(Source::Namespace(Nsid(1)));
            pace.take(start + ms(at));
        }
        // The rest of the burst, and the polls that fall into the time.
        for at in [400, 401, 2_000] {
            pace.take(start + ms(at));
        }
        pace.event(Source::Namespace(Nsid(1)));
        assert_eq!(pace.take(start + ms(2_050)), of_namespace(1));
        pace.event(Source::Namespace(Nsid(1)));
        assert_eq!(pace.take(start + ms(2_052)), None);
        assert_eq!(pace.take(start + ms(2_055)), of_namespace(1));
    }

    #[test]
    fn lost_events_make_everything_due() {
        let (mut pace, start) = started();
        pace.event(Source::ForeignOverrun);
        assert_eq!(pace.take(start + ms(1)), Some(Change::everything()));
        pace.event(Source::OwnOverrun);
        assert_eq!(pace.take(start + ms(1)), Some(Change::everything()));
    }

    #[test]
    fn polls_get_rarer_and_start_again_after_a_change_of_the_node_only() {
        let (mut pace, mut now) = started();
        let mut intervals = Vec::new();
        for _ in 0..5 {
            let next = pace.deadline(now);
            intervals.push(next.duration_since(now).as_millis());
            now = next;
            assert_eq!(pace.take(now), Some(Change::everything()));
        }
        assert_eq!(intervals, [400, 1_600, 5_000, 5_000, 5_000]);
        pace.event(Source::Namespace(Nsid(3)));
        assert_eq!(pace.take(now), of_namespace(3));
        assert_eq!(pace.deadline(now), now + ms(5_000));
        pace.event(Source::Own);
        pace.take(now);
        assert_eq!(pace.deadline(now), now + ms(100));
        pace.event(Source::Own);
        pace.take(now + ms(60));
        assert_eq!(pace.deadline(now + ms(60)), now + ms(100));
    }
}

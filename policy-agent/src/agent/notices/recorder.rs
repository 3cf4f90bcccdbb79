//! From notices to requests: pure, time is an argument.
//!
//! The same notice within [`REMEMBERED`] is one Event: it is created once and
//! then patched with a count and the time of the last one, not more often than
//! [`PATCHED_EVERY`]. The name of an Event is a function of what it says (and of
//! the node, where that matters), so that an agent that starts again, or another
//! node's agent, finds the Event that is there.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NOTE_BYTES, Notice, Regarding};

/// How long a notice is the same as one before. Servers forget Events after an
/// hour, unless they are patched.
const REMEMBERED: Duration = Duration::from_secs(45 * 60);
/// How often an Event's count is patched at most.
const PATCHED_EVERY: Duration = Duration::from_secs(60);
/// Different notices that are remembered.
const SERIES: usize = 1_024;
/// Requests that wait at most.
const WAITING: usize = 256;
/// Requests in a row, before they are held to the rate.
const BURST: u32 = 25;
/// The rate: a request each.
const EVERY: Duration = Duration::from_millis(200);
/// How often a request is tried.
const TRIES: u32 = 4;
/// How long to wait after a failure; doubled with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For intervals.
    pub(super) instant: Instant,
    /// For people.
    pub(super) wall: Timestamp,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Post {
    /// Create this Event.
    Create { namespace: Arc<str>, event: Value },
    /// Patch an Event with this (a merge patch).
    Patch {
        namespace: Arc<str>,
        name: String,
        patch: Value,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was done.
    Done,
    /// An Event to create is there already.
    Exists,
    /// An Event to patch is not there.
    Missing,
    /// The server could not do it now.
    Failed,
    /// The server does not want it, and will not.
    Refused,
}

/// What was told and what of it was posted.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Where it speaks from: this node.
    node: Arc<str>,
    series: BTreeMap<Arc<Notice>, Series>,
    /// Notices with something to post, oldest first.
    waiting: VecDeque<Arc<Notice>>,
    allowed: u32,
    refilled: Option<Instant>,
    paused_until: Option<Instant>,
    wait: Duration,
    tries: u32,
    lost: u64,
}

#[derive(Debug)]
struct Series {
    count: u32,
    last: Now,
    posted: Option<Instant>,
    /// The count that the server knows.
    posted_count: u32,
    exists: bool,
    waits: bool,
}

impl Recorder {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            series: BTreeMap::new(),
            waiting: VecDeque::new(),
            allowed: BURST,
            refilled: None,
            paused_until: None,
            wait: FIRST_WAIT,
            tries: 0,
            lost: 0,
        }
    }

    /// Takes a notice in.
    pub(super) fn tell(&mut self, notice: Notice, now: Now) {
        self.forget(now.instant);
        let notice = Arc::new(notice);
        if let Some(series) = self.series.get_mut(&notice) {
            series.count = series.count.saturating_add(1);
            series.last = now;
            return;
        }
        if self.series.len() >= SERIES || self.waiting.len() >= WAITING {
            self.lost += 1;
            return;
        }
        let series = Series {
            count: 1,
            last: now,
            posted: None,
            posted_count: 0,
            exists: false,
            waits: true,
        };
        self.series.insert(notice.clone(), series);
        self.waiting.push_back(notice);
    }

    /// The next request, if its time has come. It is the same one until
    /// [`Self::answered`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Post> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.repeat(now);
        self.refill(now);
        if self.allowed == 0 {
            return None;
        }
        let notice = self.waiting.front()?;
        let series = self.series.get(notice)?;
        Some(if series.exists {
            self.patch(notice, series)
        } else {
            self.create(notice, series)
        })
    }

    /// When [`Self::next`] may have something that it has not now.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        if let Some(until) = self.paused_until.filter(|until| now < *until) {
            return Some(until);
        }
        if !self.waiting.is_empty() {
            return Some(now + EVERY);
        }
        let due = self.series.values().filter_map(Series::due);
        due.min()
    }

    /// What became of the request that [`Self::next`] gave.
    pub(super) fn answered(&mut self, answer: Answer, now: Instant) {
        self.allowed = self.allowed.saturating_sub(1);
        if answer == Answer::Failed {
            self.tries += 1;
            self.paused_until = Some(now + self.wait);
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
            if self.tries < TRIES {
                return;
            }
        } else {
            self.paused_until = None;
            self.wait = FIRST_WAIT;
        }
        self.tries = 0;
        let Some(notice) = self.waiting.pop_front() else {
            return;
        };
        let Some(series) = self.series.get_mut(&notice) else {
            return;
        };
        series.waits = false;
        match answer {
            Answer::Done => {
                series.exists = true;
                series.posted = Some(now);
                series.posted_count = series.count;
            }
            Answer::Exists if notice.reason.is_the_clusters() => {
                // Another node's agent has said it.
                series.exists = true;
                series.posted = Some(now);
                series.posted_count = series.count;
            }
            Answer::Exists => {
                // An earlier agent of this node has: it happened once more.
                series.exists = true;
                series.count = series.count.saturating_add(1);
                series.waits = true;
                self.waiting.push_front(notice);
            }
            Answer::Missing => {
                // Servers forget Events.
                series.exists = false;
                series.waits = true;
                self.waiting.push_front(notice);
            }
            Answer::Failed | Answer::Refused => {
                self.lost += 1;
                self.series.remove(&notice);
            }
        }
    }

    /// Notices that were given up.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    fn forget(&mut self, now: Instant) {
        self.series.retain(|_, series| {
            let age = now.saturating_duration_since(series.last.instant);
            series.waits || age < REMEMBERED
        });
    }

    /// Counts that have grown and may be patched again.
    fn repeat(&mut self, now: Instant) {
        for (notice, series) in &mut self.series {
            if self.waiting.len() >= WAITING {
                return;
            }
            if series.due().is_some_and(|due| due <= now) {
                series.waits = true;
                self.waiting.push_back(notice.clone());
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let refilled = *self.refilled.get_or_insert(now);
        let passed = now.saturating_duration_since(refilled);
        let more = u32::try_from(passed.as_millis() / EVERY.as_millis()).unwrap_or(u32::MAX);
        if more > 0 {
            self.allowed = self.allowed.saturating_add(more).min(BURST);
            self.refilled = Some(now);
        }
    }

    fn create(&self, notice: &Notice, series: &Series) -> Post {
        let (kind, api_version, name, uid) = match &notice.regarding {
            Regarding::Pod { name, uid, .. } => ("Pod", "v1", name, uid),
            Regarding::Policy { name, uid, .. } => {
                ("NetworkPolicy", "networking.k8s.io/v1", name, uid)
            }
            // What kubelets write, and `kubectl describe node` looks for.
            Regarding::Node { name } => ("Node", "v1", name, name),
        };
        let namespace = namespace(&notice.regarding);
        let mut regarding = json!({
            "apiVersion": api_version, "kind": kind, "name": &**name, "uid": &**uid,
        });
        if !matches!(notice.regarding, Regarding::Node { .. }) {
            regarding["namespace"] = json!(&*namespace);
        }
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": self.name(notice), "namespace": &*namespace},
            "eventTime": micro(series.last.wall),
            "type": "Warning",
            "reason": notice.reason.name(),
            "action": notice.reason.action(),
            "note": cut(&notice.note),
            "regarding": regarding,
            "reportingController": "policy-agent",
            "reportingInstance": cut_to(&self.node, 128),
        });
        if series.count > 1 {
            event["series"] = counted(series);
        }
        Post::Create { namespace, event }
    }

    fn patch(&self, notice: &Notice, series: &Series) -> Post {
        Post::Patch {
            namespace: namespace(&notice.regarding),
            name: self.name(notice),
            patch: json!({"series": counted(series)}),
        }
    }

    /// The Event's name: the object's, and a hash of what is said.
    fn name(&self, notice: &Notice) -> String {
        // Its keys are zero: the same in every agent of a version.
        let mut hasher = DefaultHasher::new();
        notice.hash(&mut hasher);
        if !notice.reason.is_the_clusters() {
            self.node.hash(&mut hasher);
        }
        let (Regarding::Pod { name, .. }
        | Regarding::Policy { name, .. }
        | Regarding::Node { name }) = &notice.regarding;
        // Names have 253 bytes at most.
        format!("{}.{:016x}", cut_to(name, 236), hasher.finish())
    }
}

impl Series {
    /// When a patch is due, if one is.
    fn due(&self) -> Option<Instant> {
        let grown = !self.waits && self.count > self.posted_count;
        self.posted
            .filter(|_| grown)
            .map(|posted| posted + PATCHED_EVERY)
    }
}

fn counted(series: &Series) -> Value {
    json!({"count": series.count, "lastObservedTime": micro(series.last.wall)})
}

/// Where an Event is: beside its object, or where those of nodes are.
fn namespace(regarding: &Regarding) -> Arc<str> {
    match regarding {
        Regarding::Pod { namespace, .. } | Regarding::Policy { namespace, .. } => namespace.clone(),
        Regarding::Node { .. } => "default".into(),
    }
}

/// As the API writes it: RFC 3339 with six digits.
fn micro(time: Timestamp) -> String {
    format!("{time:.6}")
}

fn cut(note: &str) -> String {
    if note.len() <= NOTE_BYTES {
        return note.to_owned();
    }
    const MORE: &str = " ...";
    cut_to(note, NOTE_BYTES - MORE.len()).to_owned() + MORE
}

/// At most so many bytes, whole characters.
fn cut_to(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests;

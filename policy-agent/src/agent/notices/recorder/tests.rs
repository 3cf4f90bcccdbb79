//! Notices at chosen times, and the requests that follow.

use jiff::SignedDuration;

use super::super::Reason;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A recorder with a clock of its own.
struct Bench {
    recorder: Recorder,
    start: Instant,
    now: Duration,
    /// By how much somebody has set the clock that people read.
    set: SignedDuration,
}

fn pod(name: &str, note: &str) -> Notice {
    Notice {
        regarding: Regarding::Pod {
            namespace: "shop".into(),
            name: name.into(),
            uid: "u-1".into(),
        },
        reason: Reason::UnprotectedStart,
        note: note.to_owned(),
    }
}

fn policy() -> Notice {
    Notice {
        regarding: Regarding::Policy {
            namespace: "shop".into(),
            name: "p".into(),
            uid: "u-2".into(),
        },
        reason: Reason::InvalidPolicy,
        note: "wrong".to_owned(),
    }
}

impl Bench {
    fn new() -> Self {
        Self::on("node-1")
    }

    fn on(node: &str) -> Self {
        Self {
            recorder: Recorder::new(node.into()),
            start: Instant::now(),
            now: Duration::ZERO,
            set: SignedDuration::ZERO,
        }
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn tell(&mut self, notice: Notice) {
        let now = Now {
            instant: self.instant(),
            wall: Timestamp::from_second(1_800_000_000).unwrap() + self.now + self.set,
        };
        self.recorder.tell(notice, now);
    }

    fn next(&mut self) -> Option<Post> {
        let now = self.instant();
        self.recorder.next(now)
    }

    /// The next request, answered.
    fn post(&mut self, answer: Answer) -> Option<Post> {
        let post = self.next()?;
        let now = self.instant();
        self.recorder.answered(answer, now);
        Some(post)
    }

    /// Answers all that is to be done now; how much it was.
    fn drain(&mut self, answer: Answer) -> usize {
        std::iter::from_fn(|| self.post(answer)).count()
    }
}

fn count(post: &Post) -> Option<u64> {
    let (Post::Create { event: body, .. } | Post::Patch { patch: body, .. }) = post;
    body["series"]["count"].as_u64()
}

#[test]
fn event_has_every_field_that_the_api_wants() {
    let mut bench = Bench::new();
    bench.tell(pod("db", "it ran"));
    let Some(Post::Create { namespace, event }) = bench.next() else {
        panic!("an Event is created");
    };
    assert_eq!(&*namespace, "shop");
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("db.") && name.len() == 19, "{name}");
    let rest = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "shop"},
        "eventTime": "2027-01-15T08:00:00.000000Z",
        "type": "Warning",
        "reason": "UnprotectedStart",
        "action": "Enforce",
        "note": "it ran",
        "regarding": {
            "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "db", "uid": "u-1",
        },
        "reportingController": "policy-agent",
        "reportingInstance": "node-1",
    });
    assert_eq!(event, rest);
}

#[test]
fn events_of_nodes_are_in_the_namespace_default() {
    let mut bench = Bench::new();
    bench.tell(Notice {
        regarding: Regarding::Node {
            name: "node-1".into(),
        },
        reason: Reason::EnforcementOff,
        note: "off".to_owned(),
    });
    let Some(Post::Create { namespace, event }) = bench.next() else {
        panic!("an Event is created");
    };
    assert_eq!(&*namespace, "default");
    assert_eq!(event["regarding"].get("namespace"), None);
}

#[test]
fn same_notice_again_is_a_count_and_not_more_often_than_it_may_be_patched() {
    let mut bench = Bench::new();
    bench.tell(pod("db", "a"));
    assert!(matches!(
        bench.post(Answer::Done),
        Some(Post::Create { .. })
    ));
    bench.tell(pod("db", "a"));
    bench.now += SECOND;
    bench.tell(pod("db", "a"));
    assert_eq!(bench.next(), None, "it was posted a second ago");
    let due = bench.recorder.wake(bench.instant());
    assert_eq!(due, Some(bench.start + PATCHED_EVERY));
    bench.now = PATCHED_EVERY;
    let patch = bench.post(Answer::Done).unwrap();
    assert!(matches!(patch, Post::Patch { .. }) && count(&patch) == Some(3));
    let Post::Patch { patch, .. } = patch else {
        panic!("a patch");
    };
    assert_eq!(
        patch,
        json!({"series": {"count": 3, "lastObservedTime": "2027-01-15T08:00:01.000000Z"}})
    );
    assert_eq!(bench.next(), None);
    assert_eq!(bench.recorder.wake(bench.instant()), None);
}

#[test]
fn a_clock_that_is_set_changes_what_people_read_and_not_when_it_is_posted() {
    for years in [-10, 10] {
        let mut bench = Bench::new();
        bench.tell(pod("db", "a"));
        assert_eq!(bench.drain(Answer::Done), 1);
        bench.set = SignedDuration::from_hours(years * 365 * 24);
        bench.tell(pod("db", "a"));
        assert_eq!(bench.next(), None, "it was posted just now");
        bench.now = PATCHED_EVERY;
        let patch = bench.post(Answer::Done).unwrap();
        assert_eq!(count(&patch), Some(2), "the same Event");
        bench.tell(pod("web", "a"));
        let created = bench.post(Answer::Done);
        assert!(matches!(created, Some(Post::Create { .. })));
        bench.now += REMEMBERED;
        bench.tell(pod("db", "a"));
        let created = bench.post(Answer::Done);
        assert!(matches!(created, Some(Post::Create { .. })), "a new one");
    }
}

#[test]
fn another_object_reason_or_note_is_another_event_and_so_is_one_after_a_while() {
    let mut bench = Bench::new();
    bench.tell(pod("db", "a"));
    bench.tell(pod("db", "b"));
    bench.tell(pod("web", "a"));
    assert_eq!(bench.drain(Answer::Done), 3);
    bench.now += REMEMBERED;
    bench.tell(pod("db", "a"));
    assert!(matches!(bench.next(), Some(Post::Create { .. })));
}

#[test]
fn event_that_is_there_already_is_counted_on_and_the_clusters_is_left_alone() {
    let mut bench = Bench::new();
    bench.tell(pod("db", "a"));
    bench.post(Answer::Exists);
    let patch = bench.post(Answer::Done).unwrap();
    assert!(matches!(patch, Post::Patch { .. }) && count(&patch) == Some(2));
    bench.tell(policy());
    bench.post(Answer::Exists);
    assert_eq!(bench.next(), None, "another node's agent has said it");
}

#[test]
fn event_that_the_server_forgot_is_created_again_with_its_count() {
    let mut bench = Bench::new();
    bench.tell(pod("db", "a"));
    bench.post(Answer::Done);
    bench.tell(pod("db", "a"));
    bench.now += PATCHED_EVERY;
    bench.post(Answer::Missing);
    let created = bench.post(Answer::Done).unwrap();
    assert!(matches!(created, Post::Create { .. }) && count(&created) == Some(2));
}

#[test]
fn all_nodes_give_one_name_to_what_the_cluster_has_and_their_own_to_what_they_have() {
    let name = |node: &str, notice: Notice| {
        let mut bench = Bench::on(node);
        bench.tell(notice);
        match bench.next() {
            Some(Post::Create { event, .. }) => event["metadata"]["name"].clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(name("node-1", policy()), name("node-2", policy()));
    assert_ne!(
        name("node-1", pod("db", "a")),
        name("node-2", pod("db", "a"))
    );
}

#[test]
fn a_flood_is_held_to_the_rate_and_what_does_not_fit_is_lost_and_counted() {
    let mut bench = Bench::new();
    for number in 0..WAITING + 10 {
        bench.tell(pod(&format!("pod-{number}"), "a"));
    }
    assert_eq!(bench.recorder.lost(), 10);
    let burst = usize::try_from(BURST).unwrap();
    assert_eq!(bench.drain(Answer::Done), burst);
    bench.now += EVERY * 3;
    assert_eq!(bench.drain(Answer::Done), 3);
    bench.now += EVERY * 1000;
    assert_eq!(bench.drain(Answer::Done), burst);
}

#[test]
fn series_are_bounded_and_old_ones_make_room() {
    let mut bench = Bench::new();
    for number in 0..SERIES + 1 {
        bench.tell(pod(&format!("pod-{number}"), "a"));
        bench.now += EVERY;
        bench.drain(Answer::Done);
    }
    assert_eq!(bench.recorder.lost(), 1);
    bench.now += REMEMBERED;
    bench.tell(pod("another", "a"));
    assert_eq!(bench.recorder.lost(), 1);
    assert_eq!(bench.drain(Answer::Done), 1);
}

#[test]
fn server_that_is_away_is_asked_ever_more_rarely_and_then_the_event_is_given_up() {
    let mut bench = Bench::new();
    bench.tell(pod("db", "a"));
    bench.tell(pod("web", "a"));
    let mut waited = Vec::new();
    for _ in 0..TRIES {
        assert!(bench.post(Answer::Failed).is_some());
        assert_eq!(bench.next(), None, "not at once again");
        let until = bench.recorder.wake(bench.instant()).unwrap();
        waited.push((until - bench.instant()).as_secs());
        bench.now = until - bench.start;
    }
    assert_eq!(waited, [1, 2, 4, 8]);
    assert_eq!(bench.recorder.lost(), 1);
    assert_eq!(bench.drain(Answer::Done), 1, "the other one is posted");
}

#[test]
fn what_the_server_does_not_want_is_given_up_at_once() {
    let mut bench = Bench::new();
    bench.tell(pod("db", "a"));
    bench.post(Answer::Refused);
    assert_eq!((bench.next(), bench.recorder.lost()), (None, 1));
}

#[test]
fn long_notes_and_names_are_cut_between_characters() {
    let mut bench = Bench::new();
    let notice = pod(&"n".repeat(253), &"ä".repeat(NOTE_BYTES));
    bench.tell(notice);
    let Some(Post::Create { event, .. }) = bench.next() else {
        panic!("an Event is created");
    };
    let note = event["note"].as_str().unwrap();
    assert!(
        note.len() <= NOTE_BYTES && note.ends_with("ä ..."),
        "{note}"
    );
    assert_eq!(event["metadata"]["name"].as_str().unwrap().len(), 253);
}

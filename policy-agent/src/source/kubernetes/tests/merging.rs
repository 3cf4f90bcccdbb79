//! Two feeds of pods, and what the store makes of them.

use policy_core::store::Kind;
use serde_json::{Value, json};

use super::super::follow::Follower;
use super::super::merge::Merge;
use super::super::told::Told;
use super::*;
use crate::source::convert::Names;

struct Pods {
    merge: Merge,
    engine: Engine,
    names: Names,
}

impl Pods {
    fn new() -> Self {
        Self {
            merge: Merge::new("n1".into()),
            engine: Engine::new(NodeContext::default()),
            names: Names::new(),
        }
    }

    fn tell(&mut self, feed: Feed, told: Vec<Told>) {
        for told in told {
            let events = self.merge.take(feed, told, self.engine.store());
            self.engine.apply(events);
        }
    }

    fn event(&mut self, feed: Feed, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string();
        let mut told = Vec::new();
        Follower::new(feed)
            .line(line.as_bytes(), &mut self.names, &mut told)
            .unwrap();
        self.tell(feed, told);
    }

    fn list(&mut self, feed: Feed, objects: &[Value]) {
        let mut follower = Follower::new(feed);
        follower.begin();
        for object in objects {
            follower.item(&object.to_string(), &mut self.names).unwrap();
        }
        let told = follower.end("1".to_owned());
        self.tell(feed, vec![told]);
    }

    /// `name@node:uid` of each.
    fn pods(&self) -> Vec<String> {
        let pods = self.engine.store().pods().values();
        pods.map(|pod| {
            let node = pod.node.as_deref().unwrap_or_default();
            format!("{}@{node}:{}", pod.name, pod.uid)
        })
        .collect()
    }
}

fn pod(name: &str, node: &str, uid: &str, created: u32) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "a", "name": name, "uid": uid,
                     "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
        "spec": {"nodeName": node},
    })
}

use Feed::{OtherPods, OwnPods};

#[test]
fn pods_are_all_there_when_both_feeds_have_told_a_list() {
    for (first, second) in [(OwnPods, OtherPods), (OtherPods, OwnPods)] {
        let of = |feed| match feed {
            OwnPods => pod("a", "n1", "1", 0),
            _ => pod("b", "n2", "2", 0),
        };
        let mut pods = Pods::new();
        pods.list(first, &[of(first)]);
        assert!(!pods.engine.store().is_ready(&Kind::Pod));
        pods.list(second, &[of(second)]);
        assert!(pods.engine.store().is_ready(&Kind::Pod));
        assert_eq!(pods.pods(), ["a@n1:1", "b@n2:2"]);
    }
}

#[test]
fn a_list_of_one_feed_leaves_the_pods_of_the_other() {
    let mut pods = Pods::new();
    pods.list(OwnPods, &[pod("a", "n1", "1", 0), pod("b", "n1", "2", 0)]);
    pods.list(OtherPods, &[pod("c", "n2", "3", 0), pod("d", "n3", "4", 0)]);
    assert_eq!(pods.pods(), ["a@n1:1", "b@n1:2", "c@n2:3", "d@n3:4"]);
    pods.list(OwnPods, &[pod("b", "n1", "2", 0)]);
    assert_eq!(pods.pods(), ["b@n1:2", "c@n2:3", "d@n3:4"]);
    pods.list(OtherPods, &[]);
    assert_eq!(pods.pods(), ["b@n1:2"]);
}

#[test]
fn a_pod_that_comes_again_elsewhere_is_the_new_one_whichever_feed_is_first() {
    for (old_feed, old_node, new_feed, new_node) in [
        (OwnPods, "n1", OtherPods, "n2"),
        (OtherPods, "n2", OwnPods, "n1"),
    ] {
        let old = pod("web-0", old_node, "z-old", 1);
        for created in [1, 2] {
            let new = pod("web-0", new_node, "a-new", created);
            let want = [format!("web-0@{new_node}:a-new")];

            let mut pods = Pods::new();
            pods.event(old_feed, "ADDED", &old);
            pods.event(old_feed, "DELETED", &old);
            assert_eq!(pods.pods(), [""; 0]);
            pods.event(new_feed, "ADDED", &new);
            assert_eq!(pods.pods(), want);

            let mut pods = Pods::new();
            pods.event(old_feed, "ADDED", &old);
            pods.event(new_feed, "ADDED", &new);
            assert_eq!(pods.pods().len(), 1);
            pods.event(old_feed, "MODIFIED", &old);
            assert_eq!(pods.pods().len(), 1);
            pods.event(old_feed, "DELETED", &old);
            assert_eq!(pods.pods(), want);
            pods.event(new_feed, "DELETED", &new);
            assert_eq!(pods.pods(), [""; 0]);
        }
    }
}

#[test]
fn of_two_pods_of_one_name_the_newest_counts_and_then_the_one_of_this_node() {
    let mut pods = Pods::new();
    pods.event(OtherPods, "ADDED", &pod("w", "n2", "2", 2));
    pods.event(OwnPods, "ADDED", &pod("w", "n1", "1", 1));
    assert_eq!(pods.pods(), ["w@n2:2"]);
    pods.event(OwnPods, "ADDED", &pod("w", "n1", "3", 2));
    assert_eq!(pods.pods(), ["w@n1:3"]);
    pods.event(OtherPods, "MODIFIED", &pod("w", "n2", "2", 2));
    assert_eq!(pods.pods(), ["w@n1:3"]);
}

#[test]
fn a_list_that_no_longer_has_the_pod_in_front_shows_the_one_behind() {
    let mut pods = Pods::new();
    pods.event(OwnPods, "ADDED", &pod("w", "n1", "1", 1));
    pods.event(OtherPods, "ADDED", &pod("w", "n2", "2", 2));
    pods.list(OtherPods, &[pod("x", "n2", "9", 1)]);
    assert_eq!(pods.pods(), ["w@n1:1", "x@n2:9"]);
}

#[test]
fn a_list_that_no_longer_has_the_pod_behind_forgets_it() {
    let mut pods = Pods::new();
    pods.event(OwnPods, "ADDED", &pod("w", "n1", "1", 1));
    pods.event(OtherPods, "ADDED", &pod("w", "n2", "2", 2));
    pods.list(OwnPods, &[]);
    assert_eq!(pods.pods(), ["w@n2:2"]);
    pods.event(OtherPods, "DELETED", &pod("w", "n2", "2", 2));
    assert_eq!(pods.pods(), [""; 0]);
}

#[test]
fn a_pod_that_does_not_decode_stays_as_it_was_in_events_and_lists() {
    let mut pods = Pods::new();
    let mut bad = pod("w", "n2", "2", 2);
    bad["spec"]["hostNetwork"] = json!("perhaps");
    pods.event(OtherPods, "ADDED", &bad);
    assert_eq!(pods.pods(), [""; 0]);
    assert_eq!(pods.merge.problems().count(), 1);
    pods.event(OtherPods, "ADDED", &pod("w", "n2", "1", 1));
    assert_eq!(pods.merge.problems().count(), 0);
    pods.event(OtherPods, "MODIFIED", &bad);
    assert_eq!(pods.pods(), ["w@n2:1"]);
    pods.list(OtherPods, &[bad.clone()]);
    assert_eq!(pods.pods(), ["w@n2:1"]);
    assert_eq!(pods.merge.problems().count(), 1);
    pods.list(OwnPods, &[]);
    assert_eq!(pods.merge.problems().count(), 1);
    pods.event(OtherPods, "DELETED", &bad);
    assert_eq!(pods.pods(), [""; 0]);
    assert_eq!(pods.merge.problems().count(), 0);
}

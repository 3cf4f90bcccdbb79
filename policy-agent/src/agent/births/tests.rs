//! Who is held for how long, and whose windows are measured.

use std::collections::BTreeMap;

use super::*;
use crate::iface::{Link, Nsid, Peer};

fn node(veths: &[u32]) -> Snapshot {
    let link = |index: u32| Link {
        index,
        name: format!("veth{index}"),
        kind: LinkKind::Veth,
        peer: Peer::Elsewhere {
            namespace: Nsid(index),
            index: 2,
        },
        master: None,
        up: true,
    };
    Snapshot {
        links: veths.iter().map(|index| (*index, link(*index))).collect(),
        ..Snapshot::default()
    }
}

fn assigned(pods: &[(u32, &'static str)], others: &[(u32, NotAPod)]) -> Assignment<&'static str> {
    Assignment {
        interfaces: pods.iter().map(|(at, pod)| (*pod, [*at].into())).collect(),
        contested: BTreeMap::new(),
        not_pods: others.iter().copied().collect(),
        without_interface: BTreeMap::new(),
        conflicts: vec![],
    }
}

fn unknown(births: &Births, others: &[(u32, NotAPod)], now: Instant) -> Vec<u32> {
    let assignment = assigned(&[], others);
    births.unknown(&assignment, now).into_iter().collect()
}

const NOBODY: NotAPod = NotAPod::NoPodsAddress;

/// Births of an agent that found `veths` when it started, `attached` among them.
fn started(mode: UnknownInterfaces, veths: &[u32], attached: &[u32]) -> (Births, Instant) {
    let now = Instant::now();
    let mut births = Births::new(mode);
    births.look(&node(veths), &attached.iter().copied().collect(), now);
    (births, now)
}

#[test]
fn what_appears_is_held_for_a_bounded_time_and_what_was_there_never() {
    let (mut births, start) = started(UnknownInterfaces::Hold, &[1, 2], &[2]);
    let later = start + Duration::from_secs(5);
    births.look(&node(&[1, 2, 3]), &BTreeSet::new(), later);
    let all = [(1, NOBODY), (2, NOBODY), (3, NOBODY)];
    assert!(births.was_open(1) && !births.was_open(2) && !births.was_open(3));
    // 2 had programs of ours: an earlier agent or the plugin held it.
    assert_eq!(unknown(&births, &all, later), [2, 3]);
    let held = BTreeSet::from([2, 3]);
    assert_eq!(births.deadline(&held, later), Some(start + UNKNOWN_HELD));
    let end = start + UNKNOWN_HELD;
    assert_eq!(unknown(&births, &all, end), [3]);
    assert!(births.is_given_up(2, end) && !births.is_given_up(1, end));
    assert_eq!(births.deadline(&held, end), Some(later + UNKNOWN_HELD));
    let end = later + UNKNOWN_HELD;
    assert_eq!(unknown(&births, &all, end), Vec::<u32>::new());
    assert_eq!(births.deadline(&held, end), None);
}

#[test]
fn only_what_may_be_a_pods_is_held_and_only_if_so_told() {
    let reasons = [
        (3, NotAPod::NoAddress),
        (4, NotAPod::NoPodsAddress),
        (5, NotAPod::Denied),
        (6, NotAPod::Unsettled),
        (7, NotAPod::Excessive),
        (8, NotAPod::PeerHere),
        (9, NotAPod::PeerGone),
        (10, NotAPod::Filtered),
    ];
    let there: Vec<u32> = reasons.iter().map(|(index, _)| *index).collect();
    for (mode, expected) in [
        (UnknownInterfaces::Hold, vec![3, 4, 5, 6, 7]),
        (UnknownInterfaces::Pass, vec![]),
    ] {
        let (mut births, start) = started(mode, &[], &[]);
        births.look(&node(&there), &BTreeSet::new(), start);
        assert_eq!(unknown(&births, &reasons, start), expected);
    }
}

#[test]
fn a_pair_begins_when_its_end_is_moved_and_an_index_that_is_gone_is_forgotten() {
    let (mut births, start) = started(UnknownInterfaces::Hold, &[], &[]);
    let mut here = node(&[3]);
    here.links.get_mut(&3).expect("there").peer = Peer::Here(4);
    births.look(&here, &BTreeSet::new(), start);
    let moved = start + Duration::from_secs(60);
    births.look(&node(&[3]), &BTreeSet::new(), moved);
    assert_eq!(unknown(&births, &[(3, NOBODY)], moved), [3]);
    births.look(&node(&[]), &BTreeSet::new(), moved);
    let again = moved + Duration::from_secs(60);
    births.look(&node(&[3]), &BTreeSet::new(), again);
    assert_eq!(unknown(&births, &[(3, NOBODY)], again), [3]);
}

#[test]
fn an_interface_that_loses_its_pod_or_its_statement_is_held_anew() {
    let (mut births, start) = started(UnknownInterfaces::Hold, &[1, 2], &[]);
    births.assigned(&assigned(&[(1, "db")], &[]), start);
    let later = start + Duration::from_secs(3_600);
    births.assigned(&assigned(&[], &[(1, NOBODY)]), later);
    assert_eq!(unknown(&births, &[(1, NOBODY)], later), [1]);
    births.again(2, later);
    assert_eq!(unknown(&births, &[(2, NOBODY)], later), [2]);
    let end = later + UNKNOWN_HELD;
    assert_eq!(
        unknown(&births, &[(1, NOBODY), (2, NOBODY)], end),
        Vec::<u32>::new()
    );
}

/// What was measured: pod, milliseconds, before the agent.
fn measured(births: &Births) -> Vec<(&str, u64, bool)> {
    let all = births.unprotected();
    all.map(|open| (open.pod.as_str(), open.milliseconds, open.before_agent))
        .collect()
}

#[test]
fn the_time_for_which_an_isolated_pod_was_open_is_measured() {
    let ms = Duration::from_millis;
    let (mut births, start) = started(UnknownInterfaces::Pass, &[1], &[]);
    let none = BTreeSet::new();
    // Known as soon as it was seen.
    births.look(&node(&[1, 2]), &none, start);
    births.protected(2, "shop/quick", "u", start + ms(1));
    births.settle(&BTreeSet::from([2]), start + ms(1));
    assert_eq!(measured(&births), []);
    // Left open, and known later.
    births.look(&node(&[1, 2, 3]), &none, start + ms(10));
    births.settle(&BTreeSet::from([2]), start + ms(12));
    births.protected(3, "shop/late", "u", start + ms(250));
    births.settle(&BTreeSet::from([2, 3]), start + ms(250));
    // There before the agent.
    births.protected(1, "shop/old", "u", start + ms(300));
    births.settle(&BTreeSet::from([1, 2, 3]), start + ms(300));
    let expected = [("shop/late", 240, false), ("shop/old", 300, true)];
    assert_eq!(measured(&births), expected);
    // Protected again after nothing happened: no news.
    births.protected(1, "shop/old", "u", start + ms(400));
    assert_eq!(
        (measured(&births).len(), births.unprotected_total()),
        (2, 2)
    );
}

#[test]
fn what_the_plugin_told_of_in_time_exposed_nobody() {
    let (mut births, start) = started(UnknownInterfaces::Pass, &[1], &[]);
    births.look(&node(&[1, 2]), &BTreeSet::new(), start);
    births.settle(&BTreeSet::new(), start);
    for interface in [1, 2] {
        births.told_in_time(interface);
        births.protected(interface, "shop/db", "u", start + Duration::from_millis(5));
    }
    // It told of 1 when it had long been there.
    assert_eq!(measured(&births), [("shop/db", 5, true)]);
}

#[test]
fn of_many_the_latest_are_remembered_and_all_are_counted() {
    let (mut births, start) = started(UnknownInterfaces::Pass, &[], &[]);
    let all: Vec<u32> = (1..=150).collect();
    births.look(&node(&all), &BTreeSet::new(), start);
    births.settle(&BTreeSet::new(), start);
    for index in &all {
        births.protected(*index, &index.to_string(), "u", start);
    }
    assert_eq!(births.unprotected_total(), 150);
    let first = births.unprotected().next().expect("some");
    assert_eq!(
        (births.unprotected().count(), first.pod.as_str()),
        (100, "51")
    );
}

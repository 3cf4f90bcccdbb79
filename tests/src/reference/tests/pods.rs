//! Semantics 7: which pods count, and whose an address is.

use serde_json::{Value, json};

use super::support::{ask, check, pod, policy, world};
use crate::reference::{Cluster, ProbeError};

/// The common world in which `a` admits only the pods of `b`, and `b` is otherwise open.
fn only_from_b(pods: &[Value]) -> Vec<Value> {
    let mut objects = world();
    objects.extend_from_slice(pods);
    objects.push(policy(
        "a/p",
        json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]}),
    ));
    objects
}

fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a path");
    pod.pointer_mut(parent).expect("the parent exists")[field] = value;
    pod
}

#[test]
fn finished_pods_are_neither_subject_nor_peer() {
    for (phase, counts) in [
        (json!("Succeeded"), false),
        (json!("Failed"), false),
        (json!("Pending"), true),
        (json!("Unknown"), true),
        (json!(null), true),
    ] {
        let change = |full_name: &str, ip: &str| {
            with(pod(full_name, &[], &[ip]), "/status/phase", phase.clone())
        };
        let objects = only_from_b(&[change("a/x", "10.244.7.1"), change("b/x", "10.244.7.2")]);
        let cluster = Cluster::from_objects(&objects);
        let peer = ask(&cluster, "b/x > a/db 80/TCP");
        assert_eq!(peer.allowed, counts, "{phase} as a peer");
        let subject = ask(&cluster, "192.0.2.1 > a/x 80/TCP");
        assert_eq!(subject.allowed, !counts, "{phase} as a subject");
        assert_eq!(subject.ingress.is_some(), counts, "{phase} is judged");
    }
}

#[test]
fn terminating_pods_still_count() {
    let leaving = |full_name: &str, ip: &str| {
        let time = json!("2026-01-01T00:00:00Z");
        with(
            pod(full_name, &[], &[ip]),
            "/metadata/deletionTimestamp",
            time,
        )
    };
    check(
        "terminating",
        &only_from_b(&[leaving("a/x", "10.244.7.1"), leaving("b/x", "10.244.7.2")]),
        &["b/x > a/db 80/TCP", "b/web > a/x 80/TCP"],
        &["c/web > a/x 80/TCP"],
    );
}

#[test]
fn a_pod_without_an_address_is_nobody_yet() {
    let objects = only_from_b(&[pod("b/x", &[], &[])]);
    let cluster = Cluster::from_objects(&objects);
    let probe = "b/x > a/db 80/TCP".parse().expect("a probe");
    assert_eq!(cluster.verdict(&probe), Err(ProbeError::NoCommonFamily));
    check(
        "before",
        &objects,
        &["b/web > a/db 80/TCP"],
        &["10.244.7.2 > a/db 80/TCP"],
    );
    let objects = only_from_b(&[pod("b/x", &[], &["10.244.7.2"])]);
    check(
        "after",
        &objects,
        &["10.244.7.2 > a/db 80/TCP"],
        &["10.244.7.3 > a/db 80/TCP"],
    );
}

#[test]
fn a_finished_pod_does_not_hold_the_address_that_another_has_now() {
    let old = with(
        pod("b/old", &[], &["10.244.7.1"]),
        "/status/phase",
        json!("Succeeded"),
    );
    let old = with(
        old,
        "/metadata/creationTimestamp",
        json!("2026-02-01T00:00:00Z"),
    );
    let new = pod("c/new", &[], &["10.244.7.1"]);
    for pods in [[old.clone(), new.clone()], [new, old]] {
        let objects = only_from_b(&pods);
        assert_eq!(
            Cluster::from_objects(&objects).owner("10.244.7.1".parse().expect("an address")),
            Some("c/new".to_owned())
        );
        check(
            "the address is the live pod's",
            &objects,
            &["b/web > a/db 80/TCP"],
            &[
                "10.244.7.1 > a/db 80/TCP",
                "c/new > a/db 80/TCP",
                "b/old > a/db 80/TCP",
            ],
        );
    }
}

#[test]
fn of_several_live_pods_the_newest_has_the_address() {
    let made = |full_name: &str, time: &str, uid: &str| {
        let pod = with(
            pod(full_name, &[], &["10.244.7.1"]),
            "/metadata/uid",
            json!(uid),
        );
        with(pod, "/metadata/creationTimestamp", json!(time))
    };
    for (older, newer) in [
        (
            made("c/x", "2026-01-01T00:00:00Z", "9"),
            made("b/x", "2026-01-01T00:00:01Z", "1"),
        ),
        (
            made("c/x", "2026-01-01T00:00:00Z", "1"),
            made("b/x", "2026-01-01T00:00:00Z", "2"),
        ),
        (
            pod("c/x", &[], &["10.244.7.1"]),
            made("b/x", "2026-01-01T00:00:00Z", "1"),
        ),
    ] {
        for pods in [
            [older.clone(), newer.clone()],
            [newer.clone(), older.clone()],
        ] {
            let cluster = Cluster::from_objects(&only_from_b(&pods));
            let owner = cluster.owner("10.244.7.1".parse().expect("an address"));
            assert_eq!(owner, Some("b/x".to_owned()));
            assert!(ask(&cluster, "10.244.7.1 > a/db 80/TCP").allowed);
            assert!(!ask(&cluster, "c/web > a/db 80/TCP").allowed);
        }
    }
}

#[test]
fn pod_ip_is_used_where_there_is_no_list() {
    let single = with(pod("b/x", &[], &[]), "/status/podIP", json!("10.244.7.1"));
    let listed = with(
        pod("b/y", &[], &["10.244.7.3"]),
        "/status/podIP",
        json!("10.244.7.2"),
    );
    check(
        "podIP",
        &only_from_b(&[single, listed]),
        &["10.244.7.1 > a/db 80/TCP", "10.244.7.3 > a/db 80/TCP"],
        &["10.244.7.2 > a/db 80/TCP"],
    );
}

//! Pods, nodes, and who has to allow.

use super::*;

#[test]
fn the_own_node_is_open_both_ways_and_other_nodes_are_not() {
    let store = cluster([policy("a/p", "{}", Some(&[]), Some(&[]))]);
    check(
        &store,
        &[
            "192.168.0.1 > a/db 80/TCP",
            "a/db > 192.168.0.1 80/TCP",
            "a/db > fd00:f::1 80/TCP",
            "a/db > 192.168.0.1 ICMP",
            "192.168.0.2 > a/other 80/TCP",
        ],
        &[
            "192.168.0.2 > a/db 80/TCP",
            "a/db > 192.168.0.2 80/TCP",
            "192.168.0.1 > a/other 80/TCP",
        ],
    );
    let side = ask(&store, "a/db > 192.168.0.1 80/TCP")
        .egress
        .expect("judged");
    assert_eq!((side.reason, side.rule), (Reason::OwnNode, None));
}

#[test]
fn host_network_and_finished_pods_are_neither_subjects_nor_selected() {
    let host = Pod {
        host_network: true,
        ..pod("a/host", "192.168.0.2", "app=web", "")
    };
    let done = Pod {
        finished: true,
        ..pod("a/done", "10.1.0.9", "app=web", "")
    };
    let deny = policy("a/p", "{}", Some(&["allow app=web : TCP/80"]), None);
    let pods = [
        pod("a/db", "10.1.0.1", "", ""),
        pod("a/web", "10.1.0.2", "app=web", ""),
        host,
        done,
    ];
    check(
        &store(pods, [deny], []),
        &[
            "a/web > a/db 80/TCP",
            "a/web > 192.168.0.2 81/TCP",
            "a/db > a/done 81/TCP",
        ],
        &["192.168.0.2 > a/db 80/TCP", "a/done > a/db 80/TCP"],
    );
}

#[test]
fn a_pod_reaches_itself() {
    let store = cluster([policy("a/p", "{}", Some(&[]), Some(&[]))]);
    let answer = ask(&store, "a/db > a/db 80/TCP");
    assert_eq!(answer.verdict, Verdict::Allow);
    assert_eq!((answer.egress, answer.ingress), (None, None));
    assert_eq!(ask(&store, "a/db > a/web 80/TCP").verdict, Verdict::Deny);
}

#[test]
fn both_sides_have_to_allow_and_each_names_its_policy() {
    let store = cluster([
        policy(
            "a/in",
            "app=db",
            Some(&["allow app=other", "allow app=web : TCP/80"]),
            None,
        ),
        policy(
            "a/out",
            "app=web",
            None,
            Some(&["allow app=db : TCP/80 TCP/81"]),
        ),
        policy("a/more", "app=db", Some(&[]), None),
    ]);
    check(
        &store,
        &["a/web > a/db 80/TCP"],
        &["a/web > a/db 81/TCP", "a/web > a/other 80/TCP"],
    );
    let answer = ask(&store, "a/web > a/db 80/TCP");
    let (egress, ingress) = (
        answer.egress.expect("judged"),
        answer.ingress.expect("judged"),
    );
    assert_eq!(
        (egress.policies, egress.rule),
        (vec!["a/out".to_owned()], Some("spec.egress[0]".to_owned()))
    );
    assert_eq!(
        (ingress.policies, ingress.rule),
        (vec!["a/in".to_owned()], Some("spec.ingress[1]".to_owned()))
    );
    let answer = ask(&store, "a/web > a/db 81/TCP");
    assert_eq!(
        answer.reason,
        "ingress of a/db: isolated, and no rule allows it"
    );
    let ingress = answer.ingress.expect("judged");
    assert_eq!(
        (ingress.verdict, ingress.policies),
        (Verdict::Deny, vec!["a/in".to_owned(), "a/more".to_owned()])
    );
    let answer = ask(&store, "b/client > a/other 1/UDP");
    assert_eq!(answer.egress.expect("judged").reason, Reason::NotIsolated);
    assert_eq!(ask(&store, "8.8.8.8 > 9.9.9.9 1/UDP").egress, None);
}

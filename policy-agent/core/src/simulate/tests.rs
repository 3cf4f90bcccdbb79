//! The meaning of policies, a rule of `semantics.md` a test, asked through the
//! tables that the kernel would have.

use policy_common::abi::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

use super::*;
use crate::model::{Action, NamespaceMatch, Peer, Peers, Pod, Policy, PortMatch, Ports, Tier};
use crate::store::Object;
use crate::testing::random::{Random, random_event};
use crate::testing::{
    ip, namespace, node, on_node, ordered, pod, pod_ref, policy, service, slice, split_name, store,
};

mod definition;
mod services;

/// `FROM > TO PORT/PROTOCOL`, with `v6` behind it for IPv6.
fn question(text: &str) -> Question {
    let words: Vec<&str> = text.split_whitespace().collect();
    let who = |text: &str| match text.parse() {
        Ok(address) => Who::Address(address),
        Err(_) => {
            let (namespace, name) = split_name(text);
            Who::Pod(PodRef { namespace, name })
        }
    };
    let (port, protocol) = words[3].split_once('/').unwrap_or(("", words[3]));
    Question {
        from: who(words[0]),
        to: who(words[2]),
        port: match port.parse() {
            Ok(number) => Port::Number(number),
            Err(_) if port.is_empty() => Port::None,
            Err(_) => Port::Name(port.into()),
        },
        protocol: match protocol {
            "TCP" => TCP,
            "UDP" => UDP,
            "SCTP" => SCTP,
            "ICMP" => ICMP,
            "ICMPv6" => ICMPV6,
            other => panic!("no protocol {other}"),
        },
        family: words.get(4).map(|word| match *word {
            "v4" => Family::V4,
            "v6" => Family::V6,
            other => panic!("no family {other}"),
        }),
    }
}

/// Both lists have to be there: a test in which everything passes shows nothing.
fn check(store: &Store, allowed: &[&str], denied: &[&str]) {
    assert!(!allowed.is_empty() && !denied.is_empty());
    let mut simulator = Simulator::new(store);
    for (texts, verdict) in [(allowed, Verdict::Allow), (denied, Verdict::Deny)] {
        for text in texts {
            let answer = simulator.ask(&question(text)).expect("a question");
            assert_eq!(answer.verdict, verdict, "{text}: {answer:#?}");
        }
    }
}

fn ask(store: &Store, text: &str) -> Answer {
    let answer = Simulator::new(store).ask(&question(text));
    answer.expect("a question")
}

fn cluster(policies: impl IntoIterator<Item = Policy>) -> Store {
    let pods: [Pod; 6] = [
        pod(
            "a/db",
            "10.1.0.1 fd00::1",
            "app=db",
            "pg=TCP/5432 admin=TCP/9000",
        ),
        pod("a/web", "10.1.0.2 fd00::2", "app=web", "http=TCP/8080"),
        pod("a/web2", "10.1.0.3 fd00::3", "app=web", "http=TCP/9090"),
        on_node(
            "there",
            pod("a/other", "10.1.0.4", "app=other", "http=UDP/8080"),
        ),
        on_node(
            "there",
            pod("b/web", "10.2.0.1 fd00:2::1", "app=web", "http=TCP/8080"),
        ),
        on_node(
            "there",
            pod("b/client", "10.2.0.2 fd00:2::2", "app=client", ""),
        ),
    ];
    let others = [
        Object::Namespace(Arc::new(namespace("a", "team=one"))),
        Object::Namespace(Arc::new(namespace("b", "team=two"))),
        Object::Node(Arc::new(node("here", "192.168.0.1 fd00:f::1"))),
        Object::Node(Arc::new(node("there", "192.168.0.2"))),
    ];
    store(pods, policies, others)
}

#[test]
fn a_rule_allows_its_peers_on_its_ports_and_nothing_else() {
    let store = cluster([policy(
        "a/p",
        "app=db",
        Some(&["allow app=web : TCP/5432"]),
        None,
    )]);
    check(
        &store,
        &[
            "a/web > a/db 5432/TCP",
            "a/web2 > a/db 5432/TCP",
            "a/web > a/db 5432/TCP v6",
            "a/db > a/web 1/TCP",
        ],
        &[
            "a/web > a/db 5433/TCP",
            "a/web > a/db 5431/TCP",
            "a/web > a/db 5432/UDP",
            "a/other > a/db 5432/TCP",
            "b/web > a/db 5432/TCP",
            "8.8.8.8 > a/db 5432/TCP",
            "b/web > a/db 5432/TCP v6",
        ],
    );
}

#[test]
fn peers_and_ports_of_different_rules_do_not_cross() {
    let rules = ["allow app=web : TCP/80", "allow app=other : TCP/81"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["a/web > a/db 80/TCP", "a/other > a/db 81/TCP"],
        &["a/web > a/db 81/TCP", "a/other > a/db 80/TCP"],
    );
}

#[test]
fn an_empty_rule_list_isolates_and_a_rule_without_peers_allows_everything() {
    check(
        &cluster([policy("a/p", "app=db", Some(&[]), None)]),
        &["a/db > a/web 80/TCP"],
        &[
            "a/web > a/db 80/TCP",
            "8.8.8.8 > a/db 80/TCP",
            "a/web > a/db ICMP",
        ],
    );
    check(
        &cluster([policy("a/p", "app=db", Some(&["allow * : *"]), Some(&[]))]),
        &[
            "a/web > a/db 80/TCP",
            "8.8.8.8 > a/db 1/SCTP",
            "8.8.8.8 > a/db ICMP",
        ],
        &["a/db > a/web 80/TCP"],
    );
}

#[test]
fn only_rules_without_ports_allow_protocols_without_ports() {
    let rules = ["allow app=web : TCP UDP SCTP", "allow app=other"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "a/web > a/db 65535/SCTP",
            "a/web > a/db 0/TCP",
            "a/other > a/db ICMP",
        ],
        &["a/web > a/db ICMP", "a/web > a/db ICMPv6"],
    );
}

#[test]
fn policies_are_a_union() {
    let store = cluster([
        policy("a/one", "app=db", Some(&["allow app=web : TCP/80"]), None),
        policy("a/two", "{}", Some(&["allow app=other : TCP/81"]), None),
    ]);
    check(
        &store,
        &[
            "a/web > a/db 80/TCP",
            "a/other > a/db 81/TCP",
            "a/other > a/web 81/TCP",
        ],
        &["a/web > a/db 81/TCP", "a/web2 > a/web 80/TCP"],
    );
}

#[test]
fn namespace_selector_and_pod_selector_of_one_peer_are_both_needed() {
    let rules = [
        "allow ns:team=two app=web : TCP/80",
        "allow ns:{} app=client : TCP/81",
    ];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["b/web > a/db 80/TCP", "b/client > a/db 81/TCP"],
        &[
            "a/web > a/db 80/TCP",
            "b/client > a/db 80/TCP",
            "8.8.8.8 > a/db 81/TCP",
        ],
    );
}

#[test]
fn metadata_name_is_a_label_of_every_namespace() {
    let rules = ["allow ns:kubernetes.io/metadata.name=b : TCP/80"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["b/web > a/db 80/TCP"],
        &["a/web > a/db 80/TCP"],
    );
}

#[test]
fn except_takes_from_its_own_block_only() {
    let rules = [
        "allow 20.0.0.0/8 !20.1.0.0/16 : TCP/80",
        "allow 20.1.2.0/24 : TCP/81",
        "allow 20.1.0.0/16 !20.1.2.0/24 : TCP/82",
    ];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "20.2.0.1 > a/db 80/TCP",
            "20.1.2.3 > a/db 81/TCP",
            "20.1.3.3 > a/db 82/TCP",
        ],
        &[
            "20.1.3.3 > a/db 80/TCP",
            "20.1.2.3 > a/db 80/TCP",
            "20.1.2.3 > a/db 82/TCP",
            "20.2.0.1 > a/db 81/TCP",
            "21.0.0.1 > a/db 80/TCP",
        ],
    );
}

#[test]
fn nested_blocks_add_up_along_the_chain() {
    let rules = [
        "allow 0.0.0.0/0 : TCP/1",
        "allow 20.0.0.0/8 : TCP/2",
        "allow 20.0.0.0/24 : TCP/3",
        "allow 20.0.0.7/32 : TCP/4",
    ];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "20.0.0.7 > a/db 1/TCP",
            "20.0.0.7 > a/db 2/TCP",
            "20.0.0.7 > a/db 3/TCP",
            "20.0.0.7 > a/db 4/TCP",
            "20.0.0.8 > a/db 3/TCP",
            "20.1.0.7 > a/db 2/TCP",
            "1.1.1.1 > a/db 1/TCP",
        ],
        &[
            "20.0.0.8 > a/db 4/TCP",
            "20.1.0.7 > a/db 3/TCP",
            "1.1.1.1 > a/db 2/TCP",
        ],
    );
}

#[test]
fn a_pod_inside_a_block_gets_what_the_block_and_the_selector_grant() {
    let rules = ["allow 10.1.0.0/16 : TCP/80", "allow app=web : TCP/443"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "a/web > a/db 80/TCP",
            "a/web > a/db 443/TCP",
            "a/other > a/db 80/TCP",
            "10.1.9.9 > a/db 80/TCP",
        ],
        &[
            "a/other > a/db 443/TCP",
            "10.1.9.9 > a/db 443/TCP",
            "b/web > a/db 80/TCP",
            "a/web > a/db 80/TCP v6",
        ],
    );
}

#[test]
fn blocks_are_of_one_family_and_isolation_of_both() {
    let rules = ["allow 0.0.0.0/0 : TCP/80"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["a/web > a/db 80/TCP", "1.1.1.1 > a/db 80/TCP"],
        &["a/web > a/db 80/TCP v6", "2001::1 > a/db 80/TCP"],
    );
}

#[test]
fn named_ports_of_ingress_are_the_subjects_own() {
    let rules = ["allow * : TCP/http"];
    check(
        &cluster([policy("a/p", "app", Some(&rules), None)]),
        &[
            "a/db > a/web 8080/TCP",
            "a/db > a/web2 9090/TCP",
            "a/db > a/web2 http/TCP",
        ],
        &[
            "a/db > a/web 9090/TCP",
            "a/db > a/web2 8080/TCP",
            "a/web > a/other 8080/UDP",
            "a/web > a/db 8080/TCP",
        ],
    );
}

#[test]
fn named_ports_of_egress_are_each_peers_own() {
    let rules = ["allow ns:{} app=web : TCP/http", "allow app=other : */http"];
    check(
        &cluster([policy("a/p", "app=db", None, Some(&rules))]),
        &[
            "a/db > a/web 8080/TCP",
            "a/db > a/web2 9090/TCP",
            "a/db > b/web http/TCP",
            "a/db > a/other 8080/UDP",
        ],
        &[
            "a/db > a/web2 8080/TCP",
            "a/db > a/web 9090/TCP",
            "a/db > a/other 8080/TCP",
            "a/db > 10.2.0.9 8080/TCP",
        ],
    );
}

#[test]
fn named_ports_of_egress_without_peers_or_by_block_are_those_of_known_pods() {
    let rules = ["allow 10.1.0.0/16 : TCP/http"];
    check(
        &cluster([policy("a/p", "app=db", None, Some(&rules))]),
        &["a/db > a/web 8080/TCP", "a/db > a/web2 9090/TCP"],
        &[
            "a/db > 10.1.9.9 8080/TCP",
            "a/db > b/web 8080/TCP",
            "a/db > a/web 9090/TCP",
            "a/db > a/web 8080/TCP v6",
        ],
    );
    check(
        &cluster([policy("a/p", "app=db", None, Some(&["allow * : TCP/http"]))]),
        &["a/db > a/web 8080/TCP", "a/db > b/web 8080/TCP v6"],
        &["a/db > 8.8.8.8 8080/TCP", "a/db > a/web2 8080/TCP"],
    );
}

#[test]
fn an_unknown_name_isolates_and_opens_nothing() {
    check(
        &cluster([policy(
            "a/p",
            "app=db",
            Some(&["allow * : TCP/nothing TCP/pg"]),
            None,
        )]),
        &["a/web > a/db 5432/TCP"],
        &["a/web > a/db 9000/TCP", "a/web > a/db 0/TCP"],
    );
}

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

#[test]
fn tiers_are_asked_in_order_and_the_first_match_decides() {
    let store = cluster([
        ordered(
            Tier::Admin,
            10,
            "late",
            Some(&["deny ns:{} app=web : TCP/80-90"]),
            None,
        ),
        ordered(
            Tier::Admin,
            5,
            "early",
            Some(&[
                "allow ns:{} app=web : TCP/80",
                "pass ns:{} app=web : TCP/81",
                "log ns:{} : TCP/82",
            ]),
            None,
        ),
        policy(
            "a/np",
            "app=db",
            Some(&["allow app=web : TCP/81 TCP/82 TCP/99"]),
            None,
        ),
        ordered(
            Tier::Baseline,
            1,
            "base",
            Some(&["deny ns:{} app=other"]),
            None,
        ),
    ]);
    check(
        &store,
        &[
            "a/web > a/db 80/TCP",
            "a/web > a/db 81/TCP",
            "a/web > a/db 99/TCP",
            "a/web > a/web2 81/TCP",
            "b/client > a/web 80/TCP",
        ],
        &[
            "a/web > a/db 82/TCP",
            "a/web > a/db 100/TCP",
            "a/other > a/web 80/TCP",
            "a/web > a/web2 82/TCP",
        ],
    );
    let side = |text| ask(&store, text).ingress.expect("judged");
    assert_eq!(side("a/web > a/db 82/TCP").policies, ["late"]);
    assert_eq!(side("a/web > a/db 100/TCP").policies, ["a/np"]);
    assert_eq!(side("b/client > a/web 80/TCP").reason, Reason::NoRule);
}

#[test]
fn isolation_is_final_in_its_direction_and_no_baseline_is_asked_after_it() {
    // The baseline would allow it; the isolated pod never gets there.
    let baseline = ordered(
        Tier::Baseline,
        0,
        "base",
        Some(&["allow ns:{}"]),
        Some(&["deny 0.0.0.0/0"]),
    );
    check(
        &cluster([baseline, policy("a/np", "app=db", Some(&[]), None)]),
        &["a/db > a/web 80/TCP v6", "b/web > a/web 80/TCP v6"],
        &["a/web > a/db 80/TCP", "a/db > a/web 80/TCP"],
    );
}

#[test]
fn an_admin_policy_may_cut_the_own_node_and_networkpolicy_may_not() {
    let admin = ordered(
        Tier::Admin,
        0,
        "cut",
        None,
        Some(&["deny 192.168.0.0/24 : TCP/22"]),
    );
    check(
        &cluster([admin, policy("a/np", "app=db", None, Some(&[]))]),
        &["a/db > 192.168.0.1 23/TCP", "192.168.0.1 > a/db 22/TCP"],
        &["a/db > 192.168.0.1 22/TCP", "a/web > 192.168.0.1 22/TCP"],
    );
}

#[test]
fn more_intervals_than_a_port_set_holds_are_all_exact() {
    let ports: Vec<String> = (0..500).map(|i| format!("TCP/{}", 10 + i * 3)).collect();
    let rule = format!("allow app=web : {}", ports.join(" "));
    let store = cluster([policy("a/p", "app=db", Some(&[&rule]), None)]);
    let mut simulator = Simulator::new(&store);
    for port in 0..1600u16 {
        let packet = Packet {
            source: ip("10.1.0.2"),
            destination: ip("10.1.0.1"),
            protocol: TCP,
            port,
        };
        let expected = (10..10 + 1500).contains(&port) && (port - 10) % 3 == 0;
        let allowed = simulator.judge(&packet).verdict == Verdict::Allow;
        assert_eq!(allowed, expected, "port {port}");
    }
}

#[test]
fn a_question_about_no_packet_says_what_is_wrong() {
    let store = cluster([]);
    let mut simulator = Simulator::new(&store);
    let unknown = QuestionError::UnknownPod(pod_ref("a/nobody"));
    let of = |text: &str| Who::Pod(pod_ref(text));
    let cases = [
        ("a/nobody > a/db 80/TCP", unknown),
        ("a/db > a/web TCP", QuestionError::PortMissing),
        ("a/db > a/web 80/ICMP", QuestionError::NoPorts),
        (
            "a/db > a/web ICMP v6",
            QuestionError::ProtocolFamily(Family::V6),
        ),
        (
            "a/db > a/web pg/TCP",
            QuestionError::UnknownPort("pg".into(), of("a/web")),
        ),
        (
            "a/db > a/other http/TCP",
            QuestionError::UnknownPort("http".into(), of("a/other")),
        ),
        (
            "a/db > a/other 80/TCP v6",
            QuestionError::NoCommonFamily {
                from: of("a/db"),
                to: of("a/other"),
                family: Some(Family::V6),
            },
        ),
        (
            "a/db > a/other ICMPv6",
            QuestionError::NoCommonFamily {
                from: of("a/db"),
                to: of("a/other"),
                family: None,
            },
        ),
    ];
    for (text, error) in cases {
        assert_eq!(simulator.ask(&question(text)), Err(error), "{text}");
    }
    assert!(simulator.ask(&question("a/db > a/web ICMP")).is_ok());
}

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

mod blocks;
mod definition;
mod hosts;
mod ports;
mod rules;
mod services;
mod tiers;

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

//! What is told, taken back, and made of a pod.

use super::*;
use crate::iface::{Behind, Link, Nsid, Peer, PeerAddresses};
use policy_core::model::Labels;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn statement(container: &str, name: &str, uid: &str, address: &str) -> Statement {
    Statement {
        id: id(container),
        network: "n".into(),
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        addresses: vec![ip(address)],
        node_interfaces: vec!["veth7".into()],
        ifindex: None,
    }
}

fn id(container: &str) -> AttachmentId {
    AttachmentId {
        container: container.into(),
        ifname: "eth0".into(),
    }
}

fn seen(statement: Statement, ifindex: u32) -> Statement {
    Statement {
        ifindex: Some(ifindex),
        ..statement
    }
}

/// A node with these veths, by index, name and the address behind.
fn node(veths: &[(u32, &str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (index, name, address) in veths {
        let link = Link {
            index: *index,
            name: (*name).into(),
            kind: LinkKind::Veth,
            peer: Peer::Elsewhere {
                namespace: Nsid(*index),
                index: 2,
            },
            master: None,
            up: true,
        };
        snapshot.links.insert(*index, link);
        let behind = PeerAddresses {
            on_peer: vec![ip(address)],
            beside: vec![],
        };
        snapshot.behind.insert(*index, Behind::Addresses(behind));
    }
    snapshot
}

fn pod(name: &str, uid: &str, address: Option<&str>) -> Arc<Pod> {
    let address = address.map(ip);
    Arc::new(Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        created: 0,
        labels: Labels::default(),
        node: Some("n1".into()),
        host_network: false,
        finished: false,
        ipv4: match address {
            Some(IpAddr::V4(v4)) => Some(v4),
            _ => None,
        },
        ipv6: None,
        ports: vec![],
        host_ports: vec![],
    })
}

fn merged(telling: &mut Telling, pod: Arc<Pod>) -> Option<IpAddr> {
    match telling.merge(SourceEvent::Apply(Object::Pod(pod)), "n1") {
        SourceEvent::Apply(Object::Pod(pod)) => pod.ipv4.map(IpAddr::V4),
        other => panic!("{other:?}"),
    }
}

fn telling(statements: &[(Statement, Teller)], snapshot: &Snapshot) -> Telling {
    let mut telling = Telling::default();
    for (statement, teller) in statements {
        telling.tell(statement.clone(), *teller, Instant::now());
    }
    telling.look(snapshot);
    telling
}

#[test]
fn told_addresses_are_the_pods_while_it_is_the_one_that_was_told_of() {
    let told = seen(statement("c", "db", "u1", "10.0.0.2"), 7);
    let mut telling = telling(&[(told, Teller::Plugin)], &node(&[(7, "x", "10.0.0.2")]));
    let cases = [
        (pod("db", "u1", None), Some("10.0.0.2")),
        // Of its sandbox before.
        (pod("db", "u1", Some("10.0.0.9")), Some("10.0.0.2")),
        (pod("db", "", None), Some("10.0.0.2")),
        (pod("db", "u0", None), None),
        (pod("db", "u0", Some("10.0.0.9")), Some("10.0.0.9")),
        (pod("web", "u1", None), None),
        (
            Arc::new(Pod {
                finished: true,
                ..Pod::clone(&pod("db", "u1", None))
            }),
            None,
        ),
        (
            Arc::new(Pod {
                host_network: true,
                ..Pod::clone(&pod("db", "u1", None))
            }),
            None,
        ),
        (
            Arc::new(Pod {
                node: Some("n2".into()),
                ..Pod::clone(&pod("db", "u1", None))
            }),
            None,
        ),
    ];
    for (object, expected) in cases {
        let text = format!("{object:?}");
        assert_eq!(merged(&mut telling, object), expected.map(ip), "{text}");
    }
}

#[test]
fn a_pod_is_told_anew_when_something_is_told_of_it_and_when_that_is_taken_back() {
    let snapshot = node(&[(7, "x", "10.0.0.2")]);
    let mut telling = telling(&[], &snapshot);
    let object = pod("db", "u1", None);
    assert_eq!(merged(&mut telling, object.clone()), None);
    let mut store = object.clone();
    let mut news = |telling: &mut Telling| {
        telling.look(&snapshot);
        let events = telling.news("n1", |_| Some(&store));
        for event in &events {
            let SourceEvent::Apply(Object::Pod(pod)) = event else {
                panic!("{event:?}");
            };
            store = pod.clone();
        }
        (events.len(), store.ipv4.map(IpAddr::V4))
    };
    assert_eq!(news(&mut telling), (0, None));
    let told = seen(statement("c", "db", "u1", "10.0.0.2"), 7);
    telling.tell(told.clone(), Teller::Plugin, Instant::now());
    assert_eq!(news(&mut telling), (1, Some(ip("10.0.0.2"))));
    // Told again, it is no news.
    telling.tell(told, Teller::Plugin, Instant::now());
    assert_eq!(news(&mut telling), (0, Some(ip("10.0.0.2"))));
    assert_eq!(telling.forget(&id("c")), Some(7));
    assert_eq!(news(&mut telling), (1, None));
    assert_eq!(telling.forget(&id("c")), None);
    assert_eq!(store, object);
}

#[test]
fn a_record_counts_only_where_the_interface_and_the_address_are() {
    let record = || statement("c", "db", "u1", "10.0.0.2");
    let cases = [
        (node(&[(7, "veth7", "10.0.0.2")]), Some(7)),
        // Of a node that was switched off since.
        (node(&[]), None),
        (node(&[(7, "veth8", "10.0.0.2")]), None),
        (node(&[(7, "veth7", "10.0.0.3")]), None),
    ];
    for (snapshot, expected) in cases {
        let telling = telling(&[(record(), Teller::Library)], &snapshot);
        assert_eq!(telling.get(&id("c")).expect("told").interface, expected);
    }
    // Once found it stays: what is behind it, the pod chooses.
    let mut telling = telling(
        &[(record(), Teller::Library)],
        &node(&[(7, "veth7", "10.0.0.2")]),
    );
    telling.look(&node(&[(7, "veth7", "10.0.0.66")]));
    assert_eq!(telling.present().len(), 1);
    telling.look(&node(&[(7, "other", "10.0.0.66")]));
    assert_eq!(telling.present().len(), 0);
}

#[test]
fn the_plugin_is_not_overruled_and_what_it_saw_goes_with_its_interface() {
    let plugin = seen(statement("c", "db", "u1", "10.0.0.2"), 7);
    let there = node(&[(7, "veth7", "10.0.0.2")]);
    let mut telling = telling(&[(plugin.clone(), Teller::Plugin)], &there);
    let records = Records {
        statements: vec![statement("c", "db", "u1", "10.0.0.2")],
        ..Records::default()
    };
    telling.take_records(records, Instant::now());
    assert_eq!(telling.get(&id("c")).expect("told").statement, plugin);
    telling.take_records(Records::default(), Instant::now());
    assert!(telling.get(&id("c")).is_some());
    telling.look(&node(&[]));
    assert!(telling.get(&id("c")).is_none());
}

#[test]
fn records_that_are_gone_are_taken_back_and_those_of_the_plugin_only_by_gc() {
    let snapshot = node(&[(7, "veth7", "10.0.0.2"), (8, "veth7b", "10.0.0.3")]);
    let of = |container: &str, index: u32| {
        let told = seen(statement(container, container, "u", "10.0.0.2"), index);
        (told, Teller::Plugin)
    };
    let record = (statement("r", "r", "u", "10.0.0.2"), Teller::Library);
    let mut telling = telling(&[of("a", 7), of("b", 8), record], &snapshot);
    assert_eq!(telling.present().len(), 3);
    telling.take_records(Records::default(), Instant::now());
    assert!(telling.get(&id("r")).is_none());
    assert_eq!(telling.keep("another", &[]), Vec::<u32>::new());
    assert_eq!(telling.keep("n", &[id("a")]), [8]);
    assert!(telling.get(&id("a")).is_some() && telling.get(&id("b")).is_none());
}

#[test]
fn of_two_sandboxes_of_a_pod_the_later_counts() {
    let snapshot = node(&[(7, "veth7", "10.0.0.2"), (8, "veth8", "10.0.0.3")]);
    let old = seen(statement("old", "db", "u1", "10.0.0.2"), 7);
    let new = seen(statement("new", "db", "u1", "10.0.0.3"), 8);
    let mut telling = telling(&[(old, Teller::Plugin), (new, Teller::Plugin)], &snapshot);
    let object = pod("db", "u1", Some("10.0.0.2"));
    assert_eq!(merged(&mut telling, object), Some(ip("10.0.0.3")));
}

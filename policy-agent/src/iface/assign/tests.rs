//! Who gets which interface, on small nodes made of data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Assignment, Conflict, KnownInterface, NoInterface, NotAPod, assign, assign_after};
use crate::iface::snapshot::{
    AddressClass, Behind, Link, LinkKind, Nsid, OwnAddress, Peer, PeerAddresses, Snapshot,
};

type Pods = Vec<(&'static str, Vec<IpAddr>)>;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn pods(list: &[(&'static str, &[&str])]) -> Pods {
    list.iter()
        .map(|(pod, addresses)| (*pod, ips(addresses)))
        .collect()
}

fn link(index: u32, kind: LinkKind, peer: Peer) -> Link {
    Link {
        index,
        name: format!("if{index}"),
        kind,
        peer,
        master: None,
        up: true,
    }
}

fn to(namespace: u32) -> Peer {
    Peer::Elsewhere {
        namespace: Nsid(namespace),
        index: 2,
    }
}

/// Veths by index, namespace, and addresses on the peer.
fn node(veths: &[(u32, u32, &[&str])]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (index, namespace, addresses) in veths {
        let veth = link(*index, LinkKind::Veth, to(*namespace));
        snapshot.links.insert(*index, veth);
        let addresses = PeerAddresses {
            on_peer: ips(addresses),
            beside: Vec::new(),
        };
        snapshot.behind.insert(*index, Behind::Addresses(addresses));
    }
    snapshot
}

fn owned(assignment: &Assignment<&'static str>) -> Vec<(&'static str, Vec<u32>)> {
    assignment
        .interfaces
        .iter()
        .map(|(pod, interfaces)| (*pod, interfaces.iter().copied().collect()))
        .collect()
}

fn known(interface: u32, namespace: u32, pod: &'static str) -> KnownInterface<&'static str> {
    KnownInterface {
        interface,
        peer: to(namespace),
        pod,
    }
}

#[test]
fn each_pod_gets_the_veth_behind_which_its_address_is_in_either_family() {
    let node = node(&[
        (5, 0, &["fe80::1", "10.0.0.2"]),
        (6, 1, &["fd00::3", "fe80::1"]),
        (7, 2, &["192.0.2.1"]),
    ]);
    let pods = pods(&[
        ("a", &["10.0.0.2", "fd00::2"]),
        ("b", &["::ffff:10.0.0.3", "fd00::3"]),
    ]);
    let got = assign(&node, &pods);
    assert_eq!(owned(&got), [("a", vec![5]), ("b", vec![6])]);
    assert_eq!(got.not_pods, [(7, NotAPod::NoPodsAddress)].into());
    assert_eq!(got.without_interface, BTreeMap::new());
    assert_eq!(got.contested, BTreeMap::new());
    assert_eq!(got.conflicts, []);
    assert_eq!(got.owner(5), Some(&"a"));
    assert_eq!(got.owner(7), None);
}

#[test]
fn link_local_and_loopback_addresses_decide_nothing() {
    let node = node(&[(5, 0, &["fe80::2", "169.254.0.2"])]);
    let pods = pods(&[("a", &["fe80::2", "169.254.0.2", "127.0.0.1"])]);
    let got = assign(&node, &pods);
    assert_eq!(owned(&got), []);
    assert_eq!(got.not_pods, [(5, NotAPod::NoAddress)].into());
    assert_eq!(
        got.without_interface,
        [("a", NoInterface::NoAddress)].into()
    );
}

#[test]
fn every_veth_that_is_nobodys_says_why() {
    let mut node = node(&[(5, 0, &[]), (6, 1, &["192.0.2.1"])]);
    let mut add = |index, peer, behind: Option<Behind>| {
        node.links.insert(index, link(index, LinkKind::Veth, peer));
        node.behind.extend(behind.map(|behind| (index, behind)));
    };
    add(7, Peer::Here(8), None);
    add(8, Peer::Here(7), None);
    add(9, Peer::Unknown, None);
    add(10, to(2), Some(Behind::Denied));
    add(11, to(3), Some(Behind::Unsettled));
    add(12, to(4), Some(Behind::Filtered));
    node.links
        .insert(13, link(13, LinkKind::Bridge, Peer::None));
    let expect = [
        (5, NotAPod::NoAddress),
        (6, NotAPod::NoPodsAddress),
        (7, NotAPod::PeerHere),
        (8, NotAPod::PeerHere),
        (9, NotAPod::PeerGone),
        (10, NotAPod::Denied),
        (11, NotAPod::Unsettled),
        (12, NotAPod::Filtered),
    ];
    let got = assign(&node, &pods(&[]));
    assert_eq!(got.not_pods, expect.into());
    assert_eq!(owned(&got), []);
}

#[test]
fn every_pod_without_interface_says_why() {
    let mut node = node(&[]);
    node.own_addresses.push(OwnAddress {
        address: ip("192.0.2.10"),
        interface: 2,
        prefix_len: 24,
        class: AddressClass::Global,
    });
    node.links.insert(5, link(5, LinkKind::Netkit, to(0)));
    let addresses = PeerAddresses {
        on_peer: ips(&["10.0.0.9"]),
        beside: Vec::new(),
    };
    node.behind.insert(5, Behind::Addresses(addresses));
    let pods = pods(&[
        ("early", &[]),
        ("host", &["192.0.2.10"]),
        ("netkit", &["10.0.0.9"]),
        ("unseen", &["10.0.0.2"]),
    ]);
    let got = assign(&node, &pods);
    let unsupported = NoInterface::Unsupported {
        interface: 5,
        kind: LinkKind::Netkit,
    };
    let expect = [
        ("early", NoInterface::NoAddress),
        ("host", NoInterface::HostNetwork),
        ("netkit", unsupported),
        ("unseen", NoInterface::NotSeen),
    ];
    assert_eq!(got.without_interface, expect.into());
    assert_eq!(got.not_pods, BTreeMap::new());
}

#[test]
fn an_address_beside_the_peer_counts_only_if_the_peer_has_none() {
    let mut node = node(&[(5, 0, &["fe80::1"]), (6, 1, &["10.0.0.3"])]);
    for (index, on_peer) in [(5, "fe80::1"), (6, "10.0.0.3")] {
        let addresses = PeerAddresses {
            on_peer: ips(&[on_peer]),
            beside: ips(&["10.0.0.2"]),
        };
        node.behind.insert(index, Behind::Addresses(addresses));
    }
    let got = assign(&node, &pods(&[("a", &["10.0.0.2"])]));
    assert_eq!(owned(&got), [("a", vec![5])]);
    assert_eq!(got.not_pods, [(6, NotAPod::NoPodsAddress)].into());
}

#[test]
fn a_pod_may_have_several_veths_into_its_namespace() {
    let node = node(&[(5, 0, &["10.0.0.2"]), (6, 0, &["fd00::2"])]);
    let got = assign(&node, &pods(&[("a", &["10.0.0.2", "fd00::2"])]));
    assert_eq!(owned(&got), [("a", vec![5, 6])]);
    assert_eq!(got.conflicts, []);
}

#[test]
fn an_address_in_two_namespaces_gives_neither_to_the_pod() {
    let node = node(&[(5, 0, &["10.0.0.2"]), (6, 1, &["10.0.0.2"])]);
    let got = assign(&node, &pods(&[("a", &["10.0.0.2"])]));
    assert_eq!(owned(&got), []);
    let both = BTreeSet::from(["a"]);
    assert_eq!(got.contested, [(5, both.clone()), (6, both)].into());
    assert_eq!(
        got.without_interface,
        [("a", NoInterface::Contested)].into()
    );
    let conflict = Conflict::AddressInSeveralPlaces {
        address: ip("10.0.0.2"),
        interfaces: [5, 6].into(),
    };
    assert_eq!(got.conflicts, [conflict]);
    assert_eq!(got.not_pods, BTreeMap::new());
}

#[test]
fn a_pod_that_adds_anothers_address_gets_only_its_own_policy() {
    let node = node(&[(5, 0, &["10.0.0.2"]), (6, 1, &["10.0.0.2", "10.0.0.3"])]);
    let pods = pods(&[("evil", &["10.0.0.3"]), ("victim", &["10.0.0.2"])]);
    let got = assign(&node, &pods);
    assert_eq!(owned(&got), [("evil", vec![6]), ("victim", vec![5])]);
    assert_eq!(got.contested, BTreeMap::new());
    assert_eq!(got.conflicts.len(), 2);
}

#[test]
fn a_pod_that_takes_anothers_address_in_advance_is_contested_until_known() {
    let node = node(&[(6, 1, &["10.0.0.2", "10.0.0.3"])]);
    let pods = pods(&[("evil", &["10.0.0.3"]), ("victim", &["10.0.0.2"])]);
    let got = assign(&node, &pods);
    assert_eq!(owned(&got), []);
    assert_eq!(got.contested, [(6, ["evil", "victim"].into())].into());

    let got = assign_after(&node, &pods, &[known(6, 1, "evil")]);
    assert_eq!(owned(&got), [("evil", vec![6])]);
    assert_eq!(
        got.without_interface,
        [("victim", NoInterface::NotSeen)].into()
    );
}

#[test]
fn a_known_interface_stays_its_pods_whatever_address_it_takes() {
    let node = node(&[(5, 0, &["10.0.0.2"]), (6, 1, &["10.0.0.2"])]);
    let pods = pods(&[("evil", &["10.0.0.3"]), ("victim", &["10.0.0.2"])]);
    let got = assign_after(&node, &pods, &[known(6, 1, "evil")]);
    assert_eq!(owned(&got), [("evil", vec![6]), ("victim", vec![5])]);
    assert_eq!(got.contested, BTreeMap::new());
}

#[test]
fn a_known_interface_keeps_its_pod_without_any_address() {
    let node = node(&[(5, 0, &[])]);
    let pods = pods(&[("a", &["10.0.0.2"])]);
    assert_eq!(owned(&assign(&node, &pods)), []);
    let got = assign_after(&node, &pods, &[known(5, 0, "a")]);
    assert_eq!(owned(&got), [("a", vec![5])]);
}

#[test]
fn a_copy_of_a_known_pods_address_is_contested_and_takes_nothing() {
    let node = node(&[(5, 0, &["10.0.0.2"]), (6, 1, &["10.0.0.2"])]);
    let pods = pods(&[("a", &["10.0.0.2"])]);
    let got = assign_after(&node, &pods, &[known(5, 0, "a")]);
    assert_eq!(owned(&got), [("a", vec![5])]);
    assert_eq!(got.contested, [(6, ["a"].into())].into());
    assert_eq!(got.not_pods, BTreeMap::new());
}

#[test]
fn a_new_sandbox_is_the_pods_beside_what_is_left_of_the_old_one() {
    let node = node(&[(5, 0, &[]), (6, 1, &["10.0.0.2"])]);
    let pods = pods(&[("a", &["10.0.0.2"])]);
    let got = assign_after(&node, &pods, &[known(5, 0, "a")]);
    assert_eq!(owned(&got), [("a", vec![5, 6])]);
    assert_eq!(got.contested, BTreeMap::new());
}

#[test]
fn knowledge_ends_with_the_pod_and_with_the_far_end() {
    let node = node(&[(5, 1, &["10.0.0.3"])]);
    let pods = pods(&[("b", &["10.0.0.3"])]);
    let gone = assign_after(&node, &pods, &[known(5, 1, "a")]);
    assert_eq!(owned(&gone), [("b", vec![5])]);
    let other_end = assign_after(&node, &pods, &[known(5, 0, "a")]);
    assert_eq!(owned(&other_end), [("b", vec![5])]);
}

#[test]
fn two_pods_that_claim_one_address_are_told_and_not_guessed() {
    let node = node(&[(5, 0, &["10.0.0.2"])]);
    let pods = pods(&[("new", &["10.0.0.2"]), ("old", &["10.0.0.2"])]);
    let got = assign(&node, &pods);
    assert_eq!(owned(&got), []);
    assert_eq!(got.contested, [(5, ["new", "old"].into())].into());
    assert!(got.conflicts.contains(&Conflict::AddressOfSeveralPods {
        address: ip("10.0.0.2"),
        pods: ["new", "old"].into(),
    }));
    let got = assign_after(&node, &pods, &[known(5, 0, "old")]);
    assert_eq!(owned(&got), [("old", vec![5])]);
}

#[test]
fn what_was_established_is_what_is_known_next_time() {
    let node = node(&[(5, 0, &["10.0.0.2"]), (6, 1, &["10.0.0.3"])]);
    let pods = pods(&[("a", &["10.0.0.2"]), ("b", &["10.0.0.3"])]);
    let first = assign(&node, &pods);
    let memory = first.known(&node);
    assert_eq!(memory, [known(5, 0, "a"), known(6, 1, "b")]);
    assert_eq!(assign_after(&node, &pods, &memory), first);
}

#[test]
fn the_order_of_pods_does_not_matter() {
    let node = node(&[
        (5, 0, &["10.0.0.2", "10.0.0.3"]),
        (6, 1, &["10.0.0.3"]),
        (7, 2, &["10.0.0.4"]),
        (8, 3, &["10.0.0.4"]),
    ]);
    let mut pods = pods(&[
        ("a", &["10.0.0.2"]),
        ("b", &["10.0.0.3"]),
        ("c", &["10.0.0.4"]),
    ]);
    let forward = assign(&node, &pods);
    pods.reverse();
    assert_eq!(assign(&node, &pods), forward);
    assert_eq!(owned(&forward), [("a", vec![5]), ("b", vec![6])]);
}

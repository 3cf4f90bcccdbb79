//! The wirings of the usual CNI plugins, and pods that come and go.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use policy_agent::iface::{
    AddressClass, Assignment, Behind, Change, LinkKind, NoInterface, NotAPod, Peer, Snapshot,
    assign,
};

use crate::net::{Net, Node, wire};

type Pods = Vec<(&'static str, Vec<IpAddr>)>;

fn pods(list: &[(&'static str, &[&str])]) -> Pods {
    list.iter()
        .map(|(pod, texts)| {
            let addresses = texts.iter().map(|text| ip(text)).collect();
            (*pod, addresses)
        })
        .collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn names(snapshot: &Snapshot, assignment: &Assignment<&'static str>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (pod, interfaces) in &assignment.interfaces {
        for index in interfaces {
            names.insert(snapshot.links[index].name.clone(), (*pod).to_owned());
        }
    }
    names
}

fn expect(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter()
        .map(|(name, pod)| ((*name).to_owned(), (*pod).to_owned()))
        .collect()
}

#[test]
fn pods_on_a_bridge_are_found_in_both_families() {
    let (a, b) = (Net::new(), Net::new());
    let mut node = Node::after(|node| {
        node.ip("link add cni0 type bridge\n\
             link set cni0 up\n\
             address add 10.77.0.1/24 dev cni0\n\
             address add fd77::1/64 dev cni0 nodad");
        for (pod, name, number) in [(&a, "vetha", 2), (&b, "vethb", 3)] {
            wire(node, pod, name);
            node.ip(format!("link set {name} master cni0"));
            pod.ip(format!(
                "address add 10.77.0.{number}/24 dev eth0\n\
                 address add fd77::{number}/64 dev eth0 nodad"
            ));
        }
    });
    let snapshot = node.snapshot();
    let pods = pods(&[("a", &["10.77.0.2"]), ("b", &["fd77::3"])]);
    let assignment = assign(&snapshot, &pods);
    assert_eq!(
        names(&snapshot, &assignment),
        expect(&[("vetha", "a"), ("vethb", "b")])
    );
    assert_eq!(assignment.not_pods, BTreeMap::new());
    assert_eq!(assignment.conflicts, []);

    let bridge = node.index("cni0");
    assert_eq!(snapshot.links[&bridge].kind, LinkKind::Bridge);
    let veth = &snapshot.links[&node.index("vetha")];
    assert_eq!(veth.master, Some(bridge));
    assert!(veth.up);
    let both = snapshot.behind(veth.index).expect("readable");
    assert!(both.on_peer.contains(&ip("10.77.0.2")));
    assert!(both.on_peer.contains(&ip("fd77::2")));
    assert!(!both.on_peer.contains(&ip("fd77::3")));
}

#[test]
fn the_nodes_own_addresses_include_gateways_and_flag_local_ones() {
    let mut node = Node::after(|node| {
        node.ip("link add cni0 type bridge\n\
             link set cni0 up\n\
             address add 10.77.0.1/24 dev cni0\n\
             address add fd77::1/64 dev cni0 nodad\n\
             address add 169.254.9.9/32 dev cni0");
    });
    let snapshot = node.snapshot();
    let gateways = [ip("10.77.0.1"), ip("fd77::1")];
    assert_eq!(snapshot.node_addresses(), gateways.into());
    let class = |address| {
        let own = snapshot
            .own_addresses
            .iter()
            .find(|own| own.address == address);
        own.map(|own| (own.class, own.prefix_len))
    };
    assert_eq!(class(ip("10.77.0.1")), Some((AddressClass::Global, 24)));
    assert_eq!(class(ip("127.0.0.1")), Some((AddressClass::Loopback, 8)));
    assert_eq!(class(ip("::1")), Some((AddressClass::Loopback, 128)));
    assert_eq!(
        class(ip("169.254.9.9")),
        Some((AddressClass::LinkLocal, 32))
    );

    let host_pod = pods(&[("host", &["10.77.0.1"])]);
    let assignment = assign(&snapshot, &host_pod);
    assert_eq!(
        assignment.without_interface,
        [("host", NoInterface::HostNetwork)].into()
    );
}

#[test]
fn routed_pods_with_host_prefixes_are_found() {
    let (a, b) = (Net::new(), Net::new());
    let mut node = Node::after(|node| {
        for (pod, name, number) in [(&a, "cali1", 5), (&b, "cali2", 6)] {
            wire(node, pod, name);
            pod.ip(format!(
                "address add 10.65.0.{number}/32 dev eth0\n\
                 address add fd65::{number}/128 dev eth0 nodad\n\
                 route add 169.254.1.1 dev eth0 scope link\n\
                 route add default via 169.254.1.1 dev eth0"
            ));
            node.ip(format!("route add 10.65.0.{number} dev {name} scope link"));
        }
    });
    let snapshot = node.snapshot();
    let pods = pods(&[
        ("a", &["10.65.0.5", "fd65::5"]),
        ("b", &["10.65.0.6", "fd65::6"]),
        ("c", &["10.65.0.7"]),
    ]);
    let assignment = assign(&snapshot, &pods);
    assert_eq!(
        names(&snapshot, &assignment),
        expect(&[("cali1", "a"), ("cali2", "b")])
    );
    assert_eq!(
        assignment.without_interface,
        [("c", NoInterface::NotSeen)].into()
    );
}

#[test]
fn a_pod_whose_address_is_not_on_the_veth_itself_is_found() {
    let pod = Net::new();
    let mut node = Node::after(|node| {
        wire(node, &pod, "vetha");
        pod.ip("link add br0 type bridge\n\
             link set br0 up\n\
             link set eth0 master br0\n\
             address add 10.77.0.2/24 dev br0");
    });
    let snapshot = node.snapshot();
    let assignment = assign(&snapshot, &pods(&[("a", &["10.77.0.2"])]));
    assert_eq!(names(&snapshot, &assignment), expect(&[("vetha", "a")]));
}

#[test]
fn a_pair_inside_the_node_is_nobodys() {
    let mut node = Node::after(|node| {
        node.ip("link add in0 type veth peer name in1\n\
             address add 10.77.0.2/24 dev in1\n\
             link set in0 up\n\
             link set in1 up");
    });
    let snapshot = node.snapshot();
    let (in0, in1) = (node.index("in0"), node.index("in1"));
    assert_eq!(snapshot.links[&in0].peer, Peer::Here(in1));
    assert_eq!(snapshot.links[&in1].peer, Peer::Here(in0));
    assert_eq!(snapshot.behind, BTreeMap::new());
    let assignment = assign(&snapshot, &pods(&[("a", &["10.77.0.3"])]));
    let not_pods = [(in0, NotAPod::PeerHere), (in1, NotAPod::PeerHere)];
    assert_eq!(assignment.not_pods, not_pods.into());
    assert_eq!(assignment.interfaces, BTreeMap::new());
}

#[test]
fn an_uplink_to_another_host_is_left_alone() {
    let (outside, pod) = (Net::new(), Net::new());
    let mut node = Node::after(|node| {
        // The outside is a host with pods of its own on the same numbers.
        wire(node, &outside, "uplink0");
        outside.ip("address add 192.0.2.1/24 dev eth0");
        node.ip("address add 192.0.2.10/24 dev uplink0");
        wire(node, &pod, "vetha");
        pod.ip("address add 10.77.0.2/32 dev eth0");
    });
    let snapshot = node.snapshot();
    let assignment = assign(&snapshot, &pods(&[("a", &["10.77.0.2"])]));
    assert_eq!(names(&snapshot, &assignment), expect(&[("vetha", "a")]));
    let uplink = node.index("uplink0");
    assert_eq!(
        assignment.not_pods,
        [(uplink, NotAPod::NoPodsAddress)].into()
    );
    let outside = snapshot.behind(uplink).expect("readable");
    assert!(outside.on_peer.contains(&ip("192.0.2.1")));
    assert_eq!(outside.beside, Vec::<IpAddr>::new());
}

#[test]
fn an_address_that_comes_after_its_link_is_told_by_the_kernel_at_once() {
    let mut node = Node::after(|_| {});
    assert!(node.watcher.degraded().is_none(), "needs CAP_NET_BROADCAST");
    let pod = Net::new();
    let pods = pods(&[("a", &["10.77.0.2"])]);
    node.wire(&pod, "vetha");
    let before = node.until("the link appears", |snapshot| {
        snapshot
            .links
            .values()
            .any(|link| link.name == "vetha" && link.up)
    });
    assert_eq!(assign(&before, &pods).interfaces, BTreeMap::new());
    node.settle();

    pod.ip("address add 10.77.0.2/24 dev eth0");
    let change = node
        .runtime
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(1), node.watcher.changed()).await
        })
        .expect("told within a second")
        .expect("watcher");
    assert!(!change.everything, "told by a poll: {change:?}");
    assert_eq!(change.namespaces.len(), 1, "{change:?}");
    let snapshot = node.scanner.scan(&change).expect("scan");
    let assignment = assign(&snapshot, &pods);
    assert_eq!(names(&snapshot, &assignment), expect(&[("vetha", "a")]));

    pod.ip("address delete 10.77.0.2/24 dev eth0");
    let snapshot = node.until("the address goes", |snapshot| {
        assign(snapshot, &pods).interfaces.is_empty()
    });
    assert_eq!(assign(&snapshot, &pods).not_pods.len(), 1);
}

#[test]
fn pods_come_go_and_come_again_with_the_same_address() {
    let mut node = Node::after(|_| {});
    let pods = pods(&[("a", &["10.77.0.2"])]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let pod = Net::new();
        node.wire(&pod, "vetha");
        pod.ip("address add 10.77.0.2/24 dev eth0");
        let snapshot = node.until("the pod is found", |snapshot| {
            !assign(snapshot, &pods).interfaces.is_empty()
        });
        let assignment = assign(&snapshot, &pods);
        assert_eq!(names(&snapshot, &assignment), expect(&[("vetha", "a")]));
        seen.extend(assignment.interfaces["a"].iter().copied());
        drop(pod);
        let snapshot = node.until("the pod is gone", |snapshot| {
            snapshot.links.values().all(|link| link.name != "vetha")
        });
        assert_eq!(assign(&snapshot, &pods).interfaces, BTreeMap::new());
        assert_eq!(snapshot.behind, BTreeMap::new());
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "each time another interface");
}

#[test]
fn two_namespaces_with_one_address_are_contested() {
    let (a, b) = (Net::new(), Net::new());
    let mut node = Node::after(|node| {
        for (pod, name) in [(&a, "vetha"), (&b, "vethb")] {
            wire(node, pod, name);
            pod.ip("address add 10.77.0.2/24 dev eth0");
        }
    });
    let snapshot = node.snapshot();
    let assignment = assign(&snapshot, &pods(&[("a", &["10.77.0.2"])]));
    assert_eq!(assignment.interfaces, BTreeMap::new());
    assert_eq!(assignment.contested.len(), 2);
    assert_eq!(assignment.conflicts.len(), 1);
}

/// Not a timed test: it says how long things took, and fails only if something
/// is wrong or missing.
#[test]
fn a_hundred_pods_are_all_found() {
    let nets: Vec<_> = (0..100).map(|_| Net::new()).collect();
    let mut node = Node::after(|node| {
        node.ip("link add cni0 type bridge\nlink set cni0 up");
        for (number, pod) in nets.iter().enumerate() {
            wire(node, pod, &format!("veth{number}"));
            node.ip(format!("link set veth{number} master cni0"));
            pod.ip(format!(
                "address add 10.77.1.{number}/16 dev eth0\n\
                 address add fd77::1:{number:x}/64 dev eth0 nodad"
            ));
        }
    });
    let pods: Vec<_> = (0..100)
        .map(|number| (number, vec![ip(&format!("10.77.1.{number}"))]))
        .collect();
    let mut times = Vec::new();
    for _ in 0..21 {
        let start = Instant::now();
        let snapshot = node.snapshot();
        let read = start.elapsed();
        let assignment = assign(&snapshot, &pods);
        times.push((read, start.elapsed() - read));
        assert_eq!(assignment.interfaces.len(), 100);
        for (number, interfaces) in &assignment.interfaces {
            let index = interfaces.first().expect("has one");
            assert_eq!(snapshot.links[index].name, format!("veth{number}"));
        }
        assert!(
            snapshot
                .behind
                .values()
                .all(|behind| matches!(behind, Behind::Addresses(_)))
        );
    }
    // What one pod's event costs when the others are known.
    let one = node.index("veth50");
    let namespace = node.snapshot().links[&one]
        .foreign_peer()
        .expect("a pod's")
        .0;
    let change = Change {
        namespaces: [namespace].into(),
        ..Change::default()
    };
    let full = node.snapshot();
    let mut partial = Vec::new();
    for _ in 0..21 {
        let start = Instant::now();
        let snapshot = node.scanner.scan(&change).expect("scan");
        partial.push(start.elapsed());
        assert_eq!(snapshot, full);
    }
    times.sort();
    partial.sort();
    let (read, assigned) = times[10];
    let partial = partial[10];
    println!("100 pods, median of 21: all {read:?}, one {partial:?}, assign {assigned:?}");
}

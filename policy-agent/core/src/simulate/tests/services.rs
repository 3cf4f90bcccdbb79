//! What becomes of connections that are translated on their way.

use super::*;
use crate::model::{EndpointSlice, HostPort, Protocol, Service};
use crate::store::SourceEvent;

/// The small cluster with Service `a/db` in front of both databases: `a/db` on
/// node `here`, `b/db` on `there`.
fn services(
    policies: impl IntoIterator<Item = Policy>,
    alter: impl Fn(&mut Service),
    endpoints: &str,
) -> Store {
    let mut store = cluster(policies);
    let more = on_node(
        "there",
        pod("b/db", "10.2.0.9 fd00:2::9", "app=db tier=old", ""),
    );
    let mut db = service(
        "a/db",
        "10.96.0.1 fd00:96::1",
        "192.0.2.1",
        "pg=TCP/80@30080 ping=UDP/53",
    );
    alter(&mut db);
    let v4: Vec<_> = endpoints.split(' ').filter(|e| !e.contains(':')).collect();
    let v6: Vec<_> = endpoints.split(' ').filter(|e| e.contains(':')).collect();
    let slices: [EndpointSlice; 2] = [
        slice("a/db-4", "db", &v4.join(" "), "pg=TCP/5432 ping=UDP/5353"),
        slice("a/db-6", "db", &v6.join(" "), "pg=TCP/5432"),
    ];
    let objects = [Object::Pod(Arc::new(more)), Object::Service(Arc::new(db))];
    let slices = slices.map(|slice| Object::EndpointSlice(Arc::new(slice)));
    for object in objects.into_iter().chain(slices) {
        store.apply(SourceEvent::Apply(object));
    }
    store
}

const BOTH: &str = "10.1.0.1@here 10.2.0.9@there fd00::1@here";

/// Web pods may send to databases of their own namespace, on the port of the pods.
fn to_own_db(port: &str) -> Policy {
    let rule = format!("allow app=db : TCP/{port}");
    policy("a/web", "app=web", None, Some(&[&rule]))
}

#[test]
fn a_connection_to_a_service_is_judged_by_the_port_of_the_pods() {
    let one = "10.1.0.1@here fd00::1@here";
    check(
        &services([to_own_db("5432")], |_| {}, one),
        &[
            "a/web > 10.96.0.1 80/TCP",
            "a/web > 10.96.0.1 pg/TCP",
            "a/web > fd00:96::1 80/TCP",
            "a/web > 192.0.2.1 80/TCP",
            "a/web > 192.168.0.1 30080/TCP",
            "b/web > 10.96.0.1 80/TCP",
        ],
        &[
            "a/web > 10.96.0.1 53/UDP",
            "a/web > 10.96.0.1 81/TCP",
            "a/web > 10.96.0.1 5432/TCP",
            "a/web > 192.0.2.1 81/TCP",
        ],
    );
    check(
        &services([to_own_db("80")], |_| {}, one),
        &["a/web > 10.1.0.1 80/TCP"],
        &["a/web > 10.96.0.1 80/TCP", "a/web > 192.168.0.1 30080/TCP"],
    );
}

#[test]
fn where_endpoints_differ_it_depends_and_each_is_told() {
    let store = services([to_own_db("5432")], |_| {}, BOTH);
    let answer = ask(&store, "a/web > 10.96.0.1 80/TCP");
    assert_eq!(answer.verdict, Verdict::Depends);
    assert_eq!(
        answer.reason,
        "Service a/db: 1 of 2 endpoints may be reached"
    );
    assert_eq!((answer.egress, answer.ingress), (None, None));
    let backends = answer.backends.iter().map(|backend| {
        let side = backend.egress.as_ref().expect("judged");
        let pod = backend.pod.as_deref().expect("a pod");
        (pod, backend.port, backend.verdict, side.reason)
    });
    assert_eq!(
        backends.collect::<Vec<_>>(),
        [
            ("a/db", 5432, Verdict::Allow, Reason::Rule),
            ("b/db", 5432, Verdict::Deny, Reason::Isolated),
        ]
    );
    // The other family has one endpoint.
    let answer = ask(&store, "a/web > fd00:96::1 80/TCP");
    assert_eq!((answer.verdict, answer.backends.len()), (Verdict::Allow, 1));
}

#[test]
fn the_receivers_policies_see_the_client_behind_a_cluster_address() {
    let from_web = policy("a/db", "app=db", Some(&["allow app=web : TCP/5432"]), None);
    check(
        &services([from_web], |_| {}, "10.1.0.1@here"),
        &["a/web > 10.96.0.1 80/TCP", "192.168.0.1 > 10.96.0.1 80/TCP"],
        &["a/other > 10.96.0.1 80/TCP", "8.8.8.8 > 10.96.0.1 80/TCP"],
    );
}

#[test]
fn what_comes_from_outside_comes_in_the_name_of_a_node_that_did_not_send_it() {
    let rules = ["allow app=web", "allow 192.168.0.2/32"];
    let by_name = || policy("a/db", "app=db", Some(&rules[..1]), None);
    let by_node = || policy("a/db", "app=db", Some(&rules[1..]), None);
    // Node port and load balancer hide the client, and are no node's own packets.
    check(
        &services([by_name()], |_| {}, "10.1.0.1@here"),
        &[
            "a/web > 10.96.0.1 80/TCP",
            "192.168.0.1 > 192.168.0.1 30080/TCP",
        ],
        &[
            "a/web > 192.168.0.1 30080/TCP",
            "a/web > 192.0.2.1 80/TCP",
            "8.8.8.8 > 192.168.0.1 30080/TCP",
            "b/web > 192.168.0.2 30080/TCP",
        ],
    );
    // By ipBlock a node's name is as good as any.
    check(
        &services([by_node()], |_| {}, "10.1.0.1@here"),
        &[
            "8.8.8.8 > 192.168.0.2 30080/TCP",
            "b/web > 192.0.2.1 80/TCP",
        ],
        &[
            "8.8.8.8 > 192.168.0.1 30080/TCP",
            "a/web > 192.0.2.1 80/TCP",
        ],
    );
    // With the policy Local the client's address stays.
    check(
        &services([by_name()], |s| s.external_local = true, "10.1.0.1@here"),
        &["a/web > 192.168.0.1 30080/TCP", "a/web > 192.0.2.1 80/TCP"],
        &[
            "8.8.8.8 > 192.168.0.1 30080/TCP",
            "a/other > 192.0.2.1 80/TCP",
        ],
    );
}

#[test]
fn another_nodes_node_port_is_an_address_like_others_to_the_sender() {
    let rules = ["allow 192.168.0.2/32 : TCP/30080"];
    let block = policy("a/node", "app=web", None, Some(&rules));
    check(
        &services([block, to_own_db("5432")], |_| {}, "10.2.0.9@there"),
        &["a/web > 192.168.0.2 30080/TCP"],
        &["a/web > 192.168.0.1 30080/TCP", "a/web > 10.96.0.1 80/TCP"],
    );
}

#[test]
fn strangers_reach_the_endpoints_of_the_node_that_they_ask_where_that_is_the_policy() {
    let closed = policy("b/db", "app=db", Some(&[]), None);
    let store = services([closed], |s| s.external_local = true, BOTH);
    check(
        &store,
        &["8.8.8.8 > 192.168.0.1 30080/TCP"],
        &["8.8.8.8 > 192.168.0.2 30080/TCP"],
    );
    let answer = ask(&store, "a/web > 192.168.0.1 30080/TCP");
    assert_eq!(
        answer.verdict,
        Verdict::Depends,
        "pods reach all: {answer:#?}"
    );
}

#[test]
fn an_internal_policy_of_local_leaves_the_endpoints_of_the_senders_node() {
    let store = services([to_own_db("5432")], |s| s.internal_local = true, BOTH);
    let answer = ask(&store, "a/web > 10.96.0.1 80/TCP");
    assert_eq!((answer.verdict, answer.backends.len()), (Verdict::Allow, 1));
    let answer = ask(&store, "b/web > 10.96.0.1 80/TCP");
    assert_eq!(answer.backends[0].pod.as_deref(), Some("b/db"));
}

#[test]
fn a_service_without_endpoints_leads_nowhere_and_says_so() {
    let store = services([to_own_db("5432")], |_| {}, "");
    for (text, egress) in [
        ("a/web > 10.96.0.1 80/TCP", Reason::NoEndpoints),
        ("a/web > 192.168.0.1 30080/TCP", Reason::NoEndpoints),
        ("a/db > 10.96.0.1 80/TCP", Reason::NotIsolated),
    ] {
        let answer = ask(&store, text);
        assert_eq!(answer.verdict, Verdict::Deny, "{text}");
        assert_eq!(answer.reason, "Service a/db: the Service has no endpoints");
        assert_eq!(answer.egress.expect("a pod").reason, egress, "{text}");
        assert!(answer.ingress.is_none() && answer.backends.is_empty());
    }
}

#[test]
fn a_pod_reaches_itself_through_a_service() {
    let closed = policy("a/db", "app=db", Some(&[]), Some(&[]));
    let store = services([closed], |_| {}, BOTH);
    let answer = ask(&store, "a/db > 10.96.0.1 80/TCP");
    let verdicts: Vec<_> = answer
        .backends
        .iter()
        .map(|b| (b.pod.as_deref(), b.verdict))
        .collect();
    assert_eq!(
        verdicts,
        [
            (Some("a/db"), Verdict::Allow),
            (Some("b/db"), Verdict::Deny)
        ]
    );
}

#[test]
fn a_port_of_a_service_may_be_named() {
    let store = services([], |_| {}, BOTH);
    let mut simulator = Simulator::new(&store);
    assert!(simulator.ask(&question("a/web > 10.96.0.1 pg/TCP")).is_ok());
    assert!(
        simulator
            .ask(&question("a/web > 10.96.0.1 pg/UDP"))
            .is_err()
    );
    assert!(
        simulator
            .ask(&question("a/web > 10.96.0.2 pg/TCP"))
            .is_err()
    );
}

#[test]
fn what_is_no_port_of_a_service_is_an_address_like_others() {
    let rules = ["allow 10.96.0.0/16"];
    check(
        &services(
            [policy("a/web", "app=web", None, Some(&rules))],
            |_| {},
            BOTH,
        ),
        &["a/web > 10.96.0.1 81/TCP", "a/web > 10.96.0.1 ICMP"],
        &["a/web > 10.96.0.1 80/TCP", "a/web > 192.0.2.1 ICMP"],
    );
}

#[test]
fn a_host_port_leads_to_its_pod_in_the_clients_name_or_for_its_neighbours_in_the_nodes() {
    let from_other = policy(
        "a/db",
        "app=db",
        Some(&["allow app=other : TCP/5432"]),
        None,
    );
    let mut store = cluster([from_other]);
    let mut db = Pod::clone(store.pod(&pod_ref("a/db")).expect("a pod"));
    db.host_ports = vec![HostPort {
        address: None,
        protocol: Protocol::Tcp,
        port: 9999,
        target: 5432,
    }];
    store.apply(SourceEvent::Apply(Object::Pod(Arc::new(db.clone()))));
    check(
        &store,
        &[
            "a/other > 192.168.0.1 9999/TCP",
            "a/db > 192.168.0.1 9999/TCP",
            // Nothing leads on there.
            "a/web > 192.168.0.2 9999/TCP",
        ],
        &[
            "b/client > 192.168.0.1 9999/TCP",
            "8.8.8.8 > 192.168.0.1 9999/TCP",
            "a/web > 192.168.0.1 9999/TCP",
            "a/web > fd00:f::1 9999/TCP",
        ],
    );
    // Its neighbours come in the name of the node, whose rights are not theirs.
    let by_node = policy("a/node", "app=db", Some(&["allow 192.168.0.1/32"]), None);
    store.apply(SourceEvent::Apply(Object::Policy(Arc::new(by_node))));
    check(
        &store,
        &["a/web > 192.168.0.1 9999/TCP"],
        &["8.8.8.8 > 192.168.0.1 9999/TCP"],
    );
    store.apply(SourceEvent::Apply(Object::Policy(Arc::new(to_own_db(
        "5433",
    )))));
    let answer = ask(&store, "a/web > 192.168.0.1 9999/TCP");
    assert_eq!(answer.verdict, Verdict::Deny, "its own policies know");
    assert!(
        answer.reason.starts_with("host port of a/db: "),
        "{answer:#?}"
    );
    db.host_ports[0].address = Some(ip("192.168.0.7"));
    store.apply(SourceEvent::Apply(Object::Pod(Arc::new(db))));
    let answer = ask(&store, "b/client > 192.168.0.1 9999/TCP");
    assert_eq!(answer.verdict, Verdict::Allow, "not at this address");
}

//! The store's promises: order does not matter, nothing changes silently.

use proptest::prelude::*;

use super::*;
use crate::model::{
    NamespaceMatch, NamespacedName, Protocol, Selector, ServicePort, SliceEndpoint, SlicePort,
    Subject, Tier,
};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| (Arc::from(*k), Arc::from(*v)))
        .collect()
}

fn pod(namespace: &str, name: &str, address: &str) -> Pod {
    let address: Option<IpAddr> = (!address.is_empty()).then(|| address.parse().unwrap());
    Pod {
        namespace: namespace.into(),
        name: name.into(),
        uid: "".into(),
        created: 0,
        labels: labels(&[("app", name)]),
        node: Some("n1".into()),
        host_network: false,
        finished: false,
        ipv4: address.and_then(|a| match a {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        }),
        ipv6: address.and_then(|a| match a {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        }),
        ports: Vec::new(),
        host_ports: Vec::new(),
    }
}

fn namespace(name: &str, pairs: &[(&str, &str)]) -> Object {
    Object::Namespace(Arc::new(Namespace {
        name: name.into(),
        labels: labels(pairs),
    }))
}

fn policy(kind: &str, namespace: Option<&str>, name: &str, order: i64) -> Object {
    Object::Policy(Arc::new(Policy {
        id: PolicyId {
            kind: kind.into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
        },
        tier: Tier::NetworkPolicy,
        order,
        subject: Subject {
            namespaces: NamespaceMatch::Name(namespace.unwrap_or("").into()),
            pods: Selector::EVERYTHING,
        },
        ingress: None,
        egress: None,
    }))
}

fn service(name: &str, address: &str) -> Object {
    Object::Service(Arc::new(Service {
        namespace: "a".into(),
        name: name.into(),
        cluster_ips: vec![address.parse().unwrap()],
        external_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        internal_local: false,
        external_local: false,
    }))
}

fn slice(name: &str, service: &str, address: &str) -> Object {
    Object::EndpointSlice(Arc::new(EndpointSlice {
        namespace: "a".into(),
        name: name.into(),
        service: (!service.is_empty()).then(|| service.into()),
        ports: vec![SlicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: vec![SliceEndpoint {
            address: address.parse().unwrap(),
            node: None,
            ready: true,
            draining: false,
        }],
    }))
}

/// Names of the slices behind Service `a/NAME`.
fn behind(store: &Store, name: &str) -> Vec<String> {
    let service = NamespacedName {
        namespace: "a".into(),
        name: name.into(),
    };
    let slices = store.slices_of(&service);
    slices.map(|slice| slice.name.to_string()).collect()
}

fn reference(namespace: &str, name: &str) -> PodRef {
    PodRef {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn apply(pod: Pod) -> SourceEvent {
    SourceEvent::Apply(Object::Pod(Arc::new(pod)))
}

fn delete(namespace: &str, name: &str) -> SourceEvent {
    SourceEvent::Delete(Key::Pod(reference(namespace, name)))
}

fn owner(store: &Store, address: &str) -> Option<String> {
    let owner = store.owner(address.parse().unwrap());
    owner.map(ToString::to_string)
}

fn of(pods: impl IntoIterator<Item = Pod>) -> Store {
    let mut store = Store::new();
    store.apply_all(pods.into_iter().map(apply));
    store
}

#[test]
fn an_unchanged_object_gives_no_change() {
    let mut store = Store::new();
    assert!(!store.apply(apply(pod("a", "p", "10.0.0.1"))).is_empty());
    assert!(store.apply(apply(pod("a", "p", "10.0.0.1"))).is_empty());
    assert!(store.apply(delete("a", "other")).is_empty());
}

#[test]
fn a_change_has_the_value_before_and_after() {
    let mut store = of([pod("a", "p", "10.0.0.1")]);
    let relabelled = Pod {
        labels: labels(&[("app", "x")]),
        ..pod("a", "p", "10.0.0.1")
    };
    let changes = store.apply(apply(relabelled.clone()));
    let change = &changes.pods[&reference("a", "p")];
    assert_eq!(change.old.as_deref(), Some(&pod("a", "p", "10.0.0.1")));
    assert_eq!(change.new.as_deref(), Some(&relabelled));
    assert!(changes.owners.is_empty() && changes.namespaces.is_empty());
}

#[test]
fn what_events_undo_among_themselves_is_no_change() {
    let mut store = of([pod("a", "p", "10.0.0.1")]);
    let changes = store.apply_all([
        delete("a", "p"),
        apply(pod("b", "q", "10.0.0.1")),
        delete("b", "q"),
        apply(pod("a", "p", "10.0.0.1")),
    ]);
    assert_eq!(changes, ChangeSet::default());
}

#[test]
fn a_kind_is_ready_after_its_first_complete_list_and_no_other_is() {
    let mut store = Store::new();
    store.apply(SourceEvent::Begin(Kind::Pod));
    assert!(!store.is_ready(&Kind::Pod));
    store.apply(SourceEvent::End(Kind::Pod));
    assert!(store.is_ready(&Kind::Pod) && !store.is_ready(&Kind::Node));
}

#[test]
fn a_relist_is_one_change_at_its_end() {
    let mut store = of([pod("a", "stays", "10.0.0.1"), pod("a", "goes", "10.0.0.2")]);
    let before = store.pods().clone();
    assert!(store.apply(SourceEvent::Begin(Kind::Pod)).is_empty());
    for item in [pod("a", "stays", "10.0.0.1"), pod("a", "comes", "10.0.0.2")] {
        let item = SourceEvent::Item(Object::Pod(Arc::new(item)));
        assert!(store.apply(item).is_empty());
    }
    assert_eq!(store.pods(), &before);
    let changes = store.apply(SourceEvent::End(Kind::Pod));
    let names: Vec<_> = changes.pods.keys().map(|key| &*key.name).collect();
    assert_eq!(names, ["comes", "goes"]);
    assert_eq!(owner(&store, "10.0.0.2").as_deref(), Some("a/comes"));
    assert_eq!(store.pods().len(), 2);
}

#[test]
fn an_interrupted_list_starts_again_and_an_end_alone_removes_nothing() {
    let mut store = of([pod("a", "p", "10.0.0.1")]);
    assert!(store.apply(SourceEvent::End(Kind::Pod)).is_empty());
    assert!(!store.is_ready(&Kind::Pod));
    let item = |name| SourceEvent::Item(Object::Pod(Arc::new(pod("a", name, "10.0.0.9"))));
    store.apply_all([
        SourceEvent::Begin(Kind::Pod),
        item("lost"),
        SourceEvent::Begin(Kind::Pod),
        item("q"),
        SourceEvent::End(Kind::Pod),
    ]);
    let names: Vec<_> = store.pods().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a/q"]);
}

#[test]
fn lists_of_one_policy_kind_leave_the_others() {
    let mut store = Store::new();
    let list = |kind: &str, items: Vec<Object>| {
        let items = items.into_iter().map(SourceEvent::Item);
        let begin = SourceEvent::Begin(Kind::Policy(kind.into()));
        let end = SourceEvent::End(Kind::Policy(kind.into()));
        [begin]
            .into_iter()
            .chain(items)
            .chain([end])
            .collect::<Vec<_>>()
    };
    store.apply_all(list(
        "NetworkPolicy",
        vec![policy("NetworkPolicy", Some("a"), "p", 0)],
    ));
    store.apply_all(list("ZPolicy", vec![policy("ZPolicy", Some("a"), "z", 0)]));
    store.apply_all(list("APolicy", vec![policy("APolicy", None, "c", 0)]));
    let names = |store: &Store, namespace| {
        let policies = store.policies_in(namespace);
        policies.map(|p| p.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&store, "a"), ["a/p", "a/z"]);
    assert!(names(&store, "b").is_empty());
    let changes = store.apply_all(list("NetworkPolicy", vec![]));
    assert_eq!(changes.policies.len(), 1);
    assert_eq!(names(&store, "a"), ["a/z"]);
}

#[test]
fn a_namespace_nobody_declared_comes_and_goes_with_its_pods() {
    let mut store = Store::new();
    let changes = store.apply_all([apply(pod("a", "p", "")), apply(pod("a", "q", ""))]);
    assert_eq!(changes.namespaces.len(), 1);
    assert_eq!(
        store.namespace("a").unwrap().labels,
        implied_labels(&"a".into())
    );
    assert!(store.apply(delete("a", "p")).namespaces.is_empty());
    assert_eq!(store.apply(delete("a", "q")).namespaces.len(), 1);
    assert!(store.namespaces().next().is_none());
    assert_eq!(*store.namespace_labels("a"), implied_labels(&"a".into()));
}

#[test]
fn a_declared_namespace_has_its_labels_and_always_its_name() {
    let mut store = of([pod("a", "p", "")]);
    let changes = store.apply(SourceEvent::Apply(namespace("a", &[("team", "x")])));
    let change = &changes.namespaces["a"];
    assert_eq!(change.old.as_ref().unwrap().labels.len(), 1);
    let expected = labels(&[("team", "x"), (METADATA_NAME, "a")]);
    assert_eq!(change.new.as_ref().unwrap().labels, expected);
    assert_eq!(*store.namespace_labels("a"), expected);
    let lying = namespace("a", &[(METADATA_NAME, "b")]);
    store.apply(SourceEvent::Apply(lying));
    assert_eq!(*store.namespace_labels("a"), implied_labels(&"a".into()));
    // Without its declaration it looks the same now, so nothing changes.
    let gone = SourceEvent::Delete(Key::Namespace("a".into()));
    assert!(store.apply(gone).is_empty());
    assert_eq!(store.namespaces().count(), 1);
}

#[test]
fn the_newest_live_pod_owns_an_address() {
    let old = Pod {
        created: 100,
        ..pod("a", "old", "10.0.0.1")
    };
    let new = Pod {
        created: 200,
        ..pod("a", "new", "10.0.0.1")
    };
    for pods in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
        let mut store = of(pods);
        assert_eq!(owner(&store, "10.0.0.1").as_deref(), Some("a/new"));
        assert_eq!(store.diagnostics(None).len(), 1);
        assert_eq!(store.diagnostics(None)[0].object, "Pod a/old");
        let changes = store.apply(delete("a", "new"));
        assert_eq!(changes.owners.len(), 1);
        assert_eq!(owner(&store, "10.0.0.1").as_deref(), Some("a/old"));
        assert!(store.diagnostics(None).is_empty());
    }
}

#[test]
fn ties_go_to_the_greater_uid_then_to_the_greater_name() {
    let with_uid = |name: &str, uid: &str| Pod {
        uid: uid.into(),
        ..pod("a", name, "fd00::1")
    };
    let store = of([with_uid("z", "1"), with_uid("b", "2")]);
    assert_eq!(owner(&store, "fd00::1").as_deref(), Some("a/b"));
    let store = of([with_uid("z", "1"), with_uid("b", "1")]);
    assert_eq!(owner(&store, "fd00::1").as_deref(), Some("a/z"));
}

#[test]
fn finished_and_host_network_pods_own_nothing() {
    let finished = Pod {
        finished: true,
        created: 9,
        ..pod("a", "done", "10.0.0.1")
    };
    let host = Pod {
        host_network: true,
        created: 9,
        ..pod("a", "host", "10.0.0.2")
    };
    let live = [pod("a", "p", "10.0.0.1"), pod("a", "q", "10.0.0.2")];
    let mut store = of(live.into_iter().chain([finished, host]));
    assert_eq!(owner(&store, "10.0.0.1").as_deref(), Some("a/p"));
    assert_eq!(owner(&store, "10.0.0.2").as_deref(), Some("a/q"));
    assert!(store.diagnostics(Some("n1")).is_empty());
    let ends = Pod {
        finished: true,
        ..pod("a", "p", "10.0.0.1")
    };
    let changes = store.apply(apply(ends));
    assert_eq!(owner(&store, "10.0.0.1"), None);
    assert!(changes.owners.values().all(|change| change.new.is_none()));
}

#[test]
fn a_pod_that_moves_releases_its_address() {
    let mut store = of([pod("a", "p", "10.0.0.1")]);
    let changes = store.apply(apply(pod("a", "p", "10.0.0.2")));
    assert_eq!(changes.owners.len(), 2);
    assert_eq!(owner(&store, "10.0.0.1"), None);
    assert_eq!(owner(&store, "10.0.0.2").as_deref(), Some("a/p"));
}

#[test]
fn only_local_pods_are_reported_for_having_no_address() {
    let far = Pod {
        node: Some("n2".into()),
        ..pod("a", "far", "")
    };
    let store = of([pod("a", "near", ""), far]);
    let diagnostics = store.diagnostics(Some("n1"));
    assert_eq!(diagnostics.len(), 1);
    assert_eq!(diagnostics[0].object, "Pod a/near");
    assert_eq!(diagnostics[0].severity, Severity::Info);
    assert!(store.diagnostics(None).is_empty());
}

#[test]
fn pods_of_a_namespace_are_only_its_own() {
    let store = of([pod("a", "x", ""), pod("ab", "y", ""), pod("b", "z", "")]);
    let names = |namespace| {
        let pods = store.pods_in(namespace);
        pods.map(|(key, _)| key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("a"), ["a/x"]);
    assert_eq!(names("ab"), ["ab/y"]);
    assert!(names("c").is_empty());
}

#[test]
fn slices_are_found_by_the_service_that_they_are_behind() {
    let mut store = Store::new();
    let apply = |store: &mut Store, object| store.apply(SourceEvent::Apply(object));
    apply(&mut store, slice("s-1", "s", "10.0.0.1"));
    apply(&mut store, slice("s-2", "s", "10.0.0.2"));
    apply(&mut store, slice("lone", "", "10.0.0.3"));
    apply(&mut store, slice("t-1", "t", "10.0.0.4"));
    let changes = apply(&mut store, service("s", "10.96.0.1"));
    assert_eq!((changes.services.len(), changes.slices.len()), (1, 0));
    assert_eq!(behind(&store, "s"), ["s-1", "s-2"]);
    assert!(apply(&mut store, slice("s-1", "s", "10.0.0.1")).is_empty());
    let changes = apply(&mut store, slice("s-2", "t", "10.0.0.2"));
    assert_eq!(changes.slices.len(), 1);
    assert_eq!(behind(&store, "s"), ["s-1"]);
    assert_eq!(behind(&store, "t"), ["s-2", "t-1"]);
    store.apply_all([
        SourceEvent::Begin(Kind::EndpointSlice),
        SourceEvent::Item(slice("s-9", "s", "10.0.0.9")),
        SourceEvent::End(Kind::EndpointSlice),
    ]);
    assert_eq!(behind(&store, "s"), ["s-9"]);
    assert!(behind(&store, "t").is_empty() && store.slices().len() == 1);
    assert!(store.is_ready(&Kind::EndpointSlice) && !store.is_ready(&Kind::Service));
    let key = store.services().keys().next().unwrap().clone();
    let changes = store.apply(SourceEvent::Delete(Key::Service(key)));
    assert_eq!(changes.services.len(), 1);
    assert!(store.services().is_empty());
}

/// Pods on few names and addresses, so that they collide often.
fn any_pod() -> impl Strategy<Value = Pod> {
    let names = (0..2u8, 0..4u8, 0..4u8, 0..3i64, 0..2u8, 0..8u8);
    names.prop_map(|(space, name, address, created, uid, flags)| {
        let text = match address {
            0 => String::new(),
            1 => "fd00::1".to_owned(),
            n => format!("10.0.0.{n}"),
        };
        Pod {
            created,
            uid: uid.to_string().into(),
            finished: flags == 0,
            host_network: flags == 1,
            ..pod(&format!("ns{space}"), &format!("p{name}"), &text)
        }
    })
}

fn any_event() -> impl Strategy<Value = SourceEvent> {
    prop_oneof![
        6 => any_pod().prop_map(apply),
        2 => any_pod().prop_map(|pod| delete(&pod.namespace, &pod.name)),
        1 => (0..2u8, 0..2u8).prop_map(|(n, l)| {
            let labels = [("team", if l == 0 { "x" } else { "y" })];
            SourceEvent::Apply(namespace(&format!("ns{n}"), &labels))
        }),
        1 => (0..2u8).prop_map(|n| {
            SourceEvent::Delete(Key::Namespace(format!("ns{n}").into()))
        }),
        1 => (0..2u8, 0..2u8).prop_map(|(n, a)| {
            SourceEvent::Apply(service(&format!("s{n}"), &format!("10.96.0.{a}")))
        }),
        2 => (0..3u8, 0..3u8, 0..3u8).prop_map(|(n, service, a)| {
            let service = ["", "s0", "s1"][usize::from(service)];
            SourceEvent::Apply(slice(&format!("e{n}"), service, &format!("10.0.0.{a}")))
        }),
        1 => (0..3u8).prop_map(|n| {
            let name = format!("e{n}").into();
            let key = NamespacedName { namespace: "a".into(), name };
            SourceEvent::Delete(Key::EndpointSlice(key))
        }),
        1 => (0..3u8, 0..2i64).prop_map(|(n, order)| {
            SourceEvent::Apply(policy("NetworkPolicy", Some("ns0"), &format!("q{n}"), order))
        }),
    ]
}

fn key_of(event: &SourceEvent) -> Option<Key> {
    match event {
        SourceEvent::Apply(object) | SourceEvent::Item(object) => Some(object.key()),
        SourceEvent::Delete(key) => Some(key.clone()),
        SourceEvent::Begin(_) | SourceEvent::End(_) => None,
    }
}

/// Every object that the store has, as it came.
fn rebuilt(store: &Store) -> Store {
    let mut fresh = Store::new();
    for pod in store.pods().values().rev() {
        fresh.apply(SourceEvent::Apply(Object::Pod(pod.clone())));
    }
    for name in store.namespaces.declared() {
        let namespace = store.namespace(&name).unwrap().clone();
        fresh.apply(SourceEvent::Apply(Object::Namespace(namespace)));
    }
    for slice in store.slices().values().rev() {
        fresh.apply(SourceEvent::Apply(Object::EndpointSlice(slice.clone())));
    }
    for service in store.services().values() {
        fresh.apply(SourceEvent::Apply(Object::Service(service.clone())));
    }
    for policy in store.policies().values() {
        fresh.apply(SourceEvent::Apply(Object::Policy(policy.clone())));
    }
    fresh
}

proptest! {
    #[test]
    fn any_history_of_the_same_objects_gives_an_equal_store(
        events in prop::collection::vec(any_event(), 0..60),
        seed in any::<u64>(),
    ) {
        let mut store = Store::new();
        for event in &events {
            store.apply(event.clone());
        }
        prop_assert_eq!(&rebuilt(&store), &store);

        // The last word about each object, in any order of the objects.
        let mut last: BTreeMap<Key, SourceEvent> = BTreeMap::new();
        for event in &events {
            last.insert(key_of(event).unwrap(), event.clone());
        }
        let mut shuffled: Vec<_> = last.into_values().collect();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let other = usize::try_from(state >> 33).unwrap() % (i + 1);
            shuffled.swap(i, other);
        }
        let mut other = Store::new();
        let changes = other.apply_all(shuffled);
        prop_assert_eq!(&other, &store);
        prop_assert_eq!(changes.pods.len(), store.pods().len());

        // Changes one by one add up to the same.
        let mut again = Store::new();
        let mut sum = ChangeSet::default();
        for event in events {
            sum.merge(again.apply(event));
        }
        prop_assert_eq!(sum, changes);
    }
}

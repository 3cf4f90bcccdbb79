//! The engine against itself from scratch, and against the definitions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy_common::abi::Direction;

use super::*;
use crate::compile::rules::Rules;
use crate::desired::PortSetSpec;
use crate::model::{IpBlock, Peer, Peers, Policy};
use crate::resolve::atoms;
use crate::simulate::tables::Identities;
use crate::store::{Key, Object};
use crate::testing::random::{Random, random_event, random_node};
use crate::testing::{events, here, ip, labels, pod, pod_ref, policy, service, slice, store};

fn answer(desired: &DesiredState, policy: PolicyRef, class: ClassId) -> &PortSetSpec {
    let spec = &desired.policies[&policy];
    spec.rows.get(&class).unwrap_or(&spec.default)
}

/// Whether `changes` tells everything that differs, and keeps what it promises.
fn check_changes(before: &DesiredState, after: &DesiredState, changes: &Changes) {
    fn differing<K: Ord + Clone, V: PartialEq>(
        before: &BTreeMap<K, V>,
        after: &BTreeMap<K, V>,
    ) -> BTreeSet<K> {
        let keys = before.keys().chain(after.keys());
        keys.filter(|key| before.get(key) != after.get(key))
            .cloned()
            .collect()
    }
    let classes = |desired: &DesiredState| -> BTreeSet<ClassId> {
        let hosts = desired.hosts.values().map(|host| host.class);
        let all = hosts.chain(desired.prefixes.values().copied());
        all.filter(|class| *class != ClassId::OTHER).collect()
    };
    let keys = |desired: &DesiredState| -> BTreeSet<PolicyRef> {
        desired.policies.keys().copied().collect()
    };
    assert!(differing(&before.endpoints, &after.endpoints).is_subset(&changes.endpoints));
    assert!(differing(&before.hosts, &after.hosts).is_subset(&changes.hosts));
    assert!(differing(&before.prefixes, &after.prefixes).is_subset(&changes.prefixes));
    let (old, new) = (keys(before), keys(after));
    assert_eq!(
        changes.policies_added,
        new.difference(&old).copied().collect()
    );
    assert_eq!(
        changes.policies_removed,
        old.difference(&new).copied().collect()
    );
    let (old_classes, new_classes) = (classes(before), classes(after));
    assert_eq!(
        changes.classes_added,
        new_classes.difference(&old_classes).copied().collect()
    );
    assert_eq!(
        changes.classes_removed,
        old_classes.difference(&new_classes).copied().collect()
    );
    for policy in old.intersection(&new) {
        let known = old_classes.intersection(&new_classes);
        for class in known.chain([&ClassId::OTHER]) {
            assert_eq!(
                answer(before, *policy, *class),
                answer(after, *policy, *class)
            );
        }
    }
    assert!(differing(&before.services, &after.services).is_subset(&changes.services));
    assert!(changes.rules || before.rules == after.rules);
    for (policy, spec) in &after.policies {
        assert!(
            spec.rows.keys().all(|class| new_classes.contains(class)),
            "{policy:?}"
        );
    }
}

/// From scratch, with rule ids of so many bits.
fn scratch(store: &Store, node: &NodeContext, id_bits: u32) -> DesiredState {
    let mut state = State::new(node.clone());
    state.rules = Rules::with_bits(id_bits);
    state.load(store);
    state.settle(store);
    state.into_desired().canonical()
}

/// Takes an engine through a random history, and compares it at every stop. How
/// many policies it had in force at most, and how often ids collided.
fn live_through(seed: u64, id_bits: u32) -> (usize, usize) {
    let (mut policies, mut collisions) = (0, 0);
    let mut random = Random::new(seed);
    let mut engine = Engine::new(random_node(&mut random));
    engine.state.rules = Rules::with_bits(id_bits);
    let mut before = engine.desired().clone();
    engine.take_changes();
    for step in 0..100 {
        let count = 1 + random.below(3);
        let events: Vec<_> = (0..count).map(|_| random_event(&mut random)).collect();
        engine.apply(events);
        if random.chance(4) {
            let mut node = random_node(&mut random);
            if id_bits < 30 {
                // Another node starts with ids of the usual size.
                node.name = engine.node().name.clone();
            }
            engine.set_node(node);
        }
        if random.chance(30) {
            continue;
        }
        let changes = engine.take_changes();
        let after = engine.desired().clone();
        check_changes(&before, &after, &changes);
        let expected = scratch(engine.store(), engine.node(), id_bits);
        assert_eq!(after.canonical(), expected, "seed {seed}, step {step}");
        assert!(!engine.is_pending() && engine.take_changes().is_empty());
        policies = policies.max(after.policies.len());
        collisions += usize::from(engine.state.rules.collide());
        before = after;
    }
    (policies, collisions)
}

#[test]
fn any_history_gives_the_state_that_its_objects_give_from_scratch() {
    let richest = (0..30).map(|seed| live_through(seed, 30).0).max();
    assert!(richest > Some(8), "too plain to show anything: {richest:?}");
}

/// Every object of an engine, by name.
fn keys(engine: &Engine) -> Vec<Key> {
    let store = engine.store();
    let pods = store.pods().keys().cloned().map(Key::Pod);
    let policies = store.policies().keys().cloned().map(Key::Policy);
    let services = store.services().keys().cloned().map(Key::Service);
    let slices = store.slices().keys().cloned().map(Key::EndpointSlice);
    let nodes = store.nodes().keys().cloned().map(Key::Node);
    let namespaces = store.namespaces();
    let namespaces = namespaces.map(|namespace| Key::Namespace(namespace.name.clone()));
    let all = pods.chain(policies).chain(services).chain(slices);
    all.chain(nodes).chain(namespaces).collect()
}

/// Everything that an engine holds, a line each: no table is forgotten here.
fn holdings(engine: &mut Engine) -> usize {
    engine.take_changes();
    format!("{engine:#?}").lines().count()
}

#[test]
fn nothing_stays_of_objects_that_came_and_went() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let node = random_node(&mut random);
        let mut engine = Engine::new(node.clone());
        let empty = holdings(&mut engine);
        for _ in 0..60 {
            engine.apply([random_event(&mut random)]);
            engine.desired();
        }
        let most = holdings(&mut engine);
        assert!(most > 4 * empty, "too plain to show anything: {most}");
        let mut keys = keys(&engine);
        random.shuffle(&mut keys);
        for key in keys {
            engine.apply([SourceEvent::Delete(key)]);
            if random.chance(50) {
                engine.desired();
            }
        }
        assert_eq!(holdings(&mut engine), empty, "seed {seed}: {engine:#?}");
    }
}

/// `address:port/PROTOCOL -> address:port ..`, a frontend a line.
fn services(engine: &mut Engine) -> Vec<String> {
    let services = engine.desired().services.iter();
    let lines = services.map(|(frontend, backends)| {
        let backends = backends.iter().map(|b| format!("{}:{}", b.address, b.port));
        format!("{frontend} -> {}", backends.collect::<Vec<_>>().join(" "))
    });
    lines.collect()
}

fn apply(engine: &mut Engine, object: Object) {
    engine.apply([SourceEvent::Apply(object)]);
}

#[test]
fn services_are_derived_while_somebody_asks_and_no_longer() {
    let mut engine = Engine::new(here(""));
    let of = |ports| Object::Service(Arc::new(service("a/s", "10.96.0.1", "", ports)));
    let behind =
        |endpoints| Object::EndpointSlice(Arc::new(slice("a/s-1", "s", endpoints, "TCP/8080")));
    apply(&mut engine, of("TCP/80"));
    apply(&mut engine, behind("10.0.0.2"));
    engine.apply(events([pod("a/p", "10.0.0.1", "app=x", "")], []));
    assert!(services(&mut engine).is_empty());
    assert!(engine.take_changes().services.is_empty());
    engine.apply(events([], [policy("a/n", "app=x", Some(&[]), None)]));
    assert!(
        services(&mut engine).is_empty(),
        "ingress alone asks nothing"
    );
    engine.apply(events([], [policy("a/n", "app=x", None, Some(&[]))]));
    assert_eq!(services(&mut engine), ["10.96.0.1:80/TCP -> 10.0.0.2:8080"]);
    assert_eq!(engine.take_changes().services.len(), 1);
    apply(&mut engine, behind("10.0.0.2 10.0.0.3"));
    assert_eq!(
        services(&mut engine),
        ["10.96.0.1:80/TCP -> 10.0.0.2:8080 10.0.0.3:8080"]
    );
    apply(&mut engine, behind(""));
    assert_eq!(services(&mut engine), ["10.96.0.1:80/TCP -> "]);
    apply(&mut engine, of("TCP/81"));
    assert_eq!(services(&mut engine), ["10.96.0.1:81/TCP -> "]);
    assert_eq!(engine.take_changes().services.len(), 2);
    engine.apply([SourceEvent::Delete(Key::Policy(
        policy("a/n", "", None, None).id,
    ))]);
    assert!(services(&mut engine).is_empty());
}

#[test]
fn an_address_that_two_services_have_leads_to_both_and_is_told() {
    let mut engine = Engine::new(here(""));
    engine.apply(events(
        [pod("a/p", "10.0.0.1", "", "")],
        [policy("a/n", "{}", None, Some(&[]))],
    ));
    for (name, address) in [("s", "10.0.0.2"), ("t", "10.0.0.3")] {
        let own = service(&format!("a/{name}"), "", "192.0.2.1", "TCP/80");
        apply(&mut engine, Object::Service(Arc::new(own)));
        let behind = slice(&format!("a/{name}-1"), name, address, "TCP/80");
        apply(&mut engine, Object::EndpointSlice(Arc::new(behind)));
    }
    assert_eq!(
        services(&mut engine),
        ["192.0.2.1:80/TCP -> 10.0.0.2:80 10.0.0.3:80"]
    );
    let told = engine.diagnostics();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].object, "Service a/s");
    let key = service("a/t", "", "", "").key();
    engine.apply([SourceEvent::Delete(Key::Service(key))]);
    assert_eq!(services(&mut engine), ["192.0.2.1:80/TCP -> 10.0.0.2:80"]);
    assert!(engine.diagnostics().is_empty());
}

#[test]
fn rule_ids_that_collide_are_a_function_of_the_objects_too() {
    let collisions: usize = (400..412).map(|seed| live_through(seed, 8).1).sum();
    assert!(collisions > 100, "too few to show anything: {collisions}");
}

#[test]
fn the_order_in_which_objects_come_makes_no_difference() {
    for seed in 100..130 {
        let mut random = Random::new(seed);
        let mut all = BTreeMap::new();
        for _ in 0..90 {
            if let SourceEvent::Apply(object) = random_event(&mut random) {
                all.insert(object.key(), object);
            }
        }
        let node = random_node(&mut random);
        let mut objects: Vec<Object> = all.into_values().collect();
        let mut expected = None;
        for _ in 0..4 {
            random.shuffle(&mut objects);
            let mut engine = Engine::new(node.clone());
            for object in &objects {
                engine.apply([SourceEvent::Apply(object.clone())]);
                if random.chance(20) {
                    engine.desired();
                }
            }
            let state = engine.desired().canonical();
            assert_eq!(
                *expected.get_or_insert_with(|| state.clone()),
                state,
                "seed {seed}"
            );
        }
    }
}

/// Everything that peers in force see in an address, by definition.
fn seen(
    store: &Store,
    node: &NodeContext,
    policies: &[&Policy],
    address: IpAddr,
) -> (Vec<bool>, Vec<Vec<u32>>) {
    let pod = store.owner(address).and_then(|owner| store.pod(owner));
    let matches = |peer: &Peer| match peer {
        Peer::IpBlock(IpBlock { cidr, except }) => {
            cidr.contains(&address) && !except.iter().any(|e| e.contains(&address))
        }
        Peer::Pods { namespaces, pods } => pod.is_some_and(|pod| {
            let namespace = match namespaces {
                crate::model::NamespaceMatch::Name(name) => *name == pod.namespace,
                crate::model::NamespaceMatch::Labels(selector) => {
                    selector.matches(&store.namespace_labels(&pod.namespace))
                }
            };
            namespace && pods.matches(&pod.labels)
        }),
    };
    let (mut peers_seen, mut names_seen) = (Vec::new(), Vec::new());
    for policy in policies {
        for (direction, rules) in [
            (Direction::Ingress, &policy.ingress),
            (Direction::Egress, &policy.egress),
        ] {
            for rule in atoms::effective(rules.as_ref()) {
                let all = match &rule.peers {
                    Peers::Any => vec![true],
                    Peers::Of(peers) => peers.iter().map(&matches).collect(),
                };
                for name in atoms::names(rule).filter(|_| direction == Direction::Egress) {
                    let asked = all.contains(&true);
                    let points = pod.filter(|_| asked).map(|pod| atoms::resolve(pod, &name));
                    names_seen.push(points.unwrap_or_default());
                }
                peers_seen.extend(all);
            }
            if direction == Direction::Egress && rules.is_some() && policy.tier.denies_by_default()
            {
                peers_seen.push(node.addresses.contains(&address));
            }
        }
    }
    (peers_seen, names_seen)
}

#[test]
fn two_addresses_have_one_class_iff_every_peer_in_force_sees_the_same_in_both() {
    let mut classes_seen = 0;
    for seed in 200..260 {
        let mut random = Random::new(seed);
        let mut store = Store::new();
        for _ in 0..70 {
            store.apply(random_event(&mut random));
        }
        let node = random_node(&mut random);
        let desired = build(&store, &node);
        let identities = Identities::new(&desired);
        let in_force: Vec<&Policy> = store
            .policies()
            .values()
            .filter(|policy| {
                desired.endpoints.keys().any(|key| {
                    let pod = &store.pods()[key];
                    let namespace = match &policy.subject.namespaces {
                        crate::model::NamespaceMatch::Name(name) => *name == pod.namespace,
                        crate::model::NamespaceMatch::Labels(selector) => {
                            selector.matches(&store.namespace_labels(&pod.namespace))
                        }
                    };
                    namespace && policy.subject.pods.matches(&pod.labels)
                })
            })
            .map(AsRef::as_ref)
            .collect();
        let v4 = (0..16).map(|i| ip(&format!("10.0.0.{i}")));
        let nodes = (0..4).map(|i| ip(&format!("192.168.0.{i}")));
        let v6 = (0..16).map(|i| ip(&format!("fd00::{i:x}")));
        let more = [
            "10.1.0.0",
            "9.9.9.9",
            "255.255.255.255",
            "fd00::1:0",
            "2001::1",
        ]
        .map(ip);
        let all: Vec<IpAddr> = v4.chain(nodes).chain(v6).chain(more).collect();
        let mut by_class = BTreeMap::new();
        let mut by_sight = BTreeMap::new();
        for address in all {
            let class = identities.class(address);
            let sight = seen(&store, &node, &in_force, address);
            let other = !sight.0.contains(&true) && sight.1.iter().all(Vec::is_empty);
            // A rule without peers matches everything: it tells nothing apart.
            let plain = seen(&store, &node, &in_force, ip("9.9.9.8")) == sight && {
                let covered = desired.prefixes.iter();
                covered.filter(|(p, _)| p.contains(&ip("9.9.9.8"))).count() == 0
            };
            assert!(!other || class == ClassId::OTHER, "seed {seed}: {address}");
            assert!(!plain || class == ClassId::OTHER, "seed {seed}: {address}");
            let same = by_class.entry(class).or_insert_with(|| sight.clone());
            assert_eq!(
                *same, sight,
                "seed {seed}: {address} is in a class too wide"
            );
            let first = by_sight.entry(sight).or_insert(class);
            assert_eq!(
                *first, class,
                "seed {seed}: {address} is in a class of its own"
            );
            let spec = desired.hosts.get(&address);
            let node = node.addresses.contains(&address);
            assert_eq!(spec.is_some_and(|host| host.node), node);
        }
        classes_seen = classes_seen.max(by_class.len());
    }
    assert!(
        classes_seen > 12,
        "the clusters are too plain: {classes_seen}"
    );
}

#[test]
fn an_event_that_changes_nothing_used_changes_nothing() {
    let db = pod("a/db", "10.0.0.1", "app=db", "");
    let web = pod("b/web", "10.0.0.2", "app=web hash=1", "");
    let web = crate::testing::on_node("there", web);
    let rule = policy("a/p", "app=db", Some(&["allow ns:{} app=web"]), None);
    let mut engine = Engine::new(here(""));
    engine.apply(events([db, web.clone()], [rule]));
    let before = engine.desired().clone();
    engine.take_changes();
    let relabelled = Pod {
        labels: labels("app=web hash=2"),
        ..web.clone()
    };
    let elsewhere = policy("b/q", "{}", Some(&["allow app=x : TCP/1"]), None);
    let stranger = crate::testing::on_node("there", pod("c/s", "10.0.0.3", "app=s", ""));
    engine.apply(events([relabelled, stranger], [elsewhere]));
    assert!(engine.take_changes().is_empty());
    assert_eq!(*engine.desired(), before);
    let gone = SourceEvent::Delete(Key::Pod(pod_ref("b/web")));
    engine.apply([gone]);
    let changes = engine.take_changes();
    assert_eq!(changes.hosts, BTreeSet::from([ip("10.0.0.2")]));
    assert_eq!(changes.classes_removed.len(), 1);
}

#[test]
fn a_policy_that_allows_known_peers_more_writes_no_address() {
    let pods = (1..40).map(|i| pod(&format!("a/p{i}"), &format!("10.0.0.{i}"), "app=web", ""));
    let allow = |rules: &[&str]| policy("a/p", "app=web", Some(rules), None);
    let mut engine = Engine::new(here(""));
    engine.apply(events(pods, [allow(&["allow app=web : TCP/80"])]));
    let old = engine.desired().clone();
    engine.take_changes();
    engine.apply(events(
        [],
        [allow(&["allow app=web : TCP/80", "allow !x : TCP/81"])],
    ));
    let changes = engine.take_changes();
    assert!(changes.hosts.is_empty() && changes.classes_added.is_empty());
    assert_eq!(changes.endpoints.len(), 39);
    assert_eq!(
        (changes.policies_added.len(), changes.policies_removed.len()),
        (1, 1)
    );
    assert_ne!(old.canonical(), engine.desired().canonical());
}

#[test]
fn pods_with_equal_policies_share_one_and_named_ports_part_them() {
    let pods = [
        pod("a/one", "10.0.0.1", "app=web", "http=TCP/80"),
        pod("a/two", "10.0.0.2", "app=web", "http=TCP/80"),
        pod("a/three", "10.0.0.3", "app=web", "http=TCP/81"),
        pod("a/free", "10.0.0.4", "app=x", ""),
        pod("a/nowhere", "", "app=web", ""),
    ];
    let rules = policy("a/p", "app=web", Some(&["allow * : TCP/http"]), Some(&[]));
    let desired = build(&store(pods, [rules], []), &here("192.168.0.1"));
    let spec = |name: &str| &desired.endpoints[&pod_ref(name)];
    assert_eq!(spec("a/one").ingress, spec("a/two").ingress);
    assert_ne!(spec("a/one").ingress, spec("a/three").ingress);
    assert_eq!(spec("a/one").egress, spec("a/three").egress);
    assert_eq!(
        (spec("a/free").ingress, spec("a/free").egress),
        (None, None)
    );
    assert_eq!((desired.policies.len(), desired.endpoints.len()), (3, 4));
    let host = desired.hosts[&ip("192.168.0.1")];
    assert!(host.node && host.class != ClassId::OTHER);
    assert_eq!(
        desired.hosts.len(),
        1,
        "pods that no peer names have no entry"
    );
}

#[test]
fn a_port_that_no_local_subject_has_is_reported() {
    let named = policy(
        "a/p",
        "app=web",
        Some(&["allow *", "allow * : TCP/htpp UDP/53"]),
        None,
    );
    let mut engine = Engine::new(here(""));
    engine.apply(events(
        [pod("a/one", "10.0.0.1", "app=web", "http=TCP/80")],
        [named],
    ));
    let found = engine.diagnostics();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&*found[0].object, &*found[0].path),
        ("NetworkPolicy a/p", "spec.ingress[1].ports")
    );
    assert!(found[0].message.contains("TCP port named \"htpp\""));
    let fixed = policy("a/p", "app=web", Some(&["allow * : TCP/http"]), None);
    engine.apply(events([], [fixed]));
    assert_eq!(engine.diagnostics(), []);
}

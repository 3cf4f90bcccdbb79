//! Pods, Namespaces, Nodes, lists and other kinds.

use policy_core::model::{Labels, Namespace, Node, Pod, Protocol};
use serde_json::{Value, json};

use super::{Converted, Key, Names, Object, Outcome, Unused, convert, convert_text, found, one};

fn pod_with(value: &Value) -> (Pod, Vec<String>) {
    let converted = one(value);
    let found = found(&converted);
    match converted.outcome {
        Outcome::Object(Object::Pod(pod)) => ((*pod).clone(), found),
        other => panic!("{value}: {other:?}"),
    }
}

fn pod_of(spec: Value, status: Value) -> (Pod, Vec<String>) {
    pod_with(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": spec, "status": status,
    }))
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

#[test]
fn a_bare_pod_runs_in_the_default_namespace() {
    let (pod, found) = pod_with(&json!({"kind": "Pod", "metadata": {"name": "p"}}));
    assert!(found.is_empty());
    assert_eq!((&*pod.namespace, &*pod.name), ("default", "p"));
    assert!(pod.is_selectable() && pod.addresses().next().is_none());
    assert_eq!((pod.created, &*pod.uid, pod.node), (0, "", None));
}

#[test]
fn a_static_pod_has_the_uid_by_which_the_node_knows_it() {
    let (pod, found) = pod_with(&json!({
        "kind": "Pod",
        "metadata": {"name": "p", "uid": "of-the-object", "annotations": {
            "kubernetes.io/config.mirror": "of-the-pod", "other": "x"}},
    }));
    assert!(found.is_empty());
    assert_eq!(&*pod.uid, "of-the-pod");
    let (pod, _) = pod_with(&json!({
        "kind": "Pod", "metadata": {"name": "p", "uid": "u", "annotations": {"other": "x"}},
    }));
    assert_eq!(&*pod.uid, "u");
}

#[test]
fn a_pod_is_read_whole() {
    let (pod, found) = pod_with(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "a", "uid": "u", "labels": {"x": "y", "z": ""},
                     "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {"nodeName": "n1", "hostNetwork": false, "containers": [
            {"name": "c", "ports": [
                {"name": "http", "containerPort": 8080},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"containerPort": 9},
                {"name": "http", "containerPort": 8080, "protocol": "TCP"}]},
        ]},
        "status": {"phase": "Running", "podIP": "10.0.0.1",
                   "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    }));
    assert_eq!(found, [""; 0]);
    assert_eq!((&*pod.namespace, &*pod.uid, pod.created), ("a", "u", 60));
    assert_eq!(pod.labels, labels(&[("x", "y"), ("z", "")]));
    assert_eq!(pod.node.as_deref(), Some("n1"));
    let addresses: Vec<_> = pod.addresses().map(|a| a.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    let ports: Vec<_> = pod
        .ports
        .iter()
        .map(|p| (&*p.name, p.protocol, p.port))
        .collect();
    assert_eq!(
        ports,
        [("dns", Protocol::Udp, 53), ("http", Protocol::Tcp, 8080)]
    );
}

#[test]
fn only_succeeded_and_failed_pods_are_finished() {
    for (phase, finished) in [
        (json!(null), false),
        (json!("Pending"), false),
        (json!("Running"), false),
        (json!("Unknown"), false),
        (json!("Succeeded"), true),
        (json!("Failed"), true),
    ] {
        let (pod, _) = pod_of(json!({}), json!({"phase": phase}));
        assert_eq!(pod.finished, finished, "{phase}");
    }
}

#[test]
fn pods_of_the_host_network_and_without_node_are_told_apart() {
    let (pod, _) = pod_of(json!({"hostNetwork": true, "nodeName": ""}), json!({}));
    assert!(pod.host_network && pod.node.is_none());
}

#[test]
fn an_address_may_be_in_the_older_field_or_in_either_order() {
    let (pod, found) = pod_of(json!({}), json!({"podIP": "10.0.0.1"}));
    assert_eq!(pod.ipv4, Some([10, 0, 0, 1].into()));
    assert!(found.is_empty());
    let both = json!({"podIP": "10.9.9.9", "podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}]});
    let (pod, found) = pod_of(json!({}), both);
    assert_eq!(pod.ipv4, Some([10, 0, 0, 1].into()));
    assert_eq!(pod.ipv6, Some("fd00::1".parse().unwrap()));
    assert!(found.is_empty());
    let (pod, found) = pod_of(json!({}), json!({"podIP": "", "podIPs": []}));
    assert!(pod.addresses().next().is_none() && found.is_empty());
}

#[test]
fn bad_addresses_are_reported_and_the_others_count() {
    for bad in [
        "",
        "x",
        "10.0.0.256",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "fe80::1",
        "::1",
    ] {
        let status = json!({"podIPs": [{"ip": bad}, {"ip": "10.0.0.1"}]});
        let (pod, found) = pod_of(json!({}), status);
        assert_eq!(pod.addresses().count(), 1, "{bad}");
        assert_eq!(found, ["error status.podips[0].ip"], "{bad}");
    }
    let status = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "10.0.0.1"}]});
    let (pod, found) = pod_of(json!({}), status);
    assert_eq!(pod.ipv4, Some([10, 0, 0, 1].into()));
    assert_eq!(found, ["error status.podips[1].ip"]);
}

#[test]
fn sidecars_declare_ports_and_other_init_containers_do_not() {
    let port = |name: &str| json!([{"name": name, "containerPort": 1}]);
    let spec = json!({"initContainers": [
        {"ports": port("init")},
        {"ports": port("once"), "restartPolicy": "Never"},
        {"ports": port("sidecar"), "restartPolicy": "Always"},
    ]});
    let (pod, _) = pod_of(spec, json!({}));
    let names: Vec<_> = pod.ports.iter().map(|p| &*p.name).collect();
    assert_eq!(names, ["sidecar"]);
}

#[test]
fn bad_container_ports_are_reported_and_opened_by_nobody() {
    let spec = json!({"containers": [{"ports": [
        {"name": "a", "containerPort": 0},
        {"name": "b", "containerPort": 65536},
        {"name": "c"},
        {"name": "d", "containerPort": 1, "protocol": "ICMP"},
        {"name": "e", "containerPort": 1},
    ]}]});
    let (pod, found) = pod_of(spec, json!({}));
    let names: Vec<_> = pod.ports.iter().map(|p| &*p.name).collect();
    assert_eq!(names, ["e"]);
    assert_eq!(
        found,
        [
            "error spec.containers[0].ports[0].containerport",
            "error spec.containers[0].ports[1].containerport",
            "error spec.containers[0].ports[2].containerport",
            "error spec.containers[0].ports[3].protocol",
        ]
    );
}

#[test]
fn one_name_may_have_several_numbers() {
    let spec = json!({"containers": [
        {"ports": [{"name": "http", "containerPort": 80}]},
        {"ports": [{"name": "http", "containerPort": 81}]},
    ]});
    let (pod, _) = pod_of(spec, json!({}));
    let numbers: Vec<_> = pod.ports.iter().map(|p| p.port).collect();
    assert_eq!(numbers, [80, 81]);
}

#[test]
fn a_label_without_a_value_has_the_empty_one() {
    let object = json!({"kind": "Pod", "metadata": {"name": "p", "labels": {"isolated": null}}});
    let (pod, found) = pod_with(&object);
    assert_eq!(pod.labels, labels(&[("isolated", "")]));
    assert!(found.is_empty());
}

#[test]
fn a_creation_time_that_is_none_is_reported() {
    let metadata = json!({"name": "p", "creationTimestamp": "yesterday"});
    let (pod, found) = pod_with(&json!({"kind": "Pod", "metadata": metadata}));
    assert_eq!(pod.created, 0);
    assert_eq!(found, ["warning metadata.creationtimestamp"]);
}

#[test]
fn what_does_not_decode_names_the_object_and_the_field() {
    let name = json!({"name": "p", "namespace": "a"});
    for (object, path) in [
        (
            json!({"metadata": {"name": "p", "namespace": "a", "labels": {"version": 1}}}),
            "error metadata.labels.version",
        ),
        (
            json!({"metadata": name, "spec": {"hostNetwork": "yes"}}),
            "error spec.hostnetwork",
        ),
        (
            json!({"metadata": name, "spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}),
            "error spec.containers[0].ports[0].containerport",
        ),
        (
            json!({"metadata": name, "status": {"podIPs": "10.0.0.1"}}),
            "error status.podips",
        ),
        (json!({"metadata": name, "spec": "x"}), "error spec"),
    ] {
        let mut object = object;
        object["kind"] = json!("Pod");
        let converted = one(&object);
        let Outcome::Undecodable { key, fallback } = &converted.outcome else {
            panic!("{object}: {converted:?}");
        };
        assert_eq!(key.to_string(), "Pod a/p");
        assert_eq!(*fallback, None);
        assert_eq!(found(&converted), [path]);
        assert_eq!(converted.diagnostics[0].object, "Pod a/p");
    }
}

#[test]
fn a_namespace_always_has_its_name_as_a_label() {
    let namespace = |object: &Value| {
        let converted = one(object);
        let found = found(&converted);
        match converted.outcome {
            Outcome::Object(Object::Namespace(namespace)) => ((*namespace).clone(), found),
            other => panic!("{object}: {other:?}"),
        }
    };
    let bare = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    let (read, found) = namespace(&bare);
    let expected = Namespace {
        name: "a".into(),
        labels: labels(&[("kubernetes.io/metadata.name", "a")]),
    };
    assert_eq!((read, found.len()), (expected, 0));
    let lying = json!({"kind": "Namespace", "metadata": {"name": "a", "labels": {
        "kubernetes.io/metadata.name": "b", "team": "x"}}});
    let (read, found) = namespace(&lying);
    let expected = labels(&[("kubernetes.io/metadata.name", "a"), ("team", "x")]);
    assert_eq!(read.labels, expected);
    assert_eq!(
        found,
        ["warning metadata.labels[kubernetes.io/metadata.name]"]
    );
}

#[test]
fn host_ports_lead_to_pods_that_are_not_on_the_nodes_own_network() {
    let ports = json!([
        {"containerPort": 8080, "hostPort": 80},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"containerPort": 1, "hostPort": 1, "hostIP": "0.0.0.0"},
        {"containerPort": 2, "hostPort": 0},
        {"containerPort": 3},
        {"containerPort": 0, "hostPort": 4},
        {"containerPort": 5, "hostPort": 5, "hostIP": "here"},
    ]);
    let spec = |host| json!({"hostNetwork": host, "containers": [{"ports": ports}]});
    let (pod, found) = pod_of(spec(false), Value::Null);
    let read = pod.host_ports.iter().map(|p| {
        let at = p.address.map_or("*".to_owned(), |a| a.to_string());
        format!("{at}:{}/{} {}", p.port, p.protocol.name(), p.target)
    });
    assert_eq!(
        read.collect::<Vec<_>>(),
        ["*:1/TCP 1", "*:80/TCP 8080", "192.0.2.1:53/UDP 53"]
    );
    assert_eq!(
        found,
        [
            "error spec.containers[0].ports[5].hostport",
            "error spec.containers[0].ports[6].hostip",
        ]
    );
    let (pod, _) = pod_of(spec(true), Value::Null);
    assert!(pod.host_ports.is_empty());
}

#[test]
fn a_node_has_the_addresses_that_are_addresses() {
    let converted = one(&json!({"apiVersion": "v1", "kind": "Node",
    "metadata": {"name": "n1", "labels": {"zone": "z"}},
    "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64", "many"]},
    "status": {"addresses": [
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "Hostname", "address": "n1"},
        {"type": "ExternalIP", "address": "nowhere"},
        {"type": "InternalIP", "address": "fd00::1"},
        {"type": "Hostname", "address": "192.0.2.1"},
    ]}}));
    let problems = [
        "error status.addresses[2].address",
        "error spec.podcidrs[2]",
    ];
    assert_eq!(found(&converted), problems);
    let Outcome::Object(Object::Node(node)) = converted.outcome else {
        panic!("a node")
    };
    let expected = Node {
        name: "n1".into(),
        labels: labels(&[("zone", "z")]),
        addresses: vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        pod_ranges: vec![
            "10.1.0.0/24".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
        ],
    };
    assert_eq!(*node, expected);
}

#[test]
fn a_node_with_one_pod_range_has_it() {
    let converted = one(&json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24"}}));
    let Outcome::Object(Object::Node(node)) = converted.outcome else {
        panic!("a node")
    };
    assert_eq!(node.pod_ranges, ["10.1.0.0/24".parse().unwrap()]);
}

#[test]
fn lists_are_their_items() {
    let mut keys = Vec::new();
    let mut collect = |converted: Converted| match converted.outcome {
        Outcome::Object(object) => keys.push(object.key().to_string()),
        other => keys.push(format!("{other:?}")),
    };
    let names = &mut Names::new();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}},
        {"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "q"}}]},
        {"metadata": {"name": "r"}},
    ]});
    convert(&list, names, &mut collect);
    let typed = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList",
        "items": [{"metadata": {"name": "n"}}]});
    convert(&typed, names, &mut collect);
    convert(&json!({"kind": "List", "items": null}), names, &mut collect);
    convert(&json!({"kind": "List", "items": {}}), names, &mut collect);
    assert_eq!(
        keys,
        [
            "Pod default/p",
            "Pod default/q",
            "Nameless",
            "NetworkPolicy default/n",
            "Nameless",
        ]
    );
}

#[test]
fn kinds_that_policy_has_no_use_for_are_told_apart() {
    for (version, kind, reason) in [
        ("serving.knative.dev/v1", "Service", Unused::Unrelated),
        ("v1", "Endpoints", Unused::Unrelated),
        ("apps/v1", "Deployment", Unused::Unrelated),
        ("metrics.k8s.io/v1", "Pod", Unused::Unrelated),
        ("extensions/v1beta1", "NetworkPolicy", Unused::ForeignPolicy),
        (
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            Unused::ForeignPolicy,
        ),
        ("cilium.io/v2", "CiliumNetworkPolicy", Unused::ForeignPolicy),
    ] {
        let converted = one(&json!({"apiVersion": version, "kind": kind}));
        let expected = Outcome::Unused {
            kind: format!("{version}/{kind}"),
            reason,
        };
        assert_eq!(converted.outcome, expected);
        assert!(converted.diagnostics.is_empty());
    }
}

#[test]
fn what_has_no_kind_is_nameless() {
    for value in [
        json!({}),
        json!([]),
        json!("text"),
        json!({"kind": 7}),
        json!({"kind": null}),
    ] {
        let converted = one(&value);
        assert_eq!(converted.outcome, Outcome::Nameless, "{value}");
        assert_eq!(found(&converted), ["error kind"]);
    }
}

#[test]
fn keys_name_the_kind_in_every_case() {
    for (kind, expected) in [("Namespace", "Namespace p"), ("Node", "Node p")] {
        let object = json!({"kind": kind, "metadata": {"name": "p", "labels": []}});
        let Outcome::Undecodable { key, .. } = one(&object).outcome else {
            panic!("labels must be a map")
        };
        assert_eq!(key.to_string(), expected);
        assert!(!matches!(key, Key::Pod(_)));
    }
}

#[test]
fn text_means_what_its_value_means() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "a", "uid": "u", "labels": {"x": "y", "z": null},
                     "managedFields": [{"x": 1}], "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "nowhere"}]},
    });
    let with = |path: &str, value: Value| {
        let mut pod = pod.clone();
        *pod.pointer_mut(path).unwrap() = value;
        pod
    };
    for (kind, object) in [
        ("Pod", pod.clone()),
        ("Pod", with("/metadata/name", json!(7))),
        ("Pod", with("/metadata/name", json!(""))),
        ("Pod", with("/metadata/name", json!("a/b"))),
        ("Pod", with("/metadata/namespace", json!(null))),
        ("Pod", with("/metadata/namespace", json!("a b"))),
        ("Pod", with("/spec/nodeName", json!([]))),
        ("Pod", with("/status/podIPs", json!("10.0.0.1"))),
        ("Pod", with("/metadata", json!(null))),
        ("Pod", json!([])),
        ("Node", json!({"metadata": {"name": "n"}})),
        ("Namespace", json!({"metadata": {"name": 5}})),
    ] {
        let mut typed = object.clone();
        if let Some(fields) = typed.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!("v1"));
            fields.insert("kind".to_owned(), json!(kind));
        }
        let mut names = Names::new();
        let read = convert_text(&object.to_string(), "v1", kind, &mut names).unwrap();
        if typed.is_object() {
            assert_eq!(read, one(&typed), "{object}");
        } else {
            assert_eq!(read.outcome, Outcome::Nameless, "{object}");
        }
    }
    assert!(convert_text("{", "v1", "Pod", &mut Names::new()).is_err());
}

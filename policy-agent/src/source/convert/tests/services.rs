//! Services and EndpointSlices: every default and every invalid field.

use policy_core::model::{EndpointSlice, Service};
use serde_json::{Value, json};

use super::{Key, Object, Outcome, found, one};

/// A Service's spec and status to one line, and what is found wrong.
fn service(spec: &Value, status: &Value) -> (String, Vec<String>) {
    let converted = one(&json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "a", "name": "s"}, "spec": spec, "status": status}));
    let wrong = found(&converted);
    for diagnostic in &converted.diagnostics {
        assert_eq!(diagnostic.object, "Service a/s");
    }
    match converted.outcome {
        Outcome::Object(Object::Service(service)) => (show(&service), wrong),
        other => panic!("{spec}: {other:?}"),
    }
}

/// As in `10.96.0.1 / 192.0.2.1 / http:TCP/80@30080 internal external`.
fn show(service: &Service) -> String {
    assert_eq!(service.key().to_string(), "a/s");
    let list = |addresses: &[std::net::IpAddr]| {
        let texts = addresses.iter().map(ToString::to_string);
        texts.collect::<Vec<_>>().join(" ")
    };
    let ports = service.ports.iter().map(|port| {
        let (name, protocol, number) = (&port.name, port.protocol.name(), port.port);
        let node = port.node_port.map(|node| format!("@{node}"));
        format!("{name}:{protocol}/{number}{}", node.unwrap_or_default())
    });
    let mut text = format!(
        "{} / {} / {}",
        list(&service.cluster_ips),
        list(&service.external_ips),
        ports.collect::<Vec<_>>().join(" ")
    );
    if service.internal_local {
        text += " internal";
    }
    if service.external_local {
        text += " external";
    }
    text
}

#[test]
fn a_service_is_read_whole() {
    let (text, wrong) = service(
        &json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1",
            "clusterIPs": ["fd00::1", "10.96.0.1"], "externalIPs": ["192.0.2.9", "192.0.2.1"],
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            "selector": {"app": "x"},
            "ports": [
                {"name": "web", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
            ],
        }),
        &json!({"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2"},
            {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"hostname": "lb.example.org"},
        ]}}),
    );
    assert_eq!(wrong, [""; 0]);
    assert_eq!(
        text,
        "10.96.0.1 fd00::1 / 192.0.2.1 192.0.2.2 192.0.2.9 / dns:UDP/53 web:TCP/80@30080 \
         internal external"
    );
}

#[test]
fn a_service_has_the_api_servers_defaults() {
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 0}]});
    let (text, wrong) = service(&spec, &Value::Null);
    assert_eq!((&*text, wrong.len()), ("10.96.0.1 /  / :TCP/80", 0));
}

#[test]
fn nothing_translates_headless_and_external_name_services() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]}),
        json!({"clusterIPs": ["None"], "clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": "10.96.0.1"}),
        json!({"ports": [{"port": 80}]}),
        json!(null),
    ] {
        let (text, wrong) = service(&spec, &Value::Null);
        assert_eq!((&*text, wrong.len()), (" /  / ", 0), "{spec}");
    }
}

#[test]
fn what_is_wrong_in_a_service_is_left_out_and_named() {
    let (text, wrong) = service(
        &json!({
            "clusterIPs": ["10.96.0.1", "nowhere"], "externalIPs": ["0.0.0.0", "::ffff:1.2.3.4"],
            "ports": [
                {"name": "a", "port": 0}, {"name": "b", "port": 65536}, {"name": "c"},
                {"name": "d", "port": 1, "protocol": "tcp"},
                {"name": "e", "port": 2, "nodePort": -1},
            ],
        }),
        &json!({"loadBalancer": {"ingress": [{"ip": "224.0.0.1"}]}}),
    );
    assert_eq!(text, "10.96.0.1 /  / e:TCP/2");
    assert_eq!(
        wrong,
        [
            "error spec.clusterips[1]",
            "error spec.externalips[0]",
            "error spec.externalips[1]",
            "error status.loadbalancer.ingress[0].ip",
            "error spec.ports[0].port",
            "error spec.ports[1].port",
            "error spec.ports[2].port",
            "error spec.ports[3].protocol",
            "error spec.ports[4].nodeport",
        ]
    );
}

/// A slice of Service `a/s`, and what is found wrong.
fn slice(family: &str, endpoints: &Value, ports: &Value) -> (EndpointSlice, Vec<String>) {
    let converted = one(
        &json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "a", "name": "s-1",
                     "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": family, "endpoints": endpoints, "ports": ports}),
    );
    let wrong = found(&converted);
    match converted.outcome {
        Outcome::Object(Object::EndpointSlice(slice)) => ((*slice).clone(), wrong),
        other => panic!("{other:?}"),
    }
}

/// `address` with `+` where ready, `-` where draining.
fn endpoints(slice: &EndpointSlice) -> Vec<String> {
    let endpoints = slice.endpoints.iter().map(|endpoint| {
        let ready = if endpoint.ready { "+" } else { "" };
        let draining = if endpoint.draining { "-" } else { "" };
        format!("{}{ready}{draining}", endpoint.address)
    });
    endpoints.collect()
}

#[test]
fn a_slice_is_read_whole() {
    let (slice, wrong) = slice(
        "IPv4",
        &json!([
            {"addresses": ["10.0.0.2", "10.0.0.9"], "nodeName": "n1"},
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": false, "terminating": true}},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": true, "terminating": true}},
            {"addresses": ["10.0.0.5"], "conditions": {"ready": false}},
        ]),
        &json!([{"name": "web", "port": 8080}, {"port": 53, "protocol": "UDP"}, {"name": "all"}]),
    );
    assert_eq!(wrong, [""; 0]);
    assert_eq!(slice.key().to_string(), "a/s-1");
    assert_eq!(slice.service_key().unwrap().to_string(), "a/s");
    assert_eq!(
        endpoints(&slice),
        [
            "10.0.0.1-",
            "10.0.0.2+",
            "10.0.0.3",
            "10.0.0.4+-",
            "10.0.0.5"
        ]
    );
    assert_eq!(slice.endpoints[1].node.as_deref(), Some("n1"));
    let ports = slice.ports.iter();
    let ports: Vec<_> = ports
        .map(|p| (&*p.name, p.protocol.name(), p.port))
        .collect();
    assert_eq!(ports, [("", "UDP", 53), ("web", "TCP", 8080)]);
}

#[test]
fn what_is_wrong_in_a_slice_is_left_out_and_named() {
    let (read, wrong) = slice(
        "IPv6",
        &json!([{"addresses": ["10.0.0.1"]}, {"addresses": []}, {}, {"addresses": ["fd00::1"]},
                {"addresses": ["::ffff:1.2.3.4"]}]),
        &json!([{"port": 0}, {"port": 70000}, {"port": 1, "protocol": "ICMP"}, {"port": 2}]),
    );
    assert_eq!(endpoints(&read), ["fd00::1+"]);
    assert_eq!(read.ports.len(), 1);
    assert_eq!(
        wrong,
        [
            "error endpoints[0].addresses[0]",
            "error endpoints[1].addresses[0]",
            "error endpoints[2].addresses[0]",
            "error endpoints[4].addresses[0]",
            "error ports[0].port",
            "error ports[1].port",
            "error ports[2].protocol",
        ]
    );
    let (named, wrong) = slice("FQDN", &json!([{"addresses": ["example.org"]}]), &json!([]));
    assert!(named.endpoints.is_empty() && wrong.is_empty());
    let (none, wrong) = slice("IPv5", &json!([{"addresses": ["10.0.0.1"]}]), &json!([]));
    assert!(none.endpoints.is_empty());
    assert_eq!(wrong, ["error addresstype"]);
}

#[test]
fn a_slice_without_the_label_is_behind_no_service() {
    let converted = one(
        &json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "x"}, "addressType": "IPv4"}),
    );
    let Outcome::Object(Object::EndpointSlice(slice)) = converted.outcome else {
        panic!("a slice");
    };
    assert_eq!(slice.service_key(), None);
}

#[test]
fn what_does_not_decode_keeps_its_name() {
    for (object, expected) in [
        (
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
                   "spec": {"ports": [{"port": "80"}]}}),
            ("Service default/s", "error spec.ports[0].port"),
        ),
        (
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                   "metadata": {"name": "s", "namespace": "a"}, "endpoints": [{"addresses": 7}]}),
            ("EndpointSlice a/s", "error endpoints[0].addresses"),
        ),
    ] {
        let converted = one(&object);
        assert_eq!(found(&converted), [expected.1]);
        let Outcome::Undecodable { key, fallback } = converted.outcome else {
            panic!("{object} does not decode")
        };
        assert!(fallback.is_none() && !matches!(key, Key::Pod(_)));
        assert_eq!(key.to_string(), expected.0);
    }
}

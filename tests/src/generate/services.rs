//! Services of every kind, what is behind them, host ports of pods, and probes of all these.
//!
//! Cluster addresses are in 10.96.0.0/24 and fd00:10:96::/112, outside addresses in 203.0.113.0/24
//! and 2001:db8:1::/112, or a node's. Nothing here judges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::Rng;
use super::addresses::{node_addresses, outside};
use crate::reference::{PortSpec, Probe, Protocol, Who};

/// Name, protocol, port, and whether a node port goes with it.
const PORTS: [(&str, &str, u16, bool); 5] = [
    ("http", "TCP", 80, true),
    ("alt", "TCP", 8080, false),
    ("dns", "UDP", 53, true),
    ("dns-tcp", "TCP", 53, true),
    ("metrics", "SCTP", 9100, false),
];

/// Ports of endpoints: those that policies speak of.
const TARGETS: [u16; 7] = [80, 443, 8080, 9090, 9100, 53, 5432];

/// First node port; each Service has its own after it.
const FIRST_NODE_PORT: u16 = 30_000;

/// First host port; each pod that has one has its own.
const FIRST_HOST_PORT: u16 = 31_000;

/// Gives some pods a host port, at times at one address only.
pub(super) fn host_ports(rng: &mut Rng, objects: &mut [Value]) {
    let pods = objects.iter_mut().filter(|object| object["kind"] == "Pod");
    for (pod, host_port) in pods.zip(FIRST_HOST_PORT..) {
        if !rng.percent(15) {
            continue;
        }
        let mut port = json!({"containerPort": *rng.pick(&TARGETS), "hostPort": host_port});
        if rng.percent(20) {
            port["hostIP"] = json!(node_addresses(u8::from(rng.percent(50)))[0]);
        }
        if let Some(ports) = pod["spec"]["containers"][0]["ports"].as_array_mut() {
            ports.push(port);
        }
    }
}

/// So many Services, most with slices behind them, and slices of nobody.
pub(super) fn services(rng: &mut Rng, objects: &[Value], count: usize) -> Vec<Value> {
    let pods: Vec<&Value> = objects.iter().filter(|o| o["kind"] == "Pod").collect();
    let namespaces: Vec<&Value> = pods
        .iter()
        .map(|pod| &pod["metadata"]["namespace"])
        .collect();
    let mut all = Vec::new();
    if namespaces.is_empty() {
        return all;
    }
    for index in 0..count {
        let namespace = *rng.pick(&namespaces);
        let service = service(rng, namespace, index);
        let slices = rng.weighted(&[8, 30, 42, 20]);
        for part in 0..slices {
            all.push(slice(rng, &service, &pods, part));
        }
        all.push(service);
    }
    all
}

fn cluster_addresses(index: usize) -> [IpAddr; 2] {
    let low = u8::try_from(index + 1).expect("few Services");
    [
        IpAddr::V4(Ipv4Addr::new(10, 96, 0, low)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, low.into())),
    ]
}

fn outside_address(rng: &mut Rng) -> IpAddr {
    let low = u8::try_from(1 + rng.below(4)).expect("small");
    match rng.weighted(&[45, 35, 20]) {
        0 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, low)),
        1 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, low.into())),
        // An administrator may give a node's own.
        _ => *rng.pick(&node_addresses(low % 2)),
    }
}

fn service(rng: &mut Rng, namespace: &Value, index: usize) -> Value {
    let mut addresses: Vec<Value> = cluster_addresses(index).iter().map(|a| json!(a)).collect();
    match rng.weighted(&[60, 20, 10, 5, 5]) {
        0 => {}
        1 => addresses.truncate(1),
        2 => addresses.reverse(),
        3 => addresses = vec![json!("None")],
        _ => addresses.push(json!("not an address")),
    }
    let first = rng.below(PORTS.len());
    let ports = 1 + rng.weighted(&[40, 40, 20]);
    let mut chosen: Vec<Value> = (0..ports)
        .map(|step| {
            let at = (first + step) % PORTS.len();
            let (name, protocol, port, has_node_port) = PORTS[at];
            let mut entry = json!({"name": name, "protocol": protocol, "port": port});
            if protocol == "TCP" && rng.percent(50) {
                entry.as_object_mut().expect("an object").remove("protocol");
            }
            if has_node_port && rng.percent(70) {
                let offset = u16::try_from(index * PORTS.len() + at).expect("few Services");
                entry["nodePort"] = json!(FIRST_NODE_PORT + offset);
            }
            entry
        })
        .collect();
    if rng.percent(5) {
        chosen.push(json!({"name": "bad", "port": 0}));
    }
    let mut spec = json!({
        "clusterIP": addresses[0],
        "clusterIPs": addresses,
        "ports": chosen,
        "selector": {"app": "web"},
    });
    if rng.percent(20) {
        spec["internalTrafficPolicy"] = json!("Local");
    }
    if rng.percent(35) {
        spec["externalTrafficPolicy"] = json!("Local");
    }
    if rng.percent(4) {
        spec["type"] = json!("ExternalName");
    }
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": format!("service-{index}")},
        "spec": spec,
    });
    if rng.percent(40) {
        service["spec"]["externalIPs"] = json!([outside_address(rng), outside_address(rng)]);
    }
    if rng.percent(30) {
        let mut ingress = json!({"ip": outside_address(rng)});
        if rng.percent(60) {
            ingress["ipMode"] = json!(*rng.pick(&["VIP", "Proxy"]));
        }
        service["status"]["loadBalancer"]["ingress"] = json!([ingress, {"hostname": "lb.example"}]);
    }
    service
}

fn slice(rng: &mut Rng, service: &Value, pods: &[&Value], part: usize) -> Value {
    let metadata = &service["metadata"];
    let ipv4 = rng.percent(60);
    let count = rng.weighted(&[5, 40, 30, 15, 10]);
    let endpoints: Vec<Value> = (0..count)
        .filter_map(|_| endpoint(rng, pods, ipv4))
        .collect();
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let ports: Vec<Value> = ports
        .filter_map(|port| {
            let mut port = port.clone();
            port.as_object_mut().expect("an object").remove("nodePort");
            port["port"] = json!(*rng.pick(&TARGETS));
            rng.percent(90).then_some(port)
        })
        .collect();
    let name = metadata["name"].as_str().unwrap_or_default();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": metadata["namespace"],
            "name": format!("{name}-{part}"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": if ipv4 { "IPv4" } else { "IPv6" },
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// Mostly a pod; at times somebody outside, or a node.
fn endpoint(rng: &mut Rng, pods: &[&Value], ipv4: bool) -> Option<Value> {
    let pod = *rng.pick(pods);
    let own = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let own = own.filter_map(|entry| entry["ip"].as_str()?.parse::<IpAddr>().ok());
    let address = match rng.weighted(&[85, 8, 7]) {
        0 => own.into_iter().find(|a| a.is_ipv4() == ipv4)?,
        1 => outside(rng, ipv4),
        _ => node_addresses(u8::from(rng.percent(50)))[usize::from(!ipv4)],
    };
    let mut endpoint = json!({"addresses": [address]});
    if rng.percent(85) {
        endpoint["nodeName"] = pod["spec"]["nodeName"].clone();
    }
    match rng.weighted(&[50, 25, 12, 8, 5]) {
        0 => endpoint["conditions"] = json!({"ready": true, "serving": true}),
        1 => {}
        2 => {
            endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
        }
        3 => endpoint["conditions"] = json!({"ready": false}),
        _ => {
            endpoint["conditions"] = json!({"ready": false, "serving": false, "terminating": true});
        }
    }
    Some(endpoint)
}

/// Probes of addresses and ports of Services, and of those beside them.
pub(super) fn probe(rng: &mut Rng, objects: &[Value]) -> Option<Probe> {
    let of_kind =
        |kind: &str| -> Vec<&Value> { objects.iter().filter(|o| o["kind"] == kind).collect() };
    let (services, pods) = (of_kind("Service"), of_kind("Pod"));
    if services.is_empty() || pods.is_empty() {
        return None;
    }
    if rng.percent(12) {
        return host_port_probe(rng, &pods);
    }
    let service = *rng.pick(&services);
    let spec = &service["spec"];
    let port = rng.pick(spec["ports"].as_array()?);
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let by_node_port = rng.percent(30);
    let (to, number) = match port["nodePort"].as_u64().filter(|_| by_node_port) {
        Some(number) => {
            let ends = node_addresses(u8::from(rng.percent(50)));
            (*rng.pick(&ends), number)
        }
        None => {
            let lists = ["clusterIPs", "clusterIPs", "externalIPs"];
            let texts = lists.iter().flat_map(|list| spec[*list].as_array());
            let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
            let ips = ingress.into_iter().flatten().map(|entry| &entry["ip"]);
            let texts = texts.flatten().chain(ips);
            let addresses = texts.filter_map(|text| text.as_str()?.parse().ok());
            let addresses: Vec<IpAddr> = addresses.collect();
            if addresses.is_empty() {
                return None;
            }
            (*rng.pick(&addresses), port["port"].as_u64()?)
        }
    };
    let number = u16::try_from(number).ok()?;
    let port = match rng.weighted(&[85, 8, 7]) {
        0 => PortSpec::Number(number),
        1 => PortSpec::Number(number.wrapping_add(1).max(1)),
        _ => PortSpec::Name(port["name"].as_str()?.to_owned()),
    };
    Some(Probe {
        from: sender(rng, &pods, to.is_ipv4())?,
        to: Who::Address(to),
        port,
        protocol: protocol.parse::<Protocol>().ok()?,
        family: None,
    })
}

/// Mostly a pod; at times a node or somebody outside.
fn sender(rng: &mut Rng, pods: &[&Value], ipv4: bool) -> Option<Who> {
    Some(match rng.weighted(&[80, 8, 12]) {
        0 => {
            let metadata = &rng.pick(pods)["metadata"];
            let text = |field: &str| metadata[field].as_str().map(str::to_owned);
            Who::Pod(text("namespace")?, text("name")?)
        }
        1 => {
            let own = node_addresses(u8::from(rng.percent(50)));
            Who::Address(own[usize::from(!ipv4)])
        }
        _ => Who::Address(outside(rng, ipv4)),
    })
}

fn host_port_probe(rng: &mut Rng, pods: &[&Value]) -> Option<Probe> {
    let pod = *rng.pick(pods);
    let containers = pod["spec"]["containers"].as_array()?.iter();
    let mut ports = containers.flat_map(|c| c["ports"].as_array()).flatten();
    let number = ports.find_map(|port| port["hostPort"].as_u64())?;
    let node = match pod["spec"]["nodeName"].as_str() {
        Some("node-1") => 1,
        _ => 0,
    };
    // Now and then at the node where the pod is not.
    let node = if rng.percent(10) { 1 - node } else { node };
    let to = *rng.pick(&node_addresses(node));
    Some(Probe {
        from: sender(rng, pods, to.is_ipv4())?,
        to: Who::Address(to),
        port: PortSpec::Number(u16::try_from(number).ok()?),
        protocol: Protocol::TCP,
        family: None,
    })
}

//! What kube-proxy would choose from, case by case.

use std::sync::Arc;

use super::*;
use crate::model::EndpointSlice;
use crate::store::Object;
use crate::testing::{service, slice};

fn store(services: &[&Service], slices: &[EndpointSlice]) -> Store {
    let services = services
        .iter()
        .map(|s| Object::Service(Arc::new((*s).clone())));
    let slices = slices
        .iter()
        .map(|s| Object::EndpointSlice(Arc::new(s.clone())));
    crate::testing::store([], [], services.chain(slices))
}

fn show(backends: &Backends) -> String {
    let all = backends.iter().map(|b| format!("{}:{}", b.address, b.port));
    all.collect::<Vec<_>>().join(" ")
}

/// A frontend a line.
fn leads(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    let store = store(&[service], slices);
    let all = frontends(&store, service, "here").into_iter();
    all.map(|(frontend, backends)| format!("{frontend} -> {}", show(&backends)))
        .collect()
}

#[test]
fn ports_are_found_by_name_and_protocol_and_may_differ_between_slices() {
    let dns = service(
        "a/s",
        "10.96.0.1",
        "",
        "web=TCP/80 dns=UDP/53 dns-tcp=TCP/53",
    );
    let slices = [
        slice(
            "a/s-1",
            "s",
            "10.0.0.1",
            "web=TCP/8080 dns=UDP/5353 other=TCP/9",
        ),
        slice("a/s-2", "s", "10.0.0.2", "web=TCP/8081 dns=TCP/5353"),
        slice("b/s-1", "s", "10.0.0.3", "web=TCP/8080"),
        slice("a/t-1", "t", "10.0.0.4", "web=TCP/8080"),
    ];
    assert_eq!(
        leads(&dns, &slices),
        [
            "10.96.0.1:53/TCP -> ",
            "10.96.0.1:80/TCP -> 10.0.0.1:8080 10.0.0.2:8081",
            "10.96.0.1:53/UDP -> 10.0.0.1:5353",
        ]
    );
}

#[test]
fn each_family_leads_to_its_own_endpoints() {
    let both = service("a/s", "10.96.0.1 fd00:96::1", "192.0.2.1", "TCP/80");
    let slices = [
        slice("a/s-4", "s", "10.0.0.1", "TCP/80"),
        slice("a/s-6", "s", "fd00::1", "TCP/80"),
    ];
    assert_eq!(
        leads(&both, &slices),
        [
            "10.96.0.1:80/TCP -> 10.0.0.1:80",
            "192.0.2.1:80/TCP -> 10.0.0.1:80",
            "[fd00:96::1]:80/TCP -> fd00::1:80",
        ]
    );
}

#[test]
fn draining_endpoints_count_where_none_is_ready() {
    let plain = service("a/s", "10.96.0.1", "", "TCP/80");
    for (endpoints, expected) in [
        ("10.0.0.1 10.0.0.2- 10.0.0.3?", "10.0.0.1:80"),
        ("10.0.0.2- 10.0.0.3?", "10.0.0.2:80"),
        ("10.0.0.3?", ""),
        ("", ""),
    ] {
        assert_eq!(
            leads(&plain, &[slice("a/s-1", "s", endpoints, "TCP/80")]),
            [format!("10.96.0.1:80/TCP -> {expected}")],
            "{endpoints}"
        );
    }
}

#[test]
fn an_internal_policy_of_local_leaves_the_nodes_own_endpoints_to_cluster_addresses() {
    let mut local = service("a/s", "10.96.0.1", "192.0.2.1", "TCP/80");
    local.internal_local = true;
    local.external_local = true;
    let slices = [slice(
        "a/s-1",
        "s",
        "10.0.0.1@here- 10.0.0.2@there",
        "TCP/80",
    )];
    assert_eq!(
        leads(&local, &slices),
        [
            "10.96.0.1:80/TCP -> 10.0.0.1:80",
            "192.0.2.1:80/TCP -> 10.0.0.2:80",
        ]
    );
}

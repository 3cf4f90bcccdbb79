//! ICMP errors: those about what the pod may do are told from all others.

use super::world::*;
use crate::abi::Direction::{Egress, Ingress};
use crate::abi::protocol::{ICMP, SCTP, TCP, UDP};
use crate::packet::{Kind, Packet};

/// A router on the way, which no policy knows.
const ROUTER: u8 = STRANGER;

/// What the kernel knows of a quoted packet of a protocol: no TCP flags.
fn known(protocol: u8) -> Kind {
    match protocol {
        TCP => Kind::TcpData,
        SCTP => Kind::SctpData,
        _ => Kind::Datagram,
    }
}

/// The packet of a flow that the pod sent, as it is quoted to it.
fn sent(flow: &Flow) -> Packet {
    flow.packet(Egress, known(flow.protocol))
}

/// The packet of a flow that the pod got, as it quotes it.
fn got(flow: &Flow) -> Packet {
    flow.packet(Ingress, known(flow.protocol))
}

#[test]
fn errors_about_a_connection_pass_both_ways_whoever_opened_it() {
    for protocol in [TCP, UDP, SCTP] {
        let world = World::with(
            Some(&[(CLIENT, protocol, 80)]),
            Some(&[(SERVER, protocol, 443)]),
        );
        let inward = flow(protocol, CLIENT, 4_000, 80);
        let outward = over6(flow(protocol, SERVER, 443, 5_000));
        world.connect(&inward, Ingress);
        world.connect(&outward, Egress);
        for flow in [inward, outward] {
            let before = world.record(&flow);
            assert!(world.is_related(&sent(&flow), Ingress, ROUTER), "{flow:?}");
            assert!(world.is_related(&got(&flow), Egress, 0), "{flow:?}");
            assert_eq!(world.record(&flow), before, "nothing is written");
        }
        for other in [
            flow(protocol, CLIENT, 4_000, 81),
            flow(protocol, SERVER, 444, 5_000),
            flow(protocol, STRANGER, 443, 5_000),
        ] {
            assert!(
                !world.is_related(&sent(&other), Ingress, ROUTER),
                "{other:?}"
            );
            assert!(!world.is_related(&got(&other), Egress, 0), "{other:?}");
        }
    }
}

#[test]
fn errors_about_an_echo_pass_with_its_record() {
    let world = World::with(Some(&[]), Some(&[(SERVER, ICMP, ANY)]));
    let echo = flow(ICMP, SERVER, 77, 0);
    let request = echo.packet(Egress, Kind::EchoRequest);
    world.connect(&echo, Egress);
    assert!(world.is_related(&request, Ingress, ROUTER));
    let stranger = flow(ICMP, STRANGER, 77, 0);
    let request = stranger.packet(Egress, Kind::EchoRequest);
    assert!(!world.is_related(&request, Ingress, ROUTER));
}

#[test]
fn connection_to_a_denied_port_has_a_record_only_if_its_opener_was_allowed() {
    // The pod answers its client: policy would deny the answer by itself.
    let world = World::with(Some(&[(CLIENT, TCP, 80)]), Some(&[]));
    let flow = flow(TCP, CLIENT, 4_000, 80);
    assert!(!world.pod_sends(&flow, Kind::TcpData).passes());
    world.connect(&flow, Ingress);
    assert!(world.is_related(&sent(&flow), Ingress, ROUTER));
}

#[test]
fn revoked_and_expired_connections_vouch_for_nothing() {
    let flow = flow(TCP, SERVER, 443, 5_000);
    let world = World::with(Some(&[]), Some(&[(SERVER, TCP, 443)]));
    world.connect(&flow, Egress);
    world.next_generation();
    assert!(
        world.is_related(&sent(&flow), Ingress, ROUTER),
        "still allowed"
    );
    world.enforce(Some(&[]), Some(&[(CLIENT, TCP, 443)]));
    assert!(!world.is_related(&sent(&flow), Ingress, ROUTER), "revoked");
    assert!(!world.is_related(&got(&flow), Egress, 0), "revoked");

    // The other direction allows the ports, but did not open it.
    world.enforce(Some(&[(SERVER, TCP, 5_000)]), Some(&[]));
    assert!(!world.is_related(&sent(&flow), Ingress, ROUTER));

    let flow = over6(flow);
    let world = World::with(Some(&[]), None);
    world.connect(&flow, Egress);
    assert!(world.is_related(&sent(&flow), Ingress, ROUTER));
    world.wait(crate::conntrack::TCP_ESTABLISHED_NS + SECOND);
    assert!(!world.is_related(&sent(&flow), Ingress, ROUTER), "expired");
}

#[test]
fn flow_without_a_record_needs_a_policy_that_allows_it_by_name() {
    let out = flow(TCP, SERVER, 443, 5_000);
    let answer = flow(TCP, CLIENT, 4_000, 80);
    let named = World::with(Some(&[(CLIENT, TCP, 80)]), Some(&[(SERVER, TCP, 443)]));
    for flow in [out, answer] {
        assert!(named.is_related(&sent(&flow), Ingress, ROUTER), "{flow:?}");
        assert!(named.is_related(&got(&flow), Egress, 0), "{flow:?}");
    }
    // That nothing isolates a direction allows no stranger to quote it.
    for world in [
        World::with(Some(&[]), None),
        World::with(None, Some(&[])),
        World::with(Some(&[(CLIENT, TCP, 81)]), Some(&[(SERVER, TCP, 444)])),
    ] {
        for flow in [out, answer] {
            assert!(!world.is_related(&sent(&flow), Ingress, ROUTER), "{flow:?}");
            assert!(!world.is_related(&got(&flow), Egress, 0), "{flow:?}");
        }
    }
}

#[test]
fn connection_of_the_nodes_vouches_whatever_policy_says() {
    let probe = flow(TCP, NODE, 4_000, 80);
    let world = World::with(Some(&[]), Some(&[]));
    assert!(!world.is_related(&sent(&probe), Ingress, ROUTER));
    assert!(world.host_sends(&probe, Kind::TcpSyn).passes());
    assert!(world.is_related(&sent(&probe), Ingress, ROUTER));
}

#[test]
fn error_must_go_to_who_sent_what_it_quotes() {
    let flow = flow(UDP, SERVER, 53, 5_000);
    let world = World::with(Some(&[]), Some(&[(SERVER, UDP, 53)]));
    world.connect(&flow, Egress);
    // The pod hands on what it did not get, or quotes to a third party.
    assert!(!world.is_related(&got(&flow), Egress, CLIENT));
    assert!(world.is_related(&got(&flow), Egress, 0));
    // Quoted the wrong way round.
    assert!(!world.is_related(&got(&flow), Ingress, ROUTER));
    assert!(!world.is_related(&sent(&flow), Egress, 0));
}

//! The node, the pod that reaches itself, the emergency switch, fragments.

use super::world::*;
use crate::abi::Direction::{Egress, Ingress};
use crate::abi::conntrack::CT_FROM_NODE;
use crate::abi::event::DropReason;
use crate::abi::protocol::{ICMP, SCTP, TCP, UDP};
use crate::packet::Kind;

const PROBE: Flow = flow(TCP, NODE, 4_000, 80);

#[test]
fn own_nodes_packets_pass_and_forwarded_ones_with_its_address_are_judged() {
    for protocol in [TCP, UDP, SCTP, ICMP] {
        let flow = flow(protocol, NODE, 4_000, 80);
        let world = World::with(Some(&[]), Some(&[]));
        let opens = script(protocol)[0];
        assert_denied(world.peer_sends(&flow, opens), INGRESS_DEFAULT);
        assert_passes(world.host_sends(&flow, opens), 0);
    }
}

#[test]
fn packet_of_no_interface_with_another_address_is_judged() {
    for peer in [CLIENT, STRANGER, LOST] {
        let flow = flow(TCP, peer, 4_000, 80);
        let world = World::with(Some(&[]), Some(&[]));
        assert!(!world.host_sends(&flow, Kind::TcpSyn).passes());
    }
}

#[test]
fn pods_packets_to_the_node_are_judged() {
    let world = World::with(None, Some(&[(NODE, TCP, 10_250)]));
    let kubelet = flow(TCP, NODE, 10_250, 4_000);
    let ssh = flow(TCP, NODE, 22, 4_000);
    assert_passes(world.pod_sends(&kubelet, Kind::TcpSyn), EGRESS_RULE);
    assert_denied(world.pod_sends(&ssh, Kind::TcpSyn), EGRESS_DEFAULT);
}

#[test]
fn nodes_connections_outlive_every_change_of_policy() {
    for protocol in [TCP, UDP, SCTP] {
        let flow = flow(protocol, NODE, 4_000, 80);
        let [opens, answers, next] = script(protocol);
        let world = World::with(Some(&[]), Some(&[]));
        assert!(world.host_sends(&flow, opens).passes());
        for _ in 0..3 {
            assert_passes(world.pod_sends(&flow, answers), 0);
            assert!(world.host_sends(&flow, next).passes());
            world.enforce(Some(&[]), Some(&[]));
        }
        let (_, entry) = world.record(&flow).expect("it lives");
        assert_ne!(entry.flags & CT_FROM_NODE, 0);
        // A new one in the other direction is still the pod's, and judged.
        let other = Flow {
            local_port: 81,
            ..flow
        };
        assert!(!world.pod_sends(&other, opens).passes());
    }
}

#[test]
fn nodes_answers_do_not_vouch_for_the_pods_connection() {
    for protocol in [TCP, UDP, SCTP] {
        let api = flow(protocol, NODE, 6_443, 4_000);
        let [opens, answers, next] = script(protocol);
        let world = World::with(Some(&[]), Some(&[(NODE, protocol, 6_443)]));
        assert!(world.pod_sends(&api, opens).passes());
        assert!(world.host_sends(&api, answers).passes());
        assert!(world.pod_sends(&api, next).passes());
        let (_, entry) = world.record(&api).expect("it lives");
        assert_eq!(entry.flags & CT_FROM_NODE, 0, "the pod opened it");
        world.enforce(Some(&[]), Some(&[]));
        // Whatever the node goes on sending.
        for _ in 0..3 {
            world.wait(2 * SECOND);
            assert!(world.host_sends(&api, answers).passes());
            assert!(world.host_sends(&api, next).passes());
            assert!(!world.pod_sends(&api, next).passes(), "{protocol}");
        }
        assert_eq!(world.record(&api).map(|found| found.1), Some(entry));
    }
}

#[test]
fn forwarded_connection_on_the_ports_of_the_nodes_is_not_the_nodes() {
    let world = World::with(Some(&[]), Some(&[]));
    assert!(world.host_sends(&PROBE, Kind::TcpSyn).passes());
    assert!(world.pod_sends(&PROBE, Kind::TcpSynAck).passes());
    assert!(world.host_sends(&PROBE, Kind::TcpFin).passes());
    assert!(world.pod_sends(&PROBE, Kind::TcpFin).passes());
    // Masqueraded to the node's address, on the same port.
    assert_denied(world.peer_sends(&PROBE, Kind::TcpSyn), INGRESS_DEFAULT);
    world.enforce(Some(&[(NODE, TCP, 80)]), Some(&[]));
    world.connect(&PROBE, Ingress);
    world.enforce(Some(&[]), Some(&[]));
    assert!(!world.peer_sends(&PROBE, Kind::TcpData).passes());
    assert!(!world.pod_sends(&PROBE, Kind::TcpData).passes());
}

#[test]
fn pod_reaches_itself_through_a_service_whatever_changes() {
    // Masqueraded, or with the pod's own address.
    for peer in [NODE, 77, STRANGER] {
        for protocol in [TCP, UDP] {
            let flow = flow(protocol, peer, 4_000, 80);
            let [opens, answers, next] = script(protocol);
            let world = World::with(Some(&[]), Some(&[]));
            assert!(
                !world.peer_sends(&flow, opens).passes(),
                "but for the hairpin"
            );
            assert_passes(world.send(&flow, Ingress, opens, false, true), 0);
            world.enforce(Some(&[]), Some(&[]));
            for _ in 0..3 {
                assert_passes(world.pod_sends(&flow, answers), 0);
                assert!(world.send(&flow, Ingress, next, false, true).passes());
                world.enforce(Some(&[]), Some(&[]));
            }
        }
    }
}

#[test]
fn nothing_is_denied_while_enforcement_is_off() {
    let world = World::with(Some(&[]), Some(&[]));
    let cases = [
        (TCP, Kind::TcpSyn),
        (TCP, Kind::TcpData),
        (UDP, Kind::Datagram),
        (ICMP, Kind::EchoReply),
        (ICMP, Kind::OtherIcmp),
        (UDP, Kind::Fragment),
    ];
    for off in [true, false] {
        world.switch_off(off);
        for (protocol, kind) in cases {
            let flow = flow(protocol, LOST, u16::from(off) + 1, 80);
            for direction in [Ingress, Egress] {
                let verdict = world.send(&flow, direction, kind, false, false);
                assert_eq!(verdict.passes(), off, "{kind:?}");
                assert!(!verdict.cacheable);
            }
        }
    }
}

#[test]
fn connections_opened_while_enforcement_was_off_are_judged_when_it_is_on_again() {
    for protocol in [TCP, UDP, SCTP] {
        let good = flow(protocol, CLIENT, 4_000, 80);
        let bad = flow(protocol, CLIENT, 4_000, 81);
        let older = flow(protocol, CLIENT, 4_001, 80);
        let data = script(protocol)[2];
        let world = World::with(Some(&[(CLIENT, protocol, 80)]), Some(&[]));
        world.connect(&older, Ingress);
        world.switch_off(true);
        for flow in [good, bad] {
            world.connect(&flow, Ingress);
        }
        assert!(world.pod_sends(&older, data).passes());
        world.switch_off(false);
        for flow in [good, older] {
            assert!(world.pod_sends(&flow, data).passes(), "{flow:?}");
            assert!(world.peer_sends(&flow, data).passes(), "{flow:?}");
        }
        assert!(!world.pod_sends(&bad, data).passes());
        assert!(!world.peer_sends(&bad, data).passes());
    }
}

#[test]
fn fragments_are_dropped_where_the_pod_is_isolated() {
    let flow = flow(UDP, CLIENT, 0, 0);
    let world = World::with(Some(&[(CLIENT, UDP, ANY)]), None);
    let fragment = world.peer_sends(&flow, Kind::Fragment);
    assert_eq!(fragment.denied, Some(DropReason::Fragment));
    let free = world.pod_sends(&flow, Kind::Fragment);
    assert!(free.passes() && !free.cacheable);
    assert_eq!(world.record(&flow), None, "and never make a record");
}

#[test]
fn fragments_of_the_node_and_of_the_pod_itself_pass() {
    let world = World::with(Some(&[]), Some(&[]));
    let node = flow(UDP, NODE, 0, 0);
    assert!(world.host_sends(&node, Kind::Fragment).passes());
    assert!(
        !world.peer_sends(&node, Kind::Fragment).passes(),
        "forwarded"
    );
    let client = flow(UDP, CLIENT, 0, 0);
    assert!(!world.host_sends(&client, Kind::Fragment).passes());
    let hairpin = world.send(&client, Ingress, Kind::Fragment, false, true);
    assert!(hairpin.passes());
}

//! What a connection lets through, and what it never does.

use super::world::*;
use crate::abi::Direction::{Egress, Ingress};
use crate::abi::event::DropReason;
use crate::abi::identity;
use crate::abi::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::packet::Kind;

/// Connections that the pod opens to the server and the client to the pod, of
/// each protocol and family. An echo identifier stands in the place of the port
/// of the side that is asked.
fn outward() -> [Flow; 8] {
    let v4 = [TCP, UDP, SCTP].map(|protocol| flow(protocol, SERVER, 53, 4_000));
    let v6 = v4.map(over6);
    let echo = flow(ICMP, SERVER, 9, 0);
    let echo6 = over6(flow(ICMPV6, SERVER, 9, 0));
    [v4[0], v4[1], v4[2], v6[0], v6[1], v6[2], echo, echo6]
}

fn inward() -> [Flow; 8] {
    outward().map(|flow| Flow {
        peer: CLIENT,
        peer_port: flow.local_port,
        local_port: flow.peer_port,
        ..flow
    })
}

fn allow(peer: u8) -> [Allow; 5] {
    [TCP, UDP, SCTP, ICMP, ICMPV6].map(|protocol| {
        let port = if protocol == ICMP || protocol == ICMPV6 {
            0
        } else {
            53
        };
        (peer, protocol, port)
    })
}

fn only(protocol: u8, peer: u8) -> [Allow; 1] {
    allow(peer)
        .into_iter()
        .find(|allowed| allowed.1 == protocol)
        .map(|allowed| [allowed])
        .expect("every protocol is there")
}

#[test]
fn replies_to_the_pods_connections_pass_an_isolated_ingress() {
    for flow in outward() {
        let egress = only(flow.protocol, SERVER);
        let world = World::with(Some(&[]), Some(&egress));
        let [opens, answers, next] = script(flow.protocol);
        let before = world.peer_sends(&flow, answers);
        assert_denied(before, INGRESS_DEFAULT);
        assert_passes(world.pod_sends(&flow, opens), EGRESS_RULE);
        assert_passes(world.peer_sends(&flow, answers), 0);
        assert!(world.pod_sends(&flow, next).passes(), "{flow:?}");
        assert!(world.peer_sends(&flow, answers).passes(), "{flow:?}");
    }
}

#[test]
fn replies_of_the_pod_pass_an_isolated_egress() {
    for flow in inward() {
        let ingress = only(flow.protocol, CLIENT);
        let world = World::with(Some(&ingress), Some(&[]));
        let [opens, answers, next] = script(flow.protocol);
        assert_denied(world.pod_sends(&flow, answers), EGRESS_DEFAULT);
        assert_passes(world.peer_sends(&flow, opens), INGRESS_RULE);
        assert_passes(world.pod_sends(&flow, answers), 0);
        assert!(world.peer_sends(&flow, next).passes(), "{flow:?}");
        assert!(world.pod_sends(&flow, answers).passes(), "{flow:?}");
    }
}

#[test]
fn new_connection_against_the_direction_of_an_open_one_is_denied() {
    for flow in outward() {
        if flow.protocol == UDP {
            // A datagram on the same ports is a reply: nothing tells it apart.
            continue;
        }
        let egress = only(flow.protocol, SERVER);
        let world = World::with(Some(&[]), Some(&egress));
        world.connect(&flow, Egress);
        let [opens, answers, _] = script(flow.protocol);
        assert_denied(world.peer_sends(&flow, opens), INGRESS_DEFAULT);
        assert!(
            world.peer_sends(&flow, answers).passes(),
            "the open one goes on"
        );
    }
    for flow in inward() {
        if flow.protocol == UDP {
            continue;
        }
        let ingress = only(flow.protocol, CLIENT);
        let world = World::with(Some(&ingress), Some(&[]));
        world.connect(&flow, Ingress);
        let [opens, answers, _] = script(flow.protocol);
        assert_denied(world.pod_sends(&flow, opens), EGRESS_DEFAULT);
        assert!(world.pod_sends(&flow, answers).passes());
    }
}

#[test]
fn connection_lets_nothing_through_on_other_ports_peers_or_protocols() {
    for open in outward() {
        let egress = only(open.protocol, SERVER);
        let world = World::with(Some(&[]), Some(&egress));
        world.connect(&open, Egress);
        let others = [
            Flow {
                peer: CLIENT,
                ..open
            },
            Flow {
                peer_port: open.peer_port + 1,
                ..open
            },
            Flow {
                local_port: open.local_port + 1,
                ..open
            },
            Flow {
                family: 10 - open.family,
                ..open
            },
            Flow {
                protocol: if open.protocol == UDP { 136 } else { UDP },
                ..open
            },
        ];
        for other in others {
            let answers = script(other.protocol)[1];
            assert_denied(world.peer_sends(&other, answers), INGRESS_DEFAULT);
        }
    }
}

#[test]
fn midstream_tcp_makes_no_record() {
    let flow = flow(TCP, SERVER, 53, 4_000);
    for kind in [Kind::TcpData, Kind::TcpSynAck, Kind::TcpFin, Kind::TcpReset] {
        let world = World::with(Some(&[]), None);
        assert!(world.pod_sends(&flow, kind).passes(), "egress is free");
        assert_eq!(world.record(&flow), None, "{kind:?}");
        assert_denied(world.peer_sends(&flow, Kind::TcpData), INGRESS_DEFAULT);
        assert_denied(world.peer_sends(&flow, Kind::TcpSynAck), INGRESS_DEFAULT);
    }
}

#[test]
fn error_that_is_denied_says_so_and_makes_no_record() {
    let flow = flow(ICMP, SERVER, 0, 0);
    let world = World::with(Some(&[]), None);
    assert!(world.pod_sends(&flow, Kind::IcmpError).passes());
    assert_eq!(world.record(&flow), None);
    let denied = world.peer_sends(&flow, Kind::IcmpError);
    assert_eq!(
        (denied.denied, denied.rule),
        (Some(DropReason::IcmpError), INGRESS_DEFAULT)
    );
    let named = World::with(Some(&[(SERVER, ICMP, ANY)]), None);
    assert!(named.peer_sends(&flow, Kind::IcmpError).passes());
}

#[test]
fn what_is_no_opener_makes_no_record() {
    for (protocol, kind) in [
        (SCTP, Kind::SctpData),
        (SCTP, Kind::SctpEnd),
        (ICMP, Kind::EchoReply),
        (ICMP, Kind::OtherIcmp),
    ] {
        let flow = flow(protocol, SERVER, 53, 53);
        let world = World::with(Some(&[]), None);
        assert!(world.pod_sends(&flow, kind).passes());
        assert_eq!(world.record(&flow), None, "{kind:?}");
        assert_denied(world.peer_sends(&flow, kind), INGRESS_DEFAULT);
    }
}

#[test]
fn denied_opener_makes_no_record() {
    for flow in outward() {
        let world = World::with(None, Some(&[]));
        let [opens, answers, _] = script(flow.protocol);
        assert_denied(world.pod_sends(&flow, opens), EGRESS_DEFAULT);
        assert_eq!(world.record(&flow), None);
        world.enforce(Some(&[]), Some(&[]));
        assert_denied(world.peer_sends(&flow, answers), INGRESS_DEFAULT);
    }
}

#[test]
fn echo_is_judged_by_protocol_and_not_by_its_identifier() {
    let ping = flow(ICMP, CLIENT, 0, 53);
    let world = World::with(Some(&[(CLIENT, ICMP, 53)]), None);
    assert_denied(world.peer_sends(&ping, Kind::EchoRequest), INGRESS_DEFAULT);
    world.enforce(Some(&[(CLIENT, ICMP, 0)]), None);
    assert_passes(world.peer_sends(&ping, Kind::EchoRequest), INGRESS_RULE);
}

#[test]
fn port_is_the_destinations_in_each_direction() {
    let world = World::with(Some(&[(CLIENT, TCP, 80)]), Some(&[(SERVER, TCP, 53)]));
    let to = |peer_port, local_port| {
        let flow = flow(TCP, CLIENT, peer_port, local_port);
        world.peer_sends(&flow, Kind::TcpSyn)
    };
    assert_passes(to(4_000, 80), INGRESS_RULE);
    assert_denied(to(80, 4_000), INGRESS_DEFAULT);
    let from = |peer_port, local_port| {
        let flow = flow(TCP, SERVER, peer_port, local_port);
        world.pod_sends(&flow, Kind::TcpSyn)
    };
    assert_passes(from(53, 4_000), EGRESS_RULE);
    assert_denied(from(4_000, 53), EGRESS_DEFAULT);
}

#[test]
fn verdict_names_rule_and_identity() {
    let allowed = [(SERVER, TCP, 53), (CLIENT, TCP, 80)];
    let world = World::with(Some(&allowed), Some(&[]));
    for (peer, port, rule, denied) in [
        (SERVER, 53, INGRESS_RULE, false),
        (CLIENT, 80, INGRESS_RULE + 1, false),
        (CLIENT, 53, INGRESS_DEFAULT, true),
        (NODE, 80, INGRESS_DEFAULT, true),
    ] {
        let verdict = world.peer_sends(&flow(TCP, peer, 4_000, port), Kind::TcpSyn);
        assert_eq!((verdict.rule, verdict.identity), (rule, u32::from(peer)));
        assert_eq!(verdict.denied.is_some(), denied);
    }
    let stranger = world.peer_sends(&flow(TCP, STRANGER, 4_000, 80), Kind::TcpSyn);
    assert_denied(stranger, INGRESS_DEFAULT);
    assert_eq!(stranger.identity, identity::OTHER);
}

#[test]
fn reply_does_not_carry_the_rule_that_would_have_denied_it() {
    let open = flow(UDP, SERVER, 53, 4_000);
    let world = World::with(Some(&[]), Some(&[(SERVER, UDP, 53)]));
    world.connect(&open, Egress);
    let reply = world.peer_sends(&open, Kind::Datagram);
    assert_eq!(
        (reply.denied, reply.rule, reply.identity, reply.log),
        (None, 0, SERVER.into(), false)
    );
}

#[test]
fn unresolved_peer_is_denied_for_an_isolated_pod_and_for_no_other() {
    let flow = flow(TCP, LOST, 4_000, 80);
    let world = World::with(Some(&[(STRANGER, TCP, ANY)]), None);
    let verdict = world.peer_sends(&flow, Kind::TcpSyn);
    assert_eq!(verdict.denied, Some(DropReason::Unresolved));
    assert_eq!(verdict.identity, identity::UNRESOLVED);
    assert_eq!(world.record(&flow), None);
    world.enforce(None, None);
    assert!(world.peer_sends(&flow, Kind::TcpSyn).passes());
}

#[test]
fn direction_that_nothing_isolates_is_not_asked() {
    let world = World::with(Some(&[]), None);
    let flow = flow(TCP, STRANGER, 443, 4_000);
    world.connect(&flow, Egress);
    // Of the SYN-ACK alone: whether the isolated direction allows it by itself.
    assert_eq!(world.asked(), 1);
}

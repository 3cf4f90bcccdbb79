//! The middle of a TCP connection: when its record is enough, and when it is not. That it
//! says the same as `decide`, every packet of these tests asserts.

use super::world::*;
use crate::abi::Direction::{Egress, Ingress};
use crate::abi::protocol::{TCP, UDP};
use crate::conntrack::REFRESH_NS;
use crate::packet::{Kind, Packet};
use crate::verdict::established::Middle;

const IN: Flow = flow(TCP, CLIENT, 4_000, 80);
const OUT: Flow = flow(TCP, SERVER, 53, 4_000);

/// What the record says of a segment from the peer, and of one from the pod.
fn both(world: &World, flow: &Flow) -> [Middle; 2] {
    [Ingress, Egress].map(|direction| world.middle(flow, direction, Kind::TcpData))
}

#[test]
fn open_connection_passes_by_its_record_both_ways() {
    let policies: [Option<&[Allow]>; 2] = [None, Some(&[(CLIENT, TCP, 80), (SERVER, TCP, 53)])];
    for ingress in policies {
        for egress in policies {
            for (flow, opener) in [(IN, Ingress), (OUT, Egress)] {
                for flow in [flow, over6(flow)] {
                    let world = World::with(ingress, egress);
                    world.connect(&flow, opener);
                    assert_eq!(both(&world, &flow), [Middle::Passes; 2], "{flow:?}");
                    assert!(world.peer_sends(&flow, Kind::TcpData).passes());
                    assert!(world.pod_sends(&flow, Kind::TcpData).passes());
                }
            }
        }
    }
}

#[test]
fn nothing_else_does() {
    let allowed: Option<&[Allow]> = Some(&[(CLIENT, TCP, 80)]);
    let world = World::with(allowed, None);
    assert_eq!(both(&world, &IN), [Middle::Ask; 2]);
    assert!(world.peer_sends(&IN, Kind::TcpSyn).passes());
    assert_eq!(both(&world, &IN), [Middle::Ask; 2], "not confirmed");
    world.connect(&IN, Ingress);
    for kind in [
        Kind::TcpSyn,
        Kind::TcpSynAck,
        Kind::TcpFin,
        Kind::TcpReset,
        Kind::Datagram,
    ] {
        assert_eq!(world.middle(&IN, Ingress, kind), Middle::Ask, "{kind:?}");
    }
    // It is time to say that it is alive.
    world.wait(REFRESH_NS);
    assert_eq!(both(&world, &IN), [Middle::Ask; 2]);
    assert!(world.peer_sends(&IN, Kind::TcpData).passes());
    assert_eq!(both(&world, &IN), [Middle::Passes; 2]);
    // Another word: judged once.
    world.next_generation();
    assert_eq!(both(&world, &IN), [Middle::Ask; 2]);
    assert!(world.pod_sends(&IN, Kind::TcpData).passes());
    assert_eq!(both(&world, &IN), [Middle::Passes; 2]);
    // Reset, and undone by the next segment.
    assert!(world.peer_sends(&IN, Kind::TcpReset).passes());
    assert_eq!(both(&world, &IN), [Middle::Ask; 2]);
    assert!(world.peer_sends(&IN, Kind::TcpData).passes());
    assert_eq!(both(&world, &IN), [Middle::Passes; 2]);
    // Revoked: never again.
    world.enforce(Some(&[]), None);
    for _ in 0..2 {
        assert_eq!(both(&world, &IN), [Middle::Ask; 2]);
        assert!(!world.peer_sends(&IN, Kind::TcpData).passes());
        assert!(!world.pod_sends(&IN, Kind::TcpData).passes());
    }
    let datagrams = flow(UDP, CLIENT, 4_000, 80);
    assert_eq!(
        world.middle(&datagrams, Ingress, Kind::Datagram),
        Middle::Ask
    );
}

#[test]
fn first_fragment_of_a_segment_is_judged_since_others_follow_it() {
    let world = World::with(Some(&[(CLIENT, TCP, 80)]), None);
    world.connect(&IN, Ingress);
    for direction in [Ingress, Egress] {
        let whole = IN.packet(direction, Kind::TcpData);
        let first = Packet {
            fragment: 1 << 15 | 3,
            ..whole
        };
        assert!(first.is_first_fragment());
        assert_eq!(world.middle_of(&whole, direction), Middle::Passes);
        assert_eq!(world.middle_of(&first, direction), Middle::Ask);
    }
}

#[test]
fn record_of_another_key_says_nothing() {
    let world = World::with(None, Some(&[]));
    world.connect(&IN, Ingress);
    assert_eq!(both(&world, &IN), [Middle::Passes; 2]);
    world.give_away(&IN);
    assert_eq!(both(&world, &IN), [Middle::Ask; 2]);
    assert!(!world.pod_sends(&IN, Kind::TcpData).passes());
}

#[test]
fn what_may_be_translated_on_its_way_is_looked_at_each_time() {
    let to_node = flow(TCP, NODE, 53, 4_000);
    let allowed: Option<&[Allow]> = Some(&[(NODE, TCP, 53)]);
    let world = World::with(None, allowed);
    world.connect(&to_node, Egress);
    assert_eq!(both(&world, &to_node), [Middle::Passes, Middle::Ask]);
    assert!(world.pod_sends(&to_node, Kind::TcpData).undecided);
    assert!(!world.peer_sends(&to_node, Kind::TcpData).undecided);
    // Opened before anything isolated the pod, and judged by the node's packet.
    let world = World::new();
    world.connect(&to_node, Egress);
    world.enforce(None, allowed);
    assert!(world.peer_sends(&to_node, Kind::TcpData).passes());
    assert_eq!(both(&world, &to_node), [Middle::Passes, Middle::Ask]);
    assert!(world.pod_sends(&to_node, Kind::TcpData).undecided);
}

//! What a change of policy cuts, what it spares, and that nothing revives.

use super::world::*;
use crate::abi::Direction::{self, Egress, Ingress};
use crate::abi::protocol::{SCTP, TCP, UDP};
use crate::abi::stats;
use crate::conntrack::UDP_NS;
use crate::packet::Kind;
use crate::verdict::decide::Verdict;

const OUT: Allow = (SERVER, TCP, 53);
const IN: Allow = (CLIENT, TCP, 80);

/// A connection of the pod's, one to it, and policies that allow the one, and
/// leave the other direction free or isolate it.
fn cases(protocol: u8) -> [(Flow, Direction, bool); 4] {
    let out = flow(protocol, SERVER, 53, 4_000);
    let inward = flow(protocol, CLIENT, 4_000, 80);
    [
        (out, Egress, true),
        (out, Egress, false),
        (inward, Ingress, true),
        (inward, Ingress, false),
    ]
}

/// Policies in which the opener's direction has this list.
fn enforce(world: &World, opener: Direction, allowed: &[Allow], other_isolated: bool) {
    let other: Option<&[Allow]> = if other_isolated { Some(&[]) } else { None };
    match opener {
        Ingress => world.enforce(Some(allowed), other),
        Egress => world.enforce(other, Some(allowed)),
    }
}

fn allowance(protocol: u8, opener: Direction) -> Allow {
    match opener {
        Ingress => (CLIENT, protocol, 80),
        Egress => (SERVER, protocol, 53),
    }
}

fn connected(protocol: u8, flow: &Flow, opener: Direction, other_isolated: bool) -> World {
    let world = World::new();
    let allowed = [allowance(protocol, opener)];
    enforce(&world, opener, &allowed, other_isolated);
    world.connect(flow, opener);
    world
}

fn send(world: &World, flow: &Flow, direction: Direction, kind: Kind) -> Verdict {
    world.send(flow, direction, kind, false, false)
}

#[test]
fn revoked_tcp_is_cut_both_ways_at_once_whoever_speaks_first() {
    for (flow, opener, other_isolated) in cases(TCP) {
        for first in [opener, opener.reverse()] {
            let world = connected(TCP, &flow, opener, other_isolated);
            enforce(&world, opener, &[], other_isolated);
            for kind in [Kind::TcpData, Kind::TcpFin, Kind::TcpReset, Kind::TcpData] {
                for direction in [first, first.reverse()] {
                    let verdict = send(&world, &flow, direction, kind);
                    assert!(!verdict.passes(), "{kind:?} {direction:?} of {flow:?}");
                }
            }
            assert_eq!(world.revoked(), 8);
        }
    }
}

#[test]
fn connection_that_stays_allowed_goes_on_and_is_asked_about_once() {
    for (flow, opener, other_isolated) in cases(TCP) {
        let world = connected(TCP, &flow, opener, other_isolated);
        let allowed = [(STRANGER, TCP, 9), allowance(TCP, opener)];
        enforce(&world, opener, &allowed, other_isolated);
        let asked = world.asked();
        for _ in 0..3 {
            assert!(send(&world, &flow, opener.reverse(), Kind::TcpData).passes());
            assert!(send(&world, &flow, opener, Kind::TcpData).passes());
        }
        assert_eq!(world.asked(), asked + 1);
        assert_eq!(world.counter(stats::CT_REVALIDATED), 1);
    }
}

#[test]
fn established_tcp_asks_nothing_while_the_generation_lasts() {
    for (flow, opener, other_isolated) in cases(TCP) {
        let world = connected(TCP, &flow, opener, other_isolated);
        let asked = world.asked();
        for _ in 0..5 {
            world.wait(2 * SECOND);
            for direction in [opener, opener.reverse()] {
                let verdict = send(&world, &flow, direction, Kind::TcpData);
                assert_passes(verdict, 0);
            }
        }
        assert_eq!(world.asked(), asked);
        world.next_generation();
        assert!(send(&world, &flow, opener, Kind::TcpData).passes());
        assert_eq!(world.asked(), asked + 1);
    }
}

#[test]
fn connection_allowed_again_goes_on() {
    for protocol in [TCP, UDP, SCTP] {
        for (flow, opener, other_isolated) in cases(protocol) {
            let world = connected(protocol, &flow, opener, other_isolated);
            let data = script(protocol)[2];
            enforce(&world, opener, &[], other_isolated);
            assert!(!send(&world, &flow, opener, data).passes());
            let allowed = [allowance(protocol, opener)];
            enforce(&world, opener, &allowed, other_isolated);
            assert!(send(&world, &flow, opener.reverse(), data).passes());
            assert!(send(&world, &flow, opener, data).passes());
        }
    }
}

#[test]
fn revoked_protocols_without_a_handshake_are_cut_for_the_opener() {
    for protocol in [UDP, SCTP, 50] {
        for (flow, opener, other_isolated) in cases(protocol) {
            let flow = if protocol == 50 {
                Flow {
                    peer_port: 0,
                    local_port: 0,
                    ..flow
                }
            } else {
                flow
            };
            let world = World::new();
            let peer = allowance(protocol, opener).0;
            let allowed = [(peer, protocol, ANY)];
            enforce(&world, opener, &allowed, other_isolated);
            world.connect(&flow, opener);
            enforce(&world, opener, &[], other_isolated);
            let data = script(protocol)[2];
            for _ in 0..2 {
                assert!(!send(&world, &flow, opener, data).passes());
                // The other way only if policy allows it by itself.
                let other = send(&world, &flow, opener.reverse(), data);
                assert_eq!(other.passes(), !other_isolated, "{flow:?}");
                assert!(!other.cacheable);
            }
        }
    }
}

/// The trap, TCP: a server's next segment, allowed in its own direction, must not
/// keep the connection or make a new one of it with the server as opener.
#[test]
fn revoked_tcp_does_not_revive_in_reverse() {
    for (flow, opener, _) in cases(TCP) {
        let world = connected(TCP, &flow, opener, false);
        enforce(&world, opener, &[], false);
        let before = world.record(&flow);
        for _ in 0..3 {
            world.wait(2 * SECOND);
            for kind in [Kind::TcpData, Kind::TcpFin, Kind::TcpReset] {
                assert!(!send(&world, &flow, opener.reverse(), kind).passes());
            }
            assert!(!send(&world, &flow, opener, Kind::TcpData).passes());
        }
        assert_eq!(world.record(&flow), before, "neither refreshed nor turned");
    }
}

/// The same without the record: the answerer's segments are judged by policy
/// alone, and give the opener nothing.
#[test]
fn revoked_tcp_whose_record_is_lost_does_not_revive_in_reverse() {
    for (flow, opener, _) in cases(TCP) {
        let world = World::new();
        enforce(&world, opener, &[], false);
        for kind in [Kind::TcpData, Kind::TcpSynAck, Kind::TcpFin] {
            assert!(send(&world, &flow, opener.reverse(), kind).passes());
            assert!(!send(&world, &flow, opener, kind).passes(), "{kind:?}");
        }
        assert_eq!(world.record(&flow), None);
    }
}

/// The trap, UDP: the answerer's datagrams, allowed by themselves, neither keep
/// the record nor become its opener.
#[test]
fn revoked_udp_does_not_revive_in_reverse() {
    for (flow, opener, _) in cases(UDP) {
        let world = connected(UDP, &flow, opener, false);
        enforce(&world, opener, &[], false);
        let before = world.record(&flow);
        let start = world.now_ns();
        while world.now_ns() + 50 * SECOND <= start + UDP_NS {
            world.wait(50 * SECOND);
            let reverse = send(&world, &flow, opener.reverse(), Kind::Datagram);
            assert!(reverse.passes() && !reverse.cacheable);
            assert!(!send(&world, &flow, opener, Kind::Datagram).passes());
            assert_eq!(world.record(&flow), before, "neither refreshed nor turned");
        }
        world.wait(SECOND);
        assert_eq!(world.record(&flow), None, "so that it ends");
    }
}

#[test]
fn revoked_connection_takes_no_new_one_on_its_ports_for_its_own() {
    for (flow, opener, _) in cases(TCP) {
        let world = connected(TCP, &flow, opener, false);
        enforce(&world, opener, &[], false);
        let before = world.record(&flow);
        // A SYN the other way, allowed by itself, does not turn the record.
        assert!(send(&world, &flow, opener.reverse(), Kind::TcpSyn).passes());
        assert!(!send(&world, &flow, opener, Kind::TcpSynAck).passes());
        assert!(!send(&world, &flow, opener, Kind::TcpData).passes());
        assert_eq!(world.record(&flow), before);
    }
}

#[test]
fn syn_on_an_open_connection_is_judged_again() {
    for (flow, opener, other_isolated) in cases(TCP) {
        let world = connected(TCP, &flow, opener, other_isolated);
        assert!(send(&world, &flow, opener, Kind::TcpSyn).passes());
        enforce(&world, opener, &[], other_isolated);
        assert!(!send(&world, &flow, opener, Kind::TcpSyn).passes());
    }
}

#[test]
fn other_directions_policy_does_not_touch_a_connection() {
    let out = flow(TCP, SERVER, 53, 4_000);
    let inward = flow(TCP, CLIENT, 4_000, 80);
    let world = World::with(Some(&[IN]), Some(&[OUT]));
    world.connect(&out, Egress);
    world.connect(&inward, Ingress);
    world.enforce(Some(&[]), Some(&[OUT]));
    for direction in [Egress, Ingress] {
        assert!(send(&world, &out, direction, Kind::TcpData).passes());
        assert!(!send(&world, &inward, direction, Kind::TcpData).passes());
    }
    world.enforce(Some(&[IN]), Some(&[]));
    for direction in [Egress, Ingress] {
        assert!(!send(&world, &out, direction, Kind::TcpData).passes());
        assert!(send(&world, &inward, direction, Kind::TcpData).passes());
    }
}

#[test]
fn connections_that_are_older_than_isolation_go_on_where_policy_allows_them() {
    for protocol in [TCP, UDP, SCTP] {
        let out = flow(protocol, SERVER, 53, 4_000);
        let inward = flow(protocol, CLIENT, 4_000, 80);
        let data = script(protocol)[2];
        let world = World::new();
        world.connect(&out, Egress);
        world.connect(&inward, Ingress);
        world.enforce(Some(&[]), Some(&[(SERVER, protocol, 53)]));
        assert!(world.peer_sends(&out, data).passes());
        assert!(world.pod_sends(&out, data).passes());
        assert!(!world.peer_sends(&inward, data).passes());
        assert!(!world.pod_sends(&inward, data).passes());
    }
}

#[test]
fn policy_that_goes_away_leaves_connections_alone() {
    for protocol in [TCP, UDP, SCTP] {
        for (flow, opener, other_isolated) in cases(protocol) {
            let world = connected(protocol, &flow, opener, other_isolated);
            let data = script(protocol)[2];
            world.enforce(None, None);
            for direction in [opener, opener.reverse()] {
                assert!(send(&world, &flow, direction, data).passes());
            }
            // And back, by which time the record is where it was.
            let allowed = [allowance(protocol, opener)];
            enforce(&world, opener, &allowed, other_isolated);
            for direction in [opener.reverse(), opener] {
                assert!(send(&world, &flow, direction, data).passes());
            }
        }
    }
}

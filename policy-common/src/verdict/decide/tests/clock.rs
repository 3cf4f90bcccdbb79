//! A clock that jumps: what is in force does not follow it. Ahead, records end
//! early and everything is judged anew; back, they stay and nothing is widened.

use super::world::*;
use crate::abi::Direction::{Egress, Ingress};
use crate::abi::protocol::{SCTP, TCP, UDP};
use crate::packet::Kind;

const YEARS: u64 = 100_000_000 * SECOND;

/// Isolated in both directions, and allowed to open this.
fn opened(protocol: u8) -> (World, Flow) {
    let world = World::with(Some(&[]), Some(&[(SERVER, protocol, 53)]));
    (world, flow(protocol, SERVER, 53, 4_000))
}

/// What the opener of a connection that is open sends, and what comes back.
fn going_on(protocol: u8) -> (Kind, Kind) {
    let [_, answers, next] = script(protocol);
    (next, if protocol == TCP { next } else { answers })
}

/// What policy denies is denied, whatever the time: a stranger's opener, and the
/// server's own.
fn ensure_closed(world: &World, protocol: u8) {
    let [opens, ..] = script(protocol);
    for peer in [CLIENT, SERVER] {
        let inward = flow(protocol, peer, 6_000, 80);
        assert!(!world.peer_sends(&inward, opens).passes(), "{protocol}");
    }
    let elsewhere = flow(protocol, CLIENT, 53, 4_001);
    assert!(!world.pod_sends(&elsewhere, opens).passes(), "{protocol}");
}

#[test]
fn ahead_what_policy_allows_goes_on_and_the_rest_is_closed() {
    for protocol in [TCP, UDP, SCTP] {
        let (world, flow) = opened(protocol);
        let (next, answers) = going_on(protocol);
        world.connect(&flow, Egress);
        world.wait(YEARS);
        ensure_closed(&world, protocol);
        assert!(!world.peer_sends(&flow, answers).passes(), "nobody asked");
        // The opener's next packet is allowed by itself, and a new connection is
        // as good as ever.
        assert!(world.pod_sends(&flow, next).passes(), "{protocol}");
        world.connect(&flow, Egress);
        assert!(world.peer_sends(&flow, answers).passes(), "{protocol}");
        ensure_closed(&world, protocol);
    }
}

#[test]
fn back_what_is_open_stays_open_and_the_rest_is_closed() {
    for protocol in [TCP, UDP, SCTP] {
        let (world, flow) = opened(protocol);
        let (next, answers) = going_on(protocol);
        world.wait(YEARS);
        world.connect(&flow, Egress);
        world.turn_back(YEARS);
        for _ in 0..3 {
            assert!(world.peer_sends(&flow, answers).passes(), "{protocol}");
            assert!(world.pod_sends(&flow, next).passes(), "{protocol}");
            ensure_closed(&world, protocol);
            world.wait(SECOND);
        }
    }
}

#[test]
fn revoked_stays_cut_whichever_way_the_clock_goes() {
    let jumps: [fn(&World); 3] = [
        |_| (),
        |world| world.wait(YEARS),
        |world| {
            world.turn_back(YEARS);
        },
    ];
    for protocol in [TCP, UDP, SCTP] {
        for jump in jumps {
            let (world, flow) = opened(protocol);
            let (next, answers) = going_on(protocol);
            world.wait(YEARS);
            world.connect(&flow, Egress);
            world.enforce(Some(&[]), Some(&[]));
            jump(&world);
            for _ in 0..3 {
                assert!(!world.pod_sends(&flow, next).passes(), "{protocol}");
                assert!(!world.peer_sends(&flow, answers).passes(), "{protocol}");
                world.wait(SECOND);
            }
            world.enforce(Some(&[]), Some(&[(SERVER, protocol, 53)]));
            world.connect(&flow, Egress);
            assert!(world.peer_sends(&flow, answers).passes(), "{protocol}");
        }
    }
    // A connection to the pod, and the other direction isolated.
    let world = World::with(Some(&[(CLIENT, TCP, 80)]), Some(&[]));
    let flow = flow(TCP, CLIENT, 4_000, 80);
    world.wait(YEARS);
    world.connect(&flow, Ingress);
    world.turn_back(YEARS);
    let (next, answers) = going_on(TCP);
    assert!(world.peer_sends(&flow, next).passes());
    assert!(world.pod_sends(&flow, answers).passes());
    world.enforce(Some(&[]), Some(&[]));
    assert!(!world.peer_sends(&flow, next).passes());
    assert!(!world.pod_sends(&flow, answers).passes());
}

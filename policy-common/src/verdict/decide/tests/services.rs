//! What is left open for those who see the real destination, and what is not.
//!
//! The Service is an address that no peer of a policy matches.

use super::world::*;
use crate::abi::Direction::{Egress, Ingress};
use crate::abi::conntrack::CT_UNDECIDED;
use crate::abi::event::DropReason;
use crate::abi::protocol::{ICMP, TCP, UDP};
use crate::packet::Kind;
use crate::verdict::established::Middle;
use crate::verdict::judge::Judgement;
use crate::verdict::service::Service;

const ALLOWED: Service = Service::found(Judgement::ALLOW);
const DENIED: Service = Service::found(Judgement {
    denied: Some(DropReason::Policy),
    rule: 41,
    log: false,
});

fn vip(protocol: u8) -> Flow {
    flow(protocol, STRANGER, 53, 4_000)
}

/// Isolated both ways, and allowed to the server only.
fn isolated() -> World {
    World::with(
        Some(&[]),
        Some(&[(SERVER, TCP, 53), (SERVER, UDP, 53), (NODE, TCP, ANY)]),
    )
}

#[test]
fn service_with_an_allowed_backend_passes_undecided_and_leaves_a_record() {
    for (protocol, opens) in [(TCP, Kind::TcpSyn), (UDP, Kind::Datagram)] {
        let world = isolated();
        let verdict = world.send_service(&vip(protocol), Egress, opens, ALLOWED);
        assert!(verdict.passes() && verdict.undecided, "{verdict:?}");
        let (_, record) = world.record(&vip(protocol)).expect("a record");
        assert_ne!(record.flags & CT_UNDECIDED, 0);
    }
}

#[test]
fn service_without_an_allowed_backend_is_dropped_with_the_policys_answer() {
    for (protocol, opens) in [(TCP, Kind::TcpSyn), (UDP, Kind::Datagram)] {
        let world = isolated();
        let verdict = world.send_service(&vip(protocol), Egress, opens, DENIED);
        assert_denied(verdict, 41);
        assert!(!verdict.undecided);
        assert_eq!(world.record(&vip(protocol)), None);
    }
}

#[test]
fn ordinary_destinations_are_decided() {
    let world = isolated();
    let allowed = world.pod_sends(&flow(TCP, SERVER, 53, 4_000), Kind::TcpSyn);
    assert!(allowed.passes() && !allowed.undecided);
    let denied = world.pod_sends(&vip(TCP), Kind::TcpSyn);
    assert_denied(denied, EGRESS_DEFAULT);
}

#[test]
fn what_goes_to_the_node_is_undecided_if_policy_allows_the_node() {
    let world = isolated();
    let to_node = flow(TCP, NODE, 30_080, 4_000);
    let verdict = world.pod_sends(&to_node, Kind::TcpSyn);
    assert!(verdict.passes() && verdict.undecided);
    world.enforce(None, Some(&[]));
    assert_denied(world.pod_sends(&to_node, Kind::TcpSyn), EGRESS_DEFAULT);
    assert_denied(world.pod_sends(&to_node, Kind::TcpData), EGRESS_DEFAULT);
}

#[test]
fn reply_to_the_node_is_decided_since_it_goes_back_where_it_came_from() {
    let from_node = flow(TCP, NODE, 4_000, 80);
    let world = World::with(Some(&[(NODE, TCP, 80)]), Some(&[(NODE, TCP, ANY)]));
    assert!(world.peer_sends(&from_node, Kind::TcpSyn).passes());
    let reply = world.pod_sends(&from_node, Kind::TcpSynAck);
    assert!(reply.passes() && !reply.undecided, "{reply:?}");
    assert!(world.peer_sends(&from_node, Kind::TcpData).passes());
    let data = world.pod_sends(&from_node, Kind::TcpData);
    assert!(data.passes() && !data.undecided, "{data:?}");
    // Its own connection on the same ports is none.
    let own = world.pod_sends(&from_node, Kind::TcpSyn);
    assert!(own.passes() && own.undecided, "{own:?}");
}

#[test]
fn nothing_is_undecided_for_a_pod_whose_egress_nothing_isolates() {
    let world = World::with(Some(&[]), None);
    for peer in [STRANGER, NODE, SERVER] {
        let verdict = world.pod_sends(&flow(UDP, peer, 53, 4_000), Kind::Datagram);
        assert!(verdict.passes() && !verdict.undecided);
    }
}

#[test]
fn packets_of_a_connection_stay_undecided_without_asking_what_is_behind_the_service() {
    let world = isolated();
    let vip = vip(TCP);
    assert!(
        world
            .send_service(&vip, Egress, Kind::TcpSyn, ALLOWED)
            .passes()
    );
    // As `from_pod` and `to_pod` ask about what is midstream.
    let reply = world.send_service(&vip, Ingress, Kind::TcpSynAck, Service::UNKNOWN);
    assert!(reply.passes() && !reply.ask_service && !reply.undecided);
    for _ in 0..2 {
        let data = world.send_service(&vip, Egress, Kind::TcpData, Service::UNKNOWN);
        assert!(data.passes() && data.undecided && !data.ask_service);
        assert!(data.cacheable, "with its state");
    }
    // The Service is gone, and the connection is not.
    let data = world.send_service(&vip, Egress, Kind::TcpData, Service::NONE);
    assert!(data.passes() && data.undecided);
}

#[test]
fn old_generation_asks_what_the_service_is_in_both_directions() {
    let world = isolated();
    let vip = vip(TCP);
    assert!(
        world
            .send_service(&vip, Egress, Kind::TcpSyn, ALLOWED)
            .passes()
    );
    world.next_generation();
    for (direction, kind) in [(Ingress, Kind::TcpData), (Egress, Kind::TcpData)] {
        let asked = world.send_service(&vip, direction, kind, Service::UNKNOWN);
        assert!(asked.ask_service && !asked.passes(), "{direction:?}");
    }
    assert_eq!(world.revoked(), 0, "nothing was written");
    let reply = world.send_service(&vip, Ingress, Kind::TcpData, ALLOWED);
    assert!(reply.passes());
    let (_, record) = world.record(&vip).expect("a record");
    assert_eq!(record.generation, world.generation());
    let data = world.send_service(&vip, Egress, Kind::TcpData, Service::UNKNOWN);
    assert!(data.passes() && data.undecided && !data.ask_service);
}

#[test]
fn connection_without_an_allowed_backend_is_left_to_the_far_side_and_gets_no_replies() {
    let world = isolated();
    let vip = vip(TCP);
    assert!(
        world
            .send_service(&vip, Egress, Kind::TcpSyn, ALLOWED)
            .passes()
    );
    let generation = world.generation();
    world.next_generation();
    let data = world.send_service(&vip, Egress, Kind::TcpData, DENIED);
    assert!(data.passes() && data.undecided && !data.cacheable);
    let reply = world.send_service(&vip, Ingress, Kind::TcpData, DENIED);
    assert_denied(reply, 41);
    let (_, record) = world.record(&vip).expect("a record");
    assert_eq!(record.generation, generation, "nothing refreshes it");
    assert_denied(world.send_service(&vip, Egress, Kind::TcpSyn, DENIED), 41);
}

#[test]
fn connection_to_the_node_is_cut_at_the_source_since_it_leaves_nowhere() {
    let world = isolated();
    let to_node = flow(TCP, NODE, 80, 4_000);
    world.connect(&to_node, Egress);
    world.enforce(Some(&[]), Some(&[]));
    assert_denied(world.pod_sends(&to_node, Kind::TcpData), EGRESS_DEFAULT);
    assert_denied(world.peer_sends(&to_node, Kind::TcpData), EGRESS_DEFAULT);
}

/// A connection through the Service, and then policies for what the pod sends.
fn isolated_afterwards() -> (World, Flow) {
    let world = World::new();
    let vip = vip(TCP);
    world.connect(&vip, Egress);
    world.enforce(None, Some(&[(SERVER, TCP, 53)]));
    (world, vip)
}

#[test]
fn connection_from_before_the_isolation_is_left_open_once_it_is_isolated() {
    let (world, vip) = isolated_afterwards();
    let asked = world.send_service(&vip, Egress, Kind::TcpData, Service::UNKNOWN);
    assert!(asked.ask_service);
    let data = world.send_service(&vip, Egress, Kind::TcpData, ALLOWED);
    assert!(data.passes() && data.undecided);
    let (_, record) = world.record(&vip).expect("a record");
    assert_ne!(record.flags & CT_UNDECIDED, 0);
}

#[test]
fn it_is_left_open_also_where_an_answer_comes_before_the_pods_next_packet() {
    let (world, vip) = isolated_afterwards();
    let asked = world.send_service(&vip, Ingress, Kind::TcpData, Service::UNKNOWN);
    assert!(asked.ask_service);
    let answer = world.send_service(&vip, Ingress, Kind::TcpData, ALLOWED);
    assert!(answer.passes() && !answer.undecided);
    for service in [Service::UNKNOWN, ALLOWED] {
        let data = world.send_service(&vip, Egress, Kind::TcpData, service);
        assert!(data.passes() && data.undecided, "{service:?}");
    }
    let middle = [Ingress, Egress].map(|way| world.middle(&vip, way, Kind::TcpData));
    assert_eq!(middle, [Middle::Passes, Middle::Ask]);
}

#[test]
fn echo_and_errors_go_by_address() {
    let world = World::with(None, Some(&[(SERVER, ICMP, 0)]));
    let allowed = world.pod_sends(&flow(ICMP, SERVER, 9, 0), Kind::EchoRequest);
    assert!(allowed.passes() && !allowed.undecided);
    assert_denied(
        world.pod_sends(&flow(ICMP, STRANGER, 9, 0), Kind::EchoRequest),
        EGRESS_DEFAULT,
    );
}

#[test]
fn emergency_switch_decides_everything() {
    let world = isolated();
    world.switch_off(true);
    let verdict = world.send_service(&vip(TCP), Egress, Kind::TcpSyn, DENIED);
    assert!(verdict.passes() && !verdict.undecided);
}

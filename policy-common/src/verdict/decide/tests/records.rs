//! Where records are, when they end, and what may be cached.

use super::world::*;
use crate::abi::Direction::{self, Egress, Ingress};
use crate::abi::conntrack::{
    CT_CONFIRMED, CT_FIN_OPENER, CT_FIN_REPLIER, CT_OPENED_BY_POD, CT_REPLIED, CT_RESET,
};
use crate::abi::protocol::{ICMP, SCTP, TCP, UDP};
use crate::abi::stats::{CT_FULL, CT_OVER_BUDGET};
use crate::conntrack::{
    ICMP_NS, RESET_NS, SCTP_NS, TCP_CLOSED_NS, TCP_ESTABLISHED_NS, TCP_HALF_CLOSED_NS, UDP_NS,
    UNCONFIRMED_NS,
};
use crate::packet::Kind;
use crate::verdict::decide::Table;

const OUT: Flow = flow(TCP, SERVER, 53, 4_000);

/// Which way each goes, and what it is.
type Packets<'a> = &'a [(Direction, Kind)];

/// The pod may open anything to the server, and nobody anything to it.
fn outward(protocol: u8) -> World {
    World::with(Some(&[]), Some(&[(SERVER, protocol, ANY)]))
}

fn out(protocol: u8) -> Flow {
    if protocol == ICMP {
        flow(ICMP, SERVER, 9, 0)
    } else {
        flow(protocol, SERVER, 53, 4_000)
    }
}

fn place(world: &World, flow: &Flow) -> Option<Table> {
    world.record(flow).map(|(table, _)| table)
}

fn flags(world: &World, flow: &Flow) -> u32 {
    world.record(flow).map_or(0, |(_, entry)| entry.flags)
}

#[test]
fn record_moves_to_the_main_table_once_when_the_opener_answers_the_reply() {
    for protocol in [TCP, UDP, SCTP] {
        let flow = out(protocol);
        let world = outward(protocol);
        let [opens, answers, next] = script(protocol);
        for _ in 0..3 {
            assert!(world.pod_sends(&flow, opens).passes());
            assert_eq!(place(&world, &flow), Some(Table::Pending));
        }
        for _ in 0..3 {
            assert!(world.peer_sends(&flow, answers).passes());
            assert_eq!(place(&world, &flow), Some(Table::Pending));
        }
        assert_eq!(world.created(), 0);
        for _ in 0..3 {
            world.wait(2 * SECOND);
            assert!(world.pod_sends(&flow, next).passes());
            assert!(world.peer_sends(&flow, answers).passes());
            assert_eq!(place(&world, &flow), Some(Table::Main));
        }
        assert_eq!(world.created(), 1);
        assert_eq!(world.records_in(Table::Pending), 0);
    }
}

#[test]
fn exchange_of_echoes_stays_pending() {
    let flow = out(ICMP);
    let world = outward(ICMP);
    for _ in 0..4 {
        assert!(world.pod_sends(&flow, Kind::EchoRequest).passes());
        assert!(world.peer_sends(&flow, Kind::EchoReply).passes());
    }
    assert_eq!(place(&world, &flow), Some(Table::Pending));
    assert_eq!(world.created(), 0);
}

#[test]
fn flood_of_half_open_connections_never_reaches_the_main_table() {
    let world = World::with(Some(&[(STRANGER, TCP, 80)]), Some(&[]));
    for port in 1..200 {
        let flow = flow(TCP, STRANGER, port, 80);
        assert!(world.peer_sends(&flow, Kind::TcpSyn).passes());
        assert!(world.pod_sends(&flow, Kind::TcpSynAck).passes());
        assert!(world.peer_sends(&flow, Kind::TcpSyn).passes(), "sent again");
    }
    assert_eq!(world.records_in(Table::Main), 0);
    assert_eq!(world.records_in(Table::Pending), 199);
}

#[test]
fn record_of_a_pod_that_nothing_isolates_is_apart_until_it_is_confirmed() {
    for protocol in [TCP, UDP, SCTP] {
        let flow = out(protocol);
        let world = World::new();
        let [opens, answers, _] = script(protocol);
        assert!(world.pod_sends(&flow, opens).passes());
        assert!(world.peer_sends(&flow, answers).passes());
        assert_eq!(place(&world, &flow), Some(Table::Open));
        world.connect(&flow, Egress);
        assert_eq!(place(&world, &flow), Some(Table::Main));
        world.enforce(Some(&[]), Some(&[(SERVER, protocol, ANY)]));
        let data = script(protocol)[1];
        assert!(world.peer_sends(&flow, data).passes());
        world.enforce(None, None);
        assert!(world.peer_sends(&flow, data).passes());
        assert_eq!(place(&world, &flow), Some(Table::Main), "and stays");
        assert_eq!((world.created(), world.records_in(Table::Open)), (1, 0));
    }
}

#[test]
fn record_beyond_the_part_for_open_pods_moves_when_something_isolates_it() {
    let world = World::new();
    world.open_budget.set(0);
    world.connect(&OUT, Egress);
    assert_eq!(place(&world, &OUT), Some(Table::Open));
    assert!(world.counter(CT_OVER_BUDGET) > 0);
    world.enforce(Some(&[]), Some(&[(SERVER, UDP, ANY), (SERVER, TCP, ANY)]));
    assert!(world.peer_sends(&OUT, Kind::TcpData).passes());
    assert_eq!(place(&world, &OUT), Some(Table::Main), "moved");
    assert_eq!((world.created(), world.records_in(Table::Open)), (1, 0));
}

#[test]
fn forbidden_record_of_a_pod_that_becomes_isolated_is_not_moved() {
    let world = World::new();
    world.open_budget.set(0);
    world.connect(&OUT, Egress);
    world.enforce(None, Some(&[]));
    assert!(!world.peer_sends(&OUT, Kind::TcpData).passes());
    assert!(!world.pod_sends(&OUT, Kind::TcpData).passes());
    assert_eq!(place(&world, &OUT), Some(Table::Open));
    assert_eq!(world.created(), 0);
}

#[test]
fn exhausted_budget_leaves_the_record_pending_and_working() {
    let world = outward(TCP);
    world.budget.set(0);
    world.connect(&OUT, Egress);
    assert_eq!(place(&world, &OUT), Some(Table::Pending));
    assert_eq!((world.created(), world.counter(CT_OVER_BUDGET)), (0, 1));
    assert!(world.peer_sends(&OUT, Kind::TcpData).passes());
    assert_eq!(flags(&world, &OUT) & CT_CONFIRMED, CT_CONFIRMED);
    world.wait(2 * SECOND);
    assert!(world.peer_sends(&OUT, Kind::TcpData).passes());
    assert_eq!(world.counter(CT_OVER_BUDGET), 2, "tried once a second");
    world.budget.set(1);
    world.wait(2 * SECOND);
    assert!(world.peer_sends(&OUT, Kind::TcpData).passes());
    assert_eq!(place(&world, &OUT), Some(Table::Main));
    assert_eq!(world.created(), 1);
    // The next connection has none left.
    let second = Flow {
        local_port: 4_001,
        ..OUT
    };
    world.connect(&second, Egress);
    assert_eq!(place(&world, &second), Some(Table::Pending));
}

#[test]
fn full_table_leaves_the_record_pending_and_counts() {
    let world = outward(TCP);
    world.room.set(0);
    world.connect(&OUT, Egress);
    assert_eq!(place(&world, &OUT), Some(Table::Pending));
    assert_eq!((world.created(), world.counter(CT_FULL)), (0, 1));
    assert!(world.peer_sends(&OUT, Kind::TcpData).passes());
}

#[test]
fn records_end_with_their_time_and_not_before() {
    use Direction::{Egress as Out, Ingress as In};
    let opened: Packets<'_> = &[(Out, Kind::TcpSyn)];
    let replied = [(Out, Kind::TcpSyn), (In, Kind::TcpSynAck)];
    let tcp = [&replied[..], &[(Out, Kind::TcpData)]].concat();
    let with = |more: Packets<'_>| [&tcp[..], more].concat();
    let datagrams = [
        (Out, Kind::Datagram),
        (In, Kind::Datagram),
        (Out, Kind::Datagram),
    ];
    let sctp = [
        (Out, Kind::SctpInit),
        (In, Kind::SctpData),
        (Out, Kind::SctpData),
    ];
    let sctp_end = [&sctp[..], &[(In, Kind::SctpEnd)]].concat();
    let fins = [(Out, Kind::TcpFin), (In, Kind::TcpFin)];
    let echo = [(Out, Kind::EchoRequest)];
    let cases: [(u8, Packets<'_>, u64); 12] = [
        (TCP, opened, UNCONFIRMED_NS),
        (TCP, &replied, UNCONFIRMED_NS),
        (TCP, &tcp, TCP_ESTABLISHED_NS),
        (TCP, &with(&fins[..1]), TCP_HALF_CLOSED_NS),
        (TCP, &with(&fins), TCP_CLOSED_NS),
        (TCP, &with(&[(In, Kind::TcpReset)]), RESET_NS),
        (UDP, &datagrams[..1], UNCONFIRMED_NS),
        (UDP, &datagrams, UDP_NS),
        (SCTP, &sctp, SCTP_NS),
        (SCTP, &sctp_end, RESET_NS),
        (ICMP, &echo, ICMP_NS),
        (50, &datagrams[..1], UNCONFIRMED_NS),
    ];
    for (protocol, packets, timeout) in cases {
        let flow = out(protocol);
        for late in [0, 1] {
            let world = outward(protocol);
            for (direction, kind) in packets {
                let verdict = world.send(&flow, *direction, *kind, false, false);
                assert!(verdict.passes(), "{protocol} {packets:?}");
            }
            world.wait(timeout + late);
            let reply = script(protocol)[1];
            let passes = world.peer_sends(&flow, reply).passes();
            assert_eq!(passes, late == 0, "{protocol} {packets:?} after {timeout}");
        }
    }
}

#[test]
fn packets_of_either_side_keep_a_record() {
    for protocol in [TCP, UDP, SCTP] {
        for keeper in [Egress, Ingress] {
            let flow = out(protocol);
            let world = outward(protocol);
            world.connect(&flow, Egress);
            for _ in 0..20 {
                world.wait(200 * SECOND);
                let kind = script(protocol)[2];
                let verdict = world.send(&flow, keeper, kind, false, false);
                assert!(verdict.passes(), "{protocol} {keeper:?}");
            }
        }
    }
}

#[test]
fn record_is_written_once_a_second_at_most() {
    let world = outward(UDP);
    let flow = out(UDP);
    world.connect(&flow, Egress);
    let start = world.now_ns();
    for _ in 0..9 {
        world.wait(SECOND / 10);
        assert!(world.peer_sends(&flow, Kind::Datagram).passes());
        let (_, entry) = world.record(&flow).expect("it lives");
        assert_eq!(entry.last_seen_ns, start);
    }
    world.wait(SECOND / 10);
    assert!(world.peer_sends(&flow, Kind::Datagram).passes());
    let (_, entry) = world.record(&flow).expect("it lives");
    assert_eq!(entry.last_seen_ns, start + SECOND);
    assert_eq!(entry.generation, world.generation());
}

#[test]
fn expired_record_in_the_main_table_gives_way_to_a_new_one() {
    let world = outward(UDP);
    let flow = out(UDP);
    world.connect(&flow, Egress);
    world.wait(UDP_NS + 1);
    assert!(!world.peer_sends(&flow, Kind::Datagram).passes());
    world.connect(&flow, Egress);
    assert!(world.peer_sends(&flow, Kind::Datagram).passes());
    assert_eq!(place(&world, &flow), Some(Table::Main));
    assert_eq!(world.records_in(Table::Main), 1);
    assert_eq!(world.records_in(Table::Pending), 0);
}

#[test]
fn ports_are_used_again_after_the_end_from_the_same_side() {
    let ends: [&[(Direction, Kind)]; 3] = [
        &[(Egress, Kind::TcpFin), (Ingress, Kind::TcpFin)],
        &[(Ingress, Kind::TcpReset)],
        &[(Egress, Kind::TcpReset)],
    ];
    for end in ends {
        let world = outward(TCP);
        world.connect(&OUT, Egress);
        for (direction, kind) in end {
            assert!(world.send(&OUT, *direction, *kind, false, false).passes());
        }
        assert!(world.pod_sends(&OUT, Kind::TcpSyn).passes());
        assert_eq!(flags(&world, &OUT), CT_OPENED_BY_POD, "as if new");
        assert!(world.peer_sends(&OUT, Kind::TcpSynAck).passes());
        assert!(world.pod_sends(&OUT, Kind::TcpData).passes());
        assert_eq!(
            flags(&world, &OUT),
            CT_OPENED_BY_POD | CT_REPLIED | CT_CONFIRMED
        );
        assert_eq!(
            (place(&world, &OUT), world.created()),
            (Some(Table::Main), 1)
        );
    }
}

#[test]
fn ports_are_used_again_after_the_end_from_the_other_side() {
    let world = World::with(Some(&[(SERVER, TCP, 4_000)]), Some(&[(SERVER, TCP, 53)]));
    world.connect(&OUT, Egress);
    assert!(world.pod_sends(&OUT, Kind::TcpFin).passes());
    assert!(world.peer_sends(&OUT, Kind::TcpFin).passes());
    world.connect(&OUT, Ingress);
    assert_eq!(flags(&world, &OUT), CT_REPLIED | CT_CONFIRMED);
    // It is now judged in the other direction.
    world.enforce(Some(&[(SERVER, TCP, 4_000)]), Some(&[]));
    assert!(world.pod_sends(&OUT, Kind::TcpData).passes());
    world.enforce(Some(&[]), Some(&[(SERVER, TCP, 53)]));
    assert!(!world.pod_sends(&OUT, Kind::TcpData).passes());
}

#[test]
fn syn_from_the_other_side_does_not_turn_an_open_connection() {
    let world = World::with(Some(&[(SERVER, TCP, 4_000)]), Some(&[(SERVER, TCP, 53)]));
    world.connect(&OUT, Egress);
    let before = world.record(&OUT);
    world.wait(2 * SECOND);
    assert!(
        world.peer_sends(&OUT, Kind::TcpSyn).passes(),
        "allowed by itself"
    );
    assert_eq!(world.record(&OUT), before);
}

#[test]
fn forged_reset_does_not_end_a_connection_that_goes_on() {
    let world = outward(TCP);
    world.connect(&OUT, Egress);
    assert!(world.peer_sends(&OUT, Kind::TcpReset).passes());
    assert_ne!(flags(&world, &OUT) & CT_RESET, 0);
    world.wait(RESET_NS - SECOND);
    assert!(world.pod_sends(&OUT, Kind::TcpData).passes());
    assert_eq!(flags(&world, &OUT) & CT_RESET, 0);
    world.wait(TCP_HALF_CLOSED_NS * 2);
    assert!(world.peer_sends(&OUT, Kind::TcpData).passes());
}

#[test]
fn one_fin_leaves_the_other_side_talking() {
    let world = outward(TCP);
    world.connect(&OUT, Egress);
    assert!(world.pod_sends(&OUT, Kind::TcpFin).passes());
    for _ in 0..5 {
        world.wait(TCP_CLOSED_NS * 2);
        assert!(world.peer_sends(&OUT, Kind::TcpData).passes());
    }
    assert_eq!(flags(&world, &OUT) & CT_FIN_OPENER, CT_FIN_OPENER);
    assert!(world.peer_sends(&OUT, Kind::TcpFin).passes());
    assert!(
        world.pod_sends(&OUT, Kind::TcpData).passes(),
        "the last ACK"
    );
    assert_eq!(flags(&world, &OUT) & CT_FIN_REPLIER, CT_FIN_REPLIER);
}

#[test]
fn what_changes_state_is_never_cacheable() {
    let kinds = [
        (TCP, Kind::TcpSyn),
        (TCP, Kind::TcpSynAck),
        (TCP, Kind::TcpFin),
        (TCP, Kind::TcpReset),
        (SCTP, Kind::SctpInit),
        (SCTP, Kind::SctpEnd),
        (ICMP, Kind::EchoRequest),
        (ICMP, Kind::EchoReply),
        (ICMP, Kind::IcmpError),
        (ICMP, Kind::OtherIcmp),
        (UDP, Kind::Fragment),
    ];
    for isolated in [false, true] {
        for (protocol, kind) in kinds {
            let world = if isolated {
                outward(protocol)
            } else {
                World::new()
            };
            let flow = out(protocol);
            world.connect(&flow, Egress);
            for direction in [Egress, Ingress, Egress, Ingress] {
                let verdict = world.send(&flow, direction, kind, false, false);
                assert!(!verdict.cacheable, "{kind:?} {direction:?}");
            }
        }
    }
}

#[test]
fn confirmed_connection_is_cacheable_both_ways_and_not_before() {
    for protocol in [TCP, UDP, SCTP] {
        let flow = out(protocol);
        let world = outward(protocol);
        let [opens, answers, next] = script(protocol);
        let data = if protocol == TCP { Kind::TcpData } else { next };
        assert!(!world.pod_sends(&flow, opens).cacheable);
        assert!(!world.peer_sends(&flow, answers).cacheable);
        assert!(
            !world.peer_sends(&flow, data).cacheable,
            "a reply to nothing sure"
        );
        assert!(world.pod_sends(&flow, data).cacheable);
        assert!(world.peer_sends(&flow, data).cacheable);
    }
}

#[test]
fn one_way_datagrams_are_cacheable_from_the_second_on() {
    for protocol in [UDP, 50] {
        let flow = out(protocol);
        let world = outward(protocol);
        assert!(!world.pod_sends(&flow, Kind::Datagram).cacheable);
        assert!(world.pod_sends(&flow, Kind::Datagram).cacheable);
    }
}

#[test]
fn midstream_segment_that_policy_allows_is_cacheable_without_a_record() {
    let world = outward(TCP);
    assert!(world.pod_sends(&OUT, Kind::TcpData).cacheable);
    assert!(!world.peer_sends(&OUT, Kind::TcpData).cacheable, "denied");
}

#[test]
fn nothing_is_cacheable_while_a_connection_is_revoked() {
    for protocol in [TCP, UDP, SCTP] {
        let flow = out(protocol);
        let world = World::with(None, Some(&[(SERVER, protocol, ANY)]));
        world.connect(&flow, Egress);
        world.enforce(None, Some(&[]));
        let data = script(protocol)[2];
        for direction in [Ingress, Egress] {
            let verdict = world.send(&flow, direction, data, false, false);
            assert!(!verdict.cacheable, "{protocol} {direction:?}");
        }
    }
}

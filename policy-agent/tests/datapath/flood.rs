//! Floods, through the loaded programs: connections that are half open without
//! end, and a pod that opens whole ones without end. What lives must go on
//! living, what is denied must stay denied, and tables must stay within bounds.

use std::net::Ipv4Addr;

use policy_agent::datapath::{Datapath, test_run::At};
use policy_common::abi::{
    endpoint::{Endpoint, FLAG_USED},
    maps,
};
use policy_core::ops::Op;

use crate::bed::{
    ACK, Bed, FRIEND, FRIEND_ID, NUMBER, POD, POLICY, SLOT, STRANGER, SYN, apply, connect, index,
    on_bed, passes, tcp, word,
};

/// Packets of a flood.
const MANY: u32 = 1_000_000;
/// The pod's connections to port 80 of the friend, by the pod's port: the answers
/// pass only because they are known.
const LIVE: std::ops::Range<u16> = 4_000..4_050;
/// What an endpoint may have, see `Bed::try_open`.
const BUDGET: usize = 1_000;
/// Packets of a flood while one handshake is under way: fewer than there is room for,
/// so that nothing has to give way. What happens beyond is `tides`'.
const MEANWHILE: u32 = 5_000;

/// A segment of the friend's on a connection of the pod's.
fn answer(port: u16) -> Vec<u8> {
    tcp((FRIEND, 80), (POD, port), ACK)
}

/// A pod with live connections.
fn with_live(bed: &Bed) -> Datapath {
    let datapath = bed.open();
    apply(&datapath, &bed.pod());
    for port in LIVE {
        connect(&datapath, bed, POD, port);
    }
    datapath
}

fn assert_live(datapath: &Datapath, bed: &Bed) {
    for port in LIVE {
        assert!(
            passes(datapath, &answer(port), bed.arriving()),
            "the connection of port {port} is known no more"
        );
    }
    assert!(
        !passes(datapath, &answer(LIVE.end), bed.arriving()),
        "one that was never opened"
    );
}

/// Elements in use of a map of connections.
fn used(datapath: &Datapath, name: &str) -> usize {
    let occupancy = datapath.maps().occupancy().unwrap();
    let map = occupancy.iter().find(|map| map.spec.name == name);
    map.and_then(|map| map.used).unwrap()
}

/// The sender of a flood's packet: a port, and every 60,000 packets another
/// address that has the friend's identity.
fn sender(number: u32) -> (Ipv4Addr, u16) {
    let port = u16::try_from(number % 60_000).unwrap() + 1_024;
    let host = u8::try_from(number / 60_000).unwrap();
    (Ipv4Addr::new(10, 9, 0, host), port)
}

/// The addresses of [`sender`], with the friend's identity.
fn friends() -> Vec<Op> {
    let addresses = 0..=MANY / 60_000;
    addresses
        .map(|number| Op::Host {
            address: sender(number * 60_000).0.into(),
            identity: FRIEND_ID,
            node: false,
            slot: 0,
        })
        .collect()
}

#[test]
fn a_million_half_open_connections_to_an_allowed_port_end_no_live_one() {
    on_bed(|bed| {
        let datapath = with_live(bed);
        apply(&datapath, &friends());
        for number in 0..MANY {
            let syn = tcp(sender(number), (POD, 80), SYN);
            let passed = passes(&datapath, &syn, bed.arriving());
            assert!(passed, "policy allows it: packet {number}");
            if number % (MANY / 10) == MANY / 20 {
                assert_live(&datapath, bed);
            }
        }
        assert_live(&datapath, bed);
        assert_eq!(used(&datapath, maps::CT), LIVE.len());
        assert!(used(&datapath, maps::CT_PENDING) <= maps::CT_PENDING_ENTRIES);
    });
}

#[test]
fn a_million_denied_packets_leave_no_trace_in_the_tables() {
    on_bed(|bed| {
        let datapath = with_live(bed);
        let before = [maps::CT, maps::CT_PENDING, maps::CT_OPEN].map(|map| used(&datapath, map));
        for number in 0..MANY {
            let port = u16::try_from(number % 60_000).unwrap() + 1_024;
            let syn = tcp((STRANGER, port), (POD, 80), SYN);
            let passed = passes(&datapath, &syn, bed.arriving());
            assert!(!passed, "policy denies it: packet {number}");
        }
        assert_live(&datapath, bed);
        let after = [maps::CT, maps::CT_PENDING, maps::CT_OPEN].map(|map| used(&datapath, map));
        assert_eq!(before, after);
    });
}

#[test]
fn a_handshake_succeeds_in_the_middle_of_a_flood() {
    on_bed(|bed| {
        let datapath = with_live(bed);
        apply(&datapath, &friends());
        let mut number = 0;
        let mut flood = || {
            for _ in 0..MEANWHILE {
                let syn = tcp(sender(number), (POD, 80), SYN);
                assert!(passes(&datapath, &syn, bed.arriving()));
                number += 1;
            }
        };
        for port in 5_000..5_020 {
            let (pod, friend) = ((POD, port), (FRIEND, 80));
            assert!(passes(&datapath, &tcp(pod, friend, SYN), bed.leaving()));
            flood();
            assert!(
                passes(&datapath, &tcp(friend, pod, SYN | ACK), bed.arriving()),
                "the answer to port {port} is known"
            );
            flood();
            assert!(passes(&datapath, &tcp(pod, friend, ACK), bed.leaving()));
            flood();
            assert!(passes(&datapath, &answer(port), bed.arriving()));
        }
        assert_live(&datapath, bed);
    });
}

#[test]
fn a_pod_that_opens_connections_without_end_takes_its_own_share_only() {
    on_bed(|bed| {
        let datapath = with_live(bed);
        // Another pod of the node, and its accomplice.
        let (greedy, accomplice) = (Ipv4Addr::new(10, 0, 0, 3), FRIEND);
        let peer = index("p0");
        let endpoint = Endpoint {
            word: word(2, POLICY).0,
            number: NUMBER + 1,
            flags: FLAG_USED,
            addr4: greedy.octets(),
            ifindex: peer,
            ..Endpoint::EMPTY
        };
        let slot = SLOT + 1;
        apply(
            &datapath,
            &[
                Op::Endpoint {
                    slot,
                    value: endpoint,
                },
                Op::Interface {
                    ifindex: peer,
                    slot,
                },
            ],
        );
        let leaving = At {
            ifindex: peer,
            ingress_ifindex: peer,
            ..bed.leaving()
        };
        let arriving = At {
            ifindex: peer,
            ingress_ifindex: bed.ifindex,
            ..bed.arriving()
        };
        for number in 0..MANY / 10 {
            let port = u16::try_from(number % 60_000).unwrap() + 1_024;
            let (from, to) = ((greedy, port), (accomplice, 80));
            assert!(passes(&datapath, &tcp(from, to, SYN), leaving));
            assert!(passes(&datapath, &tcp(to, from, SYN | ACK), arriving));
            assert!(passes(&datapath, &tcp(from, to, ACK), leaving));
        }
        assert_live(&datapath, bed);
        assert_eq!(used(&datapath, maps::CT), LIVE.len() + BUDGET);
        let books = datapath.maps().ct_count(slot).unwrap();
        assert_eq!(
            usize::try_from(books.created - books.removed).unwrap(),
            BUDGET
        );
        // And others go on opening.
        connect(&datapath, bed, POD, LIVE.end);
        assert!(passes(&datapath, &answer(LIVE.end), bed.arriving()));
    });
}

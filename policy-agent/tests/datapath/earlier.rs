//! Connections that are older than the programs, as the node's connection table
//! tells them: known from then on, and judged at their next packet.

use std::net::{Ipv4Addr, SocketAddr};

use policy_agent::{
    datapath::{Datapath, apply::monotonic_ns},
    flows::{Flow, Tuple},
};
use policy_common::abi::endpoint::Endpoint;

use crate::bed::{ACK, Bed, FRIEND, NUMBER, POD, SLOT, STRANGER, SYN, apply, on_bed, tcp};

/// One end of a connection.
pub(crate) type End = (Ipv4Addr, u16);

/// Opened by the pod, allowed by its egress; answers need a record.
const FETCH: (End, End) = ((POD, 4_000), (FRIEND, 80));
/// Opened by the friend, allowed by the pod's ingress; answers need a record.
const SERVE: (End, End) = ((FRIEND, 5_000), (POD, 80));
/// Opened by the pod before a policy denied it.
const ENDED: (End, End) = ((POD, 4_001), (STRANGER, 80));
/// Tried by a stranger, and never answered.
const TRIED: (End, End) = ((STRANGER, 5_001), (POD, 80));

/// As much of the pod as tells whose connections are its own.
pub(crate) fn pod() -> Endpoint {
    Endpoint {
        number: NUMBER,
        addr4: POD.octets(),
        ..Endpoint::EMPTY
    }
}

/// A connection of TCP as the node's table has it.
pub(crate) fn flow((opener, server): (End, End), answered: bool) -> Flow {
    let (src, dst) = (SocketAddr::from(opener), SocketAddr::from(server));
    Flow {
        protocol: 6,
        original: Tuple { src, dst },
        reply: Tuple { src: dst, dst: src },
        replied: answered,
        assured: answered,
        fins: 0,
    }
}

fn passes(datapath: &Datapath, bed: &Bed, from: End, to: End, flags: u8) -> bool {
    let at = if from.0 == POD {
        bed.leaving()
    } else {
        bed.arriving()
    };
    let packet = tcp(from, to, flags);
    datapath.test_run(&packet, at, 1).unwrap().passes
}

#[test]
fn older_connection_is_answered_once_it_is_known_and_only_if_policy_allows_it() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let answer = |(opener, server): (End, End)| passes(&datapath, bed, server, opener, ACK);
        let goes_on = |(opener, server): (End, End)| passes(&datapath, bed, opener, server, ACK);
        for connection in [FETCH, SERVE, ENDED, TRIED] {
            assert!(!answer(connection), "{connection:?} before it is known");
        }
        // A segment in the middle does not tell who opened the connection.
        assert!(goes_on(FETCH) && goes_on(SERVE));
        assert!(!answer(FETCH) && !answer(SERVE));

        let endpoint = pod();
        let known = [
            flow(FETCH, true),
            flow(SERVE, true),
            flow(ENDED, true),
            flow(TRIED, false),
        ];
        assert_eq!(datapath.remember(SLOT, &endpoint, &known).unwrap(), 4);
        assert!(answer(FETCH) && answer(SERVE));
        assert!(goes_on(FETCH) && goes_on(SERVE));
        for denied in [ENDED, TRIED] {
            assert!(!goes_on(denied) && !answer(denied), "{denied:?}");
        }
        // Who may not open one does not by what is known of another.
        assert!(!passes(&datapath, bed, FETCH.1, FETCH.0, SYN));
        assert!(!passes(&datapath, bed, FETCH.1, (POD, 4_002), ACK));
    });
}

#[test]
fn what_is_known_already_stays_as_it_is_and_what_is_anothers_is_left() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let endpoint = pod();
        let both = [flow(FETCH, true), flow(((STRANGER, 1), (FRIEND, 2)), true)];
        assert_eq!(datapath.remember(SLOT, &endpoint, &both).unwrap(), 1);
        // Read again when all programs were there: opened in between, SERVE.
        let later = [flow(FETCH, true), flow(SERVE, true)];
        assert_eq!(datapath.remember(SLOT, &endpoint, &later).unwrap(), 1);
        assert!(passes(&datapath, bed, FETCH.1, FETCH.0, ACK));
        assert!(passes(&datapath, bed, SERVE.1, SERVE.0, ACK));
        let nobodys = passes(&datapath, bed, (FRIEND, 2), (POD, 1), ACK);
        assert!(!nobodys, "what is known of others is nothing to the pod");
    });
}

#[test]
fn what_has_ended_before_there_was_a_program_is_forgotten_and_what_goes_on_is_not() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let endpoint = pod();
        let gone = ((POD, 4_100), (FRIEND, 80));
        let all = [flow(FETCH, true), flow(SERVE, true), flow(gone, true)];
        assert_eq!(datapath.remember(SLOT, &endpoint, &all).unwrap(), 3);
        let noted_ns = monotonic_ns();
        let answer = |(opener, server): (End, End)| passes(&datapath, bed, server, opener, ACK);
        // The node's table has lost it since, and the programs have seen it.
        assert!(answer(SERVE));
        let left = [flow(FETCH, true)];
        let endpoints = [(SLOT, endpoint)];
        let forgotten = datapath.forget_ended(&endpoints, &left, noted_ns);
        assert_eq!(forgotten.unwrap(), 1);
        assert!(answer(FETCH) && answer(SERVE));
        assert!(!answer(gone), "its record is there no more");
        let swept = datapath.maps().sweep().unwrap();
        assert_eq!((swept.left[0], swept.corrected), (2, 0));
        // What came later is not asked about.
        let later = monotonic_ns();
        assert_eq!(datapath.remember(SLOT, &endpoint, &all).unwrap(), 1);
        let forgotten = datapath.forget_ended(&endpoints, &left, later);
        assert_eq!(forgotten.unwrap(), 0);
        assert!(answer(gone));
    });
}

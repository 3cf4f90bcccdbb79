//! How long an answer passes by its connection's record, in the kernel: for each
//! protocol and each state of a connection up to its limit and not beyond.
//!
//! A record is made older than it is. One that is older than the machine's uptime
//! there cannot be: of a limit that is longer only the first half is asked.

use std::{mem::offset_of, net::IpAddr};

use aya::maps::{HashMap, Map, MapData};
use policy_agent::datapath::{Datapath, apply::monotonic_ns};
use policy_common::{
    abi::{
        Direction,
        conntrack::{CtEntry, CtKey},
        endpoint::PolicyWord,
        event::DropReason,
        maps,
    },
    conntrack::{
        ICMP_NS, OTHER_NS, RESET_NS, SCTP_NS, TCP_CLOSED_NS, TCP_ESTABLISHED_NS,
        TCP_HALF_CLOSED_NS, UDP_NS, UNCONFIRMED_NS,
    },
};

use crate::bed::{ACK, POLICY, SYN, apply, on_bed, row};
use crate::crafted::{BOTH, Ends, Scene, TCP, UDP, frame, udp};

/// Allows nothing, see [`Scene::new`].
const DENIES: u16 = POLICY + 1;

const FIN: u8 = 1;
const RST: u8 = 4;
const SCTP: u8 = 132;
/// Generic routing encapsulation, RFC 2784: a protocol without ports.
const GRE: u8 = 47;
/// Stands for the ICMP of the addresses' family.
const ECHO: u8 = 1;
const ECHO_OF_V6: u8 = 58;

/// Chunks of SCTP, RFC 9260 section 3.2.
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;

/// The kernel's coarse clock is behind by a tick, and time goes on between writing
/// a record and asking.
const BEYOND_NS: u64 = 100_000_000;
const WITHIN_NS: u64 = 3_000_000_000;

/// Who sends.
#[derive(Clone, Copy)]
enum By {
    Pod,
    Friend,
}
use By::{Friend, Pod};

/// A connection that the pod opens.
struct Case {
    state: &'static str,
    protocol: u8,
    /// What makes this state: who sends, and which flags or chunk.
    packets: &'static [(By, u8)],
    /// What the friend sends then.
    answer: u8,
    limit_ns: u64,
}

const fn case(
    state: &'static str,
    protocol: u8,
    packets: &'static [(By, u8)],
    answer: u8,
    limit_ns: u64,
) -> Case {
    Case {
        state,
        protocol,
        packets,
        answer,
        limit_ns,
    }
}

const HANDSHAKE: [(By, u8); 3] = [(Pod, SYN), (Friend, SYN | ACK), (Pod, ACK)];
const CASES: [Case; 17] = [
    case("SYN", TCP, &[(Pod, SYN)], SYN | ACK, UNCONFIRMED_NS),
    case(
        "SYN that was answered",
        TCP,
        &[(Pod, SYN), (Friend, SYN | ACK)],
        SYN | ACK,
        UNCONFIRMED_NS,
    ),
    case("established", TCP, &HANDSHAKE, ACK, TCP_ESTABLISHED_NS),
    case(
        "half closed by the pod",
        TCP,
        &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (Pod, FIN | ACK)],
        ACK,
        TCP_HALF_CLOSED_NS,
    ),
    case(
        "half closed by its friend",
        TCP,
        &[
            HANDSHAKE[0],
            HANDSHAKE[1],
            HANDSHAKE[2],
            (Friend, FIN | ACK),
        ],
        ACK,
        TCP_HALF_CLOSED_NS,
    ),
    case(
        "closed",
        TCP,
        &[
            HANDSHAKE[0],
            HANDSHAKE[1],
            HANDSHAKE[2],
            (Pod, FIN | ACK),
            (Friend, FIN | ACK),
        ],
        ACK,
        TCP_CLOSED_NS,
    ),
    case(
        "reset",
        TCP,
        &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (Pod, RST | ACK)],
        ACK,
        RESET_NS,
    ),
    case("asked", UDP, &[(Pod, 0)], 0, UNCONFIRMED_NS),
    case("answered", UDP, &[(Pod, 0), (Friend, 0)], 0, UNCONFIRMED_NS),
    case(
        "a conversation",
        UDP,
        &[(Pod, 0), (Friend, 0), (Pod, 0)],
        0,
        UDP_NS,
    ),
    case("INIT", SCTP, &[(Pod, INIT)], INIT_ACK, UNCONFIRMED_NS),
    case(
        "association",
        SCTP,
        &[(Pod, INIT), (Friend, INIT_ACK), (Pod, DATA)],
        DATA,
        SCTP_NS,
    ),
    case(
        "aborted",
        SCTP,
        &[(Pod, INIT), (Friend, INIT_ACK), (Pod, DATA), (Pod, ABORT)],
        DATA,
        RESET_NS,
    ),
    case("echo", ECHO, &[(Pod, 0)], 0, ICMP_NS),
    case(
        "echo again",
        ECHO,
        &[(Pod, 0), (Friend, 0), (Pod, 0)],
        0,
        ICMP_NS,
    ),
    case("asked", GRE, &[(Pod, 0)], 0, UNCONFIRMED_NS),
    case(
        "answered",
        GRE,
        &[(Pod, 0), (Friend, 0), (Pod, 0)],
        0,
        OTHER_NS,
    ),
];

/// The friend's port, for protocols that have them.
const SERVICE: u16 = 80;

/// A packet of a connection of the pod's port (or identifier).
fn packet(Ends { pod, friend, .. }: Ends, protocol: u8, port: u16, by: By, what: u8) -> Vec<u8> {
    let (from, to, from_port, to_port) = match by {
        Pod => (pod, friend, port, SERVICE),
        Friend => (friend, pod, SERVICE, port),
    };
    let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
    let body = match protocol {
        TCP => [&ports[..], &[0; 8], &[0x50, what, 255, 255, 0, 0, 0, 0]].concat(),
        SCTP => [
            &ports[..],
            &[0, 0, 0, 9, 0, 0, 0, 0, what, 0, 0, 20],
            &[0; 16],
        ]
        .concat(),
        UDP => udp(from_port, to_port, 16),
        ECHO | ECHO_OF_V6 => {
            let kind = match (by, protocol) {
                (Pod, ECHO) => 8,
                (Pod, _) => 128,
                (Friend, ECHO) => 0,
                (Friend, _) => 129,
            };
            [&[kind, 0, 0, 0][..], &port.to_be_bytes(), &[0, 1, 9, 9]].concat()
        }
        _ => vec![0; 16],
    };
    frame(from, to, protocol, &body)
}

/// Makes all records the age of one that was last seen then.
pub(crate) fn last_seen(datapath: &Datapath, at_ns: u64) {
    const KEY: usize = size_of::<CtKey>();
    const ENTRY: usize = size_of::<CtEntry>();
    let field = offset_of!(CtEntry, last_seen_ns);
    let mut found = 0;
    for name in [maps::CT, maps::CT_PENDING] {
        let pinned = MapData::from_pin(datapath.pins().map(name)).unwrap();
        let map = Map::from_map_data(pinned).unwrap();
        let mut records: HashMap<_, [u8; KEY], [u8; ENTRY]> = map.try_into().unwrap();
        let all: Vec<_> = records.iter().map(Result::unwrap).collect();
        for (key, mut entry) in all {
            entry[field..field + 8].copy_from_slice(&at_ns.to_ne_bytes());
            records.insert(key, entry, 0).unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "there is a record");
}

#[test]
fn answers_pass_up_to_the_limit_of_their_connections_state_and_not_beyond() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        apply(&scene.datapath, &[row(DENIES, 0, 2)]);
        let mut generation = 2;
        // No packet passes because one like it did a moment ago.
        let mut afresh = || {
            generation += 1;
            scene.word(PolicyWord::new(generation, DENIES, POLICY));
        };
        let mut beyond = 0;
        for ends in BOTH {
            for (case, port) in CASES.iter().zip(5_000..) {
                let protocol = match (case.protocol, ends.pod) {
                    (ECHO, IpAddr::V6(_)) => ECHO_OF_V6,
                    (protocol, _) => protocol,
                };
                let name = format!("{}, {} of {protocol}", ends.pod, case.state);
                let has_ports = [TCP, UDP, SCTP].contains(&protocol);
                scene.allow(&[(protocol, if has_ports { SERVICE } else { 0 })]);
                afresh();
                let answer = packet(ends, protocol, port, Friend, case.answer);
                if protocol != GRE || case.packets.len() == 1 {
                    assert!(!scene.gets(&answer), "{name}: nobody asked");
                }
                for (by, what) in case.packets {
                    let packet = packet(ends, protocol, port, *by, *what);
                    let passes = match by {
                        Pod => scene.sends(&packet),
                        Friend => scene.gets(&packet),
                    };
                    assert!(passes, "{name}: what makes it so");
                }

                let denied = || scene.dropped(Direction::Ingress, DropReason::Policy);
                let before = denied();
                if let Some(then) = monotonic_ns().checked_sub(case.limit_ns + BEYOND_NS) {
                    last_seen(&scene.datapath, then);
                    afresh();
                    assert!(!scene.gets(&answer), "{name}: too late");
                    assert_eq!(denied(), before + 1, "{name}: by policy");
                    beyond += 1;
                }
                let then = monotonic_ns().saturating_sub(case.limit_ns - WITHIN_NS);
                last_seen(&scene.datapath, then);
                afresh();
                assert!(scene.gets(&answer), "{name}: in time");
            }
        }
        // A machine that runs tests has been up for longer than a reset lasts.
        assert!(beyond >= 4, "of TCP and SCTP, in both families: {beyond}");
    });
}

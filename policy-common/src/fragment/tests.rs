//! Fragments as receivers may get them, in every order and overlap.

use super::*;
use crate::abi::{family, protocol};
use crate::packet::tests::build::*;
use crate::packet::{Frame, Kind, parse};
use std::vec::Vec;

const ENDPOINT: u32 = 41;
const GENERATION: u32 = 7;
const NOW_NS: u64 = 1_000_000_000_000;

fn parsed(frame: &[u8]) -> Packet {
    let Frame { packet, .. } = parse(&frame);
    packet
}

/// The first fragment of a UDP datagram with 24 bytes of it, and its record.
fn first() -> (Packet, FragEntry, u32) {
    let ip = V4 {
        fragment: 0x2000,
        ..v4()
    };
    let packet = parsed(&ip.frame(&udp(7, 9, 16)));
    assert_eq!((packet.kind, packet.dst_port), (Kind::Datagram, 9));
    let tag = tag(&key_of(&packet, ENDPOINT, AT_INGRESS));
    let entry = record_of(&packet, tag, GENERATION, 2, NOW_NS);
    (packet, entry, tag)
}

/// A fragment that begins this many units of eight bytes into the datagram.
fn later(units: u16) -> Packet {
    let ip = V4 {
        fragment: units,
        ..v4()
    };
    parsed(&ip.frame(&other(protocol::UDP, 16)))
}

#[test]
fn what_begins_behind_the_first_follows_it() {
    let (packet, entry, tag) = first();
    assert_eq!((entry.units, entry.state), (3, 2));
    for units in [3, 4, 185, 0x1fff] {
        let later = later(units);
        assert_eq!(
            key_of(&later, ENDPOINT, AT_INGRESS),
            key_of(&packet, ENDPOINT, AT_INGRESS)
        );
        assert!(follows(&entry, tag, GENERATION, &later, NOW_NS), "{units}");
    }
}

#[test]
fn what_overlaps_the_first_does_not_follow_it() {
    let (_, entry, tag) = first();
    for units in [1, 2] {
        assert!(!follows(&entry, tag, GENERATION, &later(units), NOW_NS));
    }
}

#[test]
fn nothing_follows_a_verdict_of_another_policy_time_or_datagram() {
    let (_, entry, tag) = first();
    let later = later(3);
    assert!(!follows(&entry, tag, GENERATION + 1, &later, NOW_NS));
    assert!(!follows(&entry, tag ^ 2, GENERATION, &later, NOW_NS));
    let last = NOW_NS + LIFETIME_NS;
    assert!(follows(&entry, tag, GENERATION, &later, last));
    assert!(!follows(&entry, tag, GENERATION, &later, last + 1));
    // A clock that is a tick behind on this CPU.
    assert!(follows(&entry, tag, GENERATION, &later, NOW_NS - 1));
}

#[test]
fn key_tells_apart_whatever_a_receiver_or_a_policy_tells_apart() {
    let base = later(3);
    let mut keys: Vec<FragKey> = Vec::new();
    for packet in [
        base,
        Packet {
            fragment_id: 2,
            ..base
        },
        Packet {
            protocol: protocol::TCP,
            ..base
        },
        Packet {
            src: base.dst,
            ..base
        },
        Packet {
            dst: base.src,
            ..base
        },
    ] {
        for endpoint in [ENDPOINT, ENDPOINT + 1] {
            for place in [Place::Ingress, Place::Egress, Place::Leaving] {
                keys.push(key_of(&packet, endpoint, place.number()));
            }
        }
    }
    for (i, key) in keys.iter().enumerate() {
        assert!(keys.iter().skip(i + 1).all(|other| other != key));
        assert!(keys.iter().skip(i + 1).all(|other| tag(other) != tag(key)));
        assert_ne!(tag(key), 0);
    }
}

#[test]
fn fragments_of_ipv6_need_not_name_the_same_protocol() {
    // RFC 8200 section 4.5: the first's alone counts.
    let packet = Packet {
        family: family::V6,
        protocol: protocol::UDP,
        ..later(3)
    };
    let destination_options = Packet {
        protocol: 60,
        ..packet
    };
    assert_eq!(
        key_of(&packet, ENDPOINT, AT_EGRESS),
        key_of(&destination_options, ENDPOINT, AT_EGRESS)
    );
}

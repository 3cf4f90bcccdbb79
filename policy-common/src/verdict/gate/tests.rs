//! What passes or is dropped before any policy: each message that makes a link
//! work, and each that would let a pod be somebody else.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::abi::endpoint::FLAG_USED;
use crate::packet::parse;
use crate::packet::tests::build::*;

const POD4: [u8; 4] = [10, 0, 0, 9];
const POD6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0xff, 0xfe, 0, 0, 9];
const OTHER_LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0xff, 0xfe, 0, 0, 8];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_DHCP: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
const BROADCAST: [u8; 4] = [255; 4];

const FREE: PolicyWord = PolicyWord::new(1, 0, 0);
const ISOLATED: PolicyWord = PolicyWord::new(1, 5, 6);

fn endpoint() -> Endpoint {
    Endpoint {
        number: 3,
        flags: FLAG_USED,
        addr4: POD4,
        ifindex: 8,
        addr6: POD6,
        link_local6: LINK_LOCAL,
        ..Endpoint::EMPTY
    }
}

/// What the gate answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Judge,
    Pass,
    Drop(DropReason),
}
use Answer::{Judge, Pass};

const SPOOFED: Answer = Answer::Drop(DropReason::Spoofed);
const ROUTER: Answer = Answer::Drop(DropReason::RouterAdvertisement);

fn ask(word: PolicyWord, endpoint: &Endpoint, direction: Direction, bytes: &[u8]) -> Answer {
    let frame = parse(&bytes);
    let gate = gate(&Pod { word, endpoint }, direction, &frame, &bytes);
    if frame.class == Class::Ip {
        let addr4 = || u32::from_ne_bytes(endpoint.addr4);
        let addr6 = || words6(endpoint.addr6);
        let own = is_of_endpoint(direction, &frame.packet, addr4, addr6);
        if hands_over(direction, &frame.packet, own) {
            assert_eq!(gate, Gate::Judge(&frame.packet), "handed over at once");
        }
    }
    match gate {
        Gate::Judge(packet) => {
            assert_eq!(*packet, frame.packet, "judged as what it is");
            Judge
        }
        Gate::Pass => Pass,
        Gate::Drop(reason) => Answer::Drop(reason),
    }
}

/// What an isolated pod's frame gets; the same for one that nothing isolates.
fn from(endpoint: &Endpoint, bytes: &[u8]) -> Answer {
    let answer = ask(ISOLATED, endpoint, Direction::Egress, bytes);
    assert_eq!(ask(FREE, endpoint, Direction::Egress, bytes), answer);
    answer
}

fn to(bytes: &[u8]) -> Answer {
    let answer = ask(ISOLATED, &endpoint(), Direction::Ingress, bytes);
    assert_eq!(ask(FREE, &endpoint(), Direction::Ingress, bytes), answer);
    answer
}

fn ip4(src: [u8; 4], dst: [u8; 4], upper: &Upper) -> Vec<u8> {
    V4 { src, dst, ..v4() }.frame(upper)
}

fn ip6(src: [u8; 16], dst: [u8; 16], hop_limit: u8, upper: &Upper) -> Vec<u8> {
    V6 {
        src,
        dst,
        hop_limit,
        ..v6()
    }
    .frame(upper)
}

fn unchecked() -> Endpoint {
    Endpoint {
        flags: FLAG_USED | FLAG_NO_SPOOF_CHECK,
        ..endpoint()
    }
}

fn link_local_unknown() -> Endpoint {
    Endpoint {
        link_local6: [0; 16],
        ..endpoint()
    }
}

#[test]
fn arp_announces_the_pods_own_address_or_none() {
    assert_eq!(from(&endpoint(), &arp(POD4)), Pass);
    assert_eq!(from(&endpoint(), &arp([0; 4])), Pass, "a probe (RFC 5227)");
    assert_eq!(from(&endpoint(), &arp(SRC4)), SPOOFED);
    assert_eq!(from(&unchecked(), &arp(SRC4)), Pass);
    let only6 = Endpoint {
        addr4: [0; 4],
        ..endpoint()
    };
    assert_eq!(from(&only6, &arp(POD4)), SPOOFED, "it has no IPv4 address");
    assert_eq!(to(&arp(SRC4)), Pass);
}

#[test]
fn arp_of_the_other_hardware_type_that_linux_takes_is_no_way_round() {
    let mut frame = arp(SRC4);
    frame[15] = 6;
    assert_eq!(from(&endpoint(), &frame), SPOOFED);
    let mut own = arp(POD4);
    own[15] = 6;
    assert_eq!(from(&endpoint(), &own), Pass);
}

#[test]
fn neighbour_advertisement_announces_the_pods_own_addresses_only() {
    let advert = |src, target| ip6(src, ALL_NODES, 255, &icmp6(136, 0, target));
    for own in [POD6, LINK_LOCAL] {
        assert_eq!(from(&endpoint(), &advert(LINK_LOCAL, own)), Pass);
    }
    for other in [SRC6, OTHER_LINK_LOCAL, [0; 16]] {
        assert_eq!(from(&endpoint(), &advert(LINK_LOCAL, other)), SPOOFED);
        assert_eq!(from(&unchecked(), &advert(LINK_LOCAL, other)), Pass);
    }
    let unknown = link_local_unknown();
    assert_eq!(from(&unknown, &advert(POD6, OTHER_LINK_LOCAL)), Pass);
    assert_eq!(from(&unknown, &advert(POD6, SRC6)), SPOOFED);
    assert_eq!(to(&advert(SRC6, SRC6)), Pass);
}

#[test]
fn neighbour_advertisement_without_a_whole_target_is_dropped() {
    let cut = Upper {
        bytes: icmp6(136, 0, POD6).bytes[..23].to_vec(),
        ..icmp6(136, 0, POD6)
    };
    let frame = ip6(POD6, ALL_NODES, 255, &cut);
    let truncated = Answer::Drop(DropReason::Truncated);
    assert_eq!(from(&endpoint(), &frame), truncated);
    assert_eq!(from(&unchecked(), &frame), truncated);
}

#[test]
fn solicitations_and_listener_reports_come_from_the_pods_own_addresses() {
    for (message, hop_limit) in [(135, 255), (133, 255), (131, 1), (132, 1), (143, 1)] {
        let frame = |src| ip6(src, ALL_NODES, hop_limit, &icmp6(message, 0, SRC6));
        // The unspecified source: duplicate address detection (RFC 4862).
        for own in [POD6, LINK_LOCAL, [0; 16]] {
            assert_eq!(from(&endpoint(), &frame(own)), Pass, "type {message}");
        }
        for other in [SRC6, OTHER_LINK_LOCAL] {
            assert_eq!(from(&endpoint(), &frame(other)), SPOOFED, "type {message}");
            assert_eq!(from(&unchecked(), &frame(other)), Pass);
        }
        let unknown = link_local_unknown();
        assert_eq!(from(&unknown, &frame(OTHER_LINK_LOCAL)), Pass);
        assert_eq!(from(&unknown, &frame(SRC6)), SPOOFED);
        assert_eq!(to(&frame(SRC6)), Pass);
    }
}

#[test]
fn what_a_router_forwarded_is_no_neighbour_discovery() {
    for message in [133, 134, 135, 136, 137, 131, 143] {
        for hop_limit in [2, 64, 254] {
            let frame = ip6(SRC6, POD6, hop_limit, &icmp6(message, 0, SRC6));
            assert_eq!(to(&frame), Judge, "type {message}, hop limit {hop_limit}");
        }
    }
    for message in [133, 135, 136, 131, 143] {
        let own = ip6(POD6, SRC6, 64, &icmp6(message, 0, POD6));
        assert_eq!(from(&endpoint(), &own), Judge, "type {message}");
        let spoofed = ip6(SRC6, DST6, 64, &icmp6(message, 0, POD6));
        assert_eq!(from(&endpoint(), &spoofed), SPOOFED, "type {message}");
    }
}

#[test]
fn router_advertisements_and_redirects_never_come_from_a_pod() {
    for message in [134, 137] {
        for hop_limit in [255, 254, 64, 1] {
            for src in [LINK_LOCAL, POD6, SRC6] {
                let frame = ip6(src, ALL_NODES, hop_limit, &icmp6(message, 0, POD6));
                for pod in [endpoint(), unchecked(), link_local_unknown()] {
                    assert_eq!(from(&pod, &frame), ROUTER, "type {message}");
                    assert_eq!(from(&pod, &tagged(&[0x8100], &frame)), ROUTER);
                }
            }
        }
        let frame = ip6(OTHER_LINK_LOCAL, ALL_NODES, 255, &icmp6(message, 0, SRC6));
        assert_eq!(to(&frame), Pass, "to a pod they pass");
    }
}

#[test]
fn router_advertisement_does_not_hide_behind_extension_headers() {
    for count in [1, 7] {
        let ip = V6 {
            src: LINK_LOCAL,
            hop_limit: 255,
            ..V6::through(&vec![(DESTINATION, options(1)); count])
        };
        assert_eq!(from(&endpoint(), &ip.frame(&icmp6(134, 0, POD6))), ROUTER);
    }
    // More than are walked: a receiver may walk them all.
    for chain in [
        vec![(DESTINATION, options(1)); 8],
        vec![(DESTINATION, options(200))],
    ] {
        let ip = V6 {
            src: LINK_LOCAL,
            hop_limit: 255,
            ..V6::through(&chain)
        };
        let frame = ip.frame(&icmp6(134, 0, POD6));
        let unknown = Answer::Drop(DropReason::ExtensionHeaders);
        for pod in [endpoint(), unchecked()] {
            assert_eq!(from(&pod, &frame), unknown);
        }
        assert_eq!(ask(FREE, &endpoint(), Direction::Ingress, &frame), Pass);
    }
}

#[test]
fn dhcp_passes_within_the_link_only() {
    let ask4 = udp(68, 67, 40);
    let ask6 = udp(546, 547, 40);
    for src in [[0; 4], POD4] {
        assert_eq!(from(&endpoint(), &ip4(src, BROADCAST, &ask4)), Pass);
    }
    for dst in [ALL_DHCP, OTHER_LINK_LOCAL] {
        assert_eq!(from(&endpoint(), &ip6(LINK_LOCAL, dst, 1, &ask6)), Pass);
        assert_eq!(from(&endpoint(), &ip6(POD6, dst, 1, &ask6)), Pass);
    }
    // To a server by its own address, it is traffic like any other.
    assert_eq!(from(&endpoint(), &ip4(POD4, SRC4, &ask4)), Judge);
    assert_eq!(from(&endpoint(), &ip6(POD6, SRC6, 64, &ask6)), Judge);
    let mut site = ALL_DHCP;
    site[1] = 5;
    assert_eq!(from(&endpoint(), &ip6(POD6, site, 64, &ask6)), Judge);
    // As somebody else.
    assert_eq!(from(&endpoint(), &ip4(SRC4, BROADCAST, &ask4)), SPOOFED);
    assert_eq!(from(&endpoint(), &ip4([0; 4], SRC4, &ask4)), SPOOFED);
    let other = ip6(OTHER_LINK_LOCAL, ALL_DHCP, 1, &ask6);
    assert_eq!(from(&endpoint(), &other), SPOOFED);
    assert_eq!(from(&link_local_unknown(), &other), Pass);
    // Other ports, other protocols, the server's part.
    for upper in [
        udp(68, 68, 9),
        udp(67, 68, 9),
        udp(546, 547, 9),
        tcp(68, 67, SYN),
    ] {
        assert_eq!(from(&endpoint(), &ip4(POD4, BROADCAST, &upper)), Judge);
    }
    for upper in [udp(547, 546, 9), udp(68, 67, 9), tcp(546, 547, SYN)] {
        let frame = ip6(LINK_LOCAL, ALL_DHCP, 1, &upper);
        assert_eq!(from(&endpoint(), &frame), Judge);
    }
}

#[test]
fn answers_of_a_dhcp_server_pass_within_the_link_only() {
    assert_eq!(to(&ip4(SRC4, BROADCAST, &udp(67, 68, 40))), Pass);
    assert_eq!(to(&ip4(SRC4, POD4, &udp(67, 68, 40))), Judge);
    assert_eq!(to(&ip4(SRC4, BROADCAST, &udp(68, 67, 40))), Judge);
    let answer = |dst, upper| ip6(OTHER_LINK_LOCAL, dst, 1, &upper);
    assert_eq!(to(&answer(LINK_LOCAL, udp(547, 546, 40))), Pass);
    assert_eq!(to(&answer(POD6, udp(547, 546, 40))), Judge);
    assert_eq!(to(&answer(LINK_LOCAL, udp(546, 547, 40))), Judge);
}

#[test]
fn sources_that_are_not_the_pods_are_spoofed() {
    for upper in [
        tcp(1, 2, SYN),
        udp(1, 2, 3),
        sctp(1, 2, 1),
        icmp(8, 1),
        other(50, 8),
    ] {
        assert_eq!(from(&endpoint(), &ip4(POD4, DST4, &upper)), Judge);
        for src in [SRC4, [0; 4], BROADCAST, [127, 0, 0, 1]] {
            assert_eq!(from(&endpoint(), &ip4(src, DST4, &upper)), SPOOFED);
            assert_eq!(from(&unchecked(), &ip4(src, DST4, &upper)), Judge);
        }
        for src in [POD6, LINK_LOCAL] {
            assert_eq!(from(&endpoint(), &ip6(src, DST6, 64, &upper)), Judge);
        }
        for src in [SRC6, OTHER_LINK_LOCAL, [0; 16], ALL_NODES] {
            assert_eq!(from(&endpoint(), &ip6(src, DST6, 64, &upper)), SPOOFED);
            assert_eq!(from(&unchecked(), &ip6(src, DST6, 64, &upper)), Judge);
        }
        assert_eq!(to(&ip4(SRC4, POD4, &upper)), Judge);
        assert_eq!(to(&ip6(SRC6, POD6, 64, &upper)), Judge);
    }
}

#[test]
fn pod_without_an_address_of_a_family_has_no_source_in_it() {
    let only6 = Endpoint {
        addr4: [0; 4],
        ..endpoint()
    };
    let only4 = Endpoint {
        addr6: [0; 16],
        ..endpoint()
    };
    for src in [POD4, [0; 4]] {
        assert_eq!(from(&only6, &ip4(src, DST4, &udp(1, 2, 3))), SPOOFED);
    }
    for src in [POD6, [0; 16]] {
        assert_eq!(from(&only4, &ip6(src, DST6, 64, &udp(1, 2, 3))), SPOOFED);
    }
    assert_eq!(
        from(&only4, &ip6(LINK_LOCAL, ALL_NODES, 1, &udp(1, 2, 3))),
        Judge
    );
}

#[test]
fn link_local_source_is_any_until_it_is_known() {
    let frame = |src| ip6(src, OTHER_LINK_LOCAL, 64, &udp(1, 2, 3));
    // fe80::/10 to its last bit.
    let mut last = LINK_LOCAL;
    last[1] = 0xbf;
    let mut beyond = LINK_LOCAL;
    beyond[1] = 0xc0;
    for src in [LINK_LOCAL, OTHER_LINK_LOCAL, last] {
        assert_eq!(from(&link_local_unknown(), &frame(src)), Judge);
    }
    assert_eq!(from(&link_local_unknown(), &frame(beyond)), SPOOFED);
    assert_eq!(from(&endpoint(), &frame(LINK_LOCAL)), Judge);
    for src in [OTHER_LINK_LOCAL, last] {
        assert_eq!(from(&endpoint(), &frame(src)), SPOOFED);
    }
}

#[test]
fn spoofed_fragments_are_spoofed() {
    let part = |src| {
        let ip = V4 {
            src,
            fragment: 0x2000,
            ..v4()
        };
        ip.frame(&udp(1, 2, 8))
    };
    assert_eq!(from(&endpoint(), &part(POD4)), Judge);
    assert_eq!(from(&endpoint(), &part(SRC4)), SPOOFED);
    let part6 = |src| {
        let chain = V6::through(&[(FRAGMENT, fragment(9, true))]);
        V6 { src, ..chain }.frame(&udp(1, 2, 8))
    };
    assert_eq!(from(&endpoint(), &part6(POD6)), Judge);
    assert_eq!(from(&endpoint(), &part6(SRC6)), SPOOFED);
}

#[test]
fn what_cannot_be_judged_is_dropped_where_the_pod_is_isolated() {
    let frames = [
        (ethernet(0x8847, &[0; 20]), DropReason::EtherType),
        (ethernet(0x88cc, &[]), DropReason::EtherType),
        (
            tagged(&[0x8100; 3], &ip4(POD4, DST4, &udp(1, 2, 3))),
            DropReason::EtherType,
        ),
        (vec![0; 9], DropReason::Truncated),
        (
            ip4(POD4, DST4, &tcp(1, 2, SYN))[..47].to_vec(),
            DropReason::Truncated,
        ),
        (
            ip6(POD6, DST6, 64, &udp(1, 2, 3))[..60].to_vec(),
            DropReason::Truncated,
        ),
        (ethernet(0x0800, &[0x42; 40]), DropReason::Malformed),
    ];
    let only_ingress = PolicyWord::new(1, 5, 0);
    let only_egress = PolicyWord::new(1, 0, 6);
    for (frame, reason) in frames {
        let ask = |word, direction| ask(word, &unchecked(), direction, &frame);
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(ask(FREE, direction), Pass, "{frame:02x?}");
            assert_eq!(ask(ISOLATED, direction), Answer::Drop(reason));
        }
        assert_eq!(ask(only_ingress, Direction::Egress), Pass);
        assert_eq!(ask(only_egress, Direction::Egress), Answer::Drop(reason));
        assert_eq!(ask(only_ingress, Direction::Ingress), Answer::Drop(reason));
        assert_eq!(ask(only_egress, Direction::Ingress), Pass);
    }
}

#[test]
fn spoofed_source_of_a_packet_that_cannot_be_judged_is_spoofed() {
    let cut = |src| ip4(src, DST4, &tcp(1, 2, SYN))[..47].to_vec();
    let short = |src| {
        let ip = V4 {
            src,
            total_len: Some(24),
            ..v4()
        };
        ip.frame(&udp(1, 2, 8))
    };
    let mapped = ip6(mapped_of(POD4), DST6, 64, &udp(1, 2, 3));
    let egress = |endpoint: &Endpoint, frame: &[u8]| ask(FREE, endpoint, Direction::Egress, frame);
    assert_eq!(egress(&endpoint(), &short(POD4)), Pass);
    assert_eq!(egress(&endpoint(), &short(SRC4)), SPOOFED);
    assert_eq!(egress(&unchecked(), &short(SRC4)), Pass);
    assert_eq!(egress(&endpoint(), &mapped), SPOOFED);
    // A frame that ends before its packet does: nothing of it is read, and so it
    // may be anybody's.
    for src in [POD4, SRC4] {
        let truncated = Answer::Drop(DropReason::Truncated);
        assert_eq!(egress(&endpoint(), &cut(src)), truncated);
        assert_eq!(egress(&unchecked(), &cut(src)), Pass);
        let isolated = ask(ISOLATED, &unchecked(), Direction::Egress, &cut(src));
        assert_eq!(isolated, truncated);
    }
    let ingress = ask(FREE, &endpoint(), Direction::Ingress, &cut(SRC4));
    assert_eq!(ingress, Pass);
    // Three tags: as little IP as any other EtherType.
    let tags = [0x88a8, 0x8100, 0x8100];
    let tagged = tagged(&tags, &ip4(SRC4, DST4, &udp(1, 2, 3)));
    assert_eq!(egress(&endpoint(), &tagged), Pass);
}

fn mapped_of(address: [u8; 4]) -> [u8; 16] {
    bytes16(words4(address))
}

#[test]
fn neighbour_discovery_is_no_tunnel() {
    let padded = |message| {
        let small = icmp6(message, 0, POD6);
        let mut bytes = small.bytes.clone();
        bytes.extend([0; 64]);
        Upper { bytes, ..small }
    };
    for message in [133, 135, 136] {
        let frame = ip6(POD6, ALL_NODES, 255, &padded(message));
        assert_eq!(from(&endpoint(), &frame), Judge, "type {message}");
        assert_eq!(to(&frame), Judge, "type {message}");
    }
    // A router forwards what is not for the link.
    let asks = |about| ip6(POD6, DST6, 255, &icmp6(135, 0, about));
    assert_eq!(
        from(&endpoint(), &asks(DST6)),
        Pass,
        "is the neighbour still there?"
    );
    assert_eq!(from(&endpoint(), &asks(SRC6)), Judge);
}

#[test]
fn listener_messages_from_a_pod_are_short_reports_to_multicast() {
    let send = |message, to, len: usize| {
        let mut upper = icmp6(message, 0, SRC6);
        upper.bytes.resize(len, 0);
        from(&endpoint(), &ip6(POD6, to, 1, &upper))
    };
    for message in [131, 132, 143] {
        assert_eq!(send(message, ALL_NODES, 24), Pass, "type {message}");
        assert_eq!(
            send(message, DST6, 24),
            Judge,
            "type {message} to one address"
        );
        assert_eq!(
            send(message, ALL_NODES, 1_000),
            Judge,
            "type {message}, long"
        );
    }
    assert_eq!(send(130, ALL_NODES, 24), Judge, "a query is a router's");
}

#[test]
fn packets_of_the_pods_own_are_handed_over_at_once_and_no_others() {
    let ends = |frame: &[u8], endpoint: &Endpoint, direction| {
        let packet = parse(&frame).packet;
        let addr4 = || u32::from_ne_bytes(endpoint.addr4);
        let own = is_of_endpoint(direction, &packet, addr4, || words6(endpoint.addr6));
        hands_over(direction, &packet, own)
    };
    let nowhere = Endpoint {
        addr4: [0; 4],
        addr6: [0; 16],
        ..endpoint()
    };
    for upper in [tcp(7, 9, SYN), tcp(7, 9, ACK), udp(53, 53, 20)] {
        let own = [ip4(POD4, DST4, &upper), ip6(POD6, DST6, 64, &upper)];
        let others = [ip4(SRC4, DST4, &upper), ip6(SRC6, DST6, 64, &upper)];
        let zeros = [ip4([0; 4], DST4, &upper), ip6([0; 16], DST6, 64, &upper)];
        for frame in &own {
            assert!(ends(frame, &endpoint(), Direction::Egress));
            assert!(!ends(frame, &nowhere, Direction::Egress));
        }
        for frame in others.iter().chain(&zeros) {
            assert!(!ends(frame, &endpoint(), Direction::Egress));
            assert!(ends(frame, &endpoint(), Direction::Ingress));
        }
        // Zero is nobody's address, also where an endpoint has none.
        for frame in &zeros {
            assert!(!ends(frame, &nowhere, Direction::Egress));
        }
    }
    for upper in [udp(68, 67, 20), udp(547, 546, 20), sctp(7, 9, 1)] {
        let frame = ip4(POD4, DST4, &upper);
        assert!(!ends(&frame, &endpoint(), Direction::Egress));
        assert!(!ends(&frame, &endpoint(), Direction::Ingress));
    }
}

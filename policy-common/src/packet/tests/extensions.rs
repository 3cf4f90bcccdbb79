//! IPv6 extension headers: each, many, too many, too large, cut short.

use std::vec;

use super::*;

fn through(chain: &[(u8, Vec<u8>)]) -> Vec<u8> {
    V6::through(chain).frame(&tcp(7, 9, SYN))
}

#[test]
fn every_extension_header_is_walked() {
    let headers = [
        (HOP_BY_HOP, options(1)),
        (HOP_BY_HOP, options(30)),
        (ROUTING, options(3)),
        (DESTINATION, options(2)),
        (MOBILITY, options(1)),
        (AUTHENTICATION, authentication(3)),
        (AUTHENTICATION, authentication(6)),
        (AUTHENTICATION, authentication(7)),
        (FRAGMENT, fragment(0, false)),
    ];
    for (number, bytes) in headers {
        let len = bytes.len();
        let packet = packet(&through(&[(number, bytes)]));
        assert_eq!(seen(&packet), (Kind::TcpSyn, 7, 9, SYN), "header {number}");
        assert_eq!(packet.protocol, TCP);
        assert_eq!(usize::from(packet.transport_offset), 54 + len);
    }
}

#[test]
fn chains_are_walked_up_to_seven_headers_and_no_further() {
    for number in [HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY] {
        for count in 1..12 {
            let frame = through(&vec![(number, options(1)); count]);
            if count <= 7 {
                assert_eq!(packet(&frame).kind, Kind::TcpSyn, "{count} headers");
            } else {
                assert_eq!(bad(&frame), DropReason::ExtensionHeaders, "{count} headers");
            }
        }
    }
}

#[test]
fn headers_that_reach_too_far_are_refused() {
    // 54 + 113 * 8 = 958 is the last place where TCP may start.
    let last = packet(&through(&[(DESTINATION, options(113))]));
    assert_eq!((last.kind, last.transport_offset), (Kind::TcpSyn, 958));
    for words in [114, 200, 256] {
        let frame = through(&[(DESTINATION, options(words))]);
        assert_eq!(bad(&frame), DropReason::ExtensionHeaders, "{words} words");
    }
    for count in 2..7 {
        let frame = through(&vec![(ROUTING, options(100)); count]);
        assert_eq!(bad(&frame), DropReason::ExtensionHeaders);
    }
}

#[test]
fn parts_are_fragments_and_an_atomic_fragment_is_a_packet() {
    for (offset, more) in [(1, false), (1, true), (8_191, false)] {
        for before in [vec![], vec![(HOP_BY_HOP, options(1))]] {
            let mut chain = before;
            chain.push((FRAGMENT, fragment(offset, more)));
            let packet = packet(&through(&chain));
            assert_eq!(seen(&packet), (Kind::Fragment, 0, 0, 0));
            assert_eq!((packet.protocol, bytes16(packet.src)), (TCP, SRC6));
        }
    }
    let atomic = through(&[(FRAGMENT, fragment(0, false)), (DESTINATION, options(1))]);
    assert_eq!(seen(&packet(&atomic)), (Kind::TcpSyn, 7, 9, SYN));
}

#[test]
fn what_stands_behind_a_fragment_header_is_not_walked() {
    // It may be in the middle of data: only the protocol's number is taken.
    let frame = through(&[(FRAGMENT, fragment(3, true)), (DESTINATION, options(1))]);
    let packet = packet(&frame);
    assert_eq!(
        (packet.kind, packet.protocol),
        (Kind::Fragment, DESTINATION)
    );
}

#[test]
fn header_longer_than_the_packet_is_truncated_whatever_it_carries() {
    for upper in [tcp(7, 9, SYN), udp(7, 9, 0), other(50, 4), other(59, 0)] {
        let mut long = options(1);
        long[1] = 20;
        for number in [HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY] {
            let frame = V6::through(&[(number, long.clone())]).frame(&upper);
            assert_eq!(bad(&frame), DropReason::Truncated, "{number} {upper:?}");
        }
    }
}

#[test]
fn header_beyond_the_length_field_is_padding() {
    // The chain goes on behind the packet's end.
    let chain = [(DESTINATION, options(2)), (DESTINATION, options(1))];
    for payload_len in 1..24 {
        let ip = V6 {
            payload_len: Some(payload_len),
            ..V6::through(&chain)
        };
        assert_eq!(bad(&ip.frame(&tcp(7, 9, SYN))), DropReason::Truncated);
    }
}

#[test]
fn authentication_header_counts_in_words_of_four_bytes() {
    // Taken for words of eight, this would end inside the TCP header's sequence
    // number, which looks like another port.
    let frame = through(&[
        (AUTHENTICATION, authentication(4)),
        (DESTINATION, options(1)),
    ]);
    let packet = packet(&frame);
    assert_eq!((packet.src_port, packet.dst_port), (7, 9));
    assert_eq!(packet.transport_offset, 54 + 16 + 8);
}

#[test]
fn neighbour_discovery_behind_headers_is_seen_for_what_it_is() {
    for chain in [
        vec![(HOP_BY_HOP, options(1))],
        vec![(DESTINATION, options(1)); 7],
        vec![(FRAGMENT, fragment(0, false))],
    ] {
        let ip = V6 {
            hop_limit: 255,
            ..V6::through(&chain)
        };
        for (message, kind) in [
            (134, Kind::RouterAdvertisement),
            (136, Kind::NeighbourAdvertisement),
        ] {
            let packet = packet(&ip.frame(&icmp6(message, 0, DST6)));
            assert_eq!((packet.kind, packet.protocol), (kind, ICMPV6));
        }
    }
}

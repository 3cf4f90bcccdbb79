//! Fragments: which part of a datagram they are, and first ones that hold too
//! little to be judged.

use super::*;

const MORE: u16 = 0x2000;

fn part4(fragment: u16, upper: &Upper) -> Vec<u8> {
    V4 { fragment, ..v4() }.frame(upper)
}

fn part6(offset: u16, more: bool, upper: &Upper) -> Vec<u8> {
    V6::through(&[(FRAGMENT, fragment(offset, more))]).frame(upper)
}

/// An upper-layer packet cut to this many bytes, or filled up to them.
fn sized(mut upper: Upper, len: usize) -> Upper {
    upper.bytes.resize(len, 0x55);
    upper
}

#[test]
fn first_fragment_is_what_the_whole_would_be() {
    let whole: [(Upper, Seen); 4] = [
        (tcp(7, 9, SYN), (Kind::TcpSyn, 7, 9, SYN)),
        (udp(7, 9, 0), (Kind::Datagram, 7, 9, 0)),
        (sctp(7, 9, 1), (Kind::SctpInit, 7, 9, 1)),
        (other(50, 0), (Kind::Datagram, 0, 0, 0)),
    ];
    for (upper, expected) in whole {
        let upper = sized(upper, 32);
        for frame in [part4(MORE, &upper), part6(0, true, &upper)] {
            let packet = packet(&frame);
            assert_eq!(seen(&packet), expected);
            assert!(packet.is_first_fragment() && !packet.is_whole());
            assert_eq!(fragment::units(packet.fragment), 4);
            assert_eq!(packet.fragment_id, 1);
        }
    }
    let echo = packet(&part4(MORE, &sized(icmp(8, 77), 24)));
    assert_eq!(seen(&echo), (Kind::EchoRequest, 0, 77, 8));
    let echo = packet(&part6(0, true, &sized(icmp6(128, 77, DST6), 24)));
    assert_eq!(seen(&echo), (Kind::EchoRequest, 0, 77, 128));
}

#[test]
fn whole_packets_are_no_fragments() {
    for frame in [
        v4().frame(&udp(7, 9, 3)),
        part4(0x4000, &udp(7, 9, 3)),
        v6().frame(&udp(7, 9, 3)),
        part6(0, false, &udp(7, 9, 3)),
    ] {
        let packet = packet(&frame);
        assert!(packet.is_whole() && !packet.is_first_fragment());
        assert_eq!((packet.fragment, packet.fragment_id), (0, 0));
    }
}

#[test]
fn other_fragments_tell_where_they_begin_and_no_ports() {
    for units in [1, 2, 185, 0x1fff] {
        for upper in [tcp(7, 9, SYN), udp(7, 9, 0), icmp(8, 7), other(50, 8)] {
            for more in [0, MORE] {
                let packet = packet(&part4(units | more, &upper));
                assert_eq!(seen(&packet), (Kind::Fragment, 0, 0, 0));
                assert_eq!(packet.protocol, upper.protocol);
                assert_eq!(fragment::units(packet.fragment), units);
                assert!(!packet.is_whole() && !packet.is_first_fragment());
            }
        }
        let packet = packet(&part6(units, true, &udp(7, 9, 0)));
        assert_eq!(seen(&packet), (Kind::Fragment, 0, 0, 0));
        assert_eq!(fragment::units(packet.fragment), units);
        assert_eq!(packet.fragment_id, 1);
    }
}

#[test]
fn first_fragment_without_the_whole_header_is_refused() {
    let needed = [
        (tcp(7, 9, SYN), 16),
        (udp(7, 9, 16), 8),
        (sctp(7, 9, 1), 16),
    ];
    for (upper, needed) in needed {
        for len in (0..=24).step_by(8) {
            let upper = sized(upper.clone(), len);
            for frame in [part4(MORE, &upper), part6(0, true, &upper)] {
                if len < needed {
                    assert_eq!(bad(&frame), DropReason::Fragment, "{upper:?} {len}");
                } else {
                    assert!(packet(&frame).is_first_fragment(), "{upper:?} {len}");
                }
            }
        }
    }
}

#[test]
fn first_fragment_of_a_length_that_receivers_round_is_refused() {
    // Linux cuts it to whole units: what was judged would come from another.
    for len in 16..24 {
        let upper = sized(tcp(7, 9, SYN), len);
        for frame in [part4(MORE, &upper), part6(0, true, &upper)] {
            if len == 16 {
                assert!(packet(&frame).is_first_fragment());
            } else {
                assert_eq!(bad(&frame), DropReason::Fragment, "{len}");
            }
        }
    }
}

#[test]
fn first_fragment_holds_all_extension_headers_and_counts_them() {
    // RFC 7112 section 5.
    let chain = |words| {
        V6::through(&[
            (HOP_BY_HOP, options(1)),
            (FRAGMENT, fragment(0, true)),
            (DESTINATION, options(words)),
        ])
    };
    let packet = packet(&chain(2).frame(&sized(udp(7, 9, 0), 16)));
    assert_eq!((packet.src_port, packet.dst_port), (7, 9));
    assert_eq!(fragment::units(packet.fragment), 4);
    assert_eq!(packet.protocol, UDP);
    let mut cut = chain(2);
    cut.payload_len = Some(8 + 8 + 8);
    let frame = cut.frame(&sized(udp(7, 9, 0), 16));
    assert!(matches!(
        bad(&frame),
        DropReason::Fragment | DropReason::Truncated
    ));
}

#[test]
fn fragment_of_a_fragment_is_refused() {
    for inner in [fragment(0, true), fragment(0, false), fragment(2, false)] {
        let ip = V6::through(&[(FRAGMENT, fragment(0, true)), (FRAGMENT, inner)]);
        assert_eq!(bad(&ip.frame(&udp(7, 9, 0))), DropReason::Fragment);
    }
    let atomic = V6::through(&[
        (FRAGMENT, fragment(0, false)),
        (FRAGMENT, fragment(0, true)),
    ]);
    assert!(packet(&atomic.frame(&udp(7, 9, 0))).is_first_fragment());
}

#[test]
fn neighbour_discovery_in_fragments_is_none() {
    // RFC 6980. A router advertisement keeps its type, by which it is refused.
    for message in [130, 133, 134, 135, 136, 137] {
        for hop_limit in [1, 255] {
            let ip = V6 {
                hop_limit,
                ..V6::through(&[(FRAGMENT, fragment(0, true))])
            };
            let packet = packet(&ip.frame(&sized(icmp6(message, 0, DST6), 24)));
            assert_eq!((packet.kind, packet.detail), (Kind::OtherIcmp, message));
        }
    }
}

#[test]
fn first_fragment_whose_header_is_not_readable_yet_is_truncated() {
    // More of it can be had: it is not the datagram that ends there.
    let frame = part4(MORE, &sized(tcp(7, 9, SYN), 32));
    struct Linear<'a>(&'a [u8], usize);
    impl PacketBytes for Linear<'_> {
        fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
            self.0[..self.1].get(offset..offset + N)?.try_into().ok()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
    }
    let parsed = parse(&Linear(&frame, 40));
    assert_eq!(parsed.class, Class::Bad(DropReason::Truncated));
}

//! What ICMP errors quote: whole, cut short, fragments, nonsense.

use super::super::quote::{is_about_a_flow, parse_quote};
use super::*;

/// Bytes without their Ethernet header.
fn inner(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// An error of this type about an IPv4 packet.
fn error4(message: u8, quoted: &[u8]) -> Vec<u8> {
    let mut upper = icmp(message, 0);
    upper.bytes.truncate(8);
    upper.bytes.extend(quoted);
    v4().frame(&upper)
}

/// An error of this type about an IPv6 packet.
fn error6(message: u8, quoted: &[u8]) -> Vec<u8> {
    let mut upper = icmp6(message, 0, DST6);
    upper.bytes.truncate(8);
    upper.bytes.extend(quoted);
    v6().frame(&upper)
}

/// The packet that an error in a frame quotes.
fn quoted(frame: &[u8]) -> Option<Packet> {
    let error = packet(frame);
    assert_eq!(error.kind, Kind::IcmpError);
    let mut quoted = Packet::EMPTY;
    parse_quote(&Promised(frame), &error, &mut quoted).then_some(quoted)
}

#[test]
fn eight_bytes_of_the_upper_layer_are_enough() {
    for (upper, kind) in [
        (tcp(7, 9, SYN), Kind::TcpData),
        (udp(7, 9, 40), Kind::Datagram),
        (sctp(7, 9, 1), Kind::SctpData),
    ] {
        let (four, six) = (v4().frame(&upper), v6().frame(&upper));
        for beyond in [0, 1, 4] {
            let packet = quoted(&error4(3, &inner(&four)[..28 + beyond])).unwrap();
            assert_eq!(seen(&packet), (kind, 7, 9, 0));
            assert_eq!((packet.protocol, packet.family), (upper.protocol, 4));
            assert_eq!((bytes4(packet.src), bytes4(packet.dst)), (SRC4, DST4));
            let packet = quoted(&error6(2, &inner(&six)[..48 + beyond])).unwrap();
            assert_eq!(seen(&packet), (kind, 7, 9, 0));
            assert_eq!((bytes16(packet.src), bytes16(packet.dst)), (SRC6, DST6));
        }
        for len in 0..24 {
            assert_eq!(quoted(&error4(3, &inner(&four)[..len])), None, "{len}");
        }
        for len in 0..44 {
            assert_eq!(quoted(&error6(2, &inner(&six)[..len])), None, "{len}");
        }
    }
}

#[test]
fn echoes_are_told_by_their_identifier_and_other_messages_not_at_all() {
    let about = |upper: &Upper| quoted(&error4(11, inner(&v4().frame(upper))));
    assert_eq!(
        about(&icmp(8, 77)).map(|packet| seen(&packet)),
        Some((Kind::EchoRequest, 0, 77, 0))
    );
    assert_eq!(
        about(&icmp(0, 77)).map(|packet| seen(&packet)),
        Some((Kind::EchoReply, 77, 0, 0))
    );
    // No error is about an error: RFC 1122 section 3.2.2.
    for message in [3, 5, 11, 13] {
        assert_eq!(about(&icmp(message, 77)), None);
    }
    let about6 = |upper: &Upper| quoted(&error6(3, inner(&v6().frame(upper))));
    assert_eq!(
        about6(&icmp6(128, 77, DST6)).map(|packet| seen(&packet)),
        Some((Kind::EchoRequest, 0, 77, 0))
    );
    for message in [1, 133, 135] {
        assert_eq!(about6(&icmp6(message, 77, DST6)), None);
    }
}

#[test]
fn options_and_extension_headers_in_the_quote_are_walked() {
    for words in 0..=10 {
        let ip = V4 {
            options: vec![1; words * 4],
            ..v4()
        };
        let packet = quoted(&error4(3, inner(&ip.frame(&udp(7, 9, 0))))).unwrap();
        assert_eq!((packet.src_port, packet.dst_port), (7, 9), "{words}");
    }
    let ip = V6::through(&[(HOP_BY_HOP, options(1)), (DESTINATION, options(3))]);
    let packet = quoted(&error6(2, inner(&ip.frame(&udp(7, 9, 0))))).unwrap();
    assert_eq!((packet.protocol, packet.dst_port), (UDP, 9));
}

#[test]
fn first_fragments_tell_a_flow_and_others_do_not() {
    for (fragment, tells) in [(0x2000, true), (1, false), (0x20b9, false)] {
        let ip = V4 { fragment, ..v4() };
        let frame = error4(11, inner(&ip.frame(&udp(7, 9, 8))));
        assert_eq!(quoted(&frame).is_some(), tells, "{fragment:#x}");
    }
    for (offset, tells) in [(0, true), (1, false)] {
        let ip = V6::through(&[(FRAGMENT, fragment(offset, true))]);
        let frame = error6(2, inner(&ip.frame(&udp(7, 9, 8))));
        assert_eq!(quoted(&frame).is_some(), tells, "{offset}");
    }
}

#[test]
fn quotes_of_the_other_family_and_noise_tell_nothing() {
    let (four, six) = (v4().frame(&udp(7, 9, 8)), v6().frame(&udp(7, 9, 8)));
    assert_eq!(quoted(&error4(3, inner(&six))), None);
    assert_eq!(quoted(&error6(1, inner(&four))), None);
    let mut short = inner(&four).to_vec();
    short[0] = 0x44;
    assert_eq!(quoted(&error4(3, &short)), None);
    assert_eq!(quoted(&error4(3, &[0xff; 64])), None);
}

#[test]
fn only_errors_about_a_flow_are_asked() {
    let about = |frame: &[u8]| is_about_a_flow(&packet(frame));
    for message in [3, 11, 12] {
        assert!(about(&error4(message, &[])), "{message}");
    }
    for message in [4, 5, 0, 8, 13] {
        assert!(!about(&error4(message, &[])), "{message}");
    }
    for message in 1..=4 {
        assert!(about(&error6(message, &[])), "{message}");
    }
    for message in [0, 5, 100, 127, 128, 129] {
        assert!(!about(&error6(message, &[])), "{message}");
    }
}

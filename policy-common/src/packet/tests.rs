//! The parser on every kind of packet, on every cut of it, and on noise.
//!
//! - [`build`]: frames, written from the RFCs.
//! - [`lengths`]: length fields, padding, cuts, noise.
//! - [`extensions`]: IPv6 extension headers.
//! - `parts`: fragments.
//! - [`plains`]: what is read in one go.
//! - [`quotes`]: what ICMP errors quote.

pub(crate) mod build;
mod extensions;
mod lengths;
mod parts;
mod plains;
mod quotes;

use std::vec;
use std::vec::Vec;

use build::*;

use super::*;
use crate::abi::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// Bytes that fail where the parser breaks what it promises to implementations.
struct Promised<'a>(&'a [u8]);

impl PacketBytes for Promised<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        assert!(offset <= bytes::MAX_OFFSET, "load at {offset}");
        self.0.load(offset)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// What is plain is so in whichever way it is read.
fn parsed(frame: &[u8]) -> Frame {
    let parsed = parse(&Promised(frame));
    plain::parse(&frame, |plain| {
        assert_eq!(plain, parsed, "{frame:02x?}");
    });
    parsed
}

fn is_plain(frame: &[u8]) -> bool {
    plain::parse(&frame, |_| {}).is_some()
}

/// The packet in a frame that is IP.
fn packet(frame: &[u8]) -> Packet {
    let parsed = parsed(frame);
    assert_eq!(parsed.class, Class::Ip, "{frame:02x?}");
    parsed.packet
}

fn bad(frame: &[u8]) -> DropReason {
    match parsed(frame).class {
        Class::Bad(reason) => reason,
        class => panic!("{class:?} from {frame:02x?}"),
    }
}

/// Kind, ports, detail.
type Seen = (Kind, u16, u16, u8);

fn seen(packet: &Packet) -> Seen {
    (packet.kind, packet.src_port, packet.dst_port, packet.detail)
}

/// What both families carry, and what it is.
fn uppers() -> Vec<(Upper, Seen)> {
    let tcp_kinds = [
        (SYN, Kind::TcpSyn),
        (SYN | ECE_CWR, Kind::TcpSyn),
        (SYN | FIN, Kind::TcpSyn),
        (SYN | PSH | URG, Kind::TcpSyn),
        (SYN | ACK, Kind::TcpSynAck),
        (SYN | ACK | FIN, Kind::TcpSynAck),
        (FIN, Kind::TcpFin),
        (FIN | ACK, Kind::TcpFin),
        (RST, Kind::TcpReset),
        (RST | ACK, Kind::TcpReset),
        (RST | SYN, Kind::TcpReset),
        (RST | FIN, Kind::TcpReset),
        (ACK, Kind::TcpData),
        (ACK | PSH, Kind::TcpData),
        (0, Kind::TcpData),
    ];
    let sctp_kinds = [
        (1, Kind::SctpInit),
        (6, Kind::SctpEnd),
        (14, Kind::SctpEnd),
        (0, Kind::SctpData),
        (2, Kind::SctpData),
        (10, Kind::SctpData),
    ];
    let mut all = vec![];
    for (flags, kind) in tcp_kinds {
        all.push((tcp(1_000, 80, flags), (kind, 1_000, 80, flags)));
    }
    for (chunk, kind) in sctp_kinds {
        all.push((sctp(1_000, 80, chunk), (kind, 1_000, 80, chunk)));
    }
    for len in [0, 30] {
        all.push((udp(5_353, 53, len), (Kind::Datagram, 5_353, 53, 0)));
    }
    // ESP, GRE, "no next header", experimental.
    for (protocol, len) in [(50, 24), (47, 8), (59, 0), (253, 1)] {
        all.push((other(protocol, len), (Kind::Datagram, 0, 0, 0)));
    }
    all
}

fn icmps() -> Vec<(Upper, Seen)> {
    let mut all = vec![
        (icmp(8, 77), (Kind::EchoRequest, 0, 77, 8)),
        (icmp(0, 77), (Kind::EchoReply, 77, 0, 0)),
    ];
    for message in [3, 4, 5, 11, 12] {
        all.push((icmp(message, 77), (Kind::IcmpError, 0, 0, message)));
    }
    for message in [9, 10, 13, 14, 17, 18, 40, 255] {
        all.push((icmp(message, 77), (Kind::OtherIcmp, 0, 0, message)));
    }
    all
}

/// ICMPv6 messages with the hop limit that they come with.
fn icmp6s() -> Vec<(u8, Upper, Seen)> {
    let mut all = vec![
        (3, icmp6(128, 77, DST6), (Kind::EchoRequest, 0, 77, 128)),
        (3, icmp6(129, 77, DST6), (Kind::EchoReply, 77, 0, 129)),
    ];
    for message in [0, 1, 2, 3, 4, 100, 127] {
        let kind = (Kind::IcmpError, 0, 0, message);
        all.push((64, icmp6(message, 77, DST6), kind));
    }
    // A router that passes one of these on takes one off its hop limit.
    let link_local = [
        (130, 1, Kind::MulticastListener),
        (131, 1, Kind::MulticastListener),
        (132, 1, Kind::MulticastListener),
        (143, 1, Kind::MulticastListener),
        (133, 255, Kind::RouterSolicitation),
        (134, 255, Kind::RouterAdvertisement),
        (135, 255, Kind::NeighbourSolicitation),
        (136, 255, Kind::NeighbourAdvertisement),
        (137, 255, Kind::RouterAdvertisement),
    ];
    for (message, hop_limit, kind) in link_local {
        let upper = icmp6(message, 0, DST6);
        all.push((hop_limit, upper.clone(), (kind, 0, 0, message)));
        for elsewhere in [0, 2, 64, 254] {
            let seen = (Kind::OtherIcmp, 0, 0, message);
            all.push((elsewhere, upper.clone(), seen));
        }
    }
    for message in [138, 139, 142, 144, 255] {
        let kind = (Kind::OtherIcmp, 0, 0, message);
        all.push((255, icmp6(message, 77, DST6), kind));
    }
    all
}

/// One frame of everything there is.
fn corpus() -> Vec<Vec<u8>> {
    let with_options = V4 {
        options: vec![1; 40],
        ..v4()
    };
    let chain = V6::through(&[
        (HOP_BY_HOP, options(1)),
        (ROUTING, options(2)),
        (FRAGMENT, fragment(0, false)),
        (AUTHENTICATION, authentication(6)),
        (DESTINATION, options(1)),
    ]);
    let mut all = vec![arp(SRC4), ethernet(0x8847, &[0; 20])];
    for (upper, _) in uppers() {
        all.extend([v4().frame(&upper), v6().frame(&upper)]);
        all.extend([with_options.frame(&upper), chain.frame(&upper)]);
    }
    for (upper, _) in icmps() {
        all.extend([v4().frame(&upper), with_options.frame(&upper)]);
    }
    for (hop_limit, upper, _) in icmp6s() {
        for ip in [v6(), chain.clone()] {
            all.push(V6 { hop_limit, ..ip }.frame(&upper));
        }
    }
    let first = V4 {
        fragment: 0x2000,
        ..v4()
    };
    let later = V6::through(&[(FRAGMENT, fragment(185, false))]);
    all.extend([
        first.frame(&udp(1, 2, 8)),
        later.frame(&udp(1, 2, 8)),
        tagged(&[0x8100], &v4().frame(&tcp(1, 2, SYN))),
        tagged(&[0x88a8, 0x8100], &v6().frame(&tcp(1, 2, SYN))),
    ]);
    all
}

#[test]
fn every_kind_is_told_in_both_families() {
    for (upper, expected) in uppers() {
        let v4 = packet(&v4().frame(&upper));
        assert_eq!((v4.family, v4.protocol), (family::V4, upper.protocol));
        assert_eq!((bytes4(v4.src), bytes4(v4.dst)), (SRC4, DST4));
        assert_eq!((seen(&v4), v4.transport_offset), (expected, 34));
        let v6 = packet(&v6().frame(&upper));
        assert_eq!((v6.family, v6.protocol), (family::V6, upper.protocol));
        assert_eq!((bytes16(v6.src), bytes16(v6.dst)), (SRC6, DST6));
        assert_eq!((seen(&v6), v6.transport_offset), (expected, 54));
    }
}

#[test]
fn icmp_messages_are_told_by_type() {
    for (upper, expected) in icmps() {
        assert_eq!(seen(&packet(&v4().frame(&upper))), expected);
    }
}

#[test]
fn icmp6_messages_are_told_by_type_and_hop_limit() {
    for (hop_limit, upper, expected) in icmp6s() {
        let frame = V6 { hop_limit, ..v6() }.frame(&upper);
        assert_eq!(seen(&packet(&frame)), expected, "hop limit {hop_limit}");
    }
}

#[test]
fn icmp_of_the_other_family_is_a_protocol_without_ports() {
    let v4 = packet(&v4().frame(&icmp6(128, 77, DST6)));
    assert_eq!(
        (v4.protocol, seen(&v4)),
        (ICMPV6, (Kind::Datagram, 0, 0, 0))
    );
    let v6 = packet(&v6().frame(&icmp(8, 77)));
    assert_eq!((v6.protocol, seen(&v6)), (ICMP, (Kind::Datagram, 0, 0, 0)));
}

#[test]
fn options_shift_the_ports() {
    for words in 0..=10 {
        let ip = V4 {
            options: vec![0xff; words * 4],
            ..v4()
        };
        for upper in [tcp(7, 9, SYN), udp(7, 9, 0), sctp(7, 9, 1)] {
            let packet = packet(&ip.frame(&upper));
            assert_eq!((packet.src_port, packet.dst_port), (7, 9), "{words} words");
            assert_eq!(usize::from(packet.transport_offset), 34 + words * 4);
        }
    }
}

#[test]
fn kinds_have_numbers_that_read_back() {
    for (upper, (kind, ..)) in uppers().into_iter().chain(icmps()) {
        assert_eq!(Kind::from_number(kind as u8), kind, "{upper:?}");
    }
    for number in 0..=u8::MAX {
        let kind = Kind::from_number(number);
        assert!(kind as u8 == number || kind == Kind::Fragment);
    }
    assert_eq!(Kind::from_number(Kind::Fragment as u8), Kind::Fragment);
}

#[test]
fn do_not_fragment_and_the_reserved_bit_make_no_fragment() {
    for fragment in [0, 0x4000, 0x8000, 0xc000] {
        let packet = packet(&V4 { fragment, ..v4() }.frame(&tcp(7, 9, SYN)));
        assert_eq!(packet.kind, Kind::TcpSyn, "{fragment:#x} is a whole packet");
    }
    for fragment in [0x0001, 0x1fff, 0x2001, 0xc001] {
        let packet = packet(&V4 { fragment, ..v4() }.frame(&tcp(7, 9, SYN)));
        assert_eq!(packet.kind, Kind::Fragment, "{fragment:#x}");
    }
}

#[test]
fn up_to_two_tags_are_walked() {
    let frames = [
        v4().frame(&tcp(7, 9, SYN)),
        v6().frame(&udp(7, 9, 3)),
        arp(SRC4),
        ethernet(0x8847, &[0; 40]),
    ];
    let walked: [&[u16]; 6] = [
        &[0x8100],
        &[0x88a8],
        &[0x8100, 0x8100],
        &[0x88a8, 0x8100],
        &[0x88a8, 0x88a8],
        &[0x8100, 0x88a8],
    ];
    for frame in &frames {
        let plain = parsed(frame);
        for tags in walked {
            let mut expected = plain;
            if plain.class == Class::Ip {
                expected.packet.transport_offset += if tags.len() == 1 { 4 } else { 8 };
            }
            assert_eq!(parsed(&tagged(tags, frame)), expected, "{tags:x?}");
        }
        for tags in [&[0x8100; 3][..], &[0x88a8; 4]] {
            assert_eq!(bad(&tagged(tags, frame)), DropReason::EtherType);
        }
    }
}

#[test]
fn other_protocols_of_the_link_are_told_apart_from_ip() {
    // MPLS, PPPoE, LLDP, 802.3 length, and a tag that is none of ours.
    for ether_type in [0x8847, 0x8864, 0x88cc, 0x0026, 0x9100] {
        let frame = parsed(&ethernet(ether_type, &v4().carry(&tcp(7, 9, SYN))));
        assert_eq!((frame.class, frame.packet), (Class::Other, Packet::EMPTY));
    }
}

#[test]
fn arp_tells_the_address_that_it_announces() {
    for sender in [SRC4, [0; 4], [255; 4]] {
        let frame = parsed(&arp(sender));
        assert_eq!(frame.class, Class::Arp);
        assert_eq!(frame.packet.src, words4(sender));
    }
    let mut ieee802 = arp(SRC4);
    ieee802[15] = 6;
    assert_eq!(parsed(&ieee802).class, Class::Arp, "Linux takes it too");
}

#[test]
fn arp_for_anything_else_is_malformed() {
    // Hardware type, protocol type, address lengths.
    for (at, value) in [(14, 1), (15, 2), (16, 0x86), (17, 1), (18, 8), (19, 16)] {
        let mut frame = arp(SRC4);
        frame[at] = value;
        assert_eq!(bad(&frame), DropReason::Malformed, "byte {at}");
    }
}

#[test]
fn header_of_another_version_is_malformed() {
    let v4_frame = v4().frame(&tcp(7, 9, SYN));
    let v6_frame = v6().frame(&tcp(7, 9, SYN));
    for version in (0..16).filter(|version| *version != 4) {
        let mut frame = v4_frame.clone();
        frame[14] = version << 4 | 5;
        assert_eq!(bad(&frame), DropReason::Malformed, "{version} as IPv4");
    }
    for version in (0..16).filter(|version| *version != 6) {
        let mut frame = v6_frame.clone();
        frame[14] = version << 4;
        assert_eq!(bad(&frame), DropReason::Malformed, "{version} as IPv6");
    }
}

#[test]
fn header_length_below_twenty_is_malformed() {
    for words in 0..5 {
        let mut frame = v4().frame(&tcp(7, 9, SYN));
        frame[14] = 0x40 | words;
        assert_eq!(bad(&frame), DropReason::Malformed, "{words} words");
    }
}

#[test]
fn mapped_addresses_are_malformed_and_near_misses_are_not() {
    let mapped = bytes16(words4(SRC4));
    let upper = tcp(7, 9, SYN);
    let from = V6 {
        src: mapped,
        ..v6()
    };
    let to = V6 {
        dst: mapped,
        ..v6()
    };
    assert_eq!(bad(&from.frame(&upper)), DropReason::Malformed);
    assert_eq!(bad(&to.frame(&upper)), DropReason::Malformed);
    // One bit off in every byte of the prefix.
    for i in 0..12 {
        let mut src = mapped;
        src[i] ^= 1;
        packet(&V6 { src, ..v6() }.frame(&upper));
    }
}

#[test]
fn families_never_share_an_address() {
    assert_eq!(words4(SRC4), words6(bytes16(words4(SRC4))));
    let v4 = packet(&v4().frame(&udp(7, 9, 0)));
    let v6 = packet(&v6().frame(&udp(7, 9, 0)));
    assert_eq!(
        bytes16(v4.src)[..12],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    );
    assert_ne!(v4.src, v6.src);
}

#[test]
fn kinds_have_the_properties_that_their_names_promise() {
    let of = |upper: Upper| packet(&v4().frame(&upper)).kind;
    for upper in [tcp(1, 2, SYN), sctp(1, 2, 1), icmp(8, 1)] {
        let kind = of(upper);
        assert!(kind.only_opens() && kind.opens() && !kind.is_cacheable());
    }
    let datagram = of(udp(1, 2, 0));
    assert!(datagram.opens() && !datagram.only_opens() && datagram.is_cacheable());
    for flags in [ACK, FIN, RST] {
        let kind = of(tcp(1, 2, flags));
        assert!(kind.is_midstream_tcp() && !kind.opens());
        assert_eq!(kind.is_cacheable(), flags == ACK);
    }
    for upper in [tcp(1, 2, SYN | ACK), icmp(0, 1), icmp(3, 1), icmp(13, 1)] {
        let kind = of(upper);
        assert!(!kind.opens() && !kind.is_midstream_tcp() && !kind.is_cacheable());
    }
    assert_eq!([TCP, UDP, SCTP], [6, 17, 132], "as IANA has them");
}

//! What the length fields say, what is there, and what is neither.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::random::Random;

#[test]
fn length_beyond_the_frame_is_truncated() {
    for upper in [tcp(7, 9, SYN), udp(7, 9, 4), icmp(8, 1), other(50, 12)] {
        let len = u16::try_from(upper.bytes.len()).unwrap();
        for more in [1, 2, 100, 60_000] {
            let ip = V4 {
                total_len: Some(20 + len + more),
                ..v4()
            };
            assert_eq!(bad(&ip.frame(&upper)), DropReason::Truncated);
            let ip = V6 {
                payload_len: Some(len + more),
                ..v6()
            };
            assert_eq!(bad(&ip.frame(&upper)), DropReason::Truncated);
        }
    }
}

#[test]
fn length_below_the_header_is_malformed() {
    for total_len in 1..20 {
        let ip = V4 {
            total_len: Some(total_len),
            ..v4()
        };
        assert_eq!(bad(&ip.frame(&tcp(7, 9, SYN))), DropReason::Malformed);
    }
    let ip = V4 {
        options: vec![0; 8],
        total_len: Some(27),
        ..v4()
    };
    assert_eq!(bad(&ip.frame(&tcp(7, 9, SYN))), DropReason::Malformed);
}

#[test]
fn padding_is_never_read_as_a_header() {
    // The bytes of a header are there, but beyond the end of the packet.
    let needed = [
        (tcp(7, 9, SYN), 14),
        (udp(7, 9, 0), 8),
        (sctp(7, 9, 1), 13),
        (icmp(8, 1), 8),
    ];
    for (upper, needed) in needed {
        for len in 0..needed {
            let ip = V4 {
                total_len: Some(20 + len),
                ..v4()
            };
            let reason = bad(&ip.frame(&upper));
            assert_eq!(reason, DropReason::Truncated, "{upper:?} in {len} bytes");
        }
    }
    let needed6 = [(tcp(7, 9, SYN), 14), (icmp6(128, 1, DST6), 8)];
    for (upper, needed) in needed6 {
        for len in 1..needed {
            let ip = V6 {
                payload_len: Some(len),
                ..v6()
            };
            assert_eq!(bad(&ip.frame(&upper)), DropReason::Truncated);
        }
    }
}

#[test]
fn padding_behind_a_packet_changes_nothing() {
    for frame in corpus() {
        let plain = parsed(&frame);
        for padding in [1, 6, 46] {
            let padded = [&frame[..], &vec![0xff; padding]].concat();
            assert_eq!(parsed(&padded), plain, "{frame:02x?}");
        }
    }
}

#[test]
fn length_zero_means_to_the_end_of_the_frame() {
    let ip = V4 {
        total_len: Some(0),
        ..v4()
    };
    let big = Upper {
        bytes: [tcp(7, 9, ACK).bytes, vec![0; 70_000]].concat(),
        ..tcp(7, 9, ACK)
    };
    assert_eq!(seen(&packet(&ip.frame(&big))).0, Kind::TcpData);
    // With a jumbo payload option (RFC 2675), as the kernel sends them.
    let mut jumbo = options(1);
    jumbo[2..4].copy_from_slice(&[0xc2, 4]);
    let ip6 = V6 {
        payload_len: Some(0),
        ..V6::through(&[(HOP_BY_HOP, jumbo)])
    };
    let packet = packet(&ip6.frame(&big));
    assert_eq!(seen(&packet), (Kind::TcpData, 7, 9, ACK));
    assert_eq!(packet.transport_offset, 62);
    // The header must be there all the same.
    for len in 0..14 {
        let short = Upper {
            bytes: tcp(7, 9, SYN).bytes[..len].to_vec(),
            ..tcp(7, 9, SYN)
        };
        assert_eq!(bad(&ip.frame(&short)), DropReason::Truncated);
        assert_eq!(bad(&ip6.frame(&short)), DropReason::Truncated);
    }
}

#[test]
fn options_beyond_the_frame_are_truncated_whatever_the_protocol() {
    for upper in [tcp(7, 9, SYN), other(50, 4)] {
        let mut frame = V4 {
            total_len: Some(0),
            ..v4()
        }
        .frame(&upper);
        frame[14] = 0x4f;
        assert_eq!(bad(&frame), DropReason::Truncated, "{upper:?}");
    }
}

/// What a cut of a frame may say: the same, or that it is bad.
fn assert_not_more(frame: &[u8], len: usize) {
    let whole = parsed(frame);
    let cut = parsed(&frame[..len]);
    match cut.class {
        Class::Bad(_) => {}
        _ => assert_eq!(cut, whole, "{len} bytes of {frame:02x?}"),
    }
}

#[test]
fn every_cut_of_every_packet_is_bad_or_the_same() {
    for frame in corpus() {
        let whole = parsed(&frame);
        for len in 0..frame.len() {
            assert_not_more(&frame, len);
            if whole.class == Class::Ip {
                assert_eq!(bad(&frame[..len]), DropReason::Truncated);
            }
        }
    }
}

#[test]
fn every_cut_of_a_packet_of_length_zero_is_bad_or_the_same() {
    for (upper, _) in uppers() {
        let ip4 = V4 {
            total_len: Some(0),
            options: vec![0; 12],
            ..v4()
        };
        let chain = V6::through(&[(HOP_BY_HOP, options(2)), (DESTINATION, options(1))]);
        let ip6 = V6 {
            payload_len: Some(0),
            ..chain
        };
        for frame in [ip4.frame(&upper), ip6.frame(&upper)] {
            for len in 0..frame.len() {
                assert_not_more(&frame, len);
            }
        }
    }
}

/// A frame of noise, most of the time behind a header that leads somewhere.
fn noise(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    if random.once_in(4) {
        let len = random.below(120);
        let mut frame: Vec<u8> = (0..len).map(|_| random.byte()).collect();
        if len > 15 {
            let (types, version) = *random.pick(&[([8, 0], 0x45), ([0x86, 0xdd], 0x60)]);
            frame[12..14].copy_from_slice(&types);
            frame[14] = version;
        }
        return frame;
    }
    let mut frame = random.pick(corpus).clone();
    for _ in 0..random.below(6) {
        let at = random.below(frame.len());
        frame[at] = random.byte();
    }
    frame
}

#[test]
fn noise_never_panics_and_its_cuts_never_say_more() {
    let corpus = corpus();
    let mut understood = 0;
    for seed in 0..100_000 {
        let mut random = Random::new(seed);
        let frame = noise(&mut random, &corpus);
        let whole = parsed(&frame);
        understood += u32::from(whole.class == Class::Ip);
        assert_eq!((whole.pad, whole.pad_2, whole.pad_4), (0, 0, 0));
        if whole.class == Class::Ip {
            assert!(usize::from(whole.packet.transport_offset) <= bytes::MAX_OFFSET);
        }
        let len = random.below(frame.len() + 1);
        let cut = parsed(&frame[..len]);
        if let Class::Bad(_) = whole.class {
            let still = matches!(cut.class, Class::Bad(_));
            assert!(still, "seed {seed}: {len} bytes of {frame:02x?}");
        } else {
            assert_not_more(&frame, len);
        }
    }
    assert!(understood > 20_000, "too little of it was a packet");
    assert!(understood < 90_000, "too little of it was bad");
}

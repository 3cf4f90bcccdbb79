//! Which frames are read in one go. That the parser says the same of them, every test of
//! it asserts; here are the ones that must be, and what must never be.

use super::*;

/// TCP and UDP as they mostly come.
fn plains() -> Vec<Vec<u8>> {
    let flags = [
        ACK,
        ACK | PSH,
        SYN | ECE_CWR,
        SYN | ACK,
        FIN | ACK,
        RST,
        URG,
    ];
    let tcp = flags.map(|flags| tcp(7, 9, flags));
    let uppers = tcp.into_iter().chain([udp(7, 9, 30)]);
    uppers
        .flat_map(|upper| [v4().frame(&upper), v6().frame(&upper)])
        .collect()
}

#[test]
fn segments_and_datagrams_are_plain() {
    for frame in plains() {
        assert!(is_plain(&frame), "{frame:02x?}");
        let mut padded = frame.clone();
        padded.extend([0; 6]);
        assert!(is_plain(&padded), "{padded:02x?}");
    }
}

#[test]
fn nothing_is_plain_whose_ports_stand_elsewhere_or_nowhere() {
    let upper = tcp(7, 9, ACK);
    let with_options = V4 {
        options: vec![1; 4],
        ..v4()
    };
    let mut others: Vec<_> = [0x2000, 0x2001, 0x0001]
        .into_iter()
        .map(|fragment| V4 { fragment, ..v4() }.frame(&upper))
        .collect();
    others.push(with_options.frame(&upper));
    others.push(V6::through(&[(HOP_BY_HOP, options(1))]).frame(&upper));
    for upper in [
        sctp(7, 9, 1),
        icmp(8, 1),
        icmp6(128, 1, DST6),
        other(50, 40),
    ] {
        others.extend([v4().frame(&upper), v6().frame(&upper)]);
    }
    // IPv4 in an address of IPv6.
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    others.push(
        V6 {
            src: mapped,
            ..v6()
        }
        .frame(&upper),
    );
    others.push(
        V6 {
            dst: mapped,
            ..v6()
        }
        .frame(&upper),
    );
    for frame in &others {
        assert!(!is_plain(frame), "{frame:02x?}");
    }
    for mut frame in plains() {
        frame.splice(12..12, [0x81, 0, 0, 5]);
        assert!(!is_plain(&frame), "tagged");
    }
}

#[test]
fn each_bit_and_each_cut_of_a_plain_frame_reads_the_same_both_ways() {
    let (mut still, mut no_more) = (0, 0);
    let mut count = |frame: &[u8]| {
        parsed(frame);
        if is_plain(frame) {
            still += 1;
        } else {
            no_more += 1;
        }
    };
    for frame in plains() {
        for len in 0..frame.len() {
            count(&frame[..len]);
        }
        for bit in 0..frame.len() * 8 {
            let mut other = frame.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            count(&other);
        }
    }
    assert!(still > 1_000 && no_more > 1_000, "{still} {no_more}");
}

//! Packets that hide what they are: options, extension headers, tags, what is cut
//! short or contradicts itself, other people's addresses.
//!
//! Each is asked about at a pod that is isolated both ways and may exchange UDP
//! with port 53 of its friend and TCP with port 80; what must pass and what must
//! not stand side by side. What all of these mean is in `policy-common/src/packet`,
//! byte by byte; here the loaded programs are asked.

use std::net::IpAddr;

use policy_common::abi::{Direction, event::DropReason};

use crate::bed::on_bed;
use crate::crafted::{BOTH, Ends, Scene, TCP, UDP, frame, udp};

const ETHERNET: usize = 14;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Asserts that the pod gets and may send what `build` makes of an allowed flow,
/// and neither of a flow to another port or with a stranger.
fn judged_like_any_other(scene: &Scene<'_>, ends: Ends, build: impl Fn(Flow) -> Vec<u8>) {
    let Ends {
        pod,
        friend,
        stranger,
    } = ends;
    for (peer, port, passes) in [
        (friend, 53, true),
        (friend, 54, false),
        (stranger, 53, false),
    ] {
        let inward = build((peer, pod, port));
        assert_eq!(scene.gets(&inward), passes, "from {peer} to port {port}");
        let outward = build((pod, peer, port));
        assert_eq!(scene.sends(&outward), passes, "to {peer} port {port}");
    }
}

/// From, to, destination port.
type Flow = (IpAddr, IpAddr, u16);

fn datagram((from, to, port): Flow) -> Vec<u8> {
    frame(from, to, UDP, &udp(1_000, port, 24))
}

/// The frame with options in its IPv4 header: `words` of four bytes.
fn with_options(mut frame: Vec<u8>, words: u8) -> Vec<u8> {
    // Bytes that would be ports 53 and 80, if they were read as ports.
    let mut options = [0, 80, 0, 53].repeat(words.into());
    // The last is the end of the list, the first a "no operation".
    options[0] = 1;
    frame[ETHERNET] += words;
    let total = u16::from_be_bytes([frame[ETHERNET + 2], frame[ETHERNET + 3]]);
    let total = total + u16::from(words) * 4;
    frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
    let header = ETHERNET + 20;
    frame.splice(header..header, options);
    frame
}

#[test]
fn options_of_ipv4_do_not_hide_the_ports() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for words in [1, 4, 10] {
            judged_like_any_other(&scene, BOTH[0], |flow| with_options(datagram(flow), words));
        }
    });
}

/// A datagram behind extension headers of these types, eight bytes each, or
/// sixteen for an authentication header.
fn behind(headers: &[u8], (from, to, port): Flow) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, kind) in headers.iter().enumerate() {
        let next = headers.get(index + 1).copied().unwrap_or(UDP);
        match *kind {
            // Reserved, index and sequence number, check value.
            AUTHENTICATION => body.extend([next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 53, 0, 53]),
            // Of a kind that asks nothing, with no segments left.
            ROUTING => body.extend([next, 0, 253, 0, 0, 53, 0, 53]),
            // Padding: RFC 8200 section 4.2.
            _ => body.extend([next, 0, 1, 4, 0, 53, 0, 53]),
        }
    }
    body.extend(udp(1_000, port, 24));
    frame(from, to, headers.first().copied().unwrap_or(UDP), &body)
}

#[test]
fn extension_headers_of_ipv6_are_walked() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for headers in [
            &[HOP_BY_HOP][..],
            &[DESTINATION],
            &[ROUTING],
            &[AUTHENTICATION],
            &[
                HOP_BY_HOP,
                DESTINATION,
                ROUTING,
                AUTHENTICATION,
                DESTINATION,
            ],
        ] {
            judged_like_any_other(&scene, BOTH[1], |flow| behind(headers, flow));
        }
    });
}

#[test]
fn more_extension_headers_than_are_walked_pass_no_isolated_pod_and_leave_none() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let Ends { pod, friend, .. } = BOTH[1];
        let seven = [DESTINATION; 7];
        let eight = [DESTINATION; 8];
        assert!(scene.gets(&behind(&seven, (friend, pod, 53))));
        assert!(scene.sends(&behind(&seven, (pod, friend, 53))));
        assert!(!scene.gets(&behind(&eight, (friend, pod, 53))));
        assert!(!scene.sends(&behind(&eight, (pod, friend, 53))));
        // The friend is isolated neither way: it gets what nobody can judge, but
        // may not send it, because it could be a router's advertisement.
        assert!(scene.friend_gets(&behind(&eight, (pod, friend, 53))));
        assert!(scene.friend_sends(&behind(&seven, (friend, pod, 53))));
        assert!(!scene.friend_sends(&behind(&eight, (friend, pod, 53))));
        let dropped = |direction| scene.dropped(direction, DropReason::ExtensionHeaders);
        assert_eq!(dropped(Direction::Ingress), 1);
        assert_eq!(dropped(Direction::Egress), 2);
    });
}

/// The frame with VLAN tags of these EtherTypes, outermost first.
fn tagged(mut frame: Vec<u8>, tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|tag| {
        let [high, low] = tag.to_be_bytes();
        [high, low, 0, 7]
    });
    let tags: Vec<u8> = tags.collect();
    frame.splice(12..12, tags);
    frame
}

#[test]
fn vlan_tags_do_not_hide_the_packet() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for ends in BOTH {
            for tags in [&[0x8100][..], &[0x88a8], &[0x88a8, 0x8100]] {
                judged_like_any_other(&scene, ends, |flow| tagged(datagram(flow), tags));
            }
        }
    });
}

#[test]
fn what_is_behind_three_tags_or_is_no_ip_passes_open_pods_only() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends { pod, friend, .. } in BOTH {
            let three = |flow| tagged(datagram(flow), &[0x88a8, 0x8100, 0x8100]);
            let other = |flow| {
                let mut frame = datagram(flow);
                // IEEE 1588, over Ethernet.
                frame[12..14].copy_from_slice(&[0x88, 0xf7]);
                frame
            };
            for frame in [three((friend, pod, 53)), other((friend, pod, 53))] {
                assert!(!scene.gets(&frame) && scene.friend_sends(&frame), "{pod}");
            }
            for frame in [three((pod, friend, 53)), other((pod, friend, 53))] {
                assert!(!scene.sends(&frame) && scene.friend_gets(&frame), "{pod}");
            }
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(scene.dropped(direction, DropReason::EtherType), 4);
        }
    });
}

#[test]
fn packets_cut_short_anywhere_reach_open_pods_only_and_leave_none() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends { pod, friend, .. } in BOTH {
            let inward = datagram((friend, pod, 53));
            let outward = datagram((pod, friend, 53));
            assert!(scene.gets(&inward) && scene.sends(&outward), "whole");
            let header = if pod.is_ipv4() { 20 } else { 40 };
            // Kernels refuse to run a program on less than an IP header.
            for length in ETHERNET + header..inward.len() {
                let (inward, outward) = (&inward[..length], &outward[..length]);
                assert!(!scene.gets(inward) && !scene.sends(outward), "{length}");
                assert!(scene.friend_gets(outward), "{length}");
                // Whether the source is the pod's is not known before all else is.
                assert!(!scene.friend_sends(inward), "{length}");
            }
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let dropped = scene.dropped(direction, DropReason::Truncated);
            let pods = if direction == Direction::Egress { 2 } else { 1 };
            assert_eq!(dropped, pods * 2 * 24, "every length, in both families");
        }
    });
}

#[test]
fn headers_that_contradict_themselves_reach_open_pods_only_and_leave_none() {
    /// What is wrong with an IPv4 header: a byte of it, and its value.
    const WRONG: [(usize, u8); 4] = [
        // Another version, and a header of 16 bytes.
        (0, 0x65),
        (0, 0x44),
        // Longer in all than the header by less than nothing: 19 bytes.
        (3, 19),
        // A header that is longer than the packet.
        (0, 0x4f),
    ];
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let Ends { pod, friend, .. } = BOTH[0];
        for (offset, value) in WRONG {
            let spoil = |flow| {
                let mut frame = datagram(flow);
                frame[ETHERNET + offset] = value;
                frame
            };
            assert!(scene.gets(&datagram((friend, pod, 53))));
            assert!(!scene.gets(&spoil((friend, pod, 53))), "{offset} {value}");
            assert!(!scene.sends(&spoil((pod, friend, 53))), "{offset} {value}");
            assert!(scene.friend_gets(&spoil((pod, friend, 53))), "{value}");
            assert!(!scene.friend_sends(&spoil((friend, pod, 53))), "{value}");
        }
        let mut version = datagram((BOTH[1].friend, BOTH[1].pod, 53));
        assert!(scene.gets(&version));
        version[ETHERNET] = 0x40;
        assert!(!scene.gets(&version), "IPv6 that says it is version 4");
    });
}

#[test]
fn sources_that_are_not_the_pods_leave_no_pod() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            assert!(scene.sends(&datagram((pod, friend, 53))), "{pod}");
            assert!(!scene.sends(&datagram((stranger, friend, 53))), "{pod}");
            // Nor one that nothing isolates.
            assert!(scene.friend_sends(&datagram((friend, pod, 53))), "{pod}");
            assert!(!scene.friend_sends(&datagram((stranger, pod, 53))), "{pod}");
            // Nor behind tags, nor in what is cut short.
            let tagged = tagged(datagram((stranger, pod, 53)), &[0x8100]);
            assert!(!scene.friend_sends(&tagged), "{pod}");
            let short = frame(stranger, pod, UDP, &[0; 4]);
            assert!(!scene.friend_sends(&short), "{pod}");
        }
        let dropped = scene.dropped(Direction::Egress, DropReason::Spoofed);
        assert_eq!(dropped, 8);
        assert_eq!(scene.dropped(Direction::Egress, DropReason::Policy), 0);
    });
}

/// A segment with these flags.
fn segment((from, to, port): Flow, flags: u8) -> Vec<u8> {
    let mut body = Vec::from(1_000_u16.to_be_bytes());
    body.extend(port.to_be_bytes());
    body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 255, 255, 0, 0, 0, 0]);
    frame(from, to, TCP, &body)
}

#[test]
fn a_segment_passes_by_its_port_whatever_flags_it_has() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends { pod, friend, .. } in BOTH {
            // None, all of them ("Christmas tree"), FIN and SYN, a lone FIN.
            for flags in [0, 0x3f, 0x03, 0x01] {
                assert!(scene.gets(&segment((friend, pod, 80), flags)), "{flags}");
                assert!(!scene.gets(&segment((friend, pod, 81), flags)), "{flags}");
            }
        }
    });
}

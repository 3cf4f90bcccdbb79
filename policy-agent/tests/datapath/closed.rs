//! Addresses of the node's pod range that no protected pod has: what other pods
//! send to them is dropped where it is sent, and what comes from elsewhere where it
//! arrives. What others have sent and the node's own is as it was.
//!
//! `p0` is the interface of the friend, whom nothing isolates, and stands for one by
//! which packets arrive.

use std::{collections::BTreeSet, net::IpAddr};

use policy_agent::datapath::{ClosedRange, Hook, test_run::Trial};
use policy_common::abi::{Direction, event::DropReason};

use crate::bed::on_bed;
use crate::crafted::{BOTH, Ends, Scene, TCP, UDP, frame, part, udp};

const RANGES: [&str; 2] = ["10.0.0.0/24", "fd00::/64"];
/// Of the range, and nobody has it yet.
const NEWBORN: [&str; 2] = ["10.0.0.77", "fd00::77"];
/// Not of the range.
const BEYOND: [&str; 2] = ["10.0.1.77", "fd00:0:0:1::77"];

fn address(texts: [&str; 2], ends: Ends) -> IpAddr {
    let text = if ends.pod.is_ipv4() {
        texts[0]
    } else {
        texts[1]
    };
    text.parse().unwrap()
}

fn range() -> ClosedRange {
    ClosedRange::of(&RANGES.map(|range| range.parse().unwrap())).unwrap()
}

/// Closes the range but for pod and friend, and these.
fn close(scene: &Scene<'_>, also: &[IpAddr]) -> bool {
    let mut open: BTreeSet<IpAddr> = also.iter().copied().collect();
    for ends in BOTH {
        open.extend([ends.pod, ends.friend]);
    }
    scene.datapath.maps().close(&range(), &open).unwrap()
}

fn datagram(from: IpAddr, to: IpAddr) -> Vec<u8> {
    frame(from, to, UDP, &udp(1_000, 53, 24))
}

/// Whether a packet passes where it arrives at the node, and also where it goes on to
/// a bridge. What the node sends itself always does.
fn arrives(scene: &Scene<'_>, packet: &[u8]) -> bool {
    let (passes, _) = scene.at(Hook::Arrive, packet, 0);
    assert_eq!(scene.at(Hook::Wire, packet, 0).0, passes);
    let of_node = Trial {
        hook: Hook::Wire,
        ifindex: scene.bed.ifindex,
        ingress_ifindex: 0,
        mark: 0,
    };
    assert!(
        scene
            .datapath
            .try_packet(packet, of_node, 1)
            .unwrap()
            .passes
    );
    passes
}

#[test]
fn an_address_of_the_pod_range_is_closed_until_its_pod_is_protected() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for ends in BOTH {
            let newborn = address(NEWBORN, ends);
            let sent = datagram(ends.friend, newborn);
            let arriving = datagram(ends.stranger, newborn);
            assert!(
                scene.friend_sends(&sent) && arrives(&scene, &arriving),
                "nothing closed"
            );

            close(&scene, &[]);
            let dropped = |direction| scene.dropped(direction, DropReason::NoEndpoint);
            let before = [Direction::Egress, Direction::Ingress].map(dropped);
            assert!(!scene.friend_sends(&sent) && !arrives(&scene, &arriving));
            let after = [Direction::Egress, Direction::Ingress].map(dropped);
            assert_eq!(after, [before[0] + 1, before[1] + 2]);
            for other in [ends.pod, address(BEYOND, ends)] {
                assert!(scene.friend_sends(&datagram(ends.friend, other)), "{other}");
                assert!(arrives(&scene, &datagram(ends.stranger, other)), "{other}");
            }

            close(&scene, &[newborn]);
            assert!(
                scene.friend_sends(&sent) && arrives(&scene, &arriving),
                "protected"
            );
            close(&scene, &[]);
            assert!(
                !scene.friend_sends(&sent) && !arrives(&scene, &arriving),
                "gone again"
            );
            scene.datapath.maps().set_enforce(false).unwrap();
            assert!(
                scene.friend_sends(&sent) && arrives(&scene, &arriving),
                "switched off"
            );
            scene.datapath.maps().set_enforce(true).unwrap();
            assert!(!scene.friend_sends(&sent) && !arrives(&scene, &arriving));
            let nothing = ClosedRange::default();
            assert!(
                scene
                    .datapath
                    .maps()
                    .close(&nothing, &BTreeSet::new())
                    .unwrap()
            );
            assert!(
                scene.friend_sends(&sent) && arrives(&scene, &arriving),
                "opened"
            );
        }
    });
}

#[test]
fn nothing_sent_to_a_closed_address_passes_but_what_finds_neighbours() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        close(&scene, &[]);
        for ends in BOTH {
            let newborn = address(NEWBORN, ends);
            let body = udp(1_000, 53, 64);
            let ways = (ends.friend, newborn);
            let mut cut = datagram(ends.friend, newborn);
            cut.truncate(cut.len() - 4);
            let tagged = |tags: usize, to| {
                let mut packet = datagram(ends.friend, to);
                for _ in 0..tags {
                    packet.splice(12..12, [0x81, 0, 0, 0]);
                }
                packet
            };
            for tags in 1..=2 {
                let open = tagged(tags, ends.pod);
                assert!(
                    scene.friend_sends(&open) && arrives(&scene, &open),
                    "{tags}"
                );
            }
            for (what, packet) in [
                ("TCP", frame(ends.friend, newborn, TCP, &[0; 20])),
                (
                    "an unknown protocol",
                    frame(ends.friend, newborn, 253, &[0; 20]),
                ),
                ("a first fragment", part(ways, UDP, (7, 0, true), &body)),
                ("a later fragment", part(ways, UDP, (7, 64, false), &body)),
                ("a frame that ends too early", cut),
                ("one tag", tagged(1, newborn)),
                ("two tags", tagged(2, newborn)),
                ("three tags", tagged(3, newborn)),
                ("four tags", tagged(4, newborn)),
            ] {
                assert!(!scene.friend_sends(&packet), "{what} to {newborn}");
                assert!(!arrives(&scene, &packet), "{what} to {newborn}");
            }
        }
        let [v4, v6] = BOTH;
        // To all: the last address of the range, and multicast.
        for to in ["10.0.0.255", "224.0.0.251"] {
            let packet = datagram(v4.friend, to.parse().unwrap());
            assert!(
                scene.friend_sends(&packet) && arrives(&scene, &packet),
                "{to}"
            );
        }
        let packet = datagram(v6.friend, "ff02::fb".parse().unwrap());
        assert!(scene.friend_sends(&packet) && arrives(&scene, &packet));
        // An advertisement of the friend's own address, as it answers a newborn.
        let IpAddr::V6(friend) = v6.friend else {
            panic!("an address of the family")
        };
        let mut body = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
        body.extend(friend.octets());
        let mut packet = frame(v6.friend, address(NEWBORN, v6), 58, &body);
        assert!(!scene.friend_sends(&packet), "forwarded by a router");
        packet[14 + 7] = 255;
        assert!(scene.friend_sends(&packet) && arrives(&scene, &packet));
    });
}

#[test]
fn a_flow_that_passed_is_held_back_once_its_pod_is_gone() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for ends in BOTH {
            let earlier = address(NEWBORN, ends);
            let packet = datagram(ends.friend, earlier);
            close(&scene, &[earlier]);
            for _ in 0..10 {
                assert!(scene.friend_sends(&packet));
            }
            close(&scene, &[]);
            assert!(!scene.friend_sends(&packet), "from the cache");
            assert!(scene.friend_sends(&datagram(ends.friend, ends.pod)));
        }
    });
}

#[test]
fn what_is_closed_is_compared_and_put_right() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let closed = || scene.datapath.maps().closed_range();
        assert!(closed().is_empty());
        assert!(close(&scene, &[]));
        assert!(!close(&scene, &[]), "as it was");
        assert_eq!(closed(), range());
        let pins = bed.pins();
        let packet = datagram(BOTH[0].friend, BOTH[0].pod);
        assert!(arrives(&scene, &packet));
        let key = "0 0 0 0 0 0 0 0 0 0 255 255 10 0 0 2";
        let map = pins.map("pa_protected");
        crate::bed::run(
            "bpftool",
            &format!("map delete pinned {} key {key}", map.display()),
        );
        assert!(!arrives(&scene, &packet), "somebody removed the row");
        assert!(close(&scene, &[]), "told");
        assert!(arrives(&scene, &packet), "and put right");
    });
}

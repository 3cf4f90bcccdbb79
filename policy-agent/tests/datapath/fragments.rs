//! Fragments: those that follow the first of their datagram, and all others.

use policy_agent::datapath::Hook;
use policy_common::abi::{
    Direction,
    event::DropReason,
    maps::FRAGMENTS,
    mark,
    service::{Svc, SvcBackend, SvcKey},
};
use policy_core::ops::Op;

use crate::bed::{ACK, FRIEND_ID, POLICY, SLOT, SYN, apply, on_bed, word};
use crate::crafted::{BOTH, Ends, Scene, TCP, UDP, frame, part, udp};

/// The first fragment of a datagram to port 53 and 24 bytes long, and a second.
fn datagram(ends: (std::net::IpAddr, std::net::IpAddr), id: u16, port: u16) -> [Vec<u8>; 2] {
    [
        part(ends, UDP, (id, 0, true), &udp(1_000, port, 24)),
        part(ends, UDP, (id, 24, false), &[7; 16]),
    ]
}

#[test]
fn fragments_follow_the_first_of_their_datagram() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends { pod, friend, .. } in BOTH {
            let [first, second] = datagram((friend, pod), 1, 53);
            assert!(scene.gets(&first) && scene.gets(&second), "{friend}");
            assert!(scene.gets(&second), "duplicates follow too");
            let [first, second] = datagram((pod, friend), 1, 53);
            assert!(scene.sends(&first) && scene.sends(&second), "{friend}");
            // The flow cache knows the flow; the next datagram's fragments pass too.
            for id in 2..20 {
                let whole = frame(friend, pod, UDP, &udp(1_000, 53, 40));
                assert!(scene.gets(&whole));
                let [first, second] = datagram((friend, pod), id, 53);
                assert!(scene.gets(&first) && scene.gets(&second), "{id}");
            }
        }
        assert_eq!(scene.dropped(Direction::Ingress, DropReason::Fragment), 0);
    });
}

#[test]
fn fragments_of_a_denied_datagram_are_dropped() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            for (peer, port) in [(friend, 54), (stranger, 53)] {
                let [first, second] = datagram((peer, pod), 1, port);
                assert!(!scene.gets(&first) && !scene.gets(&second), "{peer} {port}");
                let [first, second] = datagram((pod, peer), 1, port);
                assert!(
                    !scene.sends(&first) && !scene.sends(&second),
                    "{peer} {port}"
                );
            }
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(scene.dropped(direction, DropReason::Fragment), 4);
            assert_eq!(scene.dropped(direction, DropReason::Policy), 4);
        }
    });
}

#[test]
fn fragment_that_comes_before_the_first_is_dropped() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends { pod, friend, .. } in BOTH {
            let [first, second] = datagram((friend, pod), 1, 53);
            assert!(!scene.gets(&second));
            assert!(scene.gets(&first) && scene.gets(&second));
        }
    });
}

#[test]
fn fragment_follows_its_own_datagram_only() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            let [first, _] = datagram((friend, pod), 1, 53);
            assert!(scene.gets(&first));
            let more = |ends, id, offset| part(ends, UDP, (id, offset, false), &[7; 16]);
            assert!(!scene.gets(&more((friend, pod), 2, 24)), "another datagram");
            assert!(!scene.gets(&more((stranger, pod), 1, 24)), "of another");
            assert!(!scene.sends(&more((pod, friend), 1, 24)), "the other way");
            // Over the header that was judged, over the rest of the first.
            for offset in [8, 16] {
                assert!(!scene.gets(&more((friend, pod), 1, offset)), "{offset}");
            }
            assert!(scene.gets(&more((friend, pod), 1, 24)));
            assert!(scene.gets(&more((friend, pod), 1, 4_000)));
        }
        // The protocol is what an IPv4 receiver tells datagrams by.
        let v4 = (BOTH[0].friend, BOTH[0].pod);
        assert!(!scene.gets(&part(v4, TCP, (1, 24, false), &[7; 16])));
    });
}

#[test]
fn first_fragment_that_holds_too_little_is_dropped() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends { pod, friend, .. } in BOTH {
            let mut syn = udp(1_000, 80, 24);
            (syn[12], syn[13]) = (0x50, SYN);
            for (len, passes) in [(8, false), (14, false), (20, false), (16, true), (24, true)] {
                let first = part((friend, pod), TCP, (1, 0, true), &syn[..len]);
                assert_eq!(scene.gets(&first), passes, "{len} bytes of TCP");
                let flags = part((friend, pod), TCP, (1, 8, false), &[0; 16]);
                assert!(!scene.gets(&flags), "behind {len} bytes of TCP");
            }
        }
        assert_eq!(scene.dropped(Direction::Ingress, DropReason::Fragment), 16);
    });
}

#[test]
fn segments_of_an_open_connection_come_in_fragments_too() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let segment = |from, to, flags| {
            let mut tcp = udp(from, to, 24);
            (tcp[12], tcp[13]) = (0x50, flags);
            tcp
        };
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            let (coming, going) = ((friend, pod), (pod, friend));
            let opens = |flags| frame(friend, pod, TCP, &segment(1_000, 80, flags));
            let answers = |flags| frame(pod, friend, TCP, &segment(80, 1_000, flags));
            assert!(scene.gets(&opens(SYN)) && scene.sends(&answers(SYN | ACK)));
            assert!(scene.gets(&opens(ACK)) && scene.sends(&answers(ACK)));
            for id in 1..5 {
                let first = part(coming, TCP, (id, 0, true), &segment(1_000, 80, ACK));
                let second = part(coming, TCP, (id, 24, false), &[7; 16]);
                assert!(scene.gets(&first) && scene.gets(&second), "{id}");
                let first = part(going, TCP, (id, 0, true), &segment(80, 1_000, ACK));
                let second = part(going, TCP, (id, 24, false), &[7; 16]);
                assert!(scene.sends(&first) && scene.sends(&second), "{id}");
            }
            let stray = (stranger, pod);
            let first = part(stray, TCP, (9, 0, true), &segment(1_000, 80, ACK));
            let second = part(stray, TCP, (9, 24, false), &[7; 16]);
            assert!(!scene.gets(&first) && !scene.gets(&second), "{stranger}");
        }
        assert_eq!(scene.dropped(Direction::Ingress, DropReason::Fragment), 2);
        assert_eq!(scene.dropped(Direction::Egress, DropReason::Fragment), 0);
    });
}

#[test]
fn new_word_ends_what_fragments_follow() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for (generation, Ends { pod, friend, .. }) in (10..).step_by(10).zip(BOTH) {
            scene.word(word(generation, POLICY));
            let [first, second] = datagram((friend, pod), 1, 53);
            assert!(scene.gets(&first) && scene.gets(&second));
            scene.word(word(generation + 1, POLICY));
            assert!(!scene.gets(&second), "not judged under this word");
            assert!(scene.gets(&first) && scene.gets(&second));
            scene.word(word(generation + 2, 0));
            assert!(scene.gets(&second), "nothing isolates it");
        }
    });
}

#[test]
fn fragments_of_open_pods_and_of_the_node_pass_and_are_not_noted() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let noted = || {
            let maps = scene.datapath.maps().occupancy().unwrap();
            let used = maps.iter().find(|map| map.spec.name == FRAGMENTS).unwrap();
            used.used.unwrap()
        };
        for Ends { pod, stranger, .. } in BOTH {
            scene.word(word(5, POLICY));
            let node = Op::Host {
                address: stranger,
                identity: 0,
                node: true,
                slot: 0,
            };
            let [first, second] = datagram((stranger, pod), 1, 54);
            assert!(!scene.gets(&first) && !scene.gets(&second));
            apply(&scene.datapath, &[node]);
            assert!(scene.gets_from_node(&second) && scene.gets_from_node(&first));
            apply(&scene.datapath, &[Op::DeleteHost { address: stranger }]);
            scene.word(word(6, 0));
            let before = noted();
            assert!(scene.gets(&second) && scene.gets(&first));
            let [first, second] = datagram((pod, stranger), 1, 54);
            assert!(scene.sends(&second) && scene.sends(&first));
            assert_eq!(noted(), before);
        }
    });
}

#[test]
fn fragments_to_a_service_are_judged_where_they_leave() {
    const SHIFT: u32 = 16;
    let undecided = mark::with(0, SHIFT, mark::UNDECIDED, SLOT);
    let decided = mark::with(0, SHIFT, mark::DECIDED, SLOT);
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            let (address, family) = match stranger {
                std::net::IpAddr::V4(vip) => (vip.to_ipv6_mapped(), 4),
                std::net::IpAddr::V6(vip) => (vip, 6),
            };
            let mut backends = [SvcBackend::default(); 8];
            (backends[0].identity, backends[0].port) = (FRIEND_ID, 53);
            let value = Svc {
                key: SvcKey {
                    address: address.octets(),
                    port: 5_300,
                    protocol: UDP,
                    family,
                },
                flags: 0,
                count: 1,
                backends,
            };
            apply(&scene.datapath, &[Op::Service { value }]);
            let [first, second] = datagram((pod, stranger), 1, 5_300);
            assert_eq!(scene.at(Hook::From, &first, 0), (true, undecided));
            assert_eq!(scene.at(Hook::From, &second, 0), (true, undecided));
            for hook in [Hook::Wire, Hook::To] {
                // As whoever translates them sends them on.
                let id = if hook == Hook::Wire { 1 } else { 2 };
                let [first, second] = datagram((pod, friend), id, 53);
                let [bad, worse] = datagram((pod, friend), 9, 54);
                let after = if hook == Hook::Wire {
                    decided
                } else {
                    undecided
                };
                assert!(!scene.at(hook, &second, undecided).0, "{hook:?}");
                assert_eq!(scene.at(hook, &first, undecided), (true, after));
                assert_eq!(scene.at(hook, &second, undecided), (true, after));
                assert!(!scene.at(hook, &bad, undecided).0, "{hook:?}");
                assert!(!scene.at(hook, &worse, undecided).0, "{hook:?}");
            }
            // What was left open at the source is no verdict where it leaves.
            let [_, second] = datagram((pod, stranger), 1, 5_300);
            assert!(!scene.at(Hook::Wire, &second, undecided).0);
        }
    });
}

//! Floods that are larger than the tables which may evict, in both families, against
//! another pod of the node: of connections that stay half open, of questions that
//! are answered once, and of datagrams in fragments.
//!
//! Beyond [`mod@super::flood`], where nothing has to give way while something is
//! under way. Here it does: what is confirmed goes on, what is not begins again,
//! and nothing passes that policy denies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_agent::datapath::{Datapath, apply::monotonic_ns, test_run::At};
use policy_common::{
    abi::{
        Direction,
        endpoint::{Endpoint, FLAG_USED},
        event::DropReason,
        maps,
    },
    conntrack::RESET_NS,
};
use policy_core::ops::Op;

use crate::bed::{ACK, Bed, FRIEND_ID, NUMBER, POLICY, SYN, apply, index, ip, on_bed, word};
use crate::crafted::{BOTH, Ends, Scene, TCP, UDP, frame, part, udp};

const RST: u8 = 4;

/// Packets between two steps of what lives: a half more than there is room for.
const CONNECTIONS: usize = maps::CT_PENDING_ENTRIES * 3 / 2;
/// Likewise, first fragments.
const DATAGRAMS: usize = maps::FRAGMENT_ENTRIES * 3 / 2;
/// Packets of one sender, each from another port or with another identification.
const OF_ONE: usize = 60_000;

/// Slot of the pod that is flooded, see [`Scene`] for the others.
const OTHER_SLOT: u32 = 3;
/// Ports of the pod's connections that live.
const LIVE: std::ops::Range<u16> = 4_000..4_010;
/// That of a handshake which is under way.
const UNDER_WAY: u16 = 5_000;

/// The addresses of the pod that is flooded.
fn other(family: Ends) -> IpAddr {
    match family.pod {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 3).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).into(),
    }
}

/// The `number`-th sender of a flood: an address with the friend's identity, and a
/// port.
fn sender(family: Ends, number: usize) -> (IpAddr, u16) {
    let port = u16::try_from(number % OF_ONE).unwrap() + 1_024;
    let host = u8::try_from(number / OF_ONE).unwrap();
    let address = match family.pod {
        IpAddr::V4(_) => Ipv4Addr::new(10, 9, 0, host).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, host.into()).into(),
    };
    (address, port)
}

/// A TCP segment without data.
fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let body = [&ports[..], &[0; 8], &[0x50, flags, 255, 255, 0, 0, 0, 0]].concat();
    frame(from.0, to.0, TCP, &body)
}

/// A datagram.
fn datagram(from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    frame(from.0, to.0, UDP, &udp(from.1, to.1, 16))
}

/// The scene, another pod with the same policy, and connections of the first.
struct Tide<'b> {
    scene: Scene<'b>,
    /// Interface of the other pod.
    h1: u32,
    p0: u32,
}

impl<'b> Tide<'b> {
    fn new(bed: &'b Bed) -> Self {
        ip("link add h1 type veth peer name p1");
        ip("link set h1 up");
        let scene = Scene::new(bed);
        let h1 = index("h1");
        let (IpAddr::V4(addr4), IpAddr::V6(addr6)) = (other(BOTH[0]), other(BOTH[1])) else {
            panic!("one of each family");
        };
        let endpoint = Endpoint {
            word: word(3, POLICY).0,
            number: NUMBER + 2,
            flags: FLAG_USED,
            addr4: addr4.octets(),
            addr6: addr6.octets(),
            ifindex: h1,
            ..Endpoint::EMPTY
        };
        let mut ops = vec![
            Op::Endpoint {
                slot: OTHER_SLOT,
                value: endpoint,
            },
            Op::Interface {
                ifindex: h1,
                slot: OTHER_SLOT,
            },
        ];
        for family in BOTH {
            for number in (0..CONNECTIONS.max(DATAGRAMS)).step_by(OF_ONE) {
                ops.push(Op::Host {
                    address: sender(family, number).0,
                    identity: FRIEND_ID,
                    node: false,
                    slot: 0,
                });
            }
        }
        apply(&scene.datapath, &ops);
        let p0 = index("p0");
        let tide = Self { scene, h1, p0 };
        for ends in BOTH {
            for port in LIVE {
                tide.connect(ends, port);
                let (pod, friend) = ((ends.pod, port), (ends.friend, 53));
                assert!(tide.scene.sends(&datagram(pod, friend)));
                assert!(tide.scene.gets(&datagram(friend, pod)));
                assert!(tide.scene.sends(&datagram(pod, friend)));
            }
        }
        tide
    }

    fn datapath(&self) -> &Datapath {
        &self.scene.datapath
    }

    /// Whether the other pod gets a packet.
    fn other_gets(&self, packet: &[u8]) -> bool {
        let at = At {
            direction: Direction::Ingress,
            ifindex: self.h1,
            ingress_ifindex: self.p0,
        };
        self.datapath().test_run(packet, at, 1).unwrap().passes
    }

    /// Whether the other pod may send one.
    fn other_sends(&self, packet: &[u8]) -> bool {
        let at = At {
            direction: Direction::Egress,
            ifindex: self.h1,
            ingress_ifindex: self.h1,
        };
        self.datapath().test_run(packet, at, 1).unwrap().passes
    }

    /// Opens a connection of the pod, with its whole handshake.
    fn connect(&self, ends: Ends, port: u16) {
        let (pod, friend) = ((ends.pod, port), (ends.friend, 80));
        assert!(self.scene.sends(&tcp(pod, friend, SYN)));
        assert!(self.scene.gets(&tcp(friend, pod, SYN | ACK)));
        assert!(self.scene.sends(&tcp(pod, friend, ACK)));
    }

    /// Elements in use of a map.
    fn used(&self, name: &str) -> usize {
        let occupancy = self.datapath().maps().occupancy().unwrap();
        let map = occupancy.iter().find(|map| map.spec.name == name);
        map.and_then(|map| map.used).unwrap()
    }

    /// What lives goes on, what is denied stays denied, and of the table that may
    /// not evict the flood has nothing.
    fn assert_live(&self, when: &str) {
        for ends in BOTH {
            let Ends {
                pod,
                friend,
                stranger,
            } = ends;
            for port in LIVE {
                let segment = tcp((friend, 80), (pod, port), ACK);
                assert!(self.scene.gets(&segment), "{when}: TCP {friend} {port}");
                let answer = datagram((friend, 53), (pod, port));
                assert!(self.scene.gets(&answer), "{when}: UDP {friend} {port}");
            }
            let never = (pod, LIVE.end);
            assert!(!self.scene.gets(&tcp((friend, 80), never, ACK)), "{when}");
            assert!(!self.scene.gets(&datagram((friend, 53), never)), "{when}");
            let target = other(ends);
            for port in [80, LIVE.start] {
                let to = (target, port);
                assert!(!self.other_gets(&tcp((stranger, 9), to, SYN)), "{when}");
                assert!(!self.other_gets(&datagram((stranger, 9), to)), "{when}");
            }
        }
        let live = BOTH.len() * 2 * LIVE.len();
        assert_eq!(self.used(maps::CT), live, "{when}");
        assert!(self.used(maps::CT_PENDING) <= maps::CT_PENDING_ENTRIES);
    }

    /// More half-open connections to the other pod than there is room for.
    fn half_open(&self, family: Ends) {
        let target = (other(family), 80);
        for number in 0..CONNECTIONS {
            let syn = tcp(sender(family, number), target, SYN);
            assert!(self.other_gets(&syn), "policy allows it: {number}");
        }
    }

    /// As many questions to the other pod, of which each is answered at once, and
    /// nobody says that the answer came.
    fn questions(&self, family: Ends) {
        let server = (other(family), 53);
        for number in 0..CONNECTIONS {
            let client = sender(family, number);
            assert!(self.other_gets(&datagram(client, server)), "{number}");
            let answer = datagram(server, client);
            assert!(self.other_sends(&answer), "the answer to {number}");
        }
    }
}

#[test]
fn floods_larger_than_the_table_end_nothing_that_lives_and_a_handshake_begins_again() {
    on_bed(|bed| {
        let tide = Tide::new(bed);
        for (ends, number) in BOTH.into_iter().zip(0..) {
            let port = UNDER_WAY + number;
            let (pod, friend) = ((ends.pod, port), (ends.friend, 80));
            assert!(tide.scene.sends(&tcp(pod, friend, SYN)));
            tide.half_open(ends);
            tide.assert_live("half open connections");
            assert!(tide.used(maps::CT_PENDING) < CONNECTIONS);
            // Pushed out, most likely: the pod's kernel sends it again.
            assert!(tide.scene.sends(&tcp(pod, friend, SYN)));
            assert!(tide.scene.gets(&tcp(friend, pod, SYN | ACK)));
            tide.questions(ends);
            tide.assert_live("questions");
            // Likewise of what the friend answered.
            tide.connect(ends, port);
            assert!(tide.scene.gets(&tcp(friend, pod, ACK)));
            // It is over soon after, and is not one of those that live.
            assert!(tide.scene.sends(&tcp(pod, friend, RST | ACK)));
            let later = monotonic_ns() + RESET_NS + 1_000_000_000;
            let swept = tide.datapath().maps().sweep_at(later).unwrap();
            assert!(swept.removed >= 1, "{swept:?}");
        }
    });
}

#[test]
fn floods_of_fragments_end_no_datagram_unless_policy_allows_them_and_never_open_anything() {
    on_bed(|bed| {
        let tide = Tide::new(bed);
        let fragments = |from, to, id: u16, port| {
            let first = part((from, to), UDP, (id, 0, true), &udp(1_000, port, 24));
            let second = part((from, to), UDP, (id, 24, false), &[7; 16]);
            (first, second)
        };
        for ends in BOTH {
            let Ends {
                pod,
                friend,
                stranger,
            } = ends;
            let target = other(ends);
            let (first, second) = fragments(friend, pod, 1, 53);
            assert!(tide.scene.gets(&first));
            let noted = || tide.datapath().maps().fragments.entries().unwrap();
            let before = noted();
            for number in 0..DATAGRAMS {
                let id = u16::try_from(number % OF_ONE).unwrap();
                let (from, port) = if number % 2 == 0 {
                    (stranger, 53)
                } else {
                    (friend, 54)
                };
                let (denied, after) = fragments(from, target, id, port);
                assert!(!tide.other_gets(&denied), "{number}");
                if number % 1_000 == 0 {
                    assert!(!tide.other_gets(&after), "{number}");
                }
            }
            assert!(noted() == before, "what is denied is not noted");
            // However long that took.
            assert!(tide.scene.gets(&first) && tide.scene.gets(&second));

            // Those that policy allows may push others out, and open nothing.
            for number in 0..DATAGRAMS {
                let (from, _) = sender(ends, number);
                let id = u16::try_from(number % OF_ONE).unwrap();
                let (allowed, after) = fragments(from, target, id, 53);
                assert!(tide.other_gets(&allowed), "{number}");
                if number % 1_000 == 0 {
                    assert!(tide.other_gets(&after), "its own second: {number}");
                }
            }
            let used = tide.used(maps::FRAGMENTS);
            assert!(used <= maps::FRAGMENT_ENTRIES, "{used}");
            // Less what CPUs keep free of an LRU table for themselves.
            assert!(used > maps::FRAGMENT_ENTRIES / 2, "{used}");
            let counted = || tide.scene.dropped(Direction::Ingress, DropReason::Fragment);
            let dropped = counted();
            let strays = [(friend, 2), (stranger, 1)];
            for (from, id) in strays {
                let (_, second) = fragments(from, pod, id, 53);
                assert!(!tide.scene.gets(&second), "nobody saw its first: {from}");
            }
            assert_eq!(counted(), dropped + strays.len() as u64);
            // Whoever is told nothing sends all of it again.
            assert!(tide.scene.gets(&first) && tide.scene.gets(&second));
            tide.assert_live("fragments");
        }
    });
}

//! Egress through a Service: what the source leaves open, what the far side says
//! to it, and what the packet's mark tells in between.
//!
//! `h0` is the isolated pod's interface, which may send to TCP port 80 of the
//! friend; `p0` is the friend's, which nothing isolates.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use policy_agent::datapath::{Datapath, Hook, events::Events, test_run::Trial};
use policy_common::abi::{
    Direction, config,
    endpoint::{Endpoint, FLAG_USED, PolicyWord},
    event::DropReason,
    mark,
    service::{SVC_MANY, Svc, SvcBackend, SvcKey},
};
use policy_core::ops::Op;

use crate::bed::{
    ACK, Bed, FRIEND, FRIEND_ID, NUMBER, POD, POLICY, SLOT, STRANGER, SYN, apply, index, ip,
    on_bed, run, tcp, word,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// An identity that no row names.
const FOE_ID: u32 = 99;
/// The pod's own, likewise.
const OWN_ID: u32 = 98;
const FRIEND_SLOT: u32 = 2;
const SHIFT: u32 = 4;
/// Bits of others.
const THEIRS: u32 = 0x8000_0003;

const UNDECIDED: u32 = mark::with(THEIRS, SHIFT, mark::UNDECIDED, SLOT);
const DECIDED: u32 = mark::with(THEIRS, SHIFT, mark::DECIDED, SLOT);

/// A Service at port 443 of an address.
fn service(address: Ipv4Addr, flags: u32, backends: &[(u32, u16)]) -> Op {
    let mut value = Svc {
        key: SvcKey {
            address: address.to_ipv6_mapped().octets(),
            port: 443,
            protocol: 6,
            family: 4,
        },
        flags,
        count: u32::try_from(backends.len()).unwrap(),
        backends: [SvcBackend::default(); 8],
    };
    for (place, (identity, port)) in value.backends.iter_mut().zip(backends) {
        (place.identity, place.port) = (*identity, *port);
    }
    Op::Service { value }
}

struct Scene<'a> {
    bed: &'a Bed,
    datapath: Datapath,
    p0: u32,
}

impl<'a> Scene<'a> {
    fn new(bed: &'a Bed) -> Self {
        let datapath = bed.open();
        datapath.maps().set_mark_shift(SHIFT).unwrap();
        let p0 = index("p0");
        apply(&datapath, &bed.pod());
        let friend = Endpoint {
            word: PolicyWord::new(2, 0, 0).0,
            number: NUMBER + 1,
            flags: FLAG_USED,
            addr4: FRIEND.octets(),
            ifindex: p0,
            ..Endpoint::EMPTY
        };
        apply(
            &datapath,
            &[
                host(POD, OWN_ID, false, SLOT),
                host(NODE, FRIEND_ID, true, 0),
                Op::Endpoint {
                    slot: FRIEND_SLOT,
                    value: friend,
                },
                Op::Interface {
                    ifindex: p0,
                    slot: FRIEND_SLOT,
                },
            ],
        );
        assert_ne!(datapath.maps().config().flags & config::FLAG_EGRESS, 0);
        Self { bed, datapath, p0 }
    }

    fn run(&self, packet: &[u8], hook: Hook, ingress_ifindex: u32, mark: u32) -> (bool, u32) {
        let ifindex = match hook {
            Hook::From => self.bed.ifindex,
            _ => self.p0,
        };
        let at = Trial {
            hook,
            ifindex,
            ingress_ifindex,
            mark,
        };
        let answer = self.datapath.try_packet(packet, at, 1).unwrap();
        (answer.passes, answer.mark)
    }

    /// The pod sends.
    fn send(&self, packet: &[u8]) -> (bool, u32) {
        self.run(packet, Hook::From, self.bed.ifindex, THEIRS)
    }

    /// The pod's packet leaves by this hook, having come over a bridge.
    fn leave(&self, hook: Hook, packet: &[u8], mark: u32) -> (bool, u32) {
        self.run(packet, hook, 1, mark)
    }

    fn word(&self, word: PolicyWord) {
        apply(&self.datapath, &[Op::Word { slot: SLOT, word }]);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        let counters = self.datapath.maps().counters().unwrap();
        counters.dropped(Direction::Egress, reason)
    }
}

fn host(address: Ipv4Addr, identity: u32, node: bool, slot: u32) -> Op {
    Op::Host {
        address: address.into(),
        identity,
        node,
        slot,
    }
}

fn to(peer: Ipv4Addr, port: u16, flags: u8) -> Vec<u8> {
    tcp((POD, 1000), (peer, port), flags)
}

#[test]
fn source_leaves_open_what_may_be_allowed_and_drops_the_rest() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let vip = to(VIP, 443, SYN);
        assert!(
            !scene.send(&vip).0,
            "an ordinary address that is not allowed"
        );
        for (flags, backends, expected) in [
            (0, &[(FRIEND_ID, 80)][..], Ok(UNDECIDED)),
            (0, &[(FOE_ID, 80), (FRIEND_ID, 80)], Ok(UNDECIDED)),
            (SVC_MANY, &[(FOE_ID, 80)], Ok(UNDECIDED)),
            (0, &[(FOE_ID, 80)], Err(DropReason::Policy)),
            (0, &[(FRIEND_ID, 81)], Err(DropReason::Policy)),
            (0, &[], Err(DropReason::NoEndpoints)),
        ] {
            apply(&scene.datapath, &[service(VIP, flags, backends)]);
            match expected {
                Ok(mark) => assert_eq!(scene.send(&vip), (true, mark), "{backends:?}"),
                Err(reason) => {
                    let before = scene.dropped(reason);
                    assert!(!scene.send(&vip).0, "{backends:?}");
                    assert_eq!(scene.dropped(reason), before + 1);
                }
            }
            let other_port = to(VIP, 444, SYN);
            assert!(!scene.send(&other_port).0, "not the Service's port");
        }
    });
}

#[test]
fn every_packet_of_an_isolated_pod_is_marked_also_from_the_cache() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        apply(&scene.datapath, &[service(VIP, 0, &[(FRIEND_ID, 80)])]);
        for (peer, port, mark) in [(VIP, 443, UNDECIDED), (FRIEND, 80, DECIDED)] {
            assert_eq!(scene.send(&to(peer, port, SYN)), (true, mark));
            let answer = tcp((peer, port), (POD, 1000), SYN | ACK);
            assert!(
                scene
                    .datapath
                    .test_run(&answer, bed.arriving(), 1)
                    .unwrap()
                    .passes
            );
            let passed = || {
                let counters = scene.datapath.maps().counters().unwrap();
                counters.get(Direction::Egress, policy_common::abi::stats::PASSED)
            };
            assert_eq!(scene.send(&to(peer, port, ACK)), (true, mark));
            let judged = passed();
            for _ in 0..100 {
                assert_eq!(scene.send(&to(peer, port, ACK)), (true, mark));
            }
            assert!(passed() < judged + 100, "some came from the cache");
        }
    });
}

#[test]
fn what_goes_to_the_node_is_left_open() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        assert_eq!(scene.send(&to(NODE, 80, SYN)), (true, UNDECIDED));
        assert!(!scene.send(&to(NODE, 81, SYN)).0, "policy says no");
    });
}

#[test]
fn mark_of_a_pod_that_nothing_isolates_is_left_alone() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        apply(&scene.datapath, &[service(VIP, 0, &[(FOE_ID, 80)])]);
        for word in [PolicyWord::new(5, 0, 0), PolicyWord::new(6, POLICY, 0)] {
            scene.word(word);
            for (peer, port) in [(VIP, 443), (FRIEND, 80), (STRANGER, 1), (NODE, 1)] {
                assert_eq!(scene.send(&to(peer, port, SYN)), (true, THEIRS));
            }
        }
        scene.word(word(7, POLICY));
        scene.datapath.maps().set_enforce(false).unwrap();
        assert_eq!(
            scene.send(&to(VIP, 443, SYN)),
            (true, THEIRS),
            "switched off"
        );
    });
}

#[test]
fn far_side_judges_the_senders_policy_on_the_real_destination() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let packets = [
            (FRIEND, 80, true),
            (FRIEND, 81, false),
            (STRANGER, 80, false),
        ];
        for hook in [Hook::To, Hook::Wire] {
            for (peer, port, allowed) in packets {
                for flags in [SYN, ACK] {
                    let packet = to(peer, port, flags);
                    let before = scene.dropped(DropReason::Policy);
                    let (passes, mark) = scene.leave(hook, &packet, UNDECIDED);
                    assert_eq!(passes, allowed, "{hook} undecided to {peer}:{port}");
                    if hook == Hook::Wire && allowed {
                        assert_eq!(mark, DECIDED, "{hook}");
                    }
                    assert_eq!(scene.leave(hook, &packet, THEIRS).0, allowed, "no mark");
                    let denied = scene.dropped(DropReason::Policy) - before;
                    assert_eq!(denied, if allowed { 0 } else { 2 });
                    assert!(scene.leave(hook, &packet, DECIDED).0, "{hook} decided");
                }
            }
        }
    });
}

#[test]
fn far_side_asks_the_word_of_now_about_each_packet() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for (hook, generation) in [(Hook::To, 10), (Hook::Wire, 20)] {
            // Decided, it is remembered by the receiver; undecided it must not be.
            let packet = to(STRANGER, 80, ACK);
            for _ in 0..3 {
                assert!(scene.leave(hook, &packet, DECIDED).0);
            }
            assert!(!scene.leave(hook, &packet, UNDECIDED).0, "{hook}");
            let packet = to(FRIEND, 80, ACK);
            assert!(scene.leave(hook, &packet, UNDECIDED).0);
            scene.word(word(generation, 9));
            assert!(!scene.leave(hook, &packet, UNDECIDED).0, "{hook}: revoked");
            scene.word(PolicyWord::new(generation + 1, 0, 0));
            assert!(scene.leave(hook, &packet, UNDECIDED).0, "{hook}: free");
            scene.word(word(generation + 2, POLICY));
            assert!(
                scene.leave(hook, &packet, UNDECIDED).0,
                "{hook}: allowed again"
            );
        }
    });
}

#[test]
fn undecided_packet_of_an_unknown_sender_is_dropped() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for hook in [Hook::To, Hook::Wire] {
            for slot in [0, 77] {
                let mark = mark::with(0, SHIFT, mark::UNDECIDED, slot);
                let before = scene.dropped(DropReason::UnknownSender);
                assert!(
                    !scene.leave(hook, &to(FRIEND, 80, SYN), mark).0,
                    "{hook} {slot}"
                );
                assert_eq!(scene.dropped(DropReason::UnknownSender), before + 1);
            }
        }
    });
}

#[test]
fn undecided_packet_that_cannot_be_judged_is_dropped_and_others_are_not() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let mut arp = to(FRIEND, 80, SYN);
        arp[12..14].copy_from_slice(&[8, 6]);
        let mut other = to(FRIEND, 80, SYN);
        other[12..14].copy_from_slice(&[0x88, 0xcc]);
        let mut cut = to(FRIEND, 80, SYN);
        cut.truncate(14 + 20 + 6);
        let mut fragment = to(FRIEND, 80, SYN);
        fragment[20] |= 0x20;
        for hook in [Hook::To, Hook::Wire] {
            for packet in [&other, &cut, &fragment] {
                assert!(!scene.leave(hook, packet, UNDECIDED).0, "{hook}");
                assert!(scene.leave(hook, packet, DECIDED).0, "{hook}");
            }
            assert!(!scene.leave(hook, &arp, UNDECIDED).0);
            assert!(scene.leave(hook, &arp, THEIRS).0);
            assert!(scene.leave(hook, &other, THEIRS).0);
        }
    });
}

#[test]
fn packet_without_a_mark_is_judged_only_if_an_isolated_pod_of_this_node_sent_it() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let stranger = tcp((STRANGER, 1000), (FRIEND, 81), SYN);
        let own = to(FRIEND, 81, SYN);
        for hook in [Hook::To, Hook::Wire] {
            assert!(
                scene.leave(hook, &stranger, THEIRS).0,
                "{hook}: not a pod's"
            );
            assert!(!scene.leave(hook, &own, THEIRS).0, "{hook}");
            // By the veth of a pod whose egress nothing isolates.
            assert!(scene.run(&own, hook, scene.p0, THEIRS).0, "{hook}");
            assert!(
                !scene.run(&own, hook, scene.bed.ifindex, THEIRS).0,
                "{hook}"
            );
        }
        assert!(
            scene.run(&own, Hook::Wire, 0, THEIRS).0,
            "what came by no interface is the node's"
        );
        scene.word(PolicyWord::new(9, POLICY, 0));
        assert_eq!(
            scene.datapath.maps().config().flags & config::FLAG_EGRESS,
            0
        );
        for hook in [Hook::To, Hook::Wire] {
            assert!(scene.leave(hook, &own, THEIRS).0, "{hook}: not isolated");
        }
    });
}

#[test]
fn reply_passes_without_its_mark_by_its_record() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        // Ingress lets the stranger in; egress lets nobody out.
        scene.word(PolicyWord::new(5, 0, 9));
        let reply = tcp((POD, 80), (STRANGER, 1000), SYN | ACK);
        for hook in [Hook::To, Hook::Wire] {
            assert!(!scene.leave(hook, &reply, THEIRS).0, "{hook}: nobody asked");
        }
        let opener = tcp((STRANGER, 1000), (POD, 80), SYN);
        assert!(
            scene
                .datapath
                .test_run(&opener, bed.arriving(), 1)
                .unwrap()
                .passes
        );
        assert_eq!(scene.send(&reply), (true, DECIDED));
        for hook in [Hook::To, Hook::Wire] {
            assert!(scene.leave(hook, &reply, THEIRS).0, "{hook}");
            assert!(!scene.leave(hook, &reply, UNDECIDED).0, "{hook}");
        }
    });
}

#[test]
fn pod_reaches_itself_through_a_service() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        // Nothing is allowed, in or out.
        scene.word(word(5, 9));
        let back = tcp((NODE, 1000), (POD, 80), SYN);
        let at = |mark| Trial {
            hook: Hook::To,
            ifindex: bed.ifindex,
            ingress_ifindex: 1,
            mark,
        };
        let passes = |at| scene.datapath.try_packet(&back, at, 1).unwrap().passes;
        assert!(!passes(at(0)), "somebody's through the node");
        assert!(passes(at(UNDECIDED)));
        assert!(passes(at(DECIDED)), "after to_wire of a bridge");
        let other = mark::with(0, SHIFT, mark::DECIDED, FRIEND_SLOT);
        assert!(!passes(at(other)), "another pod's");
        // On its way over the bridge.
        assert_eq!(scene.leave(Hook::Wire, &back, UNDECIDED), (true, DECIDED));
    });
}

#[test]
fn denial_at_the_far_side_names_the_sender_and_its_direction() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let events = runtime.block_on(async {
            let mut events = Events::open(scene.datapath.pins()).unwrap();
            // Masqueraded: the mark tells whose it is.
            let packet = tcp((NODE, 1000), (STRANGER, 80), SYN);
            assert!(!scene.leave(Hook::Wire, &packet, UNDECIDED).0);
            assert!(!scene.leave(Hook::To, &packet, UNDECIDED).0);
            events.drain()
        });
        assert_eq!(events.len(), 2, "{events:?}");
        for event in events {
            assert_eq!(event.reason, DropReason::Policy as u8);
            assert_eq!((event.endpoint, event.direction), (NUMBER, 1));
            assert_eq!(event.ifindex, bed.ifindex);
            assert_eq!(event.rule, 8, "the rule of the policy's default");
            assert_eq!((event.src_port, event.dst_port), (1000, 80));
        }
    });
}

#[test]
fn revoked_connection_gets_no_replies_and_a_live_one_goes_on() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        apply(&scene.datapath, &[service(VIP, 0, &[(FRIEND_ID, 80)])]);
        let reply = tcp((VIP, 443), (POD, 1000), ACK);
        let replied = || {
            let answer = scene.datapath.test_run(&reply, bed.arriving(), 1);
            answer.unwrap().passes
        };
        assert!(!replied(), "nobody asked");
        assert!(scene.send(&to(VIP, 443, SYN)).0);
        assert!(replied());
        scene.word(word(5, POLICY));
        assert!(replied(), "judged again, and allowed");
        // Its backend gives way to one that is not allowed: the connection is not
        // new, and nothing in the policy has changed.
        apply(&scene.datapath, &[service(VIP, 0, &[(FOE_ID, 80)])]);
        assert_eq!(scene.send(&to(VIP, 443, ACK)), (true, UNDECIDED));
        assert!(replied());
        assert!(!scene.send(&to(VIP, 443, SYN)).0, "a new one");
        // Now policy is another one.
        scene.word(word(6, 9));
        assert!(!replied());
        assert_eq!(
            scene.send(&to(VIP, 443, ACK)),
            (true, UNDECIDED),
            "the far side denies it"
        );
        assert!(!scene.leave(Hook::Wire, &to(FRIEND, 80, ACK), UNDECIDED).0);
    });
}

#[test]
fn interface_without_an_endpoint_cannot_reach_beyond_the_node() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        apply(
            &scene.datapath,
            &[Op::DeleteInterface {
                ifindex: bed.ifindex,
            }],
        );
        let anonymous = mark::with(THEIRS, SHIFT, mark::UNDECIDED, 0);
        assert_eq!(scene.send(&to(NODE, 80, SYN)), (true, anonymous));
        assert!(!scene.send(&to(FRIEND, 80, SYN)).0);
        for hook in [Hook::To, Hook::Wire] {
            assert!(!scene.leave(hook, &to(FRIEND, 80, SYN), anonymous).0);
        }
    });
}

#[test]
fn service_over_ipv6_is_left_open_and_judged_like_one_over_ipv4() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let address = |last: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
        let (pod, vip, friend, stranger) = (address(2), address(0x96), address(9), address(66));
        let Op::Service { mut value } = service(VIP, 0, &[(FRIEND_ID, 80)]) else {
            unreachable!("it makes nothing else");
        };
        value.key = SvcKey {
            address: vip.octets(),
            family: 6,
            ..value.key
        };
        let endpoint = Endpoint {
            addr6: pod.octets(),
            ..scene.datapath.maps().endpoint(SLOT).unwrap()
        };
        let row = |address: Ipv6Addr, identity, slot| Op::Host {
            address: address.into(),
            identity,
            node: false,
            slot,
        };
        apply(
            &scene.datapath,
            &[
                Op::Endpoint {
                    slot: SLOT,
                    value: endpoint,
                },
                Op::Service { value },
                row(pod, OWN_ID, SLOT),
                row(friend, FRIEND_ID, 0),
            ],
        );
        let to = |peer, port| tcp6((pod, 1000), (peer, port));
        assert_eq!(scene.send(&to(vip, 443)), (true, UNDECIDED));
        assert_eq!(scene.send(&to(friend, 80)), (true, DECIDED));
        assert!(!scene.send(&to(vip, 444)).0);
        for hook in [Hook::To, Hook::Wire] {
            for mark in [UNDECIDED, THEIRS] {
                assert!(scene.leave(hook, &to(friend, 80), mark).0, "{hook}");
                assert!(!scene.leave(hook, &to(friend, 81), mark).0, "{hook}");
                assert!(!scene.leave(hook, &to(stranger, 80), mark).0, "{hook}");
            }
        }
    });
}

/// An Ethernet frame with an opening TCP segment over IPv6.
fn tcp6(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16)) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
    frame.extend(from.0.octets());
    frame.extend(to.0.octets());
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 255, 255, 0, 0, 0, 0]);
    frame
}

#[test]
fn tunnel_without_an_ethernet_header_is_judged_too() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        ip("tuntap add t0 mode tun");
        ip("addr add 10.9.0.1/24 dev t0");
        ip("link set t0 up");
        let far = Ipv4Addr::new(10, 9, 0, 2);
        apply(&scene.datapath, &[host(far, FRIEND_ID, false, 0)]);
        scene.datapath.attach_wire(index("t0"), Hook::Wire).unwrap();
        // What a pod sent undecided, as far as the tunnel can tell.
        let mark = mark::with(0, SHIFT, mark::UNDECIDED, SLOT);
        run("nft", "add table ip t");
        run(
            "nft",
            "add chain ip t out { type route hook output priority 0 ; }",
        );
        run(
            "nft",
            &format!("add rule ip t out oif t0 meta mark set {mark}"),
        );
        run(
            "nft",
            "add chain ip t post { type filter hook postrouting priority 0 ; }",
        );
        run("nft", "add rule ip t post oif t0 counter");
        let sent = || run("nft", "list chain ip t post").contains("packets 0");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut events = runtime.block_on(async { Events::open(scene.datapath.pins()).unwrap() });
        assert!(sent(), "nothing was sent yet");
        for (port, allowed) in [(80, true), (81, false)] {
            // Nobody is at the tunnel's other end: what matters is what is denied.
            let wait = Duration::from_millis(100);
            assert!(TcpStream::connect_timeout(&SocketAddr::from((far, port)), wait).is_err());
            assert!(!sent(), "the packet came to the interface");
            let denied = runtime.block_on(async { events.drain() });
            if allowed {
                assert!(denied.is_empty(), "{denied:?}");
                continue;
            }
            assert!(!denied.is_empty());
            for event in denied {
                assert_eq!(event.reason, DropReason::Policy as u8);
                assert_eq!((event.endpoint, event.dst_port), (NUMBER, port));
                assert_eq!(event.dst[12..], far.octets());
            }
        }
    });
}

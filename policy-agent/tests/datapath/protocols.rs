//! Protocols that are not TCP or UDP: SCTP, echo, neighbour and router discovery,
//! ARP, each where it passes and where it does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_common::abi::{Direction, endpoint::PolicyWord, event::DropReason};

use crate::bed::{POLICY, apply, on_bed, row};
use crate::crafted::{BOTH, Ends, Scene, frame};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
/// SCTP chunks (RFC 9260 section 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const DATA: u8 = 0;

/// An SCTP packet with one chunk.
fn sctp(from: (IpAddr, u16), to: (IpAddr, u16), chunk: u8) -> Vec<u8> {
    let mut body = Vec::from(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    body.extend([0, 0, 0, 9, 0, 0, 0, 0, chunk, 0, 0, 20]);
    body.resize(12 + 20, 0);
    frame(from.0, to.0, SCTP, &body)
}

#[test]
fn sctp_is_judged_by_its_port_and_its_answers_pass() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        scene.allow(&[(SCTP, 3_868)]);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            for (peer, port, passes) in [
                (friend, 3_868, true),
                (friend, 3_869, false),
                (stranger, 3_868, false),
            ] {
                let ask = |from, to| sctp((from, 5_000), (to, port), INIT);
                let answer = |from, to| sctp((from, port), (to, 5_000), INIT_ACK);
                assert!(!scene.sends(&answer(pod, peer)), "{peer}: nobody asked");
                assert_eq!(scene.gets(&ask(peer, pod)), passes, "{peer} {port}");
                assert_eq!(scene.sends(&answer(pod, peer)), passes, "{peer} {port}");
                let data = sctp((peer, 5_000), (pod, port), DATA);
                assert_eq!(scene.gets(&data), passes, "{peer} {port}");

                assert!(!scene.gets(&answer(peer, pod)), "{peer}: nobody asked");
                assert_eq!(scene.sends(&ask(pod, peer)), passes, "{peer} {port}");
                assert_eq!(scene.gets(&answer(peer, pod)), passes, "{peer} {port}");
            }
        }
    });
}

/// An echo request or reply of the addresses' family.
fn echo(from: IpAddr, to: IpAddr, is_reply: bool) -> Vec<u8> {
    let (protocol, kind) = match (from.is_ipv4(), is_reply) {
        (true, false) => (ICMP, 8),
        (true, true) => (ICMP, 0),
        (false, false) => (ICMPV6, 128),
        (false, true) => (ICMPV6, 129),
    };
    frame(from, to, protocol, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1, 9, 9])
}

#[test]
fn echo_is_judged_and_its_answer_passes() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let both_ways = |peer: IpAddr, pod: IpAddr, passes: bool| {
            assert_eq!(scene.sends(&echo(pod, peer, false)), passes, "to {peer}");
            assert_eq!(scene.gets(&echo(peer, pod, true)), passes, "from {peer}");
            assert_eq!(scene.gets(&echo(peer, pod, false)), passes, "from {peer}");
            assert_eq!(scene.sends(&echo(pod, peer, true)), passes, "to {peer}");
        };
        // Ports are allowed; echo has none.
        for Ends { pod, friend, .. } in BOTH {
            both_ways(friend, pod, false);
        }
        scene.allow(&[(ICMP, 0), (ICMPV6, 0)]);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            both_ways(friend, pod, true);
            both_ways(stranger, pod, false);
        }
    });
}

#[test]
fn echo_that_may_only_be_sent_gets_its_answer_and_nothing_else() {
    /// Allows nothing, see [`Scene::new`].
    const DENIES: u16 = POLICY + 1;
    on_bed(|bed| {
        let scene = Scene::new(bed);
        scene.allow(&[(ICMP, 0), (ICMPV6, 0)]);
        apply(&scene.datapath, &[row(DENIES, 0, 2)]);
        scene.word(PolicyWord::new(2, DENIES, POLICY));
        for Ends { pod, friend, .. } in BOTH {
            assert!(!scene.gets(&echo(friend, pod, true)), "nobody asked");
            assert!(scene.sends(&echo(pod, friend, false)), "{friend}");
            assert!(scene.gets(&echo(friend, pod, true)), "{friend}");
            assert!(!scene.gets(&echo(friend, pod, false)), "{friend}");
        }
    });
}

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Neighbour discovery (RFC 4861): its type, and the address that it asks about or
/// announces. `hop_limit` is 255 unless a router forwarded it.
fn discovery(from: Ipv6Addr, to: Ipv6Addr, kind: u8, about: Ipv6Addr, hop_limit: u8) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    body.extend(about.octets());
    let mut frame = frame(from.into(), to.into(), ICMPV6, &body);
    frame[14 + 7] = hop_limit;
    frame
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => panic!("{address} is not IPv6"),
    }
}

#[test]
fn neighbours_find_each_other_whatever_policy_says_and_nobody_announces_anothers_address() {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let [pod, stranger] = [BOTH[1].pod, BOTH[1].stranger].map(v6);
        let asks = |from, to, about, hops| discovery(from, to, SOLICITATION, about, hops);
        let tells = |from, to, about, hops| discovery(from, to, ADVERTISEMENT, about, hops);
        assert!(scene.gets(&asks(stranger, ALL_NODES, pod, 255)));
        assert!(scene.sends(&tells(pod, stranger, pod, 255)));
        assert!(scene.sends(&asks(pod, ALL_NODES, stranger, 255)));
        assert!(scene.gets(&tells(stranger, pod, stranger, 255)));
        // Duplicate address detection has no source yet.
        assert!(scene.sends(&asks(Ipv6Addr::UNSPECIFIED, ALL_NODES, pod, 255)));

        assert!(!scene.sends(&tells(pod, ALL_NODES, stranger, 255)));
        assert!(!scene.sends(&asks(stranger, ALL_NODES, pod, 255)));
        assert_eq!(scene.dropped(Direction::Egress, DropReason::Spoofed), 2);
        // What a router forwarded is none of this, and is judged.
        assert!(!scene.gets(&asks(stranger, pod, pod, 254)));
        assert!(!scene.gets(&tells(stranger, pod, stranger, 254)));
        assert_eq!(scene.dropped(Direction::Ingress, DropReason::Policy), 2);
    });
}

#[test]
fn routers_are_found_whatever_policy_says_and_no_pod_is_one() {
    const SOLICITATION: u8 = 133;
    const ADVERTISEMENT: u8 = 134;
    const REDIRECT: u8 = 137;
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let pod = v6(BOTH[1].pod);
        let from = |source, to, kind| discovery(source, to, kind, pod, 255);
        assert!(scene.sends(&from(LINK_LOCAL, ALL_ROUTERS, SOLICITATION)));
        assert!(scene.gets(&from(ROUTER, ALL_NODES, ADVERTISEMENT)));

        for kind in [ADVERTISEMENT, REDIRECT] {
            assert!(!scene.sends(&from(LINK_LOCAL, ALL_NODES, kind)), "{kind}");
            // Nor one that nothing isolates.
            assert!(!scene.friend_sends(&from(LINK_LOCAL, ALL_NODES, kind)));
        }
        let dropped = scene.dropped(Direction::Egress, DropReason::RouterAdvertisement);
        assert_eq!(dropped, 4);
    });
}

/// An ARP request or announcement for IPv4 over Ethernet.
fn arp(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

#[test]
fn arp_passes_whatever_policy_says_and_announces_the_pods_own_address_only() {
    use crate::bed::{POD, STRANGER};
    on_bed(|bed| {
        let scene = Scene::new(bed);
        assert!(scene.gets(&arp(STRANGER, POD)));
        assert!(scene.sends(&arp(POD, STRANGER)));
        // A probe (RFC 5227).
        assert!(scene.sends(&arp(Ipv4Addr::UNSPECIFIED, POD)));
        assert!(!scene.sends(&arp(STRANGER, POD)));
        // What cannot be read is not ARP for this link.
        let mut odd = arp(POD, STRANGER);
        odd[14] = 9;
        assert!(!scene.sends(&odd));
        assert_eq!(scene.dropped(Direction::Egress, DropReason::Spoofed), 1);
    });
}

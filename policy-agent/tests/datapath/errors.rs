//! ICMP errors, judged by the packet that they quote.

use std::net::IpAddr;

use policy_agent::datapath::Hook;
use policy_common::abi::{Direction, event::DropReason, mark};

use crate::bed::{ACK, POLICY, SLOT, SYN, on_bed, word};
use crate::crafted::{BOTH, Ends, Scene, TCP, UDP, error, frame, udp};

/// Types of errors that may belong to a flow, and of some that never do.
fn types(address: IpAddr) -> (&'static [u8], &'static [u8]) {
    if address.is_ipv4() {
        (&[3, 11, 12], &[4, 5])
    } else {
        (&[1, 2, 3, 4], &[5, 127])
    }
}

/// A TCP segment.
fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let mut body = udp(from.1, to.1, 20);
    (body[12], body[13]) = (0x50, flags);
    frame(from.0, to.0, TCP, &body)
}

#[test]
fn errors_about_what_the_pod_sent_reach_it_from_anywhere() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            let (related, unrelated) = types(pod);
            // The friend opened it: by itself the pod may not send from port 53.
            let question = frame(friend, pod, UDP, &udp(4_000, 53, 30));
            let answer = frame(pod, friend, UDP, &udp(53, 4_000, 30));
            assert!(scene.gets(&question) && scene.sends(&answer));
            let syn = tcp((pod, 5_000), (friend, 80), SYN);
            assert!(scene.sends(&syn));
            for about in [&answer, &syn] {
                for kind in related {
                    for router in [stranger, friend] {
                        assert!(scene.gets(&error(router, pod, *kind, about)), "{kind}");
                    }
                }
                for kind in unrelated {
                    assert!(!scene.gets(&error(stranger, pod, *kind, about)), "{kind}");
                }
            }
        }
    });
}

#[test]
fn errors_about_anything_else_are_dropped_and_named() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        let mut denied = 0;
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            let kind = types(pod).0[0];
            let syn = tcp((pod, 5_000), (friend, 80), SYN);
            assert!(scene.sends(&syn));
            for about in [
                tcp((pod, 5_000), (friend, 81), ACK),
                tcp((pod, 5_000), (stranger, 80), ACK),
                frame(pod, stranger, UDP, &udp(1, 53, 20)),
                // What the pod did not send.
                tcp((friend, 80), (pod, 5_000), ACK),
                tcp((stranger, 5_000), (friend, 80), SYN),
            ] {
                assert!(!scene.gets(&error(stranger, pod, kind, &about)));
                denied += 1;
            }
            let mut noise = error(stranger, pod, kind, &syn);
            let at = noise.len() - if pod.is_ipv4() { 28 } else { 48 };
            noise[at..].fill(0xff);
            assert!(!scene.gets(&noise));
            denied += 1;
        }
        let counted = scene.dropped(Direction::Ingress, DropReason::IcmpError);
        assert_eq!(counted, denied);
    });
}

#[test]
fn pod_may_report_of_what_it_got_and_of_nothing_else() {
    let decided = mark::with(0, 16, mark::DECIDED, SLOT);
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for Ends {
            pod,
            friend,
            stranger,
        } in BOTH
        {
            let unreachable = types(pod).0[0];
            let question = frame(friend, pod, UDP, &udp(4_000, 53, 30));
            assert!(scene.gets(&question));
            let report = error(pod, friend, unreachable, &question);
            assert_eq!(scene.at(Hook::From, &report, 0), (true, decided));
            // Where it leaves without its mark, its sender is asked once more.
            for hook in [Hook::Wire, Hook::To] {
                assert!(scene.at(hook, &report, 0).0, "{hook:?}");
            }
            let refused = frame(stranger, pod, UDP, &udp(4_000, 53, 30));
            assert!(!scene.gets(&refused));
            let report = error(pod, stranger, unreachable, &refused);
            for hook in [Hook::From, Hook::Wire] {
                assert!(!scene.at(hook, &report, 0).0, "{hook:?}");
            }
            let misdirected = error(pod, stranger, unreachable, &question);
            assert!(!scene.sends(&misdirected));
        }
        assert_eq!(scene.dropped(Direction::Egress, DropReason::IcmpError), 6);
    });
}

#[test]
fn revoked_connection_gets_no_more_errors() {
    on_bed(|bed| {
        let scene = Scene::new(bed);
        for (generation, Ends { pod, friend, .. }) in (10..).step_by(10).zip(BOTH) {
            scene.word(word(generation, POLICY));
            let kind = types(pod).0[0];
            let syn = tcp((pod, 5_000), (friend, 80), SYN);
            assert!(scene.sends(&syn));
            let report = error(friend, pod, kind, &syn);
            assert!(scene.gets(&report));
            scene.word(word(generation + 1, POLICY));
            assert!(scene.gets(&report), "still allowed");
            // A policy without rows.
            scene.word(word(generation + 2, POLICY + 1));
            assert!(!scene.gets(&report));
            scene.word(word(generation + 3, 0));
            assert!(scene.gets(&report), "nothing isolates the pod");
        }
    });
}

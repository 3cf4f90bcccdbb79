//! What the programs say to packets, and when.

use policy_common::abi::config::FLAG_ENFORCE_OFF;
use policy_core::ops::Op;

use crate::bed::{ACK, FRIEND, POD, POLICY, SLOT, STRANGER, SYN, apply, on_bed, tcp, word};

#[test]
fn policy_allows_its_port_and_its_peer_and_nothing_else() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        for (peer, port, passes) in [
            (FRIEND, 80, true),
            (FRIEND, 81, false),
            (STRANGER, 80, false),
        ] {
            let inward = tcp((peer, 1000), (POD, port), SYN);
            let answer = datapath.test_run(&inward, bed.arriving(), 1).unwrap();
            assert_eq!(answer.passes, passes, "from {peer} to port {port}");
            let outward = tcp((POD, 1000), (peer, port), SYN);
            let answer = datapath.test_run(&outward, bed.leaving(), 1).unwrap();
            assert_eq!(answer.passes, passes, "to {peer} port {port}");
        }
    });
}

#[test]
fn flow_that_passed_vouches_for_nobody_with_another_address() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        for round in 0..10 {
            let own = tcp((POD, 1000), (FRIEND, 80), ACK);
            let answer = datapath.test_run(&own, bed.leaving(), 3).unwrap();
            assert!(answer.passes, "round {round}");
            // The same flow but for the address that it claims to be from.
            let spoofed = tcp((STRANGER, 1000), (FRIEND, 80), ACK);
            let answer = datapath.test_run(&spoofed, bed.leaving(), 3).unwrap();
            assert!(!answer.passes, "round {round}");
        }
    });
}

#[test]
fn stored_word_is_what_the_next_packet_sees() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let packet = tcp((STRANGER, 1000), (POD, 80), SYN);
        let passes = || {
            datapath
                .test_run(&packet, bed.arriving(), 1)
                .unwrap()
                .passes
        };
        for generation in 2..50 {
            let isolated = generation % 2 == 0;
            let policy = if isolated { POLICY } else { 0 };
            let store = Op::Word {
                slot: SLOT,
                word: word(generation, policy),
            };
            apply(&datapath, &[store]);
            assert_eq!(passes(), !isolated, "generation {generation}");
        }
    });
}

#[test]
fn prefix_decides_for_addresses_without_an_identity() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let packet = tcp((STRANGER, 1000), (POD, 80), SYN);
        let passes = || {
            datapath
                .test_run(&packet, bed.arriving(), 1)
                .unwrap()
                .passes
        };
        let prefix = "10.0.0.0/24".parse().unwrap();
        let identity = crate::bed::FRIEND_ID;
        assert!(!passes());
        apply(&datapath, &[Op::Prefix { prefix, identity }]);
        assert!(passes());
        apply(&datapath, &[Op::DeletePrefix { prefix }]);
        assert!(!passes());
    });
}

#[test]
fn emergency_switch_lets_everything_pass_and_back() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let packet = tcp((STRANGER, 1000), (POD, 80), SYN);
        let passes = || {
            datapath
                .test_run(&packet, bed.arriving(), 1)
                .unwrap()
                .passes
        };
        assert!(!passes());
        datapath.maps().set_enforce(false).unwrap();
        assert_ne!(datapath.maps().config().flags & FLAG_ENFORCE_OFF, 0);
        assert!(passes());
        datapath.maps().set_enforce(true).unwrap();
        assert!(!passes());
    });
}

#[test]
fn answer_of_an_allowed_connection_passes_and_a_stray_one_does_not() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let pod = (POD, 4_000);
        let friend = (FRIEND, 80);
        let answer = tcp(friend, pod, SYN | ACK);
        let passes = |packet: &[u8], at| datapath.test_run(packet, at, 1).unwrap().passes;
        assert!(!passes(&answer, bed.arriving()), "nobody asked");
        assert!(passes(&tcp(pod, friend, SYN), bed.leaving()));
        assert!(passes(&answer, bed.arriving()));
    });
}

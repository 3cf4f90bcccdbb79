//! What a CPU remembers of addresses and policies is never older than what the agent
//! last wrote.
//!
//! All packets open connections, which the flow cache never answers for. Each state is
//! asked about several times, so that what is remembered is asked, too.

use std::net::Ipv4Addr;

use policy_agent::datapath::{Datapath, test_run::At};
use policy_common::abi::maps;
use policy_common::abi::policy::{ACTION_DENY, PolicyKey};
use policy_core::ops::Op;

use crate::bed::{
    Bed, FRIEND, FRIEND_ID, POD, POLICY, SLOT, STRANGER, SYN, apply, eventually, on_bed, row, run,
    tcp, word,
};

/// Of nobody at first; policy says the same of it as of all others.
const NEIGHBOUR_ID: u32 = 6;

/// Whether a SYN to port 80 passes, several times alike in both directions.
fn passes(datapath: &Datapath, bed: &Bed, peer: Ipv4Addr) -> bool {
    let one = |at: At| {
        let (from, to) = match at.ifindex == at.ingress_ifindex {
            true => ((POD, 1_000), (peer, 80)),
            false => ((peer, 1_000), (POD, 80)),
        };
        let sent = |_| datapath.test_run(&tcp(from, to, SYN), at, 1).unwrap();
        let answers: Vec<bool> = (0..3).map(|number| sent(number).passes).collect();
        assert_eq!(answers, [answers[0]; 3], "{peer}");
        answers[0]
    };
    let (inward, outward) = (one(bed.arriving()), one(bed.leaving()));
    assert_eq!(inward, outward, "{peer}");
    inward
}

fn host(address: Ipv4Addr, identity: u32) -> Op {
    Op::Host {
        address: address.into(),
        identity,
        node: false,
        slot: 0,
    }
}

fn gone(address: Ipv4Addr) -> Op {
    Op::DeleteHost {
        address: address.into(),
    }
}

#[test]
fn next_packet_sees_who_an_address_is_now() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        for round in 0..20 {
            assert!(passes(&datapath, bed, FRIEND), "round {round}");
            assert!(!passes(&datapath, bed, STRANGER), "round {round}");
            apply(&datapath, &[host(STRANGER, FRIEND_ID), gone(FRIEND)]);
            assert!(!passes(&datapath, bed, FRIEND), "round {round}");
            assert!(passes(&datapath, bed, STRANGER), "round {round}");
            apply(&datapath, &[gone(STRANGER), host(FRIEND, FRIEND_ID)]);
        }
    });
}

#[test]
fn next_packet_sees_what_a_policy_says_now() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        apply(&datapath, &[host(STRANGER, NEIGHBOUR_ID)]);
        let delete = |identity| Op::DeleteRow {
            key: PolicyKey {
                policy: POLICY.into(),
                identity,
            },
        };
        for round in 0..20 {
            assert!(!passes(&datapath, bed, STRANGER), "round {round}");
            apply(&datapath, &[row(POLICY, NEIGHBOUR_ID, 1)]);
            assert!(passes(&datapath, bed, STRANGER), "a row, round {round}");
            apply(&datapath, &[row(POLICY, NEIGHBOUR_ID, 2)]);
            assert!(!passes(&datapath, bed, STRANGER), "other ports, {round}");
            apply(&datapath, &[row(POLICY, NEIGHBOUR_ID, 1)]);
            assert!(passes(&datapath, bed, STRANGER), "again, round {round}");
            apply(&datapath, &[delete(NEIGHBOUR_ID)]);
        }
    });
}

#[test]
fn number_of_a_policy_that_is_used_again_says_what_it_says_now() {
    on_bed(|bed| {
        let datapath = bed.open();
        let ops = bed.pod();
        apply(&datapath, &ops);
        let allowing = ops.iter().find_map(|op| match op {
            Op::PortSet { id: 1, value } => Some(*value),
            _ => None,
        });
        let allowing = allowing.unwrap();
        let mut denying = allowing;
        denying.inline[0].action = ACTION_DENY;
        for generation in (2..40).step_by(2) {
            assert!(passes(&datapath, bed, FRIEND), "generation {generation}");
            // As the planner orders it: away from the number, its contents, and back.
            let change = |generation, value| {
                [
                    Op::Word {
                        slot: SLOT,
                        word: word(generation, 0),
                    },
                    Op::PortSet { id: 1, value },
                    Op::Word {
                        slot: SLOT,
                        word: word(generation, POLICY),
                    },
                ]
            };
            apply(&datapath, &change(generation, denying));
            assert!(!passes(&datapath, bed, FRIEND), "generation {generation}");
            apply(&datapath, &change(generation + 1, allowing));
        }
    });
}

#[test]
fn agent_that_starts_forgets_what_was_known_before() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        assert!(passes(&datapath, bed, FRIEND));
        drop(datapath);
        // As if the one before had ended right after this.
        delete_friend(bed);
        let datapath = bed.open();
        assert!(!passes(&datapath, bed, FRIEND));
    });
}

/// Removes the friend's row behind the agent's back.
fn delete_friend(bed: &Bed) {
    let map = bed.pins().map(maps::ID4);
    let [a, b, c, d] = FRIEND.octets();
    let delete = format!("map delete pinned {} key {a} {b} {c} {d}", map.display());
    run("bpftool", &delete);
}

#[test]
fn change_of_which_nobody_told_is_seen_after_a_moment() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        assert!(passes(&datapath, bed, FRIEND));
        delete_friend(bed);
        let denied = || {
            let packet = tcp((FRIEND, 1_000), (POD, 80), SYN);
            let answer = datapath.test_run(&packet, bed.arriving(), 1).unwrap();
            !answer.passes
        };
        eventually("the friend is nobody", denied);
    });
}

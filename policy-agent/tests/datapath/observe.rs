//! Events, counters, connection records, occupancy, preflight.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use policy_agent::{
    datapath::{
        Datapath,
        apply::monotonic_ns,
        events::Events,
        preflight::{self, Status},
    },
    object,
};
use policy_common::{
    abi::{
        Direction,
        event::{DropReason, VerdictEvent},
        maps, stats,
    },
    conntrack::{RESET_NS, TCP_ESTABLISHED_NS, UNCONFIRMED_NS},
};
use policy_core::ops::Op;

use crate::bed::{
    ACK, Bed, FRIEND, NUMBER, POD, POLICY, SLOT, STRANGER, SYN, apply, connect, eventually, on_bed,
    passes, tcp, word,
};
use crate::timeouts::last_seen;

#[test]
fn denied_packet_is_reported_and_counted_and_an_allowed_one_is_only_counted() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let events: Vec<VerdictEvent> = runtime.block_on(async {
            let mut events = Events::open(datapath.pins()).unwrap();
            assert!(events.drain().is_empty());
            for (peer, port) in [(FRIEND, 80), (STRANGER, 81)] {
                let packet = tcp((peer, 1000), (POD, port), SYN);
                datapath.test_run(&packet, bed.arriving(), 1).unwrap();
            }
            let wait = Duration::from_secs(10);
            let read = tokio::time::timeout(wait, events.next()).await;
            read.expect("an event").unwrap()
        });
        let [event] = events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(event.reason, DropReason::Policy as u8);
        assert_eq!(event.endpoint, NUMBER);
        assert_eq!((event.src_port, event.dst_port), (1000, 81));
        assert_eq!(event.src[12..], STRANGER.octets());

        let counters = datapath.maps().counters().unwrap();
        assert_eq!(counters.dropped(Direction::Ingress, DropReason::Policy), 1);
        assert_eq!(counters.get(Direction::Ingress, stats::PASSED), 1);
        assert_eq!(counters.get(Direction::Egress, stats::PASSED), 0);
        let named = counters.named();
        assert!(
            named.contains(&(Direction::Ingress, "policy", 1)),
            "{named:?}"
        );
    });
}

#[test]
fn sweeper_removes_what_has_ended_and_keeps_the_books() {
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        apply(&datapath, &bed.pod());
        for port in 4_000..4_003 {
            connect(&datapath, bed, POD, port);
        }
        assert_eq!(maps.ct_count(SLOT).unwrap().created, 3);
        let swept = maps.sweep().unwrap();
        assert_eq!((swept.left[0], swept.removed), (3, 0));
        assert_eq!(maps.ct_count(SLOT).unwrap().removed, 0);

        let late = monotonic_ns() + TCP_ESTABLISHED_NS + 1_000_000_000;
        let swept = maps.sweep_at(late).unwrap();
        assert_eq!(swept.left, [0, 0, 0]);
        let books = maps.ct_count(SLOT).unwrap();
        assert_eq!((books.created, books.removed), (3, 3));
        assert_eq!(swept.corrected, 0);
    });
}

#[test]
fn sweeper_ends_what_nobody_answered_and_leaves_what_is_live() {
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        apply(&datapath, &bed.pod());
        let syn = tcp((POD, 4_000), (FRIEND, 80), SYN);
        datapath.test_run(&syn, bed.leaving(), 1).unwrap();
        connect(&datapath, bed, POD, 4_001);
        assert_eq!(maps.sweep().unwrap().left, [1, 1, 0]);
        let late = monotonic_ns() + UNCONFIRMED_NS + 1_000_000_000;
        let swept = maps.sweep_at(late).unwrap();
        assert_eq!((swept.left, swept.removed), ([1, 0, 0], 1));
    });
}

#[test]
fn records_of_a_pod_that_nothing_isolates_are_apart_until_they_are_confirmed() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let store = Op::Word {
            slot: SLOT,
            word: word(2, 0),
        };
        apply(&datapath, &[store]);
        let syn = tcp((POD, 4_001), (FRIEND, 80), SYN);
        assert!(datapath.test_run(&syn, bed.leaving(), 1).unwrap().passes);
        connect(&datapath, bed, POD, 4_000);
        let swept = datapath.maps().sweep().unwrap();
        assert_eq!((swept.left, swept.corrected), ([1, 0, 1], 0));
    });
}

#[test]
fn sweeper_removes_records_of_endpoints_that_are_gone() {
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        apply(&datapath, &bed.pod());
        connect(&datapath, bed, POD, 4_000);
        apply(&datapath, &[Op::DeleteEndpoint { slot: SLOT }]);
        let swept = maps.sweep().unwrap();
        assert_eq!(swept.left, [0, 0, 0]);
        assert!(swept.removed >= 1);
        assert_eq!(maps.ct_count(SLOT).unwrap().removed, 1);
    });
}

/// The sweeper takes a record out before it knows that it is another connection's by
/// now, and puts it back. An answer between the two is lost, and passes when it is
/// sent again.
#[test]
fn sweeper_keeps_no_record_of_a_connection_that_opens_on_the_ports_of_one_that_ended() {
    const PORTS: std::ops::Range<u16> = 4_000..4_032;
    const ROUNDS: u32 = 100;
    const RST: u8 = 4;
    /// Of 16,000.
    const LOST: usize = 32;
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        apply(&datapath, &bed.pod());
        let is_done = AtomicBool::new(false);
        let removed = thread::scope(|scope| {
            let sweeper = scope.spawn(|| {
                let mut removed = 0;
                while !is_done.load(Ordering::Relaxed) {
                    removed += maps.sweep().unwrap().removed;
                }
                removed
            });
            let packets = || {
                let mut lost = 0;
                for round in 0..ROUNDS {
                    for port in PORTS {
                        lost += lost_answers(&datapath, bed, port);
                        let reset = tcp((POD, port), (FRIEND, 80), ACK | RST);
                        assert!(passes(&datapath, &reset, bed.leaving()));
                    }
                    let long_ago = monotonic_ns() - RESET_NS - 1_000_000_000;
                    last_seen(&datapath, long_ago);
                    // No packet passes because one like it did a moment ago.
                    let word = word(2 + round, POLICY);
                    apply(&datapath, &[Op::Word { slot: SLOT, word }]);
                }
                assert!(lost <= LOST, "{lost} had to be sent again");
            };
            let outcome = catch_unwind(AssertUnwindSafe(packets));
            is_done.store(true, Ordering::Relaxed);
            let removed = sweeper.join().unwrap();
            outcome.map_err(resume_unwind).map(|()| removed).unwrap()
        });
        assert!(removed > 0, "the sweeper had something to do");
        // Whatever is left.
        let late = monotonic_ns() + TCP_ESTABLISHED_NS + 1_000_000_000;
        maps.sweep_at(late).unwrap();
        connect(&datapath, bed, POD, PORTS.start);
        let swept = maps.sweep().unwrap();
        assert_eq!(swept.left, [1, 0, 0]);
        let books = maps.ct_count(SLOT).unwrap();
        assert_eq!(books.created - books.removed, 1, "{books:?}");
        assert!(passes(
            &datapath,
            &tcp((FRIEND, 80), (POD, PORTS.start), ACK),
            bed.arriving()
        ));
        assert_eq!(maps.sweep().unwrap().corrected, 0, "the books are exact");
    });
}

/// Opens a connection of the pod; how many of five answers had to be sent again.
fn lost_answers(datapath: &Datapath, bed: &Bed, port: u16) -> usize {
    let (pod, friend) = ((POD, port), (FRIEND, 80));
    let answer = |flags| {
        let mut sent = 0;
        eventually("an answer that is sent again passes", || {
            sent += 1;
            passes(datapath, &tcp(friend, pod, flags), bed.arriving())
        });
        usize::from(sent > 1)
    };
    assert!(passes(datapath, &tcp(pod, friend, SYN), bed.leaving()));
    let mut lost = answer(SYN | ACK);
    assert!(passes(datapath, &tcp(pod, friend, ACK), bed.leaving()));
    for _ in 0..4 {
        lost += answer(ACK);
    }
    lost
}

#[test]
fn occupancy_counts_what_is_in_use() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let occupancy = datapath.maps().occupancy().unwrap();
        assert_eq!(occupancy.len(), maps::ALL.len());
        let used = |name| occupancy.iter().find(|o| o.spec.name == name).unwrap().used;
        assert_eq!(used(maps::POLICY), Some(2));
        assert_eq!(used(maps::PORT_SETS), Some(2));
        assert_eq!(used(maps::ENDPOINTS), Some(1));
        assert_eq!(used(maps::IFINDEX), Some(1));
        assert_eq!(used(maps::ID6), Some(0));
        assert_eq!(used(maps::EVENTS), None);
    });
}

#[test]
fn preflight_finds_this_node_able_and_measures_the_programs() {
    on_bed(|bed| {
        let report = preflight::preflight(
            &bed.bpffs,
            policy_common::abi::mark::DEFAULT_SHIFT,
            object::bytes().unwrap(),
        );
        let failed: Vec<_> = report
            .checks
            .iter()
            .filter(|check| check.status == Status::Failed)
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
        let names: Vec<_> = report.programs.iter().map(|p| p.name).collect();
        assert_eq!(
            names,
            ["from_pod", "to_pod", "to_wire", "from_wire", "prefilter"]
        );
        for program in &report.programs {
            assert!(program.verified_instructions > 0, "{program:?}");
            assert!(program.translated_bytes > 0, "{program:?}");
        }
        assert!(!bed.pins().root().exists());
    });
}

#[test]
fn grace_period_can_be_waited_for() {
    on_bed(|_| policy_agent::datapath::grace().unwrap());
}

//! The table of confirmed connections, which all pods of a node share: many that take
//! all they get leave a pod that comes later as much as each of them has, and pods that
//! nothing isolates push out nothing that others need.

use std::net::Ipv4Addr;

use policy_agent::datapath::{Datapath, evictions::Evictions};
use policy_common::abi::{
    conntrack::CT_ALL_SLOT,
    endpoint::{Endpoint, FLAG_USED, PolicyWord},
    maps::{CT, CT_ENTRIES, CT_PENDING_ENTRIES},
};
use policy_common::conntrack::{CT_FOR_OPEN, CT_SHARES};
use policy_core::ops::Op;

use crate::bed::{
    ACK, Bed, FRIEND, NUMBER, POD, POLICY, SLOT, STRANGER, SYN, apply, connect, on_bed, passes,
    tcp, word,
};
use crate::earlier::{flow, pod};

/// Pods that open connections without end: more than a sixteenth of the table each
/// would fill.
const GREEDY: u32 = 20;
/// What a pod that comes later has: its answers pass only because they are known.
const LIVE: std::ops::Range<u16> = 30_000..30_500;

/// Connections that an open pod makes without end: more than any table of those that
/// may evict has room for.
const ENDLESS: usize = 2 * CT_PENDING_ENTRIES;

fn address(pod: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, u8::try_from(pod).unwrap())
}

/// Puts another pod behind the interface. One after the other they use it: what a
/// pod has is known by its number.
fn put_behind(datapath: &Datapath, bed: &Bed, slot: u32, address: Ipv4Addr) {
    let value = Endpoint {
        word: word(1, POLICY).0,
        number: NUMBER + slot,
        flags: FLAG_USED,
        addr4: address.octets(),
        ifindex: bed.ifindex,
        ..Endpoint::EMPTY
    };
    let interface = Op::Interface {
        ifindex: bed.ifindex,
        slot,
    };
    apply(datapath, &[Op::Endpoint { slot, value }, interface]);
}

/// Whether the friend's answer to what the pod has opened from a port passes.
fn is_answered(datapath: &Datapath, bed: &Bed, port: u16) -> bool {
    let answer = tcp((FRIEND, 80), (POD, port), ACK);
    passes(datapath, &answer, bed.arriving())
}

/// What was opened is answered, and nothing else.
fn assert_live(datapath: &Datapath, bed: &Bed) {
    for port in LIVE {
        assert!(
            is_answered(datapath, bed, port),
            "port {port} is known no more"
        );
    }
    assert!(!is_answered(datapath, bed, LIVE.end), "one never opened");
}

fn confirmed(datapath: &Datapath, slot: u32) -> usize {
    let books = datapath.maps().ct_count(slot).unwrap();
    usize::try_from(books.created.wrapping_sub(books.removed)).unwrap()
}

#[test]
fn many_pods_that_open_without_end_leave_room_for_one_that_comes_later() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        datapath.maps().configure(u32::MAX, 1_000).unwrap();
        let share = CT_ENTRIES / CT_SHARES;
        let mut taken = 0;
        for slot in SLOT + 1..=SLOT + GREEDY {
            put_behind(&datapath, bed, slot, address(slot));
            for port in 1_024..1_024 + u16::try_from(share).unwrap() + 100 {
                connect(&datapath, bed, address(slot), port);
            }
            let has = confirmed(&datapath, slot);
            assert!(has <= share && has > 0, "{has}");
            taken += has;
        }
        assert_eq!(confirmed(&datapath, SLOT + 1), share, "the first one alone");
        assert_eq!(confirmed(&datapath, CT_ALL_SLOT), taken);
        assert!(taken < CT_ENTRIES, "{taken}");

        let slot = SLOT + GREEDY + 1;
        put_behind(&datapath, bed, slot, POD);
        for port in LIVE {
            connect(&datapath, bed, POD, port);
        }
        assert_eq!(confirmed(&datapath, slot), LIVE.len());
        let mut evictions = Evictions::default();
        let swept = datapath.maps().sweep().unwrap();
        assert_eq!(evictions.since(&swept), [0, 0]);
        assert_eq!((swept.corrected, swept.removed), (0, 0));
        // Half open ones, of which only so many are kept.
        let flood = CT_PENDING_ENTRIES * 2;
        for number in 0..flood {
            let port = u16::try_from(number % 60_000).unwrap() + 1_024;
            let syn = tcp((FRIEND, port), (POD, 80), SYN);
            let passed = passes(&datapath, &syn, bed.arriving());
            assert!(passed, "policy allows it: packet {number}");
        }
        assert_live(&datapath, bed);

        let swept = datapath.maps().sweep().unwrap();
        let [evicted, others] = evictions.since(&swept);
        let evicted = usize::try_from(evicted).unwrap();
        assert!(evicted >= flood - CT_PENDING_ENTRIES, "{evicted}");
        assert_eq!((evicted + swept.left[1] >= flood, others), (true, 0));
        assert_eq!(swept.left[0], taken + LIVE.len());
        assert_eq!((swept.corrected, swept.removed), (0, 0));
        // What ends is everybody's again.
        apply(&datapath, &[Op::DeleteEndpoint { slot: SLOT + 1 }]);
        let swept = datapath.maps().sweep().unwrap();
        assert_eq!((swept.corrected, swept.removed), (0, share));
        let all = taken + LIVE.len() - share;
        assert_eq!(confirmed(&datapath, CT_ALL_SLOT), all);
        let occupancy = datapath.maps().occupancy().unwrap();
        let used = occupancy.iter().find(|map| map.spec.name == CT).unwrap();
        assert_eq!(used.used, Some(all));
    });
}

/// A pod that policies isolate, beside others that nothing does.
const WAITING: u32 = SLOT + 3;

/// What a pod has opened goes on when something isolates it, whatever another that
/// nothing isolates has opened meanwhile, or others to it.
#[test]
fn an_open_pod_pushes_out_nothing_that_others_need_when_they_become_isolated() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        datapath.maps().configure(u32::MAX, 1_000).unwrap();
        let (victim, greedy) = (SLOT + 1, SLOT + 2);
        put_behind(&datapath, bed, victim, POD);
        open_up(&datapath, victim);
        for port in LIVE {
            connect(&datapath, bed, POD, port);
        }
        // Another, which policies isolate, waits for its first answer.
        let waiting = (address(WAITING), 4_000);
        put_behind(&datapath, bed, WAITING, waiting.0);
        let syn = tcp(waiting, (FRIEND, 80), SYN);
        assert!(passes(&datapath, &syn, bed.leaving()));
        put_behind(&datapath, bed, greedy, address(greedy));
        open_up(&datapath, greedy);
        for number in 0..ENDLESS {
            let port = u16::try_from(number % 60_000).unwrap() + 1_024;
            connect(&datapath, bed, address(greedy), port);
            let syn = tcp((STRANGER, port), (address(greedy), 80), SYN);
            let passed = passes(&datapath, &syn, bed.arriving());
            assert!(passed, "nothing isolates it: packet {number}");
        }
        let has = confirmed(&datapath, greedy);
        assert!(has > 0 && has <= CT_FOR_OPEN / CT_SHARES, "{has}");

        put_behind(&datapath, bed, WAITING, waiting.0);
        let answers = |to| {
            let answer = tcp((FRIEND, 80), to, SYN | ACK);
            passes(&datapath, &answer, bed.arriving())
        };
        assert!(answers(waiting), "what it has opened is known no more");
        assert!(!answers((waiting.0, 4_001)), "what it has not opened");

        put_behind(&datapath, bed, victim, POD);
        let store = Op::Word {
            slot: victim,
            word: word(3, POLICY),
        };
        apply(&datapath, &[store]);
        assert_live(&datapath, bed);
        let swept = datapath.maps().sweep().unwrap();
        assert_eq!((swept.corrected, swept.removed), (0, 0));
    });
}

/// Nothing isolates the pod in this slot any longer.
fn open_up(datapath: &Datapath, slot: u32) {
    let word = word(2, PolicyWord::NOT_ISOLATED);
    apply(datapath, &[Op::Word { slot, word }]);
}

#[test]
fn what_the_agent_knows_of_older_connections_is_booked_and_within_the_share() {
    const PEERS: usize = CT_FOR_OPEN / CT_SHARES + 100;
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let endpoint = pod();
        let ports = 1_024..1_024 + u16::try_from(PEERS).unwrap();
        let known: Vec<_> = ports
            .clone()
            .map(|port| flow(((POD, port), (FRIEND, 80)), true))
            .collect();
        let made = datapath.remember(SLOT, &endpoint, &known).unwrap();
        assert_eq!(made, known.len());
        let share = CT_FOR_OPEN / CT_SHARES;
        assert_eq!(confirmed(&datapath, SLOT), share);
        assert_eq!(confirmed(&datapath, CT_ALL_SLOT), share);
        let swept = datapath.maps().sweep().unwrap();
        assert_eq!(swept.left, [share, 0, made - share]);
        assert_eq!((swept.corrected, swept.removed), (0, 0));
        // All are answered: those beyond the share from the table that may evict.
        for port in ports {
            assert!(is_answered(&datapath, bed, port), "port {port}");
        }
        assert!(!is_answered(&datapath, bed, 60_000));
        assert_eq!(datapath.remember(SLOT, &endpoint, &known).unwrap(), 0);
    });
}

//! One sender, one record, and a policy that allows by identity and port.

use super::*;
use crate::abi::conntrack::CtEntry;
use crate::abi::identity::Identity;
use crate::abi::policy::{Interval, PolicyKey, PortSet};
use crate::abi::{family, protocol};
use crate::conntrack;
use crate::packet::{Words, words4};
use crate::verdict::decide::{Peer, Table};
use crate::verdict::judge::Judgement;

const POD: [u8; 4] = [10, 0, 0, 2];
const FRIEND: [u8; 4] = [10, 0, 0, 5];
const FOE: [u8; 4] = [10, 0, 0, 6];
const EGRESS: u16 = 3;
const INGRESS: u16 = 4;
const RULE: u32 = 21;
const DENY_RULE: u32 = 22;
const NOW_NS: u64 = 1_000_000_000_000;

/// Whether the sender's policies allow its friend on port 80, out and in.
struct World {
    out: bool,
    inward: bool,
    record: Option<(CtKey, CtEntry)>,
}

fn sender(marked: bool) -> Sender {
    Sender {
        slot: 1,
        endpoint: 41,
        word: PolicyWord::new(8, INGRESS, EGRESS),
        marked,
    }
}

fn packet(dst: [u8; 4], dst_port: u16, kind: Kind) -> Packet {
    Packet {
        src: words4(POD),
        dst: words4(dst),
        src_port: 80,
        dst_port,
        protocol: protocol::TCP,
        family: family::V4,
        kind,
        ..Packet::EMPTY
    }
}

/// A record of what a peer opened to the sender's port 80, or the sender.
fn record(peer: [u8; 4], peer_port: u16, flags: u32, generation: u32) -> (CtKey, CtEntry) {
    let key = CtKey {
        peer: bytes16(words4(peer)),
        endpoint: 41,
        local_port: 80,
        peer_port,
        protocol: protocol::TCP,
        family: family::V4,
        pad: [0; 2],
    };
    let entry = CtEntry {
        tag: conntrack::tag(&key),
        flags,
        generation,
        slot: 1,
        last_seen_ns: NOW_NS,
    };
    (key, entry)
}

impl PolicyTables for World {
    fn row(&self, _: PolicyKey) -> Option<u32> {
        None
    }
    fn port_set<R>(&self, _: u32, _: impl FnOnce(&PortSet) -> R) -> Option<R> {
        None
    }
    fn extent(&self, _: u32) -> Option<Interval> {
        None
    }
    fn judge(&self, policy: u16, identity: Identity, _: u8, port: u16) -> Judgement {
        let allows = match policy {
            EGRESS => self.out,
            INGRESS => self.inward,
            _ => unreachable!("policy {policy}"),
        };
        let allows = allows && identity == Identity::from(FRIEND[3]) && port == 80;
        Judgement {
            denied: (!allows).then_some(DropReason::Policy),
            rule: if allows { RULE } else { DENY_RULE },
            log: false,
        }
    }
}

impl Identities for World {
    fn peer(&self, _: u8, address: Words) -> Peer {
        Peer {
            identity: crate::packet::bytes4(address)[3].into(),
            node: false,
        }
    }
}

impl Records for World {
    fn now_ns(&self) -> u64 {
        NOW_NS
    }

    type Record = ();

    fn has_open(&self, _: u32) -> bool {
        false
    }
    fn find(&self, table: Table, key: &CtKey) -> Option<()> {
        (table == Table::Main && self.record.is_some_and(|(own, _)| own == *key)).then_some(())
    }
    fn read(&self, (): ()) -> CtEntry {
        self.record.expect("it was found").1
    }
    fn write(&self, (): (), _: &CtEntry) {
        unreachable!("judging a sender changes nothing");
    }
    fn insert(&self, _: Table, _: &CtKey, _: &CtEntry) -> bool {
        unreachable!("judging a sender changes nothing");
    }
    fn delete(&self, _: Table, _: &CtKey) {
        unreachable!("judging a sender changes nothing");
    }
    fn has_budget(&self, _: u32, _: bool) -> bool {
        unreachable!("judging a sender changes nothing");
    }
    fn count_created(&self, _: u32) {
        unreachable!("judging a sender changes nothing");
    }
    fn count(&self, _: u32) {}
}

fn judged(world: &World, marked: bool, packet: &Packet) -> Verdict {
    judge_sender(world, world, &sender(marked), packet)
}

const OUT: World = World {
    out: true,
    inward: false,
    record: None,
};

#[test]
fn real_destination_is_judged_with_and_without_a_mark() {
    for marked in [true, false] {
        for kind in [Kind::TcpSyn, Kind::TcpData, Kind::Datagram] {
            let allowed = judged(&OUT, marked, &packet(FRIEND, 80, kind));
            assert!(allowed.passes() && !allowed.cacheable, "{kind:?}");
            for (peer, port) in [(FRIEND, 81), (FOE, 80)] {
                let denied = judged(&OUT, marked, &packet(peer, port, kind));
                assert_eq!(
                    (denied.denied, denied.rule, denied.identity),
                    (Some(DropReason::Policy), DENY_RULE, peer[3].into()),
                    "{kind:?}"
                );
            }
        }
    }
}

#[test]
fn sender_that_nothing_isolates_any_more_is_not_asked() {
    let free = Sender {
        word: PolicyWord::new(9, INGRESS, PolicyWord::NOT_ISOLATED),
        ..sender(true)
    };
    assert!(judge_sender(&OUT, &OUT, &free, &packet(FOE, 80, Kind::TcpSyn)).passes());
    let fragment = packet(FOE, 0, Kind::Fragment);
    assert!(judge_sender(&OUT, &OUT, &free, &fragment).passes());
}

#[test]
fn fragment_cannot_be_judged() {
    let verdict = judged(&OUT, true, &packet(FRIEND, 80, Kind::Fragment));
    assert_eq!(verdict.denied, Some(DropReason::Fragment));
}

#[test]
fn reply_passes_by_its_record_if_its_mark_was_wiped_and_only_then() {
    let world = World {
        out: false,
        inward: true,
        // Judged under the word in force.
        record: Some(record(FOE, 4_000, 0, 8)),
    };
    let reply = packet(FOE, 4_000, Kind::TcpData);
    assert!(judged(&world, false, &reply).passes());
    assert!(
        !judged(&world, true, &reply).passes(),
        "it was marked as none"
    );
    let opener = packet(FOE, 4_000, Kind::TcpSyn);
    assert!(!judged(&world, false, &opener).passes());
    let other = packet(FOE, 4_001, Kind::TcpData);
    assert!(!judged(&world, false, &other).passes());
}

#[test]
fn what_the_sender_opened_is_no_reply() {
    let world = World {
        record: Some(record(FOE, 4_000, CT_OPENED_BY_POD, 8)),
        ..OUT
    };
    assert!(!judged(&world, false, &packet(FOE, 4_000, Kind::TcpData)).passes());
}

#[test]
fn reply_of_an_old_generation_passes_if_its_opener_is_allowed_still() {
    let reply = packet(FRIEND, 4_000, Kind::TcpData);
    for (inward, flags, passes) in [
        (true, 0, true),
        (false, 0, false),
        (false, CT_FROM_NODE, true),
    ] {
        let world = World {
            out: false,
            inward,
            record: Some(record(FRIEND, 4_000, flags, 7)),
        };
        assert_eq!(
            judged(&world, false, &reply).passes(),
            passes,
            "{inward} {flags}"
        );
    }
}

#[test]
fn ended_record_lets_nothing_through() {
    let (key, entry) = record(FOE, 4_000, 0, 8);
    let old = CtEntry {
        last_seen_ns: NOW_NS - conntrack::UNCONFIRMED_NS - 1,
        ..entry
    };
    let world = World {
        out: false,
        inward: true,
        record: Some((key, old)),
    };
    assert!(!judged(&world, false, &packet(FOE, 4_000, Kind::TcpData)).passes());
}

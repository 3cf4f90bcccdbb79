//! One pod, its policies and its records: the traits of `policy-common` over
//! plain collections, and beside them what the policies mean, as a list.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;

use policy_common::abi::Direction;
use policy_common::abi::conntrack::{CtEntry, CtKey};
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::identity::{self, Identity};
use policy_common::abi::policy::{
    ACTION_ALLOW, ACTION_DENY, INLINE_INTERVALS, Interval, PolicyKey, PortSet, point,
};
use policy_common::abi::{family, protocol};
use policy_common::packet::{Words, words4, words6};
use policy_common::verdict::{Identities, Peer, PolicyTables, Records, Table};
use policy_core::ops::Op;

use super::input::Input;

/// Last byte of the pod's addresses, 10.0.0.1 and fd00::1.
pub(super) const POD: u8 = 1;
/// A peer that is the node.
pub(super) const NODE: u8 = 2;
/// Peers with a class of their own.
pub(super) const NAMED: [u8; 3] = [NODE, 3, 4];
/// A peer of no class.
pub(super) const STRANGER: u8 = 9;

/// The pod's slot and number.
pub(super) const SLOT: u32 = 7;
pub(super) const ENDPOINT: u32 = 70;

const PROTOCOLS: [u8; 6] = [
    protocol::TCP,
    protocol::UDP,
    protocol::SCTP,
    protocol::ICMP,
    protocol::ICMPV6,
    50,
];

/// What a rule allows: peers of a class, a protocol, ports from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allow {
    class: Identity,
    protocol: u8,
    first: u16,
    last: u16,
}

/// The address of a peer, as words.
pub(super) fn words(family: u8, last: u8) -> Words {
    match address(family, last) {
        IpAddr::V4(address) => words4(address.octets()),
        IpAddr::V6(address) => words6(address.octets()),
    }
}

/// The address of a peer.
pub(super) fn address(family: u8, last: u8) -> IpAddr {
    if family == family::V4 {
        IpAddr::from([10, 0, 0, last])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])
    }
}

fn class_of(address: IpAddr) -> Identity {
    let named = NAMED.iter().find(|last| {
        [family::V4, family::V6]
            .iter()
            .any(|family| self::address(*family, **last) == address)
    });
    named.map_or(identity::OTHER, |last| Identity::from(*last))
}

/// The pod.
#[derive(Default)]
pub(super) struct World {
    rows: HashMap<PolicyKey, u32>,
    sets: Vec<PortSet>,
    extents: Vec<Interval>,
    /// The same in plain: by direction, if something isolates it.
    allows: [Option<Vec<Allow>>; 2],
    generation: u32,
    records: RefCell<HashMap<(u8, CtKey), CtEntry>>,
    confirmed: Cell<u32>,
    now_ns: Cell<u64>,
}

impl World {
    /// What the clock shows from here on.
    pub(super) fn set_clock(&self, now_ns: u64) {
        self.now_ns.set(now_ns);
    }

    /// Policies from the input, under a new generation.
    pub(super) fn enforce(&mut self, input: &mut Input<'_>) {
        self.generation += 1;
        self.rows.clear();
        self.sets = vec![port_set(0, 0)];
        // Extent 0 stands for "inline".
        self.extents = vec![Interval::default()];
        for direction in [Direction::Ingress, Direction::Egress] {
            let count = input.below(8);
            let allows = (count != 0).then(|| {
                let mut allows: Vec<Allow> = Vec::new();
                for _ in 1..count {
                    let class = *input.pick(&[0, NAMED[0], NAMED[1], NAMED[2]]);
                    let protocol = *input.pick(&PROTOCOLS);
                    let first = input.word();
                    let next = Allow {
                        class: class.into(),
                        protocol,
                        first,
                        last: first.saturating_add(u16::from(input.byte()) << 4),
                    };
                    // Intervals of a set are disjoint.
                    let apart = |allow: &Allow| {
                        (allow.class, allow.protocol) != (next.class, next.protocol)
                            || allow.last < next.first
                            || next.last < allow.first
                    };
                    if allows.iter().all(apart) {
                        allows.push(next);
                    }
                }
                allows
            });
            let as_extent = input.flag();
            if let Some(allows) = &allows {
                self.write(direction, allows, as_extent);
            }
            self.allows[direction.index() as usize] = allows;
        }
    }

    fn write(&mut self, direction: Direction, allows: &[Allow], as_extent: bool) {
        for class in [0, NAMED[0], NAMED[1], NAMED[2]].map(Identity::from) {
            let mut intervals: Vec<Interval> = allows
                .iter()
                .filter(|allow| allow.class == class)
                .map(|allow| Interval {
                    first: point(allow.protocol, allow.first),
                    last: point(allow.protocol, allow.last),
                    rule: 1,
                    action: ACTION_ALLOW,
                })
                .collect();
            intervals.sort();
            let number = |length: usize| u32::try_from(length).expect("a handful");
            let mut set = port_set(number(intervals.len()), 0);
            if as_extent || intervals.len() > INLINE_INTERVALS {
                set.extent = number(self.extents.len());
                self.extents.extend(intervals);
            } else {
                set.inline[..intervals.len()].copy_from_slice(&intervals);
            }
            let key = PolicyKey {
                policy: policy_number(direction).into(),
                identity: class,
            };
            self.rows.insert(key, number(self.sets.len()));
            self.sets.push(set);
        }
    }

    /// The pod's word.
    pub(super) fn word(&self) -> PolicyWord {
        let policy = |direction| {
            if self.isolates(direction) {
                policy_number(direction)
            } else {
                PolicyWord::NOT_ISOLATED
            }
        };
        PolicyWord::new(
            self.generation,
            policy(Direction::Ingress),
            policy(Direction::Egress),
        )
    }

    /// The policies as rows and port sets in the kernel.
    pub(super) fn operations(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        if let [_, intervals @ ..] = &self.extents[..]
            && !intervals.is_empty()
        {
            ops.push(Op::Extent {
                start: 1,
                intervals: intervals.to_vec(),
            });
        }
        // Set 0 is never given out.
        let sets = (0..).zip(&self.sets).skip(1);
        ops.extend(sets.map(|(id, value)| Op::PortSet { id, value: *value }));
        let rows = self.rows.iter();
        ops.extend(rows.map(|(key, port_set)| Op::Row {
            key: *key,
            port_set: *port_set,
        }));
        ops
    }

    /// Whether something isolates the pod.
    pub(super) fn isolates(&self, direction: Direction) -> bool {
        self.allows[direction.index() as usize].is_some()
    }

    /// What the policies of a direction say in plain, if there are any.
    pub(super) fn allows(
        &self,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> bool {
        let Some(allows) = &self.allows[direction.index() as usize] else {
            return true;
        };
        allows.iter().any(|allow| {
            (allow.class, allow.protocol) == (class_of(peer), protocol)
                && (allow.first..=allow.last).contains(&port)
        })
    }

    /// Whether there is any record of a flow.
    pub(super) fn has_record(&self, key: &CtKey) -> bool {
        let records = self.records.borrow();
        (0..3).any(|table| records.contains_key(&(table, *key)))
    }
}

const fn policy_number(direction: Direction) -> u16 {
    match direction {
        Direction::Ingress => 3,
        Direction::Egress => 4,
    }
}

fn port_set(count: u32, extent: u32) -> PortSet {
    PortSet {
        count,
        extent,
        default_rule: 2,
        default_action: ACTION_DENY,
        inline: [Interval::default(); INLINE_INTERVALS],
    }
}

const fn number(table: Table) -> u8 {
    match table {
        Table::Main => 0,
        Table::Pending => 1,
        Table::Open => 2,
    }
}

impl PolicyTables for World {
    fn row(&self, key: PolicyKey) -> Option<u32> {
        self.rows.get(&key).copied()
    }

    fn port_set<R>(&self, id: u32, read: impl FnOnce(&PortSet) -> R) -> Option<R> {
        self.sets.get(id as usize).map(read)
    }

    fn extent(&self, index: u32) -> Option<Interval> {
        self.extents.get(index as usize).copied()
    }
}

impl Identities for World {
    fn peer(&self, family: u8, peer: Words) -> Peer {
        let found = NAMED.iter().find(|last| words(family, **last) == peer);
        found.map_or(Peer::OTHER, |last| Peer {
            identity: (*last).into(),
            node: *last == NODE,
        })
    }
}

impl Records for World {
    type Record = (u8, CtKey);

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn has_open(&self, slot: u32) -> bool {
        assert_eq!(slot, SLOT);
        true
    }

    fn find(&self, table: Table, key: &CtKey) -> Option<Self::Record> {
        let place = (number(table), *key);
        self.records.borrow().contains_key(&place).then_some(place)
    }

    fn read(&self, record: Self::Record) -> CtEntry {
        self.records.borrow()[&record]
    }

    fn write(&self, record: Self::Record, entry: &CtEntry) {
        let before = self.records.borrow_mut().insert(record, *entry);
        let before = before.expect("only what was found is written");
        assert_eq!((before.tag, before.slot), (entry.tag, entry.slot));
    }

    fn insert(&self, table: Table, key: &CtKey, entry: &CtEntry) -> bool {
        assert_eq!(entry.slot, SLOT);
        self.records
            .borrow_mut()
            .insert((number(table), *key), *entry);
        true
    }

    fn delete(&self, table: Table, key: &CtKey) {
        self.records.borrow_mut().remove(&(number(table), *key));
    }

    fn has_budget(&self, slot: u32, isolated: bool) -> bool {
        assert_eq!(slot, SLOT);
        self.confirmed.get() < if isolated { 4 } else { 2 }
    }

    fn count_created(&self, slot: u32) {
        assert_eq!(slot, SLOT);
        self.confirmed.set(self.confirmed.get() + 1);
    }

    fn count(&self, _: u32) {}
}

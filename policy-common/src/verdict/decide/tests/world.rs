//! One pod, its peers, and tables in memory.

use core::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::vec::Vec;

use crate::abi::Direction;
use crate::abi::conntrack::{CtEntry, CtKey};
use crate::abi::endpoint::PolicyWord;
use crate::abi::event::DropReason;
use crate::abi::identity::{self, Identity};
use crate::abi::policy::{
    ACTION_ALLOW, ACTION_DENY, INLINE_INTERVALS, Interval, PolicyKey, PortSet, point,
};
use crate::abi::{family, protocol, stats};
use crate::conntrack;
use crate::packet::{Kind, Packet, Words, words4, words6};
use crate::verdict::decide::{Identities, Peer, Records, Scene, Table, Verdict, decide};
use crate::verdict::established::{Middle, established};
use crate::verdict::judge::{Judgement, PolicyTables, judge};
use crate::verdict::related::{Owner, is_related};
use crate::verdict::service::Service;

/// Peers, by the last byte of their address; the number is their identity too.
pub(super) const NODE: u8 = 1;
pub(super) const CLIENT: u8 = 2;
pub(super) const SERVER: u8 = 3;
/// No peer of a policy matches it.
pub(super) const STRANGER: u8 = 8;
/// Its rows do not fit.
pub(super) const LOST: u8 = 9;
/// The pod's own last byte.
const POD: u8 = 77;

/// What a direction's policy allows: identity, protocol, port.
pub(super) type Allow = (u8, u8, u16);
/// Every port of the protocol.
pub(super) const ANY: u16 = u16::MAX;
/// Rules are numbered from here on in the order of the list.
pub(super) const INGRESS_RULE: u32 = 100;
pub(super) const EGRESS_RULE: u32 = 200;
/// Rules that deny everything else.
pub(super) const INGRESS_DEFAULT: u32 = 199;
pub(super) const EGRESS_DEFAULT: u32 = 299;

pub(super) const SLOT: u32 = 4;
pub(super) const SECOND: u64 = 1_000_000_000;

/// A five-tuple, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) family: u8,
    pub(super) protocol: u8,
    pub(super) peer: u8,
    pub(super) peer_port: u16,
    pub(super) local_port: u16,
}

pub(super) const fn flow(protocol: u8, peer: u8, peer_port: u16, local_port: u16) -> Flow {
    Flow {
        family: family::V4,
        protocol,
        peer,
        peer_port,
        local_port,
    }
}

/// The same over IPv6.
pub(super) const fn over6(flow: Flow) -> Flow {
    Flow {
        family: family::V6,
        ..flow
    }
}

/// Packets of a protocol: what opens, what answers, and the opener's next.
pub(super) fn script(protocol: u8) -> [Kind; 3] {
    match protocol {
        protocol::TCP => [Kind::TcpSyn, Kind::TcpSynAck, Kind::TcpData],
        protocol::SCTP => [Kind::SctpInit, Kind::SctpData, Kind::SctpData],
        protocol::ICMP | protocol::ICMPV6 => {
            [Kind::EchoRequest, Kind::EchoReply, Kind::EchoRequest]
        }
        _ => [Kind::Datagram; 3],
    }
}

fn address(family: u8, last: u8) -> Words {
    if family == family::V4 {
        words4([10, 0, 0, last])
    } else {
        let mut bytes = [0; 16];
        bytes[0] = 0xfd;
        bytes[15] = last;
        words6(bytes)
    }
}

impl Flow {
    pub(super) fn packet(&self, direction: Direction, kind: Kind) -> Packet {
        let (pod, peer) = (address(self.family, POD), address(self.family, self.peer));
        let (src, dst, src_port, dst_port) = match direction {
            Direction::Egress => (pod, peer, self.local_port, self.peer_port),
            Direction::Ingress => (peer, pod, self.peer_port, self.local_port),
        };
        Packet {
            src,
            dst,
            src_port,
            dst_port,
            protocol: self.protocol,
            family: self.family,
            kind,
            ..Packet::EMPTY
        }
    }

    fn key(&self) -> CtKey {
        CtKey {
            peer: crate::packet::bytes16(address(self.family, self.peer)),
            endpoint: ENDPOINT,
            local_port: self.local_port,
            peer_port: self.peer_port,
            protocol: self.protocol,
            family: self.family,
            pad: [0; 2],
        }
    }
}

const ENDPOINT: u32 = 70;

/// The pod and everything that is known of it.
pub(super) struct World {
    rows: RefCell<HashMap<PolicyKey, u32>>,
    sets: RefCell<Vec<PortSet>>,
    /// Questions asked of a policy.
    asked: Cell<u32>,
    word: Cell<PolicyWord>,
    /// Policy numbers and generations handed out.
    handed_out: Cell<(u16, u32)>,
    off: Cell<bool>,
    now_ns: Cell<u64>,
    /// Records by place; tables name places.
    places: RefCell<Vec<CtEntry>>,
    tables: RefCell<HashMap<(u8, CtKey), usize>>,
    /// Records that the main table has room for.
    pub(super) room: Cell<usize>,
    /// Confirmed records that the endpoint may have.
    pub(super) budget: Cell<u64>,
    /// The same while nothing isolates the pod.
    pub(super) open_budget: Cell<u64>,
    created: Cell<u64>,
    counters: RefCell<HashMap<u32, u64>>,
}

impl World {
    /// Nothing isolates the pod.
    pub(super) fn new() -> Self {
        let world = Self {
            rows: RefCell::default(),
            sets: RefCell::default(),
            asked: Cell::new(0),
            word: Cell::new(PolicyWord::default()),
            handed_out: Cell::new((0, 0)),
            off: Cell::new(false),
            now_ns: Cell::new(1_000 * SECOND),
            places: RefCell::default(),
            tables: RefCell::default(),
            room: Cell::new(1_000),
            budget: Cell::new(1_000),
            open_budget: Cell::new(1_000),
            created: Cell::new(0),
            counters: RefCell::default(),
        };
        // Set 0 is none.
        world.sets.borrow_mut().push(port_set(&[], 0));
        world.enforce(None, None);
        world
    }

    /// A world with these policies.
    pub(super) fn with(ingress: Option<&[Allow]>, egress: Option<&[Allow]>) -> Self {
        let world = Self::new();
        world.enforce(ingress, egress);
        world
    }

    /// New policies, by one store of the word; `None`: nothing isolates.
    pub(super) fn enforce(&self, ingress: Option<&[Allow]>, egress: Option<&[Allow]>) {
        let ingress = self.policy(ingress, INGRESS_RULE, INGRESS_DEFAULT);
        let egress = self.policy(egress, EGRESS_RULE, EGRESS_DEFAULT);
        let (policy, generation) = self.handed_out.get();
        self.handed_out.set((policy, generation + 1));
        let word = PolicyWord::new(generation + 1, ingress, egress);
        self.word.set(word);
    }

    fn policy(&self, allowed: Option<&[Allow]>, first_rule: u32, default_rule: u32) -> u16 {
        let Some(allowed) = allowed else {
            return PolicyWord::NOT_ISOLATED;
        };
        let (last, generation) = self.handed_out.get();
        let policy = last + 1;
        self.handed_out.set((policy, generation));
        let mut by_identity: HashMap<Identity, Vec<Interval>> = HashMap::new();
        by_identity.insert(identity::OTHER, Vec::new());
        for (rule, &(peer, protocol, port)) in (first_rule..).zip(allowed) {
            let (first, last) = if port == ANY { (0, port) } else { (port, port) };
            let interval = Interval {
                first: point(protocol, first),
                last: point(protocol, last),
                rule,
                action: ACTION_ALLOW,
            };
            let of = by_identity.entry(identity_of(peer)).or_default();
            of.push(interval);
        }
        for (identity, mut intervals) in by_identity {
            intervals.sort();
            let mut sets = self.sets.borrow_mut();
            let id = u32::try_from(sets.len()).unwrap();
            sets.push(port_set(&intervals, default_rule));
            let key = PolicyKey {
                policy: policy.into(),
                identity,
            };
            self.rows.borrow_mut().insert(key, id);
        }
        policy
    }

    /// The same policies under a new generation.
    pub(super) fn next_generation(&self) {
        let (policy, generation) = self.handed_out.get();
        self.handed_out.set((policy, generation + 1));
        let word = self.word.get();
        let (ingress, egress) = (
            word.policy(Direction::Ingress),
            word.policy(Direction::Egress),
        );
        self.word
            .set(PolicyWord::new(generation + 1, ingress, egress));
    }

    /// The emergency switch.
    pub(super) fn switch_off(&self, off: bool) {
        self.off.set(off);
    }

    pub(super) fn wait(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() + ns);
    }

    /// The clock jumps back.
    pub(super) fn turn_back(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() - ns);
    }

    /// A packet; `local_origin` and `hairpin` as in [`Scene`].
    pub(super) fn send(
        &self,
        flow: &Flow,
        direction: Direction,
        kind: Kind,
        local_origin: bool,
        hairpin: bool,
    ) -> Verdict {
        let scene = Scene {
            local_origin,
            hairpin,
            ..self.scene(direction, Service::NONE)
        };
        self.judge_both_ways(&scene, flow, kind)
    }

    /// What the record says by itself is what all questions come to.
    fn judge_both_ways(&self, scene: &Scene, flow: &Flow, kind: Kind) -> Verdict {
        let direction = scene.direction;
        let packet = flow.packet(direction, kind);
        if scene.local_origin || scene.hairpin || scene.off || scene.service.is_found() {
            return decide(self, self, scene, &packet);
        }
        let middle = self.middle(flow, direction, kind);
        let before = (self.record(flow), self.counters.borrow().clone());
        let verdict = decide(self, self, scene, &packet);
        if middle == Middle::Passes {
            let passes = Verdict {
                identity: verdict.identity,
                cacheable: true,
                ..Verdict::PASS
            };
            assert_eq!(verdict, passes, "{kind:?} {direction:?} of {flow:?}");
            assert_eq!((self.record(flow), self.counters.borrow().clone()), before);
        }
        verdict
    }

    /// What the record of a packet's connection says by itself.
    pub(super) fn middle(&self, flow: &Flow, direction: Direction, kind: Kind) -> Middle {
        self.middle_of(&flow.packet(direction, kind), direction)
    }

    /// The same of a packet that is not a whole one.
    pub(super) fn middle_of(&self, packet: &Packet, direction: Direction) -> Middle {
        established(self, self, self.word.get(), ENDPOINT, direction, packet)
    }

    /// The places of a flow's records hold another's.
    pub(super) fn give_away(&self, flow: &Flow) {
        for table in [Table::Main, Table::Pending, Table::Open] {
            if let Some(place) = self.find(table, &flow.key()) {
                self.places.borrow_mut()[place].tag ^= 2;
            }
        }
    }

    /// A packet of which this is known of its peer as a Service.
    pub(super) fn send_service(
        &self,
        flow: &Flow,
        direction: Direction,
        kind: Kind,
        service: Service,
    ) -> Verdict {
        self.judge_both_ways(&self.scene(direction, service), flow, kind)
    }

    fn scene(&self, direction: Direction, service: Service) -> Scene {
        Scene {
            slot: SLOT,
            endpoint: ENDPOINT,
            word: self.word.get(),
            direction,
            local_origin: false,
            hairpin: false,
            off: self.off.get(),
            service,
            peer: None,
        }
    }

    /// The pod sends.
    pub(super) fn pod_sends(&self, flow: &Flow, kind: Kind) -> Verdict {
        self.send(flow, Direction::Egress, kind, false, false)
    }

    /// The peer's packet comes by an interface.
    pub(super) fn peer_sends(&self, flow: &Flow, kind: Kind) -> Verdict {
        self.send(flow, Direction::Ingress, kind, false, false)
    }

    /// A packet that came in by no interface.
    pub(super) fn host_sends(&self, flow: &Flow, kind: Kind) -> Verdict {
        self.send(flow, Direction::Ingress, kind, true, false)
    }

    /// Whether an ICMP error that a pod gets or sends, and that quotes a packet of
    /// this flow, belongs to what it may do. `from` sends it, 0 for the pod.
    pub(super) fn is_related(&self, quoted: &Packet, direction: Direction, from: u8) -> bool {
        let other = address(quoted.family, if from == 0 { POD } else { from });
        let error = Packet {
            src: other,
            dst: quoted.src,
            family: quoted.family,
            kind: Kind::IcmpError,
            ..Packet::EMPTY
        };
        let owner = Owner {
            slot: SLOT,
            endpoint: ENDPOINT,
            word: self.word.get(),
            direction,
        };
        is_related(self, self, &owner, &error, quoted)
    }

    /// Opens and confirms a connection.
    pub(super) fn connect(&self, flow: &Flow, opener: Direction) {
        for (i, kind) in script(flow.protocol).into_iter().enumerate() {
            let direction = if i == 1 { opener.reverse() } else { opener };
            let verdict = self.send(flow, direction, kind, false, false);
            assert!(verdict.passes(), "{kind:?} {direction:?} of {flow:?}");
        }
    }

    /// The record of a flow that a packet would find, and where: in the order
    /// main, pending, open.
    pub(super) fn record(&self, flow: &Flow) -> Option<(Table, CtEntry)> {
        [Table::Main, Table::Pending, Table::Open]
            .into_iter()
            .find_map(|table| {
                let entry = self.read(self.find(table, &flow.key())?);
                let tag = conntrack::tag(&flow.key());
                conntrack::is_live(&entry, tag, flow.protocol, self.now_ns.get())
                    .then_some((table, entry))
            })
    }

    /// Records of a table, expired ones too.
    pub(super) fn records_in(&self, table: Table) -> usize {
        let tables = self.tables.borrow();
        tables
            .keys()
            .filter(|(index, _)| *index == number(table))
            .count()
    }

    pub(super) fn counter(&self, counter: u32) -> u64 {
        let counters = self.counters.borrow();
        counters.get(&counter).copied().unwrap_or(0)
    }

    /// Confirmed records that were booked.
    pub(super) fn created(&self) -> u64 {
        self.created.get()
    }

    /// Questions asked of policies so far.
    pub(super) fn asked(&self) -> u32 {
        self.asked.get()
    }

    pub(super) fn generation(&self) -> u32 {
        self.word.get().generation()
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Connections found to be cut.
    pub(super) fn revoked(&self) -> u64 {
        self.counter(stats::CT_REVOKED)
    }
}

fn identity_of(peer: u8) -> Identity {
    match peer {
        STRANGER => identity::OTHER,
        LOST => identity::UNRESOLVED,
        named => named.into(),
    }
}

fn port_set(intervals: &[Interval], default_rule: u32) -> PortSet {
    let mut inline = [Interval::default(); INLINE_INTERVALS];
    inline[..intervals.len()].copy_from_slice(intervals);
    PortSet {
        count: u32::try_from(intervals.len()).unwrap(),
        extent: 0,
        default_rule,
        default_action: ACTION_DENY,
        inline,
    }
}

fn number(table: Table) -> u8 {
    match table {
        Table::Main => 0,
        Table::Pending => 1,
        Table::Open => 2,
    }
}

impl PolicyTables for World {
    fn row(&self, key: PolicyKey) -> Option<u32> {
        self.rows.borrow().get(&key).copied()
    }

    fn port_set<R>(&self, id: u32, read: impl FnOnce(&PortSet) -> R) -> Option<R> {
        self.sets.borrow().get(id as usize).map(read)
    }

    fn extent(&self, _: u32) -> Option<Interval> {
        None
    }

    fn judge(&self, policy: u16, identity: Identity, protocol: u8, port: u16) -> Judgement {
        self.asked.set(self.asked.get() + 1);
        judge(self, policy, identity, protocol, port)
    }
}

impl Identities for World {
    fn peer(&self, family: u8, peer: Words) -> Peer {
        let known = [NODE, CLIENT, SERVER, LOST, POD];
        let found = known
            .into_iter()
            .find(|last| address(family, *last) == peer);
        found.map_or(Peer::OTHER, |last| Peer {
            identity: identity_of(last),
            node: last == NODE,
        })
    }
}

impl Records for World {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    type Record = usize;

    fn has_open(&self, slot: u32) -> bool {
        assert_eq!(slot, SLOT);
        let open = number(Table::Open);
        self.tables.borrow().keys().any(|(table, _)| *table == open)
    }

    fn find(&self, table: Table, key: &CtKey) -> Option<usize> {
        self.tables.borrow().get(&(number(table), *key)).copied()
    }

    fn read(&self, record: usize) -> CtEntry {
        self.places.borrow()[record]
    }

    fn write(&self, record: usize, entry: &CtEntry) {
        let place = &mut self.places.borrow_mut()[record];
        assert_eq!((place.tag, place.slot), (entry.tag, entry.slot));
        *place = *entry;
    }

    fn insert(&self, table: Table, key: &CtKey, entry: &CtEntry) -> bool {
        assert_eq!((entry.tag, entry.slot), (conntrack::tag(key), SLOT));
        let place = self.places.borrow().len();
        let is_new = self.find(table, key).is_none();
        if table == Table::Main && is_new && self.records_in(table) >= self.room.get() {
            return false;
        }
        self.places.borrow_mut().push(*entry);
        self.tables
            .borrow_mut()
            .insert((number(table), *key), place);
        true
    }

    fn delete(&self, table: Table, key: &CtKey) {
        self.tables.borrow_mut().remove(&(number(table), *key));
    }

    fn has_budget(&self, slot: u32, isolated: bool) -> bool {
        assert_eq!(slot, SLOT);
        let budget = if isolated {
            &self.budget
        } else {
            &self.open_budget
        };
        self.created.get() < budget.get()
    }

    fn count_created(&self, slot: u32) {
        assert_eq!(slot, SLOT);
        self.created.set(self.created.get() + 1);
    }

    fn count(&self, counter: u32) {
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }
}

/// Drops by policy, with this rule.
#[track_caller]
pub(super) fn assert_denied(verdict: Verdict, rule: u32) {
    assert_eq!(
        (verdict.denied, verdict.rule, verdict.cacheable),
        (Some(DropReason::Policy), rule, false)
    );
}

/// Passes, with this rule.
#[track_caller]
pub(super) fn assert_passes(verdict: Verdict, rule: u32) {
    assert_eq!((verdict.denied, verdict.rule), (None, rule));
}

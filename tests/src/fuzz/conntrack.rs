//! Target `conntrack`: histories of packets, policies and silence, against what
//! the design says in words.
//!
//! An answer passes only to a flow whose opener passed and is allowed now; what
//! was never let through has no record; new policies count at the next packet; and
//! what is allowed is not dropped. The exact model of records is in the tests of
//! `policy-common`; here is no clock but the one of answers that come at once.

use std::collections::HashMap;

use policy_common::abi::conntrack::CtKey;
use policy_common::abi::{Direction, family, protocol};
use policy_common::packet::{Kind, Packet, bytes16};
use policy_common::verdict::{Scene, Service, decide};

use super::input::Input;
use super::world::{ENDPOINT, NODE, POD, SLOT, STRANGER, World, address, words};

const SECOND: u64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    family: u8,
    protocol: u8,
    peer: u8,
    peer_port: u16,
    local_port: u16,
}

/// Few, so that histories meet; some are another's ports turned round.
const FLOWS: [(u8, u8, u8, u16, u16); 8] = [
    (family::V4, protocol::TCP, 3, 4_000, 80),
    (family::V4, protocol::TCP, 3, 80, 4_000),
    (family::V6, protocol::UDP, 3, 4_000, 80),
    (family::V4, protocol::UDP, NODE, 80, 80),
    (family::V4, protocol::SCTP, 4, 4_000, 80),
    (family::V4, protocol::ICMP, 3, 9, 0),
    (family::V4, 50, 3, 0, 0),
    (family::V6, protocol::TCP, STRANGER, 4_000, 80),
];

/// Who opened a flow so far: when its last opener passed, and whether any was the
/// node's own.
#[derive(Debug, Clone, Copy, Default)]
struct Opened {
    last_ns: Option<u64>,
    exempt: bool,
}

/// What was seen of a flow.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    opened: [Opened; 2],
    /// Nothing but the opener's first packet, so that its record is certain.
    fresh: bool,
}

struct History {
    world: World,
    off: bool,
    now_ns: u64,
    seen: HashMap<Flow, Seen>,
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut history = History {
        world: World::default(),
        off: false,
        now_ns: 1_000 * SECOND,
        seen: HashMap::new(),
    };
    history.world.enforce(&mut input);
    for _ in 0..200 {
        if input.is_empty() {
            return;
        }
        match input.byte() {
            0..=7 => history.world.enforce(&mut input),
            8..=11 => history.off = !history.off,
            12..=19 => history.now_ns += u64::from(input.byte()) * 47 * SECOND,
            choice => history.packet(choice, &mut input),
        }
    }
}

fn kinds(protocol: u8) -> &'static [Kind] {
    match protocol {
        protocol::TCP => &[
            Kind::TcpSyn,
            Kind::TcpSynAck,
            Kind::TcpData,
            Kind::TcpFin,
            Kind::TcpReset,
            Kind::Fragment,
        ],
        protocol::SCTP => &[Kind::SctpInit, Kind::SctpData, Kind::SctpEnd],
        protocol::ICMP => &[Kind::EchoRequest, Kind::EchoReply],
        _ => &[Kind::Datagram, Kind::Fragment],
    }
}

impl Flow {
    fn packet(&self, direction: Direction, kind: Kind) -> Packet {
        let (pod, peer) = (words(self.family, POD), words(self.family, self.peer));
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
            peer: bytes16(words(self.family, self.peer)),
            endpoint: ENDPOINT,
            local_port: self.local_port,
            peer_port: self.peer_port,
            protocol: self.protocol,
            family: self.family,
            pad: [0; 2],
        }
    }
}

impl History {
    /// What policy says of a flow in a direction now.
    fn allows(&self, flow: &Flow, direction: Direction) -> bool {
        let port = match direction {
            _ if flow.protocol == protocol::ICMP => 0,
            Direction::Ingress => flow.local_port,
            Direction::Egress => flow.peer_port,
        };
        let peer = address(flow.family, flow.peer);
        self.off || self.world.allows(direction, peer, flow.protocol, port)
    }

    fn packet(&mut self, choice: u8, input: &mut Input<'_>) {
        self.now_ns += 1_000_000;
        self.world.set_clock(self.now_ns);
        let direction = Direction::from_index(u32::from(choice & 1));
        let local_origin = choice & 2 != 0 && direction == Direction::Ingress;
        let (family, protocol, peer, peer_port, local_port) = *input.pick(&FLOWS);
        let flow = Flow {
            family,
            protocol,
            peer,
            peer_port,
            local_port,
        };
        let kind = *input.pick(kinds(protocol));
        let exempt = local_origin && peer == NODE;
        let scene = Scene {
            slot: SLOT,
            endpoint: ENDPOINT,
            word: self.world.word(),
            direction,
            local_origin,
            hairpin: false,
            off: self.off,
            service: Service::NONE,
            peer: None,
        };
        let packet = flow.packet(direction, kind);
        let verdict = decide(&self.world, &self.world, &scene, &packet);
        assert!(!verdict.ask_service, "the table of Services was asked");
        let seen = self.seen.get(&flow).copied().unwrap_or_default();
        let context = (kind, direction, flow, seen, exempt, self.off);
        if verdict.passes() {
            assert!(
                self.may_pass(&flow, direction, kind, exempt, &seen),
                "passes: {context:?}"
            );
        } else {
            assert!(
                !self.must_pass(&flow, direction, kind, exempt, &seen),
                "dropped: {context:?}"
            );
        }
        self.note(flow, direction, kind, exempt, verdict.passes());
        let opened = self.seen.get(&flow).copied().unwrap_or_default().opened;
        if opened.iter().all(|side| side.last_ns.is_none()) {
            assert!(
                !self.world.has_record(&flow.key()),
                "a record of nothing: {context:?}"
            );
        }
    }

    fn note(&mut self, flow: Flow, direction: Direction, kind: Kind, exempt: bool, passed: bool) {
        let seen = self.seen.entry(flow).or_default();
        if kind == Kind::Fragment || !passed {
            return;
        }
        let untouched = seen.opened.iter().all(|side| side.last_ns.is_none());
        seen.fresh = false;
        if kind.opens() {
            let side = &mut seen.opened[direction.index() as usize];
            side.last_ns = Some(self.now_ns);
            side.exempt |= exempt;
            seen.fresh = untouched;
        }
    }

    /// No reason to pass is missing.
    fn may_pass(
        &self,
        flow: &Flow,
        direction: Direction,
        kind: Kind,
        exempt: bool,
        seen: &Seen,
    ) -> bool {
        let isolated = !self.off && self.world.isolates(direction);
        if exempt || !isolated {
            return exempt
                || kind == Kind::Fragment
                || self.is_not_cut(flow, direction, kind, seen);
        }
        if kind == Kind::Fragment {
            return false;
        }
        let other = direction.reverse();
        let opener = seen.opened[other.index() as usize];
        let answers = !kind.only_opens()
            && opener.last_ns.is_some()
            && (opener.exempt || self.allows(flow, other));
        (self.allows(flow, direction) && self.is_not_cut(flow, direction, kind, seen)) || answers
    }

    /// A connection that only the other side can have opened, a moment ago, and may
    /// not open now, is cut in both directions.
    fn is_not_cut(&self, flow: &Flow, direction: Direction, kind: Kind, seen: &Seen) -> bool {
        let opener = seen.opened[direction.reverse().index() as usize];
        let certain = seen.fresh
            && opener
                .last_ns
                .is_some_and(|last_ns| self.now_ns - last_ns < 10 * SECOND);
        let cut = kind.is_midstream_tcp()
            && certain
            && !opener.exempt
            && !self.allows(flow, direction.reverse());
        !cut
    }

    /// A reason to pass that nothing takes away.
    fn must_pass(
        &self,
        flow: &Flow,
        direction: Direction,
        kind: Kind,
        exempt: bool,
        seen: &Seen,
    ) -> bool {
        let other = direction.reverse();
        if exempt {
            return true;
        }
        if kind == Kind::Fragment {
            return self.off || !self.world.isolates(direction);
        }
        let own = self.allows(flow, direction);
        if own && (!kind.is_midstream_tcp() || self.allows(flow, other)) {
            return true;
        }
        let opener = seen.opened[other.index() as usize];
        let certain = seen.fresh
            && opener
                .last_ns
                .is_some_and(|last_ns| self.now_ns - last_ns < 10 * SECOND);
        certain && !kind.only_opens() && (opener.exempt || self.allows(flow, other))
    }
}

/// Each protocol opened by each side under a policy of one direction, answered,
/// and cut by another policy.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    // As in `packet`: what is allowed to whom, for ingress, then for egress.
    const CLOSED: &[u8] = &[1, 0, 1, 0];
    const SERVES: &[u8] = &[3, 2, 0, 0, 80, 0, 2, 1, 0, 80, 0, 0, 1, 0];
    const CALLS: &[u8] = &[1, 0, 3, 2, 0, 15, 160, 0, 2, 1, 15, 160, 0, 0];
    let mut seeds = Vec::new();
    for (policy, opener) in [(SERVES, 32), (CALLS, 33)] {
        for flow in 0..8 {
            let mut seed = policy.to_vec();
            for (step, kind) in [(opener, 0), (opener ^ 1, 1), (opener, 2), (opener ^ 1, 2)] {
                seed.extend([step, flow, kind]);
            }
            seed.push(0);
            seed.extend_from_slice(CLOSED);
            seed.extend([opener, flow, 2, opener ^ 1, flow, 2, 12, 3, 34, flow, 0]);
            seeds.push(seed);
        }
    }
    seeds
}

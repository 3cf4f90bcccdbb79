//! Random histories of packets, policies, silence and the emergency switch,
//! against a model that was written from the words of the design: a packet
//! passes if policy allows it in its own direction, or if it is a reply within a
//! live connection whose opener's direction is allowed now; TCP without SYN that
//! belongs to a connection passes if the opener's direction is allowed now, and
//! not otherwise. The model keeps no generations, no tables and no refreshes.

use std::collections::HashMap;
use std::vec::Vec;

use super::world::*;
use crate::abi::Direction::{self, Egress, Ingress};
use crate::abi::protocol::{ICMP, SCTP, TCP, UDP};
use crate::packet::Kind;
use crate::random::Random;
use crate::verdict::decide::Table;

/// A connection, as the words have it.
#[derive(Debug, Clone, Copy)]
struct Connection {
    opener: Direction,
    /// The node opened it, or the pod to itself: no policy is asked.
    exempt: bool,
    answered: bool,
    confirmed: bool,
    opener_closed: bool,
    other_closed: bool,
    reset: bool,
    last_ns: u64,
}

impl Connection {
    fn new(opener: Direction, exempt: bool, now_ns: u64) -> Self {
        Self {
            opener,
            exempt,
            answered: false,
            confirmed: false,
            opener_closed: false,
            other_closed: false,
            reset: false,
            last_ns: now_ns,
        }
    }

    fn is_over(&self) -> bool {
        self.reset || self.opener_closed && self.other_closed
    }

    /// Seconds after which it is forgotten.
    fn patience(&self, protocol: u8) -> u64 {
        match protocol {
            _ if self.reset => 10,
            ICMP => 60,
            _ if !self.confirmed => 120,
            TCP if self.opener_closed && self.other_closed => 120,
            TCP if self.opener_closed || self.other_closed => 3_600,
            TCP => 5 * 86_400,
            UDP => 300,
            SCTP => 210,
            _ => 600,
        }
    }
}

/// What is in force.
#[derive(Debug, Clone, Default)]
struct Policies {
    ingress: Option<Vec<Allow>>,
    egress: Option<Vec<Allow>>,
    off: bool,
}

impl Policies {
    fn allow(&self, flow: &Flow, direction: Direction) -> bool {
        let (list, port) = match direction {
            Ingress => (&self.ingress, flow.local_port),
            Egress => (&self.egress, flow.peer_port),
        };
        let port = if flow.protocol == ICMP { 0 } else { port };
        match list {
            _ if self.off => true,
            None => true,
            Some(list) => list.iter().any(|&(peer, protocol, allowed)| {
                (peer, protocol) == (flow.peer, flow.protocol)
                    && (allowed == port || allowed == ANY)
            }),
        }
    }

    fn isolate(&self, direction: Direction) -> bool {
        let list = match direction {
            Ingress => &self.ingress,
            Egress => &self.egress,
        };
        !self.off && list.is_some()
    }
}

#[derive(Default)]
struct Model {
    connections: HashMap<Flow, Connection>,
}

fn opens_only(kind: Kind) -> bool {
    [Kind::TcpSyn, Kind::SctpInit, Kind::EchoRequest].contains(&kind)
}

impl Model {
    /// Whether the packet passes; remembers what it did.
    fn send(
        &mut self,
        policies: &Policies,
        flow: &Flow,
        direction: Direction,
        kind: Kind,
        exempt: bool,
        now_ns: u64,
    ) -> bool {
        if kind == Kind::Fragment {
            return exempt || !policies.isolate(direction);
        }
        let live = self.connections.get(flow).copied().filter(|connection| {
            now_ns - connection.last_ns <= connection.patience(flow.protocol) * SECOND
        });
        let opener_allowed = live
            .is_some_and(|connection| connection.exempt || policies.allow(flow, connection.opener));
        let without_syn = [Kind::TcpData, Kind::TcpFin, Kind::TcpReset].contains(&kind);
        let passes = match live {
            _ if exempt => true,
            Some(_) if without_syn => opener_allowed,
            Some(connection) if connection.opener != direction => {
                policies.allow(flow, direction) || !opens_only(kind) && opener_allowed
            }
            _ => policies.allow(flow, direction),
        };
        if !passes {
            return false;
        }
        let Some(mut connection) = live else {
            if opens_only(kind) || kind == Kind::Datagram {
                let new = Connection::new(direction, exempt, now_ns);
                self.connections.insert(*flow, new);
            }
            return true;
        };
        let by_opener = connection.opener == direction;
        // Nothing refreshes or turns a connection whose opener was revoked. The
        // node's own packet is allowed in its own direction whatever policy says.
        if !(opener_allowed || by_opener && exempt) {
            return true;
        }
        if opens_only(kind) && connection.is_over() {
            connection = Connection::new(direction, exempt, now_ns);
        } else if opens_only(kind) && !by_opener {
            return true;
        } else {
            if by_opener {
                connection.confirmed |= connection.answered && !opens_only(kind);
                if exempt || opens_only(kind) {
                    connection.exempt = exempt;
                }
            } else {
                connection.answered = true;
            }
            connection.opener_closed |= by_opener && kind == Kind::TcpFin;
            connection.other_closed |= !by_opener && kind == Kind::TcpFin;
            let opening = [Kind::TcpSyn, Kind::TcpSynAck, Kind::SctpInit].contains(&kind);
            if [Kind::TcpReset, Kind::SctpEnd].contains(&kind) {
                connection.reset = true;
            } else if !opening {
                connection.reset = false;
            }
            connection.last_ns = now_ns;
        }
        self.connections.insert(*flow, connection);
        true
    }
}

/// Few flows, so that histories meet: two of each protocol that share a port.
fn flows() -> Vec<Flow> {
    let mut flows: Vec<Flow> = [TCP, UDP, SCTP]
        .iter()
        .flat_map(|&protocol| {
            [
                flow(protocol, CLIENT, 4_000, 80),
                over6(flow(protocol, CLIENT, 80, 4_000)),
                flow(protocol, NODE, 4_000, 80),
            ]
        })
        .collect();
    flows.extend([flow(ICMP, CLIENT, 9, 0), flow(ICMP, CLIENT, 0, 9)]);
    flows.extend([flow(50, CLIENT, 0, 0), flow(TCP, STRANGER, 4_000, 80)]);
    flows
}

fn kinds(protocol: u8) -> &'static [Kind] {
    match protocol {
        TCP => &[
            Kind::TcpSyn,
            Kind::TcpSynAck,
            Kind::TcpData,
            Kind::TcpData,
            Kind::TcpData,
            Kind::TcpFin,
            Kind::TcpReset,
            Kind::Fragment,
        ],
        SCTP => &[
            Kind::SctpInit,
            Kind::SctpData,
            Kind::SctpData,
            Kind::SctpEnd,
        ],
        ICMP => &[Kind::EchoRequest, Kind::EchoReply],
        _ => &[
            Kind::Datagram,
            Kind::Datagram,
            Kind::Datagram,
            Kind::Fragment,
        ],
    }
}

/// At most three allowances, so that a port set holds them.
fn some_policy(random: &mut Random) -> Option<Vec<Allow>> {
    if random.once_in(4) {
        return None;
    }
    let count = random.below(4);
    let mut list = Vec::new();
    for _ in 0..count {
        let peer = *random.pick(&[CLIENT, CLIENT, NODE]);
        let allowed = match *random.pick(&[TCP, TCP, UDP, SCTP, ICMP, 50]) {
            ICMP => (peer, ICMP, 0),
            50 => (peer, 50, 0),
            protocol => (peer, protocol, *random.pick(&[80, 4_000])),
        };
        if !list.contains(&allowed) {
            list.push(allowed);
        }
    }
    Some(list)
}

#[derive(Default)]
struct Tally {
    passed: u32,
    denied: u32,
    cut: u64,
    promoted: u64,
}

/// One history. Short steps, so that the second that a record may lag behind
/// never decides; silences that end nowhere near a timeout.
fn history(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let flows = flows();
    let few = [
        *random.pick(&flows),
        *random.pick(&flows),
        *random.pick(&flows),
    ];
    let world = World::new();
    let mut model = Model::default();
    let mut policies = Policies::default();
    for step in 0..150 {
        match random.below(24) {
            0 | 1 => {
                policies.ingress = some_policy(&mut random);
                policies.egress = some_policy(&mut random);
                world.enforce(policies.ingress.as_deref(), policies.egress.as_deref());
            }
            2 => world.next_generation(),
            3 if random.once_in(3) => {
                policies.off = !policies.off;
                world.switch_off(policies.off);
            }
            4 => world.wait(47 * SECOND * (1 + random.below(8) as u64)),
            _ => {
                world.wait(1_000_000);
                let flow = random.pick(&few);
                let direction = *random.pick(&[Egress, Ingress]);
                let kind = *random.pick(kinds(flow.protocol));
                let local_origin = direction == Ingress && random.once_in(2);
                let exempt = local_origin && flow.peer == NODE;
                let now_ns = world.now_ns();
                let expected = model.send(&policies, flow, direction, kind, exempt, now_ns);
                let verdict = world.send(flow, direction, kind, local_origin, false);
                assert_eq!(
                    verdict.passes(),
                    expected,
                    "seed {seed}, step {step}: {kind:?} {direction:?} of {flow:?}, \
                     exempt {exempt}, under {policies:?}, {:?}, {:?}",
                    world.record(flow),
                    model.connections.get(flow)
                );
                if verdict.passes() {
                    tally.passed += 1;
                } else {
                    tally.denied += 1;
                }
                if verdict.cacheable {
                    // A cached flow is not decided upon: it must not matter.
                    let again = world.send(flow, direction, kind, local_origin, false);
                    assert!(again.passes() && again.cacheable, "seed {seed}");
                    model.send(&policies, flow, direction, kind, exempt, now_ns);
                }
                assert!(!(policies.off && verdict.cacheable));
            }
        }
    }
    tally.cut += world.revoked();
    tally.promoted += world.created();
    assert!(world.records_in(Table::Main) as u64 <= world.created());
}

#[test]
fn random_histories_agree_with_the_model() {
    let mut tally = Tally::default();
    for seed in 0..4_000 {
        history(seed, &mut tally);
    }
    // The histories must reach what they are about.
    assert!(tally.passed > 100_000 && tally.denied > 100_000);
    assert!(tally.cut > 10_000 && tally.promoted > 2_000);
}

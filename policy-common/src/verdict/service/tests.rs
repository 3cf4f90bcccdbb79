//! One Service, its backends as data, and a policy that allows by identity and
//! port.

use core::cell::Cell;
use std::vec::Vec;

use super::*;
use crate::abi::identity::Identity;
use crate::abi::policy::{Interval, PolicyKey, PortSet};
use crate::abi::{family, protocol};
use crate::packet::words4;
use crate::verdict::decide::Peer;

const OWN: Words = [7, 7];
const POLICY: u16 = 3;
/// Allowed on port 80.
const FRIEND: Identity = 5;
const FOE: Identity = 6;
/// The asking pod's own class.
const SELF: Identity = 9;
const DENY_RULE: u32 = 33;

struct World {
    backends: Vec<(Identity, u16)>,
    flags: u32,
    /// How often the row turns out to be another key's.
    recycled: Cell<u32>,
    own: Identity,
    asked: Cell<u32>,
}

fn world(backends: &[(Identity, u16)]) -> World {
    World {
        backends: backends.to_vec(),
        flags: 0,
        recycled: Cell::new(0),
        own: SELF,
        asked: Cell::new(0),
    }
}

fn key() -> SvcKey {
    SvcKey {
        address: bytes16(words4([10, 96, 0, 1])),
        port: 443,
        protocol: protocol::TCP,
        family: family::V4,
    }
}

fn ask(world: &World) -> Service {
    ask_service(world, POLICY, OWN, &key())
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
    fn judge(&self, policy: u16, identity: Identity, protocol: u8, port: u16) -> Judgement {
        assert_eq!((policy, protocol), (POLICY, protocol::TCP));
        self.asked.set(self.asked.get() + 1);
        if identity == FRIEND && port == 80 {
            return Judgement::ALLOW;
        }
        Judgement {
            rule: DENY_RULE + identity,
            ..deny(DropReason::Policy)
        }
    }
}

impl Identities for World {
    fn peer(&self, _: u8, address: Words) -> Peer {
        assert_eq!(address, OWN);
        Peer {
            identity: self.own,
            node: false,
        }
    }
}

impl Services for World {
    type Row = ();

    fn find_service(&self, asked: &SvcKey) -> Option<()> {
        (*asked == key()).then_some(())
    }
    fn extent_of(&self, (): ()) -> (u32, u32) {
        let count = u32::try_from(self.backends.len()).expect("a few");
        (self.flags, count)
    }
    fn backend(&self, (): (), index: u32) -> SvcBackend {
        let (identity, port) = self.backends[index as usize];
        SvcBackend {
            identity,
            port,
            reserved: 0,
        }
    }
    fn is_still(&self, (): (), _: &SvcKey) -> bool {
        let left = self.recycled.get();
        self.recycled.set(left.saturating_sub(1));
        left == 0
    }
}

#[test]
fn one_allowed_backend_is_enough_wherever_it_stands() {
    for backends in [
        &[(FRIEND, 80)][..],
        &[(FOE, 80), (FRIEND, 81), (FRIEND, 80)],
        &[
            (FOE, 1),
            (FOE, 2),
            (FOE, 3),
            (FOE, 4),
            (FOE, 5),
            (FOE, 6),
            (FOE, 7),
            (FRIEND, 80),
        ],
    ] {
        let service = ask(&world(backends));
        assert!(
            service.is_found() && service.judgement().allows(),
            "{backends:?}"
        );
    }
}

#[test]
fn without_one_the_answer_is_the_policys_to_the_first() {
    let service = ask(&world(&[(FOE, 80), (FRIEND, 81)]));
    assert!(service.is_found());
    let said = service.judgement();
    assert_eq!(
        (said.denied, said.rule),
        (Some(DropReason::Policy), DENY_RULE + FOE)
    );
}

#[test]
fn service_without_backends_is_denied_for_that_reason() {
    let said = ask(&world(&[])).judgement();
    assert_eq!((said.denied, said.rule), (Some(DropReason::NoEndpoints), 0));
}

#[test]
fn row_that_does_not_hold_all_backends_allows_without_asking() {
    let many = World {
        flags: SVC_MANY,
        ..world(&[(FOE, 80)])
    };
    assert!(ask(&many).judgement().allows());
    assert_eq!(many.asked.get(), 0);
}

#[test]
fn count_beyond_the_row_is_not_followed() {
    let backends: Vec<_> = (0..20).map(|port| (FOE, port)).collect();
    let world = world(&backends);
    assert!(!ask(&world).judgement().allows());
    assert_eq!(world.asked.get(), BACKENDS);
}

#[test]
fn pod_that_may_be_its_own_backend_passes() {
    assert!(ask(&world(&[(FOE, 80), (SELF, 80)])).judgement().allows());
    // Of those that no policy names, hardly one is itself.
    let nameless = World {
        own: identity::OTHER,
        ..world(&[(identity::OTHER, 80)])
    };
    assert!(!ask(&nameless).judgement().allows());
    // Unless it is known that one of this node is there.
    let behind = |own| World {
        own,
        flags: SVC_OWN,
        ..world(&[(FOE, 80), (identity::OTHER, 80)])
    };
    assert!(ask(&behind(identity::OTHER)).judgement().allows());
    assert!(!ask(&behind(SELF)).judgement().allows(), "another's");
}

#[test]
fn ordinary_address_is_no_service() {
    let other = SvcKey { port: 80, ..key() };
    let service = ask_service(&world(&[(FRIEND, 80)]), POLICY, OWN, &other);
    assert!(service.is_known() && !service.is_found());
    assert!(!Service::UNKNOWN.is_known());
}

#[test]
fn row_given_to_another_service_meanwhile_is_asked_again_then_denied() {
    let once = world(&[(FRIEND, 80)]);
    once.recycled.set(1);
    assert!(ask(&once).judgement().allows());
    let always = world(&[(FRIEND, 80)]);
    always.recycled.set(u32::MAX);
    let service = ask(&always);
    assert!(service.is_found());
    assert_eq!(service.judgement().denied, Some(DropReason::Incomplete));
}

#[test]
fn key_is_the_other_end_of_the_packet() {
    let packet = Packet {
        src: words4([10, 0, 0, 2]),
        dst: words4([10, 96, 0, 1]),
        src_port: 4_000,
        dst_port: 443,
        protocol: protocol::TCP,
        family: family::V4,
        ..Packet::EMPTY
    };
    assert_eq!(key_of(&packet, Direction::Egress), key());
    let reply = Packet {
        src: packet.dst,
        dst: packet.src,
        src_port: packet.dst_port,
        dst_port: packet.src_port,
        ..packet
    };
    assert_eq!(key_of(&reply, Direction::Ingress), key());
}

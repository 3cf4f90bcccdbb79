//! Inputs of the target `packet` for whoever asks the kernel's programs the same:
//! the pod and its tables as operations, and what `policy-common` makes of the frame
//! by itself. The programs read packets and tables by ways of their own.

use policy_common::abi::endpoint::{Endpoint, FLAG_USED, PolicyWord};
use policy_common::abi::{Direction, family};
use policy_core::ops::Op;

use super::packet;
use super::world::{NAMED, NODE, World, address};

/// A frame that a pod sends or gets.
pub struct Case {
    /// Which way it goes.
    pub direction: Direction,
    /// The frame.
    pub frame: Vec<u8>,
    /// Whether it passes.
    pub passes: bool,
    world: World,
    endpoint: Endpoint,
}

impl Case {
    /// What an input means.
    #[must_use]
    pub fn new(input: &[u8]) -> Self {
        let (world, endpoint, direction, frame) = packet::meaning(input);
        let passes = packet::passes(&world, &endpoint, direction, frame);
        let frame = frame.to_vec();
        Self {
            direction,
            frame,
            passes,
            world,
            endpoint,
        }
    }

    /// Makes the pod of a slot and an interface this one, whose policies these are.
    /// Of a number that was not used before nothing is remembered.
    #[must_use]
    pub fn tables(&self, slot: u32, ifindex: u32, number: u32) -> Vec<Op> {
        let word = self.world.word();
        let [ingress, egress] =
            [Direction::Ingress, Direction::Egress].map(|direction| word.policy(direction));
        let mut ops = self.world.operations();
        ops.push(Op::Endpoint {
            slot,
            value: Endpoint {
                word: PolicyWord::new(number, ingress, egress).0,
                number,
                flags: self.endpoint.flags | FLAG_USED,
                ifindex,
                ..self.endpoint
            },
        });
        ops
    }
}

/// The peers that have a class.
#[must_use]
pub fn peers() -> Vec<Op> {
    let families = [family::V4, family::V6].into_iter();
    let all = families.flat_map(|family| NAMED.map(|last| (family, last)));
    all.map(|(family, last)| Op::Host {
        address: address(family, last),
        identity: last.into(),
        node: last == NODE,
        slot: 0,
    })
    .collect()
}

//! Pods that ran before the agent keep the connections that their policies allow,
//! now or when they come to have policies: what the node's kernel knows of them is
//! noted before the programs come, and once more when all have come. Where many
//! come at once that takes seconds, in which pods go on opening connections; what has
//! ended until then is forgotten.
//!
//! A record says who opened a connection, and nothing about whether it may: policy
//! is asked about each at its next packet.
//!
//! What the kernel does not know (frames that a bridge forwards without netfilter, a
//! kernel without connection tracking) is judged packet by packet. An opener's next
//! datagram makes a record, and answers to it pass. A TCP segment in the middle of a
//! connection does not tell who opened it, and if it made a record then whoever may
//! send could keep a connection alive that policy has ended: answers pass only if
//! policy allows them by themselves.

use std::collections::BTreeSet;

use policy_common::abi::Direction;
use policy_common::abi::endpoint::{Endpoint, PolicyWord};
use policy_core::ops::Op;

use super::state::State;
use crate::datapath::apply::monotonic_ns;
use crate::flows;

/// Endpoints that had no programs and get some, by slot.
pub(super) struct Newcomers {
    endpoints: Vec<(u32, Endpoint)>,
    /// When what was known of their connections had been noted, nanoseconds of
    /// CLOCK_MONOTONIC.
    noted_ns: u64,
}

impl State {
    /// Notes the connections of pods that get programs by these operations and ran
    /// without an agent before. What cannot be read is told, and holds up nothing:
    /// fewer connections go on.
    pub(super) fn remember_flows(&self, ops: &[Op]) -> Newcomers {
        let endpoints = newly_attached(ops, |ifindex| self.cni.births.was_open(ifindex));
        if !endpoints.is_empty()
            && let Some((made, known)) = self.note_flows(&endpoints, None)
        {
            eprintln!(
                "{made} connections of pods are older than the agent, of {known} on the node: they \
                 go on as far as policy allows them"
            );
        }
        Newcomers {
            endpoints,
            noted_ns: monotonic_ns(),
        }
    }

    /// Notes what they have opened until their programs were there, and forgets what has
    /// ended until then.
    pub(super) fn remember_the_latest(&self, newcomers: &Newcomers) {
        if !newcomers.endpoints.is_empty()
            && let Some((made, _)) = self.note_flows(&newcomers.endpoints, Some(newcomers.noted_ns))
            && made > 0
        {
            eprintln!("{made} more were opened before the programs came");
        }
    }

    /// How many records were made, of how many connections. `noted_ns`: when that was
    /// done before.
    fn note_flows(
        &self,
        endpoints: &[(u32, Endpoint)],
        noted_ns: Option<u64>,
    ) -> Option<(usize, usize)> {
        let known = match flows::read() {
            Ok(known) => known,
            Err(error) => {
                eprintln!(
                    "the node's connections cannot be read ({error}): of older ones with isolated \
                     pods, answers over UDP pass from the opener's next datagram on, and TCP has \
                     to be opened anew unless policy allows it in both directions"
                );
                return None;
            }
        };
        if let Some(noted_ns) = noted_ns
            && let Err(error) = self.datapath.forget_ended(endpoints, &known, noted_ns)
        {
            eprintln!("older connections that have ended stay until their time: {error}");
        }
        let mut made = 0;
        for (slot, endpoint) in endpoints {
            match self.datapath.remember(*slot, endpoint, &known) {
                Ok(more) => made += more,
                Err(error) => {
                    eprintln!("older connections of slot {slot} are not all noted: {error}");
                }
            }
        }
        Some((made, known.len()))
    }
}

/// Slots and endpoints that get programs by these operations on interfaces that
/// were open. Those that something isolates come last: of what is not confirmed, or
/// more than a share, the oldest give way.
fn newly_attached(ops: &[Op], was_open: impl Fn(u32) -> bool) -> Vec<(u32, Endpoint)> {
    let attached: BTreeSet<u32> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Attach { ifindex } => Some(*ifindex),
            _ => None,
        })
        .collect();
    let mut endpoints: Vec<(u32, Endpoint)> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Endpoint { slot, value } => Some((*slot, *value)),
            _ => None,
        })
        .filter(|(_, value)| attached.contains(&value.ifindex) && was_open(value.ifindex))
        .collect();
    endpoints.sort_by_key(|(slot, value)| (is_isolated(PolicyWord(value.word)), *slot));
    endpoints
}

fn is_isolated(word: PolicyWord) -> bool {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .any(|direction| word.policy(direction) != PolicyWord::NOT_ISOLATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(slot: u32, ifindex: u32, word: PolicyWord) -> Op {
        Op::Endpoint {
            slot,
            value: Endpoint {
                word: word.0,
                ifindex,
                ..Endpoint::EMPTY
            },
        }
    }

    #[test]
    fn pods_that_were_open_and_get_programs_now_count_the_isolated_ones_last() {
        let isolated = PolicyWord::new(1, 7, 0);
        let free = PolicyWord::new(1, 0, 0);
        let ops = [
            endpoint(1, 11, isolated),
            endpoint(2, 12, free),
            endpoint(3, 13, isolated),
            endpoint(4, 14, isolated),
            Op::Attach { ifindex: 11 },
            Op::Attach { ifindex: 12 },
            Op::Attach { ifindex: 13 },
        ];
        let found = newly_attached(&ops, |ifindex| ifindex != 13);
        let slots: Vec<u32> = found.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(slots, [2, 1], "3 was never open, 4 has its programs");
    }
}

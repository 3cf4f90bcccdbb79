//! Operations, in their order: runs of one kind become batches, a word becomes
//! one store, the first failure ends it.
//!
//! The order is the plan's and its meaning; nothing is reordered here. What was
//! done before a failure stays done, which by the plan's order leaves every
//! endpoint with its old policy or its new one.

use std::{io, mem::offset_of, net::IpAddr, ops::Range};

use ipnet::IpNet;
use policy_common::abi::{
    Direction,
    config::{FLAG_EGRESS, FLAG_SERVICES},
    endpoint::{Endpoint, IfindexEntry, PolicyWord},
    maps::{self as abi, IFINDEX_ENTRIES},
};
use policy_common::memo::Epoch;
use policy_core::ops::Op;

use super::{
    Datapath,
    attach::AttachError,
    encode::{
        cidr_flag, deleted_host4, deleted_host6, deleted_prefix4, deleted_prefix6, deleted_row,
        deleted_service, describe, host4, host6, port_set, prefix4, prefix6, row, service,
    },
    map::{BatchError, MapError},
    maps::{Maps, spec},
    sys,
};

/// What came of a list of operations.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// How many operations were done, from the first on.
    pub done: usize,
    /// Every word that was stored, in order.
    pub words: Vec<WordStored>,
    /// The first that failed, if any: number `done`.
    pub failure: Option<OpFailure>,
}

/// An endpoint's word was stored: from here on packets see the new policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordStored {
    /// The endpoint's slot.
    pub slot: u32,
    /// What was stored.
    pub word: PolicyWord,
    /// When, at the latest: nanoseconds of CLOCK_MONOTONIC, read right after.
    pub at_ns: u64,
}

/// An operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {cause}")]
pub struct OpFailure {
    /// Its place in the list.
    pub index: usize,
    /// What it was to do.
    pub op: String,
    /// Why it did not.
    #[source]
    pub cause: OpError,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The map has no room.
    #[error("map {map} is full ({capacity} elements); the old policy stays in force")]
    Full {
        /// The map.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
    },
    /// The map refuses.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The interface refuses.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// No grace period.
    #[error("waiting for an RCU grace period: {0}")]
    Grace(io::Error),
}

impl OpError {
    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Full { .. } => Some(libc::ENOSPC),
            Self::Map(error) => error.source.raw_os_error(),
            Self::Attach(error) => error.errno(),
            Self::Grace(error) => error.raw_os_error(),
        }
    }
}

impl Datapath {
    /// Does operations in order and stops at the first that fails.
    pub fn apply(&self, ops: &[Op]) -> Applied {
        let mut words = Vec::new();
        let mut done = 0;
        while done < ops.len() {
            let run = run(ops, done);
            let result = self.apply_run(ops.get(run.clone()).unwrap_or(&[]), &mut words);
            if ops.get(done).is_some_and(changes_answers) {
                // Also after a failure, which may have come after some of the run.
                self.maps.move_epoch_on();
            }
            match result {
                Ok(()) => done = run.end,
                Err((within, cause)) => {
                    done += within;
                    let failure = ops.get(done).map(|op| OpFailure {
                        index: done,
                        op: describe(op),
                        cause,
                    });
                    return Applied {
                        done,
                        words,
                        failure,
                    };
                }
            }
        }
        if ops.iter().any(may_end_egress)
            && let Err(error) = self.maps.forget_egress()
        {
            // Looking at more packets than need be changes no verdict.
            eprintln!("warning: {error}");
        }
        Applied {
            done,
            words,
            failure: None,
        }
    }

    /// A run of operations of one kind; on failure how many of them were done.
    fn apply_run(&self, run: &[Op], words: &mut Vec<WordStored>) -> Result<(), (usize, OpError)> {
        let maps = &self.maps;
        let Some(first) = run.first() else {
            return Ok(());
        };
        match first {
            Op::Row { .. } => batch(run, row, |k, v| maps.policy.set_all(k, v)),
            Op::DeleteRow { .. } => batch(run, deleted_row, |k, _| maps.policy.remove_all(k)),
            Op::PortSet { .. } => batch(run, port_set, |k, v| maps.port_sets.set_all(k, v)),
            Op::Host { address, .. } => match address {
                IpAddr::V4(_) => batch(run, host4, |k, v| maps.id4.set_all(k, v)),
                IpAddr::V6(_) => batch(run, host6, |k, v| maps.id6.set_all(k, v)),
            },
            Op::DeleteHost { address } => match address {
                IpAddr::V4(_) => batch(run, deleted_host4, |k, _| maps.id4.remove_all(k)),
                IpAddr::V6(_) => batch(run, deleted_host6, |k, _| maps.id6.remove_all(k)),
            },
            Op::Service { .. } => {
                // Before the first row is in: see prefixes.
                maps.set_flag(FLAG_SERVICES, true)
                    .map_err(|e| (0, e.into()))?;
                batch(run, service, |k, v| maps.services.set_all(k, v))
            }
            Op::DeleteService { .. } => {
                batch(run, deleted_service, |k, _| maps.services.remove_all(k))?;
                let cleared = maps.services.is_empty().and_then(|empty| {
                    if empty {
                        maps.set_flag(FLAG_SERVICES, false)
                    } else {
                        Ok(())
                    }
                });
                cleared.map_err(|e| (run.len().saturating_sub(1), e.into()))
            }
            Op::Prefix { prefix, .. } => {
                // Before the first prefix is in: programs that do not look yet
                // answer as if it was not.
                let flag = cidr_flag(prefix);
                maps.set_flag(flag, true).map_err(|e| (0, e.into()))?;
                match prefix {
                    IpNet::V4(_) => batch(run, prefix4, |k, v| maps.cidr4.set_all(k, v)),
                    IpNet::V6(_) => batch(run, prefix6, |k, v| maps.cidr6.set_all(k, v)),
                }
            }
            Op::DeletePrefix { prefix } => {
                match prefix {
                    IpNet::V4(_) => batch(run, deleted_prefix4, |k, _| maps.cidr4.remove_all(k)),
                    IpNet::V6(_) => batch(run, deleted_prefix6, |k, _| maps.cidr6.remove_all(k)),
                }?;
                // A trie that is empty answers what not looking at it does.
                let empty = match prefix {
                    IpNet::V4(_) => maps.cidr4.is_empty(),
                    IpNet::V6(_) => maps.cidr6.is_empty(),
                };
                let cleared = empty.and_then(|empty| {
                    if empty {
                        maps.set_flag(cidr_flag(prefix), false)
                    } else {
                        Ok(())
                    }
                });
                cleared.map_err(|e| (run.len().saturating_sub(1), e.into()))
            }
            _ => {
                self.attach_ahead(run);
                for (index, op) in run.iter().enumerate() {
                    self.apply_one(op, words).map_err(|error| (index, error))?;
                }
                Ok(())
            }
        }
    }

    /// Puts what judges a pod's ingress on every interface of a run before anything
    /// is put on its egress: with TCX the kernel waits for a grace period in each of
    /// them, and pods that begin together would wait for each other's egress.
    fn attach_ahead(&self, run: &[Op]) {
        let [_, _, ..] = run else { return };
        for op in run {
            if let Op::Attach { ifindex } = op {
                // What fails here fails again in its turn, and is told then.
                let _failed = self.attach_ingress(*ifindex);
            }
        }
    }

    fn apply_one(&self, op: &Op, words: &mut Vec<WordStored>) -> Result<(), OpError> {
        let maps = &self.maps;
        match op {
            Op::Extent { start, intervals } => {
                let mut keys = Vec::with_capacity(intervals.len());
                keys.extend((*start..).take(intervals.len()));
                maps.extents
                    .set_all(&keys, intervals)
                    .map_err(|stopped| of_map(stopped.error))
            }
            Op::Endpoint { slot, value } => {
                maps.note_endpoint_number(value.number)?;
                maps.note_generation(PolicyWord(value.word).generation())?;
                maps.note_egress(PolicyWord(value.word))?;
                Ok(maps.write_endpoint(*slot, value)?)
            }
            Op::LinkLocal { slot, address } => Ok(maps.store_link_local(*slot, address.octets())?),
            Op::Word { slot, word } => {
                maps.note_generation(word.generation())?;
                maps.note_egress(*word)?;
                let at_ns = maps.store_word(*slot, *word)?;
                words.push(WordStored {
                    slot: *slot,
                    word: *word,
                    at_ns,
                });
                Ok(())
            }
            Op::DeleteEndpoint { slot } => Ok(maps.write_endpoint_first(*slot)?),
            Op::Interface { ifindex, slot } => maps.lead(*ifindex, *slot),
            Op::DeleteInterface { ifindex } => Ok(maps.lead_nowhere(*ifindex)?),
            Op::Attach { ifindex } => match self.attach(*ifindex) {
                // Its pod went meanwhile: there is nothing to put programs on, and
                // nobody else's policy waits for it. The next scan tells.
                Ok(()) | Err(AttachError::Gone { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Op::Detach { ifindex } => Ok(self.detach(*ifindex)?),
            Op::Grace => sys::grace().map_err(OpError::Grace),
            Op::PortSet { .. }
            | Op::Row { .. }
            | Op::Host { .. }
            | Op::Service { .. }
            | Op::DeleteService { .. }
            | Op::Prefix { .. }
            | Op::DeleteRow { .. }
            | Op::DeleteHost { .. }
            | Op::DeletePrefix { .. } => self
                .apply_run(std::slice::from_ref(op), words)
                .map_err(|(_, error)| error),
        }
    }
}

/// Whether what a CPU remembers of addresses and policies may not be so after it.
fn changes_answers(op: &Op) -> bool {
    match op {
        Op::Row { .. }
        | Op::DeleteRow { .. }
        | Op::PortSet { .. }
        | Op::Extent { .. }
        | Op::Host { .. }
        | Op::DeleteHost { .. }
        | Op::Prefix { .. }
        | Op::DeletePrefix { .. } => true,
        Op::Service { .. }
        | Op::DeleteService { .. }
        | Op::Endpoint { .. }
        | Op::LinkLocal { .. }
        | Op::Word { .. }
        | Op::DeleteEndpoint { .. }
        | Op::Interface { .. }
        | Op::DeleteInterface { .. }
        | Op::Attach { .. }
        | Op::Detach { .. }
        | Op::Grace => false,
    }
}

/// Whether nobody's egress may be isolated after it.
fn may_end_egress(op: &Op) -> bool {
    match op {
        Op::DeleteEndpoint { .. } => true,
        Op::Word { word, .. } => !isolates_egress(*word),
        _ => false,
    }
}

fn isolates_egress(word: PolicyWord) -> bool {
    word.policy(Direction::Egress) != PolicyWord::NOT_ISOLATED
}

impl Maps {
    /// Before a word that isolates a pod's egress is stored.
    fn note_egress(&self, word: PolicyWord) -> Result<(), MapError> {
        if !isolates_egress(word) || self.config().flags & FLAG_EGRESS != 0 {
            return Ok(());
        }
        self.set_flag(FLAG_EGRESS, true)
    }

    /// After words were stored or slots emptied: clears the flag if no slot has
    /// a word that isolates egress.
    fn forget_egress(&self) -> Result<(), MapError> {
        if self.isolates_some_egress() || self.config().flags & FLAG_EGRESS == 0 {
            return Ok(());
        }
        self.set_flag(FLAG_EGRESS, false)
    }

    /// Whether a slot has a word that isolates egress.
    pub(super) fn isolates_some_egress(&self) -> bool {
        (0..self.slots()).any(|slot| {
            let endpoint = self.endpoint(slot);
            endpoint.is_some_and(|endpoint| isolates_egress(PolicyWord(endpoint.word)))
        })
    }

    /// After a change of what addresses and policies answer: packets from here on
    /// ask the tables, and not what their CPU remembers.
    pub(super) fn move_epoch_on(&self) {
        let epoch = self.epoch.read(0).unwrap_or_default();
        self.epoch
            .store(0, offset_of!(Epoch, changes), epoch.changes + 1)
            .expect("the map has one element, and the field is in it");
    }

    fn write_endpoint(&self, slot: u32, value: &Endpoint) -> Result<(), MapError> {
        // Number and flags last: the flags say that the slot is used.
        self.endpoints
            .write(slot, value, offset_of!(Endpoint, number))
            .map_err(no_slot)
    }

    /// Empties a slot, the flags that say that it is used first.
    fn write_endpoint_first(&self, slot: u32) -> Result<(), MapError> {
        self.endpoints
            .store(slot, offset_of!(Endpoint, number), 0)
            .and_then(|()| {
                self.endpoints
                    .write(slot, &Endpoint::EMPTY, offset_of!(Endpoint, word))
            })
            .map_err(no_slot)
    }

    fn store_link_local(&self, slot: u32, address: [u8; 16]) -> Result<(), MapError> {
        let base = offset_of!(Endpoint, link_local6);
        let value = u128::from_ne_bytes(address).to_ne_bytes();
        for (offset, word) in value.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().expect("8 bytes"));
            self.endpoints
                .store(slot, base + offset * 8, word)
                .map_err(no_slot)?;
        }
        Ok(())
    }

    /// One aligned store; then the time.
    fn store_word(&self, slot: u32, word: PolicyWord) -> Result<u64, MapError> {
        self.endpoints
            .store(slot, offset_of!(Endpoint, word), word.0)
            .map_err(no_slot)?;
        Ok(monotonic_ns())
    }

    /// Leads an interface to a slot: in its element of the direct-mapped table,
    /// or in the hash while another interface has that element.
    fn lead(&self, ifindex: u32, slot: u32) -> Result<(), OpError> {
        let element = element(ifindex);
        let holder = self.ifindex.get(&element)?.unwrap_or_default().ifindex;
        if holder != 0 && holder != ifindex {
            return self.ifindex_more.set(&ifindex, &slot).map_err(of_map);
        }
        // The kernel may copy the two words one after the other. Both halves of
        // a first write are harmless alone: no slot, or nobody's element.
        self.ifindex
            .set(&element, &IfindexEntry { ifindex, slot })?;
        self.ifindex_more.remove(&ifindex)?;
        Ok(())
    }

    fn lead_nowhere(&self, ifindex: u32) -> Result<(), MapError> {
        let element = element(ifindex);
        let holder = self.ifindex.get(&element)?.unwrap_or_default().ifindex;
        if holder == ifindex {
            self.ifindex.set(&element, &IfindexEntry::default())?;
        }
        self.ifindex_more.remove(&ifindex)?;
        Ok(())
    }
}

/// An interface's element of the direct-mapped table, as `policy-ebpf` finds it.
pub(super) fn element(ifindex: u32) -> u32 {
    const MASK: u32 = {
        assert!(IFINDEX_ENTRIES <= 1 << 31);
        #[expect(clippy::cast_possible_truncation, reason = "asserted just above")]
        let mask = IFINDEX_ENTRIES as u32 - 1;
        mask
    };
    ifindex & MASK
}

/// Now, nanoseconds of CLOCK_MONOTONIC: the clock of the programs.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

fn no_slot(source: io::Error) -> MapError {
    MapError {
        map: abi::ENDPOINTS,
        what: "store in a slot",
        source,
    }
}

/// The operations from `start` on that go into one batch.
fn run(ops: &[Op], start: usize) -> Range<usize> {
    let kind = ops.get(start).map(kind);
    let length = ops
        .get(start..)
        .unwrap_or(&[])
        .iter()
        .take_while(|op| Some(self::kind(op)) == kind)
        .count();
    start..start + length.max(1)
}

/// Operations of one kind write one map.
fn kind(op: &Op) -> (std::mem::Discriminant<Op>, bool) {
    let is_v6 = match op {
        Op::Host { address, .. } | Op::DeleteHost { address } => address.is_ipv6(),
        Op::Prefix { prefix, .. } | Op::DeletePrefix { prefix } => matches!(prefix, IpNet::V6(_)),
        _ => false,
    };
    (std::mem::discriminant(op), is_v6)
}

/// Collects keys and values of a run and writes them.
fn batch<K, V>(
    run: &[Op],
    element: impl Fn(&Op) -> Option<(K, V)>,
    write: impl FnOnce(&[K], &[V]) -> Result<(), BatchError>,
) -> Result<(), (usize, OpError)> {
    let (keys, values): (Vec<K>, Vec<V>) = run.iter().filter_map(element).unzip();
    write(&keys, &values).map_err(|stopped| (stopped.done, of_map(stopped.error)))
}

/// Tells "full" from other refusals: hashes say `E2BIG`, tries `ENOSPC`.
fn of_map(error: MapError) -> OpError {
    match error.source.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => OpError::Full {
            map: error.map,
            capacity: spec(error.map).max_entries,
        },
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_kind_or_family_changes() {
        let host = |text: &str| Op::Host {
            address: text.parse().unwrap(),
            identity: 1,
            node: false,
            slot: 0,
        };
        let ops = [
            host("10.0.0.1"),
            host("10.0.0.2"),
            host("fd00::1"),
            Op::Grace,
        ];
        assert_eq!(run(&ops, 0), 0..2);
        assert_eq!(run(&ops, 2), 2..3);
        assert_eq!(run(&ops, 3), 3..4);
    }

    #[test]
    fn interfaces_that_share_an_element_are_told_apart_by_their_index() {
        assert_eq!(element(3), element(3 + 16_384));
        assert_ne!(element(3), element(4));
    }
}

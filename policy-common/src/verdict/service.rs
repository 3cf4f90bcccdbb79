//! What a pod's egress policy says of a Service, before anybody has chosen a
//! backend: whether the packet may go where the choice is made.
//!
//! A Service with a backend that the policy allows is left undecided at the
//! source; [`mod@super::sender`] judges which backend it became. One without is
//! denied at once, with the policy's own answer.

use crate::abi::Direction;
use crate::abi::event::DropReason;
use crate::abi::identity;
use crate::abi::service::{SVC_BACKENDS, SVC_MANY, SVC_OWN, SvcBackend, SvcKey};
use crate::packet::{Packet, Words, bytes16};

use super::decide::Identities;
use super::judge::{Judgement, PolicyTables};

/// The table of Services, wherever it is.
pub trait Services {
    /// A way to reach a row that was found.
    type Row: Copy;

    /// The row of a key.
    fn find_service(&self, key: &SvcKey) -> Option<Self::Row>;

    /// Its flags, and how many backends are in it.
    fn extent_of(&self, row: Self::Row) -> (u32, u32);

    /// One of its backends; below [`SVC_BACKENDS`].
    fn backend(&self, row: Self::Row, index: u32) -> SvcBackend;

    /// Whether the row is this key's still. Asked after all else was read.
    fn is_still(&self, row: Self::Row, key: &SvcKey) -> bool;
}

/// What was found out of a packet's peer as a Service, in one word, for a function
/// that returns no more: a [`Judgement`] in bits 0 to 40, whether there is such a
/// Service in bit 41, whether the table was asked in bit 42.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Service(pub u64);

impl Service {
    const FOUND: u64 = 1 << 41;
    const ASKED: u64 = 1 << 42;

    /// Nobody has asked the table.
    pub const UNKNOWN: Self = Self(0);
    /// The peer is an ordinary address.
    pub const NONE: Self = Self(Self::ASKED);

    /// A Service of which the policy says this.
    #[inline(always)]
    pub const fn found(judgement: Judgement) -> Self {
        Self(judgement.to_word() | Self::FOUND | Self::ASKED)
    }

    /// Whether the table was asked.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.0 & Self::ASKED != 0
    }

    /// Whether the peer is a Service.
    #[inline(always)]
    pub const fn is_found(self) -> bool {
        self.0 & Self::FOUND != 0
    }

    /// What the policy says of it.
    #[inline(always)]
    pub const fn judgement(self) -> Judgement {
        Judgement::from_word(self.0)
    }
}

/// The key under which a Service that is a packet's peer would be found.
#[inline(always)]
pub fn key_of(packet: &Packet, direction: Direction) -> SvcKey {
    let (address, port) = match direction {
        Direction::Ingress => (packet.src, packet.src_port),
        Direction::Egress => (packet.dst, packet.dst_port),
    };
    SvcKey {
        address: bytes16(address),
        port,
        protocol: packet.protocol,
        family: packet.family,
    }
}

/// Asks egress policy number `policy` (not 0) of the pod at address `own` about
/// the Service with this key.
#[inline(always)]
pub fn ask_service<T: PolicyTables + Identities + Services>(
    tables: &T,
    policy: u16,
    own: Words,
    key: &SvcKey,
) -> Service {
    let mut tries = 0;
    while tries < 2 {
        let Some(row) = tables.find_service(key) else {
            return Service::NONE;
        };
        let answer = ask_row(tables, policy, own, key, row);
        if tables.is_still(row, key) {
            return Service::found(answer);
        }
        tries += 1;
    }
    Service::found(deny(DropReason::Incomplete))
}

#[inline(always)]
fn ask_row<T: PolicyTables + Identities + Services>(
    tables: &T,
    policy: u16,
    own: Words,
    key: &SvcKey,
    row: T::Row,
) -> Judgement {
    let (flags, count) = tables.extent_of(row);
    if flags & SVC_MANY != 0 {
        return Judgement::ALLOW;
    }
    let mut answer = deny(DropReason::NoEndpoints);
    let mut i = 0;
    while i < BACKENDS && i < count {
        let backend = tables.backend(row, i);
        let said = tables.judge(policy, backend.identity, key.protocol, backend.port);
        if said.allows() {
            return said;
        }
        if i == 0 {
            answer = said;
        }
        i += 1;
    }
    if count == 0 {
        return answer;
    }
    // A pod may always reach itself, and may be behind its own Service. Which of
    // its class the backend is, nobody knows here; it is judged where it leaves.
    let own = tables.peer(key.family, own).identity;
    if own == identity::OTHER && flags & SVC_OWN == 0 {
        return answer;
    }
    i = 0;
    while i < BACKENDS && i < count {
        if tables.backend(row, i).identity == own {
            return Judgement::ALLOW;
        }
        i += 1;
    }
    answer
}

#[expect(clippy::cast_possible_truncation, reason = "eight")]
const BACKENDS: u32 = SVC_BACKENDS as u32;

#[inline(always)]
const fn deny(reason: DropReason) -> Judgement {
    Judgement {
        denied: Some(reason),
        rule: 0,
        log: false,
    }
}

#[cfg(test)]
mod tests;

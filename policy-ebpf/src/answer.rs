//! What the functions on a packet's path answer one another, in a word.

use policy_common::abi::Direction;

/// It passes. The first of the bits of an answer, whose upper half is the generation
/// under which policy was asked.
pub(crate) const PASS: u64 = 1;
/// The flow cache may take it.
pub(crate) const REMEMBER: u64 = 2;
/// No answer: what policy says of the peer as a Service must be asked first, under the
/// word of now.
pub(crate) const ASK_SERVICE: u64 = 4;
/// The interface has no endpoint.
pub(crate) const NOBODY: u64 = 8;
/// Policy is to be asked.
pub(crate) const JUDGE: u64 = 1 << 6;
/// Where the state for the packet's mark begins; `mark::NONE`: leave it.
pub(crate) const STATE_SHIFT: u32 = 4;

/// The direction of a program's packets, the pod's.
#[inline(always)]
pub(crate) const fn direction<const EGRESS: bool>() -> Direction {
    if EGRESS {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

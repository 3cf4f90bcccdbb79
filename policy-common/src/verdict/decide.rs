//! Policy and connection records together: the verdict on one packet.
//!
//! Policy is asked first, in the packet's own direction; a record is what lets
//! a reply through that policy would not. Two things are judged in the
//! direction in which the connection was opened instead: TCP that has a record,
//! so that a revoked connection is cut both ways at once, and replies.
//!
//! What keeps a revoked connection from reviving itself in reverse: only an
//! opener's packet makes a record, and a record whose opener's direction is no
//! longer allowed is neither refreshed nor turned round by anything.
//!
//! What the pod sends to a Service or to the node may be translated on its way.
//! It passes undecided where policy could allow it, and its real destination is
//! judged by [`mod@super::sender`]; so are the packets of a connection that was
//! opened so, whatever has become of the Service meanwhile.
//!
//! Fragments without ports are answered for by [`mod@crate::fragment`], ICMP errors
//! by [`mod@super::related`]; here come those that are not answered for there.

use crate::abi::Direction;
use crate::abi::conntrack::{CT_CONFIRMED, CT_FROM_NODE, CT_OPENED_BY_POD, CtEntry, CtKey};
use crate::abi::endpoint::PolicyWord;
use crate::abi::event::DropReason;
use crate::abi::identity::{self, Identity};
use crate::abi::policy::RuleId;
use crate::abi::stats;
use crate::conntrack;
use crate::packet::{Kind, Packet, Words, bytes16};

use super::judge::{Judgement, PolicyTables};
use super::outcome::{Facts, Outcome, conclude};
use super::service::Service;

/// Who an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its class.
    pub identity: Identity,
    /// It is this node's own.
    pub node: bool,
}

impl Peer {
    /// The peer as one word, for a function that returns no more: identity in
    /// bits 0 to 31, node in bit 32.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.identity as u64 | (self.node as u64) << 32
    }

    /// The peer that [`Self::to_word`] made.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            identity: (word & 0xffff_ffff) as u32,
            node: word >> 32 & 1 != 0,
        }
    }

    /// An address that no peer matches.
    pub const OTHER: Self = Self {
        identity: identity::OTHER,
        node: false,
    };
}

/// Where addresses get their identity.
pub trait Identities {
    /// Who an address is: its own row, else its longest prefix, else
    /// [`Peer::OTHER`]. A row that cannot be trusted is
    /// [`identity::UNRESOLVED`].
    fn peer(&self, family: u8, address: Words) -> Peer;
}

/// Where a record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Confirmed connections; nothing is evicted.
    Main,
    /// Connections of isolated endpoints whose opener has not answered a reply, and
    /// those beyond what the endpoint may have of the other; may evict.
    Pending,
    /// The same of endpoints that nothing isolates: anybody may fill it, and nobody's
    /// policy has to allow that.
    Open,
}

/// Connection records, wherever they are.
pub trait Records: Sized {
    /// A way to reach a record that was found.
    type Record: Copy;

    /// The key of a packet's record: [`key_of`], in memory as it is read best.
    #[inline(always)]
    fn key(&self, endpoint: u32, direction: Direction, packet: &Packet) -> CtKey {
        key_of(endpoint, direction, packet)
    }

    /// Whether the endpoint in this slot may have records in [`Table::Open`].
    fn has_open(&self, slot: u32) -> bool;

    /// The record of a key, live or not.
    fn find(&self, table: Table, key: &CtKey) -> Option<Self::Record>;

    /// Its contents now.
    fn read(&self, record: Self::Record) -> CtEntry;

    /// Writes flags, generation and time of a record whose tag is still this.
    fn write(&self, record: Self::Record, entry: &CtEntry);

    /// Adds a record or replaces the one there; false: there is no room.
    fn insert(&self, table: Table, key: &CtKey, entry: &CtEntry) -> bool;

    /// Removes a record.
    fn delete(&self, table: Table, key: &CtKey);

    /// Whether the endpoint in this slot may have one more confirmed record, while
    /// something isolates it or nothing does: [`conntrack::may_confirm`].
    fn has_budget(&self, slot: u32, isolated: bool) -> bool;

    /// Books a new confirmed record.
    fn count_created(&self, slot: u32);

    /// Adds one to a counter of [`stats`].
    fn count(&self, counter: u32);

    /// CLOCK_MONOTONIC, nanoseconds; coarse is good enough. Asked only where it
    /// matters: reading it costs as much as judging.
    fn now_ns(&self) -> u64;

    /// The live record of a key, which table it is in, and the time by which it is
    /// live; `None` and zero if there is none. See [`find_live`], which an
    /// implementation calls wherever it suits it best.
    #[inline(always)]
    fn look_up(&self, slot: u32, key: &CtKey, isolated: bool) -> (Option<Table>, CtEntry, u64) {
        find_live(self, slot, key, isolated)
    }

    /// The last step of a decision; see [`conclude`], likewise.
    #[inline(always)]
    fn conclude(
        &self,
        facts: Facts,
        key: &CtKey,
        record: &CtEntry,
        current: u32,
        now_ns: u64,
    ) -> Outcome {
        conclude(self, facts, || *key, record, current, now_ns)
    }
}

/// Where and when a packet was seen.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// Slot of the endpoint.
    pub slot: u32,
    /// Number of the endpoint.
    pub endpoint: u32,
    /// Its policies.
    pub word: PolicyWord,
    /// Which way the packet goes.
    pub direction: Direction,
    /// It did not come in by any interface: the node sent it, unless its source
    /// address says otherwise.
    pub local_origin: bool,
    /// It comes back to the pod that sent it (through a Service): passes.
    pub hairpin: bool,
    /// Enforcement is switched off.
    pub off: bool,
    /// What the pod's egress policy says of the peer as a Service. Where nobody
    /// has asked, [`Verdict::ask_service`] may say that it matters.
    pub service: Service,
    /// Who the other end is, if somebody has asked since the word was read.
    pub peer: Option<Peer>,
}

/// What happens to a packet, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: it passes.
    pub denied: Option<DropReason>,
    /// Rule that decided; 0 if none was asked or a connection record decided.
    pub rule: RuleId,
    /// Class of the peer, where it was looked up.
    pub identity: Identity,
    /// A rule asks for a report.
    pub log: bool,
    /// The same flow may pass without asking again while the generation lasts.
    pub cacheable: bool,
    /// It passes, but its destination may not be its last: to be judged where it
    /// leaves. Only what a pod sends whose egress is isolated.
    pub undecided: bool,
    /// No verdict: whether the peer is a Service matters, and nobody has asked.
    /// Nothing was written.
    pub ask_service: bool,
}

impl Verdict {
    /// Drops for a reason that no policy gave.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self {
            denied: Some(reason),
            ..Self::PASS
        }
    }

    /// Passes for a reason that no policy gave.
    pub const PASS: Self = Self {
        denied: None,
        rule: 0,
        identity: identity::OTHER,
        log: false,
        cacheable: false,
        undecided: false,
        ask_service: false,
    };

    /// Whether the packet passes.
    #[inline(always)]
    pub const fn passes(&self) -> bool {
        self.denied.is_none()
    }
}

/// Generation of a record that no policy has judged: asked about at its next
/// packet. Words start at 1.
const NEVER_JUDGED: u32 = 0;

/// Decides on an IP packet that the [`mod@super::gate`] hands over.
#[inline(always)]
pub fn decide<T: PolicyTables + Identities, R: Records>(
    tables: &T,
    records: &R,
    scene: &Scene,
    packet: &Packet,
) -> Verdict {
    let direction = scene.direction;
    let word = if scene.off { PolicyWord(0) } else { scene.word };
    let own_policy = word.policy(direction);
    let (peer_address, peer_port, local_port) = ends_of(direction, packet);
    let peer = match scene.peer {
        Some(peer) => peer,
        None => tables.peer(packet.family, peer_address),
    };
    let from_node = direction == Direction::Ingress && scene.local_origin && peer.node;
    let exempt = scene.hairpin || from_node;
    if packet.kind == Kind::Fragment {
        return if exempt || own_policy == PolicyWord::NOT_ISOLATED {
            Verdict::PASS
        } else {
            Verdict::drop(DropReason::Fragment)
        };
    }
    // What is certain to open is judged before its record is looked for: denied,
    // it leaves nothing to look for, and floods of it cost the least.
    let mut early = Judgement::ALLOW;
    if packet.kind.only_opens() && !exempt && own_policy != PolicyWord::NOT_ISOLATED {
        early = ask(
            tables,
            scene,
            direction,
            peer.identity,
            packet,
            local_port,
            peer_port,
        );
        if !early.allows() {
            return Verdict {
                denied: early.denied,
                rule: early.rule,
                identity: peer.identity,
                log: early.log,
                ..Verdict::PASS
            };
        }
    }
    let key = records.key(scene.endpoint, direction, packet);
    let isolated = word.policy(Direction::Ingress) != PolicyWord::NOT_ISOLATED
        || word.policy(Direction::Egress) != PolicyWord::NOT_ISOLATED;
    let (record, entry, now_ns) = records.look_up(scene.slot, &key, isolated);
    let current = if scene.off {
        NEVER_JUDGED
    } else {
        scene.word.generation()
    };

    let followed = packet.kind.is_midstream_tcp() && record.is_some();
    let opener = if entry.flags & CT_OPENED_BY_POD != 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    // The opener's direction was judged under the word in force, or needs not be:
    // nothing isolates it (nor anything while enforcement is off).
    let agreed = word.policy(opener) == PolicyWord::NOT_ISOLATED
        || entry.generation == current
        || entry.flags & CT_FROM_NODE != 0;

    // Which direction answers for this packet: the opener's for TCP that has a
    // record, else its own. What is exempt answers for itself and for no one
    // else: the node's packets must not vouch for what the pod opened.
    let asked = if followed && !exempt {
        opener
    } else {
        direction
    };
    let spared = exempt
        || packet.kind.only_opens()
        || word.policy(asked) == PolicyWord::NOT_ISOLATED
        || (followed && agreed);
    if !scene.service.is_known()
        && (!spared && asked == Direction::Egress
            || record.is_some() && asked != opener && !agreed && opener == Direction::Egress)
    {
        return Verdict {
            ask_service: true,
            ..Verdict::drop(DropReason::Incomplete)
        };
    }
    let first = if spared {
        early
    } else {
        ask(
            tables,
            scene,
            asked,
            peer.identity,
            packet,
            local_port,
            peer_port,
        )
    };

    let opener_ok = if record.is_none() {
        false
    } else if asked == opener {
        first.allows()
    } else if agreed {
        true
    } else {
        ask(
            tables,
            scene,
            opener,
            peer.identity,
            packet,
            local_port,
            peer_port,
        )
        .allows()
    };
    let isolated_egress = direction == Direction::Egress && own_policy != PolicyWord::NOT_ISOLATED;
    let facts = Facts::of(packet.kind, record)
        .with(Facts::EGRESS, direction == Direction::Egress)
        .with(Facts::EXEMPT, exempt)
        .with(Facts::ALLOWED, first.allows())
        .with(Facts::OPENER_ALLOWED, opener_ok)
        .with(Facts::ASKED_OPENER, asked == opener)
        .with(Facts::ISOLATED_EGRESS, isolated_egress)
        .with(Facts::SERVICE, scene.service.is_found())
        .with(Facts::NODE, peer.node)
        .with(Facts::ISOLATED, isolated);
    let outcome = records.conclude(facts, &key, &entry, current, now_ns);

    let asked_rule = !outcome.by_record();
    Verdict {
        denied: if outcome.passes() {
            None
        } else {
            reason_of(packet.kind, first.denied)
        },
        rule: if asked_rule { first.rule } else { 0 },
        identity: peer.identity,
        log: asked_rule && first.log,
        cacheable: outcome.is_cacheable() && !scene.off,
        undecided: outcome.is_undecided(),
        ask_service: false,
    }
}

/// Address and port of the peer, and the endpoint's port.
#[inline(always)]
const fn ends_of(direction: Direction, packet: &Packet) -> (Words, u16, u16) {
    match direction {
        Direction::Ingress => (packet.src, packet.src_port, packet.dst_port),
        Direction::Egress => (packet.dst, packet.dst_port, packet.src_port),
    }
}

/// The key of the record of a packet that goes this way from or to an endpoint.
#[inline(always)]
pub fn key_of(endpoint: u32, direction: Direction, packet: &Packet) -> CtKey {
    let (peer, peer_port, local_port) = ends_of(direction, packet);
    CtKey {
        peer: bytes16(peer),
        endpoint,
        local_port,
        peer_port,
        protocol: packet.protocol,
        family: packet.family,
        pad: [0; 2],
    }
}

/// Asks the policy of a direction about the packet's flow in that direction.
/// Only where something isolates the direction, and never while enforcement is
/// off.
#[inline(always)]
fn ask<T: PolicyTables>(
    tables: &T,
    scene: &Scene,
    direction: Direction,
    identity: Identity,
    packet: &Packet,
    local_port: u16,
    peer_port: u16,
) -> Judgement {
    let port = match direction {
        Direction::Ingress => local_port,
        Direction::Egress if scene.service.is_found() => return scene.service.judgement(),
        Direction::Egress => peer_port,
    };
    let port = port_of(packet.kind, port);
    tables.judge(
        scene.word.policy(direction),
        identity,
        packet.protocol,
        port,
    )
}

/// The port that a policy is asked about: an identifier is none.
#[inline(always)]
pub(super) fn port_of(kind: Kind, port: u16) -> u16 {
    match kind {
        Kind::EchoRequest | Kind::EchoReply => 0,
        _ => port,
    }
}

/// Why a packet is dropped that a policy denies.
#[inline(always)]
pub(super) const fn reason_of(kind: Kind, denied: Option<DropReason>) -> Option<DropReason> {
    match (kind, denied) {
        (Kind::IcmpError, Some(DropReason::Policy)) => Some(DropReason::IcmpError),
        _ => denied,
    }
}

/// Moves a record to where nothing is evicted, if its endpoint has the budget.
#[inline(always)]
fn promote<R: Records>(records: &R, from: Table, key: &CtKey, entry: &CtEntry, isolated: bool) {
    if !records.has_budget(entry.slot, isolated) {
        records.count(stats::CT_OVER_BUDGET);
        return;
    }
    if records.insert(Table::Main, key, entry) {
        records.count_created(entry.slot);
        records.delete(from, key);
    } else {
        records.count(stats::CT_FULL);
    }
}

/// The live record of a key, which table it is in, and the time. If there is none,
/// one that is not filled in yet, with tag and slot. (Not an `Option` of all:
/// the verifier does not let a program move bytes that were never written, as a
/// `None` is.)
#[inline(always)]
pub fn find_live<R: Records>(
    records: &R,
    slot: u32,
    key: &CtKey,
    isolated: bool,
) -> (Option<Table>, CtEntry, u64) {
    let tag = conntrack::tag(key);
    let order = if isolated {
        [Table::Main, Table::Pending, Table::Open]
    } else {
        [Table::Main, Table::Open, Table::Pending]
    };
    let mut i = 0;
    while i < order.len() {
        if order[i] == Table::Open && !records.has_open(slot) {
            i += 1;
            continue;
        }
        if let Some(record) = records.find(order[i], key) {
            let entry = records.read(record);
            let now_ns = records.now_ns();
            if conntrack::is_live(&entry, tag, key.protocol, now_ns) {
                return (Some(order[i]), entry, now_ns);
            }
        }
        i += 1;
    }
    (
        None,
        CtEntry {
            tag,
            flags: 0,
            generation: NEVER_JUDGED,
            slot,
            last_seen_ns: 0,
        },
        0,
    )
}

/// Writes a record that was found in a table, or makes one where none was, and
/// moves it to where nothing is evicted once it is confirmed.
#[inline(always)]
pub fn settle<R: Records>(
    records: &R,
    key: &CtKey,
    entry: &CtEntry,
    found: Option<Table>,
    isolated: bool,
) {
    if let Some(table) = found {
        // Evicted meanwhile, it is as if that had been a moment later.
        if let Some(record) = records.find(table, key) {
            records.write(record, entry);
        }
        if entry.flags & CT_CONFIRMED != 0 && table != Table::Main {
            promote(records, table, key, entry, isolated);
        }
        return;
    }
    let table = if isolated {
        Table::Pending
    } else {
        Table::Open
    };
    if !records.insert(table, key, entry) {
        records.count(stats::CT_FULL);
    }
}

#[cfg(test)]
mod tests;

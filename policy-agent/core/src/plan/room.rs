//! Free numbers and room in the maps, and the writes that take them.
//!
//! Everything that is in the kernel when a plan begins stays taken until it
//! ends: nothing that a plan frees is used again within it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use policy_common::abi::identity::{self, Identity};
use policy_common::abi::maps;
use policy_common::abi::policy::{INLINE_INTERVALS, Interval, PolicyKey, PortSet};

use super::contents::{Answer, Content, Contents, ZERO};
use super::limits::{Full, Limits};
use super::mirror::Mirror;
use super::services;
use crate::desired::PortSetSpec;
use crate::ops::Op;

/// The policy that denies everything, kept for endpoints whose own does not fit.
pub const DENY_ALL: u16 = u16::MAX;

/// Room, and the operations that fill it.
#[derive(Debug)]
pub(super) struct Room<'a> {
    limits: Limits,
    mirror: &'a Mirror,
    /// Port sets that a row names, or will.
    sets: HashSet<u32>,
    next_set: u32,
    /// Where a content is already.
    places: HashMap<Content, u32>,
    /// Contents in the kernel that no row names, to be used as they are.
    idle: HashMap<Content, u32>,
    /// Taken runs of extents: first element and the one after the last.
    runs: BTreeMap<u32, u32>,
    policies: BTreeSet<u32>,
    next_policy: u32,
    identities: HashSet<Identity>,
    next_identity: Identity,
    rows: usize,
    /// Extents, port sets, rows: in the order in which they must be written.
    pub(super) extents: Vec<Op>,
    pub(super) port_sets: Vec<Op>,
    pub(super) row_ops: Vec<Op>,
    /// What the rows written say.
    pub(super) written: BTreeMap<PolicyKey, Answer>,
    /// A row that was there says something else now.
    pub(super) replaced: bool,
}

impl<'a> Room<'a> {
    pub(super) fn new(mirror: &'a Mirror, limits: Limits, contents: &mut Contents) -> Self {
        let sets: HashSet<u32> = mirror.rows.values().copied().filter(|s| *s != 0).collect();
        let mut room = Self {
            limits,
            mirror,
            next_set: 1,
            places: HashMap::new(),
            idle: HashMap::new(),
            runs: BTreeMap::new(),
            policies: BTreeSet::from([u32::from(DENY_ALL)]),
            next_policy: 1,
            identities: HashSet::from([identity::OTHER, identity::UNRESOLVED]),
            next_identity: 1,
            rows: mirror.rows.len(),
            extents: Vec::new(),
            port_sets: Vec::new(),
            row_ops: Vec::new(),
            written: BTreeMap::new(),
            replaced: false,
            sets,
        };
        let mut last = 0;
        for key in mirror.rows.keys() {
            if key.policy != last {
                room.policies.insert(key.policy);
                last = key.policy;
            }
            room.identities.insert(key.identity);
        }
        for endpoint in mirror.endpoints.values() {
            let word = endpoint.word;
            room.policies.insert((word >> 16 & 0xffff) as u32);
            room.policies.insert((word & 0xffff) as u32);
        }
        let hosts = mirror.hosts.values().map(|row| row.identity);
        room.identities
            .extend(hosts.chain(mirror.prefixes.values().copied()));
        let behind = mirror.services.values().flat_map(services::stored);
        room.identities
            .extend(behind.map(|backend| backend.identity));
        let zero = room
            .sets
            .iter()
            .filter(|set| !mirror.port_sets.contains_key(set));
        if let Some(zero) = zero.min() {
            room.places.insert(ZERO, *zero);
        }
        for (id, set) in &mirror.port_sets {
            let content = contents.number_of(PortSetSpec {
                intervals: set.intervals.clone(),
                default_rule: set.default_rule,
                default_action: set.default_action,
            });
            if room.sets.contains(id) {
                room.places.entry(content).or_insert(*id);
                if set.extent != 0 {
                    room.runs.insert(set.extent, end(set.extent, set));
                }
            } else {
                room.idle.insert(content, *id);
            }
        }
        room
    }

    /// A policy number that nothing names.
    pub(super) fn policy(&mut self) -> Result<u16, Full> {
        let full = Full {
            map: maps::ENDPOINTS,
            capacity: usize::from(DENY_ALL) - 1,
        };
        while self.policies.contains(&self.next_policy) {
            self.next_policy += 1;
        }
        let number = u16::try_from(self.next_policy).map_err(|_| full)?;
        self.policies.insert(self.next_policy);
        Ok(number)
    }

    /// An identity that nothing names.
    pub(super) fn identity(&mut self) -> Identity {
        while self.identities.contains(&self.next_identity) {
            self.next_identity += 1;
        }
        self.identities.insert(self.next_identity);
        self.next_identity
    }

    /// Writes a row.
    pub(super) fn row(
        &mut self,
        policy: u16,
        identity: Identity,
        answer: Answer,
        contents: &Contents,
    ) -> Result<(), Full> {
        let key = PolicyKey {
            policy: u32::from(policy),
            identity,
        };
        if self.written.contains_key(&key) {
            return Ok(());
        }
        if self.mirror.rows.contains_key(&key) {
            self.replaced = true;
        } else if self.rows >= self.limits.rows {
            return Err(Full {
                map: maps::POLICY,
                capacity: self.limits.rows,
            });
        } else {
            self.rows += 1;
        }
        let port_set = match answer {
            Some(content) => self.port_set(content, contents)?,
            None => 0,
        };
        self.row_ops.push(Op::Row { key, port_set });
        self.written.insert(key, answer);
        Ok(())
    }

    /// A port set with this content.
    fn port_set(&mut self, content: Content, contents: &Contents) -> Result<u32, Full> {
        if let Some(id) = self.places.get(&content) {
            return Ok(*id);
        }
        if let Some(id) = self.idle.get(&content).copied() {
            let set = &self.mirror.port_sets[&id];
            let free = set.extent == 0 || self.is_free(set.extent, end(set.extent, set));
            if free && !self.sets.contains(&id) {
                if set.extent != 0 {
                    self.runs.insert(set.extent, end(set.extent, set));
                }
                self.sets.insert(id);
                self.places.insert(content, id);
                return Ok(id);
            }
        }
        while self.sets.contains(&self.next_set) {
            self.next_set += 1;
        }
        let id = self.next_set;
        if id as usize >= self.limits.port_sets {
            return Err(Full {
                map: maps::PORT_SETS,
                capacity: self.limits.port_sets.saturating_sub(1),
            });
        }
        let spec = contents.spec(content);
        let count = u32::try_from(spec.intervals.len()).expect("fewer than points");
        let mut value = PortSet {
            count,
            extent: 0,
            default_rule: spec.default_rule,
            default_action: spec.default_action,
            inline: [Interval::default(); INLINE_INTERVALS],
        };
        match value.inline.get_mut(..spec.intervals.len()) {
            Some(inline) => inline.copy_from_slice(&spec.intervals),
            None => {
                value.extent = self.extent(count)?;
                self.extents.push(Op::Extent {
                    start: value.extent,
                    intervals: spec.intervals.clone(),
                });
            }
        }
        self.port_sets.push(Op::PortSet { id, value });
        self.sets.insert(id);
        self.places.insert(content, id);
        Ok(id)
    }

    fn is_free(&self, start: u32, end: u32) -> bool {
        let before = self.runs.range(..end).next_back();
        before.is_none_or(|(_, other)| *other <= start)
    }

    /// The first run of this many elements that nothing names.
    fn extent(&mut self, count: u32) -> Result<u32, Full> {
        let mut start = 1;
        for (first, end) in &self.runs {
            if start + count <= *first {
                break;
            }
            start = start.max(*end);
        }
        if (start + count) as usize > self.limits.extents {
            return Err(Full {
                map: maps::EXTENTS,
                capacity: self.limits.extents.saturating_sub(1),
            });
        }
        self.runs.insert(start, start + count);
        Ok(start)
    }
}

/// The element after the last of a port set's run.
fn end(extent: u32, set: &super::mirror::StoredPortSet) -> u32 {
    let count = u32::try_from(set.intervals.len()).unwrap_or(u32::MAX);
    extent.saturating_add(count)
}

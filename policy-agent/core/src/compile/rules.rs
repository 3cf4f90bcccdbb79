//! Rule ids: a number for each thing that can decide.
//!
//! The number is a hash of what it stands for, so that an agent that starts
//! finds in the kernel the numbers that it would write. Two things with one hash
//! are told apart by their order, so ids are a function of the set of things
//! alone.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::fmt::Write as _;

use policy_common::abi::policy::RuleId;

use crate::desired::Provenance;

/// Ids have this many bits; map readers keep flags in the rest.
const ID_BITS: u32 = 30;

/// The ids of everything that can decide now.
#[derive(Debug, Clone)]
pub struct Rules {
    entries: HashMap<Provenance, Entry>,
    by_id: BTreeMap<RuleId, Provenance>,
    /// Some things share a hash, so ids may change as others come and go.
    collided: bool,
    /// `by_id` is different since this was last asked.
    changed: bool,
    bits: u32,
}

#[derive(Debug, Clone)]
struct Entry {
    id: RuleId,
    uses: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self::with_bits(ID_BITS)
    }
}

impl Rules {
    /// With ids of fewer bits, that collide; there must be more than things.
    pub(crate) fn with_bits(bits: u32) -> Self {
        Self {
            entries: HashMap::new(),
            by_id: BTreeMap::new(),
            collided: false,
            changed: false,
            bits,
        }
    }

    /// One more use of `what`. Ids are to be asked for after [`Self::settle`].
    pub fn add(&mut self, what: &Provenance) {
        if let Some(entry) = self.entries.get_mut(what) {
            entry.uses += 1;
            return;
        }
        let id = hash(what, 0, self.bits);
        self.entries.insert(what.clone(), Entry { id, uses: 1 });
        match self.by_id.entry(id) {
            btree_map::Entry::Occupied(_) => self.collided = true,
            btree_map::Entry::Vacant(free) => {
                free.insert(what.clone());
                self.changed = true;
            }
        }
    }

    /// One use less.
    pub fn remove(&mut self, what: &Provenance) {
        let Some(entry) = self.entries.get_mut(what) else {
            return;
        };
        entry.uses -= 1;
        if entry.uses == 0 {
            let id = entry.id;
            self.entries.remove(what);
            if self.by_id.get(&id) == Some(what) {
                self.by_id.remove(&id);
                self.changed = true;
            }
        }
    }

    /// Settles collisions; whether an id that was asked for before may be
    /// another now.
    pub fn settle(&mut self) -> bool {
        if !self.collided {
            return false;
        }
        let before = std::mem::take(&mut self.by_id);
        let mut waiting: Vec<Provenance> = self.entries.keys().cloned().collect();
        waiting.sort();
        self.collided = false;
        let mut salt = 0;
        // In each round the least of those that share a free number gets it.
        while !waiting.is_empty() {
            waiting.retain(|what| {
                let id = hash(what, salt, self.bits);
                let free = !self.by_id.contains_key(&id);
                if free {
                    self.by_id.insert(id, what.clone());
                }
                !free
            });
            self.collided |= !waiting.is_empty();
            salt += 1;
        }
        for (id, what) in &self.by_id {
            if let Some(entry) = self.entries.get_mut(what) {
                entry.id = *id;
            }
        }
        let different = before != self.by_id;
        self.changed |= different;
        different
    }

    /// Whether some things share a hash now.
    #[cfg(test)]
    pub(crate) fn collide(&self) -> bool {
        self.collided
    }

    /// Whether [`Self::by_id`] is different since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The id of something that is in use; 0 otherwise.
    pub fn id(&self, what: &Provenance) -> RuleId {
        self.entries.get(what).map_or(0, |entry| entry.id)
    }

    /// What each id stands for.
    pub fn by_id(&self) -> &BTreeMap<RuleId, Provenance> {
        &self.by_id
    }
}

/// FNV-1a (Fowler, Noll, Vo; 64 bits) of the canonical text, folded; never 0.
fn hash(what: &Provenance, salt: u32, bits: u32) -> RuleId {
    let mut text = canonical(what);
    if salt > 0 {
        // Writing to a string does not fail.
        let _ = write!(text, "\n{salt}");
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = (hash ^ hash >> 32) & ((1 << bits) - 1);
    u32::try_from(folded).map_or(1, |id| id.max(1))
}

/// One line for each part. Names hold no line breaks (they are DNS names), so
/// different things have different texts.
fn canonical(what: &Provenance) -> String {
    let mut text = String::new();
    let mut line = |part: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{part}");
    };
    match what {
        Provenance::Rule {
            policy,
            direction,
            index,
        } => {
            line(&"rule");
            line(&direction.index());
            line(&index);
            line(&policy.kind);
            line(policy);
        }
        Provenance::Isolated {
            policies,
            direction,
        } => {
            line(&"isolated");
            line(&direction.index());
            for policy in policies {
                line(&policy.kind);
                line(policy);
            }
        }
        Provenance::OwnNode => line(&"own node"),
        Provenance::Default => line(&"default"),
    }
    text
}

#[cfg(test)]
mod tests {
    use policy_common::abi::Direction;

    use super::*;
    use crate::model::PolicyId;

    fn rule(index: u32) -> Provenance {
        let policy = PolicyId {
            kind: "NetworkPolicy".into(),
            namespace: Some("default".into()),
            name: "db".into(),
        };
        Provenance::Rule {
            policy,
            direction: Direction::Ingress,
            index,
        }
    }

    #[test]
    fn ids_never_change_from_one_version_to_the_next() {
        let mut rules = Rules::default();
        let all = [rule(0), Provenance::OwnNode, Provenance::Default];
        all.iter().for_each(|what| rules.add(what));
        assert!(!rules.settle());
        let ids = all.map(|what| rules.id(&what));
        assert_eq!(ids, [0x0a5c_6091, 0x35f7_3176, 0x3165_24d9]);
    }

    #[test]
    fn colliding_ids_depend_on_the_set_alone_and_are_never_0() {
        // With few bits nearly everything collides.
        let fresh = |wanted: &[u32]| {
            let mut rules = Rules::with_bits(5);
            wanted.iter().for_each(|i| rules.add(&rule(*i)));
            rules.settle();
            rules.by_id().clone()
        };
        let mut rules = Rules::with_bits(5);
        for i in 0..24 {
            rules.add(&rule(i));
        }
        rules.settle();
        for i in (0..24).step_by(3) {
            rules.remove(&rule(i));
        }
        for i in 30..34 {
            rules.add(&rule(i));
            rules.settle();
        }
        rules.settle();
        let left: Vec<u32> = (0..24).filter(|i| i % 3 != 0).chain(30..34).rev().collect();
        assert_eq!(*rules.by_id(), fresh(&left));
        assert_eq!(rules.by_id().len(), left.len());
        assert!(!rules.by_id().contains_key(&0));
        for (id, what) in rules.by_id() {
            assert_eq!(rules.id(what), *id);
        }
    }

    #[test]
    fn different_things_have_different_texts() {
        let of = |policies: Vec<PolicyId>| Provenance::Isolated {
            policies,
            direction: Direction::Egress,
        };
        let id = |namespace: Option<&str>, name: &str| PolicyId {
            kind: "K".into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
        };
        let texts = [
            canonical(&of(vec![id(Some("a"), "b"), id(Some("c"), "d")])),
            canonical(&of(vec![id(Some("a"), "b")])),
            canonical(&of(vec![id(None, "b")])),
            canonical(&rule(1)),
            canonical(&rule(11)),
        ];
        let unique: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(unique.len(), texts.len());
    }
}

//! Classes of addresses: one for each signature that an address or prefix has.
//!
//! Numbers are not used again while this table lives, so that whoever compares
//! two moments never mistakes a new class for an old one. A class whose members
//! all change alike keeps its number and gets the new signature
//! ([`Classes::rename`]): nothing that names the number has to be written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::atoms::{AtomId, Signature};
use crate::desired::ClassId;

/// The classes in use.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    ids: HashMap<Arc<Signature>, ClassId>,
    classes: BTreeMap<ClassId, Class>,
    /// The classes that an atom is in.
    by_atom: HashMap<AtomId, BTreeSet<ClassId>>,
    /// The classes that resolve port names.
    naming: BTreeSet<ClassId>,
    last: u32,
    /// Those without members since the last [`Classes::settle`].
    empty: BTreeSet<ClassId>,
    /// What is different since then.
    changes: ClassChanges,
}

/// What [`Classes::settle`] found different since it was last asked.
#[derive(Debug, Clone, Default)]
pub struct ClassChanges {
    /// New classes.
    pub added: BTreeSet<ClassId>,
    /// Classes with another signature.
    pub renamed: BTreeSet<ClassId>,
    /// Classes that are gone.
    pub gone: BTreeSet<ClassId>,
}

impl ClassChanges {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.renamed.is_empty() && self.gone.is_empty()
    }
}

#[derive(Debug, Clone)]
struct Class {
    signature: Arc<Signature>,
    /// Addresses and prefixes.
    members: usize,
}

impl Classes {
    /// The class of a signature, with one member more.
    pub fn join(&mut self, signature: Signature) -> ClassId {
        if signature == Signature::default() {
            return ClassId::OTHER;
        }
        if let Some(id) = self.ids.get(&signature) {
            if let Some(class) = self.classes.get_mut(id) {
                class.members += 1;
            }
            return *id;
        }
        let id = self.unused();
        let signature = Arc::new(signature);
        self.file(id, &signature);
        let class = Class {
            signature,
            members: 1,
        };
        self.classes.insert(id, class);
        self.changes.added.insert(id);
        id
    }

    /// The class has one member less.
    pub fn leave(&mut self, id: ClassId) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.members -= 1;
            if class.members == 0 {
                self.empty.insert(id);
            }
        }
    }

    /// Gives a class another signature, which no class has.
    pub fn rename(&mut self, id: ClassId, signature: Signature) {
        let signature = Arc::new(signature);
        if let Some(class) = self.classes.get_mut(&id) {
            let before = std::mem::replace(&mut class.signature, signature.clone());
            self.unfile(id, &before);
            self.file(id, &signature);
            self.changes.renamed.insert(id);
        }
    }

    fn file(&mut self, id: ClassId, signature: &Arc<Signature>) {
        self.ids.insert(signature.clone(), id);
        for atom in &signature.atoms {
            self.by_atom.entry(*atom).or_default().insert(id);
        }
        if !signature.names.is_empty() {
            self.naming.insert(id);
        }
    }

    fn unfile(&mut self, id: ClassId, signature: &Signature) {
        self.ids.remove(signature);
        for atom in &signature.atoms {
            if let Some(classes) = self.by_atom.get_mut(atom) {
                classes.remove(&id);
                if classes.is_empty() {
                    self.by_atom.remove(atom);
                }
            }
        }
        self.naming.remove(&id);
    }

    /// The class of a signature.
    pub fn find(&self, signature: &Signature) -> Option<ClassId> {
        if *signature == Signature::default() {
            return Some(ClassId::OTHER);
        }
        self.ids.get(signature).copied()
    }

    /// The signature of a class; `None` for [`ClassId::OTHER`].
    pub fn signature(&self, id: ClassId) -> Option<&Arc<Signature>> {
        self.classes.get(&id).map(|class| &class.signature)
    }

    /// Number of addresses and prefixes of a class.
    pub fn members(&self, id: ClassId) -> usize {
        self.classes.get(&id).map_or(0, |class| class.members)
    }

    /// The classes that an atom is in.
    pub fn with_atom(&self, atom: AtomId) -> impl Iterator<Item = ClassId> {
        self.by_atom.get(&atom).into_iter().flatten().copied()
    }

    /// The classes that resolve port names.
    pub fn naming(&self) -> impl Iterator<Item = ClassId> {
        self.naming.iter().copied()
    }

    /// Every class but [`ClassId::OTHER`], by number.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, &Arc<Signature>)> {
        let classes = self.classes.iter();
        classes.map(|(id, class)| (*id, &class.signature))
    }

    /// Forgets classes without members, and says what is different.
    pub fn settle(&mut self) -> ClassChanges {
        for id in std::mem::take(&mut self.empty) {
            if self.members(id) > 0 {
                continue;
            }
            if let Some(class) = self.classes.remove(&id) {
                self.unfile(id, &class.signature);
            }
            self.changes.renamed.remove(&id);
            // One that came and went since the last time was never there.
            if !self.changes.added.remove(&id) {
                self.changes.gone.insert(id);
            }
        }
        std::mem::take(&mut self.changes)
    }

    /// Forgets every class; the numbers that are gone.
    pub fn clear(&mut self) -> Vec<ClassId> {
        let last = self.last;
        let gone = std::mem::take(self).classes.into_keys().collect();
        self.last = last;
        gone
    }

    /// A number that was not used for four thousand million classes.
    fn unused(&mut self) -> ClassId {
        loop {
            self.last = self.last.wrapping_add(1);
            let id = ClassId(self.last);
            let reserved = id == ClassId::OTHER || self.last == u32::MAX;
            if !reserved && !self.classes.contains_key(&id) {
                return id;
            }
        }
    }
}

//! The short way from a change to operations: where addresses joined or left
//! classes that are there, and nothing else is different.
//!
//! That is what most changes in a cluster are: a pod of a known kind that comes,
//! goes or is relabelled. A full plan compares everything with everything; this
//! looks at the addresses that changed. It may be used only on a state that a
//! full plan found settled, and declines whatever it is not sure of, so that the
//! full plan decides. What it does is the way that `scheme` calls a move.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_common::abi::Direction;
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::identity::{self, Identity};

use super::contents::Contents;
use super::regions::Prefixes;
use super::{HostRow, Planner, Programmed};
use crate::desired::{ClassId, DesiredState, PodRef, PolicyRef};
use crate::engine::Changes;
use crate::ops::Op;

/// What holds while the kernel says exactly what is desired: each class has one
/// identity, and each policy number says what one desired policy does.
#[derive(Debug, Clone)]
pub struct Settled {
    identities: HashMap<ClassId, Identity>,
    classes: HashMap<Identity, ClassId>,
    prefixes: Prefixes<Identity>,
    /// Policy numbers in force, with what they stand for.
    standing: BTreeSet<(u16, PolicyRef)>,
    /// Addresses behind Services: rows of Services name their identities too.
    backends: HashSet<IpAddr>,
}

/// A short plan.
#[derive(Debug, Clone)]
pub struct Quick {
    /// In this order.
    pub ops: Vec<Op>,
    /// Endpoints that get a new generation: slot and generation.
    pub renewed: Vec<(u32, u32)>,
    settled: Settled,
}

impl Planner {
    /// A full plan for this state had nothing to do, and these are its endpoints:
    /// the next change may take the short way.
    pub fn settle(&mut self, desired: &DesiredState, endpoints: &BTreeMap<PodRef, Programmed>) {
        self.settled = self.find_settled(desired, endpoints);
    }

    /// The short plan for a change of a settled state; `None`: make a full one.
    ///
    /// Whoever takes it carries all of it out and calls [`Self::done_quick`]; if
    /// that fails, only full plans are made until the state is settled again.
    pub fn quick(&mut self, desired: &DesiredState, changes: &Changes) -> Option<Quick> {
        let settled = self.settled.take()?;
        if self.renew {
            return None;
        }
        let hosts = addresses_only(changes)?;
        let limit = self.limits.hosts;
        let room = limit.saturating_sub(self.mirror.hosts.len());
        if hosts.len() > room {
            return None;
        }
        let mut ops = Vec::new();
        let mut moved = BTreeSet::new();
        for address in hosts {
            let (op, pair) = self.point(desired, &settled, *address)?;
            ops.extend(op);
            if pair.0 != pair.1 {
                moved.insert(pair);
            }
        }
        let narrowed = narrowed(desired, &settled, &moved)?;
        let mut renewed = Vec::new();
        let mut generation = self.mirror.generation;
        for (slot, endpoint) in &self.mirror.endpoints {
            let word = PolicyWord(endpoint.word);
            let ingress = word.policy(Direction::Ingress);
            let egress = word.policy(Direction::Egress);
            if narrowed.contains(&ingress) || narrowed.contains(&egress) {
                generation = generation.checked_add(1)?;
                let word = PolicyWord::new(generation, ingress, egress);
                ops.push(Op::Word { slot: *slot, word });
                renewed.push((*slot, generation));
            }
        }
        Some(Quick {
            ops,
            renewed,
            settled,
        })
    }

    /// All operations of the short plan were done.
    pub fn done_quick(&mut self, quick: Quick) {
        self.settled = Some(quick.settled);
    }

    fn find_settled(
        &self,
        desired: &DesiredState,
        endpoints: &BTreeMap<PodRef, Programmed>,
    ) -> Option<Settled> {
        let mut settled = Settled {
            identities: HashMap::new(),
            classes: HashMap::new(),
            prefixes: Prefixes::new(self.mirror.prefixes.clone()),
            standing: BTreeSet::new(),
            backends: HashSet::new(),
        };
        let backends = desired.services.values().flat_map(|all| all.iter());
        settled
            .backends
            .extend(backends.map(|backend| backend.address));
        settled.pair(identity::OTHER, ClassId::OTHER)?;
        for (address, want) in &desired.hosts {
            settled.pair(self.mirror.hosts.get(address)?.identity, want.class)?;
        }
        for (prefix, class) in &desired.prefixes {
            settled.pair(*self.mirror.prefixes.get(prefix)?, *class)?;
        }
        for (pod, given) in endpoints {
            let spec = desired.endpoints.get(pod)?;
            for (number, policy) in [(given.ingress, spec.ingress), (given.egress, spec.egress)] {
                if !given.current || (number == 0) != policy.is_none() {
                    return None;
                }
                settled
                    .standing
                    .extend(policy.map(|policy| (number, policy)));
            }
        }
        Some(settled)
    }

    /// The write for one address, and the identities between which it moves.
    fn point(
        &self,
        desired: &DesiredState,
        settled: &Settled,
        address: IpAddr,
    ) -> Option<(Option<Op>, (Identity, Identity))> {
        let row = self.mirror.hosts.get(&address);
        let want = desired.hosts.get(&address);
        // Being the node's own decides before any policy: not a mere move.
        // Nor is the address of a pod of this node whose packets are traced by it.
        let is_special = |row: &HostRow| row.node || row.slot != 0;
        if row.is_some_and(is_special) || want.is_some_and(|want| want.node) {
            return None;
        }
        let around = || {
            let found = settled.prefixes.of_address(address);
            found.unwrap_or(identity::OTHER)
        };
        let old = row.map_or_else(around, |row| row.identity);
        let new = match want {
            Some(want) => *settled.identities.get(&want.class)?,
            None => around(),
        };
        if old != new && settled.backends.contains(&address) {
            return None;
        }
        let op = match (row, want) {
            (Some(row), Some(_)) if row.identity == new => None,
            (_, Some(_)) => Some(Op::Host {
                address,
                identity: new,
                node: false,
                slot: 0,
            }),
            (Some(_), None) => Some(Op::DeleteHost { address }),
            (None, None) => None,
        };
        Some((op, (old, new)))
    }
}

impl Settled {
    /// Takes note that a class has an identity; `None`: one of them has another.
    fn pair(&mut self, identity: Identity, class: ClassId) -> Option<()> {
        let same = *self.identities.entry(class).or_insert(identity) == identity;
        let one = *self.classes.entry(identity).or_insert(class) == class;
        (same && one).then_some(())
    }
}

/// The addresses that changed, if nothing else did.
fn addresses_only(changes: &Changes) -> Option<&BTreeSet<IpAddr>> {
    // All fields by name: a new one must be thought of here.
    let Changes {
        endpoints,
        hosts,
        prefixes,
        policies_added,
        policies_removed,
        classes_added,
        classes_removed,
        services,
        rules: _names_only,
    } = changes;
    let others = endpoints.is_empty()
        && services.is_empty()
        && prefixes.is_empty()
        && policies_added.is_empty()
        && policies_removed.is_empty()
        && classes_added.is_empty()
        && classes_removed.is_empty();
    others.then_some(hosts)
}

/// Policy numbers that allow less to an address that moves; `None`: more than one
/// move changes an answer, which takes new words to happen at once.
fn narrowed(
    desired: &DesiredState,
    settled: &Settled,
    moved: &BTreeSet<(Identity, Identity)>,
) -> Option<BTreeSet<u16>> {
    let mut contents = Contents::new();
    let mut narrowed = BTreeSet::new();
    let mut differing = BTreeSet::new();
    for pair in moved {
        let old = *settled.classes.get(&pair.0)?;
        let new = *settled.classes.get(&pair.1)?;
        for (number, policy) in &settled.standing {
            let policy = desired.policies.get(policy)?;
            let said = policy.rows.get(&old).unwrap_or(&policy.default);
            let says = policy.rows.get(&new).unwrap_or(&policy.default);
            if Arc::ptr_eq(said, says) || said == says {
                continue;
            }
            differing.insert(*pair);
            let (said, says) = (contents.number(said), contents.number(says));
            if contents.narrows(Some(said), Some(says)) {
                narrowed.insert(*number);
            }
        }
    }
    (differing.len() <= 1).then_some(narrowed)
}

//! Rows of Services: what may be behind an address and port.
//!
//! The row is advice: it lets the sender's side drop at once what cannot be
//! allowed, and the far side of the translation decides. So a row may name too
//! much for a while, and never too little: before anything else changes it is
//! widened to what it says and what it must say, and it is narrowed when no
//! packet can still hold what was in force before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use policy_common::abi::family;
use policy_common::abi::identity::{self, Identity};
use policy_common::abi::maps;
use policy_common::abi::service::{SVC_BACKENDS, SVC_MANY, SVC_OWN, Svc, SvcBackend, SvcKey};

use super::limits::Limits;
use super::mirror::Mirror;
use super::regions::{Place, Prefixes, Region};
use super::scheme::Facts;
use crate::desired::{Backends, DesiredState, Frontend};
use crate::diagnostic::{Diagnostic, Severity};
use crate::ops::Op;

/// The key of an address and port of a Service.
pub(super) fn key(frontend: &Frontend) -> SvcKey {
    let (address, family) = match frontend.address {
        IpAddr::V4(v4) => (Ipv4Addr::to_ipv6_mapped(&v4), family::V4),
        IpAddr::V6(v6) => (v6, family::V6),
    };
    SvcKey {
        address: address.octets(),
        port: frontend.port,
        protocol: frontend.protocol.number(),
        family,
    }
}

/// The backends that a row names.
pub(super) fn stored(row: &Svc) -> &[SvcBackend] {
    let count = (row.count as usize).min(row.backends.len());
    &row.backends[..count]
}

/// A row that names these, sorted and each once, with flag [`SVC_OWN`] or none;
/// where they do not fit, one that names none and says that there are more.
fn row(key: SvcKey, pairs: &[SvcBackend], flags: u32) -> Svc {
    let mut row = Svc {
        key,
        flags,
        count: 0,
        backends: [SvcBackend::default(); SVC_BACKENDS],
    };
    match row.backends.get_mut(..pairs.len()) {
        Some(backends) => {
            backends.copy_from_slice(pairs);
            row.count = u32::try_from(pairs.len()).expect("they fit");
        }
        None => row.flags = SVC_MANY,
    }
    row
}

/// Whether a row says that any backend may be among them.
fn is_many(row: &Svc) -> bool {
    row.flags & SVC_MANY != 0
}

/// What is desired and has room beside what is there, and what is said of the
/// rest.
pub(super) fn fitting<'d>(
    mirror: &Mirror,
    limits: Limits,
    desired: &'d DesiredState,
) -> (BTreeMap<SvcKey, &'d Backends>, Option<Diagnostic>) {
    let mut left_out: Option<(&Frontend, usize)> = None;
    let mut fitting = BTreeMap::new();
    let mut room = limits.services.saturating_sub(mirror.services.len());
    for (frontend, backends) in &desired.services {
        let key = key(frontend);
        if !mirror.services.contains_key(&key) {
            if room == 0 {
                let (first, count) = left_out.unwrap_or((frontend, 0));
                left_out = Some((first, count + 1));
                continue;
            }
            room -= 1;
        }
        fitting.insert(key, &**backends);
    }
    let problem = left_out.map(|(first, count)| Diagnostic {
        object: format!("map {}", maps::SERVICES),
        source: None,
        path: String::new(),
        severity: Severity::Error,
        message: format!(
            "full ({} entries): {count} addresses and ports of Services are left out, \
             {first} the first of them; pods whose egress is isolated reach nothing through \
             them, unless an ipBlock allows the Service's address; use fewer Services",
            limits.services
        ),
    });
    (fitting, problem)
}

/// Operations on rows.
#[derive(Debug, Default)]
pub(super) struct RowOps {
    /// Before anything changes: every row names what it does, its backends as
    /// they are now, and as they will be.
    pub(super) before: Vec<Op>,
    /// A grace period after all has changed: every row names its backends and
    /// nothing else.
    pub(super) after: Vec<Op>,
}

/// What is to be done to rows. `finals` is the identity of each region's row
/// when all is done.
pub(super) fn rows(facts: &Facts<'_>, finals: &[Option<Identity>]) -> RowOps {
    let mut ops = RowOps::default();
    let stored_rows = &facts.mirror.services;
    if !facts.services.is_empty() {
        let identities = identities(facts, finals);
        // Most rows stay as they are: nothing is allocated for those.
        let mut last = Vec::new();
        for (key, backends) in &facts.services {
            last.clear();
            let (mut moves, mut flags) = (false, 0);
            for backend in *backends {
                let known = identities[&backend.address];
                moves |= known.now != known.later;
                if known.asks {
                    flags = SVC_OWN;
                }
                last.push(pair(known.later, backend.port));
            }
            last.sort_unstable();
            last.dedup();
            let old = stored_rows.get(key);
            let value = row(*key, &last, flags);
            if old == Some(&value) && !moves {
                continue;
            }
            let mut current = old.copied();
            if !old.is_some_and(is_many) {
                let said = old.map(stored).unwrap_or_default();
                let now = backends.iter();
                let now = now.map(|b| pair(identities[&b.address].now, b.port));
                let wide: BTreeSet<SvcBackend> =
                    (now.chain(last.iter().copied()).chain(said.iter().copied())).collect();
                let wide: Vec<SvcBackend> = wide.into_iter().collect();
                let before = old.map_or(0, |row| row.flags & SVC_OWN);
                let wide = row(*key, &wide, flags | before);
                if old != Some(&wide) {
                    current = Some(wide);
                    ops.before.push(Op::Service { value: wide });
                }
            }
            if current != Some(value) {
                ops.after.push(Op::Service { value });
            }
        }
    }
    let gone = stored_rows.keys();
    let gone = gone.filter(|key| !facts.services.contains_key(key));
    ops.after
        .extend(gone.map(|key| Op::DeleteService { key: *key }));
    ops
}

/// What is known of a backend's address.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Its identity.
    now: Identity,
    /// Its identity when all is done.
    later: Identity,
    /// It is a pod's of this node whose egress is isolated.
    asks: bool,
}

/// What is known of each backend's address.
fn identities(facts: &Facts<'_>, finals: &[Option<Identity>]) -> HashMap<IpAddr, Known> {
    let prefixes = facts.regions.iter().zip(finals);
    let prefixes = prefixes.filter_map(|(region, identity)| match region.place {
        Place::Prefix(prefix) => Some((prefix, (*identity)?)),
        Place::Host(_) => None,
    });
    let then = Prefixes::new(prefixes.collect());
    let now = Prefixes::new(facts.mirror.prefixes.clone());
    let mut identities = HashMap::new();
    for backend in facts.services.values().flat_map(|all| all.iter()) {
        let address = backend.address;
        identities.entry(address).or_insert_with(|| {
            let found = host(facts.regions, address);
            let own = found.map(|at| facts.regions[at].identity);
            let later = found.and_then(|at| finals[at]);
            let now = own.or_else(|| now.of_address(address));
            let later = later.or_else(|| then.of_address(address));
            Known {
                now: now.unwrap_or(identity::OTHER),
                later: later.unwrap_or(identity::OTHER),
                asks: found.is_some_and(|at| facts.regions[at].slot != 0),
            }
        });
    }
    identities
}

fn pair(identity: Identity, port: u16) -> SvcBackend {
    SvcBackend {
        identity,
        port,
        reserved: 0,
    }
}

/// The place of an address among the regions, of which addresses come first and
/// in order.
fn host(regions: &[Region], address: IpAddr) -> Option<usize> {
    let found = regions.binary_search_by(|region| match region.place {
        Place::Host(host) => host.cmp(&address),
        Place::Prefix(_) => std::cmp::Ordering::Greater,
    });
    found.ok()
}

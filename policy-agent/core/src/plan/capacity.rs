//! What is done without when maps are full.
//!
//! First addresses and prefixes: those in the kernel stay, new ones beyond the
//! capacity are left out, and every policy that would then say something else to
//! them is not put in force. Then endpoints: one that needs more than there is
//! keeps its word, and where nothing isolated it and something must, everything
//! is denied. If even pointing addresses elsewhere needs more than there is, none
//! is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::abi::maps;

use super::answers::{Kernel, Wanted};
use super::contents::Contents;
use super::draft::{self, Draft, draft};
use super::limits::{Full, Limits};
use super::mirror::Mirror;
use super::regions::{self, Locals, Prefixes};
use super::scheme::{Admitted, Facts};
use super::seats::{self, Seats};
use super::services;
use super::{Plan, Programmed};
use crate::desired::{ClassId, DesiredState, PolicyRef, Provenance};
use crate::diagnostic::{Diagnostic, Severity};

pub(super) fn plan(
    mirror: &Mirror,
    limits: Limits,
    desired: &DesiredState,
    mut all: Seats<'_>,
) -> Plan {
    let mut problems = std::mem::take(&mut all.problems);
    let mut contents = Contents::new();
    let policies = all.seats.iter().flat_map(|seat| seat.policies);
    let named: BTreeSet<PolicyRef> = policies.flatten().collect();
    let kernel = Kernel::new(mirror, &mut contents);
    let wanted = Wanted::new(desired, &named, &mut contents);
    let mut locals = all.locals();
    let trimmed = trim(mirror, limits, desired, &mut locals);
    let barred = match &trimmed {
        None => BTreeSet::new(),
        Some(trimmed) => barred(&named, &wanted, &trimmed.differing),
    };
    let effective = trimmed.as_ref().map_or(desired, |trimmed| &trimmed.desired);
    let regions = regions::regions(mirror, effective, &locals);
    let (services, no_room) = services::fitting(mirror, limits, desired);
    problems.extend(no_room);
    let live = mirror.endpoints.iter();
    let live = live.filter(|(slot, endpoint)| mirror.is_led(**slot, endpoint));
    let live = live.flat_map(|(_, endpoint)| seats::numbers(endpoint.word));
    let standing = all.seats.iter().filter_map(|seat| {
        let numbers = seat.old()?.into_iter().zip(seat.policies);
        Some(numbers.filter_map(|(number, wanted)| Some((u32::from(number), wanted?))))
    });
    let facts = Facts {
        mirror,
        limits,
        seats: &all.seats,
        pairs: draft::pairs(&regions),
        regions: &regions,
        kernel,
        wanted,
        live: live.filter(|n| *n != 0).map(u32::from).collect(),
        standing: standing.flatten().filter(|(n, _)| *n != 0).collect(),
        barred,
        services,
    };
    let (draft, lacks) = fit(&facts, &all, &mut contents);
    if let Some(trimmed) = &trimmed {
        problems.extend(trimmed.problems());
    }
    let mut endpoints = BTreeMap::new();
    for (at, (seat, (given, generation))) in all.seats.iter().zip(&draft.given).enumerate() {
        let changed = seat.old() != Some(given.policies);
        let current = given.current || (lacks.stalled && !changed && fits(&facts, at));
        if !current {
            let lack = lacks.of(at, trimmed.as_ref());
            problems.push(problem(desired, seat, given.policies, lack));
        }
        let programmed = Programmed {
            slot: seat.slot,
            number: seat.value.number,
            ifindex: seat.value.ifindex,
            ingress: given.policies[0],
            egress: given.policies[1],
            generation: *generation,
            current,
        };
        endpoints.insert(seat.pod.clone(), programmed);
    }
    problems.sort();
    Plan {
        ops: draft.ops,
        problems,
        endpoints,
    }
}

/// Whether what an endpoint has is what it should have.
fn fits(facts: &Facts<'_>, at: usize) -> bool {
    let seat = &facts.seats[at];
    let Some(old) = seat.old() else { return false };
    let mut both = old.iter().zip(&seat.policies);
    both.all(|(number, wanted)| match wanted {
        None => *number == 0,
        Some(wanted) => *number != 0 && facts.fits(u32::from(*number), *wanted),
    })
}

/// What was lacking for whom.
#[derive(Debug, Default)]
struct Lacks {
    /// Which map was full for the endpoint at this place.
    seats: BTreeMap<usize, Full>,
    /// What was lacking for everybody.
    first: Option<Full>,
    /// Not even addresses could be pointed elsewhere.
    stalled: bool,
}

impl Lacks {
    fn of(&self, at: usize, trimmed: Option<&Trimmed>) -> Option<Full> {
        let own = self.seats.get(&at).copied();
        let trimmed = trimmed.and_then(|trimmed| trimmed.full.first().copied());
        own.or(trimmed).or(self.first)
    }
}

/// The best draft that fits: all, else one endpoint after the other.
fn fit(facts: &Facts<'_>, all: &Seats<'_>, contents: &mut Contents) -> (Draft, Lacks) {
    let mut lacks = Lacks::default();
    match draft(facts, all, &Admitted::All, contents) {
        Ok(draft) => return (draft, lacks),
        Err(full) => lacks.first = Some(full),
    }
    let mut places = BTreeSet::new();
    let mut best = draft(facts, all, &Admitted::These(places.clone()), contents);
    if best.is_ok() {
        for at in 0..all.seats.len() {
            let settled = |best: &Draft| best.given[at].0.current;
            if best.as_ref().is_ok_and(settled) {
                continue;
            }
            places.insert(at);
            match draft(facts, all, &Admitted::These(places.clone()), contents) {
                Ok(better) => best = Ok(better),
                Err(full) => {
                    places.remove(&at);
                    lacks.seats.insert(at, full);
                }
            }
        }
    }
    match best {
        Ok(draft) => (draft, lacks),
        Err(full) => {
            lacks.first = Some(full);
            lacks.stalled = true;
            let stalled = draft(facts, all, &Admitted::Nothing, contents);
            let stalled = stalled.expect("a draft without new rows needs no room");
            (stalled, lacks)
        }
    }
}

/// A desired state without what has no room.
struct Trimmed {
    desired: DesiredState,
    /// Classes of what was left out: own, and that of what it falls back on.
    differing: BTreeSet<(ClassId, ClassId)>,
    full: Vec<Full>,
    left_out: usize,
}

impl Trimmed {
    fn problems(&self) -> impl Iterator<Item = Diagnostic> {
        self.full.iter().map(|full| Diagnostic {
            object: format!("map {}", full.map),
            source: None,
            path: String::new(),
            severity: Severity::Error,
            message: format!(
                "full ({} entries): {} addresses and prefixes are left out, and no \
                 policy that treats them apart is put in force; use fewer peers or \
                 wait until those that are gone are removed",
                full.capacity, self.left_out
            ),
        })
    }
}

/// Leaves out what has no room beside what is there; `None`: everything has.
fn trim(
    mirror: &Mirror,
    limits: Limits,
    desired: &DesiredState,
    locals: &mut Locals,
) -> Option<Trimmed> {
    if mirror.hosts.len() + desired.hosts.len() + locals.len() <= limits.hosts
        && mirror.prefixes.len() + desired.prefixes.len() <= limits.prefixes
    {
        return None;
    }
    let lone: Vec<IpAddr> = (locals.keys().copied())
        .filter(|local| !desired.hosts.contains_key(local))
        .collect();
    let (hosts, mut full) = excess(
        // Those that policies name come first.
        (mirror.hosts.keys(), desired.hosts.keys().chain(lone.iter())),
        |address: &IpAddr| address.is_ipv6(),
        limits.hosts,
        [maps::ID4, maps::ID6],
    );
    let (prefixes, more) = excess(
        (mirror.prefixes.keys(), desired.prefixes.keys()),
        |prefix: &IpNet| prefix.addr().is_ipv6(),
        limits.prefixes,
        [maps::CIDR4, maps::CIDR6],
    );
    full.extend(more);
    if full.is_empty() {
        return None;
    }
    let mut desired = desired.clone();
    let mut lost = Vec::new();
    for address in &hosts {
        locals.remove(address);
        lost.extend(
            desired
                .hosts
                .remove(address)
                .map(|h| (h.class, Some(*address), None)),
        );
    }
    for prefix in &prefixes {
        lost.extend(
            desired
                .prefixes
                .remove(prefix)
                .map(|c| (c, None, Some(*prefix))),
        );
    }
    let table = Prefixes::new(desired.prefixes.clone());
    let classes = lost.iter().map(|(class, address, prefix)| {
        let falls = match (address, prefix) {
            (Some(address), _) => table.of_address(*address),
            (_, Some(prefix)) => table.around(prefix),
            _ => None,
        };
        (*class, falls.unwrap_or(ClassId::OTHER))
    });
    Some(Trimmed {
        differing: classes.collect(),
        full,
        left_out: hosts.len() + prefixes.len(),
        desired,
    })
}

/// Keys that are desired, not there, and beyond a family's capacity.
fn excess<'a, K: Copy + Ord + 'a>(
    (there, desired): (impl Iterator<Item = &'a K>, impl Iterator<Item = &'a K>),
    is_v6: impl Fn(&K) -> bool,
    capacity: usize,
    names: [&'static str; 2],
) -> (Vec<K>, Vec<Full>) {
    let there: BTreeSet<K> = there.copied().collect();
    let mut counts = [0; 2];
    for key in &there {
        counts[usize::from(is_v6(key))] += 1;
    }
    let mut left_out = Vec::new();
    let mut full = BTreeSet::new();
    for key in desired.filter(|key| !there.contains(key)) {
        let family = usize::from(is_v6(key));
        if counts[family] < capacity {
            counts[family] += 1;
        } else {
            left_out.push(*key);
            full.insert(family);
        }
    }
    let full = full.into_iter().map(|family| Full {
        map: names[family],
        capacity,
    });
    (left_out, full.collect())
}

/// Policies that tell apart what would become one.
fn barred(
    named: &BTreeSet<PolicyRef>,
    wanted: &Wanted,
    differing: &BTreeSet<(ClassId, ClassId)>,
) -> BTreeSet<PolicyRef> {
    let tells = |policy: &&PolicyRef| {
        let mut pairs = differing.iter();
        pairs.any(|(own, falls)| wanted.answer(**policy, *own) != wanted.answer(**policy, *falls))
    };
    named.iter().filter(tells).copied().collect()
}

fn problem(
    desired: &DesiredState,
    seat: &seats::Seat<'_>,
    given: [u16; 2],
    lack: Option<Full>,
) -> Diagnostic {
    let mut names = BTreeSet::new();
    for policy in seat.policies.iter().flatten() {
        let Some(policy) = desired.policies.get(policy) else {
            continue;
        };
        let sets = policy.rows.values().chain([&policy.default]);
        let rules = sets.flat_map(|set| {
            let rules = set.intervals.iter().map(|interval| interval.rule);
            rules.chain([set.default_rule])
        });
        let rules: BTreeSet<_> = rules.collect();
        for rule in rules {
            match desired.rules.get(&rule) {
                Some(Provenance::Rule { policy, .. }) => {
                    names.insert(policy.to_string());
                }
                Some(Provenance::Isolated { policies, .. }) => {
                    names.extend(policies.iter().map(ToString::to_string));
                }
                Some(Provenance::OwnNode | Provenance::Default) | None => {}
            }
        }
    }
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let lack = match lack {
        Some(full) => format!("map {} is full ({} entries)", full.map, full.capacity),
        None => "a map is full".to_owned(),
    };
    let outcome = match seat.old() {
        Some(old) if old == given => "the old policy stays in force",
        Some(_) => "what nothing isolated before is denied, the rest stays as it was",
        None => "everything that a policy isolates is denied",
    };
    seats::problem(
        seat.pod,
        format!(
            "its policies ({names}) do not fit: {lack}; {outcome}; use fewer \
             policies, peers or ports on this node"
        ),
    )
}

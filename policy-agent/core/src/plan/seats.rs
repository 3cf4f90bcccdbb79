//! Which slot each pod has.
//!
//! A slot is a pod's if interface and addresses are the same: an agent that was
//! started anew finds the pods that it left, and their connections go on. A pod
//! with another address is another endpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_common::abi::Direction;
use policy_common::abi::endpoint::{Endpoint, FLAG_USED, PolicyWord};
use policy_common::abi::maps;

use super::regions::Locals;
use super::{Attachments, Mirror};
use crate::desired::{DesiredState, EndpointSpec, PodRef, PolicyRef};
use crate::diagnostic::{Diagnostic, Severity};

/// Both directions, in the order in which numbers are kept here.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A pod and its slot.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    pub(super) pod: &'a PodRef,
    /// Ingress, egress.
    pub(super) policies: [Option<PolicyRef>; 2],
    pub(super) slot: u32,
    /// What is in the slot, if it is this pod's already.
    pub(super) found: Option<Endpoint>,
    /// The interface leads to the slot: its word is in force.
    pub(super) led: bool,
    /// The interface leads to another slot now.
    pub(super) moves: bool,
    /// What must be in the slot, but for the word.
    pub(super) value: Endpoint,
}

impl Seat<'_> {
    /// The policy numbers in force, if the slot is in use.
    pub(super) fn old(&self) -> Option<[u16; 2]> {
        let found = self.found.filter(|_| self.led)?;
        Some(numbers(found.word))
    }
}

impl Seats<'_> {
    /// The addresses of pods whose egress is to be isolated.
    pub(super) fn locals(&self) -> Locals {
        let isolated = self.seats.iter().filter(|seat| seat.policies[1].is_some());
        let addresses = isolated.flat_map(|seat| {
            let v4 = Ipv4Addr::from(seat.value.addr4);
            let v6 = Ipv6Addr::from(seat.value.addr6);
            let v4 = (!v4.is_unspecified()).then_some(IpAddr::V4(v4));
            let v6 = (!v6.is_unspecified()).then_some(IpAddr::V6(v6));
            [v4, v6].into_iter().flatten().map(|a| (a, seat.slot))
        });
        addresses.collect()
    }
}

/// Policy numbers of a word, ingress first.
pub(super) fn numbers(word: u64) -> [u16; 2] {
    DIRECTIONS.map(|direction| PolicyWord(word).policy(direction))
}

/// All pods with an interface.
#[derive(Debug)]
pub(super) struct Seats<'a> {
    pub(super) seats: Vec<Seat<'a>>,
    /// Interfaces of pods for which there is no slot: (interface, isolated).
    pub(super) standing: Vec<(u32, bool)>,
    /// Slots of nobody any more.
    pub(super) gone: BTreeSet<u32>,
    pub(super) problems: Vec<Diagnostic>,
    /// Every endpoint gets a new generation: what it remembers may be of answers
    /// that are not given any more.
    pub(super) renew: bool,
}

/// Finds the slots. `free` are slots to give, oldest first; `flags` are those of
/// a slot beside [`FLAG_USED`].
pub(super) fn seats<'a>(
    mirror: &Mirror,
    desired: &'a DesiredState,
    attachments: &Attachments,
    free: &VecDeque<u32>,
    flags: u32,
) -> Seats<'a> {
    let mut known: HashMap<(u32, [u8; 4], [u8; 16], u32), u32> = HashMap::new();
    for (slot, endpoint) in &mirror.endpoints {
        let key = (
            endpoint.ifindex,
            endpoint.addr4,
            endpoint.addr6,
            endpoint.flags,
        );
        if mirror.is_led(*slot, endpoint) {
            known.insert(key, *slot);
        } else {
            known.entry(key).or_insert(*slot);
        }
    }
    let newest = mirror.endpoints.values().map(|e| e.number).max();
    let mut number = mirror.endpoint_number.max(newest.unwrap_or(0));
    let mut free = free.iter().copied();
    let mut taken: BTreeMap<u32, &PodRef> = BTreeMap::new();
    let mut all = Seats {
        seats: Vec::new(),
        standing: Vec::new(),
        gone: mirror.endpoints.keys().copied().collect(),
        problems: Vec::new(),
        renew: false,
    };
    for (pod, spec) in &desired.endpoints {
        let Some(attachment) = attachments.get(pod) else {
            continue;
        };
        let ifindex = attachment.ifindex;
        if let Some(other) = taken.insert(ifindex, pod) {
            taken.insert(ifindex, other);
            all.problems.push(problem(
                pod,
                format!(
                    "interface {ifindex} is {other}'s as well, which keeps it; \
                     check the pods' addresses: two may share one"
                ),
            ));
            continue;
        }
        let mut value = value(spec, ifindex, FLAG_USED | flags);
        let key = (ifindex, value.addr4, value.addr6, value.flags);
        let leads = mirror.interfaces.get(&ifindex).copied();
        let slot = match known.get(&key) {
            Some(slot) => *slot,
            None => match free.find(|slot| !mirror.endpoints.contains_key(slot)) {
                Some(slot) => slot,
                None => {
                    let isolated = spec.ingress.is_some() || spec.egress.is_some();
                    all.standing.push((ifindex, isolated));
                    all.problems.push(problem(pod, no_slot(isolated)));
                    continue;
                }
            },
        };
        let found = mirror.endpoints.get(&slot).copied();
        value.number = match found {
            Some(found) => found.number,
            None => {
                number += 1;
                number
            }
        };
        let address = attachment.link_local6.map(|address| address.octets());
        let before = found.map(|found| found.link_local6);
        value.link_local6 = address.or(before).unwrap_or([0; 16]);
        all.gone.remove(&slot);
        all.seats.push(Seat {
            pod,
            policies: [spec.ingress, spec.egress],
            slot,
            found,
            led: leads == Some(slot),
            moves: leads.is_some() && leads != Some(slot),
            value,
        });
    }
    all
}

fn value(spec: &EndpointSpec, ifindex: u32, flags: u32) -> Endpoint {
    Endpoint {
        flags,
        addr4: spec.ipv4.map_or([0; 4], |address| address.octets()),
        ifindex,
        addr6: spec
            .ipv6
            .map_or([0; 16], |address: Ipv6Addr| address.octets()),
        ..Endpoint::EMPTY
    }
}

fn no_slot(isolated: bool) -> String {
    let what = if isolated {
        "only this node's own traffic passes"
    } else {
        "no policy applies to it"
    };
    format!(
        "no endpoint slot is left ({} is full): {what}; run fewer pods on this node",
        maps::ENDPOINTS
    )
}

/// Something that is wrong with a pod.
pub(super) fn problem(pod: &PodRef, message: String) -> Diagnostic {
    Diagnostic {
        object: format!("Pod {pod}"),
        source: None,
        path: String::new(),
        severity: Severity::Error,
        message,
    }
}

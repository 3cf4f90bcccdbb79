//! Whose is which interface. Pure: a snapshot and the node's pods in, owners
//! and doubts out.
//!
//! The global addresses behind an interface decide. A pod with CAP_NET_ADMIN
//! chooses the addresses of its own namespace, so an address alone must not
//! hand over another pod's policy: an interface that is known to be a pod's
//! stays that pod's ([`assign_after`]), an address found in two namespaces
//! decides nothing unless other addresses settle it, and what stays contested
//! is listed for the caller to isolate.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::snapshot::{AddressClass, Behind, Link, LinkKind, Nsid, Peer, PeerAddresses, Snapshot};

/// An interface whose owner was established before.
///
/// It holds only for the same index with the same far end: after that the
/// interface is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownInterface<P> {
    /// Interface index in the agent's namespace.
    pub interface: u32,
    /// The far end at that time.
    pub peer: Peer,
    /// Whose it is.
    pub pod: P,
}

/// Why an interface that leads somewhere is not a pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAPod {
    /// Both ends are in the agent's namespace.
    PeerHere,
    /// The far end's namespace is being destroyed.
    PeerGone,
    /// The far end has no global address (yet).
    NoAddress,
    /// It has addresses, none of them a listed pod's: another host, or a pod
    /// that the agent has not heard of yet.
    NoPodsAddress,
    /// The kernel did not tell ([`Behind::Denied`]).
    Denied,
    /// It changed while it was read ([`Behind::Unsettled`]).
    Unsettled,
    /// There are too many addresses to be read ([`Behind::Excessive`]).
    Excessive,
    /// Outside the folder of namespaces ([`Behind::Filtered`]).
    Filtered,
}

/// Why a pod has no interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoInterface {
    /// The pod has no global address yet.
    NoAddress,
    /// It has an address of the node itself: it runs in the host's network.
    HostNetwork,
    /// It is behind a kind of interface that cannot be enforced.
    Unsupported {
        /// Interface index.
        interface: u32,
        /// What it is.
        kind: LinkKind,
    },
    /// Its addresses are where they prove nothing, see [`Assignment::contested`].
    Contested,
    /// Its addresses are behind no interface (yet).
    NotSeen,
}

/// Something that cannot be so in a sane node; told, whether or not it could be
/// resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict<P> {
    /// An address is in several namespaces.
    AddressInSeveralPlaces {
        /// The address.
        address: IpAddr,
        /// The interfaces that lead there.
        interfaces: BTreeSet<u32>,
    },
    /// Behind one interface are addresses of several pods.
    SeveralPodsBehind {
        /// The interface.
        interface: u32,
        /// The pods.
        pods: BTreeSet<P>,
    },
    /// Several pods claim one address.
    AddressOfSeveralPods {
        /// The address.
        address: IpAddr,
        /// The pods.
        pods: BTreeSet<P>,
    },
}

/// The result of [`assign`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment<P> {
    /// The interfaces of each pod that has one.
    pub interfaces: BTreeMap<P, BTreeSet<u32>>,
    /// Interfaces behind which these pods' addresses are, without it being
    /// clear that they are theirs: it cannot be told whose they are, or the pod
    /// is known to live elsewhere. To be isolated if one of the pods is.
    pub contested: BTreeMap<u32, BTreeSet<P>>,
    /// The veths that are nobody's, and why.
    pub not_pods: BTreeMap<u32, NotAPod>,
    /// The pods without interface, and why.
    pub without_interface: BTreeMap<P, NoInterface>,
    /// What contradicts itself.
    pub conflicts: Vec<Conflict<P>>,
}

impl<P: Ord + Clone> Assignment<P> {
    /// Whose the interface is.
    pub fn owner(&self, interface: u32) -> Option<&P> {
        self.interfaces
            .iter()
            .find(|(_, interfaces)| interfaces.contains(&interface))
            .map(|(pod, _)| pod)
    }

    /// What was established, to be given to the next [`assign_after`]. It may
    /// be kept over a restart of the agent.
    pub fn known(&self, snapshot: &Snapshot) -> Vec<KnownInterface<P>> {
        self.interfaces
            .iter()
            .flat_map(|(pod, interfaces)| interfaces.iter().map(move |index| (pod, index)))
            .filter_map(|(pod, index)| {
                Some(KnownInterface {
                    interface: *index,
                    peer: snapshot.links.get(index)?.peer,
                    pod: pod.clone(),
                })
            })
            .collect()
    }
}

/// Assigns interfaces to pods with no knowledge from before.
///
/// `pods` are this node's pods that run, with their addresses; a pod may be
/// listed before it has any. `P` must tell apart a pod and its successor of the
/// same name, so it holds the UID.
pub fn assign<P: Ord + Clone>(snapshot: &Snapshot, pods: &[(P, Vec<IpAddr>)]) -> Assignment<P> {
    assign_after(snapshot, pods, &[])
}

/// As [`assign`], but an interface that was a pod's and still leads to the same
/// place stays that pod's while the pod is listed, whatever addresses are
/// behind it now.
pub fn assign_after<P: Ord + Clone>(
    snapshot: &Snapshot,
    pods: &[(P, Vec<IpAddr>)],
    known: &[KnownInterface<P>],
) -> Assignment<P> {
    let owners = owners_of_addresses(pods);
    let listed: BTreeSet<&P> = pods.iter().map(|(pod, _)| pod).collect();
    let places: Vec<Place<'_, P>> = snapshot
        .links
        .values()
        .filter(|link| link.kind == LinkKind::Veth)
        .filter_map(|link| place(snapshot, link, &owners))
        .collect();

    let mut resolved = Resolved {
        places: &places,
        pod_of: BTreeMap::new(),
        homes: BTreeMap::new(),
    };
    for known in known {
        let place = places
            .iter()
            .find(|place| place.link.index == known.interface);
        if let Some(place) = place
            && place.link.peer == known.peer
            && let Some(pod) = listed.get(&known.pod)
        {
            resolved.settle(place, pod);
        }
    }
    while resolved.step() {}
    let contested = resolved.contested();

    let mut interfaces = BTreeMap::<P, BTreeSet<u32>>::new();
    for (index, pod) in &resolved.pod_of {
        interfaces.entry((*pod).clone()).or_default().insert(*index);
    }
    let not_pods = snapshot
        .links
        .values()
        .filter(|link| link.kind == LinkKind::Veth)
        .filter(|link| !resolved.pod_of.contains_key(&link.index))
        .filter(|link| !contested.contains_key(&link.index))
        .map(|link| (link.index, not_a_pod(snapshot, link)))
        .collect();
    let without_interface = pods
        .iter()
        .filter(|(pod, _)| !interfaces.contains_key(pod))
        .map(|(pod, addresses)| {
            let is_contested = contested.values().any(|pods| pods.contains(pod));
            (pod.clone(), no_interface(snapshot, addresses, is_contested))
        })
        .collect();
    Assignment {
        interfaces,
        not_pods,
        without_interface,
        conflicts: conflicts(&owners, &places),
        contested,
    }
}

type Owners<'a, P> = BTreeMap<IpAddr, BTreeSet<&'a P>>;

fn owners_of_addresses<P: Ord>(pods: &[(P, Vec<IpAddr>)]) -> Owners<'_, P> {
    let mut owners = Owners::new();
    for (pod, addresses) in pods {
        for address in global(addresses) {
            owners.entry(address).or_default().insert(pod);
        }
    }
    owners
}

/// The addresses that can be a pod's, IPv4 in IPv4 form.
fn global(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    addresses
        .iter()
        .filter(|address| AddressClass::of(**address) == AddressClass::Global)
        .map(IpAddr::to_canonical)
}

/// The addresses that speak for the owner of an interface: the peer's, or when
/// it has none the namespace's.
fn telling(addresses: &PeerAddresses) -> BTreeSet<IpAddr> {
    let on_peer: BTreeSet<_> = global(&addresses.on_peer).collect();
    if on_peer.is_empty() {
        global(&addresses.beside).collect()
    } else {
        on_peer
    }
}

/// A veth into another namespace, and the pods whose addresses are there.
struct Place<'a, P> {
    link: &'a Link,
    namespace: Nsid,
    addresses: BTreeSet<IpAddr>,
    claims: BTreeSet<&'a P>,
}

fn place<'a, P: Ord>(
    snapshot: &'a Snapshot,
    link: &'a Link,
    owners: &Owners<'a, P>,
) -> Option<Place<'a, P>> {
    let (namespace, _) = link.foreign_peer()?;
    let addresses = snapshot.behind(link.index).map(telling).unwrap_or_default();
    let claims = addresses
        .iter()
        .filter_map(|address| owners.get(address))
        .flatten()
        .copied()
        .collect();
    Some(Place {
        link,
        namespace,
        addresses,
        claims,
    })
}

/// What is decided so far.
struct Resolved<'a, P> {
    places: &'a [Place<'a, P>],
    /// Owner by interface index.
    pod_of: BTreeMap<u32, &'a P>,
    /// Where each decided pod lives, that is, where an interface of it is and
    /// its address too. A known interface without the address is no home: the
    /// pod may have got a new sandbox.
    homes: BTreeMap<&'a P, BTreeSet<Nsid>>,
}

impl<'a, P: Ord> Resolved<'a, P> {
    fn settle(&mut self, place: &Place<'a, P>, pod: &'a P) {
        self.pod_of.insert(place.link.index, pod);
        if place.claims.contains(pod) {
            self.homes.entry(pod).or_default().insert(place.namespace);
        }
    }

    /// The pods that the undecided place may belong to: a pod whose home is
    /// known elsewhere is not one of them, and a namespace that is a pod's home
    /// is nobody else's.
    fn candidates(&self, place: &Place<'a, P>) -> BTreeSet<&'a P> {
        let lives_here = |pod: &&'a P| {
            self.homes
                .get(*pod)
                .is_some_and(|homes| homes.contains(&place.namespace))
        };
        let taken = self
            .homes
            .values()
            .any(|homes| homes.contains(&place.namespace));
        place
            .claims
            .iter()
            .filter(|pod| lives_here(pod) || (!taken && !self.homes.contains_key(*pod)))
            .copied()
            .collect()
    }

    fn undecided(&self) -> impl Iterator<Item = (&'a Place<'a, P>, BTreeSet<&'a P>)> {
        self.places
            .iter()
            .filter(|place| !self.pod_of.contains_key(&place.link.index))
            .map(|place| (place, self.candidates(place)))
    }

    /// Decides each pod that is the only candidate of some places which are all
    /// in one namespace. `false` when there is none.
    fn step(&mut self) -> bool {
        let mut alone = BTreeMap::<&'a P, Vec<&'a Place<'a, P>>>::new();
        for (place, candidates) in self.undecided() {
            if let (Some(pod), 1) = (candidates.first(), candidates.len()) {
                alone.entry(*pod).or_default().push(place);
            }
        }
        alone.retain(|_, places| {
            places
                .iter()
                .all(|place| place.namespace == places[0].namespace)
        });
        let progress = !alone.is_empty();
        for (pod, places) in alone {
            for place in places {
                self.settle(place, pod);
            }
        }
        progress
    }

    /// The places that stay undecided although pods' addresses are there.
    fn contested(&self) -> BTreeMap<u32, BTreeSet<P>>
    where
        P: Clone,
    {
        let owned = |pods: &BTreeSet<&P>| pods.iter().map(|pod| (*pod).clone()).collect();
        self.undecided()
            .filter(|(place, _)| !place.claims.is_empty())
            .map(|(place, candidates)| {
                let pods = if candidates.is_empty() {
                    &place.claims
                } else {
                    &candidates
                };
                (place.link.index, owned(pods))
            })
            .collect()
    }
}

fn not_a_pod(snapshot: &Snapshot, link: &Link) -> NotAPod {
    match link.peer {
        Peer::None | Peer::Unknown => return NotAPod::PeerGone,
        Peer::Here(_) => return NotAPod::PeerHere,
        Peer::Elsewhere { .. } => {}
    }
    match snapshot.behind.get(&link.index) {
        Some(Behind::Addresses(addresses)) if telling(addresses).is_empty() => NotAPod::NoAddress,
        Some(Behind::Addresses(_)) => NotAPod::NoPodsAddress,
        Some(Behind::Denied) => NotAPod::Denied,
        Some(Behind::Filtered) => NotAPod::Filtered,
        Some(Behind::Excessive) => NotAPod::Excessive,
        Some(Behind::Unsettled) | None => NotAPod::Unsettled,
    }
}

fn no_interface(snapshot: &Snapshot, addresses: &[IpAddr], contested: bool) -> NoInterface {
    let addresses: BTreeSet<_> = global(addresses).collect();
    if contested {
        return NoInterface::Contested;
    }
    if addresses.is_empty() {
        return NoInterface::NoAddress;
    }
    if snapshot
        .own_addresses
        .iter()
        .any(|own| addresses.contains(&own.address))
    {
        return NoInterface::HostNetwork;
    }
    snapshot
        .links
        .values()
        .filter(|link| link.kind != LinkKind::Veth)
        .find(|link| {
            let behind = snapshot.behind(link.index).map(telling).unwrap_or_default();
            !behind.is_disjoint(&addresses)
        })
        .map_or(NoInterface::NotSeen, |link| NoInterface::Unsupported {
            interface: link.index,
            kind: link.kind.clone(),
        })
}

fn conflicts<P: Ord + Clone>(owners: &Owners<'_, P>, places: &[Place<'_, P>]) -> Vec<Conflict<P>> {
    let owned = |pods: &BTreeSet<&P>| pods.iter().map(|pod| (*pod).clone()).collect();
    let mut conflicts = Vec::new();
    for (address, pods) in owners {
        if pods.len() > 1 {
            conflicts.push(Conflict::AddressOfSeveralPods {
                address: *address,
                pods: owned(pods),
            });
        }
        let holders = || {
            places
                .iter()
                .filter(|place| place.addresses.contains(address))
        };
        let namespaces: BTreeSet<_> = holders().map(|place| place.namespace).collect();
        if namespaces.len() > 1 {
            conflicts.push(Conflict::AddressInSeveralPlaces {
                address: *address,
                interfaces: holders().map(|place| place.link.index).collect(),
            });
        }
    }
    for place in places.iter().filter(|place| place.claims.len() > 1) {
        conflicts.push(Conflict::SeveralPodsBehind {
            interface: place.link.index,
            pods: owned(&place.claims),
        });
    }
    conflicts
}

#[cfg(test)]
mod tests;

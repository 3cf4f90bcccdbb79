//! Chooses probes so that the fine points of the semantics decide them.
//!
//! Every probe has a wish: to be allowed by a rule, to hinge on one feature, or nothing. It is
//! the first of some proposals that fulfils the wish according to the reference evaluator, or
//! the last one. What the cluster cannot show, no wish brings about.

use serde_json::Value;

use super::Rng;
use super::candidates::Candidates;
use crate::reference::{Cluster, Feature, PortSpec, Probe, Protocol, Reason, Who, decides};

/// Proposals looked at for one probe.
const PATIENCE: usize = 40;

/// After so many probes in a row that did not get it, a wish is given up.
const SURRENDER: usize = 6;

#[derive(Clone, Copy)]
enum Wish {
    Any,
    AllowedByRule,
    Decided(Feature),
}

/// Handed out in turn.
const WISHES: [Wish; 24] = [
    Wish::Any,
    Wish::Decided(Feature::Except),
    Wish::AllowedByRule,
    Wish::Decided(Feature::CidrOverlap),
    Wish::AllowedByRule,
    Wish::Any,
    Wish::Decided(Feature::NegativeSelector),
    Wish::AllowedByRule,
    Wish::Decided(Feature::NamedPort),
    Wish::AllowedByRule,
    Wish::Any,
    Wish::Decided(Feature::PortRange),
    Wish::AllowedByRule,
    Wish::Decided(Feature::UnknownPeer),
    Wish::AllowedByRule,
    Wish::Any,
    Wish::Decided(Feature::PodInBlock),
    Wish::AllowedByRule,
    Wish::Decided(Feature::NoPorts),
    Wish::Any,
    Wish::Decided(Feature::OwnNode),
    Wish::AllowedByRule,
    Wish::Decided(Feature::HostNetwork),
    Wish::Decided(Feature::Finished),
];

/// So many probes, each of which describes one packet in the cluster of these objects.
pub fn random_probes(seed: u64, objects: &[Value], count: usize) -> Vec<Probe> {
    let mut rng = Rng::new(seed ^ 0x70_726f_6265);
    let cluster = Cluster::from_objects(objects);
    let candidates = Candidates::of(objects);
    let mut failures = [0; WISHES.len()];
    let mut probes = Vec::with_capacity(count);
    for turn in 0..count {
        let turn = turn % WISHES.len();
        let wish = if failures[turn] < SURRENDER {
            WISHES[turn]
        } else {
            Wish::Any
        };
        let (probe, fulfilled) = choose(&mut rng, &cluster, &candidates, wish);
        failures[turn] = if fulfilled { 0 } else { failures[turn] + 1 };
        probes.push(probe);
    }
    probes
}

/// So many probes of addresses and ports of Services, and of those beside them; none where there
/// is no Service. Each describes one packet.
pub fn service_probes(seed: u64, objects: &[Value], count: usize) -> Vec<Probe> {
    let mut rng = Rng::new(seed ^ 0x73_6572_7669_6365);
    let cluster = Cluster::from_objects(objects);
    let proposals = (0..count * PATIENCE).filter_map(|_| {
        let probe = super::services::probe(&mut rng, objects)?;
        cluster.packet(&probe).is_ok().then_some(probe)
    });
    proposals.take(count).collect()
}

/// The first proposal that fulfils the wish, or the last that is a packet at all.
fn choose(
    rng: &mut Rng,
    cluster: &Cluster,
    candidates: &Candidates<'_>,
    wish: Wish,
) -> (Probe, bool) {
    let mut last = None;
    for _ in 0..PATIENCE {
        let probe = candidates.propose(rng);
        match fulfils(cluster, &probe, wish) {
            Some(true) => return (probe, true),
            Some(false) => last = Some(probe),
            None => {}
        }
    }
    (last.unwrap_or_else(between_strangers), false)
}

/// Whether the probe is as wished; `None` if it is no packet.
fn fulfils(cluster: &Cluster, probe: &Probe, wish: Wish) -> Option<bool> {
    let answer = cluster.verdict(probe).ok()?;
    match wish {
        Wish::Any => Some(true),
        Wish::AllowedByRule => {
            let mut sides = [&answer.egress, &answer.ingress].into_iter().flatten();
            Some(answer.allowed && sides.any(|side| side.reason == Reason::Rule))
        }
        Wish::Decided(feature) => decides(cluster, probe, feature).ok(),
    }
}

/// A packet in any cluster.
fn between_strangers() -> Probe {
    let stranger = |last| Who::Address([192, 0, 2, last].into());
    Probe {
        from: stranger(1),
        to: stranger(2),
        port: PortSpec::Number(80),
        protocol: Protocol::TCP,
        family: None,
    }
}

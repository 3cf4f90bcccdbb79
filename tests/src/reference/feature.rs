//! Which fine points of the semantics decide a verdict.
//!
//! A feature *decides* a packet if an evaluator that gets this one feature wrong would answer
//! otherwise. "Wrong" is spelled out for every [`Feature`], and computed: the policies (or the
//! pods) are altered in that way and the packet is judged again (`ablation`). A run of random probes in which
//! a feature decides nothing has not tested it; [`Histogram`] shows that.

use std::fmt;

use super::ablation::Ablation;
use super::cluster::Cluster;
use super::judge::Reason;
use super::probe::{Probe, ProbeError};

/// A fine point of the semantics, and the mistake by which it is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// The answer changes if every `except` is ignored.
    Except,
    /// At least two different prefixes cover the peer, and the answer changes if only the longest
    /// counts, or if an `except` also takes the address from shorter blocks than itself.
    CidrOverlap,
    /// The peer is a pod, and the answer changes if ipBlocks do not match pods' addresses.
    PodInBlock,
    /// The answer changes if NotIn and DoesNotExist hold always, or if they hold never.
    NegativeSelector,
    /// The answer changes if port names match nothing, or if a name matches the numbers that any
    /// pod gives it in any protocol.
    NamedPort,
    /// The answer changes if a range is its first port only, or every port.
    PortRange,
    /// No selector or ipBlock that is written in the side's policies matches the peer, and the
    /// answer changes if rules without peers do not match it either, or if any peer would do.
    UnknownPeer,
    /// The answer changes if TCP, UDP and SCTP are not told apart.
    Protocol,
    /// The protocol has no ports, and the answer changes if rules without `ports` do not match
    /// it, or if `ports` is ignored.
    NoPorts,
    /// Only the own-node exemption allows a side, and the connection with it.
    OwnNode,
    /// Only the pod's right to reach itself allows the connection.
    Itself,
    /// The answer changes if host-network pods are pods like others.
    HostNetwork,
    /// The answer changes if finished pods are pods like others.
    Finished,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 13] = [
        Self::Except,
        Self::CidrOverlap,
        Self::PodInBlock,
        Self::NegativeSelector,
        Self::NamedPort,
        Self::PortRange,
        Self::UnknownPeer,
        Self::Protocol,
        Self::NoPorts,
        Self::OwnNode,
        Self::Itself,
        Self::HostNetwork,
        Self::Finished,
    ];
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u16);

impl Features {
    /// Whether the feature is in the set.
    pub fn contains(self, feature: Feature) -> bool {
        self.0 & Self::bit(feature) != 0
    }

    fn insert(&mut self, feature: Feature) {
        self.0 |= Self::bit(feature);
    }

    fn bit(feature: Feature) -> u16 {
        1 << (feature as u16)
    }
}

/// The features that decide what becomes of a probe.
///
/// # Errors
/// If the probe does not describe one packet.
pub fn features(cluster: &Cluster, probe: &Probe) -> Result<Features, ProbeError> {
    let ablation = Ablation::new(cluster, cluster.packet(probe)?);
    let mut found = Features::default();
    for feature in Feature::ALL {
        if ablation.decides(feature) {
            found.insert(feature);
        }
    }
    Ok(found)
}

/// Whether one feature decides what becomes of a probe; cheaper than all of [`features`].
///
/// # Errors
/// If the probe does not describe one packet.
pub fn decides(cluster: &Cluster, probe: &Probe, feature: Feature) -> Result<bool, ProbeError> {
    Ok(Ablation::new(cluster, cluster.packet(probe)?).decides(feature))
}

/// How often each feature decided, over many probes.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Probes judged.
    pub probes: usize,
    /// Probes allowed.
    pub allowed: usize,
    /// Probes in which no pod was isolated, so that no rule was asked.
    pub open: usize,
    counts: [usize; Feature::ALL.len()],
}

impl Histogram {
    /// Judges the probes and counts what decided them.
    ///
    /// # Errors
    /// The first probe that does not describe one packet.
    pub fn of(cluster: &Cluster, probes: &[Probe]) -> Result<Self, ProbeError> {
        let mut histogram = Self::default();
        for probe in probes {
            histogram.add(cluster, probe)?;
        }
        Ok(histogram)
    }

    /// Judges one probe and counts what decided it.
    ///
    /// # Errors
    /// If the probe does not describe one packet; nothing is counted then.
    pub fn add(&mut self, cluster: &Cluster, probe: &Probe) -> Result<(), ProbeError> {
        let answer = cluster.verdict(probe)?;
        let found = features(cluster, probe)?;
        self.probes += 1;
        self.allowed += usize::from(answer.allowed);
        let mut sides = [answer.egress, answer.ingress].into_iter().flatten();
        self.open += usize::from(sides.all(|side| side.reason == Reason::NotIsolated));
        for (feature, count) in Feature::ALL.into_iter().zip(&mut self.counts) {
            *count += usize::from(found.contains(feature));
        }
        Ok(())
    }

    /// How many probes the feature decided.
    pub fn count(&self, feature: Feature) -> usize {
        self.counts[feature as usize]
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        self.probes += other.probes;
        self.allowed += other.allowed;
        self.open += other.open;
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// `count` in thousandths of all probes, rounded down.
    pub fn per_mille(&self, count: usize) -> usize {
        count * 1000 / self.probes.max(1)
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: usize| {
            let share = self.per_mille(count);
            let bar = "#".repeat(share.div_ceil(20));
            writeln!(
                out,
                "{name:<18}{count:>8} {:>3}.{}% {bar}",
                share / 10,
                share % 10
            )
        };
        line("probes", self.probes)?;
        line("allowed", self.allowed)?;
        line("nobody isolated", self.open)?;
        for feature in Feature::ALL {
            line(&format!("{feature:?}"), self.count(feature))?;
        }
        Ok(())
    }
}

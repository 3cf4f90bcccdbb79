//! What a change means for people: how long it took, which versions are in force,
//! which pods ran without their policies, whether the agent is ready.
//!
//! Looks at the agent's state after each change and decides nothing. Whoever is
//! asked (`http`, `report`, `monitor`) reads what is left here.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_common::abi::Direction;
use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::store::{Key, Kind, Object, SourceEvent, Store};
use prometheus_client::registry::Registry;

use super::generations::{Endpoint, Generations};
use super::health::{Health, Pulse, health};
use super::http::{Answers, HttpAddress, Server};
use super::kernel_metrics::KernelMetrics;
use super::metrics::{Metrics, Stage, observe, raise, severity_label, shown};
use super::monitor::Monitors;
use super::notices::conditions::Conditions;
use super::notices::found;
use super::notices::post::Poster;
use super::report::isolating;
use super::setup::Setup;
use super::state::{Outcome, State};
use crate::datapath::Pins;
use crate::datapath::{evictions::Evictions, sweep::Swept};
use crate::others::{self, Other};
use crate::source::kubernetes::Access;

/// How often others who enforce are looked for.
const OTHERS_EVERY: Duration = Duration::from_secs(60);

/// The kinds of objects that sources tell of, by the label `kind`.
const KINDS: [&str; 6] = [
    "Pod",
    "Namespace",
    "Node",
    "Service",
    "EndpointSlice",
    "NetworkPolicy",
];

/// What is kept for people.
#[derive(Debug)]
pub(super) struct Feedback {
    pub(super) metrics: Metrics,
    pub(super) generations: Generations,
    pub(super) monitors: Monitors,
    setup: Setup,
    /// Windows that were told of.
    windows: u64,
    heard: Heard,
    /// Since when something is known of a pod of this node, or of one that is gone,
    /// at which nobody has looked.
    pods_heard: Option<Instant>,
    /// Changes before the last completed programming; `None`: there was none.
    completed: Option<u64>,
    pulse: Pulse,
    /// Until somebody is served: what he needs.
    unserved: Option<(Registry, Health)>,
    server: Option<Server>,
    conditions: Conditions,
    poster: Option<Poster>,
    others: Vec<Other>,
    looked_for_others: Option<Instant>,
    evictions: Evictions,
}

/// Since when something is known that is not in force yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    policy: Option<Instant>,
    peer: Option<Instant>,
}

impl Default for Feedback {
    fn default() -> Self {
        let (metrics, registry) = Metrics::new(&KINDS);
        let (pulse, health) = health(Instant::now());
        Self {
            metrics,
            generations: Generations::default(),
            monitors: Monitors::default(),
            setup: Setup::default(),
            windows: 0,
            heard: Heard::default(),
            pods_heard: None,
            completed: None,
            pulse,
            unserved: Some((registry, health)),
            server: None,
            conditions: Conditions::default(),
            poster: None,
            others: Vec::new(),
            looked_for_others: None,
            evictions: Evictions::default(),
        }
    }
}

impl Feedback {
    /// Serves health and metrics from now on.
    pub(super) fn serve(&mut self, address: HttpAddress, pins: &Pins) -> io::Result<()> {
        if let HttpAddress::At(address) = address
            && let Some((mut registry, health)) = self.unserved.take()
        {
            let kernel = KernelMetrics::new(pins.clone(), self.metrics.clone(), &mut registry);
            let answers = Answers::new(health, registry, kernel);
            self.server = Some(Server::start(address, answers)?);
        }
        Ok(())
    }

    /// Tells users by Events from now on.
    pub(super) fn post(&mut self, access: Access, node: Arc<str>) -> io::Result<()> {
        self.poster = Some(Poster::start(access, node)?);
        Ok(())
    }

    /// What is wrong: nobody is served who should be, no Event is taken, somebody
    /// else enforces.
    pub(super) fn problems(&self) -> Vec<Diagnostic> {
        let unserved = self.server.as_ref().and_then(Server::problem);
        let untold = self.poster.as_ref().and_then(Poster::problem);
        let others = self.others.iter().map(|other| Diagnostic {
            object: format!("other enforcer {}", other.name),
            source: None,
            path: String::new(),
            severity: Severity::Warning,
            message: told_of(other),
        });
        let problems = unserved.into_iter().chain(untold);
        problems.chain(others).collect()
    }

    /// Who else enforces on this node, as far as that was seen.
    pub(super) fn others(&self) -> &[Other] {
        &self.others
    }

    /// Looks for them, now and then.
    pub(super) fn look_for_others(&mut self, bpffs: &Path, now: Instant) {
        let is_recent = |looked| now.saturating_duration_since(looked) < OTHERS_EVERY;
        if !self.looked_for_others.is_some_and(is_recent) {
            self.looked_for_others = Some(now);
            self.others = others::look(bpffs);
        }
    }

    /// A source told this at a time; what follows from it is not in force yet.
    pub(super) fn heard(&mut self, events: &[SourceEvent], node: &Arc<str>, at: Instant) {
        self.heard.hear(events, node, at);
        let of_pods = |event: &SourceEvent| match event {
            SourceEvent::Apply(Object::Pod(_)) | SourceEvent::Item(Object::Pod(_)) => {
                cause(event, node).is_none()
            }
            SourceEvent::Delete(Key::Pod(_)) => true,
            _ => false,
        };
        if events.iter().any(of_pods) {
            self.pods_heard.get_or_insert(at);
        }
    }
}

impl Heard {
    fn hear(&mut self, events: &[SourceEvent], node: &Arc<str>, at: Instant) {
        for event in events {
            match cause(event, node) {
                Some(Cause::Policy) => self.policy.get_or_insert(at),
                Some(Cause::Peer) => self.peer.get_or_insert(at),
                None => continue,
            };
        }
    }
}

/// What users are told of another enforcer.
pub(super) fn told_of(other: &Other) -> String {
    format!(
        "{} enforces policy on this node too ({}): what either denies is denied",
        other.name, other.seen
    )
}

/// What an event is about, for those who wait for its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Policy,
    /// A pod elsewhere, a namespace, a node, a Service. (A pod of this node is
    /// waited for by name: see `setup`.)
    Peer,
}

fn cause(event: &SourceEvent, node: &Arc<str>) -> Option<Cause> {
    let kind = match event {
        SourceEvent::Apply(Object::Pod(pod)) | SourceEvent::Item(Object::Pod(pod)) => {
            let is_local = pod.node.as_ref().is_none_or(|of| of == node);
            return (!is_local).then_some(Cause::Peer);
        }
        SourceEvent::Apply(object) | SourceEvent::Item(object) => object.kind(),
        SourceEvent::Delete(Key::Pod(_)) => return Some(Cause::Peer),
        SourceEvent::Delete(key) => key.kind(),
        SourceEvent::Begin(_) | SourceEvent::End(_) => return None,
    };
    Some(match kind {
        Kind::Policy(_) => Cause::Policy,
        _ => Cause::Peer,
    })
}

impl State {
    /// Puts in force what the sources say. Quick where nothing is different.
    pub(super) fn reconcile(&mut self) -> Outcome {
        // Where only peers changed, no pod of this node is in another way.
        let looked = self.looked;
        let outcome = self.put_in_force();
        let now = Instant::now();
        let words = self.feedback.generations.is_pending();
        match outcome.retry {
            Some(false) => self.completed(now),
            Some(true) if self.failure.is_some() => {
                self.feedback.metrics.failures.inc();
            }
            _ => {}
        }
        if outcome.retry.is_some() {
            let heard = self.feedback.pods_heard.take();
            if looked || words || heard.is_some() {
                self.look_at_pods(heard.unwrap_or(now), now);
            }
        }
        outcome
    }

    /// All that was heard is in force, as far as it can be.
    fn completed(&mut self, now: Instant) {
        let feedback = &mut self.feedback;
        let metrics = &feedback.metrics;
        // What was there when the agent started was waited for by nobody, and where
        // nothing was written nothing took effect.
        let before = feedback.completed.replace(self.changes);
        let has_written = before.is_some_and(|before| before != self.changes);
        for (since, histogram) in [
            (feedback.heard.policy.take(), &metrics.programming),
            (feedback.heard.peer.take(), &metrics.propagation),
        ] {
            if let Some(since) = since.filter(|_| has_written) {
                observe(histogram, now.saturating_duration_since(since));
            }
        }
        if !feedback.generations.is_pending() {
            return;
        }
        let desired = self.engine.desired();
        let programmed = &self.programmed;
        let endpoints = desired.endpoints.iter().filter_map(|(pod, spec)| {
            // Without an interface there is nothing to put policies on.
            let current = programmed.get(pod)?.current;
            let ingress = spec
                .ingress
                .map(|policy| isolating(desired, policy, Direction::Ingress));
            let egress = spec
                .egress
                .map(|policy| isolating(desired, policy, Direction::Egress));
            Some(Endpoint {
                pod,
                current,
                policies: ingress.into_iter().chain(egress).flatten().collect(),
            })
        });
        feedback.generations.completed(endpoints);
    }

    /// Which pods wait for their policies, and which have them now.
    fn look_at_pods(&mut self, heard: Instant, now: Instant) {
        let desired = self.engine.desired();
        let programmed = &self.programmed;
        let attached = &self.planner.mirror().attached;
        let mut unprotected = 0;
        let mut pods = Vec::with_capacity(desired.endpoints.len());
        for (pod, spec) in &desired.endpoints {
            let id = (pod.clone(), spec.uid.clone());
            let in_force = programmed.get(pod).is_some_and(|now| now.current);
            let isolated = spec.ingress.is_some() || spec.egress.is_some();
            let interfaces = self.assignment.interfaces.get(&id);
            let mut interfaces = interfaces.into_iter().flatten();
            if isolated && !in_force && interfaces.any(|index| !attached.contains(index)) {
                unprotected += 1;
            }
            pods.push((id, in_force));
        }
        let metrics = &self.feedback.metrics;
        metrics.unprotected.set(shown(unprotected));
        for waited in self.feedback.setup.look(pods, heard, now) {
            observe(&metrics.setup, waited);
        }
        self.tell_of_windows();
    }

    /// Pods that are protected now, and ran without their policies before.
    fn tell_of_windows(&mut self) {
        let feedback = &mut self.feedback;
        let births = &self.cni.births;
        let new = births.unprotected_total() - feedback.windows;
        feedback.windows = births.unprotected_total();
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        // The latest are last, and only so many are remembered.
        let known = births.unprotected().count();
        for window in births.unprotected().skip(known.saturating_sub(new)) {
            let lasted = Duration::from_millis(window.milliseconds);
            feedback.metrics.unprotected_starts.inc();
            let seconds = &feedback.metrics.unprotected_seconds;
            seconds.inc_by(lasted.as_secs_f64());
            self.lines.write(&serde_json::json!({
                "type": "unprotected",
                "pod": window.pod,
                "uid": window.uid,
                "milliseconds": window.milliseconds,
                "before_agent": window.before_agent,
            }));
            // An agent that is installed finds pods that run: that is no news.
            if let Some(poster) = &feedback.poster
                && !window.before_agent
                && let Some(notice) = found::unprotected(window, &self.engine.node().name)
            {
                poster.tell(notice);
            }
        }
    }

    /// The loop has turned: what is cheap to tell is told.
    pub(super) fn turned(&self) {
        let Feedback {
            metrics,
            monitors,
            pulse,
            poster,
            ..
        } = &self.feedback;
        pulse.beat(Instant::now());
        pulse.tell(self.missing());
        raise(&metrics.changes, self.changes);
        raise(&metrics.repairs, self.repairs);
        metrics.lost_so_far(Stage::Stdout, self.lines.lost());
        metrics.lost_so_far(Stage::Monitor, monitors.lost());
        if let Some(poster) = poster {
            metrics.lost_so_far(Stage::Kubernetes, poster.lost());
            raise(&metrics.posted, poster.posted());
        }
        metrics.endpoints.set(shown(self.programmed.len()));
        metrics.not_programmed.set(shown(self.not_programmed()));
        metrics.held.set(shown(self.held.len()));
    }

    /// The sweeper of connection records has been round.
    pub(super) fn swept(&mut self, swept: &Swept) {
        let removed = u64::try_from(swept.removed).unwrap_or(u64::MAX);
        self.feedback.metrics.removed_connections.inc_by(removed);
        let evicted = self.feedback.evictions.since(swept);
        self.feedback.metrics.evicted(evicted);
        let [confirmed, ..] = swept.left;
        self.pressure.counted(confirmed);
    }

    /// Every few seconds: what takes longer to tell.
    pub(super) fn took_stock(&mut self, extra: &[Diagnostic]) {
        self.look_at_maps();
        if self.feedback.poster.is_some() {
            let conditions = self.conditions();
            let told = self.feedback.conditions.look(conditions, Instant::now());
            if let Some(poster) = &self.feedback.poster {
                told.into_iter().for_each(|notice| poster.tell(notice));
            }
        }
        let mut diagnostics = self.diagnostics();
        diagnostics.extend_from_slice(extra);
        let metrics = &self.feedback.metrics;
        for severity in [Severity::Info, Severity::Warning, Severity::Error] {
            let of = diagnostics.iter().filter(|d| d.severity == severity);
            let gauge = metrics.diagnostics.get_or_create(&severity_label(severity));
            gauge.set(shown(of.count()));
        }
        metrics.monitors.set(shown(self.feedback.monitors.count()));
        let store = self.engine.store();
        for name in KINDS {
            let (kind, count) = known(store, name);
            let label = [("kind", name)];
            let synced = i64::from(store.is_ready(&kind));
            metrics.synced.get_or_create(&label).set(synced);
            metrics.objects.get_or_create(&label).set(shown(count));
        }
    }

    fn not_programmed(&self) -> usize {
        let programmed = self.programmed.values();
        programmed.filter(|programmed| !programmed.current).count()
    }

    /// What is missing for the agent to be ready.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.synced {
            missing.push("not every kind of object was read completely yet".to_owned());
        }
        if !self.healthy() {
            missing.push("the kernel or its interfaces cannot be reached: see status".to_owned());
        }
        match self.not_programmed() {
            0 => {}
            pods => missing.push(format!(
                "{pods} pods have not the policies that they should"
            )),
        }
        missing
    }
}

/// A kind, and how many of it are known.
fn known(store: &Store, name: &'static str) -> (Kind, usize) {
    match name {
        "Pod" => (Kind::Pod, store.pods().len()),
        "Namespace" => (Kind::Namespace, store.namespaces().count()),
        "Node" => (Kind::Node, store.nodes().len()),
        "Service" => (Kind::Service, store.services().len()),
        "EndpointSlice" => (Kind::EndpointSlice, store.slices().len()),
        other => {
            let of_kind = store.policies().keys().filter(|id| &*id.kind == other);
            (Kind::Policy(other.into()), of_kind.count())
        }
    }
}

#[cfg(test)]
mod tests {
    use policy_core::desired::PodRef;
    use policy_core::model::Pod;

    use super::*;

    fn pod(node: Option<&str>) -> Object {
        Object::Pod(Arc::new(Pod {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "".into(),
            created: 0,
            labels: std::iter::empty::<(Arc<str>, Arc<str>)>().collect(),
            node: node.map(Into::into),
            host_network: false,
            finished: false,
            ipv4: None,
            ipv6: None,
            ports: Vec::new(),
            host_ports: Vec::new(),
        }))
    }

    #[test]
    fn news_of_other_nodes_pods_is_waited_for_as_news_of_peers_and_own_pods_by_name() {
        let node: Arc<str> = "node-1".into();
        let apply = |of| SourceEvent::Apply(pod(of));
        assert_eq!(cause(&apply(Some("node-2")), &node), Some(Cause::Peer));
        assert_eq!(cause(&apply(Some("node-1")), &node), None);
        assert_eq!(cause(&apply(None), &node), None);
        let gone = SourceEvent::Delete(Key::Pod(PodRef {
            namespace: "shop".into(),
            name: "web".into(),
        }));
        assert_eq!(cause(&gone, &node), Some(Cause::Peer));
        let policies = Kind::Policy("NetworkPolicy".into());
        assert_eq!(cause(&SourceEvent::End(policies), &node), None);
        let namespace = SourceEvent::Delete(Key::Namespace("shop".into()));
        assert_eq!(cause(&namespace, &node), Some(Cause::Peer));
    }

    #[test]
    fn what_is_waited_for_counts_from_the_first_news_of_it() {
        let node: Arc<str> = "node-1".into();
        let first = Instant::now();
        let later = first + Duration::from_secs(1);
        let mut heard = Heard::default();
        heard.hear(&[SourceEvent::Apply(pod(Some("node-2")))], &node, first);
        heard.hear(&[SourceEvent::Apply(pod(Some("node-2")))], &node, later);
        let since = Heard {
            policy: None,
            peer: Some(first),
        };
        assert_eq!(heard, since);
    }
}

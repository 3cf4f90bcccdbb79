//! Where the agent's objects come from: a folder of manifests, or a cluster's API
//! server.
//!
//! Both end in the same events for the same engine. What differs is here: how
//! the node gets its name, when everything has been read once, and how one finds
//! out that all that was there before a question is in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::engine::{Engine, NodeContext};
use policy_core::model::Pod;
use policy_core::store::{Object, SourceEvent, Store};

use super::node;
use super::state::{State, node_problem};
use crate::api::SourceState;
use crate::source::kubernetes::{self, Access, Cluster, Feed, News, Pace};
use crate::source::manifests::Manifests;

/// What the agent is told about its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Options {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// A cluster's API server, described here.
    Cluster(Access),
}

/// Where objects come from.
pub(super) enum Source {
    Manifests(Box<Folder>),
    Cluster {
        cluster: Box<Cluster>,
        node: Arc<str>,
    },
}

/// A folder of manifests, and the name of the node.
pub(super) struct Folder {
    manifests: Manifests,
    given_name: Option<String>,
    /// Settled when the folder was read for the first time.
    name: Option<Arc<str>>,
    problems: Vec<Diagnostic>,
}

impl Source {
    /// Begins to watch.
    pub(super) fn open(options: &Options, given_name: Option<&str>) -> std::io::Result<Self> {
        Ok(match options {
            Options::Manifests(folder) => Self::Manifests(Box::new(Folder {
                manifests: Manifests::watched(vec![folder.clone()]),
                given_name: given_name.map(str::to_owned),
                name: None,
                problems: Vec::new(),
            })),
            Options::Cluster(access) => {
                // Which pods are asked for depends on the name, so it cannot come
                // from what is asked for.
                let node = node::name(given_name, &Store::new());
                let cluster = Cluster::start(kubernetes::Options {
                    access: access.clone(),
                    node: node.clone(),
                    pace: Pace::default(),
                })?;
                Self::Cluster {
                    cluster: Box::new(cluster),
                    node,
                }
            }
        })
    }

    /// The node, as far as it is known before anything was read.
    pub(super) fn node(&self) -> NodeContext {
        match self {
            Self::Manifests(_) => NodeContext::default(),
            Self::Cluster { node, .. } => NodeContext {
                name: node.clone(),
                ..NodeContext::default()
            },
        }
    }

    /// Returns when there may be something to read. Nothing is lost when the
    /// future is dropped.
    pub(super) async fn changed(&mut self) -> Result<(), kubernetes::Ended> {
        match self {
            Self::Manifests(folder) => {
                folder.manifests.changed().await;
                Ok(())
            }
            Self::Cluster { cluster, .. } => cluster.changed().await,
        }
    }

    /// Asks for all that is there now; `None`: [`State::read_source`] is all that it
    /// takes. The answer is [`Self::has_passed`].
    pub(super) fn ask(&mut self) -> Option<u64> {
        match self {
            Self::Manifests(_) => None,
            Self::Cluster { cluster, .. } => Some(cluster.ask()),
        }
    }

    /// Whether all that was there when the question was asked has been read.
    pub(super) fn has_passed(&self, question: u64) -> bool {
        match self {
            Self::Manifests(_) => true,
            Self::Cluster { cluster, .. } => cluster.has_passed(question),
        }
    }

    /// What is wrong with the source and with objects.
    pub(super) fn problems(&self, store: &Store) -> Vec<Diagnostic> {
        match self {
            Self::Manifests(folder) => folder.problems.clone(),
            Self::Cluster { cluster, node } => {
                let mut all = cluster.diagnostics();
                all.extend(missing(cluster));
                if cluster.is_synced() && !store.nodes().contains_key(node) {
                    all.push(Diagnostic {
                        object: format!("Node {node}"),
                        source: None,
                        path: "metadata.name".to_owned(),
                        severity: Severity::Warning,
                        message: "the cluster has no Node of this name, which is this node's: \
                                  its pods may name another one in spec.nodeName; \
                                  check --node-name (NODE_NAME)"
                            .to_owned(),
                    });
                }
                all
            }
        }
    }

    /// Drops what is kept of objects that are gone. A cluster's feeds do so by
    /// themselves, on their thread.
    pub(super) fn prune(&mut self) {
        match self {
            Self::Manifests(folder) => folder.manifests.prune(),
            Self::Cluster { .. } => {}
        }
    }

    /// How each part of the source is; a folder has none.
    pub(super) fn states(&self) -> Vec<SourceState> {
        let Self::Cluster { cluster, .. } = self else {
            return Vec::new();
        };
        let states = cluster.states().iter();
        states
            .map(|(feed, state)| SourceState {
                name: feed.name().to_owned(),
                synced: state.synced,
                objects: state.listed,
                disconnected_seconds: state.disconnected.map(|since| since.elapsed().as_secs()),
                last_error: state.last_error.clone(),
                restarts: state.restarts,
                lists: state.lists,
            })
            .collect()
    }
}

/// What has not been listed yet, if anything.
fn missing(cluster: &Cluster) -> Option<Diagnostic> {
    let missing: Vec<&str> = Feed::ALL
        .into_iter()
        .filter(|feed| !cluster.states().get(feed).is_some_and(|state| state.synced))
        .map(Feed::name)
        .collect();
    (!missing.is_empty()).then(|| Diagnostic {
        object: "API server".to_owned(),
        source: None,
        path: String::new(),
        severity: Severity::Warning,
        message: format!(
            "not listed yet: {}; until they are, what an earlier agent put in force stays as it \
             is, for all pods",
            missing.join(", ")
        ),
    })
}

impl State {
    /// Takes in what the source has; true if there may be something to put in
    /// force.
    pub(super) fn read_source(&mut self) -> bool {
        match &mut self.source {
            Source::Manifests(_) => self.read_manifests(),
            Source::Cluster { cluster, .. } => {
                let (feedback, telling) = (&mut self.feedback, &mut self.cni.telling);
                let memory = &mut self.memory;
                let node = self.engine.node().name.clone();
                let heard = |news: News<'_>| {
                    memory.changed(news.events.len());
                    feedback.heard(news.events, &node, news.at);
                    feedback.generations.tell(news.versions);
                };
                let read = |event| telling.merge(event, &node);
                let news = cluster.apply(&mut self.engine, heard, read);
                let first = !self.synced && cluster.is_synced();
                self.synced |= first;
                self.synced && (news || first)
            }
        }
    }

    fn read_manifests(&mut self) -> bool {
        let Source::Manifests(folder) = &mut self.source else {
            return false;
        };
        let heard = Instant::now();
        let update = folder.manifests.rescan();
        folder.problems = update.diagnostics;
        if folder.name.is_none() {
            if update.events.is_empty() {
                // Not even an empty list: the folder was not there to be read.
                return false;
            }
            // The name decides which pods are local, and may come from the only
            // Node among the objects: settled before anything is derived.
            let mut store = Store::new();
            store.apply_all(update.events.iter().cloned());
            let name = node::name(folder.given_name.as_deref(), &store);
            self.engine = Engine::new(node::context(&name, &store, self.snapshot.node_addresses()));
            folder.name = Some(name);
        }
        let name = self.engine.node().name.clone();
        let changed = !(update.events.is_empty() && update.versions.is_empty());
        self.memory.changed(update.events.len());
        self.feedback.heard(&update.events, &name, heard);
        self.feedback.generations.tell(update.versions);
        let telling = &mut self.cni.telling;
        let events = update.events.into_iter();
        self.engine
            .apply(events.map(|event| telling.merge(at_home(event, &name), &name)));
        if !self.synced {
            // What an earlier agent left in force may come from what cannot be read
            // now: it stays until that can be told.
            let adopted = !self.planner.mirror().endpoints.is_empty();
            self.synced = !(update.partial && adopted);
            if !self.synced {
                folder.problems.push(node_problem(
                    "manifests",
                    "not everything can be read, and policies of an earlier agent are in force: \
                     they stay as they are, for all pods, until every file can be read"
                        .to_owned(),
                ));
            }
            return self.synced;
        }
        changed
    }
}

/// A pod that names no node is this node's.
fn at_home(event: SourceEvent, name: &Arc<str>) -> SourceEvent {
    let home = |object: Object| match object {
        Object::Pod(pod) if pod.node.is_none() => Object::Pod(Arc::new(Pod {
            node: Some(name.clone()),
            ..Pod::clone(&pod)
        })),
        other => other,
    };
    match event {
        SourceEvent::Apply(object) => SourceEvent::Apply(home(object)),
        SourceEvent::Item(object) => SourceEvent::Item(home(object)),
        other => other,
    }
}

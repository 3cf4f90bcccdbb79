//! From what feeds tell to events for the store.
//!
//! Each feed tells of its own objects only, and the feeds do not wait for each
//! other. Most kinds have one feed, and a list of it is the store's. Pods have
//! two, for this node and for all others: for a moment both may tell of a pod of
//! one name, since a pod may go on one node and another of its name come on
//! another one. Then the newest is the one that counts, and the other is kept
//! until its feed says that it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_core::desired::PodRef;
use policy_core::diagnostic::Diagnostic;
use policy_core::model::Pod;
use policy_core::store::{Key, Kind, Object, SourceEvent, Store};

use super::feed::Feed;
use super::told::{Is, Listed, Told};

/// What has to be remembered beside the store.
#[derive(Debug)]
pub(super) struct Merge {
    node: Arc<str>,
    /// Pods that another one of their name stands before, which is on this node
    /// if they are not, and the other way round.
    behind: BTreeMap<PodRef, Arc<Pod>>,
    /// What is wrong with objects.
    problems: BTreeMap<(Feed, Key), Vec<Diagnostic>>,
    /// Feeds of pods that have told a list.
    listed: BTreeSet<Feed>,
}

impl Merge {
    /// `node`: this one.
    pub(super) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            behind: BTreeMap::new(),
            problems: BTreeMap::new(),
            listed: BTreeSet::new(),
        }
    }

    /// Everything that is wrong with objects.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Diagnostic> {
        self.problems.values().flatten()
    }

    /// The events that one piece of news is, to be applied as one change to a
    /// store that is as `store`.
    pub(super) fn take(&mut self, feed: Feed, told: Told, store: &Store) -> Vec<SourceEvent> {
        match told {
            Told::All(list) => self.all(feed, list, store),
            Told::One(Listed {
                key,
                is,
                diagnostics,
                version: _,
            }) => {
                self.note(feed, &key, diagnostics);
                let stored = in_force(&key, store);
                let is_known = stored.is_some() && self.is_of(feed, stored.as_ref());
                let event = match is {
                    Is::Object(object) => self.put(feed, object, stored),
                    Is::Undecodable(_) if is_known => None,
                    Is::Undecodable(fallback) => {
                        fallback.and_then(|object| self.put(feed, object, stored))
                    }
                };
                event.into_iter().collect()
            }
            Told::Gone(key) => {
                self.note(feed, &key, Vec::new());
                self.remove(feed, &key, store).into_iter().collect()
            }
        }
    }

    fn all(&mut self, feed: Feed, list: Vec<Listed>, store: &Store) -> Vec<SourceEvent> {
        self.problems.retain(|(of, _), _| *of != feed);
        let mut keys = BTreeSet::new();
        let mut objects = Vec::with_capacity(list.len());
        for Listed {
            key,
            is,
            diagnostics,
            version: _,
        } in list
        {
            self.note(feed, &key, diagnostics);
            let object = match is {
                Is::Object(object) => Some(object),
                Is::Undecodable(fallback) => in_force(&key, store)
                    .filter(|stored| self.is_of(feed, Some(stored)))
                    .or(fallback),
            };
            keys.insert(key);
            objects.extend(object);
        }
        if !matches!(feed, Feed::OwnPods | Feed::OtherPods) {
            let kind = feed.kind();
            let begin = std::iter::once(SourceEvent::Begin(kind.clone()));
            let items = objects.into_iter().map(SourceEvent::Item);
            return begin
                .chain(items)
                .chain(std::iter::once(SourceEvent::End(kind)))
                .collect();
        }
        let is_own = feed == Feed::OwnPods;
        let node = self.node.clone();
        self.behind.retain(|key, pod| {
            is_on(&node, pod) != is_own || keys.contains(&Key::Pod(key.clone()))
        });
        let of_feed = store.pods().values();
        let gone: Vec<Key> = of_feed
            .filter(|pod| is_on(&node, pod) == is_own)
            .map(|pod| Object::Pod(Arc::clone(pod)).key())
            .filter(|key| !keys.contains(key))
            .collect();
        let mut events: Vec<SourceEvent> = gone
            .iter()
            .filter_map(|key| self.remove(feed, key, store))
            .collect();
        for object in objects {
            let stored = in_force(&object.key(), store);
            events.extend(self.put(feed, object, stored));
        }
        if self.listed.len() < 2 && self.listed.insert(feed) && self.listed.len() == 2 {
            // Only now the store may take its pods for all there are.
            return as_list(store, events);
        }
        events
    }

    fn note(&mut self, feed: Feed, key: &Key, diagnostics: Vec<Diagnostic>) {
        if diagnostics.is_empty() {
            if !self.problems.is_empty() {
                self.problems.remove(&(feed, key.clone()));
            }
        } else {
            self.problems.insert((feed, key.clone()), diagnostics);
        }
    }

    /// The object is there, like this.
    fn put(&mut self, feed: Feed, object: Object, stored: Option<Object>) -> Option<SourceEvent> {
        let (Object::Pod(pod), Some(Object::Pod(stored))) = (&object, &stored) else {
            return Some(SourceEvent::Apply(object));
        };
        let key = PodRef {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        };
        let stored_is_own = is_on(&self.node, stored);
        if stored_is_own == (feed == Feed::OwnPods) {
            return Some(SourceEvent::Apply(object));
        }
        // Of two of the same age the one of this node counts: it may be running.
        let is_newer = match pod.created.cmp(&stored.created) {
            std::cmp::Ordering::Equal => feed == Feed::OwnPods,
            order => order.is_gt(),
        };
        if is_newer {
            self.behind.insert(key, stored.clone());
            return Some(SourceEvent::Apply(object));
        }
        self.behind.insert(key, pod.clone());
        None
    }

    /// The feed has no object of this key.
    fn remove(&mut self, feed: Feed, key: &Key, store: &Store) -> Option<SourceEvent> {
        let Key::Pod(pod) = key else {
            return Some(SourceEvent::Delete(key.clone()));
        };
        let stored = in_force(key, store);
        let behind = self.behind.remove(pod);
        if !self.is_of(feed, stored.as_ref()) {
            // The one that stood behind is the one that is gone.
            return None;
        }
        Some(match behind {
            Some(pod) => SourceEvent::Apply(Object::Pod(pod)),
            None => SourceEvent::Delete(key.clone()),
        })
    }

    /// Whether it is this feed that tells of a stored object.
    fn is_of(&self, feed: Feed, stored: Option<&Object>) -> bool {
        match stored {
            Some(Object::Pod(pod)) => is_on(&self.node, pod) == (feed == Feed::OwnPods),
            _ => true,
        }
    }
}

/// The complete list of pods that a store has after events.
fn as_list(store: &Store, events: Vec<SourceEvent>) -> Vec<SourceEvent> {
    let mut pods = store.pods().clone();
    let mut items = Vec::with_capacity(pods.len() + events.len() + 2);
    items.push(SourceEvent::Begin(Kind::Pod));
    let mut applied = Vec::with_capacity(events.len());
    for event in events {
        match event {
            SourceEvent::Delete(Key::Pod(pod)) => drop(pods.remove(&pod)),
            SourceEvent::Apply(object) => applied.push(SourceEvent::Item(object)),
            other => applied.push(other),
        }
    }
    items.extend(pods.into_values().map(Object::Pod).map(SourceEvent::Item));
    items.extend(applied);
    items.push(SourceEvent::End(Kind::Pod));
    items
}

fn is_on(node: &Arc<str>, pod: &Pod) -> bool {
    pod.node.as_ref() == Some(node)
}

/// What the store has under a key.
fn in_force(key: &Key, store: &Store) -> Option<Object> {
    match key {
        Key::Pod(pod) => store.pod(pod).cloned().map(Object::Pod),
        Key::Namespace(name) => store.namespace(name).cloned().map(Object::Namespace),
        Key::Node(name) => store.nodes().get(name).cloned().map(Object::Node),
        Key::Service(name) => store.services().get(name).cloned().map(Object::Service),
        Key::EndpointSlice(name) => store.slices().get(name).cloned().map(Object::EndpointSlice),
        Key::Policy(id) => store.policies().get(id).cloned().map(Object::Policy),
    }
}

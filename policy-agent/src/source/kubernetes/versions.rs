//! Which versions of policies a feed tells of.

use std::collections::BTreeSet;

use policy_core::model::PolicyId;
use policy_core::store::{Key, Store};

use super::feed::Feed;
use super::told::{Is, Listed, Told};
use crate::source::version::{self, Versions};

/// What a piece of news says of versions, to be told before it is applied to a
/// store that is as `store`.
pub(super) fn news(feed: Feed, told: &Told, store: &Store) -> Versions {
    if feed != Feed::Policies {
        return Versions::new();
    }
    match told {
        Told::One(listed) => of(listed).into_iter().collect(),
        Told::Gone(Key::Policy(id)) => vec![(id.clone(), version::Told::Gone)],
        Told::Gone(_) => Versions::new(),
        Told::All(list) => {
            let listed: BTreeSet<&PolicyId> = list.iter().filter_map(policy).collect();
            let stored = store.policies().keys();
            let gone = stored.filter(|id| !listed.contains(id));
            let gone = gone.map(|id| (id.clone(), version::Told::Gone));
            gone.chain(list.iter().filter_map(of)).collect()
        }
    }
}

fn policy(listed: &Listed) -> Option<&PolicyId> {
    match &listed.key {
        Key::Policy(id) => Some(id),
        _ => None,
    }
}

fn of(listed: &Listed) -> Option<(PolicyId, version::Told)> {
    let version = listed.version.clone()?;
    let told = match listed.is {
        Is::Object(_) => version::Told::Taken(version),
        Is::Undecodable(_) => version::Told::Refused(version),
    };
    Some((policy(listed)?.clone(), told))
}

#[cfg(test)]
mod tests {
    use policy_core::engine::{Engine, NodeContext};
    use serde_json::{Value, json};

    use super::super::follow::Follower;
    use super::super::merge::Merge;
    use super::*;
    use crate::source::convert::Names;

    struct Server {
        follower: Follower,
        merge: Merge,
        engine: Engine,
        names: Names,
    }

    fn policy(name: &str, generation: i64, spec: &Value) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": name, "generation": generation},
            "spec": spec,
        })
    }

    impl Server {
        fn new() -> Self {
            Self {
                follower: Follower::new(Feed::Policies),
                merge: Merge::new("n1".into()),
                engine: Engine::new(NodeContext::default()),
                names: Names::new(),
            }
        }

        fn take(&mut self, told: Told) -> Vec<String> {
            let versions = news(Feed::Policies, &told, self.engine.store());
            let events = self.merge.take(Feed::Policies, told, self.engine.store());
            self.engine.apply(events);
            let shown = versions.iter().map(|(id, told)| match told {
                version::Told::Taken(version) => format!("{id} taken {:?}", version.generation),
                version::Told::Refused(version) => format!("{id} refused {:?}", version.generation),
                version::Told::Gone => format!("{id} gone"),
            });
            shown.collect()
        }

        fn list(&mut self, objects: &[Value]) -> Vec<String> {
            self.follower.begin();
            for object in objects {
                let text = object.to_string();
                self.follower.item(&text, &mut self.names).unwrap();
            }
            let told = self.follower.end("1".to_owned());
            self.take(told)
        }

        fn event(&mut self, kind: &str, object: &Value) -> Vec<String> {
            let line = json!({"type": kind, "object": object}).to_string();
            let mut told = Vec::new();
            self.follower
                .line(line.as_bytes(), &mut self.names, &mut told)
                .unwrap();
            told.into_iter().flat_map(|told| self.take(told)).collect()
        }
    }

    #[test]
    fn versions_of_lists_and_events_are_told_and_what_is_gone_is_gone() {
        let (good, bad) = (json!({}), json!({"ingress": 7}));
        let mut server = Server::new();
        let listed = server.list(&[policy("p", 1, &good), policy("q", 1, &good)]);
        assert_eq!(listed, ["shop/p taken Some(1)", "shop/q taken Some(1)"]);
        let changed = server.event("MODIFIED", &policy("p", 2, &bad));
        assert_eq!(changed, ["shop/p refused Some(2)"]);
        let listed = server.list(&[policy("p", 3, &good)]);
        assert_eq!(listed, ["shop/q gone", "shop/p taken Some(3)"]);
        let gone = server.event("DELETED", &policy("p", 3, &good));
        assert_eq!(gone, ["shop/p gone"]);
    }
}

//! Feeds against a scripted API server, and what becomes of what they tell.

mod lists;
mod merging;
mod server;
mod trouble;
mod waiting;

use std::path::PathBuf;
use std::time::Duration;

use policy_core::engine::{Engine, NodeContext};
use policy_core::store::Store;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::*;
use server::{Server, Stream};

/// Much longer than anything takes, also on a busy machine.
const BOUND: Duration = Duration::from_secs(20);
/// Long enough for something to happen that must not.
const QUIET: Duration = Duration::from_millis(150);

/// Short waits; and no list is short, so that nothing is listed again to answer a
/// question.
fn pace() -> Pace {
    Pace {
        first_wait: Duration::from_millis(20),
        longest_wait: Duration::from_millis(100),
        idle: Duration::from_secs(10),
        short_list: 0,
        settle: Duration::from_millis(300),
    }
}

/// A source under test, and the engine that it feeds.
struct Bed {
    server: Server,
    cluster: Cluster,
    engine: Engine,
    /// How often the loop was woken.
    woken: usize,
    dir: PathBuf,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A left-over of a test is no failure of it.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bed {
    /// The test answers all that is asked about `focus`; of every other resource
    /// there are no objects.
    async fn new(focus: &'static str) -> Self {
        Self::with(Server::start(focus).await, pace())
    }

    fn with(server: Server, pace: Pace) -> Self {
        let dir = std::env::temp_dir().join(format!(
            "policy-agent-kubernetes-{}-{}",
            std::process::id(),
            server.port()
        ));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("token"), "first").unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("http://127.0.0.1:{}", server.port())}}],
            "users": [{"name": "u", "user": {"tokenFile": dir.join("token")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let file = dir.join("config");
        std::fs::write(&file, config.to_string()).unwrap();
        let options = Options {
            access: Access::Kubeconfig(file),
            node: "n1".into(),
            pace,
        };
        let cluster = Cluster::start_with(options, || 0.5).unwrap();
        let engine = Engine::new(NodeContext {
            name: "n1".into(),
            ..NodeContext::default()
        });
        Self {
            server,
            cluster,
            engine,
            woken: 0,
            dir,
        }
    }

    fn store(&self) -> &Store {
        self.engine.store()
    }

    /// Applies what comes until `done`; panics after [`BOUND`].
    #[track_caller]
    fn until<'a>(
        &'a mut self,
        what: &'a str,
        mut done: impl FnMut(&Cluster, &Store) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let end = Instant::now() + BOUND;
            while !done(&self.cluster, self.engine.store()) {
                match timeout_at(end, self.cluster.changed()).await {
                    Ok(Ok(())) => {
                        self.woken += 1;
                        self.cluster.apply(&mut self.engine, |_| {}, |event| event);
                    }
                    Ok(Err(error)) => panic!("{caller}: {error}"),
                    Err(_) => panic!("{caller}: never: {what}; {:?}", self.cluster.states()),
                }
            }
        }
    }

    /// Applies what comes for a while, during which `holds` must hold.
    #[track_caller]
    fn meanwhile<'a>(
        &'a mut self,
        what: &'a str,
        mut holds: impl FnMut(&Cluster, &Store) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let end = Instant::now() + QUIET;
            loop {
                assert!(
                    holds(&self.cluster, self.engine.store()),
                    "{caller}: {what}"
                );
                match timeout_at(end, self.cluster.changed()).await {
                    Ok(Ok(())) => {
                        self.cluster.apply(&mut self.engine, |_| {}, |event| event);
                    }
                    Ok(Err(error)) => panic!("{caller}: {error}"),
                    Err(_) => return,
                }
            }
        }
    }

    async fn synced(&mut self) {
        self.until("synced", |cluster, _| cluster.is_synced()).await;
    }

    /// Answers the streaming list of the resource in focus, and gives the watch that
    /// it goes on as.
    async fn stream_list(&mut self, objects: &[Value], version: &str) -> Stream {
        let call = self.server.call().await;
        assert!(call.is_streaming_list(), "{}", call.uri());
        let mut stream = call.stream().await;
        for object in objects {
            stream.event("ADDED", object).await;
        }
        stream.complete(version).await;
        stream
    }
}

/// A policy that isolates all pods of namespace `a`.
fn policy(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "a", "name": name, "uid": name,
                     "resourceVersion": version.to_string()},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    })
}

/// One that allows something, too.
fn open_policy(name: &str, version: u64) -> Value {
    let mut policy = policy(name, version);
    policy["spec"]["ingress"] = json!([{}]);
    policy
}

/// One that does not decode.
fn undecodable(name: &str, version: u64) -> Value {
    let mut policy = policy(name, version);
    policy["spec"]["ingress"] = json!("everything");
    policy
}

/// The names of the policies, with `+` for those that allow something.
fn names(store: &Store) -> Vec<String> {
    let policies = store.policies().values();
    policies
        .map(|policy| {
            let rules = policy.ingress.as_ref().map_or(0, Vec::len);
            format!("{}{}", policy.id.name, if rules > 0 { "+" } else { "" })
        })
        .collect()
}

fn state(cluster: &Cluster, feed: Feed) -> FeedState {
    cluster.states().get(&feed).cloned().unwrap_or_default()
}

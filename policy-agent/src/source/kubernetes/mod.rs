//! Objects from a cluster's API server.
//!
//! ```text
//! Feed -> Task (one for each: list, watch, again) -> Told -> Merge -> events for the store
//!           Connection, Lines, wire, Follower
//! ```
//!
//! Tasks run on a thread of their own, which decodes and holds no state of the
//! agent; the agent's loop takes what is ready and applies it as one change.
//! Objects go straight from the text of an event into the model (`convert`), and
//! nothing else keeps them: the store is the only place.
//!
//! - [`Feed`]: what is watched, and the requests for it.
//! - `connect`: where the server is and who we are; `wire`, `lines`: the frame
//!   around objects.
//! - `follow`: lists and watches in their order, pure; `task`: the same over a
//!   connection, with all that can go wrong; `backoff`: how long to wait then.
//! - `told`: what goes to the loop; `merge`: what becomes of it there;
//!   `versions`: which versions of policies that is.

mod backoff;
mod connect;
mod feed;
mod follow;
mod lines;
mod merge;
mod task;
#[cfg(test)]
mod tests;
mod told;
mod versions;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::engine::Engine;
use policy_core::store::SourceEvent;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::LocalSet;

pub use connect::Access;
pub use feed::Feed;
pub use task::Pace;
pub use told::FeedState;

pub(crate) use connect::{Connection, Failure};

use merge::Merge;
use task::{Shared, Task};
use told::Report;

use crate::source::version::Versions;

/// Reports that wait for the loop at most; then the tasks wait, and the server
/// with them.
const WAITING: usize = 64;

/// What the source is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// How to get at the API server.
    pub access: Access,
    /// This node's name.
    pub node: Arc<str>,
    /// How long to wait for what.
    pub pace: Pace,
}

/// What was applied.
#[derive(Debug)]
pub struct News<'e> {
    /// When it was read from the server.
    pub at: Instant,
    /// What it is for the store.
    pub events: &'e [SourceEvent],
    /// Which versions of policies these are.
    pub versions: Versions,
}

/// A cluster that is watched.
#[derive(Debug)]
pub struct Cluster {
    reports: mpsc::Receiver<Report>,
    /// Reports that nobody has applied yet.
    inbox: Vec<Report>,
    asked: watch::Sender<u64>,
    merge: Merge,
    states: BTreeMap<Feed, FeedState>,
    passed: BTreeMap<Feed, u64>,
    /// The log says that some feed is without the server.
    is_gone: bool,
    /// The tasks end when this does.
    _alive: oneshot::Sender<()>,
}

/// The tasks have ended, which they never do by themselves.
#[derive(Debug, thiserror::Error)]
#[error("the thread that watches the API server has ended")]
pub struct Ended;

impl Cluster {
    /// Starts to watch. What becomes of it is in [`Self::states`]; a server that
    /// is away is no error.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(options: Options) -> std::io::Result<Self> {
        let seed = RandomState::new();
        let mut count: u64 = 0;
        let random = move || {
            count += 1;
            // 53 bits: as many as a fraction holds.
            #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
            let numerator = (seed.hash_one(count) >> 11) as f64;
            #[expect(clippy::cast_precision_loss, reason = "a power of two fits")]
            let denominator = (1_u64 << 53) as f64;
            numerator / denominator
        };
        Self::start_with(options, random)
    }

    /// The same, with numbers from 0 to 1 that say how long to wait after failures.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_with(
        options: Options,
        random: impl FnMut() -> f64 + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, reports) = mpsc::channel(WAITING);
        let (asked, questions) = watch::channel(0);
        let (alive, ended) = oneshot::channel::<()>();
        let merge = Merge::new(options.node.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || {
                let shared = Rc::new(Shared {
                    connection: Connection::new(options.access),
                    names: RefCell::default(),
                    node: options.node.to_string(),
                    pace: options.pace,
                    random: RefCell::new(Box::new(random)),
                    reachable: Notify::new(),
                });
                let tasks = LocalSet::new();
                for feed in Feed::ALL {
                    let task = Task::new(feed, shared.clone(), sender.clone(), questions.clone());
                    tasks.spawn_local(task.run());
                }
                drop(sender);
                // The sender is only ever dropped.
                let end = tasks.run_until(async move { drop(ended.await) });
                runtime.block_on(end);
            })?;
        let states = Feed::ALL.map(|feed| (feed, FeedState::default()));
        Ok(Self {
            reports,
            inbox: Vec::new(),
            asked,
            merge,
            states: states.into(),
            passed: BTreeMap::new(),
            is_gone: false,
            _alive: alive,
        })
    }

    /// Returns when there is something to [`Self::apply`]. Nothing is lost when the
    /// future is dropped.
    ///
    /// # Errors
    /// When nothing will ever come again.
    pub async fn changed(&mut self) -> Result<(), Ended> {
        if self.inbox.is_empty() {
            let report = self.reports.recv().await.ok_or(Ended)?;
            self.inbox.push(report);
        }
        // What is ready is one change.
        while self.inbox.len() < WAITING
            && let Ok(report) = self.reports.try_recv()
        {
            self.inbox.push(report);
        }
        Ok(())
    }

    /// Applies what has come, as `read` reads it, and says what it was; true if
    /// objects were told.
    pub fn apply(
        &mut self,
        engine: &mut Engine,
        mut heard: impl FnMut(News<'_>),
        mut read: impl FnMut(SourceEvent) -> SourceEvent,
    ) -> bool {
        let mut news = false;
        for report in self.inbox.drain(..) {
            let Report {
                at,
                feed,
                told,
                state,
                passed,
            } = report;
            for told in told {
                news = true;
                let versions = versions::news(feed, &told, engine.store());
                let events = self.merge.take(feed, told, engine.store());
                heard(News {
                    at,
                    events: &events,
                    versions,
                });
                engine.apply(events.into_iter().map(&mut read));
            }
            self.states.insert(feed, state);
            self.passed.insert(feed, passed);
        }
        self.say();
        news
    }

    /// Tells the log when the server goes away and when it is back, once each.
    fn say(&mut self) {
        let mut gone = self.states.iter();
        let gone = gone.find(|(_, state)| state.disconnected.is_some());
        match (gone, self.is_gone) {
            (Some((feed, state)), false) => {
                self.is_gone = true;
                let why = state.last_error.as_deref().unwrap_or("no answer");
                eprintln!(
                    "API server: {} cannot be watched: {why}; what is in force stays in force",
                    feed.name()
                );
            }
            (None, true) => {
                self.is_gone = false;
                eprintln!("API server: everything is watched again");
            }
            _ => {}
        }
    }

    /// Whether every feed has told a complete list.
    pub fn is_synced(&self) -> bool {
        self.states.values().all(|state| state.synced)
    }

    /// How each feed is.
    pub fn states(&self) -> &BTreeMap<Feed, FeedState> {
        &self.states
    }

    /// Asks every feed to catch up with the server; the answer is
    /// [`Self::has_passed`].
    pub fn ask(&mut self) -> u64 {
        self.asked.send_modify(|asked| *asked += 1);
        *self.asked.borrow()
    }

    /// Whether all that the server had before the question was asked is applied.
    pub fn has_passed(&self, question: u64) -> bool {
        Feed::ALL.iter().all(|feed| {
            self.passed
                .get(feed)
                .is_some_and(|passed| *passed >= question)
        })
    }

    /// What is wrong with objects and with the connection, sorted.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<Diagnostic> = self.merge.problems().cloned().collect();
        for (feed, state) in &self.states {
            let Some(since) = state.disconnected else {
                continue;
            };
            let stays = if state.synced {
                "what was last known of them stays in force"
            } else {
                "nothing of what is in force changes until they are known"
            };
            all.push(Diagnostic {
                object: "API server".to_owned(),
                source: None,
                path: feed.name().to_owned(),
                severity: Severity::Warning,
                message: format!(
                    "cannot be watched for {} s: {}; {stays}",
                    since.elapsed().as_secs(),
                    state.last_error.as_deref().unwrap_or("no answer"),
                ),
            });
        }
        all.sort();
        all
    }
}

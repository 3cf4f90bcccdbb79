//! The task of one feed: lists, watches, and tries again for as long as the agent
//! lives.
//!
//! Nothing is told of a list before it is complete, and nothing is ever taken
//! back because the server cannot be asked.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::connect::{Connection, Failure};
use super::feed::Feed;
use super::follow::{Broken, Follower};
use super::lines::Lines;
use super::told::{FeedState, Report, Told};
use super::wire;
use crate::source::convert::Names;

/// After so many failures in a row that may come from the version at which a watch
/// goes on (a restored etcd has not reached it yet), everything is listed again.
const TRIES_AT_VERSION: u32 = 4;

/// Times that are not the server's to say.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The first wait after a failure, at most.
    pub first_wait: Duration,
    /// Any wait after a failure, at most.
    pub longest_wait: Duration,
    /// How long a stream may be silent. A watch has a bookmark every minute
    /// (k8s.io/apiserver, `cacher.go`, `defaultBookmarkFrequency`); one that has
    /// none for longer is taken for dead, which costs no more than asking again.
    pub idle: Duration,
    /// Lists of up to so many objects are asked for again to answer
    /// `status --wait`; longer ones only if their watch does not say in time that
    /// it is up to date.
    pub short_list: usize,
    /// How long that may take.
    pub settle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(15),
            idle: Duration::from_secs(100),
            short_list: 1000,
            settle: Duration::from_secs(2),
        }
    }
}

/// What the tasks share, on their one thread.
pub(super) struct Shared {
    pub(super) connection: Connection,
    pub(super) names: RefCell<Names>,
    pub(super) node: String,
    pub(super) pace: Pace,
    /// A number from 0 to 1 that nobody can tell before.
    pub(super) random: RefCell<Box<dyn FnMut() -> f64>>,
    /// Some task has got an answer after it had none.
    pub(super) reachable: Notify,
}

/// A feed's task.
pub(super) struct Task {
    feed: Feed,
    shared: Rc<Shared>,
    follower: Follower,
    backoff: Backoff,
    reports: mpsc::Sender<Report>,
    /// The last question about being up to date, see [`Report::passed`].
    asked: watch::Receiver<u64>,
    passed: u64,
    state: FeedState,
    /// The server knows lists that are streams.
    streams: bool,
    /// A watch was opened before.
    watched: bool,
}

/// Why a stream is not followed any further.
#[derive(Debug)]
enum End {
    /// Its time was up.
    Over,
    /// Somebody asks whether all is up to date: list again.
    Asked,
    /// The version is not kept any more: list again.
    Expired,
    Failed(Failure),
    /// The agent ends.
    Stopped,
}

/// A version that the watch has to reach.
struct Goal {
    asked: u64,
    version: u64,
    until: tokio::time::Instant,
}

impl Task {
    pub(super) fn new(
        feed: Feed,
        shared: Rc<Shared>,
        reports: mpsc::Sender<Report>,
        asked: watch::Receiver<u64>,
    ) -> Self {
        let backoff = Backoff::new(shared.pace.first_wait, shared.pace.longest_wait);
        Self {
            feed,
            shared,
            follower: Follower::new(feed),
            backoff,
            reports,
            asked,
            passed: 0,
            state: FeedState::default(),
            streams: true,
            watched: false,
        }
    }

    /// Runs until nobody listens any more.
    pub(super) async fn run(mut self) {
        loop {
            let version = self.follower.version().map(str::to_owned);
            let end = match version {
                Some(version) => self.watch(&version).await,
                None if self.streams => self.streaming_list().await,
                None => self.paged_list().await,
            };
            match end {
                End::Over => {}
                End::Asked => self.follower.forget(),
                End::Expired => {
                    self.follower.forget();
                    self.state.last_error =
                        Some("410: the version is not kept any more; listing again".to_owned());
                    // A server that has been away says so to every node at once.
                    let random = (self.shared.random.borrow_mut())();
                    sleep(self.backoff.after_failure(random)).await;
                }
                End::Failed(failure) => {
                    if self.failed(failure).await.is_break() {
                        return;
                    }
                }
                End::Stopped => return,
            }
        }
    }

    /// Says that something failed, and waits before it is tried again.
    async fn failed(&mut self, failure: Failure) -> ControlFlow<()> {
        if self.follower.is_listing() {
            self.follower.forget();
        }
        let since = Instant::now();
        self.state.disconnected.get_or_insert(since);
        let (text, asks_for) = match &failure {
            Failure::Unreachable(why) => (why.clone(), None),
            Failure::Unauthorized => (
                "401: the server does not take the token; it was read again".to_owned(),
                None,
            ),
            Failure::Refused(refusal) if refusal.code == 403 => (
                format!(
                    "{refusal}; the agent's role needs list and watch of {}",
                    self.feed.resource()
                ),
                None,
            ),
            Failure::Refused(refusal) => (refusal.to_string(), refusal.retry_after()),
            Failure::Garbage(why) => (why.clone(), None),
        };
        let is_about_version = match &failure {
            Failure::Garbage(_) => true,
            Failure::Refused(refusal) => !matches!(refusal.code, 403 | 429),
            Failure::Unreachable(_) | Failure::Unauthorized => false,
        };
        if is_about_version && self.backoff.failures() >= TRIES_AT_VERSION {
            self.follower.forget();
        }
        self.state.last_error = Some(text);
        let random = (self.shared.random.borrow_mut())();
        // The first time the new token may be all that was missing.
        let again_at_once = failure == Failure::Unauthorized && self.backoff.failures() == 0;
        let mut wait = self.backoff.after_failure(random);
        if again_at_once {
            wait = Duration::ZERO;
        }
        if let Some(seconds) = asks_for {
            wait = wait.max(Duration::from_secs(seconds.into()));
        }
        if self.report(Vec::new()).await.is_break() {
            return ControlFlow::Break(());
        }
        let shared = self.shared.clone();
        let reachable = shared.reachable.notified();
        tokio::select! {
            () = sleep(wait) => {}
            () = reachable, if matches!(failure, Failure::Unreachable(_)) => {}
            () = self.reports.closed() => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// The server has answered as it should.
    fn answered(&mut self) {
        if self.state.disconnected.take().is_some() {
            self.shared.reachable.notify_waiters();
        }
    }

    async fn report(&mut self, told: Vec<Told>) -> ControlFlow<()> {
        let report = Report {
            at: Instant::now(),
            feed: self.feed,
            told,
            state: self.state.clone(),
            passed: self.passed,
        };
        match self.reports.send(report).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// A list has been told completely that was asked for after the question.
    fn listed(&mut self, asked: u64) {
        self.answered();
        self.backoff.reset();
        self.passed = self.passed.max(asked);
        self.state.synced = true;
        self.state.lists += 1;
        self.state.listed = self.follower.listed();
    }

    async fn streaming_list(&mut self) -> End {
        let asked = *self.asked.borrow_and_update();
        let request = self.feed.streaming_list(&self.shared.node);
        match self.ask(request).await {
            Ok(body) => {
                self.follower.begin();
                self.watched = true;
                let end = self.follow(body, asked).await;
                if self.follower.is_listing() && !matches!(end, End::Stopped) {
                    // Whatever it was, the other way may work.
                    self.streams = false;
                }
                end
            }
            Err(Failure::Refused(refusal)) if matches!(refusal.code, 400 | 406 | 422) => {
                self.streams = false;
                End::Over
            }
            Err(failure) => End::Failed(failure),
        }
    }

    async fn paged_list(&mut self) -> End {
        let asked = *self.asked.borrow_and_update();
        self.follower.begin();
        let mut next: Option<String> = None;
        loop {
            let request = self.feed.page(&self.shared.node, next.as_deref());
            let text = match self.read_all(request).await {
                Ok(text) => text,
                Err(Failure::Refused(refusal)) if refusal.is_expired() => return End::Expired,
                Err(failure) => return End::Failed(failure),
            };
            match self.take_page(&text) {
                Ok(Page::More(more)) => next = Some(more),
                Ok(Page::Last(version)) => {
                    let told = self.follower.end(version);
                    self.listed(asked);
                    // What streams cannot do today they may do tomorrow.
                    self.streams = true;
                    return match self.report(vec![told]).await {
                        ControlFlow::Continue(()) => End::Over,
                        ControlFlow::Break(()) => End::Stopped,
                    };
                }
                Err(why) => return End::Failed(Failure::Garbage(why)),
            }
        }
    }

    fn take_page(&mut self, text: &[u8]) -> Result<Page, String> {
        let page = wire::page(text)?;
        let mut names = self.shared.names.borrow_mut();
        for item in &page.items {
            self.follower
                .item(item.get(), &mut names)
                .map_err(|broken| say(&broken))?;
        }
        Ok(match page.next {
            Some(next) => Page::More(next),
            None => Page::Last(page.version),
        })
    }

    async fn watch(&mut self, version: &str) -> End {
        let request = self.feed.watch(&self.shared.node, version);
        if self.watched {
            self.state.restarts += 1;
        }
        self.watched = true;
        match self.ask(request).await {
            Ok(body) => {
                self.answered();
                if self.report(Vec::new()).await.is_break() {
                    return End::Stopped;
                }
                self.follow(body, self.passed).await
            }
            Err(Failure::Refused(refusal)) if refusal.is_expired() => End::Expired,
            Err(failure) => End::Failed(failure),
        }
    }

    /// Follows a stream to its end. `asked`: the last question before it was
    /// opened, if a list comes first.
    async fn follow(&mut self, mut body: Body, asked: u64) -> End {
        let mut lines = Lines::default();
        let mut goal: Option<Goal> = None;
        let opened = Instant::now();
        let mut heard = false;
        loop {
            let was_listing = self.follower.is_listing();
            let deadline = goal.as_ref().map(|goal| goal.until);
            let frame = tokio::select! {
                frame = timeout(self.shared.pace.idle, body.frame()) => frame,
                changed = self.asked.changed(), if !was_listing => {
                    if changed.is_err() {
                        return End::Stopped;
                    }
                    match self.question().await {
                        Some(new) => goal = Some(new),
                        None => return End::Asked,
                    }
                    continue;
                }
                () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)),
                    if deadline.is_some() => return End::Asked,
            };
            let frame = match frame {
                Err(_) => {
                    return failed(format!("nothing came for {:?}", self.shared.pace.idle));
                }
                Ok(None) if lines.is_partial() || was_listing => {
                    return failed("the answer was cut off".to_owned());
                }
                // A watch that ends before anything came of it is not to be opened
                // again at once for ever.
                Ok(None) if !heard && opened.elapsed() < self.shared.pace.first_wait => {
                    return failed("the watch ended at once".to_owned());
                }
                Ok(None) => return End::Over,
                Ok(Some(Err(error))) => return failed(super::connect::describe(&error)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Some(data) = frame.data_ref() else {
                continue;
            };
            let mut told = Vec::new();
            let flow = {
                let mut names = self.shared.names.borrow_mut();
                let follower = &mut self.follower;
                lines.take(data, |line| {
                    match follower.line(line, &mut names, &mut told) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(broken) => ControlFlow::Break(broken),
                    }
                })
            };
            heard = true;
            if was_listing && !self.follower.is_listing() {
                self.listed(asked);
            } else if !self.follower.is_listing() && matches!(flow, Ok(ControlFlow::Continue(()))) {
                self.backoff.reset();
            }
            let passed = self.passed;
            if let Some(reached) = goal.take_if(|goal| {
                let version = self.follower.version().and_then(number);
                version.is_some_and(|version| version >= goal.version)
            }) {
                self.passed = self.passed.max(reached.asked);
            }
            if (!told.is_empty() || self.passed != passed) && self.report(told).await.is_break() {
                return End::Stopped;
            }
            match flow {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(Broken::Refused(refusal))) if refusal.is_expired() => {
                    return End::Expired;
                }
                Ok(ControlFlow::Break(Broken::Refused(refusal))) => {
                    return End::Failed(Failure::Refused(refusal));
                }
                Ok(ControlFlow::Break(broken)) => {
                    return End::Failed(Failure::Garbage(say(&broken)));
                }
                Err(_) => {
                    let why = "a line is longer than any object".to_owned();
                    return End::Failed(Failure::Garbage(why));
                }
            }
        }
    }

    /// Somebody asks whether all is up to date. `None`: list again to find out;
    /// else what the watch has to reach.
    async fn question(&mut self) -> Option<Goal> {
        let asked = *self.asked.borrow_and_update();
        if self.follower.listed() <= self.shared.pace.short_list {
            return None;
        }
        let request = self.feed.peek(&self.shared.node);
        let text = timeout(self.shared.pace.settle, self.read_all(request)).await;
        let version = number(&wire::page(&text.ok()?.ok()?).ok()?.version)?;
        Some(Goal {
            asked,
            version,
            until: tokio::time::Instant::now() + self.shared.pace.settle,
        })
    }

    async fn ask(&self, request: http::Request<Vec<u8>>) -> Result<Body, Failure> {
        let idle = self.shared.pace.idle;
        let answer = timeout(idle, self.shared.connection.get(request)).await;
        answer.unwrap_or_else(|_| Err(Failure::Unreachable(format!("no answer came for {idle:?}"))))
    }

    async fn read_all(&self, request: http::Request<Vec<u8>>) -> Result<Vec<u8>, Failure> {
        let mut body = self.ask(request).await?;
        let idle = self.shared.pace.idle;
        let mut text = Vec::new();
        while let Some(frame) = timeout(idle, body.frame())
            .await
            .map_err(|_| Failure::Unreachable(format!("a list stopped for {idle:?}")))?
        {
            let frame =
                frame.map_err(|error| Failure::Unreachable(super::connect::describe(&error)))?;
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        Ok(text)
    }
}

/// What a page was.
enum Page {
    /// More is to be had with this.
    More(String),
    /// The whole list has this version.
    Last(String),
}

/// Versions of one kind are numbers that grow (k8s.io/apiserver,
/// `APIObjectVersioner.CompareResourceVersion`; promised by KEP-5504, "Comparable
/// Resource Version"). A server for which they are not is listed again.
fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}

fn failed(why: String) -> End {
    End::Failed(Failure::Unreachable(why))
}

fn say(broken: &Broken) -> String {
    match broken {
        Broken::Garbage(why) => why.clone(),
        Broken::Refused(refusal) => refusal.to_string(),
        Broken::NoList => "the server does not know streaming lists".to_owned(),
    }
}

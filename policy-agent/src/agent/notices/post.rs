//! Posts Events, on a thread of its own.
//!
//! Who tells never waits: what the thread cannot take is lost, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use policy_core::diagnostic::{Diagnostic, Severity};
use tokio::sync::{mpsc, watch};

use super::Notice;
use super::recorder::{Answer, Now, Post, Recorder};
use crate::source::kubernetes::{Access, Connection, Failure};

/// Notices that wait for the thread.
const WAITING: usize = 256;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where Events are.
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces";

/// The way to the thread that posts.
#[derive(Debug)]
pub(in super::super) struct Poster {
    notices: mpsc::Sender<Notice>,
    lost: Arc<AtomicU64>,
    posted: Arc<AtomicU64>,
    forbidden: watch::Receiver<Forbidden>,
}

/// Why the server forbids what was asked last, if it does.
type Forbidden = Option<String>;

impl Poster {
    /// Starts the thread, which ends when this is dropped.
    pub(in super::super) fn start(access: Access, node: Arc<str>) -> std::io::Result<Self> {
        let (sender, notices) = mpsc::channel(WAITING);
        let (lost, posted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (forbids, forbidden) = watch::channel(None);
        let poster = Self {
            notices: sender,
            lost: lost.clone(),
            posted: posted.clone(),
            forbidden,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("kubernetes-post".to_owned())
            .spawn(move || {
                let connection = Connection::new(access);
                let recorder = Recorder::new(node);
                let counts = (&*lost, &*posted);
                runtime.block_on(post(&connection, notices, recorder, counts, &forbids));
            })?;
        Ok(poster)
    }

    /// Posts a notice some time soon, if that can be.
    pub(in super::super) fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notices that were not posted.
    pub(in super::super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }

    /// What is wrong: the server takes no Events from this agent.
    pub(in super::super) fn problem(&self) -> Option<Diagnostic> {
        let why = self.forbidden.borrow().clone()?;
        Some(Diagnostic {
            object: "API server".to_owned(),
            source: None,
            path: "events".to_owned(),
            severity: Severity::Warning,
            message: format!("{why}; the agent's role needs create and patch of events"),
        })
    }

    /// Requests that the server took.
    pub(in super::super) fn posted(&self) -> u64 {
        self.posted.load(Ordering::Acquire)
    }
}

async fn post(
    connection: &Connection,
    mut notices: mpsc::Receiver<Notice>,
    mut recorder: Recorder,
    (lost, posted): (&AtomicU64, &AtomicU64),
    forbids: &watch::Sender<Forbidden>,
) {
    let mut told_lost = 0;
    loop {
        // All that is there, before the first request.
        while let Ok(notice) = notices.try_recv() {
            recorder.tell(notice, now());
        }
        while let Some(request) = recorder.next(Instant::now()) {
            let sent = tokio::time::timeout(PATIENCE, send(connection, &request)).await;
            let answer = match sent {
                Ok(Ok(())) => {
                    // In this order: who sees the count sees that it is not forbidden.
                    forbids.send_replace(None);
                    posted.fetch_add(1, Ordering::Release);
                    Answer::Done
                }
                Ok(Err(failure)) => {
                    if let Failure::Refused(refusal) = &failure
                        && refusal.code == 403
                    {
                        forbids.send_replace(Some(refusal.to_string()));
                    }
                    answer_of(&request, &failure)
                }
                Err(_late) => Answer::Failed,
            };
            recorder.answered(answer, Instant::now());
        }
        lost.fetch_add(recorder.lost() - told_lost, Ordering::Release);
        told_lost = recorder.lost();
        let wake = recorder.wake(Instant::now());
        let sleep = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now).into());
        tokio::select! {
            notice = notices.recv() => match notice {
                Some(notice) => recorder.tell(notice, now()),
                None => return,
            },
            () = sleep, if wake.is_some() => {}
        }
    }
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: Timestamp::now(),
    }
}

async fn send(connection: &Connection, post: &Post) -> Result<(), Failure> {
    let (request, body) = match post {
        Post::Create { namespace, event } => {
            let request = http::Request::post(format!("{EVENTS}/{namespace}/events"))
                .header(http::header::CONTENT_TYPE, "application/json");
            (request, event)
        }
        Post::Patch {
            namespace,
            name,
            patch,
        } => {
            let request = http::Request::patch(format!("{EVENTS}/{namespace}/events/{name}"))
                .header(http::header::CONTENT_TYPE, "application/merge-patch+json");
            (request, patch)
        }
    };
    let request = request.body(body.to_string().into_bytes());
    let request = request.map_err(|error| Failure::Garbage(error.to_string()))?;
    connection.get(request).await.map(drop)
}

fn answer_of(post: &Post, failure: &Failure) -> Answer {
    match failure {
        Failure::Unreachable(_) | Failure::Unauthorized | Failure::Garbage(_) => Answer::Failed,
        Failure::Refused(refusal) => match refusal.code {
            409 => Answer::Exists,
            404 => match post {
                // The namespace is gone, and its Events with it.
                Post::Create { .. } => Answer::Refused,
                Post::Patch { .. } => Answer::Missing,
            },
            408 | 429 | 500.. => Answer::Failed,
            _ => Answer::Refused,
        },
    }
}

#[cfg(test)]
mod tests;

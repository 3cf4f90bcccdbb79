//! Live verdicts for whoever watches, over the agent's socket.
//!
//! Each watcher has a filter and a queue of bounded length. The loop puts a line
//! into the queues that want it and never waits: a watcher that does not keep up
//! loses lines, and is told how many as soon as it reads again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::verdicts::VerdictLine;
use crate::api::MonitorFilter;

/// Lines that may wait for one watcher.
const WAITING: usize = 1_024;
/// Watchers at one time.
const WATCHERS: usize = 8;

/// Everybody who watches. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Monitors {
    watchers: Arc<Mutex<Vec<Watcher>>>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Watcher {
    filter: MonitorFilter,
    queue: mpsc::Sender<Arc<str>>,
    lost: Arc<AtomicU64>,
}

/// A watcher's end.
#[derive(Debug)]
pub(super) struct Subscription {
    queue: mpsc::Receiver<Arc<str>>,
    lost: Arc<AtomicU64>,
}

/// What a watcher gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A verdict, as JSON.
    Line(Arc<str>),
    /// So many verdicts were lost after those before.
    Lost(u64),
}

impl Monitors {
    /// Adds a watcher; `None`: there are too many.
    pub(super) fn subscribe(&self, filter: MonitorFilter) -> Option<Subscription> {
        let mut watchers = self.watchers();
        watchers.retain(|watcher| !watcher.queue.is_closed());
        if watchers.len() >= WATCHERS {
            return None;
        }
        let (sender, queue) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        watchers.push(Watcher {
            filter,
            queue: sender,
            lost: lost.clone(),
        });
        Some(Subscription { queue, lost })
    }

    /// Gives a line to those who want it.
    pub(super) fn publish(&self, line: &VerdictLine) {
        let mut watchers = self.watchers();
        if watchers.is_empty() {
            return;
        }
        // Written once, for the first who wants it.
        let mut text: Option<Arc<str>> = None;
        watchers.retain(|watcher| {
            if !line.matches(&watcher.filter) {
                return !watcher.queue.is_closed();
            }
            let text = text.get_or_insert_with(|| {
                let json = serde_json::to_string(line);
                json.unwrap_or_else(|_| "null".to_owned()).into()
            });
            match watcher.queue.try_send(text.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.lost.fetch_add(1, Ordering::Relaxed);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }

    /// How many watch.
    pub(super) fn count(&self) -> usize {
        let mut watchers = self.watchers();
        watchers.retain(|watcher| !watcher.queue.is_closed());
        watchers.len()
    }

    /// Lines that watchers lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, Vec<Watcher>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next that there is to tell; `None`: the agent is ending.
    pub(super) async fn next(&mut self) -> Option<Told> {
        // Lines are lost while the queue is full, so after all that is in it.
        match self.queue.try_recv() {
            Ok(line) => return Some(Told::Line(line)),
            Err(mpsc::error::TryRecvError::Disconnected) => return None,
            Err(mpsc::error::TryRecvError::Empty) => {}
        }
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => self.queue.recv().await.map(Told::Line),
            lost => Some(Told::Lost(lost)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdicts::tests::line;
    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    fn all() -> MonitorFilter {
        MonitorFilter::default()
    }

    #[test]
    fn watcher_gets_what_it_asked_for_and_nothing_else() {
        let monitors = Monitors::default();
        let shop = MonitorFilter {
            namespace: Some("shop".to_owned()),
            ..all()
        };
        let mut of_shop = monitors.subscribe(shop).unwrap();
        monitors.publish(&line("lab", "far"));
        monitors.publish(&line("shop", "db"));
        let Some(Told::Line(text)) = now(of_shop.next()) else {
            panic!("a line");
        };
        assert!(text.contains("\"pod_name\":\"db\""), "{text}");
        assert_eq!(monitors.lost(), 0);
    }

    #[test]
    fn slow_watcher_loses_lines_and_is_told_how_many_and_others_lose_none() {
        let monitors = Monitors::default();
        let mut slow = monitors.subscribe(all()).unwrap();
        let mut quick = monitors.subscribe(all()).unwrap();
        for _ in 0..WAITING {
            monitors.publish(&line("shop", "db"));
        }
        for _ in 0..WAITING {
            assert!(matches!(now(quick.next()), Some(Told::Line(_))));
        }
        for _ in 0..3 {
            monitors.publish(&line("shop", "db"));
            assert!(matches!(now(quick.next()), Some(Told::Line(_))));
        }
        assert_eq!(monitors.lost(), 3);
        for _ in 0..WAITING {
            assert!(matches!(now(slow.next()), Some(Told::Line(_))));
        }
        assert_eq!(now(slow.next()), Some(Told::Lost(3)));
        monitors.publish(&line("shop", "db"));
        assert!(matches!(now(slow.next()), Some(Told::Line(_))));
    }

    #[test]
    fn watchers_are_limited_and_make_room_when_they_go() {
        let monitors = Monitors::default();
        let mut watching: Vec<_> = (0..WATCHERS)
            .map(|_| monitors.subscribe(all()).unwrap())
            .collect();
        assert!(monitors.subscribe(all()).is_none());
        watching.pop();
        assert_eq!(monitors.count(), WATCHERS - 1);
        assert!(monitors.subscribe(all()).is_some());
    }
}

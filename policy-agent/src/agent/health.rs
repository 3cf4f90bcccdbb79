//! Whether the agent lives, and whether it is ready: the loop says so here, and
//! whoever is asked reads it without asking the loop.
//!
//! Living is turning: it depends on no API server and on no other node, so that
//! nobody restarts an agent that waits for something which a restart does not
//! bring. Ready is: every kind was read completely once, and every pod of the
//! node has the policies that it should.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A loop that has not turned for this long hangs: it wakes every few seconds,
/// and its longest work takes a second or so.
const HANGS: Duration = Duration::from_secs(30);

/// What is missing for the agent to be ready; empty: nothing.
pub(super) type Missing = Vec<String>;

/// The loop's end.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    beat: Arc<AtomicU64>,
    missing: watch::Sender<Missing>,
}

/// The end of those who are asked.
#[derive(Debug, Clone)]
pub(super) struct Health {
    began: Instant,
    beat: Arc<AtomicU64>,
    missing: watch::Receiver<Missing>,
}

/// Both ends. The agent lives, and is not ready.
pub(super) fn health(now: Instant) -> (Pulse, Health) {
    let beat = Arc::new(AtomicU64::new(0));
    let (sender, missing) = watch::channel(vec!["the agent is starting".to_owned()]);
    let health = Health {
        began: now,
        beat: beat.clone(),
        missing,
    };
    let pulse = Pulse {
        began: now,
        beat,
        missing: sender,
    };
    (pulse, health)
}

impl Pulse {
    /// The loop turns.
    pub(super) fn beat(&self, now: Instant) {
        let at = now.saturating_duration_since(self.began).as_millis();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        self.beat.store(at, Ordering::Relaxed);
    }

    /// What is missing now.
    pub(super) fn tell(&self, missing: Missing) {
        self.missing.send_if_modified(|before| {
            let differs = *before != missing;
            *before = missing;
            differs
        });
    }
}

impl Health {
    /// For how long the loop has hung, if it does.
    pub(super) fn hangs(&self, now: Instant) -> Option<Duration> {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        let age = now.saturating_duration_since(self.began + beat);
        (age > HANGS).then_some(age)
    }

    /// What is missing for the agent to be ready.
    pub(super) fn missing(&self) -> Missing {
        self.missing.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_lives_as_long_as_its_loop_turns_ready_or_not() {
        let start = Instant::now();
        let (pulse, health) = health(start);
        assert_eq!(health.hangs(start + HANGS), None);
        let later = start + HANGS + Duration::from_millis(1);
        assert!(health.hangs(later).is_some(), "it never turned");
        pulse.beat(start + HANGS);
        assert_eq!(health.hangs(later), None);
        assert!(!health.missing().is_empty(), "alive, and not ready");
        assert!(health.hangs(later + HANGS).is_some());
    }

    #[test]
    fn readiness_is_what_was_told_last() {
        let (pulse, health) = health(Instant::now());
        assert_eq!(health.missing().len(), 1, "it starts unready");
        pulse.tell(Vec::new());
        assert_eq!(health.missing(), Missing::new());
        pulse.tell(vec!["2 pods".to_owned()]);
        assert_eq!(health.missing(), ["2 pods"]);
    }
}

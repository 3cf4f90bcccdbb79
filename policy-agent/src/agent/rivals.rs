//! Others' programs before ours: found, put behind ours again, and told.
//!
//! How that is done is `datapath/front.rs`'s. Somebody who does the same for a
//! program of his own would fight with us for ever; so after some rounds on the
//! same hook each waits longer than the one before, up to a bound, and people are
//! told who it is. Pure but for the methods of `State`; time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use policy_core::diagnostic::{Diagnostic, Severity};

use super::state::State;
use crate::datapath::{AttachError, Displaced, Hook};

/// Rounds on a hook that are fought at once.
const AT_ONCE: u32 = 5;
/// The wait before the next round after these; doubled with each.
const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long after the last time it is told that it happened; then its rounds are
/// forgotten.
const TOLD_FOR: Duration = Duration::from_secs(600);
/// Names that are counted apart: others choose them.
const NAMES: usize = 16;
/// What those without a name and the rest are counted as.
pub(super) const UNNAMED: &str = "other";
/// How long one look may take: putting a program in front waits for grace periods.
const BUDGET: Duration = Duration::from_secs(1);

/// Hooks that others came before.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    hooks: BTreeMap<(u32, Hook), Contest>,
    /// Names that are counted apart.
    counted: BTreeSet<String>,
}

/// What is known of a hook.
#[derive(Debug)]
struct Contest {
    /// Who was before us when it was last so.
    by: Vec<String>,
    /// Times that it was so and something was tried.
    rounds: u32,
    /// When it was last so.
    seen: Instant,
    /// Not before this is something tried.
    next: Instant,
    /// It is so now, and why it stays so.
    now: Option<Now>,
}

#[derive(Debug)]
enum Now {
    Waits,
    Refused(String),
}

impl Rivals {
    /// What was found, at this time: the hooks on which to do something about it,
    /// those that nobody has waited for yet first.
    fn look(&mut self, found: &[Displaced], now: Instant) -> Vec<(u32, Hook)> {
        self.hooks.retain(|at, contest| {
            let is_so = found.iter().any(|hook| (hook.ifindex, hook.hook) == *at);
            if !is_so {
                contest.now = None;
            }
            is_so || now.saturating_duration_since(contest.seen) < TOLD_FOR
        });
        let mut due = Vec::new();
        for hook in found {
            let contest = self
                .hooks
                .entry((hook.ifindex, hook.hook))
                .or_insert_with(|| Contest {
                    by: Vec::new(),
                    rounds: 0,
                    seen: now,
                    next: now,
                    now: None,
                });
            contest.seen = now;
            contest.by = hook.by.iter().map(shown).collect();
            contest.now.get_or_insert(Now::Waits);
            if contest.next <= now {
                due.push((contest.rounds, (hook.ifindex, hook.hook)));
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, at)| at).collect()
    }

    /// Something was tried on a hook.
    fn tried(&mut self, at: (u32, Hook), result: Result<(), AttachError>, now: Instant) {
        let Some(contest) = self.hooks.get_mut(&at) else {
            return;
        };
        contest.rounds = contest.rounds.saturating_add(1);
        contest.next = now + wait(contest.rounds);
        contest.now = match result {
            // An interface that is gone is nobody's any more.
            Ok(()) | Err(AttachError::Gone { .. }) => None,
            Err(error) => Some(Now::Refused(error.to_string())),
        };
    }

    /// What somebody of this name is counted as.
    fn counted_as<'n>(&mut self, name: &'n str) -> &'n str {
        if name.is_empty() || (self.counted.len() >= NAMES && !self.counted.contains(name)) {
            return UNNAMED;
        }
        self.counted.insert(name.to_owned());
        name
    }

    /// Somebody is before us now.
    pub(super) fn any(&self) -> bool {
        self.hooks.values().any(|contest| contest.now.is_some())
    }

    /// Names of those who came before us lately, each once.
    pub(super) fn names(&self) -> Vec<&str> {
        let all = self.hooks.values().flat_map(|contest| &contest.by);
        let mut names: Vec<&str> = all.map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn problems(&self, name: impl Fn(u32) -> String) -> Vec<Diagnostic> {
        let told = self.hooks.iter().map(|((ifindex, hook), contest)| {
            let (severity, then) = match &contest.now {
                None => (Severity::Warning, "ours is the first again".to_owned()),
                Some(Now::Waits) => (
                    Severity::Error,
                    format!(
                        "it comes back whenever ours is put first ({} times), so that is tried \
                         less often, every {} s at last: end whatever attaches it",
                        contest.rounds,
                        LONGEST_WAIT.as_secs()
                    ),
                ),
                Some(Now::Refused(why)) => (
                    Severity::Error,
                    format!("ours could not be put first, and that is tried again: {why}"),
                ),
            };
            Diagnostic {
                object: format!("interface {}", name(*ifindex)),
                source: None,
                path: hook.to_string(),
                severity,
                message: format!(
                    "{} came before policy-agent's program: packets that it passed by itself \
                     were judged by no policy; {then}",
                    contest.by.join(", ")
                ),
            }
        });
        told.collect()
    }
}

fn shown(rival: &crate::datapath::Rival) -> String {
    match rival.name.as_str() {
        "" => format!("a program without a name ({})", rival.program),
        name => format!("program {name}"),
    }
}

/// How long after this many rounds the next one waits.
fn wait(rounds: u32) -> Duration {
    match rounds.checked_sub(AT_ONCE) {
        None => Duration::ZERO,
        Some(more) => FIRST_WAIT
            .saturating_mul(1u32.checked_shl(more).unwrap_or(u32::MAX))
            .min(LONGEST_WAIT),
    }
}

impl State {
    /// Looks who is before us, and puts our programs first where it is time to;
    /// whether any was put first.
    ///
    /// # Errors
    /// When it cannot be known who is where.
    pub(super) fn keep_in_front(&mut self) -> Result<bool, AttachError> {
        let found = self.datapath.displaced()?;
        let begun = Instant::now();
        let mut moved = false;
        for (ifindex, hook) in self.rivals.look(&found, begun) {
            if begun.elapsed() > BUDGET {
                // The others are first at the next look.
                break;
            }
            let result = self.datapath.put_in_front(ifindex, hook);
            let before = found
                .iter()
                .find(|found| (found.ifindex, found.hook) == (ifindex, hook));
            for rival in before.iter().flat_map(|found| &found.by) {
                let name = self.rivals.counted_as(&rival.name);
                self.feedback.metrics.displaced_by(name);
            }
            moved |= result.is_ok();
            self.rivals.tried((ifindex, hook), result, Instant::now());
        }
        Ok(moved)
    }

    pub(super) fn rival_problems(&self) -> Vec<Diagnostic> {
        self.rivals.problems(|ifindex| {
            let link = self.snapshot.links.get(&ifindex);
            link.map_or_else(|| ifindex.to_string(), |link| link.name.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Rival;

    const AT: (u32, Hook) = (7, Hook::From);

    fn found() -> [Displaced; 1] {
        [Displaced {
            ifindex: AT.0,
            hook: AT.1,
            by: vec![Rival {
                name: "other".to_owned(),
                program: 5,
            }],
        }]
    }

    fn messages(rivals: &Rivals) -> Vec<(Severity, String)> {
        let problems = rivals.problems(|_| "eth0".to_owned());
        problems
            .into_iter()
            .map(|problem| (problem.severity, problem.message))
            .collect()
    }

    #[test]
    fn one_who_came_once_is_put_behind_at_once_told_and_forgotten() {
        let start = Instant::now();
        let mut rivals = Rivals::default();
        assert_eq!(rivals.look(&found(), start), [AT]);
        assert!(rivals.any());
        rivals.tried(AT, Ok(()), start);
        assert!(!rivals.any());
        assert_eq!(rivals.look(&[], start + FIRST_WAIT), []);
        let told = messages(&rivals);
        let [(Severity::Warning, message)] = &told[..] else {
            panic!("{told:?}");
        };
        assert!(message.contains("program other") && message.contains("first again"));
        assert_eq!(rivals.look(&[], start + TOLD_FOR), []);
        assert!(messages(&rivals).is_empty());
    }

    #[test]
    fn one_who_always_comes_back_is_fought_ever_less_often_but_never_not() {
        let start = Instant::now();
        let mut rivals = Rivals::default();
        let mut rounds = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            for at in rivals.look(&found(), now) {
                rivals.tried(at, Ok(()), now);
                rounds.push(second);
            }
        }
        assert_eq!(rounds[..6], [0, 1, 2, 3, 4, 8]);
        let last = rounds.windows(2).last().expect("two");
        assert_eq!(last[1] - last[0], LONGEST_WAIT.as_secs());
        assert!(rivals.any());
        let told = messages(&rivals);
        assert!(
            matches!(&told[..], [(Severity::Error, message)] if message.contains("comes back"))
        );
    }

    #[test]
    fn names_that_others_choose_are_counted_apart_up_to_a_number() {
        let mut rivals = Rivals::default();
        assert_eq!(rivals.counted_as(""), UNNAMED);
        for number in 0..NAMES {
            let name = format!("program-{number}");
            assert_eq!(rivals.counted_as(&name), name);
        }
        assert_eq!(rivals.counted_as("one-too-many"), UNNAMED);
        assert_eq!(rivals.counted_as("program-3"), "program-3");
    }

    #[test]
    fn refusal_is_told_with_its_reason() {
        let start = Instant::now();
        let mut rivals = Rivals::default();
        rivals.look(&found(), start);
        let error = AttachError::Busy {
            name: "eth0".to_owned(),
        };
        rivals.tried(AT, Err(error), start);
        let told = messages(&rivals);
        assert!(matches!(&told[..], [(Severity::Error, message)] if message.contains("eth0")));
        rivals.tried(AT, Err(AttachError::Gone { ifindex: AT.0 }), start);
        assert!(
            !rivals.any(),
            "of an interface that is gone nothing is told"
        );
    }
}

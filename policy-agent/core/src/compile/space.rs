//! The space of protocols and ports, and who decides each part of it.
//!
//! Rules are laid over the space in the order in which they are asked; what is
//! decided stays decided. What order means is `program`'s business.

use policy_common::abi::policy::{ACTION_LOG, Interval, LAST_POINT, RuleId};

use crate::desired::PortSetSpec;

/// Every [`policy_common::abi::policy::point`], partly decided.
#[derive(Debug, Clone)]
pub struct Space {
    /// Sorted by first point; each reaches to the next. The first starts at 0.
    cells: Vec<Cell>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    first: u32,
    answer: Option<(RuleId, u32)>,
    /// The rest of the tier is skipped.
    passed: bool,
    log: bool,
}

/// All of it.
pub const EVERYTHING: (u32, u32) = (0, LAST_POINT);

impl Default for Space {
    fn default() -> Self {
        Self {
            cells: vec![Cell {
                first: 0,
                answer: None,
                passed: false,
                log: false,
            }],
        }
    }
}

impl Space {
    /// Decides what is open in the range.
    pub fn decide(&mut self, range: (u32, u32), rule: RuleId, action: u32) {
        self.each_open(range, |cell| cell.answer = Some((rule, action)));
    }

    /// Closes what is open in the range until the tier ends.
    pub fn pass(&mut self, range: (u32, u32)) {
        self.each_open(range, |cell| cell.passed = true);
    }

    /// Whatever decides what is open in the range is to be reported.
    pub fn log(&mut self, range: (u32, u32)) {
        self.each_open(range, |cell| cell.log = true);
    }

    /// What was passed is open again.
    pub fn end_tier(&mut self) {
        for cell in &mut self.cells {
            cell.passed = false;
        }
    }

    /// The port set, when everything else gets this answer.
    pub fn finish(mut self, rule: RuleId, action: u32) -> PortSetSpec {
        self.end_tier();
        self.decide(EVERYTHING, rule, action);
        let runs = self.runs();
        let (default_rule, default_action) = most_useful_default(&runs);
        let is_default = |run: &Interval| (run.rule, run.action) == (default_rule, default_action);
        PortSetSpec {
            intervals: runs.into_iter().filter(|run| !is_default(run)).collect(),
            default_rule,
            default_action,
        }
    }

    fn each_open(&mut self, (first, last): (u32, u32), mut change: impl FnMut(&mut Cell)) {
        let from = self.cut(first);
        let to = if last >= LAST_POINT {
            self.cells.len()
        } else {
            self.cut(last + 1)
        };
        for cell in &mut self.cells[from..to] {
            if cell.answer.is_none() && !cell.passed {
                change(cell);
            }
        }
    }

    /// The index of the cell that starts at `point`.
    fn cut(&mut self, point: u32) -> usize {
        match self.cells.binary_search_by_key(&point, |cell| cell.first) {
            Ok(at) => at,
            // The first cell starts at 0, so there is one before.
            Err(at) => {
                let cell = Cell {
                    first: point,
                    ..self.cells[at - 1]
                };
                self.cells.insert(at, cell);
                at
            }
        }
    }

    /// The whole space, neighbours that say the same joined.
    fn runs(&self) -> Vec<Interval> {
        let mut runs: Vec<Interval> = Vec::new();
        for cell in &self.cells {
            let Some((rule, action)) = cell.answer else {
                continue;
            };
            let action = action | if cell.log { ACTION_LOG } else { 0 };
            match runs.last_mut() {
                Some(run) if (run.rule, run.action) == (rule, action) => {}
                Some(_) | None => {
                    if let Some(run) = runs.last_mut() {
                        run.last = cell.first - 1;
                    }
                    runs.push(Interval {
                        first: cell.first,
                        last: LAST_POINT,
                        rule,
                        action,
                    });
                }
            }
        }
        runs
    }
}

/// The answer of most runs, so that fewest are left; of equals that of most
/// points, then the smallest.
fn most_useful_default(runs: &[Interval]) -> (RuleId, u32) {
    let mut answers: Vec<_> = runs.iter().map(|run| (run.rule, run.action)).collect();
    answers.sort_unstable();
    answers.dedup();
    let use_of = |answer: &(RuleId, u32)| {
        let same = runs.iter().filter(|run| (run.rule, run.action) == *answer);
        let points: u32 = same.clone().map(|run| run.last - run.first + 1).sum();
        (same.count(), points, std::cmp::Reverse(*answer))
    };
    // A space is never empty.
    answers.into_iter().max_by_key(use_of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use policy_common::abi::policy::{ACTION_ALLOW, ACTION_DENY};

    use super::*;

    fn says(set: &PortSetSpec, point: u32) -> (RuleId, u32) {
        let hit = set
            .intervals
            .iter()
            .find(|i| i.first <= point && point <= i.last);
        hit.map_or((set.default_rule, set.default_action), |i| {
            (i.rule, i.action)
        })
    }

    #[test]
    fn earlier_answers_stay_and_the_rest_gets_the_default() {
        let mut space = Space::default();
        space.decide((10, 20), 1, ACTION_ALLOW);
        space.decide((15, 30), 2, ACTION_ALLOW);
        let set = space.finish(9, ACTION_DENY);
        for (point, rule) in [(0, 9), (9, 9), (10, 1), (20, 1), (21, 2), (30, 2), (31, 9)] {
            assert_eq!(says(&set, point).0, rule, "point {point}");
        }
        assert_eq!(says(&set, LAST_POINT), (9, ACTION_DENY));
        assert_eq!(set.intervals.len(), 2);
    }

    #[test]
    fn passed_points_are_open_again_in_the_next_tier_and_log_stays() {
        let mut space = Space::default();
        space.log((0, 5));
        space.pass((0, 9));
        space.decide(EVERYTHING, 1, ACTION_DENY);
        space.end_tier();
        space.decide((0, 100), 2, ACTION_ALLOW);
        let set = space.finish(3, ACTION_DENY);
        assert_eq!(says(&set, 5), (2, ACTION_ALLOW | ACTION_LOG));
        assert_eq!(says(&set, 6), (2, ACTION_ALLOW));
        assert_eq!(says(&set, 10), (1, ACTION_DENY));
        assert_eq!((set.default_rule, set.intervals.len()), (1, 2));
    }

    #[test]
    fn neighbours_that_say_the_same_are_one() {
        let mut space = Space::default();
        space.decide((11, 20), 1, ACTION_ALLOW);
        space.decide((0, 10), 1, ACTION_ALLOW);
        space.decide((40, LAST_POINT), 2, ACTION_ALLOW);
        let set = space.finish(9, ACTION_DENY);
        // The last third covers most of the space: it is the default.
        assert_eq!(set.default_rule, 2);
        let runs: Vec<_> = set
            .intervals
            .iter()
            .map(|i| (i.first, i.last, i.rule))
            .collect();
        assert_eq!(runs, [(0, 20, 1), (21, 39, 9)]);
    }
}

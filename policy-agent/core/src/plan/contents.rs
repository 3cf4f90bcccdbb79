//! What port sets say, each content once: comparing answers is comparing numbers.

use std::collections::HashMap;
use std::sync::Arc;

use policy_common::abi::policy::{ACTION_ALLOW, ACTION_DENY, LAST_POINT};

use crate::desired::PortSetSpec;

/// Number of a content, within one plan.
pub(super) type Content = u32;

/// What a policy says to somebody; `None`: no row, or none that can be followed.
/// The kernel denies then.
pub(super) type Answer = Option<Content>;

/// The content of an element that nobody wrote: denies everything, by no rule.
pub(super) const ZERO: Content = 0;

/// Contents, numbered as they are met.
#[derive(Debug)]
pub(super) struct Contents {
    specs: Vec<Arc<PortSetSpec>>,
    numbers: HashMap<Arc<PortSetSpec>, Content>,
    /// By address of the shared value: most rows share few.
    shared: HashMap<*const PortSetSpec, Content>,
    narrowing: HashMap<(Answer, Answer), bool>,
}

impl Contents {
    pub(super) fn new() -> Self {
        let mut contents = Self {
            specs: Vec::new(),
            numbers: HashMap::new(),
            shared: HashMap::new(),
            narrowing: HashMap::new(),
        };
        let zero = contents.number(&Arc::new(PortSetSpec {
            intervals: Vec::new(),
            default_rule: 0,
            default_action: ACTION_DENY,
        }));
        debug_assert_eq!(zero, ZERO);
        contents
    }

    /// The number of a content.
    pub(super) fn number(&mut self, spec: &Arc<PortSetSpec>) -> Content {
        // The address stays this value's: `specs` or the desired state hold it
        // as long as the plan is made.
        if let Some(number) = self.shared.get(&Arc::as_ptr(spec)) {
            return *number;
        }
        let number = match self.numbers.get(spec) {
            Some(number) => *number,
            None => {
                let number = Content::try_from(self.specs.len()).expect("fewer than rows");
                self.specs.push(spec.clone());
                self.numbers.insert(spec.clone(), number);
                number
            }
        };
        self.shared.insert(Arc::as_ptr(spec), number);
        number
    }

    /// The number of a content that is not shared.
    pub(super) fn number_of(&mut self, spec: PortSetSpec) -> Content {
        if let Some(number) = self.numbers.get(&spec) {
            return *number;
        }
        let number = Content::try_from(self.specs.len()).expect("fewer than rows");
        let spec = Arc::new(spec);
        self.specs.push(spec.clone());
        self.numbers.insert(spec, number);
        number
    }

    /// The content of a number.
    pub(super) fn spec(&self, content: Content) -> &PortSetSpec {
        &self.specs[content as usize]
    }

    /// Whether some point was allowed by `old` and is not by `new`.
    pub(super) fn narrows(&mut self, old: Answer, new: Answer) -> bool {
        if old == new {
            return false;
        }
        if let Some(known) = self.narrowing.get(&(old, new)) {
            return *known;
        }
        let runs = |answer: Answer| match answer {
            Some(content) => allowed(self.spec(content)),
            None => Some(Vec::new()),
        };
        let narrows = match (runs(old), runs(new)) {
            (Some(old), Some(new)) => old.iter().any(|run| {
                let around = new.iter().find(|n| n.0 <= run.0 && run.0 <= n.1);
                around.is_none_or(|n| n.1 < run.1)
            }),
            // Intervals that are out of order: what they say is anybody's guess.
            _ => true,
        };
        self.narrowing.insert((old, new), narrows);
        narrows
    }
}

/// Runs of allowed points, sorted, never adjacent; `None`: not a valid set.
fn allowed(spec: &PortSetSpec) -> Option<Vec<(u32, u32)>> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut add = |first: u32, last: u32, action: u32| {
        if first > last || action & ACTION_ALLOW == 0 {
            return;
        }
        match runs.last_mut() {
            Some(run) if run.1 + 1 == first => run.1 = last,
            _ => runs.push((first, last)),
        }
    };
    let mut next = 0;
    for interval in &spec.intervals {
        if interval.first < next || interval.last < interval.first || interval.last > LAST_POINT {
            return None;
        }
        if interval.first > next {
            add(next, interval.first - 1, spec.default_action);
        }
        add(interval.first, interval.last, interval.action);
        next = interval.last + 1;
    }
    if next <= LAST_POINT {
        add(next, LAST_POINT, spec.default_action);
    }
    Some(runs)
}

//! Strings that many objects share, kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// Gives equal strings the same allocation.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    /// Size at which strings that nobody else holds are dropped.
    prune_at: usize,
}

/// Strings below which pruning is not worth a scan.
const PRUNE_AT_LEAST: usize = 4096;

impl Names {
    /// No strings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shared form of a string.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.prune_at.max(PRUNE_AT_LEAST) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.prune_at = self.known.len() * 2;
        }
        let name: Arc<str> = text.into();
        self.known.insert(name.clone());
        name
    }
}

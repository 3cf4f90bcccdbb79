//! Every target over its seeds and over noise, as any test runs: what a build
//! without instrumentation can tell.

use super::{TARGETS, find, near};
use crate::generate::Rng;

/// Rounds of noise a target; a round is one seed with some bytes changed.
const ROUNDS: usize = 1_000;

#[test]
fn targets_are_found_by_name_and_nothing_else_is() {
    for target in &TARGETS {
        assert_eq!(find(target.name).map(|found| found.name), Some(target.name));
    }
    assert!(find("").is_none() && find("packets").is_none());
}

#[test]
fn seeds_and_what_lies_near_them_find_nothing() {
    for target in &TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        for seed in &seeds {
            (target.run)(seed);
        }
        let mut rng = Rng::new(7);
        for _ in 0..ROUNDS {
            (target.run)(&near(&mut rng, &seeds));
        }
    }
}

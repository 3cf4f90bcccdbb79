//! Every target over its seeds and over noise, as any test runs: what a build
//! without instrumentation can tell.

use super::{TARGETS, find};
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
            let mut input = rng.pick(&seeds).clone();
            for _ in 0..1 + rng.below(4) {
                let place = rng.below(input.len());
                input[place] = u8::try_from(rng.below(256)).expect("a byte");
            }
            input.truncate(input.len() - rng.below(input.len()).min(rng.below(8)));
            (target.run)(&input);
        }
    }
}

//! Fuzz targets: bytes in, an oracle that panics where the product is wrong.
//!
//! `cargo xtask fuzz` runs them under libFuzzer, through `src/bin/fuzz.rs`; the
//! tests here run each over its seeds and over noise, without instrumentation.
//! What was found is a named test beside the code that was wrong, never a file
//! here.
//!
//! - `input`: choices from bytes. `reading`: packets, read from the RFCs a second
//!   time. `world`: one pod, its policies and its records.
//! - `frames`: inputs of `packet` for the kernel's programs, see
//!   `tests/tests/agreement`.
//! - `packet`, `conntrack`, `manifests`, `selectors`, `wire`: the targets.

mod conntrack;
pub mod frames;
mod input;
mod manifests;
mod packet;
mod reading;
mod selectors;
mod wire;
mod world;

use crate::generate::Rng;

#[cfg(test)]
mod tests;

/// Something to be fuzzed.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Tries one input; panics where the product is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with, each of which reaches something of its own.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "packet",
        run: packet::run,
        seeds: packet::seeds,
    },
    Target {
        name: "conntrack",
        run: conntrack::run,
        seeds: conntrack::seeds,
    },
    Target {
        name: "manifests",
        run: manifests::run,
        seeds: manifests::seeds,
    },
    Target {
        name: "selectors",
        run: selectors::run,
        seeds: selectors::seeds,
    },
    Target {
        name: "wire",
        run: wire::run,
        seeds: wire::seeds,
    },
];

/// One of these inputs with some bytes changed, and perhaps without its last.
pub fn near(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = rng.pick(seeds).clone();
    for _ in 0..1 + rng.below(4) {
        let place = rng.below(input.len());
        input[place] = u8::try_from(rng.below(256)).expect("a byte");
    }
    input.truncate(input.len() - rng.below(input.len()).min(rng.below(8)));
    input
}

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

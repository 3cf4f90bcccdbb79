//! libFuzzer's entry: runs the target that `POLICY_FUZZ_TARGET` names.
//!
//! Without it, it lists the targets. One binary for all of them, because linking
//! is what takes the time. With `POLICY_FUZZ_SEEDS` it writes the target's seeds to
//! that folder first. `cargo xtask fuzz` builds it, and says where our crates tell
//! libFuzzer what they reach.
#![no_main]

use std::sync::OnceLock;
use std::{env, fs, path::Path};

use libfuzzer_sys::fuzz_target;
use policy_tests::fuzz::{self, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(init: start(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(bytes);
    }
});

fn start() {
    let name = env::var("POLICY_FUZZ_TARGET").unwrap_or_default();
    if name.is_empty() {
        for target in &fuzz::TARGETS {
            println!("{}", target.name);
        }
        std::process::exit(0);
    }
    let Some(target) = fuzz::find(&name) else {
        eprintln!("POLICY_FUZZ_TARGET: there is no target {name:?}");
        std::process::exit(2);
    };
    TARGET.get_or_init(|| target);
    if let Some(folder) = env::var_os("POLICY_FUZZ_SEEDS")
        && let Err(error) = write_seeds(target, Path::new(&folder))
    {
        eprintln!("POLICY_FUZZ_SEEDS: {}: {error}", folder.display());
        std::process::exit(2);
    }
}

fn write_seeds(target: &Target, folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

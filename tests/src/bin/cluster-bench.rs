//! Measures between the pods of a cluster: `cargo xtask bench --cluster`, which
//! brings up the cluster and says what enforces in it. `cluster-bench newborn` is
//! what runs in pods that are measured. See `policy_tests::cluster`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use policy_tests::cluster::{Measure, live};

const USAGE: &str = "usage: cluster-bench MEASURE COUNT SETTING-FILE, or cluster-bench newborn";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let measure = words.next().context(USAGE)?;
    if measure == "newborn" {
        return live();
    }
    let measure = Measure::of(&measure)?;
    let count = words.next().context(USAGE)?.parse().context(USAGE)?;
    let file = words.next().context(USAGE)?;
    let text = std::fs::read(&file).with_context(|| format!("read {file}"))?;
    let setting = serde_json::from_slice(&text).with_context(|| format!("read {file}"))?;
    println!("{}", measure.run(setting, count)?);
    Ok(())
}

//! `test`: the whole ladder of checks and tests, cheapest first.
//!
//! House rules, formatting and clippy; the kernel programs; unit and property
//! tests, which need no privilege; then, as root, the tests that load programs
//! and open sockets in network namespaces. Nothing is skipped: without root the
//! task fails and says how to go on. A test or two that fail are run again alone,
//! see `again`. The last line adds up all tests.

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    again, build_agent,
    build_ebpf::{self, Variant},
    cluster, host,
    job::{Job, announce},
    lint, optimised,
    setup::{self, Need},
    tally::Tally,
    workspace::Workspace,
};

/// The unprivileged part: compiling everything twice, on two cores.
const UNIT_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The kernel part.
const KERNEL_LIMIT: Duration = Duration::from_secs(60 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this, and no checks
    filter: Option<String>,
    /// Leave out the tests that need root
    #[arg(long)]
    unit: bool,
}

/// The task `test`.
///
/// # Errors
///
/// When a check or a test fails, or none ran.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    if !args.unit {
        host::require_root("test")?;
    }
    let need = if args.unit { Need::Check } else { Need::Test };
    let toolchain = setup::ensure(workspace, need)?;
    let mut tally = Tally::default();
    if args.filter.is_none() {
        for (name, result) in lint::checks(workspace, &toolchain) {
            note(&mut tally, name, result);
        }
    }
    // Before the tests: the agent's tests embed the programs.
    let built = build_ebpf::build(workspace, Variant::Agent);
    note(&mut tally, "build-ebpf", built.map(drop));

    unit_tests(workspace, args, &mut tally);
    if !args.unit {
        kernel_tests(workspace, args, &mut tally);
    }
    conclude(&tally)
}

/// Everything that runs without privilege, with debug assertions.
fn unit_tests(workspace: &Workspace, args: &Args, tally: &mut Tally) {
    let cargo = || {
        let mut cargo = workspace.cargo();
        cargo.arg("test");
        for package in ["policy-common", "policy-core", "xtask"] {
            cargo.args(["--package", package]);
        }
        cargo
    };
    run_tests("unit and property tests", cargo, UNIT_LIMIT, args, tally);
    let cargo = || {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--package", "policy-agent", "--lib"]);
        cargo
    };
    run_tests("unit tests of the agent", cargo, UNIT_LIMIT, args, tally);
}

/// Everything that needs root, with the binaries that users get.
fn kernel_tests(workspace: &Workspace, args: &Args, tally: &mut Tally) {
    // The tests first, whose call compiles the agent too and waits least.
    let prepared = optimised::build_tests(workspace)
        .and_then(|_tests| build_agent::build(workspace, Variant::Agent));
    let prepared = prepared.and_then(|agent| {
        host::mount_bpffs()?;
        cluster::build_api_server(workspace)?;
        Ok(agent)
    });
    let agent = match prepared {
        Ok(agent) => agent,
        // The tests run what this builds; without it they would test an old one.
        Err(error) => return note(tally, "build", Err(error)),
    };
    for (what, targets) in [
        (
            "kernel tests of the agent",
            &["--package", "policy-agent", "--test", "*"][..],
        ),
        ("kernel tests", &["--package", "policy-tests"]),
    ] {
        let cargo = || {
            let mut cargo = optimised::cargo(workspace, "test");
            cargo.args(targets).env("POLICY_AGENT", &agent);
            cargo
        };
        run_tests(what, cargo, KERNEL_LIMIT, args, tally);
    }
}

/// Runs a `cargo test` and adds its results to the tally.
fn run_tests(
    what: &str,
    cargo: impl Fn() -> Command,
    limit: Duration,
    args: &Args,
    tally: &mut Tally,
) {
    announce(what);
    let mut all = cargo();
    all.arg("--no-fail-fast").args(&args.filter);
    let mut run = Tally::default();
    match Job::new(what, all, limit).run_with_lines(|line| run.read(line)) {
        Ok(true) => {}
        // Tests that failed have been counted; code that did not compile has not.
        Ok(false) if run.failed > 0 => {
            again::settle(&mut run, tally.unsteady.len(), again::LIMITS, cargo);
        }
        Ok(false) => run.step_failed(what),
        Err(error) => note(&mut run, what, Err(error)),
    }
    tally.add(run);
}

/// Reports a step that failed and goes on.
fn note(tally: &mut Tally, step: &str, result: Result<()>) {
    if let Err(error) = result {
        eprintln!("{error:#}");
        tally.step_failed(step);
    }
}

/// Prints the sum, and fails if there is anything to fail for.
fn conclude(tally: &Tally) -> Result<()> {
    announce("all tests");
    for name in &tally.failures {
        println!("    failed: {name}");
    }
    for name in &tally.unsteady {
        println!(
            "    unsteady: {name} failed beside others and passed alone; look at its output above"
        );
    }
    if tally.ignored > 0 {
        println!("    left out by #[ignore]: {}", tally.ignored);
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.passed + tally.failed == 0 {
        bail!("no test ran; is the filter right?");
    }
    if !tally.is_clean() {
        bail!("not everything passed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_test_at_all_is_a_failure() {
        assert!(conclude(&Tally::default()).is_err());
        let mut tally = Tally::default();
        tally.read("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured");
        assert!(conclude(&tally).is_ok());
    }
}

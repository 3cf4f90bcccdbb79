//! `demo` and `bench`: build everything, then run a program of `policy-tests`.
//!
//! What they show and measure is written in `tests/src/bin`; all arguments go there.

use std::{ffi::OsString, path::PathBuf, process::Command, time::Duration};

use anyhow::Result;

use crate::{
    build_agent,
    build_ebpf::{self, Variant},
    host,
    job::{Job, announce},
    optimised,
    setup::{self, Need},
    workspace::Workspace,
};

/// Long benchmarks take their time; this ends only what hangs.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handed to the program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// The task `demo`.
///
/// # Errors
///
/// When this process is not root, or a build or the program fails.
pub(crate) fn demo(workspace: &Workspace, args: &Args) -> Result<()> {
    let agent = prepare(workspace, "demo")?;
    run(workspace, "demo", args, &[("POLICY_AGENT", agent)])
}

/// The task `bench`: its program also loads the object with the drivers.
///
/// # Errors
///
/// When this process is not root, or a build or the program fails.
pub(crate) fn bench(workspace: &Workspace, args: &Args) -> Result<()> {
    let agent = prepare(workspace, "bench")?;
    let object = build_ebpf::build(workspace, Variant::Bench)?;
    let files = [
        ("POLICY_AGENT", agent),
        ("POLICY_EBPF_BENCH_OBJECT", object),
    ];
    run(workspace, "bench", args, &files)
}

/// Builds the agent and makes sure that it can run here; returns its path.
fn prepare(workspace: &Workspace, task: &str) -> Result<PathBuf> {
    host::require_root(task)?;
    setup::ensure(workspace, Need::Run)?;
    let agent = build_agent::build(workspace, Variant::Agent)?;
    host::mount_bpffs()?;
    Ok(agent)
}

/// Builds and runs `program`, which finds what was built through environment variables.
fn run(workspace: &Workspace, program: &str, args: &Args, files: &[(&str, PathBuf)]) -> Result<()> {
    let binary = optimised::build(workspace, "policy-tests", program, &[])?;
    announce(program);
    let mut command = Command::new(binary);
    command
        .current_dir(&workspace.root)
        .args(&args.arguments)
        .envs(files.iter().map(|(name, path)| (name, path)));
    Job::new(program, command, LIMIT).run()
}

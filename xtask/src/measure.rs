//! `demo` and `bench`: build everything, then run a program of `policy-tests`.
//!
//! What they show and measure is written in `tests/src/bin`; all arguments go there.

use std::{ffi::OsString, time::Duration};

use anyhow::Result;

use crate::{
    build_agent, build_ebpf, host,
    job::{Job, announce},
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

/// Builds the agent, then runs `program` of policy-tests as root.
///
/// # Errors
///
/// When this process is not root, or a build or the program fails.
pub(crate) fn run(workspace: &Workspace, program: &str, args: &Args) -> Result<()> {
    host::require_root(program)?;
    setup::ensure(workspace, Need::Test)?;
    let agent = build_agent::run(workspace, &build_ebpf::Args::default())?;
    host::mount_bpffs()?;
    announce(program);
    let mut cargo = workspace.cargo();
    cargo
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "policy-tests",
            "--bin",
            program,
            "--",
        ])
        .args(&args.arguments)
        .env("POLICY_AGENT", agent);
    Job::new(program, cargo, LIMIT).run()
}

//! `build`: compiles the agent with the kernel programs in it.
//!
//! `policy-agent/build.rs` embeds the object that `build-ebpf` left; it never
//! builds it, because a cargo inside a cargo would wait for its own lock.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    build_ebpf::{self, Variant},
    job::{Job, announce},
    workspace::Workspace,
};

/// A first build compiles every dependency, on two cores.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Programs that log verdicts, and an agent that prints them: for development
    #[arg(long)]
    debug_log: bool,
}

/// The task `build`.
///
/// # Errors
///
/// As [`build`].
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let variant = if args.debug_log {
        Variant::AgentWithLog
    } else {
        Variant::Agent
    };
    build(workspace, variant).map(drop)
}

/// Compiles programs and agent, and returns the path of the agent's binary.
///
/// # Errors
///
/// When either does not compile.
pub(crate) fn build(workspace: &Workspace, variant: Variant) -> Result<PathBuf> {
    build_ebpf::build(workspace, variant)?;
    announce("build: the agent, release");
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "policy-agent"]);
    if variant == Variant::AgentWithLog {
        cargo.args(["--features", "debug-log"]);
    }
    Job::new("build", cargo, BUILD_LIMIT).run()?;
    let binary = workspace.target.join("release/policy-agent");
    ensure!(
        binary.exists(),
        "{} is not there after its build",
        binary.display()
    );
    println!("    {}", workspace.shown(&binary));
    Ok(binary)
}

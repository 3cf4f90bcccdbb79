//! `build`: compiles the agent with the kernel programs in it.
//!
//! `policy-agent/build.rs` embeds the object that `build-ebpf` left; it never
//! builds it, because a cargo inside a cargo would wait for its own lock.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    build_ebpf,
    job::{Job, announce},
    workspace::Workspace,
};

/// A first build compiles every dependency, on two cores.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Compiles programs and agent, and returns the path of the agent's binary.
///
/// # Errors
///
/// When either does not compile.
pub(crate) fn run(workspace: &Workspace, args: &build_ebpf::Args) -> Result<PathBuf> {
    build_ebpf::run(workspace, args)?;
    announce("build: the agent, release");
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "policy-agent"]);
    if args.debug_log {
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

//! `build`: compiles the agent with the kernel programs in it.
//!
//! `policy-agent/build.rs` embeds the object that `build-ebpf` left; it never
//! builds it, because a cargo inside a cargo would wait for its own lock. How the
//! agent is compiled is in `optimised`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    build_ebpf::{self, Variant},
    optimised,
    workspace::Workspace,
};

/// Package and program.
const AGENT: &str = "policy-agent";

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
/// When either does not compile, or the agent is not static.
pub(crate) fn build(workspace: &Workspace, variant: Variant) -> Result<PathBuf> {
    build_ebpf::build(workspace, variant)?;
    let features: &[&str] = match variant {
        Variant::AgentWithLog => &["debug-log"],
        Variant::Agent | Variant::Bench => &[],
    };
    let binary = optimised::build(workspace, AGENT, AGENT, features)?;
    // Where people look for it, and tests that are run by hand.
    let shown = workspace.target.join("release").join(AGENT);
    link(&binary, &shown)?;
    println!("    {}", workspace.shown(&shown));
    Ok(binary)
}

/// Where [`build`] leaves the agent.
pub(crate) fn path(workspace: &Workspace) -> PathBuf {
    optimised::path(workspace, AGENT)
}

/// Makes `to` another name of the file `from`.
fn link(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    // Never written through: it may be another name of a file that cargo keeps.
    if to.exists() {
        fs::remove_file(to).with_context(|| format!("cannot replace {}", to.display()))?;
    }
    fs::hard_link(from, to)
        // Where there is only one name to a file.
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot make {} of {}", to.display(), from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_binary_takes_the_place_of_the_old_one_and_of_itself() {
        let folder = std::env::temp_dir().join(format!("xtask-link-{}", std::process::id()));
        let [kept, new, to] = ["kept", "new", "a/to"].map(|name| folder.join(name));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&kept, "old").unwrap();
        fs::write(&new, "new").unwrap();
        link(&kept, &to).unwrap();
        for _ in 0..2 {
            link(&new, &to).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"new");
        }
        assert_eq!(fs::read(&kept).unwrap(), b"old");
        fs::remove_dir_all(folder).unwrap();
    }
}

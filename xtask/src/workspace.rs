//! Where things are in this checkout.
//!
//! The one home of paths that more than one task uses. `policy-agent/build.rs`
//! looks for the kernel programs' object where [`Workspace::bpf_object`] says.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The checkout and its target directory.
pub(crate) struct Workspace {
    /// The directory of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, absolute.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the checkout that this task belongs to.
    ///
    /// # Errors
    ///
    /// When xtask was moved out of a workspace.
    pub(crate) fn locate() -> Result<Self> {
        // Cargo sets the variable for `cargo xtask`; a binary started by hand
        // falls back on where it was compiled.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir
            .parent()
            .with_context(|| format!("{} has no parent directory", manifest_dir.display()))?
            .to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// The target directory of the kernel programs' own cargo call.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// The finished object that the agent embeds.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.bpf_target().join("policy-ebpf.o")
    }

    /// The object with the programs that drive benchmarks.
    pub(crate) fn bpf_bench_object(&self) -> PathBuf {
        self.bpf_target().join("policy-ebpf-bench.o")
    }

    /// Where the output of long steps is kept.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.target.join("xtask").join(format!("{name}.log"))
    }

    /// The host's cargo, in the root of the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        // What `cargo xtask` says of this package. Build scripts that look at such
        // variables, as ring's does, would run again after every cargo without them,
        // and all that is built on them would be compiled again.
        for (name, _) in env::vars_os() {
            if is_about_a_package(&name) {
                command.env_remove(name);
            }
        }
        command
    }

    /// `path` as a reader of messages wants it: relative to the checkout.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// Whether cargo tells a program by this variable of which package it is (the book
/// of cargo, Environment variables).
fn is_about_a_package(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_of_the_package_of_its_caller_and_of_all_else() {
        let workspace = Workspace {
            root: PathBuf::from("/"),
            target: PathBuf::from("/target"),
        };
        // Cargo, which runs this test, sets it.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        let cargo = workspace.cargo();
        let mut changed = cargo.get_envs();
        assert!(changed.any(|change| change == (OsStr::new("CARGO_PKG_NAME"), None)));
        let mut changed = cargo.get_envs();
        assert!(changed.all(|(name, _)| is_about_a_package(name)));
        assert!(!is_about_a_package(OsStr::new("CARGO_HOME")));
        assert!(!is_about_a_package(OsStr::new("CARGO_TARGET_DIR")));
    }
}

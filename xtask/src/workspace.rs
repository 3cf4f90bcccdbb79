//! Where things are in this checkout.
//!
//! The one home of paths that more than one task uses. `policy-agent/build.rs`
//! looks for the kernel programs' object where [`Workspace::bpf_object`] says.

use std::{
    env,
    ffi::OsString,
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
        command
    }

    /// `path` as a reader of messages wants it: relative to the checkout.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

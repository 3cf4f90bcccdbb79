//! `build-ebpf`: compiles the kernel programs.
//!
//! A cargo call of its own, with the BPF toolchain and a target directory of its
//! own, so that nothing the host's crates ask for reaches the programs. What
//! comes out is parsed with the library that the agent loads it with, and copied
//! to target/bpf/policy-ebpf.o only when it changed, so that the agent is not
//! compiled again for nothing.

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya_obj::Object;

use crate::{
    job::{Job, announce},
    setup::{self, Need},
    toolchain::BpfToolchain,
    workspace::Workspace,
};

/// The BPF machine, little-endian as all hosts that we support are.
const TARGET: &str = "bpfel-unknown-none";
/// Some code (atomics, mostly) sends LLVM's BPF back end into an endless loop;
/// a sound link takes seconds.
const LINK_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The whole call, which may download and compile `core` first.
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Log verdicts through aya-log: for development, it costs every packet
    #[arg(long)]
    pub(crate) debug_log: bool,
}

/// Compiles the kernel programs and returns the object's path.
///
/// # Errors
///
/// When the toolchain is missing and cannot be installed, or the programs do
/// not compile, or the object could not be loaded.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<PathBuf> {
    let toolchain = setup::ensure(workspace, Need::Build)?;
    announce(&format!("build-ebpf: {}", toolchain.compiler));
    let mut command = toolchain.compiler.cargo();
    command.arg("build");
    configure(&mut command, workspace, &toolchain, args);
    Job::new("build-ebpf", command, BUILD_LIMIT)
        .limit_child("bpf-linker", LINK_LIMIT)
        .run()
        .with_context(|| {
            format!(
                "with {} and {}; if the linker rejects the bitcode, its LLVM is older than \
                 rustc's: `cargo xtask setup`, or another POLICY_BPF_TOOLCHAIN",
                toolchain.compiler,
                toolchain.linker.display()
            )
        })?;
    publish(workspace)
}

/// Adds what compiling the programs takes to a cargo call, also to clippy's.
pub(crate) fn configure(
    command: &mut Command,
    workspace: &Workspace,
    toolchain: &BpfToolchain,
    args: &Args,
) {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Since kernel 5.12; gives atomics that return the old value.
        "-Ctarget-cpu=v3".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
    ];
    command
        .current_dir(&workspace.root)
        .args(["--package", "policy-ebpf", "--release"])
        .args(["--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(workspace.bpf_target())
        // The separator that cargo documents for this variable.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    if args.debug_log {
        command.args(["--features", "debug-log"]);
    }
}

/// Checks the new object and puts it where the agent looks for it.
fn publish(workspace: &Workspace) -> Result<PathBuf> {
    let built = workspace
        .bpf_target()
        .join(TARGET)
        .join("release/policy-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let contents =
        inspect(&bytes).with_context(|| format!("{} cannot be loaded", workspace.shown(&built)))?;
    let object = workspace.bpf_object();
    let shown = workspace.shown(&object);
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        println!("    {shown} is up to date: {contents}");
        return Ok(object);
    }
    // Renamed into place: a build that reads it at this moment gets one or the other.
    let fresh = object.with_extension("o.new");
    fs::write(&fresh, &bytes).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, &object).with_context(|| format!("cannot write {shown}"))?;
    println!("    {shown}: {contents}");
    Ok(object)
}

/// Says what is in the object, in one line.
fn inspect(bytes: &[u8]) -> Result<String> {
    let object = Object::parse(bytes)?;
    ensure!(
        object.btf.is_some(),
        "it has no BTF: was it linked with --btf, from code with debug information?"
    );
    ensure!(!object.programs.is_empty(), "it has no programs");
    let mut programs: Vec<&str> = object.programs.keys().map(String::as_str).collect();
    programs.sort_unstable();
    Ok(format!(
        "{} bytes, programs {}, {} maps, BTF",
        bytes.len(),
        programs.join(" "),
        object.maps.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bpf_object_is_refused() {
        assert!(inspect(b"").is_err());
        assert!(inspect(b"\x7fELF but not really").is_err());
        let host_binary = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(inspect(&host_binary).is_err());
    }
}

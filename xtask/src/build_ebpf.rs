//! `build-ebpf`: compiles the kernel programs.
//!
//! A cargo call of its own, with the BPF toolchain and a target directory of its
//! own, so that nothing the host's crates ask for reaches the programs. What
//! comes out is parsed with the library that the agent loads it with, and copied
//! to target/bpf/policy-ebpf.o only when it changed, so that the agent is not
//! compiled again for nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya_obj::Object;

use crate::{
    job::{Job, announce},
    setup::{self, Need},
    strip,
    toolchain::BpfToolchain,
    workspace::Workspace,
};

#[path = "../../policy-agent/build/sources.rs"]
mod sources;

/// The BPF machine, little-endian as all hosts that we support are.
const TARGET: &str = "bpfel-unknown-none";
/// Some code (atomics, mostly) sends LLVM's BPF back end into an endless loop;
/// a sound link takes seconds.
const LINK_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The whole call, which may download and compile `core` first.
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Log verdicts through aya-log: for development, it costs every packet
    #[arg(long, conflicts_with = "bench")]
    debug_log: bool,
    /// With the programs that drive benchmarks, to target/bpf/policy-ebpf-bench.o
    #[arg(long)]
    bench: bool,
}

/// What the programs are built for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The agent, which embeds them.
    Agent,
    /// The agent, which prints what they log.
    AgentWithLog,
    /// Benchmarks, which load the object by themselves.
    Bench,
}

impl Variant {
    fn feature(self) -> Option<&'static str> {
        match self {
            Self::Agent => None,
            Self::AgentWithLog => Some("debug-log"),
            Self::Bench => Some("bench"),
        }
    }

    fn object(self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::Agent | Self::AgentWithLog => workspace.bpf_object(),
            Self::Bench => workspace.bpf_bench_object(),
        }
    }
}

/// The task `build-ebpf`.
///
/// # Errors
///
/// As [`build`].
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let variant = match args {
        Args { bench: true, .. } => Variant::Bench,
        Args {
            debug_log: true, ..
        } => Variant::AgentWithLog,
        _ => Variant::Agent,
    };
    build(workspace, variant).map(drop)
}

/// Compiles the kernel programs and returns the object's path.
///
/// # Errors
///
/// When the toolchain is missing and cannot be installed, or the programs do
/// not compile, or the object could not be loaded.
pub(crate) fn build(workspace: &Workspace, variant: Variant) -> Result<PathBuf> {
    let toolchain = setup::ensure(workspace, Need::Build)?;
    announce(&format!("build-ebpf: {}", toolchain.compiler));
    // Before the build: a source that changes meanwhile makes the object stale.
    let built_from = sources::hash(&workspace.root).context("cannot read the sources")?;
    let mut command = toolchain.compiler.cargo();
    command.arg("build");
    configure(&mut command, workspace, &toolchain);
    if let Some(feature) = variant.feature() {
        command.args(["--features", feature]);
    }
    Job::new("build-ebpf", command, BUILD_LIMIT)
        .limit_child("bpf-linker", LINK_LIMIT)
        .run()
        .map_err(|error| {
            anyhow!(
                "{error:#}\n(with {} and {}; if the linker rejected the bitcode, its LLVM is \
                 older than rustc's: try `cargo xtask setup`, or another POLICY_BPF_TOOLCHAIN)",
                toolchain.compiler,
                toolchain.linker.display()
            )
        })?;
    publish(workspace, &variant.object(workspace), &built_from)
}

/// Adds what compiling the programs takes to a cargo call, also to clippy's.
pub(crate) fn configure(command: &mut Command, workspace: &Workspace, toolchain: &BpfToolchain) {
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
}

/// Checks the new object and puts it where the agent's build looks for it, with
/// a note of the sources that it is built from.
fn publish(workspace: &Workspace, object: &Path, built_from: &str) -> Result<PathBuf> {
    let built = workspace
        .bpf_target()
        .join(TARGET)
        .join("release/policy-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let bytes = strip::debug_sections(&bytes)
        .with_context(|| format!("cannot strip {}", workspace.shown(&built)))?;
    let contents =
        inspect(&bytes).with_context(|| format!("{} cannot be loaded", workspace.shown(&built)))?;
    let changed = replace(object, &bytes)?;
    replace(&object.with_extension("sources"), built_from.as_bytes())?;
    let state = if changed { "" } else { " is up to date" };
    println!("    {}{state}: {contents}", workspace.shown(object));
    Ok(object.to_path_buf())
}

/// Gives a file new contents, unless it has them: a new time stamp would have
/// the agent compiled again. Says whether it did.
fn replace(path: &Path, contents: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(false);
    }
    // Renamed into place: a build that reads it at this moment gets one or the other.
    let fresh = path.with_extension("new");
    fs::write(&fresh, contents).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
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
    fn a_file_is_written_only_when_it_changes() {
        let path = env::temp_dir().join(format!("xtask-replace-{}", std::process::id()));
        assert!(replace(&path, b"one").unwrap());
        assert!(!replace(&path, b"one").unwrap());
        assert!(replace(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_changed_or_renamed_source_changes_the_hash_and_another_file_does_not() {
        let root = env::temp_dir().join(format!("xtask-sources-{}", std::process::id()));
        for source in sources::SOURCES {
            let path = root.join(source);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.extension().is_some() {
                fs::write(path, source).unwrap();
            } else {
                fs::create_dir_all(path).unwrap();
            }
        }
        let common = root.join("policy-common/src");
        let mut seen = vec![sources::hash(&root).unwrap()];
        fs::create_dir_all(common.join("abi")).unwrap();
        fs::write(common.join("abi/mod.rs"), "a").unwrap();
        seen.push(sources::hash(&root).unwrap());
        fs::write(common.join("abi/mod.rs"), "b").unwrap();
        seen.push(sources::hash(&root).unwrap());
        fs::rename(common.join("abi/mod.rs"), common.join("abi/map.rs")).unwrap();
        seen.push(sources::hash(&root).unwrap());
        let last = seen[seen.len() - 1].clone();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 4);
        fs::write(root.join("Cargo.lock"), "c").unwrap();
        assert_eq!(sources::hash(&root).unwrap(), last);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_no_bpf_object_is_refused() {
        assert!(inspect(b"").is_err());
        assert!(inspect(b"\x7fELF but not really").is_err());
        let host_binary = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(inspect(&host_binary).is_err());
    }
}

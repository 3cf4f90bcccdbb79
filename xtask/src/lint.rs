//! `lint`: formatting, clippy, links in the documentation, licences and sources
//! of dependencies, house rules.
//!
//! All checks run, also after one has failed; each is named in the end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{
    build_ebpf,
    job::{Job, announce},
    optimised::BUILD_LIMIT,
    setup::{self, Need},
    tidy,
    toolchain::BpfToolchain,
    workspace::Workspace,
};

/// For checks that compile nothing.
const SHORT: Duration = Duration::from_secs(5 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the house rules, which compile nothing
    #[arg(long)]
    tidy: bool,
}

/// The task `lint`.
///
/// # Errors
///
/// When a check fails; names all that do.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    if args.tidy {
        return tidy(workspace);
    }
    let toolchain = setup::ensure(workspace, Need::Check)?;
    let mut failed = Vec::new();
    for (name, result) in checks(workspace, &toolchain) {
        if let Err(error) = result {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("lint: failed: {}", failed.join(", "))
}

/// Runs every check, one after the other as the caller goes on.
pub(crate) fn checks<'a>(
    workspace: &'a Workspace,
    toolchain: &'a BpfToolchain,
) -> impl Iterator<Item = (&'static str, Result<()>)> + 'a {
    type Check = fn(&Workspace, &BpfToolchain) -> Result<()>;
    let all: [(&'static str, Check); 6] = [
        ("tidy", |workspace, _| tidy(workspace)),
        ("fmt", |workspace, _| fmt(workspace)),
        ("deny", |workspace, _| deny(workspace)),
        ("clippy", |workspace, _| clippy(workspace)),
        ("clippy of policy-ebpf", clippy_ebpf),
        ("doc", |workspace, _| doc(workspace)),
    ];
    all.into_iter().map(move |(name, check)| {
        announce(&format!("lint: {name}"));
        (name, check(workspace, toolchain))
    })
}

fn tidy(workspace: &Workspace) -> Result<()> {
    let (objections, files) = tidy::check(&workspace.root)?;
    if objections.is_empty() {
        println!("    {files} files keep the house rules");
        return Ok(());
    }
    bail!(
        "tidy: {} objections:\n{}",
        objections.len(),
        objections.join("\n")
    )
}

fn fmt(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["fmt", "--all", "--check"]);
    Job::new("fmt", cargo, SHORT)
        .run()
        .context("to format all: cargo fmt --all")
}

/// Advisories are left out: they need a database from elsewhere than crates.io.
fn deny(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["deny", "--log-level", "error", "check"]);
    cargo.args(["bans", "licenses", "sources"]);
    Job::new("deny", cargo, SHORT).run()
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["clippy", "--workspace", "--exclude", "policy-ebpf"])
        // Of all features the one that brings libFuzzer is left out: its C++ takes
        // longer to compile than everything here to check.
        .args(["--all-targets", "--features", "policy-agent/debug-log"])
        .args(["--", "-D", "warnings"]);
    Job::new("clippy", cargo, BUILD_LIMIT).run()
}

/// The programs compile for the BPF machine only, so their clippy is the BPF
/// toolchain's; without one, the compiler's own warnings in `build-ebpf` remain.
fn clippy_ebpf(workspace: &Workspace, toolchain: &BpfToolchain) -> Result<()> {
    let Some(mut cargo) = toolchain.compiler.clippy() else {
        println!(
            "    {} has no clippy, so policy-ebpf is compiled only (Debian: rust-web-clippy; \
             rustup: rustup component add clippy)",
            toolchain.compiler
        );
        return Ok(());
    };
    // With every feature: what only logs or measures must not rot either.
    build_ebpf::configure(&mut cargo, workspace, toolchain);
    cargo.args(["--all-features", "--", "-D", "warnings"]);
    Job::new("clippy of policy-ebpf", cargo, BUILD_LIMIT).run()
}

/// Every link in the documentation leads somewhere.
fn doc(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["doc", "--no-deps", "--document-private-items", "--lib"])
        .args([
            "--workspace",
            "--exclude",
            "policy-ebpf",
            "--exclude",
            "xtask",
        ])
        .env("RUSTDOCFLAGS", "-D warnings");
    Job::new("doc", cargo, BUILD_LIMIT).run()
}

//! How programs for use are compiled: optimised, and linked to no library.
//!
//! The one home of profile, target, flags and the place of the result, for what
//! ships, for the tests in the kernel and for what measures: the tests have the
//! very binary that ships, and nothing is compiled a second time.
//!
//! Static, since the container image has no libraries: the agent opens no shared
//! library and asks no name service when it talks to an address. Cargo is told a
//! target although it is this machine, or the flags would reach build scripts and
//! procedural macros, which cannot be static. Fuzz targets are compiled otherwise.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use object::elf;
use serde_json::Value;

use crate::{
    job::{Job, announce},
    workspace::Workspace,
};

/// A first build compiles every dependency, on two cores.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The packages with tests that need a kernel.
const TESTED: [&str; 2] = ["policy-agent", "policy-tests"];

/// A call of cargo that compiles optimised programs, up to its packages.
pub(crate) fn cargo(workspace: &Workspace, subcommand: &str) -> Command {
    let mut cargo = workspace.cargo();
    cargo
        .args([subcommand, "--release", "--target", &target()])
        // Above RUSTFLAGS and configuration, which must not undo it.
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace).join("\x1f"));
    cargo
}

/// Compiles a program of a package, and returns its path.
///
/// # Errors
///
/// When it does not compile, or the result needs a library at run time.
pub(crate) fn build(
    workspace: &Workspace,
    package: &str,
    program: &str,
    features: &[&str],
) -> Result<PathBuf> {
    announce(&format!("build: {program}, optimised"));
    let mut cargo = cargo(workspace, "build");
    cargo.args(["--package", package, "--bin", program]);
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    Job::new("build", cargo, BUILD_LIMIT).run()?;
    let binary = path(workspace, program);
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    ensure!(
        !needs_libraries(&bytes)?,
        "{} is not static: a dependency links a shared library",
        binary.display()
    );
    Ok(binary)
}

/// Where [`build`] leaves a program.
pub(crate) fn path(workspace: &Workspace, program: &str) -> PathBuf {
    let folder = workspace.target.join(target()).join("release");
    folder.join(program)
}

/// Compiles all test programs that need a kernel, without running one, and all
/// programs of their packages; returns name and path of each test program.
///
/// # Errors
///
/// When one does not compile, or there is none.
pub(crate) fn build_tests(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    announce("build: tests that need a kernel, optimised");
    let mut cargo = cargo(workspace, "test");
    // In one call, in which one package's crates need not wait for the other's.
    for package in TESTED {
        cargo.args(["--package", package]);
    }
    cargo
        .args(["--test", "*", "--no-run"])
        .arg("--message-format=json-render-diagnostics");
    let mut found = Vec::new();
    let built = Job::new("build of the tests", cargo, BUILD_LIMIT)
        .quiet()
        .run_with_lines(|line| found.extend(test_program(line)))?;
    ensure!(built, "the tests do not compile; see standard error");
    ensure!(!found.is_empty(), "cargo names no test program");
    Ok(found)
}

/// Name and path in a message of cargo's (the book of cargo, External tools, JSON
/// messages) about a test program; messages about all else have none.
fn test_program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = message.get("target")?;
    let is_test = target.get("kind")?.get(0)?.as_str()? == "test";
    let path = message.get("executable")?.as_str()?;
    let name = target.get("name")?.as_str()?;
    is_test.then(|| (name.to_owned(), PathBuf::from(path)))
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

fn rustflags(workspace: &Workspace) -> Vec<String> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    // The paths of this machine are no business of the binary.
    let mut hide = |path: &Path, shown: &str| {
        flags.push(format!("--remap-path-prefix={}={shown}", path.display()));
    };
    if let Some(home) = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
    {
        hide(&home, "/cargo");
    }
    // The last one that fits counts.
    hide(&workspace.root, "/policy-agent");
    flags
}

/// Whether an ELF file asks for an interpreter, which would look for libraries.
fn needs_libraries(elf: &[u8]) -> Result<bool> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)
        .context("it is not a 64-bit ELF file")?;
    let endian = file.endian();
    let mut headers = file.elf_program_headers().iter();
    Ok(headers.any(|header| header.p_type.get(endian) == elf::PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_with_an_interpreter_is_not_static() {
        // This test itself is linked as binaries usually are.
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(needs_libraries(&own).unwrap());
        assert!(needs_libraries(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn test_programs_are_found_in_cargos_messages() {
        let message = |kind: &str, executable: &str| {
            let target = format!(r#"{{"kind":["{kind}"],"name":"x"}}"#);
            format!(
                r#"{{"reason":"compiler-artifact","target":{target},"executable":{executable}}}"#
            )
        };
        let found = test_program(&message("test", r#""/t/deps/x-1""#));
        assert_eq!(found, Some(("x".to_owned(), PathBuf::from("/t/deps/x-1"))));
        assert_eq!(test_program(&message("bin", r#""/t/x""#)), None);
        assert_eq!(test_program(&message("lib", "null")), None);
        assert_eq!(test_program(r#"{"reason":"build-finished"}"#), None);
    }
}

//! What a guest has: programs with their libraries, modules, the tests, the agent.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::kernel::Kernel;
use crate::{
    build_agent::BUILD_LIMIT,
    host,
    job::{Job, announce, output_of},
    workspace::Workspace,
};

/// What runs as the guest's first process.
const INIT: &str = include_str!("../../../tests/vm/init.sh");
/// Programs that the first process and the tests call.
const PROGRAMS: [&str; 17] = [
    "bash", "bpftool", "cat", "chmod", "ip", "ls", "mkdir", "mktemp", "modprobe", "mount", "nft",
    "nsenter", "rm", "setpriv", "sleep", "timeout", "true",
];
/// Folders of modules that networking needs.
const MODULES: [&str; 5] = [
    "kernel/net",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
    "kernel/drivers/net",
];
/// Test programs that run in a guest, by package.
const TESTS: [(&str, &str); 3] = [
    ("policy-agent", "datapath"),
    ("policy-agent", "iface"),
    ("policy-tests", "enforcement"),
];
const PACK_LIMIT: Duration = Duration::from_secs(2 * 60);

/// A test program.
pub(crate) struct Test {
    name: &'static str,
    program: PathBuf,
}

/// Compiles the test programs, without running them.
///
/// # Errors
///
/// When one does not compile.
pub(crate) fn build_tests(workspace: &Workspace) -> Result<Vec<Test>> {
    announce("build: test programs for guests, release");
    let mut tests = Vec::new();
    for (package, name) in TESTS {
        let mut cargo = workspace.cargo();
        cargo
            .args(["test", "--release", "--no-run", "--package", package])
            .args(["--test", name, "--message-format=json-render-diagnostics"]);
        let mut program = None;
        let built = Job::new("build of the tests", cargo, BUILD_LIMIT)
            .quiet()
            .run_with_lines(|line| {
                program = executable(line).map(PathBuf::from).or(program.take());
            })?;
        ensure!(built, "{name} does not compile; see above");
        let program = program.with_context(|| format!("cargo does not say where {name} is"))?;
        tests.push(Test { name, program });
    }
    Ok(tests)
}

/// The path in a message of cargo's (`cargo help build`, `--message-format`)
/// about something that can be run.
fn executable(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("\"executable\":\"")?;
    rest.split_once('"').map(|(path, _)| path)
}

/// Makes the initial RAM disk.
///
/// # Errors
///
/// When a program is missing or something cannot be copied.
pub(crate) fn image(
    workspace: &Workspace,
    kernel: &Kernel,
    agent: &Path,
    tests: &[Test],
) -> Result<PathBuf> {
    let folder = workspace.target.join("vm");
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).context("removing the last guest's files")?;
    }
    for dir in [
        "dev",
        "etc",
        "proc",
        "run",
        "sys",
        "tmp",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "var",
    ] {
        fs::create_dir_all(root.join(dir)).context("making the guest's folders")?;
    }
    for (link, to) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        symlink(to, root.join(link)).context("linking the guest's folders")?;
    }
    symlink("bin", root.join("usr/sbin")).context("linking the guest's folders")?;
    symlink("bash", root.join("usr/bin/sh")).context("linking the shell")?;

    let mut binaries = Vec::new();
    for program in PROGRAMS {
        let path = host::find(program).with_context(|| format!("{program} is not installed"))?;
        binaries.push((path, format!("usr/bin/{program}")));
    }
    binaries.push((agent.to_owned(), "usr/bin/policy-agent".to_owned()));
    for test in tests {
        binaries.push((test.program.clone(), format!("tests/{}", test.name)));
    }
    let mut libraries = BTreeSet::new();
    for (from, to) in &binaries {
        copy(from, &root.join(to))?;
        libraries.extend(libraries_of(from)?);
    }
    for library in &libraries {
        copy(
            library,
            &root.join(library.strip_prefix("/").unwrap_or(library)),
        )?;
    }
    for dir in MODULES {
        copy_tree(
            &kernel.modules.join(dir),
            &guest_modules(&root, kernel).join(dir),
        )?;
    }
    for entry in fs::read_dir(&kernel.modules)
        .context("listing modules")?
        .flatten()
    {
        if entry.path().is_file() {
            copy(
                &entry.path(),
                &guest_modules(&root, kernel).join(entry.file_name()),
            )?;
        }
    }
    let init = root.join("init");
    fs::write(&init, INIT).context("writing the guest's first program")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("its mode")?;
    pack(&root, &folder.join(format!("{}.cpio", kernel.release)))
}

fn guest_modules(root: &Path, kernel: &Kernel) -> PathBuf {
    root.join("usr/lib/modules").join(&kernel.release)
}

/// The libraries that a program is linked with, its loader included.
fn libraries_of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program);
    // A static program has none, and ldd fails on it.
    let listed = output_of(ldd).unwrap_or_default();
    if listed.contains("not found") {
        bail!("{} lacks a library:\n{listed}", program.display());
    }
    Ok(listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry.context("listing modules")?;
        let to = to.join(entry.file_name());
        if entry.file_type().context("listing modules")?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            copy(&entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Packs a folder as the kernel wants it
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
fn pack(root: &Path, image: &Path) -> Result<PathBuf> {
    let out = File::create(image).with_context(|| format!("making {}", image.display()))?;
    let mut find = Command::new("find")
        .args([".", "-print0"])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("find does not start")?;
    let mut cpio = Command::new("cpio");
    cpio.args([
        "--create",
        "--null",
        "--quiet",
        "--format=newc",
        "--owner=0:0",
    ])
    .current_dir(root)
    .stdin(find.stdout.take().expect("piped above"))
    .stdout(out);
    Job::new("cpio", cpio, PACK_LIMIT).run()?;
    ensure!(find.wait().context("find")?.success(), "find failed");
    Ok(image.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","executable":"/x/target/release/deps/iface-1","fresh":true}"#;
        assert_eq!(executable(line), Some("/x/target/release/deps/iface-1"));
        let library = r#"{"reason":"compiler-artifact","executable":null,"fresh":true}"#;
        assert_eq!(executable(library), None);
    }
}

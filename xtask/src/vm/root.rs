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

use super::{choice::Chosen, kernel::Kernel};
use crate::{
    host,
    job::{Job, output_of},
    setup,
    workspace::Workspace,
};

/// What runs as the guest's first process.
const INIT: &str = include_str!("../../../tests/vm/init.sh");
/// Programs that the first process calls, and tests as something that runs; those
/// that tests need by name are `setup`'s.
const PROGRAMS: [&str; 9] = [
    "bash", "cat", "mkdir", "modprobe", "mount", "rm", "sleep", "timeout", "true",
];
/// Folders of modules that networking needs.
const MODULES: [&str; 5] = [
    "kernel/net",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
    "kernel/drivers/net",
];
const PACK_LIMIT: Duration = Duration::from_secs(2 * 60);

/// Makes the initial RAM disk.
///
/// # Errors
///
/// When a program is missing or something cannot be copied.
pub(crate) fn image(
    workspace: &Workspace,
    kernel: &Kernel,
    agent: &Path,
    tests: &[Chosen<'_>],
) -> Result<PathBuf> {
    let folder = workspace.target.join("vm");
    let root = folder.join(format!("root-{}", kernel.release));
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
    for program in PROGRAMS.into_iter().chain(setup::programs_of_tests()) {
        let path = host::find(program).with_context(|| format!("{program} is not installed"))?;
        binaries.push((path, format!("usr/bin/{program}")));
    }
    let mut libraries = BTreeSet::new();
    for (from, to) in &binaries {
        copy(from, &root.join(to))?;
        libraries.extend(libraries_of(from)?);
    }
    let programs = tests.iter().map(|chosen| chosen.program);
    let programs = programs.map(|program| (&*program.path, format!("tests/{}", program.name)));
    let agent = (agent, "usr/bin/policy-agent".to_owned());
    for (from, to) in programs.chain([agent]) {
        strip(from, &root.join(to))?;
        libraries.extend(libraries_of(from)?);
    }
    for library in &libraries {
        copy(
            library,
            &root.join(library.strip_prefix("/").unwrap_or(library)),
        )?;
    }
    for Chosen { program, tests } in tests {
        // A name a line: what the first process hands to the program.
        let list = root.join("tests").join(format!("{}.list", program.name));
        fs::write(list, tests.join("\n") + "\n").context("writing which tests run")?;
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

/// Copies a program without what only debuggers read, nine tenths of it.
fn strip(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    let mut strip = Command::new("strip");
    strip.args(["--strip-debug", "-o"]).arg(to).arg(from);
    Job::new("strip", strip, PACK_LIMIT).run()
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

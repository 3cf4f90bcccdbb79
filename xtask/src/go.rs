//! Go, which builds what tests need of Kubernetes: the system's, or, where that
//! is older than the modules want, the toolchain that Go's module proxy serves.
//!
//! The toolchain is a module like others (<https://go.dev/doc/toolchain>), kept in
//! Go's module cache and checked by Go against its checksum database. Go 1.21 and
//! later would fetch one by themselves; Debian 12 has 1.19.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    host,
    job::{Job, output_of},
    workspace::Workspace,
};

/// The oldest Go that `tests/cluster/go.mod` takes, major and minor.
const OLDEST: (u32, u32) = (1, 24);
/// The toolchain that is fetched where the system's is older.
const TOOLCHAIN: &str = "v0.0.1-go1.24.13";
/// 80 MB.
const FETCH_LIMIT: Duration = Duration::from_secs(10 * 60);

/// A Go that is new enough.
pub(crate) fn find() -> Option<PathBuf> {
    let own = any().filter(|go| is_new_enough(go));
    own.or_else(|| fetched().filter(|go| is_new_enough(go)))
}

/// Any Go: on the PATH, or where its own installer puts it.
pub(crate) fn any() -> Option<PathBuf> {
    let installed = PathBuf::from("/usr/local/go/bin/go");
    host::find("go").or_else(|| Some(installed).filter(|path| path.exists()))
}

/// Fetches the toolchain with any Go.
///
/// # Errors
///
/// When there is no Go at all, or the module proxy does not answer.
pub(crate) fn fetch(workspace: &Workspace) -> Result<()> {
    let go = any().context("there is no go at all; install your system's package of it")?;
    println!("    go mod download {}: 80 MB", module());
    fs::create_dir_all(&workspace.target).context("making the target directory")?;
    let mut download = Command::new(go);
    // Not among the pinned modules, whose file an old Go cannot read.
    download
        .current_dir(&workspace.target)
        .env_remove("GOFLAGS")
        .args(["mod", "download", &module()]);
    Job::new("go mod download", download, FETCH_LIMIT)
        .log_to(workspace.log("go-toolchain"))
        .run()?;
    let program = fetched().context("go does not say where its module cache is")?;
    let root = program.parent().and_then(Path::parent);
    let root = root.context("the toolchain has no folder")?;
    // Modules have no modes; an old Go leaves all files not executable.
    for folder in ["bin", "pkg/tool"] {
        make_executable(&root.join(folder))?;
    }
    ensure!(
        is_new_enough(&program),
        "{} does not start, or is too old",
        program.display()
    );
    Ok(())
}

fn module() -> String {
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("golang.org/toolchain@{TOOLCHAIN}.linux-{arch}")
}

/// Where the fetched toolchain's program is, or would be.
fn fetched() -> Option<PathBuf> {
    let mut cache = Command::new(any()?);
    cache.args(["env", "GOMODCACHE"]).current_dir("/");
    let cache = output_of(cache)?;
    Some(Path::new(cache.trim()).join(module()).join("bin/go"))
}

fn is_new_enough(go: &Path) -> bool {
    let mut ask = Command::new(go);
    // The program's own version, not that of one that it would fetch.
    ask.args(["env", "GOVERSION"])
        .current_dir("/")
        .env("GOTOOLCHAIN", "local");
    output_of(ask)
        .and_then(|text| version(&text))
        .is_some_and(|found| found >= OLDEST)
}

/// Major and minor of `go1.24.13`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix("go")?.split('.');
    let minor = |part: &str| {
        part.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    Some((parts.next()?.parse().ok()?, minor(parts.next()?)?))
}

fn make_executable(folder: &Path) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.context("listing the toolchain")?.path();
        if path.is_dir() {
            make_executable(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("cannot make {} executable", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_versions_are_told_apart() {
        assert_eq!(version("go1.24.13\n"), Some((1, 24)));
        assert_eq!(version("go1.26rc1"), Some((1, 26)));
        assert_eq!(version("devel +abc"), None);
        assert!(version("go1.19.8") < Some(OLDEST));
        assert!(version("go1.26.8") >= Some(OLDEST));
    }
}

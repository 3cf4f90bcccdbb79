//! What the machine offers: programs on the PATH, root, a BPF file system.
//!
//! Nothing here installs anything; `setup` does.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::job::Job;

/// Where the agent and the tests pin by default.
const BPFFS: &str = "/sys/fs/bpf";

/// Finds a program: on the PATH, where cargo installs, and where Debian keeps
/// administrators' tools, which an ordinary user's PATH lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|path| is_executable(path))
}

/// The folder that `cargo install` fills.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin"))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Refuses to go on without root, with the command that goes on.
///
/// # Errors
///
/// When this process is not root.
pub(crate) fn require_root(task: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "{task} loads programs into the kernel and makes network namespaces, which needs root; \
         run: sudo -E env \"PATH=$PATH\" cargo xtask {task}"
    )
}

/// Mounts a BPF file system at /sys/fs/bpf if there is none.
///
/// # Errors
///
/// When mounting fails, for example because the kernel lacks BPF.
pub(crate) fn mount_bpffs() -> Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    if has_bpffs(&mounts, BPFFS) {
        return Ok(());
    }
    println!("    mounting a BPF file system at {BPFFS}");
    let mut mount = Command::new("mount");
    mount.args(["-t", "bpf", "bpf", BPFFS]);
    Job::new("mount", mount, Duration::from_secs(10)).run()
}

/// Whether `mounts` (the format of /proc/self/mounts) has a bpffs at `point`.
fn has_bpffs(mounts: &str, point: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(point) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_found_by_mount_point_and_type() {
        let mounts = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n";
        assert!(has_bpffs(mounts, "/sys/fs/bpf"));
        assert!(!has_bpffs(mounts, "/sys"));
        assert!(!has_bpffs("none /sys/fs/bpf tmpfs rw 0 0", "/sys/fs/bpf"));
    }

    #[test]
    fn programs_are_found_only_where_they_can_run() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert!(find("no-such-program-here").is_none());
    }
}

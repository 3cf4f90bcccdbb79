//! A cgroup for each node, below the one that this process is in, so that
//! whatever limits this process limits the lab.
//!
//! The node then has a cgroup namespace of its own, in which its cgroup is the
//! root, as a kubelet expects. Made for control groups of version 1, alone or
//! with an empty version 2 beside them; version 2 alone is refused, because a
//! node's processes would have to leave its root before a kubelet can use it.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{lab::Lab, process};

const MOUNT: &str = "/sys/fs/cgroup";

/// One hierarchy that this process is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// What it controls, as in /proc/PID/cgroup: `cpu,cpuacct`, `name=systemd`,
    /// or nothing for version 2.
    pub(super) controllers: String,
    /// The cgroup, as an absolute path within the hierarchy.
    path: String,
}

impl Hierarchy {
    /// Its folder below /sys/fs/cgroup.
    pub(super) fn folder(&self) -> &str {
        match self.controllers.as_str() {
            "" => "unified",
            name => name.trim_start_matches("name="),
        }
    }

    fn dir(&self) -> PathBuf {
        let below = self.path.trim_start_matches('/');
        Path::new(MOUNT).join(self.folder()).join(below)
    }
}

/// The hierarchies that this process is in.
///
/// # Errors
///
/// When they cannot be read.
pub(super) fn own() -> Result<Vec<Hierarchy>> {
    // Read whole: it changes as the process moves.
    let text = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    Ok(parse(&text))
}

/// Reads /proc/PID/cgroup (man 7 cgroups): `number:controllers:path`.
fn parse(text: &str) -> Vec<Hierarchy> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some(Hierarchy {
                controllers: fields.next()?.to_owned(),
                path: fields.next()?.to_owned(),
            })
        })
        .collect()
}

/// Refuses a machine on which nodes cannot be made.
///
/// # Errors
///
/// When there is version 2 only.
pub(super) fn check() -> Result<()> {
    if own()?.iter().all(|one| one.controllers.is_empty()) {
        bail!(
            "this machine has control groups of version 2 only, and the lab needs version 1: \
             boot with systemd.unified_cgroup_hierarchy=0, or use a virtual machine"
        );
    }
    Ok(())
}

/// Moves this process into the cgroup of a node in every hierarchy.
///
/// # Errors
///
/// When a cgroup cannot be made or entered.
pub(super) fn enter(lab: &Lab, node: u8) -> Result<()> {
    for one in own()? {
        let above = one.dir();
        let all = above.join(lab.prefix().trim_end_matches('-'));
        let dir = all.join(node.to_string());
        note(lab, &dir)?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        if one.controllers.split(',').any(|name| name == "cpuset") {
            // A cpuset starts without processors, and then takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read_to_string(above.join(file)).unwrap_or_default();
                for below in [&all, &dir] {
                    write(&below.join(file), value.trim())?;
                }
            }
        }
        write(&dir.join("cgroup.procs"), "0")?;
    }
    Ok(())
}

/// Takes note of a cgroup before it is made, so that it is found again.
fn note(lab: &Lab, dir: &Path) -> Result<()> {
    let path = lab.cgroups();
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{}", dir.display()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Removes every cgroup of the lab. Their processes must be gone.
///
/// # Errors
///
/// When one cannot be removed.
pub(super) fn remove(lab: &Lab) -> Result<()> {
    let text = fs::read_to_string(lab.cgroups()).unwrap_or_default();
    let nodes: BTreeSet<&Path> = text.lines().map(Path::new).collect();
    let tops: BTreeSet<&Path> = nodes.iter().filter_map(|dir| dir.parent()).collect();
    for dir in &tops {
        // A task that was killed stays in its cgroup for a moment.
        let what = format!("removing {}", dir.display());
        process::wait_for(&what, 20, || remove_below(dir).is_ok())?;
    }
    Ok(())
}

/// Removes a cgroup and those below it, the lowest first.
fn remove_below(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_with_paths_that_hold_colons() {
        let all = parse("4:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/user\n");
        let folders: Vec<&str> = all.iter().map(Hierarchy::folder).collect();
        assert_eq!(folders, ["cpu,cpuacct", "systemd", "unified"]);
        assert_eq!(all[0].dir(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a:b"));
        assert_eq!(all[1].dir(), Path::new("/sys/fs/cgroup/systemd/"));
    }

    #[test]
    fn folders_are_removed_from_below_and_a_missing_one_is_no_error() {
        let top = std::env::temp_dir().join(format!("xtask-cgroup-{}", std::process::id()));
        fs::create_dir_all(top.join("a/b")).unwrap();
        remove_below(&top).unwrap();
        assert!(!top.exists());
        remove_below(&top).unwrap();
    }
}

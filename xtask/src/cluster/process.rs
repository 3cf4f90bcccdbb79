//! Which processes belong to the lab, told by their network namespace, and how
//! they end. Nothing is remembered in files, so nothing can be out of date.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::lab::netns_file;
use crate::interrupt;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long a killed process may take to be gone; a kubelet's mounts go with it.
const GONE: Duration = Duration::from_secs(30);

/// A process of the lab.
pub(super) struct Process {
    pub(super) pid: i32,
    /// Its program, as it was when it started.
    program: PathBuf,
    /// Whether it is the first of a process namespace just below ours.
    first: bool,
}

impl Process {
    /// Whether it runs `program`, also if that was replaced since.
    pub(super) fn runs(&self, program: &Path) -> bool {
        let own = self.program.to_string_lossy();
        Path::new(own.strip_suffix(" (deleted)").unwrap_or(&own)) == program
    }

    /// Whether its program has this file name.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.program.file_name().is_some_and(|own| own == name)
    }
}

/// All processes in a named network namespace; none if there is no such thing.
pub(super) fn inside(netns: &str) -> Vec<Process> {
    let Ok(wanted) = fs::metadata(netns_file(netns)) else {
        return Vec::new();
    };
    let process = |pid: i32| {
        let dir = Path::new("/proc").join(pid.to_string());
        let own = fs::metadata(dir.join("ns/net")).ok()?;
        if (own.dev(), own.ino()) != (wanted.dev(), wanted.ino()) {
            return None;
        }
        let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
        Some(Process {
            pid,
            program: fs::read_link(dir.join("exe")).unwrap_or_default(),
            first: is_first(&status),
        })
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// Whether /proc/PID/status (man 5 proc) is of the first process of a namespace
/// one level below the reader's: two numbers, the second of which is 1.
fn is_first(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .is_some_and(|ids| {
            let ids: Vec<&str> = ids.split_whitespace().collect();
            matches!(ids[..], [_, "1"])
        })
}

/// The first process of a node, which is its whole life.
pub(super) fn init_of(netns: &str) -> Option<i32> {
    inside(netns)
        .into_iter()
        .find(|process| process.first)
        .map(|process| process.pid)
}

/// A process whose control group has `part` in its path, such as `podUID`.
pub(super) fn in_cgroup(part: &str) -> Option<i32> {
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|groups| groups.split(['/', '\n']).any(|name| name == part))
        })
}

/// Kills every process in a network namespace and waits until they are gone.
/// A node's first process takes along all that it started, pods included.
///
/// # Errors
///
/// When some do not go.
pub(super) fn end_all(netns: &str) -> Result<()> {
    let until = Instant::now() + GONE;
    loop {
        let processes = inside(netns);
        if processes.is_empty() {
            return Ok(());
        }
        for process in &processes {
            if let Some(pid) = Pid::from_raw(process.pid) {
                // It may have ended since it was listed.
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
        if Instant::now() > until {
            let pids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
            bail!("processes of {netns} do not end: {}", pids.join(" "));
        }
        thread::sleep(POLL);
    }
}

/// Waits until `done` says so.
///
/// # Errors
///
/// When that takes longer than `limit` seconds, or at a signal.
pub(super) fn wait_for(what: &str, limit: u64, mut done: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(limit);
    while !done() {
        interrupt::check()?;
        if Instant::now() > until {
            bail!("{what}: not within {limit} s");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_process_one_level_down_is_a_nodes() {
        assert!(is_first("Name:\tx\nNSpid:\t4711\t1\n"));
        assert!(!is_first("NSpid:\t4711\n"), "the reader's own level");
        assert!(!is_first("NSpid:\t4711\t12\n"), "not the first");
        assert!(!is_first("NSpid:\t4711\t80\t1\n"), "a container's first");
    }

    #[test]
    fn a_program_is_known_after_it_was_replaced() {
        let running = |exe: &str| Process {
            pid: 1,
            program: PathBuf::from(exe),
            first: false,
        };
        assert!(running("/bin/etcd").runs(Path::new("/bin/etcd")));
        assert!(running("/bin/etcd (deleted)").runs(Path::new("/bin/etcd")));
        assert!(!running("/bin/etcdctl").runs(Path::new("/bin/etcd")));
    }

    #[test]
    fn there_is_nobody_in_a_namespace_that_is_not_there() {
        assert!(inside("no-such-namespace").is_empty());
        assert!(end_all("no-such-namespace").is_ok());
    }
}

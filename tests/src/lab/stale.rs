//! Labs whose program was killed before it could drop them.
//!
//! Each lab's folder says who owns it; the next lab removes what belongs to an
//! owner that no longer runs. A process id alone would not do, as ids are used
//! again: the start time goes with it.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

const PREFIX: &str = "policy-lab-";
const OWNER: &str = "owner";
const PROCESSES: &str = "processes";

/// Where labs keep their folders.
pub(crate) fn parent_dir() -> PathBuf {
    std::env::temp_dir()
}

/// The folder's name of this process's lab with that number.
pub(crate) fn dir_name(number: u32, name: &str) -> String {
    let mut dir = format!("{PREFIX}{}-{number}-", std::process::id());
    for c in name.chars() {
        let plain = c.is_ascii_alphanumeric() || c == '-';
        dir.push(if plain { c } else { '-' });
    }
    dir
}

/// Marks a folder as this process's.
pub(crate) fn claim(dir: &Path) -> Result<()> {
    let mut owner = identity(std::process::id()).context("read the own start time")?;
    writeln!(owner, " {}", pid_namespace()?).expect("a string takes everything");
    let path = dir.join(OWNER);
    fs::write(&path, owner).with_context(|| format!("write {}", path.display()))
}

/// Remembers a process of the lab.
pub(crate) fn record_process(dir: &Path, pid: u32) -> Result<()> {
    // A process that ended already needs no record.
    let Some(identity) = identity(pid) else {
        return Ok(());
    };
    let path = dir.join(PROCESSES);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{identity}"))
        .with_context(|| format!("append to {}", path.display()))
}

/// Removes the labs of processes that are gone. Failures are printed: they are
/// no concern of the lab that is being made.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(parent_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && is_stale(&entry.path()) {
            eprintln!("lab: removing {}, left behind", entry.path().display());
            if let Err(error) = remove(&entry.path()) {
                eprintln!("lab: {error:#}");
            }
        }
    }
}

fn is_stale(dir: &Path) -> bool {
    let Ok(owner) = fs::read_to_string(dir.join(OWNER)) else {
        return false;
    };
    let Some((owner, namespace)) = owner.trim_end().rsplit_once(' ') else {
        return false;
    };
    // Process ids of another container's say nothing here.
    pid_namespace().is_ok_and(|own| own == namespace) && !is_alive(owner)
}

fn remove(dir: &Path) -> Result<()> {
    for line in fs::read_to_string(dir.join(PROCESSES))
        .unwrap_or_default()
        .lines()
    {
        let pid = line.split(' ').next().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw)
            && is_alive(line)
        {
            kill_process(pid, Signal::KILL).with_context(|| format!("kill process {line}"))?;
        }
    }
    unmount_below(dir)?;
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

/// Unmounts whatever is mounted below `dir`: namespaces, and what a process of
/// the lab mounted for itself.
pub(crate) fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    // Later mounts may lie below earlier ones.
    for line in mounts.lines().rev() {
        let target = line.split(' ').nth(4).map(unescape);
        if let Some(target) = target.filter(|target| target.starts_with(dir)) {
            unmount(&target, UnmountFlags::DETACH)
                .with_context(|| format!("unmount {}", target.display()))?;
        }
    }
    Ok(())
}

/// A path of mountinfo, where blanks and the like are octal (proc(5)).
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                path.push(char::from(code));
                path.push_str(&part[3..]);
            }
            None => path.push_str(part),
        }
    }
    path.into()
}

/// Whether the process of an [`identity`] still runs.
fn is_alive(recorded: &str) -> bool {
    recorded
        .split(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .and_then(identity)
        .is_some_and(|now| now == recorded)
}

/// `PID START`, the start in clock ticks since boot (proc_pid_stat(5), field
/// 22); none when there is no such process.
fn identity(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name that may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let start = rest.split(' ').nth(19)?;
    Some(format!("{pid} {start}"))
}

fn pid_namespace() -> Result<String> {
    let link = fs::read_link("/proc/self/ns/pid").context("read /proc/self/ns/pid")?;
    Ok(link.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_one_of_another_start_time_is_not() {
        let own = identity(std::process::id()).expect("this process has an entry");
        assert!(is_alive(&own));
        let (pid, start) = own.split_once(' ').expect("two fields");
        assert!(!is_alive(&format!("{pid} {start}1")));
        assert!(!is_alive("no number"));
    }

    #[test]
    fn mounted_paths_are_unescaped() {
        assert_eq!(unescape("/tmp/a\\040b\\134c"), Path::new("/tmp/a b\\c"));
        assert_eq!(unescape("/tmp/plain"), Path::new("/tmp/plain"));
    }
}

//! Dropping a lab leaves nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Lab, ServeSpec, Server, Wiring, wait_for};

use crate::connectivity::{v4, v6};

const BOUND: Duration = Duration::from_secs(10);

fn mounts() -> Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")
}

/// Inode of the namespace that a file names, which says who it is for ever.
fn inode(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)?.ino())
}

/// Whether a process is in that network namespace.
fn is_in(pid: u32, namespace: u64) -> bool {
    inode(Path::new(&format!("/proc/{pid}/ns/net"))).is_ok_and(|inode| inode == namespace)
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

#[test]
fn nothing_of_a_dropped_lab_is_left() -> Result<()> {
    let mut lab = Lab::new("dropped", Wiring::Bridged)?;
    let pod = lab.pod("a/pod", v4(10), v6(10))?;
    lab.outside("far", std::net::Ipv4Addr::new(198, 51, 100, 7), None)?;
    let _server = Server::start(&pod, &ServeSpec::ports(&[80]))?;
    let process = lab.spawn_in_node(sleeper())?;
    let dir = lab.dir().to_owned();
    let text = dir.display().to_string();
    let node = inode(lab.node().netns().path())?;
    ensure!(
        mounts()?.matches(&text).count() == 4,
        "node, fabric, pod, outside"
    );
    wait_for("the process to be in the node", BOUND, || {
        is_in(process.pid(), node)
    })?;

    drop(lab);
    // The pod and the server are still held here; their names are gone.
    ensure!(!mounts()?.contains(&text) && !dir.exists());
    ensure!(!process.is_running() && !Path::new(&format!("/proc/{}", process.pid())).exists());
    Ok(())
}

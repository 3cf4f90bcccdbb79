//! Processes of a lab, and that dropping a lab leaves nothing.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Lab, Netns, NodeProcess, ServeSpec, Server, Wiring, wait_for};

use crate::connectivity::{v4, v6};

const BOUND: Duration = Duration::from_secs(10);

fn mounts() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo").context("read the mounts")
}

/// Inode of a namespace, which says who it is for ever.
fn inode(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// Whether a process is in that network namespace.
fn is_in(pid: u32, namespace: u64) -> bool {
    inode(Path::new(&format!("/proc/{pid}/ns/net"))).is_ok_and(|inode| inode == namespace)
}

/// Whether this process holds that network namespace open.
fn is_held(namespace: u64) -> Result<bool> {
    for entry in fs::read_dir("/proc/self/fd")? {
        // A descriptor may be closed by another test meanwhile.
        if inode(&entry?.path()).is_ok_and(|inode| inode == namespace) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command
        .arg("1000")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// A process outside of any lab that ends with the test, however that ends.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn nothing_of_a_dropped_lab_is_left() -> Result<()> {
    let mut lab = Lab::new("dropped", Wiring::Bridged)?;
    let pod = lab.pod("a/pod", v4(10), v6(10))?;
    lab.outside("far", Ipv4Addr::new(198, 51, 100, 7), None)?;
    let server = Server::start(&pod, &ServeSpec::ports(&[80]))?;
    let process = lab.spawn_in_node(sleeper())?;
    let dir = lab.dir().to_owned();
    let text = dir.display().to_string();
    let node = inode(lab.node().netns().path())?;
    ensure!(
        mounts()?.matches(&text).count() == 4,
        "node, fabric, pod, outside"
    );
    ensure!(is_in(process.pid(), node) && is_held(node)?);
    // As a process may do it for its own use.
    let mounted = dir.join("own mount");
    fs::create_dir(&mounted)?;
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&mounted)
        .status()?;
    ensure!(done.success() && mounts()?.matches(&text).count() == 5);

    drop(lab);
    // The pod and its server are still held here; its name and link are gone.
    ensure!(!mounts()?.contains(&text) && !dir.exists());
    ensure!(!process.is_running() && !exists(process.pid()));
    ensure!(!is_held(node)?);
    let links = pod
        .netns()
        .output(Command::new("ip").args(["-o", "link"]))?;
    ensure!(String::from_utf8_lossy(&links.stdout).lines().count() == 1);
    drop(server);
    Ok(())
}

#[test]
fn nothing_of_a_lab_is_left_after_a_panic() -> Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let mut lab = Lab::new("panic", Wiring::Routed).expect("a lab");
        let _pod = lab.pod("a/pod", v4(10), v6(10)).expect("a pod");
        let process = lab.spawn_in_node(sleeper()).expect("a process");
        let told = sender.send((lab.dir().to_owned(), process.pid()));
        told.expect("somebody listens");
        panic!("this panic is part of the test");
    })
    .join();
    let (dir, pid) = receiver.recv()?;
    ensure!(panicked.is_err());
    ensure!(!mounts()?.contains(&dir.display().to_string()) && !dir.exists() && !exists(pid));
    Ok(())
}

/// What a killed test leaves: a folder whose owner is gone, a namespace, a
/// process.
#[test]
fn the_next_lab_removes_what_a_killed_one_left() -> Result<()> {
    let mut gone = Command::new("true").spawn()?;
    let owner = gone.id();
    gone.wait()?;
    let dir = std::env::temp_dir().join(format!("policy-lab-{owner}-0-killed"));
    fs::create_dir_all(dir.join("netns"))?;
    let netns = Netns::create(&dir.join("netns/a_pod"))?;
    // Nobody will drop it.
    std::mem::forget(netns);
    let mut orphan = Guarded(sleeper().spawn()?);
    let stat = fs::read_to_string(format!("/proc/{}/stat", orphan.0.id()))?;
    let start = stat.split(' ').nth(21).context("the start time")?;
    // A process with the same id that started at another time stays alive.
    let mut other = Guarded(sleeper().spawn()?);
    let records = format!("{} {start}\n{} 1\n", orphan.0.id(), other.0.id());
    fs::write(dir.join("processes"), records)?;
    let namespace = fs::read_link("/proc/self/ns/pid")?;
    fs::write(
        dir.join("owner"),
        format!("{owner} 1 {}\n", namespace.display()),
    )?;

    let _lab = Lab::new("sweeper", Wiring::Routed)?;
    // Another test's lab may have begun to remove it and be at it still.
    wait_for("the folder to go", BOUND, || !dir.exists())?;
    ensure!(!mounts()?.contains(&dir.display().to_string()));
    ensure!(orphan.0.wait()?.signal() == Some(9));
    ensure!(other.0.try_wait()?.is_none(), "the other one lives");
    Ok(())
}

#[test]
fn processes_are_watched_asked_to_end_and_killed() -> Result<()> {
    let mut lab = Lab::new("processes", Wiring::Routed)?;
    let pod = lab.pod("a/pod", v4(10), v6(10))?;
    let polite = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let process = lab.spawn_in(&pod, shell(polite))?;
    process.wait_for_output("ready", BOUND)?;
    ensure!(is_in(process.pid(), inode(pod.netns().path())?));
    ensure!(process.is_running() && process.wait(Duration::ZERO).is_err());
    ensure!(process.terminate(BOUND)?.code() == Some(7));
    ensure!(process.stdout() == "ready\nbye\n" && !process.is_running());
    ensure!(process.kill()?.code() == Some(7), "it had ended already");

    let stubborn = lab.spawn_in_node(shell("trap '' TERM; echo no >&2; exec sleep 1000"))?;
    stubborn.wait_for_output("no", BOUND)?;
    ensure!(stubborn.terminate(Duration::from_millis(50)).is_err());
    ensure!(stubborn.kill()?.signal() == Some(9));

    let short = lab.spawn_in_node(shell("echo early"))?;
    let failure = short.wait_for_output("late", BOUND).map_err(describe);
    ensure!(failure.is_err_and(|text| text.contains("early")));
    let missing: Result<NodeProcess> = lab.spawn_in_node(Command::new("/nonexistent/agent"));
    ensure!(missing.is_err_and(|error| describe(error).contains("/nonexistent/agent")));
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn describe(error: anyhow::Error) -> String {
    format!("{error:#}")
}

#[test]
fn an_error_of_ip_names_the_command() -> Result<()> {
    let lab = Lab::new("errors", Wiring::Routed)?;
    let result = lab.ip(lab.node(), &["link set lo up", "link set nothing up"]);
    let text = result.map_err(describe).expect_err("there is no such link");
    ensure!(text.contains("ip link set nothing up") && text.contains("nothing"));
    Ok(())
}

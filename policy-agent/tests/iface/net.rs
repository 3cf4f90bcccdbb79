//! Network namespaces for tests: made here, configured with `ip`, gone when
//! dropped. Needs root; says so where it fails.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, AsRawFd},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use policy_agent::iface::{IfaceError, Scanner, Snapshot, Watcher};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::runtime::Runtime;

/// How long a test waits for something that takes milliseconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A network namespace that nothing but its file keeps alive.
#[derive(Debug)]
pub(crate) struct Net {
    file: File,
}

impl Net {
    /// A new one, with loopback up.
    pub(crate) fn new() -> Self {
        let file = thread::spawn(|| {
            // SAFETY: of the thread's own state only its network namespace
            // changes, and the thread ends with this closure.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("unshare(CLONE_NEWNET): this test needs root");
            File::open("/proc/thread-self/ns/net").expect("own namespace")
        })
        .join()
        .expect("the thread does not panic");
        let net = Self { file };
        net.ip("link set lo up");
        net
    }

    /// The same namespace once more.
    pub(crate) fn clone_of(other: &Self) -> Self {
        let file = other.file.try_clone().expect("a file can be cloned");
        Self { file }
    }

    /// The path by which this process can name the namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `work` in a thread inside the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.file.as_fd(), kind).expect("setns: needs root");
                work()
            });
            inside.join().expect("work inside the namespace")
        })
    }

    /// Runs `ip` commands, one a line.
    pub(crate) fn ip(&self, commands: impl AsRef<str>) {
        let commands = commands.as_ref();
        let output = self.inside(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("ip (package iproute2)");
            let mut stdin = ip.stdin.take().expect("piped");
            stdin.write_all(commands.as_bytes()).expect("ip reads");
            drop(stdin);
            ip.wait_with_output().expect("ip ends")
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip: {errors}\n{commands}");
    }

    /// A program that sleeps in the namespace, for its `/proc/PID`.
    pub(crate) fn sleeper(&self) -> Sleeper {
        let child = self.inside(|| Command::new("sleep").arg("infinity").spawn());
        Sleeper(child.expect("sleep starts"))
    }
}

/// Killed when dropped.
pub(crate) struct Sleeper(std::process::Child);

impl Sleeper {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace that plays the node, and what an agent in it sees.
pub(crate) struct Node {
    pub(crate) net: Net,
    pub(crate) runtime: Runtime,
    pub(crate) scanner: Scanner,
    pub(crate) watcher: Watcher,
}

impl Node {
    /// A node on which `prepare` has been done before the agent starts.
    pub(crate) fn after(prepare: impl FnOnce(&Net)) -> Self {
        Self::watching(None, prepare)
    }

    /// As [`Node::after`], with a folder of namespaces.
    pub(crate) fn watching(dir: Option<&std::path::Path>, prepare: impl FnOnce(&Net)) -> Self {
        let net = Net::new();
        prepare(&net);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        let (watcher, scanner) = net.inside(|| {
            let _entered = runtime.enter();
            let watcher = Watcher::new(dir).expect("watcher");
            let scanner = Scanner::new(dir.map(Into::into)).expect("scanner");
            (watcher, scanner)
        });
        Self {
            net,
            runtime,
            scanner,
            watcher,
        }
    }

    pub(crate) fn snapshot(&mut self) -> Snapshot {
        self.scanner.snapshot().expect("snapshot")
    }

    /// Index of the interface with that name.
    pub(crate) fn index(&mut self, name: &str) -> u32 {
        let snapshot = self.snapshot();
        let link = snapshot.links.values().find(|link| link.name == name);
        link.unwrap_or_else(|| panic!("no {name} in {:?}", snapshot.links))
            .index
    }

    /// Lives as the agent does, one scan for each change, until `done` says so
    /// of a snapshot. Fails after [`LIMIT`].
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Snapshot) -> bool,
    ) -> Snapshot {
        let start = Instant::now();
        loop {
            let change = self
                .runtime
                .block_on(async { tokio::time::timeout(LIMIT, self.watcher.changed()).await })
                .unwrap_or_else(|_| panic!("no change told while waiting: {what}"))
                .expect("watcher");
            match self.scanner.scan(&change) {
                Ok(snapshot) if done(&snapshot) => return snapshot,
                Ok(snapshot) => assert!(start.elapsed() < LIMIT, "{what}: {snapshot:#?}"),
                Err(IfaceError::Interrupted { .. }) => {
                    assert!(start.elapsed() < LIMIT, "{what}: always interrupted");
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }

    /// Lives as the agent does until nothing more is told than the rare polls.
    pub(crate) fn settle(&mut self) {
        let start = Instant::now();
        let quiet = Duration::from_millis(500);
        while let Ok(change) = self
            .runtime
            .block_on(async { tokio::time::timeout(quiet, self.watcher.changed()).await })
        {
            let change = change.expect("watcher");
            self.scanner.scan(&change).expect("scan");
            assert!(start.elapsed() < LIMIT, "never quiet");
        }
    }

    /// Makes a veth pair as a CNI plugin does: from inside the pod, with one
    /// end put into the node. The pod's end is `eth0`.
    pub(crate) fn wire(&self, pod: &Net, host_name: &str) {
        wire(&self.net, pod, host_name);
    }
}

/// As [`Node::wire`], for a node that has no agent yet.
pub(crate) fn wire(node: &Net, pod: &Net, host_name: &str) {
    let node_path = node.path();
    pod.ip(format!(
        "link add eth0 type veth peer name {host_name} netns {node_path}\n\
         link set eth0 up"
    ));
    node.ip(format!("link set {host_name} up"));
}

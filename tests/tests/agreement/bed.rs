//! Where nodes are set up: a network namespace with interfaces, and a folder for BPF file systems.
//!
//! Both belong to one thread and its mount namespace, so that nothing is left when it ends, however
//! it ends. Interfaces only have to exist: packets are tried, not sent.

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Pairs of interfaces; each end serves as the host side of one pod's.
const PAIRS: usize = 120;

/// What a thread has for its nodes.
pub(crate) struct Bed {
    folder: PathBuf,
    /// Indexes of interfaces that nobody uses yet.
    pub(crate) interfaces: Vec<u32>,
}

/// Runs `work` on a thread of its own with a bed of its own; a panic of `work` goes on here.
pub(crate) fn on_bed<T: Send>(name: &str, work: impl FnOnce(Bed) -> T + Send) -> T {
    let folder =
        std::env::temp_dir().join(format!("policy-agreement-{}-{name}", std::process::id()));
    fs::create_dir(&folder).expect("a folder for temporary files");
    let result = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: of the thread's own state its network and mount namespaces change, with the
            // working directory that it shared; it ends with this closure.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
                .expect("unshare(CLONE_NEWNET | CLONE_NEWNS): this test needs root");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).expect("mounts of a namespace of our own");
            work(Bed {
                interfaces: make_interfaces(&folder),
                folder: folder.clone(),
            })
        });
        inside.join()
    });
    fs::remove_dir_all(&folder).expect("what was mounted there is gone with the thread");
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Bed {
    /// Mounts an empty BPF file system.
    pub(crate) fn bpffs(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::create_dir(&path).expect("a name that is used once");
        mount("bpf", &path, "bpf", MountFlags::empty(), None).expect("mount a BPF file system");
        path
    }
}

fn make_interfaces(folder: &Path) -> Vec<u32> {
    let lines: Vec<String> = (0..PAIRS)
        .map(|pair| format!("link add a{pair} type veth peer name b{pair}\n"))
        .collect();
    let batch = folder.join("links");
    fs::write(&batch, lines.concat()).expect("a file in our folder");
    let status = Command::new("ip").arg("-batch").arg(&batch).status();
    assert!(status.expect("ip (iproute2) runs").success(), "ip -batch");
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
    let ends = (0..PAIRS).flat_map(|pair| [format!("a{pair}"), format!("b{pair}")]);
    ends.map(|name| name_to_index(&any, &name).expect("made just now"))
        .collect()
}

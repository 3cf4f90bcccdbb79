//! `--netns-dir`: only the namespaces bound in a folder.

use std::{
    fs::{self, File},
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use policy_agent::iface::{Behind, NoInterface, NotAPod, assign};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::net::{Net, Node, wire};

/// A folder of its own; what is mounted in it is unmounted, and all is removed.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("iface-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("temporary folder");
        Self(path)
    }

    /// Mounts the namespace on a file, as `ip netns add` does.
    fn bind(&self, name: &str, net: &Net) {
        let file = self.0.join(name);
        File::create(&file).expect("file to mount on");
        mount_bind(net.path(), &file).expect("mount --bind: needs root");
    }

    fn unbind(&self, name: &str) {
        let file = self.0.join(name);
        unmount(&file, UnmountFlags::DETACH).expect("was mounted");
        fs::remove_file(&file).expect("file is there");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = unmount(entry.path(), UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pods() -> Vec<(&'static str, Vec<IpAddr>)> {
    let ip = |text: &str| vec![text.parse().expect("a literal address")];
    vec![("a", ip("10.77.0.2")), ("b", ip("10.77.0.3"))]
}

fn pod(node: &Net, name: &str, address: &str) -> Net {
    let pod = Net::new();
    wire(node, &pod, name);
    pod.ip(format!("address add {address}/24 dev eth0"));
    pod
}

#[test]
fn mounts_and_links_are_found_and_others_are_filtered() {
    let folder = Folder::new("kinds");
    let mut nets = Vec::new();
    let mut node = Node::watching(Some(&folder.0), |node| {
        nets.push(pod(node, "vetha", "10.77.0.2"));
        nets.push(pod(node, "vethb", "10.77.0.3"));
        nets.push(pod(node, "vethc", "10.77.0.4"));
    });
    let sleeper = nets[1].sleeper();
    let unlinked = Net::new();
    folder.bind("a", &nets[0]);
    folder.bind("unlinked", &unlinked);
    symlink(format!("/proc/{}/ns/net", sleeper.id()), folder.0.join("b")).expect("link");
    symlink(
        format!("/proc/{}/ns/uts", sleeper.id()),
        folder.0.join("uts"),
    )
    .expect("link");
    File::create(folder.0.join("left-over")).expect("file");

    let snapshot = node.snapshot();
    let assignment = assign(&snapshot, &pods());
    let (a, b, c) = (
        node.index("vetha"),
        node.index("vethb"),
        node.index("vethc"),
    );
    assert_eq!(assignment.interfaces["a"], [a].into());
    assert_eq!(assignment.interfaces["b"], [b].into());
    assert_eq!(snapshot.behind[&c], Behind::Filtered);
    assert_eq!(assignment.not_pods, [(c, NotAPod::Filtered)].into());
    let named: Vec<_> = snapshot
        .named_namespaces
        .iter()
        .flat_map(|named| named.values())
        .flatten()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named.contains(&"a") && named.contains(&"b"), "{named:?}");
    let problems: Vec<_> = snapshot
        .problems
        .iter()
        .filter_map(|problem| problem.path.file_name()?.to_str())
        .collect();
    assert_eq!(problems, ["left-over", "uts"]);
}

#[test]
fn a_namespace_bound_or_unbound_later_is_noticed() {
    let folder = Folder::new("later");
    let mut net = None;
    let mut node = Node::watching(Some(&folder.0), |node| {
        net = Some(pod(node, "vetha", "10.77.0.2"));
    });
    let net = net.expect("made above");
    let first = assign(&node.snapshot(), &pods());
    assert_eq!(first.without_interface["a"], NoInterface::NotSeen);
    node.settle();
    folder.bind("a", &net);
    node.until("the pod is found", |snapshot| {
        assign(snapshot, &pods()).interfaces.contains_key("a")
    });
    folder.unbind("a");
    node.until("the pod is filtered", |snapshot| {
        !assign(snapshot, &pods()).interfaces.contains_key("a")
    });
}

#[test]
fn a_folder_that_is_created_later_is_noticed() {
    let outer = Folder::new("outer");
    let inner = outer.0.join("netns");
    let mut net = None;
    let mut node = Node::watching(Some(&inner), |node| {
        net = Some(pod(node, "vetha", "10.77.0.2"));
    });
    let net = net.expect("made above");
    let snapshot = node.snapshot();
    assert_eq!(snapshot.problems.len(), 1);
    assert_eq!(snapshot.problems[0].path, inner);
    assert!(assign(&snapshot, &pods()).interfaces.is_empty());

    let sleeper = net.sleeper();
    fs::create_dir(&inner).expect("folder");
    symlink(
        Path::new("/proc")
            .join(sleeper.id().to_string())
            .join("ns/net"),
        inner.join("a"),
    )
    .expect("link");
    node.until("the pod is found", |snapshot| {
        assign(snapshot, &pods()).interfaces.contains_key("a")
    });
}

//! A node, seen from inside: its first process.
//!
//! It gives the node a file system of its own over the machine's, so that every
//! program finds everything where a real node has it, then runs containerd,
//! kubelet and kube-proxy, and starts each again when it ends, as systemd would.
//! Whatever it mounts, writes and starts ends with it or is on the node's disk.

use std::{
    collections::HashMap,
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{WaitOptions, waitpid},
    system::sethostname,
};
use serde_json::json;

use super::{
    cgroup,
    control::background,
    lab::{Cni, DNS, Lab, POD_RANGE, Settings, node_address, node_name, pod_range, write},
    process::wait_for,
    programs::PAUSE_IMAGE,
};
use crate::job::output_of;

/// How long a program that ended stays down.
const RESTART: Duration = Duration::from_secs(1);
/// Debian's CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";
const PLUGINS_ON_NODE: &str = "/opt/cni/bin";
/// What a kubelet wants of the kernel, which is the machine's: files that say so
/// already keep it from writing there.
const TUNABLES: [(&str, &str); 4] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
];

/// `boot-node`: never returns but to fail.
///
/// # Errors
///
/// When the node cannot be made.
pub(super) fn boot(lab: &Lab, node: u8) -> Result<()> {
    let settings = lab.require_up()?;
    let name = node_name(node);
    sethostname(name.as_bytes()).context("cannot set the host name")?;
    file_system(lab, node)?;
    configure(lab, node, settings)?;

    let mut services = Services::new(lab, node);
    let containerd = ["--config", "/etc/containerd.toml"];
    services.add("containerd", PathBuf::from("containerd"), &containerd);
    services.step()?;
    wait_for("containerd answers", 60, || {
        output_of(command("ctr", &["version"])).is_some()
    })?;
    for archive in archives(lab)? {
        import(&archive)?;
    }
    let kubeconfig = lab.state().join(format!("{name}.kubeconfig"));
    let kubelet = [
        "--config=/etc/kubelet.json".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", node_address(node)),
    ];
    services.add("kubelet", lab.bin("kubelet"), &kubelet);
    let proxy = ["--config=/etc/kube-proxy.json"];
    services.add("kube-proxy", lab.bin("kube-proxy"), &proxy);
    loop {
        services.step()?;
        thread::sleep(Duration::from_millis(200));
    }
}

/// Everything that a node mounts.
fn file_system(lab: &Lab, node: u8) -> Result<()> {
    let disk = lab.disk(node);
    // Nothing from here on reaches the machine's own mounts.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make mounts private")?;

    for name in ["etc", "opt", "var"] {
        overlay(&disk, name, &format!("/{name}"), &format!("/{name}"))?;
    }
    // Containers' own file systems are overlays, which must not be on overlays.
    for name in ["containerd", "kubelet"] {
        let (own, target) = (disk.join(name), PathBuf::from("/var/lib").join(name));
        make(&own)?;
        make(&target)?;
        mount_bind(&own, &target).with_context(|| format!("cannot mount {}", target.display()))?;
    }
    // With room for the plugins that DaemonSets bring.
    make(Path::new(PLUGINS_ON_NODE))?;
    overlay(&disk, "cni", PLUGINS, PLUGINS_ON_NODE)?;

    plain("tmpfs", "/run", "mode=755")?;
    make(Path::new("/run/netns"))?;
    make(Path::new("/run/lock"))?;
    plain("proc", "/proc", "")?;
    // Shows the links of the network namespace in which it is mounted.
    plain("sysfs", "/sys", "")?;
    plain("tmpfs", "/sys/fs/cgroup", "mode=755")?;
    for one in cgroup::own()? {
        let target = Path::new("/sys/fs/cgroup").join(one.folder());
        make(&target)?;
        let target = target.display().to_string();
        match one.controllers.as_str() {
            "" => plain("cgroup2", &target, "")?,
            name if name.starts_with("name=") => {
                plain("cgroup", &target, &format!("none,{name}"))?;
            }
            controllers => plain("cgroup", &target, controllers)?,
        }
    }
    plain("bpf", "/sys/fs/bpf", "mode=700")?;
    for (key, value) in TUNABLES {
        let file = disk.join("tunables").join(key.replace('/', "."));
        write(&file, &format!("{value}\n"))?;
        let target = Path::new("/proc/sys").join(key);
        mount_bind(&file, &target).with_context(|| format!("cannot cover {key}"))?;
    }
    // Pods may ask for mounts to be propagated to and from the node.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("cannot make mounts shared")
}

/// Mounts `lower` at `target`, with changes going to the disk.
fn overlay(disk: &Path, name: &str, lower: &str, target: &str) -> Result<()> {
    let (upper, work) = (disk.join(name), disk.join("work").join(name));
    make(&upper)?;
    make(&work)?;
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    plain("overlay", target, &options)
}

fn plain(kind: &str, target: &str, options: &str) -> Result<()> {
    let data = CString::new(options).context("mount options hold a zero byte")?;
    mount(kind, target, kind, MountFlags::empty(), data.as_c_str())
        .with_context(|| format!("cannot mount {kind} at {target} ({options})"))
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// Writes what the programs of the node read.
fn configure(lab: &Lab, node: u8, settings: Settings) -> Result<()> {
    let sandbox = format!(
        r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Where the machine is a container, the kernel refuses what a pod asks for.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS_ON_NODE}"
conf_dir = "/etc/cni/net.d"
"#
    );
    write(Path::new("/etc/containerd.toml"), &sandbox)?;
    let network = network(node, settings.cni).to_string();
    write(Path::new("/etc/cni/net.d/10-lab.conflist"), &network)?;
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // The API server has no client certificate; nobody else is in the lab.
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS],
        // No image can be pulled, so none may be collected, and a full disk is
        // the machine's own affair.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "imagefs.available": "0%",
        },
    });
    write(Path::new("/etc/kubelet.json"), &kubelet.to_string())?;
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": lab.state().join("proxy.kubeconfig")},
        "hostnameOverride": node_name(node),
        "mode": settings.kube_proxy.name(),
        "clusterCIDR": POD_RANGE,
        // The limits are the whole machine's, and read-only here.
        "conntrack": {"maxPerCore": 0},
    });
    write(Path::new("/etc/kube-proxy.json"), &proxy.to_string())
}

/// The network of a node's pods, as CNI plugins read it.
fn network(node: u8, cni: Cni) -> serde_json::Value {
    let mut main = json!({
        "type": cni.name(),
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": pod_range(node)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    if cni == Cni::Bridge {
        main["bridge"] = json!("cni0");
        main["isGateway"] = json!(true);
        main["hairpinMode"] = json!(true);
    }
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [main, ports]})
}

/// All images that a node starts with.
fn archives(lab: &Lab) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for dir in [lab.images(), lab.loaded_images()] {
        if !dir.exists() {
            continue;
        }
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
        archives.extend(entries.flatten().map(|entry| entry.path()));
    }
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    archives.sort();
    Ok(archives)
}

fn import(archive: &Path) -> Result<()> {
    let mut ctr = command("ctr", &["-n", "k8s.io", "images", "import"]);
    ctr.arg(archive);
    let done = ctr.output().context("cannot start ctr")?;
    anyhow::ensure!(
        done.status.success(),
        "cannot import {}: {}",
        archive.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The programs that are kept running.
struct Services<'a> {
    lab: &'a Lab,
    node: u8,
    all: Vec<Service>,
}

struct Service {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Running(i32),
    DownUntil(Instant),
}

impl<'a> Services<'a> {
    fn new(lab: &'a Lab, node: u8) -> Self {
        let all = Vec::new();
        Self { lab, node, all }
    }

    fn add(&mut self, name: &'static str, program: PathBuf, arguments: &[impl ToString]) {
        self.all.push(Service {
            name,
            program,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            state: State::DownUntil(Instant::now()),
        });
    }

    /// Collects what has ended, orphans of containers too, and starts what is due.
    fn step(&mut self) -> Result<()> {
        let mut ended = HashMap::new();
        while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
            ended.insert(pid.as_raw_nonzero().get(), status);
        }
        for service in &mut self.all {
            match service.state {
                State::Running(pid) => {
                    if let Some(status) = ended.get(&pid) {
                        println!("{} ended: {status:?}", service.name);
                        service.state = State::DownUntil(Instant::now() + RESTART);
                    }
                }
                State::DownUntil(time) if time <= Instant::now() => {
                    let log = format!("{}-{}", node_name(self.node), service.name);
                    let mut command = Command::new(&service.program);
                    command
                        .args(&service.arguments)
                        .env("PATH", self.lab.path());
                    let pid = background(command, self.lab, &log)?;
                    service.state = State::Running(pid);
                }
                State::DownUntil(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gives_its_pods_addresses_of_its_own_range_in_both_wirings() {
        for cni in [Cni::Bridge, Cni::Ptp] {
            let network = network(7, cni);
            let main = &network["plugins"][0];
            assert_eq!(main["type"], cni.name());
            assert_eq!(main["ipam"]["ranges"][0][0]["subnet"], "10.244.7.0/24");
            assert_eq!(main["hairpinMode"].is_null(), cni == Cni::Ptp);
        }
    }
}

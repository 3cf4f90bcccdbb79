//! What the cluster is called and where its things are: the one home of names,
//! addresses and paths that more than one file of the lab uses.
//!
//! Each checkout has a lab of its own: the names of its network namespaces hold a
//! hash of the target directory, and every address is inside these namespaces.

use std::{
    ffi::OsStr,
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::{image::archive::hex, workspace::Workspace};

/// The addresses of all pods; node N has 10.244.N.0/24 of them.
pub(super) const POD_RANGE: &str = "10.244.0.0/16";
/// The cluster addresses of Services.
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Where kubelets tell pods that DNS is. Nothing answers there: the specs and
/// the agent use no names.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The control plane, and every node's way out.
pub(super) const CONTROL: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Nodes are numbered from 1 to this.
pub(super) const MAX_NODES: u8 = 9;

/// How the pods of a node are wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cni {
    /// All veths on one bridge
    Bridge,
    /// A route to each veth
    Ptp,
}

/// How kube-proxy translates Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KubeProxy {
    Iptables,
    Nftables,
}

/// What can be chosen when the cluster comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Settings {
    /// Number of nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
    pub(crate) nodes: u8,
    /// How pods are wired
    #[arg(long, value_enum, default_value = "bridge")]
    pub(crate) cni: Cni,
    /// How kube-proxy translates Services
    #[arg(long, value_enum, default_value = "iptables")]
    pub(crate) kube_proxy: KubeProxy,
}

impl Settings {
    /// The numbers of the nodes.
    pub(super) fn nodes(self) -> impl Iterator<Item = u8> {
        1..=self.nodes
    }

    fn to_json(self) -> String {
        let Self {
            nodes,
            cni,
            kube_proxy,
        } = self;
        json!({"nodes": nodes, "cni": cni.name(), "kubeProxy": kube_proxy.name()}).to_string()
    }

    fn from_json(text: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let word = |key: &str| value[key].as_str();
        Some(Self {
            nodes: u8::try_from(value["nodes"].as_u64()?).ok()?,
            cni: clap::ValueEnum::from_str(word("cni")?, false).ok()?,
            kube_proxy: clap::ValueEnum::from_str(word("kubeProxy")?, false).ok()?,
        })
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cni, kube_proxy) = (self.cni.name(), self.kube_proxy.name());
        write!(
            f,
            "{} nodes, pods by {cni}, kube-proxy by {kube_proxy}",
            self.nodes
        )
    }
}

impl Cni {
    /// The type of the plugin that makes the veth.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
        }
    }
}

impl KubeProxy {
    /// Its name in kube-proxy's configuration.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// This checkout's lab.
pub(crate) struct Lab {
    /// target/cluster: programs and images, which stay.
    pub(super) root: PathBuf,
    id: String,
}

impl Lab {
    /// The lab of a checkout, up or not.
    ///
    /// # Errors
    ///
    /// When its folder is where a node could not use it.
    pub(crate) fn new(workspace: &Workspace) -> Result<Self> {
        let root = workspace.target.join("cluster");
        let text = root.to_str().context("the target directory is not UTF-8")?;
        // They are a node's own, so that it would not see what is below them.
        for taken in ["/etc/", "/opt/", "/var/", "/run/", "/proc/", "/sys/"] {
            ensure!(
                !text.starts_with(taken),
                "{text} is below {taken}, which each node has for itself; \
                 choose another place: CARGO_TARGET_DIR=/somewhere/target cargo xtask cluster up"
            );
        }
        // They separate folders in the options of an overlay mount.
        ensure!(
            !text.contains([':', ',', '\\']),
            "{text} holds a colon, comma or backslash, which overlay mounts cannot name"
        );
        let id = hex(text.as_bytes())[..4].to_owned();
        Ok(Self { root, id })
    }

    /// Programs, built from Go modules.
    pub(super) fn bin(&self, program: &str) -> PathBuf {
        self.root.join("bin").join(program)
    }

    /// Archives of the images that every cluster needs.
    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Archives that were loaded into this one.
    pub(super) fn loaded_images(&self) -> PathBuf {
        self.state().join("images")
    }

    /// All that `down` removes.
    pub(super) fn state(&self) -> PathBuf {
        self.root.join("lab")
    }

    /// This program, as it was when the cluster came up: a build in between
    /// replaces the one that runs.
    ///
    /// # Errors
    ///
    /// When it cannot be copied.
    pub(super) fn own_program(&self) -> Result<PathBuf> {
        let path = self.state().join("xtask");
        if !path.exists() {
            let copied = fs::create_dir_all(self.state())
                .and_then(|()| fs::copy("/proc/self/exe", &path).map(drop));
            copied.with_context(|| format!("cannot copy this program to {}", path.display()))?;
        }
        Ok(path)
    }

    /// A node's own disk.
    pub(super) fn disk(&self, node: u8) -> PathBuf {
        self.state().join(format!("node-{node}"))
    }

    /// What a component prints; kept until the next `up` from nothing.
    pub(super) fn log(&self, component: &str) -> PathBuf {
        self.root.join("logs").join(format!("{component}.log"))
    }

    /// The administrator's.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.state().join("admin.kubeconfig")
    }

    /// Where the lab's cgroups are listed, to be found again.
    pub(super) fn cgroups(&self) -> PathBuf {
        self.state().join("cgroups")
    }

    /// What all of its names begin with.
    pub(super) fn prefix(&self) -> String {
        format!("pa-{}-", self.id)
    }

    /// The control plane's network namespace, which is also the switch.
    pub(super) fn control_ns(&self) -> String {
        format!("{}cp", self.prefix())
    }

    /// A node's.
    pub(super) fn node_ns(&self, node: u8) -> String {
        format!("{}{node}", self.prefix())
    }

    /// The settings with which the cluster is up; none if it is not.
    pub(super) fn settings(&self) -> Option<Settings> {
        let text = fs::read_to_string(self.state().join("settings.json")).ok()?;
        netns_file(&self.control_ns())
            .exists()
            .then(|| Settings::from_json(&text))?
    }

    /// Remembers the settings.
    pub(super) fn keep_settings(&self, settings: Settings) -> Result<()> {
        write(&self.state().join("settings.json"), &settings.to_json())
    }

    /// The settings of a cluster that is up.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub(super) fn require_up(&self) -> Result<Settings> {
        match self.settings() {
            Some(settings) => Ok(settings),
            None => bail!("the cluster is not up; bring it up: cargo xtask cluster up"),
        }
    }

    /// A command that runs in the control plane's network namespace, with the
    /// lab's programs on the PATH and the administrator's rights.
    pub(super) fn in_control(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!(
                "--net={}",
                netns_file(&self.control_ns()).display()
            ))
            .arg("--")
            .arg(program)
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", self.path());
        command
    }

    /// kubectl as administrator.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_control(self.bin("kubectl"));
        command.args(arguments);
        command
    }

    /// The PATH with the lab's programs first, and administrators' tools.
    pub(super) fn path(&self) -> String {
        let inherited = std::env::var("PATH").unwrap_or_default();
        let bin = self.root.join("bin");
        format!("{}:{inherited}:/usr/sbin:/sbin", bin.display())
    }
}

/// A node's address on the switch.
pub(super) fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, 10 + node)
}

/// The addresses of a node's pods.
pub(super) fn pod_range(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

/// A node's name in the API.
pub(super) fn node_name(node: u8) -> String {
    format!("node-{node}")
}

/// The file that holds a named network namespace.
pub(super) fn netns_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Writes a file and the folders above it.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(target: &str) -> Result<Lab> {
        Lab::new(&Workspace {
            root: PathBuf::from("/checkout"),
            target: PathBuf::from(target),
        })
    }

    #[test]
    fn two_checkouts_have_two_labs() {
        let (one, two) = (lab("/a/target").unwrap(), lab("/b/target").unwrap());
        assert_ne!(one.control_ns(), two.control_ns());
        assert_eq!(one.control_ns(), lab("/a/target").unwrap().control_ns());
    }

    #[test]
    fn a_target_directory_that_nodes_would_not_see_is_refused() {
        for target in ["/var/lib/target", "/opt/target", "/a,b/target", "/a:b"] {
            assert!(lab(target).is_err(), "{target}");
        }
        assert!(lab("/home/me/variety/target").is_ok());
    }

    #[test]
    fn settings_survive_being_written() {
        let settings = Settings {
            nodes: 3,
            cni: Cni::Ptp,
            kube_proxy: KubeProxy::Nftables,
        };
        assert_eq!(Settings::from_json(&settings.to_json()), Some(settings));
        assert_eq!(Settings::from_json("{}"), None);
    }
}

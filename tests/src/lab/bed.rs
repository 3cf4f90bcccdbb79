//! The lab itself: a node, pods wired to it as CNIs do, hosts outside.
//!
//! ```text
//!  pod --veth-- node: bridge with gateway addresses          (Bridged)
//!  pod --veth-- node: /32 and /128 routes, link-local gateway (Routed)
//!                 |
//!               eth0 (a veth too) -- fabric: bridge -- outside hosts
//! ```
//!
//! The node's addresses are on its uplink. The node's ends of the pods' veths
//! have names without any pattern. Neighbour discovery happens for real. What is
//! configured where is `wiring.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::clock::{ask_for_packet_stamps, await_packet_stamps, wait_for};
use super::host::{Host, Inner, Mac};
use super::ip::ip;
use super::netns::Netns;
use super::process::NodeProcess;
use super::wiring::{
    BRIDGE, INTERFACE, LINK_GROUP, POD_GROUP, Plan, Wiring, bridge_commands, common_settings,
    neighbour_settings, node_commands, node_settings, outside_commands, pod_commands,
};
use super::{stale, sys};

/// A veth's link comes up within microseconds; this bounds a loaded machine.
const LINK_UP: Duration = Duration::from_secs(10);

/// Pods that are created at the same time.
const BUILDERS: usize = 4;

static NEXT_LAB: AtomicU32 = AtomicU32::new(0);

/// A pod for [`Lab::pods_at_once`].
#[derive(Debug, Clone)]
pub struct PodWanted {
    /// `namespace/name`.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// A node with pods and outside hosts. Dropping it ends the processes that it
/// started and removes its namespaces, links and files.
pub struct Lab {
    dir: PathBuf,
    wiring: Wiring,
    plan: Plan,
    node: Host,
    fabric: Netns,
    bridge_mac: Mac,
    pods: BTreeMap<String, Host>,
    outside: BTreeMap<String, Host>,
    processes: Vec<NodeProcess>,
    names: RandomState,
    named: u64,
}

impl Lab {
    /// A lab with the default [`Plan`]. `name` only appears in paths.
    ///
    /// # Errors
    /// Says which step failed; what was made until then is removed.
    pub fn new(name: &str, wiring: Wiring) -> Result<Self> {
        Self::with_plan(name, wiring, Plan::default())
    }

    /// A lab with the given addresses.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with_plan(name: &str, wiring: Wiring, plan: Plan) -> Result<Self> {
        stale::sweep();
        raise_descriptor_limit()?;
        let number = NEXT_LAB.fetch_add(1, Ordering::Relaxed);
        let dir = stale::parent_dir().join(stale::dir_name(number, name));
        let made = Self::build(&dir, wiring, plan);
        if made.is_err() {
            // The namespaces went with their values; the error above counts more.
            let _ = fs::remove_dir_all(&dir);
        }
        made.with_context(|| format!("set up lab {name}"))
    }

    fn build(dir: &Path, wiring: Wiring, plan: Plan) -> Result<Self> {
        for part in ["netns", "hosts", "logs"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        stale::claim(dir)?;
        let names = RandomState::new();
        let (node_mac, bridge_mac) = (
            Mac::local(names.hash_one("node")),
            Mac::local(names.hash_one("bridge")),
        );
        let fabric = Netns::create(&dir.join("hosts/fabric"))?;
        common_settings(&fabric)?;
        ip(
            &fabric,
            &bridge_commands("lan", Mac::local(names.hash_one("lan"))),
        )?;
        let netns = Netns::create(&dir.join("hosts/node"))?;
        common_settings(&netns)?;
        node_settings(&netns)?;
        let (v4, v6) = plan.node;
        ip(
            &fabric,
            &[
                format!(
                    "link add uplink type veth peer name {INTERFACE} address {node_mac} netns {}",
                    netns.path().display()
                ),
                "link set uplink master lan up".into(),
            ],
        )?;
        ip(&netns, &node_commands(wiring, &plan, bridge_mac))?;
        ask_for_packet_stamps()?;
        netns
            .run(await_packet_stamps)?
            .context("time stamps of packets")?;
        wait_running(&netns, INTERFACE)?;
        wait_running(&fabric, "uplink")?;
        if wiring == Wiring::Bridged {
            neighbour_settings(&netns, BRIDGE)?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            wiring,
            plan,
            node: Host::new(Inner {
                name: "node".into(),
                v4: Some(v4),
                v6: Some(v6),
                netns,
                interface: INTERFACE.into(),
                node_interface: None,
                mac: node_mac,
                gateway_mac: None,
            }),
            fabric,
            bridge_mac,
            pods: BTreeMap::new(),
            outside: BTreeMap::new(),
            processes: Vec::new(),
            names,
            named: 0,
        })
    }

    /// The node; its addresses are those of its uplink.
    pub fn node(&self) -> &Host {
        &self.node
    }

    /// The wiring this lab was made with.
    pub fn wiring(&self) -> Wiring {
        self.wiring
    }

    /// The addresses this lab was made with.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The lab's own folder, for manifests, run directories and the like.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder in which the pods' namespaces are mounted, and nothing else.
    pub fn netns_dir(&self) -> PathBuf {
        self.dir.join("netns")
    }

    /// Every address of the node that a pod may see, gateways included.
    pub fn node_addresses(&self) -> Vec<IpAddr> {
        let (v4, v6) = self.plan.node;
        let (gateway_v4, gateway_v6) = self.plan.gateway(self.wiring);
        vec![v4.into(), v6.into(), gateway_v4.into(), gateway_v6.into()]
    }

    /// A pod that exists.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn get(&self, name: &str) -> &Host {
        self.pods
            .get(name)
            .unwrap_or_else(|| panic!("the lab has no pod {name}"))
    }

    /// All pods in the order of their names.
    pub fn pods(&self) -> impl Iterator<Item = &Host> {
        self.pods.values()
    }

    /// Creates a pod `namespace/name`, wired and reachable on return.
    ///
    /// # Errors
    /// Says which step failed; the pod does not exist then.
    pub fn pod(
        &mut self,
        name: &str,
        v4: impl Into<Option<Ipv4Addr>>,
        v6: impl Into<Option<Ipv6Addr>>,
    ) -> Result<Host> {
        let (host, ()) = self.pod_prepared(name, v4, v6, |_| Ok(()))?;
        Ok(host)
    }

    /// As [`Lab::pod`], and runs `prepare` when the pod has everything but a
    /// link: sniffers and servers started there miss no packet.
    ///
    /// # Errors
    /// Says which step failed; the pod does not exist then.
    pub fn pod_prepared<T>(
        &mut self,
        name: &str,
        v4: impl Into<Option<Ipv4Addr>>,
        v6: impl Into<Option<Ipv6Addr>>,
        prepare: impl FnOnce(&Host) -> Result<T>,
    ) -> Result<(Host, T)> {
        self.pod_prepared_early(name, v4, v6, |_| Ok(()), prepare)
    }

    /// As [`Lab::pod_prepared`], and runs `early` when there is nothing but the
    /// pod's network namespace: no interface yet.
    ///
    /// # Errors
    /// Says which step failed; the pod does not exist then.
    pub fn pod_prepared_early<T>(
        &mut self,
        name: &str,
        v4: impl Into<Option<Ipv4Addr>>,
        v6: impl Into<Option<Ipv6Addr>>,
        early: impl FnOnce(&Host) -> Result<()>,
        prepare: impl FnOnce(&Host) -> Result<T>,
    ) -> Result<(Host, T)> {
        ensure!(!self.pods.contains_key(name), "pod {name} exists already");
        let node_interface = self.free_name();
        let (v4, v6) = (v4.into(), v6.into());
        let made = self.build_pod(name, &node_interface, v4, v6, early, prepare);
        if made.is_err() {
            // It may have been created or not; the error above counts more.
            let _ = self.delete_link(&node_interface);
        }
        let (host, prepared) = made.with_context(|| format!("create pod {name}"))?;
        self.pods.insert(name.to_owned(), host.clone());
        Ok((host, prepared))
    }

    fn build_pod<T>(
        &self,
        name: &str,
        node_interface: &str,
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
        early: impl FnOnce(&Host) -> Result<()>,
        prepare: impl FnOnce(&Host) -> Result<T>,
    ) -> Result<(Host, T)> {
        let file = name.replace('/', "_");
        let netns = Netns::create(&self.dir.join("netns").join(file))?;
        common_settings(&netns)?;
        let mac = self.mac_of(v4, v6);
        let gateway_mac = match self.wiring {
            Wiring::Bridged => self.bridge_mac,
            Wiring::Routed => Mac::local(self.names.hash_one(node_interface)),
        };
        let host = Host::new(Inner {
            name: name.to_owned(),
            v4,
            v6,
            netns,
            interface: INTERFACE.into(),
            node_interface: Some(node_interface.to_owned()),
            mac,
            gateway_mac: Some(gateway_mac),
        });
        early(&host)?;
        let pair = format!(
            "link add {node_interface} type veth peer name {INTERFACE} address {mac} netns {}",
            host.netns().path().display()
        );
        let (on_node, in_pod) =
            pod_commands(self.wiring, &self.plan, node_interface, gateway_mac, v4, v6);
        ip(self.node.netns(), &[pair])?;
        ip(host.netns(), &in_pod)?;
        let prepared = prepare(&host)?;
        ip(self.node.netns(), &on_node)?;
        wait_running(host.netns(), INTERFACE)?;
        wait_running(self.node.netns(), node_interface)?;
        Ok((host, prepared))
    }

    /// Creates pods that need no preparation, several at a time: most of the time
    /// is the kernel's, which waits.
    ///
    /// # Errors
    /// Says which pod failed and where; none of them exists then.
    pub fn pods_at_once(&mut self, wanted: &[PodWanted]) -> Result<Vec<Host>> {
        let mut named = Vec::new();
        for pod in wanted {
            let taken = self.pods.contains_key(&pod.name);
            ensure!(!taken, "pod {} exists already", pod.name);
            named.push((pod, self.free_name()));
        }
        let lab = &*self;
        let build = |(pod, interface): &(&PodWanted, String)| {
            let (v4, v6) = (Some(pod.v4), Some(pod.v6));
            let made = lab.build_pod(&pod.name, interface, v4, v6, |_| Ok(()), |_| Ok(()));
            let (host, ()) = made.with_context(|| format!("create pod {}", pod.name))?;
            Ok(host)
        };
        let hosts: Result<Vec<Host>> = std::thread::scope(|scope| {
            let chunks = named.chunks(named.len().div_ceil(BUILDERS).max(1));
            let builders: Vec<_> = chunks
                .map(|chunk| scope.spawn(|| chunk.iter().map(build).collect::<Result<Vec<_>>>()))
                .collect();
            let mut hosts = Vec::new();
            for builder in builders {
                let built = builder.join().map_err(|_| anyhow!("a builder panicked"))?;
                hosts.extend(built?);
            }
            Ok(hosts)
        });
        let hosts = hosts?;
        let by_name = hosts
            .iter()
            .map(|host| (host.name().to_owned(), host.clone()));
        self.pods.extend(by_name);
        Ok(hosts)
    }

    /// Deletes all pods together, as a node that is drained: the veths in one step,
    /// then the namespaces' names.
    ///
    /// # Errors
    /// When there are no pods, or `ip` fails.
    pub fn delete_pods(&mut self) -> Result<()> {
        ip(self.node.netns(), &[format!("link del group {POD_GROUP}")])?;
        let pods = std::mem::take(&mut self.pods);
        pods.values().try_for_each(|host| host.netns().unname())
    }

    /// Deletes a pod as a CNI does: the veth at once, then the namespace's name.
    ///
    /// # Errors
    /// When there is no such pod, or `ip` fails.
    pub fn delete_pod(&mut self, name: &str) -> Result<()> {
        let host = self
            .pods
            .remove(name)
            .with_context(|| format!("the lab has no pod {name}"))?;
        let interface = host.node_interface().expect("a pod has a veth");
        self.delete_link(interface)?;
        host.netns().unname()
    }

    /// Creates a host outside the node, reached through the node's uplink.
    ///
    /// # Errors
    /// Says which step failed; the host does not exist then.
    pub fn outside(
        &mut self,
        name: &str,
        v4: impl Into<Option<Ipv4Addr>>,
        v6: impl Into<Option<Ipv6Addr>>,
    ) -> Result<Host> {
        ensure!(
            !self.outside.contains_key(name),
            "host {name} exists already"
        );
        if matches!(name, "node" | "fabric") || name.contains('/') {
            bail!("{name:?} cannot name an outside host: it is taken or has a slash");
        }
        let (v4, v6) = (v4.into(), v6.into());
        let netns = Netns::create(&self.dir.join("hosts").join(name))?;
        common_settings(&netns)?;
        let (mac, port) = (self.mac_of(v4, v6), self.free_name());
        let (on_node, in_host) = outside_commands(&self.plan, v4, v6);
        ip(
            &self.fabric,
            &[
                format!(
                    "link add {port} type veth peer name {INTERFACE} address {mac} netns {}",
                    netns.path().display()
                ),
                format!("link set {port} master lan up"),
            ],
        )?;
        ip(self.node.netns(), &on_node)?;
        ip(&netns, &in_host)?;
        wait_running(&netns, INTERFACE)?;
        wait_running(&self.fabric, &port)?;
        let host = Host::new(Inner {
            name: name.to_owned(),
            v4,
            v6,
            netns,
            interface: INTERFACE.into(),
            node_interface: None,
            mac,
            gateway_mac: Some(self.node.mac()),
        });
        self.outside.insert(name.to_owned(), host.clone());
        Ok(host)
    }

    /// The Ethernet address to which `from` sends a packet for `to`.
    pub fn next_hop(&self, from: &Host, to: IpAddr) -> Option<Mac> {
        let (net_v4, net_v6) = self.plan.pods;
        let on_link = match to {
            IpAddr::V4(to) => {
                net_v4.contains(&to) && from.v4().is_some_and(|a| net_v4.contains(&a))
            }
            IpAddr::V6(to) => {
                net_v6.contains(&to) && from.v6().is_some_and(|a| net_v6.contains(&a))
            }
        };
        if self.wiring == Wiring::Bridged && on_link {
            let peer = self.pods().find(|pod| pod.addresses().contains(&to));
            if let Some(peer) = peer {
                return Some(peer.mac());
            }
        }
        from.gateway_mac()
    }

    /// Runs `ip` commands (without the leading `ip`) in the namespace of `host`,
    /// for tests that disturb the wiring.
    ///
    /// # Errors
    /// Carries the failing command and what `ip` said.
    pub fn ip(&self, host: &Host, commands: &[&str]) -> Result<()> {
        let commands: Vec<String> = commands.iter().map(|&c| c.to_owned()).collect();
        ip(host.netns(), &commands)
    }

    /// Starts a process in the node's network namespace; see [`NodeProcess`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_in_node(&mut self, command: Command) -> Result<NodeProcess> {
        let node = self.node.clone();
        self.spawn_in(&node, command)
    }

    /// Starts a process in the network namespace of any host of the lab.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_in(&mut self, host: &Host, command: Command) -> Result<NodeProcess> {
        let number = self.processes.len();
        let process = NodeProcess::start(host.netns(), command, &self.dir.join("logs"), number)?;
        self.processes.push(process.clone());
        stale::record_process(&self.dir, process.pid())?;
        Ok(process)
    }

    /// All links of the node, its pods' too.
    fn delete_links(&self) -> Result<()> {
        let mut links = vec![format!("link del group {LINK_GROUP}")];
        if !self.pods.is_empty() {
            // `ip` refuses a group without links.
            links.push(format!("link del group {POD_GROUP}"));
        }
        ip(self.node.netns(), &links)
    }

    fn delete_link(&self, interface: &str) -> Result<()> {
        ip(self.node.netns(), &[format!("link del {interface}")])
    }

    /// An interface name that says nothing about its pod or its kind.
    fn free_name(&mut self) -> String {
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        self.named += 1;
        let mut bits = self.names.hash_one(self.named);
        let length = 5 + bits % 9;
        let mut name = String::new();
        for position in 0..length {
            // The first one is a letter: some tools take digits for an index.
            let choices = if position == 0 { 26 } else { 32 };
            let index = usize::try_from(bits % choices).expect("below 32");
            name.push(char::from(LETTERS[index]));
            bits = self.names.hash_one((bits, position));
        }
        name
    }

    /// The same address gives the same Ethernet address, so that a new pod with
    /// an old address is reached at once in spite of neighbour caches.
    fn mac_of(&self, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Mac {
        let mut hasher = self.names.build_hasher();
        match (v4, v6) {
            (Some(v4), _) => hasher.write(&v4.octets()),
            (None, Some(v6)) => hasher.write(&v6.octets()),
            (None, None) => hasher.write_u64(self.named),
        }
        Mac::local(hasher.finish())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for process in &self.processes {
            process.end();
            if std::thread::panicking() {
                eprintln!("lab: {}", process.describe());
            }
        }
        // Clones of the hosts may live on in the test: take away names and links
        // here, not when the last clone goes.
        let mut results = vec![self.delete_links()];
        let hosts = self.pods.values().chain(self.outside.values());
        results.extend(hosts.map(|host| host.netns().unname()));
        results.extend([self.node.netns().unname(), self.fabric.unname()]);
        results.push(stale::unmount_below(&self.dir));
        results.push(
            fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display())),
        );
        for error in results.into_iter().filter_map(Result::err) {
            eprintln!("lab: while removing it: {error:#}");
        }
    }
}

/// Waits until an interface's link is up and everything in the kernel knows.
fn wait_running(netns: &Netns, interface: &str) -> Result<()> {
    neighbour_settings(netns, interface)?;
    netns.run(|| {
        wait_for(&format!("link of {interface}"), LINK_UP, || {
            sys::is_running(interface).unwrap_or(false)
        })?;
        sys::settle(interface).with_context(|| format!("settle {interface}"))
    })?
}

/// Servers and probes of a large lab need more descriptors than the 1,024 that
/// processes usually start with.
///
/// # Errors
/// When the system refuses.
pub fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("raise the limit of open files")?;
    }
    Ok(())
}

//! How the hosts of a lab are configured: addresses, routes, settings.
//!
//! Says which `ip` commands each namespace gets; `bed.rs` runs them. Duplicate
//! address detection, router advertisements, redirects and reverse path filters
//! are off everywhere, as are the kernel's rate limits for ICMP errors.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::{Ipv4Net, Ipv6Net};

use super::host::Mac;
use super::netns::Netns;
use super::pace::slowness;

/// The interface inside every namespace but the fabric.
pub(crate) const INTERFACE: &str = "eth0";

/// What routed pods use as gateway (the address that ptp-like CNIs choose).
const LINK_LOCAL_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const LINK_LOCAL_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The group of the node's own links, and that of its pods', so that one call
/// deletes them all: one by one the kernel waits for each.
pub(crate) const LINK_GROUP: u32 = 0x1ab;
pub(crate) const POD_GROUP: u32 = 0x1ac;

/// The node's bridge.
pub(crate) const BRIDGE: &str = "cni0";

/// How pods are joined to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// The node's ends are ports of a bridge that holds the gateway addresses.
    /// Pods inside [`Plan::pods`] reach each other on the link.
    Bridged,
    /// The node has a host route for each pod; every packet is routed.
    Routed,
}

/// Addresses of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The node's own addresses, on its uplink.
    pub node: (Ipv4Addr, Ipv6Addr),
    /// Networks of a bridge; the gateway is the first address of each.
    pub pods: (Ipv4Net, Ipv6Net),
}

impl Default for Plan {
    fn default() -> Self {
        let v4 = Ipv4Net::new(Ipv4Addr::new(10, 244, 0, 0), 16).expect("16 <= 32");
        let v6 = Ipv6Net::new(Ipv6Addr::new(0xfd10, 0x244, 0, 0, 0, 0, 0, 0), 64);
        Self {
            node: (
                Ipv4Addr::new(192, 168, 77, 10),
                Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10),
            ),
            pods: (v4, v6.expect("64 <= 128")),
        }
    }
}

impl Plan {
    /// The gateway of pods: on the bridge, or link-local.
    pub(crate) fn gateway(&self, wiring: Wiring) -> (Ipv4Addr, Ipv6Addr) {
        if wiring == Wiring::Routed {
            return (LINK_LOCAL_GATEWAY_V4, LINK_LOCAL_GATEWAY_V6);
        }
        let first = "a network has addresses";
        let (v4, v6) = self.pods;
        (
            v4.hosts().next().expect(first),
            // The first one is the anycast address of the routers.
            v6.hosts().nth(1).expect(first),
        )
    }
}

/// Commands for the node's own interfaces; its uplink exists already.
pub(crate) fn node_commands(wiring: Wiring, plan: &Plan, bridge_mac: Mac) -> Vec<String> {
    let (v4, v6) = plan.node;
    let mut commands = vec![
        "link set lo up".to_owned(),
        format!("addr add {v4}/32 dev {INTERFACE}"),
        format!("link set {INTERFACE} group {LINK_GROUP} up"),
        format!("addr add {v6}/128 dev {INTERFACE} nodad"),
    ];
    if wiring == Wiring::Bridged {
        let (gateway_v4, gateway_v6) = plan.gateway(wiring);
        let (length_v4, length_v6) = (plan.pods.0.prefix_len(), plan.pods.1.prefix_len());
        commands.extend(bridge_commands(BRIDGE, bridge_mac));
        commands.extend([
            format!("addr add {gateway_v4}/{length_v4} dev {BRIDGE}"),
            format!("addr add {gateway_v6}/{length_v6} dev {BRIDGE} nodad"),
        ]);
    }
    commands
}

/// Commands for the node and for a pod whose veth pair exists already.
pub(crate) fn pod_commands(
    wiring: Wiring,
    plan: &Plan,
    node_interface: &str,
    gateway_mac: Mac,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
) -> (Vec<String>, Vec<String>) {
    match wiring {
        Wiring::Bridged => bridged(plan, node_interface, v4, v6),
        Wiring::Routed => routed(plan, node_interface, gateway_mac, v4, v6),
    }
}

/// Commands for the node and for a pod on the bridge.
fn bridged(
    plan: &Plan,
    node_interface: &str,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
) -> (Vec<String>, Vec<String>) {
    let (net_v4, net_v6) = plan.pods;
    let (gateway_v4, gateway_v6) = plan.gateway(Wiring::Bridged);
    let mut node = vec![format!(
        "link set {node_interface} master {BRIDGE} group {POD_GROUP} up"
    )];
    let mut pod = vec!["link set lo up".to_owned()];
    if let Some(v4) = v4 {
        let on_link = net_v4.contains(&v4);
        let length = if on_link { net_v4.prefix_len() } else { 32 };
        pod.push(format!("addr add {v4}/{length} dev {INTERFACE}"));
        if !on_link {
            node.push(format!(
                "route replace {v4}/32 dev {BRIDGE} src {gateway_v4}"
            ));
        }
    }
    pod.push(format!("link set {INTERFACE} up"));
    if v4.is_some() {
        pod.push(format!(
            "route add default via {gateway_v4} dev {INTERFACE} onlink"
        ));
    }
    if let Some(v6) = v6 {
        let on_link = net_v6.contains(&v6);
        let length = if on_link { net_v6.prefix_len() } else { 128 };
        pod.push(format!("addr add {v6}/{length} dev {INTERFACE} nodad"));
        if !on_link {
            node.push(format!(
                "route replace {v6}/128 dev {BRIDGE} src {gateway_v6}"
            ));
        }
        pod.push(format!(
            "route add default via {gateway_v6} dev {INTERFACE} onlink"
        ));
    }
    (node, pod)
}

/// Commands for the node and for a pod with host routes.
fn routed(
    plan: &Plan,
    node_interface: &str,
    gateway_mac: Mac,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
) -> (Vec<String>, Vec<String>) {
    let (node_v4, node_v6) = plan.node;
    let mut node = vec![
        format!("link set {node_interface} address {gateway_mac}"),
        format!("addr add {LINK_LOCAL_GATEWAY_V4}/32 dev {node_interface} scope link"),
        format!("link set {node_interface} group {POD_GROUP} up"),
        format!("addr add {LINK_LOCAL_GATEWAY_V6}/64 dev {node_interface} nodad"),
    ];
    let mut pod = vec!["link set lo up".to_owned()];
    if let Some(v4) = v4 {
        node.push(format!(
            "route replace {v4}/32 dev {node_interface} src {node_v4}"
        ));
        pod.push(format!("addr add {v4}/32 dev {INTERFACE}"));
    }
    pod.push(format!("link set {INTERFACE} up"));
    if v4.is_some() {
        pod.extend([
            format!("route add {LINK_LOCAL_GATEWAY_V4} dev {INTERFACE} scope link"),
            format!("route add default via {LINK_LOCAL_GATEWAY_V4} dev {INTERFACE}"),
        ]);
    }
    if let Some(v6) = v6 {
        node.push(format!(
            "route replace {v6}/128 dev {node_interface} src {node_v6}"
        ));
        pod.extend([
            format!("addr add {v6}/128 dev {INTERFACE} nodad"),
            format!("route add default via {LINK_LOCAL_GATEWAY_V6} dev {INTERFACE}"),
        ]);
    }
    (node, pod)
}

/// Commands for the node and for a host on the fabric.
pub(crate) fn outside_commands(
    plan: &Plan,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
) -> (Vec<String>, Vec<String>) {
    let (node_v4, node_v6) = plan.node;
    let mut node = Vec::new();
    let mut host = vec!["link set lo up".to_owned()];
    if let Some(v4) = v4 {
        node.push(format!(
            "route replace {v4}/32 dev {INTERFACE} src {node_v4}"
        ));
        host.push(format!("addr add {v4}/32 dev {INTERFACE}"));
    }
    host.push(format!("link set {INTERFACE} up"));
    if v4.is_some() {
        host.push(format!(
            "route add default via {node_v4} dev {INTERFACE} onlink"
        ));
    }
    if let Some(v6) = v6 {
        node.push(format!(
            "route replace {v6}/128 dev {INTERFACE} src {node_v6}"
        ));
        host.extend([
            format!("addr add {v6}/128 dev {INTERFACE} nodad"),
            format!("route add default via {node_v6} dev {INTERFACE} onlink"),
        ]);
    }
    (node, host)
}

/// Settings of the node beside those of every namespace.
pub(crate) fn node_settings(netns: &Netns) -> Result<()> {
    netns.sysctls(
        &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")],
        false,
    )?;
    netns.sysctls(
        &[
            ("bridge/bridge-nf-call-iptables", "0"),
            ("bridge/bridge-nf-call-ip6tables", "0"),
            ("bridge/bridge-nf-call-arptables", "0"),
        ],
        true,
    )
}

/// Commands that make a bridge.
pub(crate) fn bridge_commands(name: &str, mac: Mac) -> Vec<String> {
    vec![
        // Snooping would hold back neighbour solicitations without a querier.
        format!(
            "link add {name} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ),
        format!("link set {name} up"),
    ]
}

/// Settings of every namespace of the lab.
pub(crate) fn common_settings(netns: &Netns) -> Result<()> {
    netns.sysctls(
        &[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv4/conf/default/accept_redirects", "0"),
            ("ipv4/conf/default/arp_notify", "1"),
            ("ipv4/ping_group_range", "0 2147483647"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/dad_transmits", "0"),
            ("ipv6/conf/all/accept_ra", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/autoconf", "0"),
            ("ipv6/conf/all/accept_redirects", "0"),
            ("ipv6/conf/default/accept_redirects", "0"),
            ("ipv6/conf/default/ndisc_notify", "1"),
            ("ipv6/conf/default/router_solicitations", "0"),
            // Tail loss probes repeat a segment whenever a busy machine is a few
            // milliseconds late; what is lost shows after 200 ms all the same.
            ("ipv4/tcp_early_retrans", "0"),
        ],
        false,
    )?;
    netns.sysctls(
        &[
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv4/icmp_msgs_per_sec", "1000000"),
            ("ipv4/icmp_msgs_burst", "1000000"),
            ("ipv6/icmp/ratelimit", "0"),
        ],
        true,
    )
}

/// Settings of one interface, which a namespace has no defaults for.
///
/// A solicitation that got lost is repeated within a probe's timeout, and a
/// stream's first datagrams wait for the answer without loss. On a slow machine three
/// solicitations are over before their answers are there.
pub(crate) fn neighbour_settings(netns: &Netns, interface: &str) -> Result<()> {
    let solicitations = (3 * slowness()).to_string();
    for family in ["ipv4", "ipv6"] {
        let table = format!("{family}/neigh/{interface}");
        netns.sysctls(
            &[
                (&format!("{table}/retrans_time_ms"), "100"),
                (&format!("{table}/mcast_solicit"), &solicitations),
                (&format!("{table}/ucast_solicit"), &solicitations),
                (&format!("{table}/unres_qlen_bytes"), "16777216"),
            ],
            false,
        )?;
    }
    Ok(())
}

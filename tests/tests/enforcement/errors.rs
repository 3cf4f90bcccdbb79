//! ICMP errors between routers and isolated pods: path MTU discovery works under
//! default deny, and errors about nothing do not get in.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, IpPacket, Sniffer, Wiring, wait_for};
use serde_json::json;

use crate::expect::PORT;
use crate::node::{BOUND, Node};

/// What the router's next link takes, bytes; IPv6 asks for 1280 at least.
const NARROW: u32 = 1_300;
/// What answers within microseconds is asked again after this.
const PATIENCE: Duration = Duration::from_millis(200);

fn outside(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(198, 51, 100, last),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()),
    )
}

struct Bed {
    node: Node,
    pod: Host,
    router: Host,
    far: Host,
}

impl Bed {
    /// `a/pod` may send UDP to [`PORT`] of `far`, and nothing else; the way there
    /// is over a router whose next link is narrow.
    fn new(wiring: Wiring) -> Result<Self> {
        let mut node = Node::new("errors", wiring)?;
        let pod = node.pod("a/pod", &[("app", "pod")])?;
        let (router_v4, router_v6) = outside(1);
        let (far_v4, far_v6) = outside(2);
        let router = node.lab.outside("router", router_v4, router_v6)?;
        let far = node.lab.outside("far", far_v4, far_v6)?;
        router.netns().run(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })??;
        let out = node.lab.node().interface().to_owned();
        node.lab.ip(
            node.lab.node(),
            &[
                &format!("route replace {far_v4}/32 via {router_v4} dev {out} onlink"),
                &format!("route replace {far_v6}/128 via {router_v6} dev {out} onlink"),
            ],
        )?;
        let on = router.interface();
        node.lab.ip(
            &router,
            &[
                &format!("route replace {far_v4}/32 dev {on} mtu lock {NARROW}"),
                &format!("route replace {far_v6}/128 dev {on} mtu lock {NARROW}"),
            ],
        )?;
        let blocks = [format!("{far_v4}/32"), format!("{far_v6}/128")];
        let peers = blocks.map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
        node.folder.put_all(
            "p.json",
            &[json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": "a", "name": "p"},
                "spec": {
                    "podSelector": {},
                    "policyTypes": ["Ingress", "Egress"],
                    "egress": [{"to": peers, "ports": [{"port": PORT, "protocol": "UDP"}]}],
                },
            })],
        )?;
        node.start()?;
        Ok(Self {
            node,
            pod,
            router,
            far,
        })
    }

    /// What the pod takes for the path's MTU to an address, as `ip` tells it.
    fn route(&self, to: IpAddr) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["route", "get", &to.to_string()]);
        let output = self.pod.netns().output(&mut command)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn socket(host: &Host, family: Family, port: u16) -> Result<UdpSocket> {
    let address = SocketAddr::new(host.address(family)?, port);
    let socket = host.netns().run(|| UdpSocket::bind(address))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn both_wirings(test: fn(&Bed) -> Result<()>) -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let bed = Bed::new(wiring)?;
        test(&bed).with_context(|| format!("{wiring:?}"))?;
        bed.node.finish()?;
    }
    Ok(())
}

#[test]
fn path_mtu_is_discovered_through_a_router_that_no_policy_names() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let far = socket(&bed.far, family, PORT)?;
            let pod = socket(&bed.pod, family, 4_000)?;
            let to = far.local_addr()?;
            // It fits the pod's link. The router drops the first and says why; the
            // pod's stack then sends fragments that fit.
            let datagram = [0x55; 1_400];
            let mut buffer = [0; 2_000];
            wait_for("a datagram over the narrow link", BOUND, || {
                // The error is reported by the next call on the socket.
                let _ = pod.send_to(&datagram, to);
                far.recv(&mut buffer)
                    .is_ok_and(|length| length == datagram.len())
            })?;
            let route = bed.route(to.ip())?;
            ensure!(route.contains(&format!("mtu {NARROW}")), "{route}");
        }
        let status = bed.node.settle()?;
        let denied = &status["counters"]["ingress/icmp-error"];
        ensure!(denied.is_null() || denied == 0, "{}", status["counters"]);
        Ok(())
    })
}

#[test]
fn errors_about_what_the_pod_may_not_send_do_not_reach_it() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let (to, far) = (bed.pod.address(family)?, bed.far.address(family)?);
            let router = bed.router.address(family)?;
            let (kind, code) = if to.is_ipv4() { (3, 4) } else { (2, 0) };
            let about = |port: u16| {
                let (own, peer) = (SocketAddr::new(to, 4_001), SocketAddr::new(far, port));
                let mut rest = vec![0, 0, 5, 0x14];
                rest.extend(IpPacket::udp(own, peer, &[0x55; 64]).build());
                IpPacket::icmp(router, to, kind, code, &rest).build()
            };
            let sniffer =
                Sniffer::start(&bed.pod, move |packet| packet.icmp == Some((kind, code)))?;
            let hop = bed.node.lab.node().mac();
            let (bad, good) = (about(PORT + 1), about(PORT));
            bed.router.send_packets(hop, &[&bad, &bad, &good])?;
            wait_for("the allowed error", BOUND, || sniffer.count() > 0)?;
            let arrived = sniffer.stop()?;
            ensure!(arrived.len() == 1, "{arrived:?}");
        }
        let status = bed.node.settle()?;
        let denied = &status["counters"]["ingress/icmp-error"];
        ensure!(denied == 4, "{}", status["counters"]);
        Ok(())
    })
}

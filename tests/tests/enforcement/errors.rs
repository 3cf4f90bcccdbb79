//! ICMP errors between routers and isolated pods: path MTU discovery works under
//! default deny, and so do refusals and traces of a route; errors about nothing do
//! not get in.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, IpPacket, Sniffer, Wiring, slowed, tcp_flags, wait_for};
use serde_json::json;

use crate::expect::PORT;
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node};

/// What the router's next link takes, bytes; IPv6 asks for 1280 at least.
const NARROW: u32 = 1_300;
/// What answers within microseconds is asked again after this.
const PATIENCE: Duration = Duration::from_millis(200);
/// Ports of pods that send nothing from there.
const UNUSED: [u16; 2] = [4_001, 4_009];

/// Type and code of an error.
type Error = (u8, u8);

/// The link is too narrow, nobody listens, too many routers: of each family.
fn errors(family: Family) -> [Error; 3] {
    match family {
        Family::V4 => [(3, 4), (3, 3), (11, 0)],
        Family::V6 => [(2, 0), (1, 4), (3, 0)],
    }
}

fn outside(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(198, 51, 100, last),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()),
    )
}

struct Bed {
    node: Node,
    pod: Host,
    half: Host,
    router: Host,
    far: Host,
}

impl Bed {
    /// `a/pod` may send UDP to [`PORT`] of `far`, and nothing else; `b/half` may send
    /// anything and get nothing. The way there is over a router whose next link is
    /// narrow.
    fn new(wiring: Wiring) -> Result<Self> {
        let mut node = Node::new("errors", wiring)?;
        let pod = node.pod("a/pod", &[("app", "pod")])?;
        let half = node.pod("b/half", &[("app", "half")])?;
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
        let nothing = allow(Way::Ingress, "b/nothing", "half", &[]);
        node.folder.put_all("half.json", &[nothing])?;
        node.start()?;
        Ok(Self {
            node,
            pod,
            half,
            router,
            far,
        })
    }

    /// Sends errors about what a pod is said to have sent, from the router; the last
    /// one has to arrive, and no other.
    fn ensure_last_arrives(&self, pod: &Host, error: Error, about: &[IpPacket]) -> Result<()> {
        let family = Family::of(about.first().context("a packet")?.destination());
        let (router, to) = (self.router.address(family)?, pod.address(family)?);
        let (kind, code) = error;
        let errors = about.iter().map(|about| {
            // Of the first four bytes, only path MTU discovery reads any.
            let mut rest = vec![0, 0, 5, 0x14];
            rest.extend(about.build());
            IpPacket::icmp(router, to, kind, code, &rest).build()
        });
        let errors: Vec<_> = errors.collect();
        let last = about.last().map(IpPacket::build).unwrap_or_default();
        let sniffer = Sniffer::start(pod, move |packet| packet.icmp == Some(error))?;
        self.router
            .send_packets(self.node.lab.node().mac(), &errors)?;
        wait_for("the allowed error", BOUND, || sniffer.count() > 0)?;
        let arrived = sniffer.stop()?;
        let is_last = |quoted: &[u8]| !quoted.is_empty() && last.starts_with(quoted);
        ensure!(
            arrived.len() == 1 && is_last(&arrived[0].packet.payload),
            "{error:?}: {arrived:?}"
        );
        Ok(())
    }

    /// Makes sure that so many errors did not get in, and that this was why.
    fn ensure_denied(&self, expected: u64) -> Result<()> {
        let status = self.node.settle()?;
        let denied = &status["counters"]["ingress/icmp-error"];
        let denied = denied.as_u64().unwrap_or(0);
        ensure!(denied == expected, "{}", status["counters"]);
        Ok(())
    }
}

/// Makes sure that a pod knows how much the path to an address takes.
fn ensure_narrow(pod: &Host, to: IpAddr) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["route", "get", &to.to_string()]);
    let output = pod.netns().output(&mut command)?;
    let route = String::from_utf8_lossy(&output.stdout);
    ensure!(route.contains(&format!("mtu {NARROW}")), "{route}");
    Ok(())
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
            ensure_narrow(&bed.pod, to.ip())?;
        }
        bed.ensure_denied(0)
    })
}

#[test]
fn errors_about_what_the_pod_may_not_send_do_not_reach_it() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let (own, far) = (bed.pod.address(family)?, bed.far.address(family)?);
            let about = |port: u16| {
                let (own, peer) = (SocketAddr::new(own, UNUSED[0]), SocketAddr::new(far, port));
                IpPacket::udp(own, peer, &[0x55; 64])
            };
            for error in errors(family) {
                let about = [about(PORT + 1), about(PORT + 1), about(PORT)];
                bed.ensure_last_arrives(&bed.pod, error, &about)?;
            }
        }
        bed.ensure_denied(2 * 3 * 2)
    })
}

/// Nothing but the connection's record lets these errors in.
#[test]
fn segments_too_large_for_the_path_are_sent_again_and_no_other_error_gets_in() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let to = SocketAddr::new(bed.far.address(family)?, PORT);
            let listener = bed.far.netns().run(|| TcpListener::bind(to))??;
            let patience = slowed(BOUND);
            let connect = || TcpStream::connect_timeout(&to, patience);
            let mut stream = bed.half.netns().run(connect)??;
            let (mut served, _) = listener.accept()?;
            // The peer knows of no narrow link, and announces segments of 1,460.
            let sent = [0x55; 20_000];
            stream.write_all(&sent)?;
            let mut received = vec![0; sent.len()];
            served.set_read_timeout(Some(patience))?;
            served.read_exact(&mut received).context("what was sent")?;
            ensure!(received == sent);
            ensure_narrow(&bed.half, to.ip())?;

            let own = stream.local_addr()?;
            let about = |port: u16| {
                let own = SocketAddr::new(own.ip(), port);
                IpPacket::tcp(own, to, tcp_flags::ACK, 1, 1, &[0x55; 64])
            };
            let [one, two] = UNUSED.map(about);
            for error in errors(family) {
                let about = [one.clone(), two.clone(), about(own.port())];
                bed.ensure_last_arrives(&bed.half, error, &about)?;
            }
        }
        bed.ensure_denied(2 * 3 * 2)
    })
}

#[test]
fn refusals_and_what_routers_say_reach_the_pod_that_asked() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let far = SocketAddr::new(bed.far.address(family)?, PORT);
            let pod = socket(&bed.pod, family, 4_002)?;
            pod.connect(far)?;
            let refused = |result: std::io::Result<usize>| {
                result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            };
            // Either call reports what came before it.
            wait_for("a refusal", BOUND, || {
                refused(pod.send(b"anybody?")) || refused(pod.recv(&mut [0; 16]))
            })?;

            let [_, _, exceeded] = errors(family);
            let router = bed.router.address(family)?;
            let sniffer = Sniffer::start(&bed.pod, move |packet| {
                packet.icmp == Some(exceeded) && packet.src == router
            })?;
            // The node is the first router.
            let packet = IpPacket::udp(pod.local_addr()?, far, b"trace").ttl(2);
            let hop = bed.node.lab.next_hop(&bed.pod, far.ip()).context("a hop")?;
            bed.pod.send_packets(hop, &[packet.build()])?;
            wait_for("the router's word", BOUND, || sniffer.count() > 0)?;
        }
        bed.ensure_denied(0)
    })
}

//! Packets that hide what they are: with options, extension headers, tags, cut short.
//! They are sent from a real interface to real receivers; byte by byte the loaded
//! programs are asked in the agent's own tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Direction, Family, Host, IpPacket, Sniffed, Sniffer, Wiring, ethernet, received, slowed,
    wait_for,
};
use serde_json::json;

use crate::expect::PORT;
use crate::node::{BOUND, Node};

const DENIED_PORT: u16 = PORT + 1;
const UDP: u8 = 17;

/// `a/sender` and the host `outside` may send UDP to [`PORT`] of `a/closed`, and that
/// is all that it may get; nothing isolates `a/sender` and `a/open`.
struct Bed {
    node: Node,
    sender: Host,
    open: Host,
    closed: Host,
    outside: Host,
}

impl Bed {
    fn new(wiring: Wiring) -> Result<Self> {
        let mut node = Node::new("disguised", wiring)?;
        let sender = node.pod("a/sender", &[("app", "sender")])?;
        let open = node.pod("a/open", &[("app", "open")])?;
        let closed = node.pod("a/closed", &[("app", "closed")])?;
        let (v4, v6) = (
            Ipv4Addr::new(198, 51, 100, 7),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7),
        );
        let outside = node.lab.outside("outside", v4, v6)?;
        let peers = [
            json!({"podSelector": {"matchLabels": {"app": "sender"}}}),
            json!({"ipBlock": {"cidr": format!("{v4}/32")}}),
            json!({"ipBlock": {"cidr": format!("{v6}/128")}}),
        ];
        node.folder.put_all(
            "p.json",
            &[json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": "a", "name": "p"},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "closed"}},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": peers, "ports": [{"port": PORT, "protocol": "UDP"}]}],
                },
            })],
        )?;
        node.start()?;
        Ok(Self {
            node,
            sender,
            open,
            closed,
            outside,
        })
    }

    /// A datagram of the sender's.
    fn datagram(&self, to: &Host, family: Family, port: u16, payload: &[u8]) -> Result<IpPacket> {
        let from = SocketAddr::new(self.sender.address(family)?, 1_000);
        let to = SocketAddr::new(to.address(family)?, port);
        Ok(IpPacket::udp(from, to, payload))
    }
}

fn both_wirings(test: impl Fn(&Bed) -> Result<()>) -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let bed = Bed::new(wiring)?;
        test(&bed).with_context(|| format!("{wiring:?}"))?;
        bed.node.finish()?;
    }
    Ok(())
}

fn socket(host: &Host, family: Family, port: u16) -> Result<UdpSocket> {
    let address = SocketAddr::new(host.address(family)?, port);
    let socket = host.netns().run(|| UdpSocket::bind(address))??;
    socket.set_read_timeout(Some(slowed(BOUND)))?;
    Ok(socket)
}

/// Makes datagrams that no socket of a host's would, and expects them at sockets:
/// first to a port that is denied, then to the one that is allowed.
fn ensure_judged_by_port(
    bed: &Bed,
    family: Family,
    disguise: impl Fn(IpPacket) -> Vec<u8>,
) -> Result<()> {
    for (host, denied_arrives) in [(&bed.open, true), (&bed.closed, false)] {
        let (allowed, denied) = (
            socket(host, family, PORT)?,
            socket(host, family, DENIED_PORT)?,
        );
        let packets = [(DENIED_PORT, b"denied"), (PORT, b"passes")].map(|(port, payload)| {
            let datagram = bed.datagram(host, family, port, payload)?;
            Ok(disguise(datagram))
        });
        let packets = packets.into_iter().collect::<Result<Vec<_>>>()?;
        let to = host.address(family)?;
        let hop = bed.node.lab.next_hop(&bed.sender, to).context("a hop")?;
        bed.sender.send_packets(hop, &packets)?;
        let mut buffer = [0; 16];
        let length = received(|| allowed.recv(&mut buffer))?.context("the allowed one")?;
        ensure!(&buffer[..length] == b"passes", "{:?}", &buffer[..length]);
        // It was sent before.
        denied.set_nonblocking(true)?;
        let arrived = received(|| denied.recv(&mut buffer))?.is_some();
        ensure!(arrived == denied_arrives, "{}: {arrived}", host.name());
    }
    Ok(())
}

#[test]
fn options_of_ipv4_hide_no_port_from_policy() -> Result<()> {
    both_wirings(|bed| {
        let other = |port: u16| {
            // For experiments (RFC 4727); would be the ports, if nobody looked at the
            // header's length.
            let [high, low] = port.to_be_bytes();
            [94, 4, high, low]
        };
        for options in [
            &[1][..],
            &other(PORT),
            &other(DENIED_PORT),
            &[other(PORT); 10].concat(),
        ] {
            ensure_judged_by_port(bed, Family::V4, |packet| packet.options(options).build())
                .with_context(|| format!("{options:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn extension_headers_of_ipv6_hide_no_port_from_policy() -> Result<()> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    // An option for experiments that is to be skipped (RFC 4727).
    let skipped = [0x1e, 4, 0, 80, 0, 80];
    // Of a kind for experiments, with no segments left.
    let arrived = [253, 0, 0, 80, 0, 80];
    let all: [&[(u8, [u8; 6])]; 4] = [
        &[(HOP_BY_HOP, skipped)],
        &[(DESTINATION, skipped)],
        &[(ROUTING, arrived)],
        &[
            (HOP_BY_HOP, skipped),
            (DESTINATION, skipped),
            (ROUTING, arrived),
            (DESTINATION, skipped),
        ],
    ];
    both_wirings(|bed| {
        for headers in all {
            let disguise = |packet: IpPacket| {
                let headers = headers.iter();
                let packet = headers.fold(packet, |packet, (kind, content)| {
                    packet.extension(*kind, content)
                });
                packet.build()
            };
            ensure_judged_by_port(bed, Family::V6, disguise)
                .with_context(|| format!("{headers:?}"))?;
        }
        Ok(())
    })
}

/// Of a frame longer than a page a packet socket puts no more than the Ethernet header
/// where a program reads at once (`packet_alloc_skb`, `net/packet/af_packet.c`).
#[test]
fn headers_that_a_program_does_not_see_at_once_hide_no_port_from_policy() -> Result<()> {
    const PAGE: usize = 4_096;
    both_wirings(|bed| {
        let lab = &bed.node.lab;
        for host in [&bed.sender, &bed.open, &bed.closed] {
            let inside = format!("link set {} mtu 9000", host.interface());
            lab.ip(host, &[&inside])?;
            let of_node = host.node_interface().context("a pod's other end")?;
            lab.ip(lab.node(), &[&format!("link set {of_node} mtu 9000")])?;
        }
        for family in Family::BOTH {
            // Behind the end of the packet: padding.
            let padded = |packet: IpPacket| {
                let mut bytes = packet.build();
                bytes.resize(bytes.len() + PAGE, 0);
                bytes
            };
            ensure_judged_by_port(bed, family, padded).with_context(|| format!("{family:?}"))?;
        }
        Ok(())
    })
}

/// What comes into a host from an address, from the IP header's end on.
fn hear(host: &Host, from: IpAddr) -> Result<Sniffer<Vec<u8>>> {
    Sniffer::start_decoding(host, host.interface(), move |frame, direction| {
        let packet = frame.get(14..)?;
        let (source, protocol, header) = match from {
            IpAddr::V4(from) => (packet.get(12..)?.starts_with(&from.octets()), 9, 20),
            IpAddr::V6(from) => (packet.get(8..)?.starts_with(&from.octets()), 6, 40),
        };
        let ours = direction == Direction::In && source && packet.get(protocol) == Some(&UDP);
        ours.then(|| packet.get(header..).unwrap_or_default().to_vec())
    })
}

/// All that came until `last` did.
fn until(sniffer: Sniffer<Vec<u8>>, last: &[u8]) -> Result<Vec<Vec<u8>>> {
    wait_for("the last packet", BOUND, || {
        let packets = sniffer.packets();
        packets.iter().any(|sniffed| sniffed.packet.ends_with(last))
    })?;
    let packets = sniffer.stop()?.into_iter();
    Ok(packets.map(|Sniffed { packet, .. }| packet).collect())
}

/// A bridge takes frames of any VLAN from port to port; a node that routes has no
/// such network, and takes none.
#[test]
fn tags_hide_no_port_from_policy() -> Result<()> {
    let bed = Bed::new(Wiring::Bridged)?;
    for family in Family::BOTH {
        let ethertype: u16 = if family == Family::V4 { 0x0800 } else { 0x86dd };
        for (host, ports) in [
            (&bed.open, &[DENIED_PORT, PORT][..]),
            (&bed.closed, &[PORT]),
        ] {
            let heard = hear(host, bed.sender.address(family)?)?;
            let frame = |port, payload: &[u8]| -> Result<_> {
                let mut tagged = vec![0, 7];
                tagged.extend(ethertype.to_be_bytes());
                tagged.extend(bed.datagram(host, family, port, payload)?.build());
                Ok(ethernet(host.mac(), bed.sender.mac(), 0x8100, &tagged))
            };
            let frames = [frame(DENIED_PORT, b"denied")?, frame(PORT, b"passes")?];
            bed.sender.send_frames(&frames)?;
            let arrived = until(heard, b"passes")?;
            let arrived: Vec<_> = arrived
                .iter()
                .map(|udp| u16::from_be_bytes([udp[2], udp[3]]))
                .collect();
            ensure!(arrived == ports, "{family:?} {}: {arrived:?}", host.name());
        }
    }
    bed.node.finish()
}

/// Ports without the rest of the header: nobody listens to that, and policy cannot
/// know what it is.
#[test]
fn datagrams_cut_short_reach_open_pods_only() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let from = bed.outside.address(family)?;
            for (host, passes) in [(&bed.open, true), (&bed.closed, false)] {
                let to = host.address(family)?;
                let heard = hear(host, from)?;
                let ports = [0x10, 0, 0, 80];
                let short = |length: usize| {
                    let body = [&ports[..], &[0, 8, 0, 0]].concat();
                    IpPacket::new(from, to, UDP, &body[..length]).build()
                };
                let ends = [SocketAddr::new(from, 1_000), SocketAddr::new(to, PORT)];
                let last = IpPacket::udp(ends[0], ends[1], b"whole").build();
                let hop = bed.node.lab.node().mac();
                let packets = [short(2), short(4), short(7), last];
                bed.outside.send_packets(hop, &packets)?;
                let lengths: Vec<_> = until(heard, b"whole")?.iter().map(Vec::len).collect();
                let expected: &[usize] = if passes { &[2, 4, 7, 13] } else { &[13] };
                ensure!(lengths == expected, "{}: {lengths:?}", host.name());
            }
        }
        let status = bed.node.settle()?;
        let counted = &status["counters"]["ingress/truncated"];
        ensure!(counted == 3 * 2, "{}", status["counters"]);
        Ok(())
    })
}

//! What pods send that no policy is about: other addresses than their own,
//! announcements of routers and neighbours; and the events that name a verdict.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Arp, Direction, Family, Host, IpPacket, Outcome, Parsed, Probe, Proto, Sniffer, Wiring,
    arp_reply, ethernet, matrix, parse_arp, parse_frame, redirect, router_advertisement, tcp_flags,
    wait_for,
};
use serde_json::Value;

use crate::expect::{expect, serve};
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node};

/// Two open pods, `a/sender` and `a/receiver`, without any policy; `a/closed` is
/// isolated in both directions.
struct Bed {
    node: Node,
    sender: Host,
    receiver: Host,
    closed: Host,
}

impl Bed {
    fn new(wiring: Wiring) -> Result<Self> {
        let mut node = Node::new("packets", wiring)?;
        let sender = node.pod("a/sender", &[("app", "sender")])?;
        let receiver = node.pod("a/receiver", &[("app", "receiver")])?;
        let closed = node.pod("a/closed", &[("app", "closed")])?;
        node.folder.put_all(
            "p.json",
            &[
                allow(Way::Ingress, "a/in", "closed", &[("sender", &[80])]),
                allow(Way::Egress, "a/out", "closed", &[("receiver", &[80])]),
            ],
        )?;
        node.start()?;
        Ok(Self {
            node,
            sender,
            receiver,
            closed,
        })
    }

    /// Sends packets on the way to an address, and at last one that is allowed:
    /// when that has arrived, what has not arrived yet does not.
    fn arrivals(&self, packets: &[IpPacket], to: IpAddr) -> Result<Vec<Parsed>> {
        let host = [&self.receiver, &self.closed]
            .into_iter()
            .find(|host| host.addresses().contains(&to))
            .context("one of the receivers")?;
        let from = self.sender.address_towards(to)?;
        let sniffer = Sniffer::start(host, |packet| packet.icmp.is_none())?;
        let hop = self
            .node
            .lab
            .next_hop(&self.sender, to)
            .context("a next hop")?;
        let last = IpPacket::udp(
            SocketAddr::new(from, 4242),
            SocketAddr::new(to, 80),
            b"last",
        );
        let packets: Vec<Vec<u8>> = packets.iter().chain([&last]).map(IpPacket::build).collect();
        self.sender.send_packets(hop, &packets)?;
        let is_last = |packet: &Parsed| packet.sport == 4242;
        wait_for("the last packet", BOUND, || {
            sniffer
                .packets()
                .iter()
                .any(|sniffed| is_last(&sniffed.packet))
        })?;
        let arrived = sniffer.stop()?.into_iter().map(|sniffed| sniffed.packet);
        Ok(arrived.filter(|packet| !is_last(packet)).collect())
    }
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
fn pods_send_from_their_own_addresses_only() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let to = bed.receiver.address(family)?;
            let own = bed.sender.address(family)?;
            let strangers: [IpAddr; 2] = match family {
                Family::V4 => [
                    bed.closed.address(family)?,
                    Ipv4Addr::new(203, 0, 113, 9).into(),
                ],
                Family::V6 => [
                    bed.closed.address(family)?,
                    Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9).into(),
                ],
            };
            let packets = |from: IpAddr| {
                let (from, to) = (SocketAddr::new(from, 1000), SocketAddr::new(to, 81));
                [
                    IpPacket::udp(from, to, b"spoofed"),
                    IpPacket::tcp(from, to, tcp_flags::SYN, 7, 0, b""),
                ]
            };
            for stranger in strangers {
                let arrived = bed.arrivals(&packets(stranger), to)?;
                ensure!(arrived.is_empty(), "from {stranger}: {arrived:?}");
            }
            let arrived = bed.arrivals(&packets(own), to)?;
            ensure!(arrived.len() == 2, "from {own}: {arrived:?}");
        }
        let status = bed.node.settle()?;
        let counted = &status["counters"]["egress/spoofed-source"];
        ensure!(counted == 8, "{}", status["counters"]);
        Ok(())
    })
}

/// What a host hears of neighbours and routers.
#[derive(Clone, Debug)]
enum Heard {
    Arp(Arp),
    Icmp(u8, IpAddr),
    Other,
}

fn hear(host: &Host) -> Result<Sniffer<Heard>> {
    Sniffer::start_decoding(host, host.interface(), |frame, direction| {
        if direction == Direction::Out {
            return None;
        }
        if let Some(arp) = parse_arp(frame) {
            return Some(Heard::Arp(arp));
        }
        match parse_frame(frame) {
            Some(packet) => packet.icmp.map(|(kind, _)| Heard::Icmp(kind, packet.src)),
            None => Some(Heard::Other),
        }
    })
}

#[test]
fn pods_announce_neither_routers_nor_the_addresses_of_others() -> Result<()> {
    const EXPERIMENT: u16 = 0x88b5;
    let bed = Bed::new(Wiring::Bridged)?;
    let (sender, receiver) = (&bed.sender, &bed.receiver);
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
    let (own, gateway) = (
        sender.v4().context("an address")?,
        Ipv4Addr::new(10, 244, 0, 1),
    );
    let (own6, theirs6) = (
        sender.v6().context("an address")?,
        receiver.v6().context("an address")?,
    );
    let closed = bed.closed.v4().context("an address")?;
    let to = (receiver.mac(), receiver.v4().context("an address")?);
    let advertisement = |target: Ipv6Addr| {
        // Solicited and override flags, the target, its link-layer address.
        let mut rest = vec![0x60, 0, 0, 0];
        rest.extend(target.octets());
        rest.extend([2, 1]);
        rest.extend(sender.mac().0);
        let packet = IpPacket::icmp(own6.into(), theirs6.into(), 136, 0, &rest).ttl(255);
        ethernet(receiver.mac(), sender.mac(), 0x86dd, &packet.build())
    };
    let sniffer = hear(receiver)?;
    sender.send_frames(&[
        router_advertisement(
            sender.mac(),
            link_local,
            Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0),
        ),
        router_advertisement(
            sender.mac(),
            own6,
            Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0),
        ),
        redirect(sender.mac(), own6, (receiver.mac(), theirs6), own6, theirs6),
        arp_reply(sender.mac(), gateway, to.0, to.1),
        arp_reply(sender.mac(), closed, to.0, to.1),
        advertisement(bed.closed.v6().context("an address")?),
        // These are its own.
        advertisement(own6),
        arp_reply(sender.mac(), own, to.0, to.1),
    ])?;
    wait_for("its own announcement", BOUND, || {
        let heard = sniffer.packets();
        heard
            .iter()
            .any(|heard| matches!(&heard.packet, Heard::Arp(arp) if arp.operation == 2 && arp.sender.1 == own))
    })?;
    let heard: Vec<Heard> = sniffer
        .stop()?
        .into_iter()
        .map(|heard| heard.packet)
        .collect();
    let mut own_advertised = 0;
    for heard in &heard {
        match heard {
            Heard::Arp(arp) => ensure!(
                arp.sender.0 != sender.mac() || arp.sender.1 == own,
                "{heard:?}"
            ),
            Heard::Icmp(kind, from) => {
                ensure!(![134, 137].contains(kind), "{heard:?}");
                own_advertised += usize::from(*kind == 136 && *from == IpAddr::V6(own6));
            }
            Heard::Other => {}
        }
    }
    ensure!(own_advertised == 1, "{heard:?}");

    // Other kinds of frames: from an open pod they pass, to an isolated one not.
    let (open, isolated) = (hear(receiver)?, hear(&bed.closed)?);
    for (to, from) in [(receiver, sender), (&bed.closed, sender)] {
        from.send_frames(&[ethernet(to.mac(), from.mac(), EXPERIMENT, &[0; 46])])?;
    }
    let is_other = |heard: &Heard| matches!(heard, Heard::Other);
    wait_for("the frame at the open pod", BOUND, || {
        open.packets().iter().any(|heard| is_other(&heard.packet))
    })?;
    sender.send_frames(&[arp_reply(sender.mac(), own, bed.closed.mac(), closed)])?;
    wait_for("the last frame at the isolated pod", BOUND, || {
        let heard = isolated.packets();
        heard
            .iter()
            .any(|heard| matches!(&heard.packet, Heard::Arp(arp) if arp.sender.1 == own))
    })?;
    let heard = isolated.stop()?;
    ensure!(
        !heard.iter().any(|heard| is_other(&heard.packet)),
        "{heard:?}"
    );
    bed.node.finish()
}

/// Adds link-local addresses to two pods on one link and asks between them.
#[test]
fn link_local_traffic_reaches_open_pods_only() -> Result<()> {
    let bed = Bed::new(Wiring::Bridged)?;
    let (sender, receiver, closed) = (&bed.sender, &bed.receiver, &bed.closed);
    let _servers = [serve(receiver)?, serve(closed)?];
    let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x51);
    // The kernel gave it one already; this one is known to the test.
    let flush = format!("addr flush dev {} scope link", sender.interface());
    let add = format!("addr add {from}/64 dev {} nodad", sender.interface());
    bed.node.lab.ip(sender, &[&flush, &add])?;
    bed.node.settle()?;
    for (host, passes) in [(receiver, true), (closed, false)] {
        let to = host.v6().context("an address")?;
        let datagram = IpPacket::udp(
            SocketAddr::new(from.into(), 1000),
            SocketAddr::new(to.into(), 81),
            b"near",
        );
        let arrived = bed.arrivals(&[datagram], to.into())?;
        ensure!(
            arrived.len() == usize::from(passes),
            "{}: {arrived:?}",
            host.name()
        );
    }
    bed.node.finish()
}

#[test]
fn denied_packets_are_events_that_name_pods_and_policies() -> Result<()> {
    both_wirings(|bed| {
        let _servers = [serve(&bed.receiver)?, serve(&bed.closed)?];
        expect(&[
            (&bed.receiver, &bed.closed, false),
            (&bed.closed, &bed.sender, false),
            (&bed.closed, &bed.receiver, true),
        ])?;
        let find = |direction: &str, src: &str, dest: &str, port: u64, protocol: &str| {
            let lines = bed.node.lines().unwrap_or_default();
            lines.into_iter().find(|line| {
                line["type"] == "verdict"
                    && line["disposition"] == "deny"
                    && line["connection"]["direction"] == direction
                    && line["connection"]["dest_port"] == port
                    && line["connection"]["protocol"] == protocol
                    && line["src"]["pod_name"] == src
                    && line["dest"]["pod_name"] == dest
            })
        };
        for protocol in ["tcp", "udp"] {
            for (direction, src, dest, policy) in [
                ("ingress", "receiver", "closed", "in"),
                ("egress", "closed", "sender", "out"),
            ] {
                let mut found = None;
                wait_for("an event", BOUND, || {
                    found = find(direction, src, dest, 80, protocol);
                    found.is_some()
                })
                .with_context(|| format!("{direction} {protocol}"))?;
                let event: Value = found.context("it was found")?;
                ensure!(event["reason"] == "policy", "{event}");
                let policies = &event["policies"];
                ensure!(
                    policies[0]["name"] == policy
                        && policies[0]["namespace"] == "a"
                        && policies[1].is_null(),
                    "{event}"
                );
            }
        }
        Ok(())
    })
}

/// A port that nobody serves is refused by an allowed host, and the refusal gets
/// through.
#[test]
fn resets_pass_where_the_connection_may() -> Result<()> {
    both_wirings(|bed| {
        let mut probes = Vec::new();
        for family in Family::BOTH {
            for (from, to) in [(&bed.sender, &bed.closed), (&bed.closed, &bed.receiver)] {
                probes.push(Probe::new(from, to, family, 80, Proto::Tcp)?);
            }
        }
        for (probe, outcome) in probes.iter().zip(matrix(&probes)?) {
            ensure!(outcome == Outcome::Refused, "{probe}: {outcome}");
        }
        Ok(())
    })
}

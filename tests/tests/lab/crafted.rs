//! Crafted packets arrive as they were made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Arp, Direction, Family, Host, IpPacket, Lab, Parsed, Proto, ServeSpec, Server, Sniffer, Wiring,
    arp_reply, arp_request, parse_arp, parse_frame, redirect, router_advertisement, tcp_flags,
    wait_for,
};

use crate::connectivity::{v4, v6};

const BOUND: Duration = Duration::from_secs(10);

fn two_pods(wiring: Wiring) -> Result<(Lab, Host, Host)> {
    let mut lab = Lab::new("crafted", wiring)?;
    let from = lab.pod("a/from", v4(10), v6(10))?;
    let to = lab.pod("a/to", v4(11), v6(11))?;
    Ok((lab, from, to))
}

fn sockets(from: &Host, to: &Host, family: Family) -> Result<(SocketAddr, SocketAddr)> {
    Ok((
        SocketAddr::new(from.address(family)?, 40_000),
        SocketAddr::new(to.address(family)?, 80),
    ))
}

fn sniff(host: &Host) -> Result<Sniffer> {
    Sniffer::start(host, |packet| packet.sport == 40_000 || packet.dport == 80)
}

/// What arrives first, having waited for it.
fn first(sniffer: &Sniffer) -> Result<Parsed> {
    wait_for("a packet", BOUND, || sniffer.count() > 0)?;
    let packets = sniffer.packets();
    Ok(packets.first().context("it was counted")?.packet.clone())
}

#[test]
fn a_segment_with_any_flags_reaches_a_closed_port() -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let (lab, from, to) = two_pods(wiring)?;
        for family in Family::BOTH {
            let (src, dst) = sockets(&from, &to, family)?;
            let odd = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::URG;
            for flags in [tcp_flags::SYN, tcp_flags::ACK, odd, 0] {
                let sniffer = sniff(&to)?;
                let packet = IpPacket::tcp(src, dst, flags, 7, 8, b"data");
                let next_hop = lab.next_hop(&from, dst.ip()).context("a next hop")?;
                from.send_packets(next_hop, &[packet.build()])?;
                let seen = first(&sniffer)?;
                let tcp = seen.tcp.context("a segment")?;
                ensure!((tcp.flags, tcp.seq, tcp.ack) == (flags, 7, 8), "{seen:?}");
                ensure!(seen.payload == b"data");
            }
        }
    }
    Ok(())
}

#[test]
fn a_foreign_source_arrives_when_nobody_checks() -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let (_lab, from, to) = two_pods(wiring)?;
        for (family, spoofed) in [
            (Family::V4, IpAddr::from(Ipv4Addr::new(192, 0, 2, 66))),
            (
                Family::V6,
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 66).into(),
            ),
        ] {
            let (_, dst) = sockets(&from, &to, family)?;
            let sniffer = sniff(&to)?;
            let src = SocketAddr::new(spoofed, 40_000);
            from.send_packet(&IpPacket::udp(src, dst, b"not me"))?;
            let seen = first(&sniffer)?;
            ensure!(seen.src == spoofed && seen.payload == b"not me", "{seen:?}");
        }
    }
    Ok(())
}

#[test]
fn options_extension_headers_and_fragments_are_understood_by_the_kernel() -> Result<()> {
    let (_lab, from, to) = two_pods(Wiring::Routed)?;
    let server = Server::start(&to, &ServeSpec::all_ports(&[80]))?;
    let mut expected = 0;
    for family in Family::BOTH {
        let (src, dst) = sockets(&from, &to, family)?;
        let plain = IpPacket::udp(src, dst, &[b'x'; 100]);
        let special = match family {
            // Router alert (RFC 2113).
            Family::V4 => plain.clone().options(&[148, 4, 0, 0]),
            Family::V6 => plain.clone().extension(60, &[1, 4, 0, 0, 0, 0]),
        };
        let mut packets = vec![special.build()];
        packets.extend(plain.fragments(64));
        from.send_packets(from.gateway_mac().context("a gateway")?, &packets)?;
        expected += 2;
        wait_for("both datagrams, one put together", BOUND, || {
            server.arrived(Proto::Udp, 80) == expected
        })?;
        from.send_packet(&IpPacket::sctp_init(src, dst, 99))?;
    }
    wait_for("both INITs", BOUND, || server.arrived(Proto::Sctp, 80) == 2)?;
    Ok(())
}

#[test]
fn an_echo_request_is_answered_so_its_checksum_is_right() -> Result<()> {
    let (_lab, from, to) = two_pods(Wiring::Bridged)?;
    for family in Family::BOTH {
        let (src, dst) = (from.address(family)?, to.address(family)?);
        let sniffer = Sniffer::start(&from, move |packet| {
            packet.src == dst && packet.payload == b"ping"
        })?;
        from.send_packet(&IpPacket::echo_request(src, dst, 1, 2, b"ping"))?;
        let reply = if family == Family::V4 { 0 } else { 129 };
        ensure!(first(&sniffer)?.icmp == Some((reply, 0)));
    }
    Ok(())
}

#[test]
fn arp_and_router_messages_reach_a_neighbour_on_the_bridge() -> Result<()> {
    let (_lab, from, to) = two_pods(Wiring::Bridged)?;
    let other = v4(11);
    let arps = Sniffer::start_decoding(&to, to.interface(), |frame, direction| {
        parse_arp(frame).filter(|_| direction == Direction::In)
    })?;
    let claimed = Ipv4Addr::new(10, 244, 0, 77);
    from.send_frames(&[
        arp_request(from.mac(), claimed, other),
        arp_reply(from.mac(), claimed, to.mac(), other),
    ])?;
    let claims = |arps: &Sniffer<Arp>| {
        let claims = arps.packets().into_iter().filter(|arp| {
            arp.packet.sender == (from.mac(), claimed) && arp.packet.target.1 == other
        });
        claims.map(|arp| arp.packet.operation).collect::<Vec<_>>()
    };
    wait_for("both claims", BOUND, || claims(&arps) == [1, 2])?;

    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66);
    let prefix = Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 0);
    let messages = Sniffer::start(&to, |packet| {
        matches!(packet.icmp, Some((134 | 137, _))) && packet.ttl == 255
    })?;
    from.send_frames(&[
        router_advertisement(from.mac(), router, prefix),
        redirect(from.mac(), router, (to.mac(), v6(11)), router, v6(99)),
    ])?;
    wait_for("both messages", BOUND, || messages.count() == 2)?;
    Ok(())
}

#[test]
fn a_decoder_sees_whole_frames() -> Result<()> {
    let (_lab, from, to) = two_pods(Wiring::Routed)?;
    let (src, dst) = sockets(&from, &to, Family::V4)?;
    let frames = Sniffer::start_decoding(&to, to.interface(), |frame, _| {
        let ours = parse_frame(frame).is_some_and(|packet| packet.dport == 80);
        ours.then(|| frame[..6].to_vec())
    })?;
    from.send_packet(&IpPacket::udp(src, dst, b"x"))?;
    wait_for("the frame", BOUND, || frames.count() == 1)?;
    ensure!(frames.stop()?[0].packet == to.mac().0);
    Ok(())
}

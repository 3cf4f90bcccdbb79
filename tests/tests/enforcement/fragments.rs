//! Datagrams that do not fit the link: they arrive whole at pods that policy allows
//! to have them, and not at all at others.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, IpPacket, Sniffer, Wiring, received, wait_for};

use crate::expect::PORT;
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node};

/// Bytes of a datagram that takes three fragments on a link of 1500.
const BIG: usize = 4_000;
/// What answers within microseconds is asked again after this.
const PATIENCE: Duration = Duration::from_millis(500);

/// A socket of a host's, on its address of one family.
fn socket(host: &Host, family: Family, port: u16) -> Result<UdpSocket> {
    let address = SocketAddr::new(host.address(family)?, port);
    let socket = host
        .netns()
        .run(|| UdpSocket::bind(address))?
        .with_context(|| format!("bind {address}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The next datagram and who sent it; none within [`PATIENCE`].
fn receive(socket: &UdpSocket) -> Result<Option<(Vec<u8>, SocketAddr)>> {
    let mut buffer = vec![0; BIG + 1];
    let arrived = received(|| socket.recv_from(&mut buffer)).context("receive")?;
    Ok(arrived.map(|(length, from)| {
        buffer.truncate(length);
        (buffer, from)
    }))
}

/// Sends until it arrives, which a lost fragment may delay.
fn deliver(from: &UdpSocket, to: &UdpSocket, bytes: &[u8]) -> Result<()> {
    let address = to.local_addr()?;
    let mut received = None;
    wait_for("a datagram", BOUND, || {
        // What cannot be sent now is sent in the next round.
        let _ = from.send_to(bytes, address);
        received = receive(to).unwrap_or_default();
        received.is_some()
    })
    .with_context(|| format!("{} bytes to {address}", bytes.len()))?;
    let (arrived, sender) = received.context("it arrived")?;
    ensure!(arrived == bytes, "{} bytes arrived", arrived.len());
    ensure!(sender == from.local_addr()?, "from {sender}");
    Ok(())
}

struct Bed {
    node: Node,
    client: Host,
    server: Host,
    stranger: Host,
}

/// `a/client` may send to `a/server` on [`PORT`], and both nothing else;
/// `a/stranger` is open.
fn both_wirings(test: fn(&Bed) -> Result<()>) -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let mut node = Node::new("fragments", wiring)?;
        let client = node.pod("a/client", &[("app", "client")])?;
        let server = node.pod("a/server", &[("app", "server")])?;
        let stranger = node.pod("a/stranger", &[("app", "stranger")])?;
        let nothing: &[(&str, &[u16])] = &[];
        node.folder.put_all(
            "p.json",
            &[
                allow(Way::Egress, "a/out", "client", &[("server", &[PORT])]),
                allow(Way::Ingress, "a/client-in", "client", nothing),
                allow(Way::Ingress, "a/in", "server", &[("client", &[PORT])]),
                allow(Way::Egress, "a/server-out", "server", nothing),
            ],
        )?;
        node.start()?;
        let bed = Bed {
            node,
            client,
            server,
            stranger,
        };
        test(&bed).with_context(|| format!("{wiring:?}"))?;
        bed.node.finish()?;
    }
    Ok(())
}

#[test]
fn large_datagrams_and_their_answers_arrive_where_policy_allows_them() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let server = socket(&bed.server, family, PORT)?;
            let client = socket(&bed.client, family, 4_000)?;
            for round in 0..5 {
                deliver(&client, &server, &vec![round; BIG])?;
                deliver(&server, &client, &vec![round | 0x80; BIG])?;
                deliver(&client, &server, &[round; 8])?;
            }
        }
        let status = bed.node.settle()?;
        for direction in ["ingress", "egress"] {
            let counted = &status["counters"][format!("{direction}/policy")];
            ensure!(counted.is_null() || counted == 0, "{}", status["counters"]);
        }
        Ok(())
    })
}

#[test]
fn large_datagrams_that_policy_denies_vanish() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let server = socket(&bed.server, family, PORT)?;
            let other_port = socket(&bed.server, family, PORT + 1)?;
            let client = socket(&bed.client, family, 4_000)?;
            let stranger = socket(&bed.stranger, family, 4_000)?;
            for round in 0..3 {
                stranger.send_to(&[round; BIG], server.local_addr()?)?;
                // The client's own policy denies these.
                client.send_to(&[round; BIG], other_port.local_addr()?)?;
                client.send_to(&[round; BIG], stranger.local_addr()?)?;
                // An allowed one that arrives after them.
                deliver(&client, &server, &vec![round; BIG])?;
            }
            ensure!(receive(&other_port)?.is_none(), "another port");
            ensure!(receive(&stranger)?.is_none(), "another pod");
        }
        let status = bed.node.settle()?;
        for direction in ["ingress", "egress"] {
            let counted = &status["counters"][format!("{direction}/fragment")];
            let counted = counted.as_u64().unwrap_or(0);
            ensure!(counted >= 2 * 3 * 2, "{}", status["counters"]);
        }
        Ok(())
    })
}

/// Fragments as no stack sends them, from an open pod that policy allows to use
/// one port of the receiver.
#[test]
fn fragments_ride_on_no_verdict_but_their_own() -> Result<()> {
    both_wirings(|bed| {
        for family in Family::BOTH {
            let to = bed.server.address(family)?;
            let from = bed.client.address(family)?;
            let sniffer = Sniffer::start(&bed.server, |packet| packet.protocol == 17)?;
            let hop = bed.node.lab.next_hop(&bed.client, to).context("a hop")?;
            let datagram = |port: u16, id: u32| {
                let (from, to) = (SocketAddr::new(from, 4_000), SocketAddr::new(to, port));
                IpPacket::udp(from, to, &[0x55; 56]).id(id).fragments(32)
            };
            let (good, bad) = (datagram(PORT, 7), datagram(PORT + 1, 8));
            let overlap = IpPacket::new(from, to, 17, &[0xff; 24])
                .id(7)
                .fragment(8, true);
            let tiny = IpPacket::new(from, to, 17, &[0, 80, 0, 80])
                .id(9)
                .fragment(0, true);
            let alone = IpPacket::new(from, to, 17, &[0xff; 24])
                .id(10)
                .fragment(24, false);
            let last = datagram(PORT, 11);
            let packets = [
                &bad[0],
                &bad[1],
                &good[0],
                &overlap.build(),
                &tiny.build(),
                &alone.build(),
                &good[1],
                &last[0],
                &last[1],
            ];
            bed.client.send_packets(hop, &packets)?;
            wait_for("the last fragment", BOUND, || sniffer.count() >= 4)?;
            let arrived: Vec<_> = sniffer.stop()?.into_iter().map(|s| s.packet).collect();
            let parts: Vec<_> = arrived.iter().map(|p| (p.dport, p.fragment)).collect();
            let (first, second) = ((PORT, Some((0, true))), (0, Some((32, false))));
            ensure!(parts == [first, second, first, second], "{arrived:?}");
        }
        Ok(())
    })
}

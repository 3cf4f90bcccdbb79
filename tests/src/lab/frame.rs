//! Ethernet frames around packets, ARP, router advertisements and redirects;
//! sending them on a host's interface past its own stack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

use super::host::{Host, Mac};
use super::packet::IpPacket;
use super::sys;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// All nodes and all routers of a link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An Ethernet frame; `ethertype` in host byte order.
pub fn ethernet(dst: Mac, src: Mac, ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + body.len());
    frame.extend(dst.0);
    frame.extend(src.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

/// A broadcast that asks who has `target`.
pub fn arp_request(src: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let body = arp(1, (src, sender), (Mac([0; 6]), target));
    ethernet(Mac::BROADCAST, src, ETHERTYPE_ARP, &body)
}

/// An answer to `to` that says `sender` is at `src`.
pub fn arp_reply(src: Mac, sender: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Vec<u8> {
    ethernet(to, src, ETHERTYPE_ARP, &arp(2, (src, sender), (to, target)))
}

/// A router advertisement (RFC 4861 section 4.2) to all nodes that makes its
/// sender a default router and announces an on-link prefix of 64 bits.
pub fn router_advertisement(src: Mac, sender: Ipv6Addr, prefix: Ipv6Addr) -> Vec<u8> {
    // Hop limit 64, no flags, router lifetime 1,800 s, the two timers unset.
    let mut rest = vec![64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // Source link-layer address, then prefix information (on-link, autonomous).
    rest.extend([1, 1]);
    rest.extend(src.0);
    rest.extend([3, 4, 64, 0xc0]);
    rest.extend([0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    rest.extend(prefix.octets());
    let packet = IpPacket::icmp(sender.into(), ALL_NODES.into(), 134, 0, &rest).ttl(255);
    let to = Mac::of_multicast(ALL_NODES);
    ethernet(to, src, ETHERTYPE_IPV6, &packet.build())
}

/// An ICMPv6 redirect (RFC 4861 section 4.5): `sender` tells `to` at `to_mac`
/// that `destination` is reached through `target`.
pub fn redirect(
    src: Mac,
    sender: Ipv6Addr,
    (to_mac, to): (Mac, Ipv6Addr),
    target: Ipv6Addr,
    destination: Ipv6Addr,
) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend(target.octets());
    rest.extend(destination.octets());
    let packet = IpPacket::icmp(sender.into(), to.into(), 137, 0, &rest).ttl(255);
    ethernet(to_mac, src, ETHERTYPE_IPV6, &packet.build())
}

impl Host {
    /// Sends whole Ethernet frames on the host's interface, past its own stack:
    /// a namespace may send whatever it likes.
    ///
    /// # Errors
    /// When a frame is not accepted by the interface (its link is down, say).
    pub fn send_frames<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result<()> {
        let index = self.interface_index(self.interface())?;
        let socket = self
            .netns()
            .run(|| sys::packet_socket(index, 0))?
            .with_context(|| format!("packet socket in {}", self.name()))?;
        for frame in frames {
            let frame = frame.as_ref();
            let sent = rustix::net::send(&socket, frame, rustix::net::SendFlags::empty())
                .with_context(|| format!("send a frame from {}", self.name()))?;
            ensure!(
                sent == frame.len(),
                "{} of {} bytes sent",
                sent,
                frame.len()
            );
        }
        Ok(())
    }

    /// Sends IP packets in frames to the station `to`, usually the gateway (see
    /// [`Host::gateway_mac`] and `Lab::next_hop`).
    ///
    /// # Errors
    /// As [`Host::send_frames`].
    pub fn send_packets<P: AsRef<[u8]>>(&self, to: Mac, packets: &[P]) -> Result<()> {
        let frames: Vec<Vec<u8>> = packets
            .iter()
            .map(|packet| {
                let packet = packet.as_ref();
                let ethertype = match packet.first().map(|byte| byte >> 4) {
                    Some(6) => ETHERTYPE_IPV6,
                    // A packet that says nothing clear is for IPv4 to refuse.
                    _ => ETHERTYPE_IPV4,
                };
                ethernet(to, self.mac(), ethertype, packet)
            })
            .collect();
        self.send_frames(&frames)
    }

    /// Sends one packet to the host's gateway.
    ///
    /// # Errors
    /// As [`Host::send_frames`], and for a host without gateway.
    pub fn send_packet(&self, packet: &IpPacket) -> Result<()> {
        let gateway = self
            .gateway_mac()
            .with_context(|| format!("{} has no gateway", self.name()))?;
        self.send_packets(gateway, &[packet.build()])
    }

    /// The address of the family of `peer`.
    ///
    /// # Errors
    /// When the host has none.
    pub fn address_towards(&self, peer: IpAddr) -> Result<IpAddr> {
        self.address(super::host::Family::of(peer))
    }
}

/// Ethernet and IPv4 addresses (RFC 826); `operation` 1 asks, 2 answers.
fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut body = vec![0, 1, 0x08, 0, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        body.extend(mac.0);
        body.extend(ip.octets());
    }
    body
}

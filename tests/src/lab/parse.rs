//! Reads frames and packets as far as sniffers and tests look at them.
//!
//! Independent of the product's parser on purpose: it judges what that one let
//! through. Whatever cannot be read is reported as absent, never guessed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::host::Mac;

/// How much of the transport payload is kept.
const KEPT_PAYLOAD: usize = 64;

/// What a packet says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol after all extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Source port of TCP, UDP and SCTP; 0 where there is none.
    pub sport: u16,
    /// Destination port of TCP, UDP and SCTP; 0 where there is none.
    pub dport: u16,
    /// Type and code of ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// The rest of a TCP header.
    pub tcp: Option<TcpHead>,
    /// Offset in bytes and the more-fragments bit, when it is a fragment.
    pub fragment: Option<(u16, bool)>,
    /// The first bytes of what follows the transport header (of unknown
    /// protocols and of later fragments, the IP header).
    pub payload: Vec<u8>,
}

/// What tells TCP segments apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHead {
    /// As in [`super::tcp_flags`].
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
}

impl Parsed {
    /// Whether it is a TCP segment whose flags include all of `set` and none of
    /// `clear`.
    pub fn is_tcp(&self, set: u8, clear: u8) -> bool {
        self.tcp
            .is_some_and(|tcp| tcp.flags & set == set && tcp.flags & clear == 0)
    }
}

/// Reads an Ethernet frame without VLAN tag; none if it holds no IP packet.
pub fn parse_frame(frame: &[u8]) -> Option<Parsed> {
    match frame.get(12..14)? {
        [0x08, 0x00] | [0x86, 0xdd] => parse_ip(&frame[14..]),
        _ => None,
    }
}

/// An ARP message for IPv4 on Ethernet (RFC 826).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 asks, 2 answers.
    pub operation: u16,
    /// Who the sender claims to be.
    pub sender: (Mac, Ipv4Addr),
    /// Whom it asks for or answers.
    pub target: (Mac, Ipv4Addr),
}

/// Reads an Ethernet frame; none if it holds no ARP message.
pub fn parse_arp(frame: &[u8]) -> Option<Arp> {
    let body = frame.get(14..42)?;
    if frame[12..14] != [0x08, 0x06] || body[..6] != [0, 1, 0x08, 0, 6, 4] {
        return None;
    }
    let party = |at: usize| -> Option<(Mac, Ipv4Addr)> {
        let mac: [u8; 6] = body[at..at + 6].try_into().ok()?;
        let ip: [u8; 4] = body[at + 6..at + 10].try_into().ok()?;
        Some((Mac(mac), ip.into()))
    };
    Some(Arp {
        operation: u16::from_be_bytes([body[6], body[7]]),
        sender: party(8)?,
        target: party(18)?,
    })
}

/// Reads a packet from its IP header on; none if it is damaged.
pub fn parse_ip(packet: &[u8]) -> Option<Parsed> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let fixed = packet.get(..20)?;
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = fixed[at..at + 4].try_into().ok()?;
                Some(Ipv4Addr::from(octets).into())
            };
            let bits = u16::from_be_bytes([fixed[6], fixed[7]]);
            let (offset, more) = ((bits & 0x1fff) * 8, bits & 0x2000 != 0);
            // A frame may be padded to Ethernet's minimum.
            let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
            let packet = packet.get(..total).unwrap_or(packet);
            let mut parsed = empty(address(12)?, address(16)?, fixed[9], fixed[8]);
            parsed.fragment = (offset != 0 || more).then_some((offset, more));
            transport(parsed, packet.get(header..)?)
        }
        6 => {
            let fixed = packet.get(..40)?;
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = fixed[at..at + 16].try_into().ok()?;
                Some(Ipv6Addr::from(octets).into())
            };
            let total = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
            let packet = packet.get(..total).unwrap_or(packet);
            let mut parsed = empty(address(8)?, address(24)?, fixed[6], fixed[7]);
            let mut rest = &packet[40..];
            loop {
                match parsed.protocol {
                    0 | 43 | 60 => {
                        let length = (usize::from(*rest.get(1)?) + 1) * 8;
                        parsed.protocol = rest[0];
                        rest = rest.get(length..)?;
                    }
                    44 => {
                        let header = rest.get(..8)?;
                        let bits = u16::from_be_bytes([header[2], header[3]]);
                        parsed.fragment = Some((bits & !7, bits & 1 == 1));
                        parsed.protocol = header[0];
                        rest = &rest[8..];
                        if bits & !7 != 0 {
                            break;
                        }
                    }
                    _ => break,
                }
            }
            transport(parsed, rest)
        }
        _ => None,
    }
}

fn empty(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8) -> Parsed {
    Parsed {
        src,
        dst,
        protocol,
        ttl,
        sport: 0,
        dport: 0,
        icmp: None,
        tcp: None,
        fragment: None,
        payload: Vec::new(),
    }
}

fn transport(mut parsed: Parsed, bytes: &[u8]) -> Option<Parsed> {
    let later_fragment = parsed.fragment.is_some_and(|(offset, _)| offset != 0);
    let header = match parsed.protocol {
        _ if later_fragment => 0,
        6 => {
            let head = bytes.get(..20)?;
            let word = |at: usize| {
                u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            parsed.tcp = Some(TcpHead {
                flags: head[13],
                seq: word(4),
                ack: word(8),
            });
            usize::from(head[12] >> 4) * 4
        }
        17 => 8,
        132 => 12,
        1 | 58 => {
            let head = bytes.get(..8)?;
            parsed.icmp = Some((head[0], head[1]));
            8
        }
        _ => 0,
    };
    if matches!(parsed.protocol, 6 | 17 | 132) && !later_fragment {
        let ports = bytes.get(..4)?;
        parsed.sport = u16::from_be_bytes([ports[0], ports[1]]);
        parsed.dport = u16::from_be_bytes([ports[2], ports[3]]);
    }
    let payload = bytes.get(header..)?;
    parsed.payload = payload[..payload.len().min(KEPT_PAYLOAD)].to_vec();
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::packet::{IpPacket, checksum, tcp_flags};
    use super::*;

    fn sockets(family: u8) -> (SocketAddr, SocketAddr) {
        let [src, dst] = if family == 4 {
            ["10.0.0.1:1000", "10.0.0.2:80"]
        } else {
            ["[fd00::1]:1000", "[fd00::2]:80"]
        };
        (
            src.parse().expect("a socket address"),
            dst.parse().expect("a socket address"),
        )
    }

    #[test]
    fn a_built_segment_is_read_back_in_both_families() {
        for family in [4, 6] {
            let (src, dst) = sockets(family);
            let flags = tcp_flags::SYN | tcp_flags::ACK;
            let bytes = IpPacket::tcp(src, dst, flags, 5, 6, b"hello").build();
            let parsed = parse_ip(&bytes).expect("a whole packet");
            assert_eq!((parsed.src, parsed.sport), (src.ip(), 1000));
            assert_eq!((parsed.dst, parsed.dport), (dst.ip(), 80));
            assert_eq!(
                parsed.tcp,
                Some(TcpHead {
                    flags,
                    seq: 5,
                    ack: 6
                })
            );
            assert_eq!(parsed.payload, b"hello");
            assert!(parsed.is_tcp(tcp_flags::SYN, tcp_flags::RST));
            assert!(!parsed.is_tcp(tcp_flags::SYN, tcp_flags::ACK));
        }
    }

    #[test]
    fn options_and_extension_headers_are_passed_over() {
        let (src, dst) = sockets(4);
        let bytes = IpPacket::udp(src, dst, b"x")
            .options(&[7, 7, 4, 0, 0, 0, 0])
            .build();
        assert_eq!(bytes[0], 0x47, "two more words");
        assert_eq!(
            checksum(&bytes[..28]),
            [0, 0],
            "a right header sums to zero"
        );
        assert_eq!(
            parse_ip(&bytes).map(|p| (p.dport, p.payload)),
            Some((80, b"x".to_vec()))
        );

        let (src, dst) = sockets(6);
        let packet = IpPacket::udp(src, dst, b"x")
            .extension(0, &[])
            .extension(60, &[1; 7]);
        let parsed = parse_ip(&packet.build()).expect("a whole packet");
        assert_eq!((parsed.protocol, parsed.dport), (17, 80));
    }

    #[test]
    fn only_the_first_fragment_has_ports() {
        for family in [4, 6] {
            let (src, dst) = sockets(family);
            let fragments = IpPacket::udp(src, dst, &[9; 40]).fragments(24);
            let parsed: Vec<Parsed> = fragments.iter().filter_map(|f| parse_ip(f)).collect();
            assert_eq!(parsed[0].fragment, Some((0, true)));
            assert_eq!((parsed[0].dport, parsed[1].dport), (80, 0));
            assert_eq!(parsed[1].fragment, Some((24, false)));
            assert_eq!(parsed[1].payload.len(), 24);
        }
    }

    #[test]
    fn damaged_packets_are_none() {
        let (src, dst) = sockets(4);
        let bytes = IpPacket::tcp(src, dst, tcp_flags::SYN, 1, 0, &[]).build();
        assert_eq!(parse_ip(&bytes[..30]), None);
        assert_eq!(parse_ip(&[]), None);
        assert_eq!(parse_frame(&[0; 14]), None);
    }
}

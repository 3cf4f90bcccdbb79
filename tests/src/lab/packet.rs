//! Builds IP packets byte by byte, also such as no stack would send: any TCP
//! flags, foreign sources, options, extension headers, fragments.
//!
//! Lengths and checksums are right unless a test changes the bytes afterwards.
//! Ethernet and what lies on it beside IP is `frame.rs`.

use std::net::{IpAddr, SocketAddr};

use super::sctp;

/// Bits of the TCP header's flags byte (RFC 9293 section 3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The IPv6 fragment header (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// An IP packet under construction.
#[derive(Clone, Debug)]
pub struct IpPacket {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    body: Vec<u8>,
    ttl: u8,
    id: u32,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<(u16, bool)>,
}

impl IpPacket {
    /// A packet of any protocol with `body` after the IP header.
    ///
    /// # Panics
    /// When the addresses are of different families.
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> Self {
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "{src} and {dst}: one family");
        Self {
            src,
            dst,
            protocol,
            body: body.to_vec(),
            ttl: 64,
            id: 0x1d,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
        }
    }

    /// A TCP segment without options; `flags` as in [`tcp_flags`].
    pub fn tcp(
        src: SocketAddr,
        dst: SocketAddr,
        flags: u8,
        seq: u32,
        ack: u32,
        payload: &[u8],
    ) -> Self {
        let mut body = ports(src, dst);
        body.extend(seq.to_be_bytes());
        body.extend(ack.to_be_bytes());
        // Header of five words, window 64 KiB, checksum to come, no urgent data.
        body.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        body.extend(payload);
        Self::new(src.ip(), dst.ip(), TCP, &body).with_checksum(16)
    }

    /// A UDP datagram.
    pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Self {
        let mut body = ports(src, dst);
        body.extend(length_u16(8 + payload.len()));
        body.extend([0, 0]);
        body.extend(payload);
        let mut packet = Self::new(src.ip(), dst.ip(), UDP, &body).with_checksum(6);
        if packet.body[6..8] == [0, 0] {
            // RFC 768: zero says that there is none.
            packet.body[6..8].fill(0xff);
        }
        packet
    }

    /// An SCTP packet with an INIT chunk that proposes the tag `tag`.
    pub fn sctp_init(src: SocketAddr, dst: SocketAddr, tag: u32) -> Self {
        let body = sctp::init(src.port(), dst.port(), tag);
        Self::new(src.ip(), dst.ip(), sctp::PROTOCOL, &body)
    }

    /// An ICMP or ICMPv6 message by the family of the addresses; `rest` is what
    /// follows the checksum.
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Self {
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest);
        let protocol = if src.is_ipv4() { ICMP } else { ICMPV6 };
        Self::new(src, dst, protocol, &body).with_checksum(2)
    }

    /// An echo request of the family of the addresses.
    pub fn echo_request(src: IpAddr, dst: IpAddr, id: u16, seq: u16, payload: &[u8]) -> Self {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        let mut rest = Vec::from(id.to_be_bytes());
        rest.extend(seq.to_be_bytes());
        rest.extend(payload);
        Self::icmp(src, dst, kind, 0, &rest)
    }

    /// Where it goes.
    pub fn destination(&self) -> IpAddr {
        self.dst
    }

    /// Sets the TTL or hop limit (64 otherwise).
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the identification, of which IPv4 has 16 bits.
    pub fn id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }

    /// Adds IPv4 options, filled up to whole words with end-of-list bytes.
    ///
    /// # Panics
    /// Above 40 bytes, and for IPv6.
    pub fn options(mut self, options: &[u8]) -> Self {
        assert!(self.src.is_ipv4(), "IPv6 has extension headers instead");
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        assert!(
            self.options.len() <= 40,
            "an IPv4 header has 60 bytes at most"
        );
        self
    }

    /// Appends an IPv6 extension header (0 hop-by-hop, 43 routing, 60
    /// destination options): `content` is what follows its length byte, filled
    /// up to whole units of eight bytes with Pad1 options.
    ///
    /// # Panics
    /// For IPv4.
    pub fn extension(mut self, kind: u8, content: &[u8]) -> Self {
        assert!(self.src.is_ipv6(), "IPv4 has options instead");
        let mut content = content.to_vec();
        content.resize((content.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((kind, content));
        self
    }

    /// Marks the packet as a fragment: `offset` in bytes, a multiple of eight.
    ///
    /// # Panics
    /// When `offset` is none.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        assert_eq!(offset % 8, 0, "fragment offsets count units of eight bytes");
        self.fragment = Some((offset, more));
        self
    }

    /// The packet in fragments with `size` bytes of body each, in order.
    ///
    /// # Panics
    /// When `size` is no multiple of eight above zero.
    pub fn fragments(&self, size: u16) -> Vec<Vec<u8>> {
        assert!(
            size > 0 && size.is_multiple_of(8),
            "whole units of eight bytes"
        );
        let chunks: Vec<&[u8]> = self.body.chunks(usize::from(size)).collect();
        let mut offset = 0;
        let mut fragments = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let mut packet = self.clone().fragment(offset, index + 1 < chunks.len());
            packet.body = chunk.to_vec();
            fragments.push(packet.build());
            offset += size;
        }
        fragments
    }

    /// The bytes, from the IP header on.
    ///
    /// # Panics
    /// When the packet exceeds 64 KiB.
    pub fn build(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = IPV4_HEADER + self.options.len();
                let words = u8::try_from(header / 4).expect("60 bytes at most");
                let (offset, more) = self.fragment.unwrap_or((0, false));
                let fragment = (offset / 8) | if more { 0x2000 } else { 0 };
                let [.., id_high, id_low] = self.id.to_be_bytes();
                let mut packet = vec![0x40 | words, 0];
                packet.extend(length_u16(header + self.body.len()));
                packet.extend([id_high, id_low]);
                packet.extend(fragment.to_be_bytes());
                packet.extend([self.ttl, self.protocol, 0, 0]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.extend(&self.options);
                let sum = checksum(&packet);
                packet[10..12].copy_from_slice(&sum);
                packet.extend(&self.body);
                packet
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut headers = self.extensions.clone();
                if let Some((offset, more)) = self.fragment {
                    let mut content = Vec::from((offset | u16::from(more)).to_be_bytes());
                    content.extend(self.id.to_be_bytes());
                    headers.push((FRAGMENT, content));
                }
                let mut kinds = headers.iter().map(|(kind, _)| *kind).chain([self.protocol]);
                let first = kinds.next().expect("the protocol is always there");
                let mut rest = Vec::new();
                for ((kind, content), next) in headers.iter().zip(kinds) {
                    let units = (content.len() + 2) / 8 - 1;
                    // The fragment header has a reserved byte in its place.
                    let units = if *kind == FRAGMENT { 0 } else { units };
                    rest.extend([
                        next,
                        u8::try_from(units).expect("a header of 2 KiB at most"),
                    ]);
                    rest.extend(content);
                }
                rest.extend(&self.body);
                let mut packet = Vec::with_capacity(IPV6_HEADER + rest.len());
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(length_u16(rest.len()));
                packet.extend([first, self.ttl]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.extend(rest);
                packet
            }
            _ => unreachable!("the constructor wants one family"),
        }
    }

    /// Fills in the checksum over pseudo header and body, two bytes at `at`.
    fn with_checksum(mut self, at: usize) -> Self {
        let mut covered = Vec::new();
        match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) if self.protocol == ICMP => {}
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                covered.extend(src.octets());
                covered.extend(dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                covered.extend(src.octets());
                covered.extend(dst.octets());
            }
            _ => unreachable!("the constructor wants one family"),
        }
        if !covered.is_empty() {
            covered.extend([0, self.protocol]);
            covered.extend(length_u16(self.body.len()));
        }
        covered.extend(&self.body);
        let sum = checksum(&covered);
        self.body[at..at + 2].copy_from_slice(&sum);
        self
    }
}

fn ports(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat()
}

fn length_u16(length: usize) -> [u8; 2] {
    u16::try_from(length)
        .expect("no packet of more than 64 KiB")
        .to_be_bytes()
}

/// The Internet checksum (RFC 1071), in the order of the wire.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u64::from(u16::from_be_bytes(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = u16::try_from(sum).expect("folded to 16 bits");
    (!folded).to_be_bytes()
}

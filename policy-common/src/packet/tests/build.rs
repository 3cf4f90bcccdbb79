//! Frames, byte by byte, for the tests of parser and gate. Written from the RFCs,
//! not from the parser.

use std::vec;
use std::vec::Vec;

use crate::abi::protocol;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
/// Explicit congestion notification, which a SYN may carry.
pub(crate) const ECE_CWR: u8 = 0xc0;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION: u8 = 60;
pub(crate) const MOBILITY: u8 = 135;

fn short(len: usize) -> u16 {
    u16::try_from(len).expect("fits a length field")
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).expect("fits a byte")
}

/// An upper-layer packet and the number of its protocol.
#[derive(Debug, Clone)]
pub(crate) struct Upper {
    pub(crate) protocol: u8,
    pub(crate) bytes: Vec<u8>,
}

fn upper(protocol: u8, parts: &[&[u8]]) -> Upper {
    Upper {
        protocol,
        bytes: parts.concat(),
    }
}

/// A TCP header without options.
pub(crate) fn tcp(src: u16, dst: u16, flags: u8) -> Upper {
    upper(
        protocol::TCP,
        &[
            &src.to_be_bytes(),
            &dst.to_be_bytes(),
            &[0, 0, 0, 7, 0, 0, 0, 9, 5 << 4, flags, 1, 0, 0, 0, 0, 0],
        ],
    )
}

/// A UDP header and `len` bytes of data.
pub(crate) fn udp(src: u16, dst: u16, len: u8) -> Upper {
    upper(
        protocol::UDP,
        &[
            &src.to_be_bytes(),
            &dst.to_be_bytes(),
            &[0, 8 + len, 0, 0],
            &vec![0x55; len.into()],
        ],
    )
}

/// An SCTP common header and one chunk of this type.
pub(crate) fn sctp(src: u16, dst: u16, chunk: u8) -> Upper {
    upper(
        protocol::SCTP,
        &[
            &src.to_be_bytes(),
            &dst.to_be_bytes(),
            &[1, 2, 3, 4, 0, 0, 0, 0],
            &[chunk, 0, 0, 4],
        ],
    )
}

/// An ICMP message with an identifier, or what stands in its place.
pub(crate) fn icmp(message: u8, identifier: u16) -> Upper {
    upper(
        protocol::ICMP,
        &[
            &[message, 0, 0, 0],
            &identifier.to_be_bytes(),
            &[0, 1],
            &[0xaa; 8],
        ],
    )
}

/// An ICMPv6 message: the same, and a target address as neighbour discovery has.
pub(crate) fn icmp6(message: u8, identifier: u16, target: [u8; 16]) -> Upper {
    upper(
        protocol::ICMPV6,
        &[
            &[message, 0, 0, 0],
            &identifier.to_be_bytes(),
            &[0, 1],
            &target,
        ],
    )
}

/// Bytes of a protocol that has no ports.
pub(crate) fn other(protocol: u8, len: usize) -> Upper {
    upper(protocol, &[&vec![0xee; len]])
}

/// An IPv4 header.
#[derive(Debug, Clone)]
pub(crate) struct V4 {
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) ttl: u8,
    /// Whole words, at most ten.
    pub(crate) options: Vec<u8>,
    /// Flags and offset as on the wire.
    pub(crate) fragment: u16,
    /// Instead of the true one.
    pub(crate) total_len: Option<u16>,
}

pub(crate) const SRC4: [u8; 4] = [10, 0, 0, 1];
pub(crate) const DST4: [u8; 4] = [10, 0, 0, 2];

pub(crate) fn v4() -> V4 {
    V4 {
        src: SRC4,
        dst: DST4,
        ttl: 64,
        options: vec![],
        fragment: 0x4000,
        total_len: None,
    }
}

impl V4 {
    /// The IP packet.
    pub(crate) fn carry(&self, upper: &Upper) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total_len = self
            .total_len
            .unwrap_or_else(|| short(header_len + upper.bytes.len()));
        [
            &[0x40 | byte(header_len / 4), 0][..],
            &total_len.to_be_bytes(),
            &[0, 1],
            &self.fragment.to_be_bytes(),
            &[self.ttl, upper.protocol, 0, 0],
            &self.src,
            &self.dst,
            &self.options,
            &upper.bytes,
        ]
        .concat()
    }

    /// The frame, untagged.
    pub(crate) fn frame(&self, upper: &Upper) -> Vec<u8> {
        ethernet(0x0800, &self.carry(upper))
    }
}

/// An IPv6 header and its extension headers.
#[derive(Debug, Clone)]
pub(crate) struct V6 {
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    pub(crate) hop_limit: u8,
    /// Number and bytes of each; the first byte is overwritten.
    pub(crate) chain: Vec<(u8, Vec<u8>)>,
    /// Instead of the true one.
    pub(crate) payload_len: Option<u16>,
}

pub(crate) const SRC6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const DST6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

pub(crate) fn v6() -> V6 {
    V6 {
        src: SRC6,
        dst: DST6,
        hop_limit: 64,
        chain: vec![],
        payload_len: None,
    }
}

impl V6 {
    /// With these extension headers.
    pub(crate) fn through(chain: &[(u8, Vec<u8>)]) -> Self {
        Self {
            chain: chain.to_vec(),
            ..v6()
        }
    }

    /// The frame, untagged.
    pub(crate) fn frame(&self, upper: &Upper) -> Vec<u8> {
        let mut numbers: Vec<u8> = self.chain.iter().map(|(number, _)| *number).collect();
        numbers.push(upper.protocol);
        let mut payload = vec![];
        for (i, (_, bytes)) in self.chain.iter().enumerate() {
            let mut bytes = bytes.clone();
            bytes[0] = numbers[i + 1];
            payload.extend(bytes);
        }
        payload.extend(&upper.bytes);
        let payload_len = self.payload_len.unwrap_or_else(|| short(payload.len()));
        let packet = [
            &[0x60, 0, 0, 0][..],
            &payload_len.to_be_bytes(),
            &[numbers[0], self.hop_limit],
            &self.src,
            &self.dst,
            &payload,
        ]
        .concat();
        ethernet(0x86dd, &packet)
    }
}

/// A hop-by-hop, routing, destination or mobility header of `words` times 8
/// bytes.
pub(crate) fn options(words: u16) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(words) * 8];
    bytes[1] = u8::try_from(words - 1).expect("at most 256 words");
    bytes
}

/// An authentication header of `words` times 4 bytes; RFC 4302 has at least 3.
pub(crate) fn authentication(words: u8) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(words) * 4];
    bytes[1] = words - 2;
    bytes
}

/// A fragment header: offset in words of 8 bytes, "more", the reserved bits set.
pub(crate) fn fragment(offset: u16, more: bool) -> Vec<u8> {
    let word = (offset << 3 | 0x6 | u16::from(more)).to_be_bytes();
    vec![0, 0xff, word[0], word[1], 0, 0, 0, 1]
}

/// An ARP packet for IPv4 over Ethernet: the sender's address, a request.
pub(crate) fn arp(sender: [u8; 4]) -> Vec<u8> {
    let packet = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &[2, 0, 0, 0, 0, 1],
        &sender,
        &[0; 6],
        &DST4,
    ]
    .concat();
    ethernet(0x0806, &packet)
}

/// An Ethernet frame.
pub(crate) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [
        &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..],
        &ether_type.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// The frame behind these tag protocol identifiers, the outermost first.
pub(crate) fn tagged(tags: &[u16], frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0x20, 0x07]);
    }
    bytes.extend(&frame[12..]);
    bytes
}

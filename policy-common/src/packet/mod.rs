//! From bytes to the [`Packet`] that is judged.
//!
//! Everything is bounded and checked: a field is read only after the packet was
//! found long enough for it, by its own length fields and by what is there.
//! What cannot be understood comes back as a [`DropReason`]; whether that drops
//! the packet is for the caller, who knows if the pod is isolated.
//!
//! - [`bytes`]: where bytes come from.
//! - [`plain`]: the frames that most are, in one go.
//! - [`link`]: Ethernet, VLAN tags, ARP.
//! - [`ip`]: IPv4 with options, IPv6 with extension headers.
//! - [`fragment`]: which part of a datagram it is.
//! - [`transport`]: ports, TCP flags, SCTP chunks, ICMP types.
//! - [`quote`]: the packet that an ICMP error quotes.

pub mod bytes;
pub mod fragment;
pub mod ip;
pub mod link;
pub mod plain;
pub mod quote;
pub mod transport;

pub use bytes::PacketBytes;

use crate::abi::event::DropReason;
use crate::abi::family;

/// An address as two words whose memory is the 16 bytes in wire order; IPv4 as
/// `::ffff:a.b.c.d`. Words compare faster than bytes.
pub type Words = [u64; 2];

/// The words of an IPv6 address in wire order.
#[inline(always)]
pub fn words6(addr: [u8; 16]) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// The words of an IPv4 address in wire order.
#[inline(always)]
pub fn words4(addr: [u8; 4]) -> Words {
    [
        0,
        u64::from_ne_bytes([0, 0, 0xff, 0xff, addr[0], addr[1], addr[2], addr[3]]),
    ]
}

/// The 16 bytes of an address, wire order.
#[inline(always)]
pub fn bytes16(words: Words) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = words[0].to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = words[1].to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The last four bytes of an address: the IPv4 address, wire order.
#[inline(always)]
pub fn bytes4(words: Words) -> [u8; 4] {
    let [_, _, _, _, a, b, c, d] = words[1].to_ne_bytes();
    [a, b, c, d]
}

/// What a packet is to connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// TCP with SYN and without ACK: opens a connection.
    TcpSyn = 0,
    /// TCP with SYN and ACK.
    TcpSynAck,
    /// TCP with FIN and without RST.
    TcpFin,
    /// TCP with RST.
    TcpReset,
    /// Any other TCP segment.
    TcpData,
    /// SCTP whose first chunk is INIT: opens an association.
    SctpInit,
    /// SCTP whose first chunk is ABORT or SHUTDOWN COMPLETE.
    SctpEnd,
    /// Any other SCTP packet.
    SctpData,
    /// ICMP or ICMPv6 echo request: opens an exchange.
    EchoRequest,
    /// ICMP or ICMPv6 echo reply.
    EchoReply,
    /// ICMP or ICMPv6 error: belongs to the flow of the packet that it quotes.
    IcmpError,
    /// ICMPv6 neighbour solicitation with hop limit 255.
    NeighbourSolicitation,
    /// ICMPv6 neighbour advertisement with hop limit 255.
    NeighbourAdvertisement,
    /// ICMPv6 router solicitation with hop limit 255.
    RouterSolicitation,
    /// ICMPv6 router advertisement or redirect with hop limit 255.
    RouterAdvertisement,
    /// ICMPv6 multicast listener query, report or done, hop limit 1.
    MulticastListener,
    /// Any other ICMP or ICMPv6 message.
    OtherIcmp,
    /// UDP, and every protocol that has no state of its own: the first opens.
    Datagram,
    /// A fragment that does not begin its datagram: ports are not known.
    Fragment,
}

impl Kind {
    /// The kind with this number; of numbers that are none, the one that opens and
    /// closes nothing.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::TcpSyn,
            1 => Self::TcpSynAck,
            2 => Self::TcpFin,
            3 => Self::TcpReset,
            4 => Self::TcpData,
            5 => Self::SctpInit,
            6 => Self::SctpEnd,
            7 => Self::SctpData,
            8 => Self::EchoRequest,
            9 => Self::EchoReply,
            10 => Self::IcmpError,
            11 => Self::NeighbourSolicitation,
            12 => Self::NeighbourAdvertisement,
            13 => Self::RouterSolicitation,
            14 => Self::RouterAdvertisement,
            15 => Self::MulticastListener,
            16 => Self::OtherIcmp,
            17 => Self::Datagram,
            _ => Self::Fragment,
        }
    }

    /// Opens something, and is therefore never a reply.
    #[inline(always)]
    pub const fn only_opens(self) -> bool {
        matches!(self, Self::TcpSyn | Self::SctpInit | Self::EchoRequest)
    }

    /// Makes a connection record when it is allowed and there is none.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.only_opens() || matches!(self, Self::Datagram)
    }

    /// TCP without SYN: belongs to a connection, or to nothing.
    #[inline(always)]
    pub const fn is_midstream_tcp(self) -> bool {
        matches!(self, Self::TcpFin | Self::TcpReset | Self::TcpData)
    }

    /// May be answered from the flow cache: changes no state.
    #[inline(always)]
    pub const fn is_cacheable(self) -> bool {
        matches!(self, Self::TcpData | Self::SctpData | Self::Datagram)
    }
}

/// An IP packet, as far as a verdict needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// Source address.
    pub src: Words,
    /// Destination address.
    pub dst: Words,
    /// Source port, host order; of an ICMP echo reply its identifier; else 0.
    pub src_port: u16,
    /// Destination port, host order; of an ICMP echo request its identifier;
    /// else 0.
    pub dst_port: u16,
    /// IANA number of the upper-layer protocol.
    pub protocol: u8,
    /// [`family::V4`] or [`family::V6`].
    pub family: u8,
    /// What it is to connection tracking.
    pub kind: Kind,
    /// TCP flags byte, ICMP type, SCTP chunk type; else 0.
    pub detail: u8,
    /// Offset of the upper-layer header from the start of the frame, bytes.
    pub transport_offset: u16,
    /// Which part of a datagram it is, see [`fragment`]; 0: all of it.
    pub fragment: u16,
    /// Identification of the datagram that it is a fragment of, host order.
    pub fragment_id: u32,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// IPv4 or IPv6.
    Ip,
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp,
    /// Another protocol.
    Other,
    /// It could not be understood.
    Bad(DropReason),
}

/// A frame, after parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    /// The packet, where it is IP; of ARP only `src`, the address that it
    /// announces (zero in a probe, RFC 5227). Else, and beyond what was
    /// understood of a bad one, zero. Always written: the verifier does not let a
    /// program copy bytes that never were.
    pub packet: Packet,
    /// What it is.
    pub class: Class,
    /// Zero; in three pieces, each of which is written at once.
    pub pad: u8,
    /// Zero.
    pub pad_2: u16,
    /// Zero.
    pub pad_4: u32,
}

impl Frame {
    /// Nothing parsed yet.
    pub const EMPTY: Self = Self {
        packet: Packet::EMPTY,
        class: Class::Other,
        pad: 0,
        pad_2: 0,
        pad_4: 0,
    };
}

/// Parses a frame that starts with an Ethernet header.
#[inline(always)]
pub fn parse<B: PacketBytes>(bytes: &B) -> Frame {
    let mut frame = Frame::EMPTY;
    frame.class = match classify(bytes, &mut frame.packet) {
        Ok(class) => class,
        Err(reason) => Class::Bad(reason),
    };
    frame
}

/// Parses a packet that starts with its network header, which this EtherType
/// names, into an [`Frame::EMPTY`] of the caller's. ARP is told from the others
/// and not read.
#[inline(always)]
pub fn parse_network_into<B: PacketBytes>(bytes: &B, ether_type: u16, frame: &mut Frame) {
    let parsed = match ether_type {
        link::IPV4 => ip::parse4(bytes, 0, &mut frame.packet).map(|()| Class::Ip),
        link::IPV6 => ip::parse6(bytes, 0, &mut frame.packet).map(|()| Class::Ip),
        link::ARP => Ok(Class::Arp),
        _ => Ok(Class::Other),
    };
    frame.class = match parsed {
        Ok(class) => class,
        Err(reason) => Class::Bad(reason),
    };
}

#[inline(always)]
fn classify<B: PacketBytes>(bytes: &B, packet: &mut Packet) -> Result<Class, DropReason> {
    let (ether_type, offset) = link::ether_type(bytes)?;
    match ether_type {
        link::IPV4 => {
            ip::parse4(bytes, offset, packet)?;
            Ok(Class::Ip)
        }
        link::IPV6 => {
            ip::parse6(bytes, offset, packet)?;
            Ok(Class::Ip)
        }
        link::ARP => {
            packet.src = words4(link::arp_sender(bytes, offset)?);
            Ok(Class::Arp)
        }
        _ => Ok(Class::Other),
    }
}

impl Packet {
    /// Nothing known yet.
    pub const EMPTY: Self = Self {
        src: [0; 2],
        dst: [0; 2],
        src_port: 0,
        dst_port: 0,
        protocol: 0,
        family: 0,
        kind: Kind::Datagram,
        detail: 0,
        transport_offset: 0,
        fragment: fragment::WHOLE,
        fragment_id: 0,
    };

    /// Whether the packet is IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.family == family::V4
    }

    /// Whether it is all of a datagram.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.fragment == fragment::WHOLE
    }

    /// Whether it is the fragment with which a datagram begins.
    #[inline(always)]
    pub const fn is_first_fragment(&self) -> bool {
        fragment::is_first(self.fragment)
    }
}

#[cfg(test)]
pub(crate) mod tests;

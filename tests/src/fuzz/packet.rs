//! Target `packet`: any bytes as a frame, through parser, gate and decision,
//! beside [`super::reading`] and the policies in plain.
//!
//! What passes an isolated pod by policy is what a receiver sees and the policy
//! allows; what it denies is not; what passes unasked is what makes a link work;
//! a pod sends from its own addresses and never plays router; a cut packet is not
//! let through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use policy_common::abi::Direction;
use policy_common::abi::endpoint::{Endpoint, FLAG_NO_SPOOF_CHECK};
use policy_common::abi::{family, protocol};
use policy_common::packet::bytes::MAX_OFFSET;
use policy_common::packet::quote::{is_about_a_flow, parse_quote};
use policy_common::packet::{
    Class, Frame, Kind, Packet, PacketBytes, bytes4, bytes16, parse, parse_network_into, plain,
    words6,
};
use policy_common::verdict::gate::{Pod, hands_over, is_of_endpoint};
use policy_common::verdict::{Gate, Owner, Scene, Service, decide, gate, is_related};

use super::input::Input;
use super::reading::{self, Reading};
use super::world::{ENDPOINT, POD, SLOT, STRANGER, World, address};
use crate::lab::{IpPacket, tcp_flags};

/// Bytes that fail where the parser breaks what it promises the verifier.
struct Promised<'a>(&'a [u8]);

impl PacketBytes for Promised<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        assert!(offset <= MAX_OFFSET, "a load at {offset}");
        self.0.load(offset)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It passes unasked.
    Unasked,
    /// Policy lets it pass.
    Allowed,
    Dropped,
}

struct Try<'w> {
    world: &'w World,
    endpoint: Endpoint,
    direction: Direction,
}

impl Try<'_> {
    fn checks_source(&self) -> bool {
        self.endpoint.flags & FLAG_NO_SPOOF_CHECK == 0
    }

    fn fate(&self, bytes: &[u8]) -> (Frame, Fate) {
        let bytes = Promised(bytes);
        let frame = parse(&bytes);
        plain::parse(&bytes.0, |plain| assert_eq!(plain, frame));
        let pod = Pod {
            word: self.world.word(),
            endpoint: &self.endpoint,
        };
        let gate = gate(&pod, self.direction, &frame, &bytes);
        if self.hands_over(&frame) {
            assert_eq!(gate, Gate::Judge(&frame.packet), "handed over at once");
        }
        let fate = match gate {
            Gate::Pass => Fate::Unasked,
            Gate::Drop(_) => Fate::Dropped,
            Gate::Judge(packet) if self.judge(packet, &bytes) => Fate::Allowed,
            Gate::Judge(_) => Fate::Dropped,
        };
        (frame, fate)
    }

    /// Whether the programs do not ask the gate at all.
    fn hands_over(&self, frame: &Frame) -> bool {
        let addr4 = || u32::from_ne_bytes(self.endpoint.addr4);
        let addr6 = || words6(self.endpoint.addr6);
        let own = is_of_endpoint(self.direction, &frame.packet, addr4, addr6);
        frame.class == Class::Ip && hands_over(self.direction, &frame.packet, own)
    }

    fn judge(&self, packet: &Packet, bytes: &Promised<'_>) -> bool {
        let scene = Scene {
            slot: SLOT,
            endpoint: ENDPOINT,
            word: self.world.word(),
            direction: self.direction,
            local_origin: false,
            hairpin: false,
            off: false,
            service: Service::NONE,
            peer: None,
        };
        if is_about_a_flow(packet) && self.world.isolates(self.direction) {
            let mut quoted = Packet::EMPTY;
            let owner = Owner {
                slot: SLOT,
                endpoint: ENDPOINT,
                word: scene.word,
                direction: self.direction,
            };
            if parse_quote(bytes, packet, &mut quoted)
                && is_related(self.world, self.world, &owner, packet, &quoted)
            {
                self.check_quote(packet, bytes.0);
                return true;
            }
        }
        decide(self.world, self.world, &scene, packet).passes()
    }

    /// An error that passes quotes a packet that its receiver sent (or, from the
    /// pod, that the pod got), of a flow that a policy allows by name.
    fn check_quote(&self, error: &Packet, bytes: &[u8]) {
        let quote = bytes.get(usize::from(error.transport_offset) + 8..);
        let quote = quote.expect("a quote that was read");
        // What is quoted is cut; its lengths say how long it was.
        let mut whole = quote.to_vec();
        match whole.first().map(|first| first >> 4) {
            Some(4) => whole[2..4].fill(0),
            _ => whole[4..6].fill(0),
        }
        let quoted = reading::ip(&whole).expect("a quote that a receiver reads");
        assert_eq!(quoted.source, ip_of(error.dst, error.family));
        let (peer, local) = match self.direction {
            Direction::Ingress => (quoted.destination, 0),
            Direction::Egress => {
                assert_eq!(quoted.destination, ip_of(error.src, error.family));
                (quoted.source, 1)
            }
        };
        let ports = quoted.ports.unwrap_or_default();
        let ends = if local == 0 {
            ports
        } else {
            (ports.1, ports.0)
        };
        let allowed = [(Direction::Ingress, ends.0), (Direction::Egress, ends.1)]
            .into_iter()
            .any(|(direction, port)| {
                self.world.isolates(direction)
                    && self.world.allows(direction, peer, quoted.protocol, port)
            });
        assert!(allowed, "related to nothing: {quoted:?}");
    }
}

fn ip_of(words: [u64; 2], family: u8) -> IpAddr {
    if family == family::V4 {
        bytes4(words).into()
    } else {
        bytes16(words).into()
    }
}

/// Policies, the pod that they are of, which way it is asked about, and the frame.
pub(super) fn meaning(bytes: &[u8]) -> (World, Endpoint, Direction, &[u8]) {
    let mut input = Input::new(bytes);
    let settings = input.byte();
    let mut world = World::default();
    world.enforce(&mut input);
    let bit = |bit: u8| settings >> bit & 1 != 0;
    let bytes16 = |address: IpAddr| match address {
        IpAddr::V4(_) => [0; 16],
        IpAddr::V6(address) => address.octets(),
    };
    let endpoint = Endpoint {
        number: ENDPOINT,
        flags: if bit(1) { FLAG_NO_SPOOF_CHECK } else { 0 },
        addr4: if bit(2) { [0; 4] } else { [10, 0, 0, POD] },
        addr6: if bit(3) {
            [0; 16]
        } else {
            bytes16(address(family::V6, POD))
        },
        link_local6: if bit(4) { LINK_LOCAL.octets() } else { [0; 16] },
        ..Endpoint::EMPTY
    };
    let direction = Direction::from_index(u32::from(bit(0)));
    (world, endpoint, direction, input.remaining())
}

/// Whether a frame passes.
pub(super) fn passes(
    world: &World,
    endpoint: &Endpoint,
    direction: Direction,
    frame: &[u8],
) -> bool {
    let tried = Try {
        world,
        endpoint: *endpoint,
        direction,
    };
    tried.fate(frame).1 != Fate::Dropped
}

pub(super) fn run(bytes: &[u8]) {
    let (world, endpoint, direction, frame) = meaning(bytes);
    let tried = Try {
        world: &world,
        endpoint,
        direction,
    };
    let (parsed, fate) = tried.fate(frame);
    same_without_ethernet(frame, &parsed);
    let seen = reading::frame(frame);
    check_sender(&tried, seen, fate);
    if world.isolates(tried.direction) {
        check_isolated(&tried, frame, &parsed, seen, fate);
    }
}

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Interfaces without Ethernet headers read the same.
fn same_without_ethernet(frame: &[u8], parsed: &Frame) {
    let Some((kind, at)) = reading::ether(frame) else {
        return;
    };
    if !matches!(kind, 0x0800 | 0x86dd) {
        return;
    }
    let mut other = Frame::EMPTY;
    parse_network_into(&Promised(&frame[at..]), kind, &mut other);
    // Where headers end beyond reach, that is another place.
    let far = |frame: &Frame| usize::from(frame.packet.transport_offset) > MAX_OFFSET - 128;
    let beyond = |frame: &Frame| matches!(frame.class, Class::Bad(_)) && frame.packet.family == 6;
    if far(parsed) || far(&other) || beyond(parsed) || beyond(&other) {
        return;
    }
    let mut packet = parsed.packet;
    packet.transport_offset = other.packet.transport_offset;
    assert_eq!((parsed.class, packet), (other.class, other.packet));
}

/// What holds for every pod that sends, isolated or not.
fn check_sender(tried: &Try<'_>, seen: Option<Reading>, fate: Fate) {
    let Some(seen) = seen.filter(|_| tried.direction == Direction::Egress) else {
        return;
    };
    if fate == Fate::Dropped {
        return;
    }
    let is_whole = seen.fragment.is_none();
    assert!(
        !(is_whole && seen.protocol == protocol::ICMPV6 && matches!(seen.message, Some(134 | 137))),
        "a pod plays router: {seen:?}"
    );
    if !tried.checks_source() {
        return;
    }
    let own = match seen.source {
        IpAddr::V4(source) => {
            source.octets() == tried.endpoint.addr4
                || fate == Fate::Unasked && source.is_unspecified()
        }
        IpAddr::V6(source) => {
            source.octets() == tried.endpoint.addr6
                || source.octets() == tried.endpoint.link_local6
                || tried.endpoint.link_local6 == [0; 16] && source.is_unicast_link_local()
                || fate == Fate::Unasked && source.is_unspecified()
        }
    };
    // An advertisement is known by what it announces.
    let announces = seen.protocol == protocol::ICMPV6 && seen.message == Some(136);
    assert!(
        own || announces && fate == Fate::Unasked,
        "spoofed: {seen:?}"
    );
}

/// What holds for a pod that is isolated in this direction.
fn check_isolated(
    tried: &Try<'_>,
    frame: &[u8],
    parsed: &Frame,
    seen: Option<Reading>,
    fate: Fate,
) {
    match (fate, seen) {
        (Fate::Unasked, _) if parsed.class == Class::Arp => {}
        (Fate::Dropped, None) => {}
        (_, None) => panic!("nobody would receive it, and it passes: {parsed:?}"),
        (Fate::Unasked, Some(seen)) => assert!(makes_a_link(&seen), "unasked: {seen:?}"),
        (Fate::Allowed, Some(seen)) => {
            same_packet(parsed, &seen);
            let error = parsed.packet.kind == Kind::IcmpError;
            assert!(error || allows(tried, &seen), "not allowed: {seen:?}");
        }
        (Fate::Dropped, Some(seen)) => {
            if parsed.class == Class::Ip && !parsed.packet.is_first_fragment() {
                same_packet(parsed, &seen);
            }
            let spoofed = tried.direction == Direction::Egress
                && tried.checks_source()
                && ![tried.endpoint.addr4.into(), tried.endpoint.addr6.into()]
                    .contains(&seen.source);
            let judged = parsed.class == Class::Ip && parsed.packet.kind != Kind::Fragment;
            let router = matches!(seen.message, Some(134 | 136 | 137));
            assert!(
                !judged || spoofed || router || !allows(tried, &seen),
                "allowed, and dropped: {seen:?}"
            );
        }
    }
    let Some(seen) = seen.filter(|seen| !seen.endless && parsed.class == Class::Ip) else {
        return;
    };
    // Of a packet that ends before its length says, nothing passes.
    for cut in [seen.end - 1, seen.upper + 3, seen.upper, seen.upper - 1] {
        let (cut_frame, fate) = tried.fate(&frame[..cut.min(seen.end - 1)]);
        assert_eq!(fate, Fate::Dropped, "cut at {cut}: {cut_frame:?}");
    }
}

fn allows(tried: &Try<'_>, seen: &Reading) -> bool {
    if seen.fragment.is_some_and(|(offset, _)| offset != 0) {
        return false;
    }
    let (peer, port) = match tried.direction {
        Direction::Ingress => (seen.source, seen.ports.map(|ports| ports.1)),
        Direction::Egress => (seen.destination, seen.ports.map(|ports| ports.1)),
    };
    // Messages have no ports; what an identifier would be is not asked.
    tried
        .world
        .allows(tried.direction, peer, seen.protocol, port.unwrap_or(0))
}

fn same_packet(parsed: &Frame, seen: &Reading) {
    let packet = &parsed.packet;
    assert_eq!(parsed.class, Class::Ip);
    assert_eq!(ip_of(packet.src, packet.family), seen.source);
    assert_eq!(ip_of(packet.dst, packet.family), seen.destination);
    assert_eq!(packet.protocol, seen.protocol);
    if packet.kind == Kind::Fragment {
        assert!(seen.fragment.is_some_and(|(offset, _)| offset != 0));
        return;
    }
    assert_eq!(packet.is_first_fragment(), seen.fragment.is_some());
    if let Some(ports) = seen.ports {
        assert_eq!((packet.src_port, packet.dst_port), ports);
    }
}

/// Neighbour and router discovery on the link, listener reports, DHCP to where no
/// router forwards.
fn makes_a_link(seen: &Reading) -> bool {
    let discovery = seen.protocol == protocol::ICMPV6
        && match seen.message {
            Some(133..=137) => seen.hops == 255,
            Some(130..=132 | 143) => seen.hops == 1,
            _ => false,
        };
    let dhcp = seen.protocol == protocol::UDP
        && match (seen.ports, seen.destination) {
            (Some((68, 67) | (67, 68)), IpAddr::V4(to)) => to == Ipv4Addr::BROADCAST,
            (Some((546, 547) | (547, 546)), IpAddr::V6(to)) => {
                to.is_unicast_link_local() || to.segments()[0] & 0xff0f == 0xff02
            }
            _ => false,
        };
    seen.fragment.is_none() && (discovery || dhcp)
}

/// Frames of every kind, to and from the pod, under a policy that allows the named
/// peer TCP and UDP 80 and one that does not.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for family in [family::V4, family::V6] {
        for peer in [3, STRANGER] {
            for egress in [false, true] {
                let (from, to) = if egress { (POD, peer) } else { (peer, POD) };
                for packet in packets(family, from, to) {
                    for policy in POLICIES {
                        let mut seed = vec![u8::from(egress)];
                        seed.extend_from_slice(policy);
                        seed.extend([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2]);
                        seed.extend(if family == family::V4 {
                            [8, 0]
                        } else {
                            [0x86, 0xdd]
                        });
                        seed.extend_from_slice(&packet);
                        seeds.push(seed);
                    }
                }
            }
        }
    }
    // ARP, and a tagged frame.
    let mut arp = vec![1];
    arp.extend_from_slice(POLICIES[0]);
    arp.extend([0xff; 12]);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    arp.extend([0; 10]);
    let mut tagged = vec![0];
    tagged.extend_from_slice(POLICIES[1]);
    tagged.extend([0; 12]);
    tagged.extend([0x81, 0, 0, 5, 0x88, 0xa8, 0, 6, 8, 0]);
    tagged.extend_from_slice(&packets(family::V4, 3, POD)[0]);
    seeds.extend([arp, tagged]);
    seeds
}

/// For each direction: how many rules less one, each with class, protocol, first
/// port and width; whether in an extent.
const POLICIES: [&[u8]; 2] = [
    &[1, 0, 1, 1],
    &[
        3, 2, 0, 0, 80, 0, 2, 1, 0, 80, 1, 0, 3, 2, 0, 0, 80, 0, 2, 1, 0, 80, 1, 1,
    ],
];

fn packets(family: u8, from: u8, to: u8) -> Vec<Vec<u8>> {
    let (src, dst) = (address(family, from), address(family, to));
    let (a, b) = (SocketAddr::new(src, 4_000), SocketAddr::new(dst, 80));
    let udp = IpPacket::udp(a, b, &[7; 40]);
    let answered = IpPacket::udp(b, a, &[7; 8]).build();
    let mut quote = vec![0; 4];
    quote.extend_from_slice(&answered);
    let mut packets = vec![
        IpPacket::tcp(a, b, tcp_flags::SYN, 1, 0, &[]).build(),
        IpPacket::tcp(a, b, tcp_flags::ACK, 1, 1, b"x").build(),
        udp.build(),
        IpPacket::sctp_init(a, b, 9).build(),
        IpPacket::echo_request(src, dst, 5, 1, &[]).build(),
        IpPacket::icmp(
            src,
            dst,
            if family == family::V4 { 3 } else { 1 },
            1,
            &quote,
        )
        .build(),
        IpPacket::new(src, dst, 50, &[0; 16]).build(),
    ];
    packets.extend(udp.clone().fragments(24));
    if family == family::V4 {
        packets.push(udp.options(&[7, 7, 4, 0, 0, 0, 0]).build());
    } else {
        packets.push(udp.extension(0, &[]).extension(60, &[1; 7]).build());
        let mut target = vec![0; 4];
        if let IpAddr::V6(address) = dst {
            target.extend(address.octets());
        }
        packets.extend([133, 134, 135, 136, 137].map(|message| {
            let packet = IpPacket::icmp(src, dst, message, 0, &target);
            packet.ttl(255).build()
        }));
    }
    packets
}

//! Packets of both families, whole and in fragments, and a pod that may speak UDP
//! to port 53 of its friend.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_agent::datapath::{
    Datapath, Hook,
    test_run::{At, Trial},
};
use policy_common::abi::{
    Direction,
    endpoint::{Endpoint, FLAG_USED, PolicyWord},
    event::DropReason,
    policy::{ACTION_ALLOW, ACTION_DENY, Interval, PortSet, point},
};
use policy_core::ops::Op;

use crate::bed::{
    Bed, FRIEND, FRIEND_ID, NUMBER, POD, POLICY, RULE, SLOT, STRANGER, apply, index, row, word,
};

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;
const FRAGMENT: u8 = 44;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) pod: IpAddr,
    pub(crate) friend: IpAddr,
    pub(crate) stranger: IpAddr,
}

const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const FRIEND6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
const STRANGER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 66);

/// Both families.
pub(crate) const BOTH: [Ends; 2] = [
    Ends {
        pod: IpAddr::V4(POD),
        friend: IpAddr::V4(FRIEND),
        stranger: IpAddr::V4(STRANGER),
    },
    Ends {
        pod: IpAddr::V6(POD6),
        friend: IpAddr::V6(FRIEND6),
        stranger: IpAddr::V6(STRANGER6),
    },
];

/// Slot of the friend's endpoint, which nothing isolates, behind `p0`.
pub(crate) const FRIEND_SLOT: u32 = 2;
const SHIFT: u32 = 16;

/// The pod behind `h0`, isolated both ways, and its friend behind `p0`.
pub(crate) struct Scene<'a> {
    pub(crate) bed: &'a Bed,
    pub(crate) datapath: Datapath,
    p0: u32,
}

impl<'a> Scene<'a> {
    /// The pod may send UDP to port 53 and TCP to port 80 of its friend, who may
    /// send the same to it.
    pub(crate) fn new(bed: &'a Bed) -> Self {
        let datapath = bed.open();
        datapath.maps().set_mark_shift(SHIFT).unwrap();
        let p0 = index("p0");
        apply(&datapath, &bed.pod());
        let host = |address: IpAddr, identity, slot| Op::Host {
            address,
            identity,
            node: false,
            slot,
        };
        let endpoint = |v4: Ipv4Addr, v6: Ipv6Addr, number, word: PolicyWord, ifindex| Endpoint {
            word: word.0,
            number,
            flags: FLAG_USED,
            addr4: v4.octets(),
            addr6: v6.octets(),
            ifindex,
            ..Endpoint::EMPTY
        };
        apply(
            &datapath,
            &[
                Op::PortSet {
                    id: 3,
                    value: allow(&[(TCP, 80), (UDP, 53)]),
                },
                row(POLICY, FRIEND_ID, 3),
                host(FRIEND6.into(), FRIEND_ID, 0),
                host(POD.into(), 98, SLOT),
                host(POD6.into(), 98, SLOT),
                Op::Endpoint {
                    slot: SLOT,
                    value: endpoint(POD, POD6, NUMBER, word(1, POLICY), bed.ifindex),
                },
                Op::Endpoint {
                    slot: FRIEND_SLOT,
                    value: endpoint(FRIEND, FRIEND6, NUMBER + 1, word(2, 0), p0),
                },
                Op::Interface {
                    ifindex: p0,
                    slot: FRIEND_SLOT,
                },
            ],
        );
        Self { bed, datapath, p0 }
    }

    /// Whether a packet passes at a hook of the pod, and its mark then.
    pub(crate) fn at(&self, hook: Hook, packet: &[u8], mark: u32) -> (bool, u32) {
        let ifindex = match hook {
            Hook::From => self.bed.ifindex,
            _ => self.p0,
        };
        let at = Trial {
            hook,
            ifindex,
            ingress_ifindex: if hook == Hook::From { ifindex } else { 1 },
            mark,
        };
        let answer = self.datapath.try_packet(packet, at, 1).unwrap();
        (answer.passes, answer.mark)
    }

    /// Whether the pod may send it.
    pub(crate) fn sends(&self, packet: &[u8]) -> bool {
        self.at(Hook::From, packet, 0).0
    }

    /// Whether the pod gets it.
    pub(crate) fn gets(&self, packet: &[u8]) -> bool {
        let at = self.bed.arriving();
        self.datapath.test_run(packet, at, 1).unwrap().passes
    }

    /// Whether the pod gets what the node itself sends.
    pub(crate) fn gets_from_node(&self, packet: &[u8]) -> bool {
        let mut at = self.bed.arriving();
        at.ingress_ifindex = 0;
        self.datapath.test_run(packet, at, 1).unwrap().passes
    }

    /// Whether its friend may send it, which nothing isolates.
    pub(crate) fn friend_sends(&self, packet: &[u8]) -> bool {
        let at = At {
            direction: Direction::Egress,
            ifindex: self.p0,
            ingress_ifindex: self.p0,
        };
        self.datapath.test_run(packet, at, 1).unwrap().passes
    }

    /// Whether its friend gets it.
    pub(crate) fn friend_gets(&self, packet: &[u8]) -> bool {
        let at = At {
            direction: Direction::Ingress,
            ifindex: self.p0,
            ingress_ifindex: self.bed.ifindex,
        };
        self.datapath.test_run(packet, at, 1).unwrap().passes
    }

    /// What the pod may exchange with its friend from now on, and nothing else.
    pub(crate) fn allow(&self, ports: &[(u8, u16)]) {
        let value = allow(ports);
        apply(&self.datapath, &[Op::PortSet { id: 3, value }]);
    }

    pub(crate) fn dropped(&self, direction: Direction, reason: DropReason) -> u64 {
        let counters = self.datapath.maps().counters().unwrap();
        counters.dropped(direction, reason)
    }

    /// Another word for the pod.
    pub(crate) fn word(&self, word: PolicyWord) {
        apply(&self.datapath, &[Op::Word { slot: SLOT, word }]);
    }
}

/// A port set that allows these and nothing else.
fn allow(ports: &[(u8, u16)]) -> PortSet {
    let mut inline = [Interval::default(); 3];
    for (interval, (protocol, port)) in inline.iter_mut().zip(ports) {
        *interval = Interval {
            first: point(*protocol, *port),
            last: point(*protocol, *port),
            rule: RULE,
            action: ACTION_ALLOW,
        };
    }
    PortSet {
        count: u32::try_from(ports.len()).unwrap(),
        extent: 0,
        default_rule: 8,
        default_action: ACTION_DENY,
        inline,
    }
}

/// A UDP header and data of `len` bytes together.
pub(crate) fn udp(from: u16, to: u16, len: usize) -> Vec<u8> {
    let mut bytes = Vec::from(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
    bytes.resize(len, 0);
    bytes
}

/// A frame with an IP packet.
pub(crate) fn frame(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    build(from, to, protocol, None, body)
}

/// A frame with a fragment: identification, offset in bytes, whether more follow.
pub(crate) fn part(
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    (id, offset, more): (u16, u16, bool),
    body: &[u8],
) -> Vec<u8> {
    build(from, to, protocol, Some((id, offset, more)), body)
}

fn build(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    part: Option<(u16, u16, bool)>,
    body: &[u8],
) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(packet(from, to, protocol, part, body));
    frame
}

/// EtherType and packet.
fn packet(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    part: Option<(u16, u16, bool)>,
    body: &[u8],
) -> Vec<u8> {
    let short = |len: usize| u16::try_from(len).unwrap().to_be_bytes();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (id, offset, more) = part.unwrap_or_default();
            let bits = (offset / 8) | if more { 0x2000 } else { 0 };
            let mut bytes = vec![8, 0, 0x45, 0];
            bytes.extend(short(20 + body.len()));
            bytes.extend(id.to_be_bytes());
            bytes.extend(bits.to_be_bytes());
            bytes.extend([64, protocol, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
            bytes.extend(body);
            bytes
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = part.map(|(id, offset, more)| {
                let mut header = vec![protocol, 0];
                header.extend((offset | u16::from(more)).to_be_bytes());
                header.extend(u32::from(id).to_be_bytes());
                header
            });
            let next = if header.is_some() { FRAGMENT } else { protocol };
            let header = header.unwrap_or_default();
            let mut bytes = vec![0x86, 0xdd, 0x60, 0, 0, 0];
            bytes.extend(short(header.len() + body.len()));
            bytes.extend([next, 64]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
            bytes.extend(header);
            bytes.extend(body);
            bytes
        }
        _ => panic!("{from} and {to}: one family"),
    }
}

/// An ICMP error of the addresses' family that quotes the packet in a frame, and
/// of it no more than the first eight bytes above its IP header.
pub(crate) fn error(from: IpAddr, to: IpAddr, kind: u8, about: &[u8]) -> Vec<u8> {
    let quoted = about.get(14..).unwrap();
    let header = if from.is_ipv4() { 20 } else { 40 };
    let mut body = vec![kind, 0, 0, 0, 0, 0, 5, 0];
    body.extend(quoted.get(..header + 8).unwrap());
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    frame(from, to, protocol, &body)
}

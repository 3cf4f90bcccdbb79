//! Route netlink messages: questions built, answers decoded. Pure.
//!
//! Answers are decoded by hand, attribute by attribute, and only what is used:
//! a kernel that adds or changes some other attribute of a link must not stop
//! the agent from finding pods. All integers are in host byte order, as
//! everywhere in route netlink (include/uapi/linux/rtnetlink.h).

use std::{net::IpAddr, os::fd::RawFd};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NlasIterator, parse_i32, parse_string, parse_u32,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeader, AddressMessage},
    link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};

use super::snapshot::{Link, LinkKind, Nsid, Peer};

// Message types (include/uapi/linux/rtnetlink.h, include/uapi/linux/netlink.h).
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_NEWNSID: u16 = 88;

// Link attributes (include/uapi/linux/if_link.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const LINK_HEADER_BYTES: usize = 16;

// Address attributes (include/uapi/linux/if_addr.h).
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_TARGET_NETNSID: u16 = 10;
const ADDRESS_HEADER_BYTES: usize = 8;

// Namespace id attributes (include/uapi/linux/net_namespace.h).
const NETNSA_NSID: u16 = 1;
const NSID_HEADER_BYTES: usize = 4;

/// An address as a dump tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressRecord {
    /// Interface index in the namespace that was asked.
    pub(super) interface: u32,
    pub(super) address: IpAddr,
    pub(super) prefix_len: u8,
    /// The namespace that was asked, when it was not the agent's own.
    pub(super) namespace: Option<Nsid>,
}

/// Asks for all links, or for the one with that index, without the counters
/// that make up most of an answer.
pub(super) fn links_question(index: Option<u32>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index.unwrap_or(0);
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    RouteNetlinkMessage::GetLink(message)
}

/// Asks for the addresses of both families: of the agent's own namespace, or
/// of `namespace`; of all interfaces, or of the one with that index.
pub(super) fn addresses_question(
    namespace: Option<Nsid>,
    interface: Option<u32>,
) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Unspec;
    message.header.index = interface.unwrap_or(0);
    if let Some(Nsid(id)) = namespace {
        message.attributes = vec![AddressAttribute::TargetNetNsId(id.cast_signed())];
    }
    RouteNetlinkMessage::GetAddress(message)
}

/// Asks by which number the agent's namespace calls the one open as `fd`.
pub(super) fn nsid_question(fd: RawFd) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(fd.cast_unsigned())];
    RouteNetlinkMessage::GetNsId(message)
}

/// The bytes of a question.
pub(super) fn encode(message: RouteNetlinkMessage, dump: bool, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { 0 };
    header.sequence_number = sequence;
    let mut packet = NetlinkMessage::new(header, message.into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    bytes
}

/// One netlink message inside a datagram.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram, in order.
pub(super) fn parts(mut datagram: &[u8]) -> impl Iterator<Item = Result<Part<'_>, DecodeError>> {
    /// NLMSG_ALIGN.
    const ALIGN_BYTES: usize = 4;
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let buffer = match NetlinkBuffer::new_checked(datagram) {
            Ok(buffer) => buffer,
            Err(error) => {
                datagram = &[];
                return Some(Err(error));
            }
        };
        let part = Part {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: buffer.payload(),
        };
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        let next = length.next_multiple_of(ALIGN_BYTES).min(datagram.len());
        datagram = &datagram[next..];
        Some(Ok(part))
    })
}

/// The error number in an `NLMSG_ERROR` or `NLMSG_DONE`: 0 or a positive errno.
pub(super) fn error_number(part: &Part<'_>) -> Result<i32, DecodeError> {
    let code = part
        .payload
        .get(..4)
        .ok_or_else(|| DecodeError::from("an error message without a number".to_owned()))?;
    Ok(parse_i32(code)?.saturating_neg())
}

/// Decodes the payload of an `RTM_NEWLINK`.
pub(super) fn link(payload: &[u8]) -> Result<Link, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    let mut name = String::new();
    let mut kind = LinkKind::Plain;
    let mut peer_index = None;
    let mut peer_namespace = None;
    let mut master = None;
    for attribute in NlasIterator::new(&payload[LINK_HEADER_BYTES..]) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_IFNAME => name = parse_string(value)?,
            IFLA_LINK => peer_index = Some(parse_u32(value)?),
            IFLA_LINK_NETNSID => peer_namespace = Some(parse_i32(value)?),
            IFLA_MASTER => master = Some(parse_u32(value)?),
            IFLA_LINKINFO => kind = link_kind(value)?,
            _ => {}
        }
    }
    // Index 0 is a pair whose other half is already gone.
    let peer = match (peer_index, peer_namespace.map(u32::try_from)) {
        (None, None) => Peer::None,
        (Some(0) | None, _) | (_, Some(Err(_))) => Peer::Unknown,
        (Some(index), None) => Peer::Here(index),
        (Some(index), Some(Ok(namespace))) => Peer::Elsewhere {
            namespace: Nsid(namespace),
            index,
        },
    };
    Ok(Link {
        index: header.index,
        name,
        kind,
        peer,
        master,
        up: header.flags.contains(LinkFlags::Up),
    })
}

fn link_kind(linkinfo: &[u8]) -> Result<LinkKind, DecodeError> {
    for attribute in NlasIterator::new(linkinfo) {
        let attribute = attribute?;
        if attribute.kind() == IFLA_INFO_KIND {
            let kind = parse_string(attribute.value())?;
            return Ok(match kind.as_str() {
                "veth" => LinkKind::Veth,
                "netkit" => LinkKind::Netkit,
                "bridge" => LinkKind::Bridge,
                _ => LinkKind::Other(kind),
            });
        }
    }
    Ok(LinkKind::Plain)
}

/// Decodes the payload of an `RTM_NEWADDR`; `None` for a family without IP
/// addresses.
pub(super) fn address(payload: &[u8]) -> Result<Option<AddressRecord>, DecodeError> {
    let header = AddressHeader::parse(payload)?;
    let mut local = None;
    let mut remote = None;
    let mut namespace = None;
    for attribute in NlasIterator::new(&payload[ADDRESS_HEADER_BYTES..]) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            IFA_LOCAL => local = ip(header.family, value)?,
            IFA_ADDRESS => remote = ip(header.family, value)?,
            IFA_TARGET_NETNSID => {
                let id = u32::try_from(parse_i32(value)?);
                namespace = Some(Nsid(id.map_err(|_| {
                    DecodeError::from("an address with a negative namespace id".to_owned())
                })?));
            }
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the far end's.
    Ok(local.or(remote).map(|address| AddressRecord {
        interface: header.index,
        address,
        prefix_len: header.prefix_len,
        namespace,
    }))
}

fn ip(family: AddressFamily, value: &[u8]) -> Result<Option<IpAddr>, DecodeError> {
    let wrong = |_| DecodeError::from(format!("an address of {} bytes", value.len()));
    Ok(match family {
        AddressFamily::Inet => Some(IpAddr::from(<[u8; 4]>::try_from(value).map_err(wrong)?)),
        AddressFamily::Inet6 => Some(IpAddr::from(<[u8; 16]>::try_from(value).map_err(wrong)?)),
        _ => None,
    })
}

/// Decodes the payload of an `RTM_NEWNSID`; `None` if the namespace has no
/// number in the agent's.
pub(super) fn nsid(payload: &[u8]) -> Result<Option<Nsid>, DecodeError> {
    let attributes = payload
        .get(NSID_HEADER_BYTES..)
        .ok_or_else(|| DecodeError::from("a namespace id answer without header".to_owned()))?;
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == NETNSA_NSID {
            return Ok(u32::try_from(parse_i32(attribute.value())?).ok().map(Nsid));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header and attributes of a message, as the kernel lays them out.
    fn payload(header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).expect("short in tests");
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn link_header(index: u32, flags: u32) -> Vec<u8> {
        let mut header = vec![0; 4];
        header.extend(index.to_ne_bytes());
        header.extend(flags.to_ne_bytes());
        header.extend([0; 4]);
        header
    }

    fn veth_with(attributes: &[(u16, &[u8])]) -> Peer {
        let kind = payload(&[], &[(IFLA_INFO_KIND, b"veth\0")]);
        let mut all: Vec<(u16, &[u8])> = vec![(IFLA_LINKINFO, &kind)];
        all.extend(attributes);
        let link = link(&payload(&link_header(5, 0), &all)).expect("decodes");
        assert_eq!(link.kind, LinkKind::Veth);
        link.peer
    }

    #[test]
    fn a_veth_is_decoded_and_attributes_nobody_uses_are_not_looked_at() {
        let kind = payload(&[], &[(2, b"data"), (IFLA_INFO_KIND, b"veth\0")]);
        let bytes = payload(
            &link_header(5, 1),
            &[
                (IFLA_IFNAME, b"cali1\0"),
                (26, b"not what an AF_SPEC looks like"),
                (9999, b"?"),
                (IFLA_LINK, &2u32.to_ne_bytes()),
                (IFLA_LINK_NETNSID, &7i32.to_ne_bytes()),
                (IFLA_MASTER, &3u32.to_ne_bytes()),
                (IFLA_LINKINFO, &kind),
            ],
        );
        assert_eq!(
            link(&bytes).expect("decodes"),
            Link {
                index: 5,
                name: "cali1".into(),
                kind: LinkKind::Veth,
                peer: Peer::Elsewhere {
                    namespace: Nsid(7),
                    index: 2
                },
                master: Some(3),
                up: true,
            }
        );
    }

    #[test]
    fn the_other_end_is_here_elsewhere_or_unknown() {
        let two: (u16, &[u8]) = (IFLA_LINK, &2u32.to_ne_bytes());
        let zero: (u16, &[u8]) = (IFLA_LINK, &0u32.to_ne_bytes());
        let first: (u16, &[u8]) = (IFLA_LINK_NETNSID, &0i32.to_ne_bytes());
        let unassigned: (u16, &[u8]) = (IFLA_LINK_NETNSID, &(-1i32).to_ne_bytes());
        assert_eq!(veth_with(&[]), Peer::None);
        assert_eq!(veth_with(&[two]), Peer::Here(2));
        let elsewhere = Peer::Elsewhere {
            namespace: Nsid(0),
            index: 2,
        };
        assert_eq!(veth_with(&[two, first]), elsewhere);
        assert_eq!(veth_with(&[two, unassigned]), Peer::Unknown);
        assert_eq!(veth_with(&[zero, first]), Peer::Unknown);
        assert_eq!(veth_with(&[zero]), Peer::Unknown);
        assert_eq!(veth_with(&[first]), Peer::Unknown);
    }

    #[test]
    fn a_truncated_link_is_an_error() {
        let bytes = payload(&link_header(5, 1), &[(IFLA_IFNAME, b"cali1\0")]);
        assert!(link(&bytes[..10]).is_err());
        assert!(link(&bytes[..18]).is_err());
        assert!(link(&bytes).is_ok());
    }

    fn address_header(family: u8, prefix_len: u8, index: u32) -> Vec<u8> {
        let mut header = vec![family, prefix_len, 0, 0];
        header.extend(index.to_ne_bytes());
        header
    }

    #[test]
    fn the_own_end_of_a_point_to_point_address_is_taken() {
        let bytes = payload(
            &address_header(2, 32, 9),
            &[
                (IFA_TARGET_NETNSID, &3i32.to_ne_bytes()),
                (IFA_ADDRESS, &[169, 254, 1, 1]),
                (IFA_LOCAL, &[10, 0, 0, 7]),
            ],
        );
        let expect = AddressRecord {
            interface: 9,
            address: "10.0.0.7".parse().expect("literal"),
            prefix_len: 32,
            namespace: Some(Nsid(3)),
        };
        assert_eq!(address(&bytes).expect("decodes"), Some(expect));
    }

    #[test]
    fn an_ipv6_address_has_no_local_attribute() {
        let wanted: IpAddr = "fd00::7".parse().expect("literal");
        let IpAddr::V6(v6) = wanted else {
            unreachable!("an IPv6 literal")
        };
        let bytes = payload(&address_header(10, 64, 2), &[(IFA_ADDRESS, &v6.octets())]);
        let got = address(&bytes).expect("decodes").expect("has an address");
        assert_eq!((got.address, got.namespace), (wanted, None));
        let short = payload(&address_header(10, 64, 2), &[(IFA_ADDRESS, &[1, 2, 3, 4])]);
        assert!(address(&short).is_err());
        let other = payload(&address_header(17, 0, 2), &[(IFA_ADDRESS, &[1, 2])]);
        assert_eq!(address(&other).expect("skipped"), None);
    }

    #[test]
    fn an_unassigned_namespace_id_is_none() {
        let answer = |id: i32| payload(&[0; 4], &[(NETNSA_NSID, &id.to_ne_bytes())]);
        assert_eq!(nsid(&answer(0)).expect("decodes"), Some(Nsid(0)));
        assert_eq!(nsid(&answer(-1)).expect("decodes"), None);
        assert!(nsid(&[0; 3]).is_err());
    }

    #[test]
    fn a_datagram_is_taken_apart_and_garbage_ends_it() {
        let mut datagram = encode(links_question(None), true, 4);
        datagram.extend(encode(addresses_question(Some(Nsid(1)), None), true, 5));
        let seen: Vec<_> = parts(&datagram)
            .map(|part| part.expect("well formed").sequence)
            .collect();
        assert_eq!(seen, [4, 5]);
        datagram.truncate(datagram.len() - 4);
        let last = parts(&datagram).last().expect("has parts");
        assert!(last.is_err());
    }

    /// What a pod with rights in its own namespace can make the kernel say of its
    /// interfaces, and more: each bit of each byte turned, lengths at their ends, and
    /// every length of the whole.
    #[test]
    fn any_damage_to_an_answer_is_read_or_refused() {
        let kind = payload(&[], &[(IFLA_INFO_KIND, b"veth\0")]);
        type Reads = fn(&[u8]) -> bool;
        let answers: [(Vec<u8>, Reads); 3] = [
            (
                payload(
                    &link_header(5, 1),
                    &[
                        (IFLA_IFNAME, b"cali1\0"),
                        (IFLA_LINK, &2u32.to_ne_bytes()),
                        (IFLA_LINKINFO, &kind),
                    ],
                ),
                |bytes| link(bytes).is_ok(),
            ),
            (
                payload(
                    &address_header(2, 32, 9),
                    &[
                        (IFA_TARGET_NETNSID, &3i32.to_ne_bytes()),
                        (IFA_LOCAL, &[10, 0, 0, 7]),
                    ],
                ),
                |bytes| address(bytes).is_ok(),
            ),
            (
                payload(&[0; 4], &[(NETNSA_NSID, &7i32.to_ne_bytes())]),
                |bytes| nsid(bytes).is_ok(),
            ),
        ];
        for (whole, reads) in answers {
            assert!(reads(&whole));
            let mut refused = 0;
            for place in 0..whole.len() {
                let turned = (0..8).map(|bit| whole[place] ^ 1 << bit);
                for value in turned.chain([0, 1, 3, 4, 5, 0x7f, 0xff]) {
                    let mut damaged = whole.clone();
                    damaged[place] = value;
                    refused += usize::from(!reads(&damaged));
                    let messages = parts(&damaged).filter_map(Result::ok).count();
                    assert!(messages <= damaged.len() / 16);
                }
                refused += usize::from(!reads(&whole[..place]));
            }
            assert!(refused > 0);
        }
    }
}

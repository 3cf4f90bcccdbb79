//! Messages of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h): a
//! question built, answers decoded. Pure. Attributes are in network byte order.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlaBuffer, NlasIterator};

use super::{Flow, Tuple};

// include/uapi/linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes of `struct nlmsghdr`, and of `struct nfgenmsg` behind it.
const HEADER_BYTES: usize = 16;
const FAMILY_BYTES: usize = 4;
/// `NFNL_SUBSYS_CTNETLINK << 8`, with `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_GET`.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_DYING`
/// (include/uapi/linux/netfilter/nf_conntrack_common.h).
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const DYING: u32 = 1 << 9;
/// `TCP_CONNTRACK_FIN_WAIT` and so on: one end, one end and acknowledged, both ends
/// have sent FIN; `TCP_CONNTRACK_TIME_WAIT` and beyond are over
/// (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
const TCP_FIN_WAIT: u8 = 4;
const TCP_CLOSE_WAIT: u8 = 5;
const TCP_LAST_ACK: u8 = 6;
const TCP_TIME_WAIT: u8 = 7;

/// A part of the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A connection that is open.
    Flow(Flow),
    /// That was all.
    Done,
    /// Nothing that counts: a connection that has ended, a protocol without
    /// ports.
    Other,
}

/// Asks for all connections of both families.
pub(super) fn question() -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + FAMILY_BYTES).unwrap_or_default();
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(CT_GET.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    // Any family, version 0, no resource.
    bytes.extend([0; FAMILY_BYTES]);
    bytes
}

/// The parts of a datagram; after an error there are no more.
pub(super) fn parts(datagram: &[u8]) -> impl Iterator<Item = io::Result<Part>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let part = first(rest);
        rest = match &part {
            Ok((_, length)) => rest.get(*length..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(part.map(|(part, _)| part))
    })
}

/// The first message, and how many bytes it takes with what fills it up.
fn first(bytes: &[u8]) -> io::Result<(Part, usize)> {
    let short = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "a message of netlink is cut short",
        )
    };
    let message = NetlinkBuffer::new_checked(bytes).map_err(|_| short())?;
    let length = message.length() as usize;
    let payload = bytes.get(HEADER_BYTES..length).ok_or_else(short)?;
    let part = match message.message_type() {
        NLMSG_DONE => Part::Done,
        NLMSG_ERROR => {
            let code = payload.get(..4).and_then(|code| code.try_into().ok());
            let code = i32::from_ne_bytes(code.ok_or_else(short)?);
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            Part::Other
        }
        CT_NEW => {
            flow(payload.get(FAMILY_BYTES..).unwrap_or_default()).map_or(Part::Other, Part::Flow)
        }
        _ => Part::Other,
    };
    Ok((part, length.next_multiple_of(4)))
}

/// An open connection; `None`: it is none, or of a kind that has no ports.
fn flow(attributes: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut status, mut state) = (None, None, 0, 0);
    for (kind, value) in Attributes(attributes) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_STATUS => status = u32::from_be_bytes(value.try_into().ok()?),
            CTA_PROTOINFO => {
                let found = find(value, CTA_PROTOINFO_TCP)
                    .and_then(|tcp| find(tcp, CTA_PROTOINFO_TCP_STATE));
                state = found.and_then(|state| state.first()).copied().unwrap_or(0);
            }
            _ => {}
        }
    }
    let ((protocol, original), (answering, reply)) = (original?, reply?);
    let open = state < TCP_TIME_WAIT && status & DYING == 0 && protocol == answering;
    open.then_some(Flow {
        protocol,
        original,
        reply,
        replied: status & SEEN_REPLY != 0,
        assured: status & ASSURED != 0,
        fins: match state {
            TCP_FIN_WAIT | TCP_CLOSE_WAIT => 1,
            TCP_LAST_ACK => 2,
            _ => 0,
        },
    })
}

/// A tuple and its protocol.
fn tuple(attributes: &[u8]) -> Option<(u8, Tuple)> {
    let ip = find(attributes, CTA_TUPLE_IP)?;
    let address = |v4, v6| -> Option<IpAddr> {
        if let Some(value) = find(ip, v4) {
            let bytes: [u8; 4] = value.try_into().ok()?;
            return Some(Ipv4Addr::from(bytes).into());
        }
        let bytes: [u8; 16] = find(ip, v6)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    let (src, dst) = (
        address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
    );
    let proto = find(attributes, CTA_TUPLE_PROTO)?;
    let port =
        |kind| -> Option<u16> { Some(u16::from_be_bytes(find(proto, kind)?.try_into().ok()?)) };
    let protocol = *find(proto, CTA_PROTO_NUM)?.first()?;
    let echo = || port(CTA_PROTO_ICMP_ID).or_else(|| port(CTA_PROTO_ICMPV6_ID));
    let (from, to) = match (port(CTA_PROTO_SRC_PORT), port(CTA_PROTO_DST_PORT)) {
        (Some(from), Some(to)) => (from, to),
        _ => echo().map(|id| (id, id))?,
    };
    let tuple = Tuple {
        src: SocketAddr::new(src, from),
        dst: SocketAddr::new(dst, to),
    };
    Some((protocol, tuple))
}

/// The value of the first attribute of a kind.
fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes)
        .find(|(own, _)| *own == kind)
        .map(|(_, value)| value)
}

/// Kind and value of attributes, until one is cut short.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let nla: NlaBuffer<&'a [u8]> = NlasIterator::new(self.0).next()?.ok()?;
        let length = usize::from(nla.length());
        let value = self.0.get(4..length)?;
        let kind = nla.kind();
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `NLA_F_NESTED` (include/uapi/linux/netlink.h), which the kernel sets.
    const NESTED: u16 = 1 << 15;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple_of(protocol: u8, src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Vec<u8> {
        let ip = [attribute(1, &src.0), attribute(2, &dst.0)].concat();
        let proto = [
            attribute(1, &[protocol]),
            attribute(2, &src.1.to_be_bytes()),
            attribute(3, &dst.1.to_be_bytes()),
        ]
        .concat();
        [attribute(1 | NESTED, &ip), attribute(2 | NESTED, &proto)].concat()
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len() + HEADER_BYTES).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    /// A connection to a Service at 10.96.0.1:80 that 10.0.0.9:8080 serves.
    fn translated(status: u32, state: u8) -> Vec<u8> {
        let client = ([10, 0, 0, 2], 4000);
        let state = attribute(CTA_PROTOINFO_TCP_STATE, &[state]);
        let attributes = [
            attribute(
                CTA_TUPLE_ORIG | NESTED,
                &tuple_of(6, client, ([10, 96, 0, 1], 80)),
            ),
            attribute(
                CTA_TUPLE_REPLY | NESTED,
                &tuple_of(6, ([10, 0, 0, 9], 8080), client),
            ),
            attribute(CTA_STATUS, &status.to_be_bytes()),
            attribute(
                CTA_PROTOINFO | NESTED,
                &attribute(CTA_PROTOINFO_TCP | NESTED, &state),
            ),
        ];
        message(CT_NEW, &[&[2, 0, 0, 0][..], &attributes.concat()].concat())
    }

    fn all(datagram: &[u8]) -> Vec<Part> {
        parts(datagram).collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn a_translated_connection_is_read_with_both_its_ends() {
        let [Part::Flow(flow)] = all(&translated(SEEN_REPLY | ASSURED, 3))[..] else {
            panic!("one connection");
        };
        assert_eq!(flow.protocol, 6);
        assert_eq!(flow.original.src, "10.0.0.2:4000".parse().unwrap());
        assert_eq!(flow.original.dst, "10.96.0.1:80".parse().unwrap());
        assert_eq!(flow.reply.src, "10.0.0.9:8080".parse().unwrap());
        assert!(flow.replied && flow.assured);
    }

    #[test]
    fn what_has_ended_or_is_dying_does_not_count() {
        assert_eq!(all(&translated(SEEN_REPLY, TCP_TIME_WAIT)), [Part::Other]);
        assert_eq!(all(&translated(SEEN_REPLY | DYING, 3)), [Part::Other]);
    }

    #[test]
    fn ends_that_have_sent_fin_are_counted() {
        for (state, fins) in [
            (3, 0),
            (TCP_FIN_WAIT, 1),
            (TCP_CLOSE_WAIT, 1),
            (TCP_LAST_ACK, 2),
        ] {
            let [Part::Flow(flow)] = all(&translated(SEEN_REPLY, state))[..] else {
                panic!("state {state} is open yet");
            };
            assert_eq!(flow.fins, fins, "state {state}");
        }
    }

    #[test]
    fn several_messages_are_read_until_the_end() {
        let bytes = [
            translated(0, 1),
            translated(SEEN_REPLY, 3),
            message(NLMSG_DONE, &[0; 4]),
        ];
        let parts = all(&bytes.concat());
        assert!(matches!(
            parts[..],
            [Part::Flow(_), Part::Flow(_), Part::Done]
        ));
    }

    #[test]
    fn an_error_is_the_kernels_and_what_is_cut_short_is_one() {
        let refused = message(NLMSG_ERROR, &(-1_i32).to_ne_bytes());
        let error = parts(&refused).next().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let whole = translated(0, 3);
        for length in 1..whole.len() {
            let mut found = parts(&whole[..length]);
            let first = found.next().unwrap();
            assert!(first.is_err(), "{length} bytes of {}", whole.len());
            assert!(found.next().is_none());
        }
    }

    #[test]
    fn an_attribute_that_is_cut_short_makes_no_connection() {
        let whole = translated(SEEN_REPLY, 3);
        let payload = &whole[HEADER_BYTES + FAMILY_BYTES..];
        for length in 0..payload.len() {
            // Whatever is missing, what is read is what was there.
            if let Some(flow) = flow(&payload[..length]) {
                assert_eq!(flow.original.src.port(), 4000);
                assert_eq!(flow.reply.src.port(), 8080);
            }
        }
    }

    /// Each byte of several messages with each bit turned, and with the values at
    /// which lengths begin and end.
    #[test]
    fn any_damage_to_a_byte_is_read_or_refused_and_comes_to_an_end() {
        let whole = [
            translated(SEEN_REPLY | ASSURED, 3),
            message(NLMSG_ERROR, &0_i32.to_ne_bytes()),
            message(NLMSG_DONE, &[0; 4]),
        ]
        .concat();
        let (mut refused, mut otherwise) = (0, 0);
        for place in 0..whole.len() {
            let turned = (0..8).map(|bit| whole[place] ^ 1 << bit);
            for value in turned.chain([0, 1, 3, 4, 15, 16, 17, 0x7f, 0xff]) {
                let mut damaged = whole.clone();
                damaged[place] = value;
                let read: Vec<_> = parts(&damaged).collect();
                assert!(read.len() <= whole.len() / HEADER_BYTES, "byte {place}");
                let before = read.len() - usize::from(read.last().is_some_and(Result::is_err));
                assert!(read[..before].iter().all(Result::is_ok), "byte {place}");
                refused += usize::from(before < read.len());
                otherwise += usize::from(!matches!(
                    read[..],
                    [Ok(Part::Flow(_)), Ok(Part::Other), Ok(Part::Done)]
                ));
            }
        }
        assert!(refused > 0 && otherwise > refused, "{refused}, {otherwise}");
    }
}

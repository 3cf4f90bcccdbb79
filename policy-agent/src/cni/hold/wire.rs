//! The messages to nftables that hold a namespace and let it go. Pure.
//!
//! Constants are those of `include/uapi/linux/netfilter/nf_tables.h` and
//! `nfnetlink.h`; integers in attributes are big endian there, those in headers
//! are in host byte order. The same in the words of nft(8):
//!
//! ```text
//! table inet policy-cni-hold {
//!     chain arriving {
//!         type filter hook prerouting priority raw; policy drop;
//!         meta nfproto ipv6 icmpv6 type 133-137 accept
//!     }
//! }
//! ```

use std::io;

/// Our table in a namespace that is held.
pub(super) const TABLE: &str = "policy-cni-hold";
const CHAIN: &str = "arriving";

// include/uapi/linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;
const ALIGN_BYTES: usize = 4;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const NFT_MSG_GETTABLE: u16 = NFT_MSG_NEWTABLE | 1;
const NFT_MSG_DELTABLE: u16 = NFT_MSG_NEWTABLE | 2;
const NFT_MSG_NEWCHAIN: u16 = NFT_MSG_NEWTABLE | 3;
const NFT_MSG_NEWRULE: u16 = NFT_MSG_NEWTABLE | 6;
const NFT_MSG_GETGEN: u16 = NFT_MSG_NEWTABLE | 16;
// include/uapi/linux/netfilter.h.
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// Before connection tracking (include/uapi/linux/netfilter_ipv4.h).
const NF_IP_PRI_RAW: i32 = -300;

// Attributes.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
// Values of attributes.
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GTE: u32 = 5;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;

/// IANA protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// Router solicitation to redirect: the messages of neighbour discovery, RFC 4861
/// section 4. Without them the address of a pod that is held could not be tested
/// for duplicates, and neighbours would wait for it long after it is let go.
const DISCOVERY: [u8; 2] = [133, 137];

/// What is sent at once.
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    /// The sequence number of the message that is answered when all is well.
    pub(super) last: u32,
}

/// Makes the table; where it is there already, it stays.
pub(super) fn hold() -> Request {
    let table = text(NFTA_TABLE_NAME, TABLE);
    let hook = [
        number(NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING),
        number(NFTA_HOOK_PRIORITY, NF_IP_PRI_RAW.cast_unsigned()),
    ];
    let chain = [
        text(NFTA_CHAIN_TABLE, TABLE),
        text(NFTA_CHAIN_NAME, CHAIN),
        nested(NFTA_CHAIN_HOOK, &hook),
        number(NFTA_CHAIN_POLICY, NF_DROP),
        text(NFTA_CHAIN_TYPE, "filter"),
    ];
    let rule = [
        text(NFTA_RULE_TABLE, TABLE),
        text(NFTA_RULE_CHAIN, CHAIN),
        nested(NFTA_RULE_EXPRESSIONS, &discovery_accepted()),
    ];
    transaction(&[
        (NFT_MSG_NEWTABLE, NLM_F_CREATE, table),
        (NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain.concat()),
        (NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, rule.concat()),
    ])
}

/// Deletes the table with all that is in it; `ENOENT` is answered where there is
/// none.
pub(super) fn release() -> Request {
    transaction(&[(NFT_MSG_DELTABLE, 0, text(NFTA_TABLE_NAME, TABLE))])
}

/// Asks for the table; `ENOENT` is answered where there is none.
pub(super) fn question() -> Request {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let table = text(NFTA_TABLE_NAME, TABLE);
    single(message(NFT_MSG_GETTABLE, flags, 1, NFPROTO_INET, &table))
}

/// Asks for the generation of the rules, which every nftables answers.
pub(super) fn generation() -> Request {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    single(message(NFT_MSG_GETGEN, flags, 1, NFPROTO_UNSPEC, &[]))
}

/// What a datagram says of a request whose last message has that number: nothing
/// yet, or the end.
///
/// # Errors
/// The datagram is none of netlink's.
pub(super) fn answer(mut bytes: &[u8], last: u32) -> io::Result<Option<io::Result<()>>> {
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        let word = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    };
    while !bytes.is_empty() {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let length = word(bytes, 0).and_then(|length| usize::try_from(length).ok());
        let length = length
            .filter(|length| (HEADER_BYTES..=bytes.len()).contains(length))
            .ok_or_else(invalid)?;
        let message = &bytes[..length];
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let sequence = word(message, 8).ok_or_else(invalid)?;
        if kind == NLMSG_ERROR {
            let errno = word(message, HEADER_BYTES)
                .ok_or_else(invalid)?
                .cast_signed();
            if errno != 0 {
                let error = io::Error::from_raw_os_error(errno.saturating_neg());
                return Ok(Some(Err(error)));
            }
            if sequence == last {
                return Ok(Some(Ok(())));
            }
        }
        // The last one needs no padding behind it.
        let next = length.next_multiple_of(ALIGN_BYTES);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    Ok(None)
}

/// `meta nfproto ipv6 meta l4proto icmpv6 @th,0,8 133-137 accept`.
fn discovery_accepted() -> Vec<Vec<u8>> {
    let expression = |name: &str, data: &[Vec<u8>]| {
        let inside = [text(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, data)];
        nested(NFTA_LIST_ELEM, &inside)
    };
    let meta = |key| {
        let data = [
            number(NFTA_META_DREG, NFT_REG_1),
            number(NFTA_META_KEY, key),
        ];
        expression("meta", &data)
    };
    let compare = |operation, value: u8| {
        let value = attribute(NFTA_DATA_VALUE, &[value]);
        let data = [
            number(NFTA_CMP_SREG, NFT_REG_1),
            number(NFTA_CMP_OP, operation),
            nested(NFTA_CMP_DATA, &[value]),
        ];
        expression("cmp", &data)
    };
    let kind = [
        number(NFTA_PAYLOAD_DREG, NFT_REG_1),
        number(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER),
        number(NFTA_PAYLOAD_OFFSET, 0),
        number(NFTA_PAYLOAD_LEN, 1),
    ];
    let verdict = nested(NFTA_DATA_VERDICT, &[number(NFTA_VERDICT_CODE, NF_ACCEPT)]);
    let accept = [
        number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT),
        nested(NFTA_IMMEDIATE_DATA, &[verdict]),
    ];
    vec![
        meta(NFT_META_NFPROTO),
        compare(NFT_CMP_EQ, NFPROTO_IPV6),
        meta(NFT_META_L4PROTO),
        compare(NFT_CMP_EQ, ICMPV6),
        expression("payload", &kind),
        compare(NFT_CMP_GTE, DISCOVERY[0]),
        compare(NFT_CMP_LTE, DISCOVERY[1]),
        expression("immediate", &accept),
    ]
}

/// Messages that take effect together or not at all.
fn transaction(messages: &[(u16, u16, Vec<u8>)]) -> Request {
    let mut bytes = border(NFNL_MSG_BATCH_BEGIN, 0);
    let mut sequence = 0;
    for (place, (kind, flags, attributes)) in messages.iter().enumerate() {
        sequence += 1;
        let is_last = place + 1 == messages.len();
        let ack = if is_last { NLM_F_ACK } else { 0 };
        let flags = NLM_F_REQUEST | flags | ack;
        bytes.extend(message(*kind, flags, sequence, NFPROTO_INET, attributes));
    }
    bytes.extend(border(NFNL_MSG_BATCH_END, sequence + 1));
    Request {
        bytes,
        last: sequence,
    }
}

fn single(bytes: Vec<u8>) -> Request {
    Request { bytes, last: 1 }
}

/// Begin or end of a transaction; its resource says whose.
fn border(kind: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = message(kind, NLM_F_REQUEST, sequence, NFPROTO_UNSPEC, &[]);
    bytes[HEADER_BYTES + 2..].copy_from_slice(&NFNL_SUBSYS_NFTABLES.to_be_bytes());
    bytes
}

/// Header, family, and attributes.
fn message(kind: u16, flags: u16, sequence: u32, family: u8, attributes: &[u8]) -> Vec<u8> {
    let family = [family, 0, 0, 0];
    let length = HEADER_BYTES + family.len() + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The port is the kernel's to know.
    bytes.extend([0; 4]);
    bytes.extend(family);
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ALIGN_BYTES + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(ALIGN_BYTES));
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(ALIGN_BYTES), 0);
    bytes
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), b"\0"].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nested(kind: u16, inside: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &inside.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An acknowledgement as the kernel sends it, with that error number.
    fn acknowledgement(sequence: u32, errno: i32) -> Vec<u8> {
        let mut bytes = message(NLMSG_ERROR, 0, sequence, 0, &[0; 16]);
        bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&(-errno).to_ne_bytes());
        bytes
    }

    #[test]
    fn every_message_is_as_long_as_it_says_and_all_together_are_the_request() {
        for (request, kinds) in [
            (hold(), vec![16, 0xa00, 0xa03, 0xa06, 17]),
            (release(), vec![16, 0xa02, 17]),
            (question(), vec![0xa01]),
            (generation(), vec![0xa10]),
        ] {
            let mut rest = &request.bytes[..];
            let mut found = Vec::new();
            let mut acknowledged = Vec::new();
            while !rest.is_empty() {
                let length = u32::from_ne_bytes(rest[..4].try_into().expect("four bytes"));
                let (message, after) = rest.split_at(length as usize);
                assert_eq!(message.len() % ALIGN_BYTES, 0);
                found.push(u16::from_ne_bytes([message[4], message[5]]));
                if u16::from_ne_bytes([message[6], message[7]]) & NLM_F_ACK != 0 {
                    acknowledged.push(u32::from_ne_bytes(
                        message[8..12].try_into().expect("four bytes"),
                    ));
                }
                rest = after;
            }
            assert_eq!(found, kinds);
            assert_eq!(acknowledged, [request.last]);
        }
    }

    #[test]
    fn the_last_acknowledgement_or_the_first_error_is_the_end() {
        let all = |parts: &[Vec<u8>]| answer(&parts.concat(), 3).expect("netlink");
        assert!(all(&[]).is_none());
        assert!(all(&[acknowledgement(2, 0)]).is_none());
        assert!(all(&[acknowledgement(2, 0), acknowledgement(3, 0)]).is_some_and(|a| a.is_ok()));
        let refused = all(&[acknowledgement(1, libc::ENOENT), acknowledgement(3, 0)]);
        let error = refused.expect("an end").expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        // Data before its acknowledgement.
        let table = message(NFT_MSG_NEWTABLE, 0, 3, NFPROTO_INET, &text(1, TABLE));
        assert!(all(&[table, acknowledgement(3, 0)]).is_some_and(|a| a.is_ok()));
    }

    #[test]
    fn half_an_answer_is_an_error() {
        let whole = acknowledgement(3, 0);
        for length in [1, 15, HEADER_BYTES, whole.len() - 1] {
            assert!(answer(&whole[..length], 3).is_err(), "{length}");
        }
    }
}

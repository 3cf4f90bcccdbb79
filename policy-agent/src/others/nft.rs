//! The chains of nftables, by netlink: names only.
//!
//! Messages are those of `include/uapi/linux/netfilter/nf_tables.h`; what is not
//! understood is passed over, since this is about names that people gave.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::{self, BUFFER_BYTES};

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// `ip`, `ip6`, `inet`, or a number.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

// include/uapi/linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const HEADER_BYTES: usize = 16;
// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWCHAIN: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 3;
const NFT_MSG_GETCHAIN: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 4;
const NFGENMSG_BYTES: usize = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
/// Flags in an attribute's type (`NLA_TYPE_MASK`).
const ATTRIBUTE: u16 = 0x3fff;

/// More answers than any node has chains.
const MOST_ANSWERS: usize = 10_000;

/// All chains of the caller's network namespace.
///
/// # Errors
/// The kernel's answer: no nftables, or no permission.
pub(super) fn chains() -> io::Result<Vec<Chain>> {
    let socket = netlink::open(NETLINK_NETFILTER)?;
    socket.send(&question(), 0)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut chains = Vec::new();
    for _ in 0..MOST_ANSWERS {
        if !read(netlink::receive(&socket, &mut buffer)?, &mut chains)? {
            return Ok(chains);
        }
    }
    Ok(chains)
}

fn question() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + NFGENMSG_BYTES);
    let length: u32 = 20;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(NFT_MSG_GETCHAIN.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence number and port: one question, one socket.
    bytes.extend([0; 8]);
    // All families, version 0, no resource.
    bytes.extend([0; NFGENMSG_BYTES]);
    bytes
}

/// Takes messages in; false after the last.
fn read(mut bytes: &[u8], chains: &mut Vec<Chain>) -> io::Result<bool> {
    while bytes.len() >= HEADER_BYTES {
        let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0))).unwrap_or(usize::MAX);
        if length < HEADER_BYTES || length > bytes.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let kind = u16::from_ne_bytes(array(bytes, 4));
        let body = &bytes[HEADER_BYTES..length];
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR if body.len() >= 4 => {
                let errno = i32::from_ne_bytes(array(body, 0));
                return match errno {
                    0 => Ok(false),
                    errno => Err(io::Error::from_raw_os_error(-errno)),
                };
            }
            NFT_MSG_NEWCHAIN => chains.extend(chain(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn chain(body: &[u8]) -> Option<Chain> {
    let family = *body.first()?;
    let mut attributes = body.get(NFGENMSG_BYTES..)?;
    let (mut table, mut name) = (None, None);
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(array(attributes, 0)));
        let value = attributes.get(4..length)?;
        match u16::from_ne_bytes(array(attributes, 2)) & ATTRIBUTE {
            NFTA_CHAIN_TABLE => table = Some(text(value)),
            NFTA_CHAIN_NAME => name = Some(text(value)),
            _ => {}
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Some(Chain {
        // include/uapi/linux/netfilter.h, NFPROTO_*.
        family: match family {
            1 => "inet".to_owned(),
            2 => "ip".to_owned(),
            5 => "netdev".to_owned(),
            7 => "bridge".to_owned(),
            10 => "ip6".to_owned(),
            other => other.to_string(),
        },
        table: table?,
        name: name?,
    })
}

/// A string that ends with a zero.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

/// Bytes that are there: the caller has compared lengths.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, text: &str) -> Vec<u8> {
        let length = u16::try_from(4 + text.len() + 1).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(text.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn new_chain() -> Vec<u8> {
        let body = [
            vec![2, 0, 0, 0],
            attribute(NFTA_CHAIN_TABLE, "filter"),
            attribute(9, "other"),
            attribute(NFTA_CHAIN_NAME, "cali-FORWARD"),
        ];
        message(NFT_MSG_NEWCHAIN, &body.concat())
    }

    #[test]
    fn chains_are_read_until_the_end_is_told() {
        let mut chains = Vec::new();
        assert!(read(&new_chain(), &mut chains).unwrap());
        let last = [new_chain(), message(NLMSG_DONE, &[0; 4]), new_chain()].concat();
        assert!(!read(&last, &mut chains).unwrap());
        let chain = Chain {
            family: "ip".to_owned(),
            table: "filter".to_owned(),
            name: "cali-FORWARD".to_owned(),
        };
        assert_eq!(chains, [chain.clone(), chain]);
    }

    #[test]
    fn errors_and_nonsense_are_errors_and_half_an_attribute_is_no_chain() {
        let mut chains = Vec::new();
        let refused = message(NLMSG_ERROR, &(-1_i32).to_ne_bytes());
        assert!(read(&refused, &mut chains).is_err());
        let mut long = new_chain();
        long[0] = 255;
        assert!(read(&long, &mut chains).is_err());
        let mut half = new_chain();
        half[HEADER_BYTES + NFGENMSG_BYTES] = 200;
        assert!(read(&half, &mut chains).unwrap());
        assert_eq!(chains, []);
    }
}

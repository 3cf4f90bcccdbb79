//! Addresses, prefixes and ipBlock (semantics 4).
//!
//! Parsing is as lenient as API servers were for years: host bits are masked away and leading
//! zeros are decimal. IPv4-mapped IPv6 prefixes are not understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::json::{self, NotUnderstood};

/// A prefix of one family, host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

/// `ipBlock`: a prefix minus prefixes inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) cidr: Cidr,
    pub(super) except: Vec<Cidr>,
}

impl Cidr {
    /// Reads `address/length`; `None` if it is neither family's, or IPv4-mapped IPv6.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address = parse_address(address)?;
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return None;
        }
        let length = parse_decimal(length).filter(|bits| *bits <= width(address))?;
        Some(Self {
            network: mask(address, length),
            length,
        })
    }

    /// The number of leading bits that are fixed.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether the address is of this family and inside the prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        // Semantics 4: 0.0.0.0/0 covers IPv4 only, ::/0 IPv6 only.
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.length) == self.network
    }

    /// Whether the other prefix is inside this one and longer than it.
    fn strictly_contains(&self, other: &Self) -> bool {
        other.length > self.length && self.contains(other.network)
    }
}

impl Block {
    /// Reads an ipBlock object.
    ///
    /// An `except` that is not strictly inside the block makes the whole block not understood:
    /// nobody can say what its author wanted to keep out (semantics 4 and 14).
    pub(super) fn parse(value: &Value) -> Result<Self, NotUnderstood> {
        let cidr = json::text(value, "cidr")
            .and_then(Cidr::parse)
            .ok_or(NotUnderstood)?;
        let except = json::list(value, "except")?
            .iter()
            .map(|item| {
                item.as_str()
                    .and_then(Cidr::parse)
                    .filter(|inner| cidr.strictly_contains(inner))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(NotUnderstood)?;
        Ok(Self { cidr, except })
    }

    /// Semantics 4: `except` subtracts from its own block only.
    pub(super) fn matches(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|cidr| cidr.contains(address))
    }
}

/// An address as objects write it: IPv4 octets are decimal, whatever zeros lead them.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let octets = text
        .split('.')
        .map(parse_decimal)
        .collect::<Option<Vec<u8>>>()?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn parse_decimal(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Clears all but the leading `length` bits. A shift by the whole width is "no bits left".
fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let ones = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & ones))
        }
        IpAddr::V6(v6) => {
            let ones = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & ones))
        }
    }
}

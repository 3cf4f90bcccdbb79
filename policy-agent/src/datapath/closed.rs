//! The node's pod range while nobody has an address of it: closed to everybody but
//! the node, in `from_pod` and `from_wire`.

use std::{
    collections::BTreeSet,
    mem::offset_of,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_common::abi::config::{Config, FLAG_CLOSED4, FLAG_CLOSED6};

use super::{map::MapError, maps::Maps};

/// What is closed: at most one range of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClosedRange {
    /// Of IPv4.
    pub v4: Option<Ipv4Net>,
    /// Of IPv6.
    pub v6: Option<Ipv6Net>,
}

impl ClosedRange {
    /// From prefixes.
    ///
    /// # Errors
    /// Two of one family, or one that is too short to be a node's or too long to
    /// hold pods: says which.
    pub fn of(prefixes: &[IpNet]) -> Result<Self, String> {
        let mut range = Self::default();
        for prefix in prefixes {
            let prefix = prefix.trunc();
            // Everything, or no address that is not the broadcast's.
            if prefix.prefix_len() == 0 || prefix.prefix_len() + 1 >= prefix.max_prefix_len() {
                return Err(format!("{prefix} is not the pod range of a node"));
            }
            let second = match prefix {
                IpNet::V4(prefix) => range.v4.replace(prefix).is_some(),
                IpNet::V6(prefix) => range.v6.replace(prefix).is_some(),
            };
            if second {
                return Err(format!(
                    "{prefix} is the second pod range of its family, and there is room for one"
                ));
            }
        }
        Ok(range)
    }

    /// Nothing is closed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.is_some_and(|range| range.contains(&address)),
            IpAddr::V6(address) => self.v6.is_some_and(|range| range.contains(&address)),
        }
    }
}

impl Maps {
    /// What is closed now.
    #[must_use]
    pub fn closed_range(&self) -> ClosedRange {
        let config = self.config();
        let [network4, mask4] = config.range4.map(IpAddr::from);
        let [network6, mask6] = config.range6.map(IpAddr::from);
        let of = |flag: u32, network, mask| {
            let range = IpNet::with_netmask(network, mask).ok();
            range.filter(|_| config.flags & flag != 0)
        };
        let ranges = [
            of(FLAG_CLOSED4, network4, mask4),
            of(FLAG_CLOSED6, network6, mask6),
        ];
        let ranges: Vec<IpNet> = ranges.into_iter().flatten().collect();
        ClosedRange::of(&ranges).unwrap_or_default()
    }

    /// Closes a range but for these addresses; whether that was not so before.
    ///
    /// An address that is open before and after is open throughout, and so is one
    /// that was never closed: addresses are added before the range is closed and
    /// removed after it.
    ///
    /// # Errors
    ///
    /// [`MapError`], also where there are more addresses than
    /// [`policy_common::abi::maps::PROTECTED_ENTRIES`]; those that have no room
    /// stay closed.
    pub fn close(&self, range: &ClosedRange, open: &BTreeSet<IpAddr>) -> Result<bool, MapError> {
        let wanted: BTreeSet<[u8; 16]> = open.iter().map(|address| key(*address)).collect();
        let there: BTreeSet<_> = self.protected.entries()?.into_iter().map(first).collect();
        let add: Vec<_> = wanted.difference(&there).copied().collect();
        let surplus: Vec<_> = there.difference(&wanted).copied().collect();
        let added = self.protected.set_all(&add, &vec![1; add.len()]);
        let config = self.config();
        let (flag4, range4) = match &range.v4 {
            Some(range) => (FLAG_CLOSED4, [range.network(), range.netmask()]),
            None => (0, [[0; 4].into(); 2]),
        };
        let (flag6, range6) = match &range.v6 {
            Some(range) => (FLAG_CLOSED6, [range.network(), range.netmask()]),
            None => (0, [Ipv6Addr::UNSPECIFIED; 2]),
        };
        let range4 = range4.map(|address| address.octets());
        let range6 = range6.map(|address| address.octets());
        let differs = (config.range4, config.range6) != (range4, range6);
        let flags = flag4 | flag6;
        let flags_differ = config.flags & (FLAG_CLOSED4 | FLAG_CLOSED6) != flags;
        if differs {
            // No packet that comes later may see half a range.
            self.set_flag(FLAG_CLOSED4 | FLAG_CLOSED6, false)?;
            self.store_bytes(offset_of!(Config, range4), range4.as_flattened())?;
            self.store_bytes(offset_of!(Config, range6), range6.as_flattened())?;
        }
        let surplus_flags = (FLAG_CLOSED4 | FLAG_CLOSED6) & !flags;
        self.set_flag(surplus_flags, false)?;
        self.set_flag(flags, true)?;
        let removed = self.protected.remove_all(&surplus);
        removed.map_err(|stopped| stopped.error)?;
        added.map_err(|stopped| stopped.error)?;
        Ok(differs || flags_differ || !add.is_empty() || !surplus.is_empty())
    }
}

fn first((key, _): ([u8; 16], u32)) -> [u8; 16] {
    key
}

/// An address as the map has it.
fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Result<ClosedRange, String> {
        let prefixes: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
        ClosedRange::of(&prefixes)
    }

    #[test]
    fn a_range_has_one_prefix_of_each_family_at_most() {
        let both = of(&["10.1.2.9/24", "fd00:1::/64"]).expect("both");
        assert!(both.contains("10.1.2.255".parse().unwrap()));
        assert!(both.contains("fd00:1::7".parse().unwrap()));
        assert!(!both.contains("10.1.3.1".parse().unwrap()));
        assert!(!both.contains("fd00:2::7".parse().unwrap()));
        assert!(of(&[]).expect("none").is_empty());
        let error = of(&["10.1.2.0/24", "10.1.3.0/24"]).expect_err("two");
        assert!(error.contains("10.1.3.0/24"), "{error}");
    }

    #[test]
    fn what_is_no_range_of_pods_is_refused() {
        for bad in [
            "0.0.0.0/0",
            "10.1.2.3/32",
            "10.1.2.2/31",
            "::/0",
            "fd00::1/128",
        ] {
            let error = of(&[bad]).expect_err(bad);
            assert!(error.contains("is not the pod range"), "{error}");
        }
    }
}

//! The prefixes of ipBlocks in force, and which blocks cover an address.
//!
//! A kernel trie answers with the longest prefix alone, so every prefix carries
//! all that its covering blocks say: block B covers prefix P iff B's cidr
//! contains P and none of B's excepts does. Every cidr and every except is a
//! prefix, hence a block covers all addresses whose longest prefix is P, or none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::atoms::AtomId;
use crate::model::IpBlock;

/// Prefixes with the blocks that cover them.
#[derive(Debug, Clone, Default)]
pub struct Prefixes {
    entries: BTreeMap<IpNet, Entry>,
    /// How many prefixes there are of each length, by family.
    v4: BTreeMap<u8, usize>,
    v6: BTreeMap<u8, usize>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    /// Blocks that name it, as cidr or except.
    named: usize,
    /// Blocks that cover it, sorted.
    blocks: Vec<AtomId>,
}

impl Prefixes {
    /// Adds a block; the prefixes that are new or covered differently.
    pub fn insert(&mut self, block: &IpBlock, atom: AtomId) -> BTreeSet<IpNet> {
        let mut changed = BTreeSet::new();
        for prefix in [&block.cidr].into_iter().chain(&block.except) {
            if let Some(entry) = self.entries.get_mut(prefix) {
                entry.named += 1;
                continue;
            }
            // No block names a prefix between this one and the next longer that
            // covers it, so what covers that covers this.
            let blocks = self.covering(prefix).to_vec();
            self.entries.insert(*prefix, Entry { named: 1, blocks });
            *self.lengths(prefix).entry(prefix.prefix_len()).or_default() += 1;
            changed.insert(*prefix);
        }
        for (prefix, entry) in within(&mut self.entries, &block.cidr) {
            if block.except.iter().any(|except| except.contains(prefix)) {
                continue;
            }
            if let Err(at) = entry.blocks.binary_search(&atom) {
                entry.blocks.insert(at, atom);
                changed.insert(*prefix);
            }
        }
        changed
    }

    /// Takes a block out; the prefixes that are gone or covered differently.
    pub fn remove(&mut self, block: &IpBlock, atom: AtomId) -> BTreeSet<IpNet> {
        let mut changed = BTreeSet::new();
        for (prefix, entry) in within(&mut self.entries, &block.cidr) {
            if let Ok(at) = entry.blocks.binary_search(&atom) {
                entry.blocks.remove(at);
                changed.insert(*prefix);
            }
        }
        for prefix in [&block.cidr].into_iter().chain(&block.except) {
            let Some(entry) = self.entries.get_mut(prefix) else {
                continue;
            };
            entry.named -= 1;
            if entry.named > 0 {
                continue;
            }
            self.entries.remove(prefix);
            let lengths = self.lengths(prefix);
            if let Some(count) = lengths.get_mut(&prefix.prefix_len()) {
                *count -= 1;
                if *count == 0 {
                    lengths.remove(&prefix.prefix_len());
                }
            }
            changed.insert(*prefix);
        }
        changed
    }

    /// The blocks that cover an address, sorted.
    pub fn covering_address(&self, address: IpAddr) -> &[AtomId] {
        if self.entries.is_empty() {
            return &[];
        }
        self.covering(&IpNet::from(address))
    }

    /// The blocks that cover a prefix which no block names, sorted.
    fn covering(&self, prefix: &IpNet) -> &[AtomId] {
        let lengths = match prefix {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        for length in lengths.range(..=prefix.prefix_len()).rev().map(|(l, _)| *l) {
            let Ok(wider) = IpNet::new(prefix.addr(), length) else {
                continue;
            };
            if let Some(entry) = self.entries.get(&wider.trunc()) {
                return &entry.blocks;
            }
        }
        &[]
    }

    /// The blocks that cover a prefix that a block names; `None`: no block does.
    pub fn blocks(&self, prefix: &IpNet) -> Option<&[AtomId]> {
        Some(&self.entries.get(prefix)?.blocks)
    }

    /// Every prefix, with the blocks that cover it.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &[AtomId])> {
        let entries = self.entries.iter();
        entries.map(|(prefix, entry)| (prefix, &*entry.blocks))
    }

    fn lengths(&mut self, prefix: &IpNet) -> &mut BTreeMap<u8, usize> {
        match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }
}

/// The entries inside `cidr`, itself included.
fn within<'e>(
    entries: &'e mut BTreeMap<IpNet, Entry>,
    cidr: &IpNet,
) -> impl Iterator<Item = (&'e IpNet, &'e mut Entry)> {
    let cidr = *cidr;
    // Prefixes are ordered by address, then length: all that are inside lie
    // between these two, and wider ones with the same address come before.
    let last = IpNet::from(cidr.broadcast());
    entries
        .range_mut(cidr..=last)
        .filter(move |(prefix, _)| cidr.contains(*prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock {
            cidr: net(cidr),
            except: except.iter().map(|text| net(text)).collect(),
        }
    }

    fn covers(block: &IpBlock, address: IpAddr) -> bool {
        block.cidr.contains(&address) && !block.except.iter().any(|e| e.contains(&address))
    }

    #[test]
    fn order_of_prefixes_is_address_then_length() {
        assert!(net("10.0.0.0/8") < net("10.0.0.0/9"));
        assert!(net("10.0.0.0/32") < net("10.0.0.1/32"));
        assert!(net("10.255.255.255/32") < net("11.0.0.0/8"));
        assert!(net("255.255.255.255/32") < net("::/0"));
    }

    /// Nested, overlapping, equal blocks with excepts of each other, both families.
    fn blocks() -> Vec<IpBlock> {
        vec![
            block("10.0.0.0/8", &["10.1.0.0/16"]),
            block("10.0.0.0/8", &[]),
            block("10.1.0.0/16", &["10.1.2.0/24", "10.1.3.0/24"]),
            block("10.1.2.0/24", &["10.1.2.3/32"]),
            block("0.0.0.0/0", &["10.0.0.0/8", "10.1.2.128/25"]),
            block("10.1.2.3/32", &[]),
            block("::/0", &["fd00::/8"]),
            block("fd00::/16", &["fd00::1/128"]),
        ]
    }

    #[test]
    fn every_address_gets_the_blocks_that_cover_it_in_any_order_of_changes() {
        let addresses = [
            "10.0.0.1",
            "10.1.0.1",
            "10.1.2.1",
            "10.1.2.3",
            "10.1.2.200",
            "10.1.3.9",
            "11.0.0.1",
            "255.255.255.255",
            "fd00::1",
            "fd00::2",
            "fd01::1",
            "2001::1",
            "::",
        ]
        .map(|text| text.parse::<IpAddr>().expect("an address"));
        let blocks = blocks();
        for step in [1usize, 3, 5, 7] {
            let order: Vec<usize> = (0..blocks.len()).map(|i| i * step % blocks.len()).collect();
            let mut prefixes = Prefixes::default();
            let mut present = BTreeSet::new();
            let toggles = order.iter().chain(&order);
            for &i in toggles {
                let atom = AtomId(u32::try_from(i).expect("small") + 1);
                let before: BTreeMap<IpNet, Vec<AtomId>> =
                    prefixes.iter().map(|(p, b)| (*p, b.to_vec())).collect();
                let changed = if present.insert(i) {
                    prefixes.insert(&blocks[i], atom)
                } else {
                    present.remove(&i);
                    prefixes.remove(&blocks[i], atom)
                };
                for (prefix, covering) in prefixes.iter() {
                    let same = before.get(prefix).is_some_and(|old| **old == *covering);
                    assert!(same || changed.contains(prefix), "{prefix} not reported");
                }
                for address in addresses {
                    let expected: Vec<AtomId> = present
                        .iter()
                        .filter(|j| covers(&blocks[**j], address))
                        .map(|j| AtomId(u32::try_from(*j).expect("small") + 1))
                        .collect();
                    assert_eq!(prefixes.covering_address(address), expected, "{address}");
                }
            }
            assert!(
                prefixes.entries.is_empty() && prefixes.v4.is_empty() && prefixes.v6.is_empty()
            );
        }
    }
}

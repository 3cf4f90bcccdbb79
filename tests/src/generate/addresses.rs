//! Which addresses random clusters use, and prefixes that fall on, around and beside them.
//!
//! Pods 10.244.0.0/16 and fd00:10:244::/48, nodes 172.18.0.0/24 and fd00:172:18::/64, the outside
//! the three TEST-NETs (RFC 5737) and 2001:db8::/32 (RFC 3849).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Rng;

const LENGTHS_V4: [u8; 14] = [0, 1, 8, 12, 16, 20, 23, 24, 25, 27, 28, 30, 31, 32];
const LENGTHS_V6: [u8; 14] = [0, 3, 16, 32, 47, 48, 63, 64, 65, 112, 120, 124, 127, 128];

/// The address of node 0 or 1, in both families.
pub(super) fn node_addresses(node: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(172, 18, 0, node + 2)),
        IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            0x172,
            0x18,
            0,
            0,
            0,
            0,
            u16::from(node) + 2,
        )),
    ]
}

/// The addresses of a pod of a node, in both families.
pub(super) fn pod_addresses(node: u8, host: u8) -> [IpAddr; 2] {
    let third = u16::from(node);
    [
        IpAddr::V4(Ipv4Addr::new(10, 244, node, host)),
        IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            0x10,
            0x244,
            third,
            0,
            0,
            0,
            host.into(),
        )),
    ]
}

/// An address of nobody in the cluster.
pub(super) fn outside(rng: &mut Rng, ipv4: bool) -> IpAddr {
    let low = u8::try_from(rng.below(256)).expect("below 256");
    if ipv4 {
        let net = *rng.pick(&[[192, 0, 2], [198, 51, 100], [203, 0, 113]]);
        return IpAddr::V4(Ipv4Addr::new(net[0], net[1], net[2], low));
    }
    let site = u16::try_from(rng.below(4)).expect("below 4");
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, low.into()))
}

/// The addresses that prefixes are built around.
pub(super) struct Anchors {
    inside: Vec<IpAddr>,
}

impl Anchors {
    /// The addresses that pods and nodes show.
    pub(super) fn of(objects: &[Value]) -> Self {
        let shown = objects.iter().flat_map(|object| {
            let list = |name| object["status"][name].as_array().into_iter().flatten();
            list("podIPs")
                .map(|entry| &entry["ip"])
                .chain(list("addresses").map(|entry| &entry["address"]))
        });
        let parsed = shown.filter_map(|text| text.as_str()?.parse().ok());
        Self {
            inside: parsed.collect(),
        }
    }

    /// An address in the cluster or outside.
    pub(super) fn address(&self, rng: &mut Rng) -> IpAddr {
        if rng.percent(60) && !self.inside.is_empty() {
            return *rng.pick(&self.inside);
        }
        let ipv4 = rng.percent(60);
        outside(rng, ipv4)
    }

    /// An `ipBlock`, often with excepts.
    pub(super) fn block(&self, rng: &mut Rng) -> Value {
        let cidr = self.prefix(rng);
        let mut block = json!({ "cidr": text(rng, cidr) });
        let excepts = rng.weighted(&[50, 30, 15, 5]);
        let except: Vec<Value> = (0..excepts)
            .filter_map(|_| {
                let inner = self.inner(rng, cidr)?;
                Some(Value::String(text(rng, inner)))
            })
            .collect();
        match except.is_empty() {
            false => block["except"] = Value::Array(except),
            true if rng.percent(10) => block["except"] = json!([]),
            true if rng.percent(10) => block["except"] = Value::Null,
            true => {}
        }
        block
    }

    /// A wide block with an except around a pod or node (if there is one), and a block inside
    /// the wide one and around the except.
    pub(super) fn nested_blocks(&self, rng: &mut Rng) -> [Value; 2] {
        let anchor = match self.inside.is_empty() {
            true => outside(rng, true),
            false => *rng.pick(&self.inside),
        };
        let [wide, nested, except] = if anchor.is_ipv4() {
            *rng.pick(&[[8, 24, 30], [12, 24, 27], [16, 25, 32], [0, 24, 28]])
        } else {
            *rng.pick(&[[16, 64, 126], [32, 112, 124], [48, 120, 128], [0, 64, 125]])
        };
        let block = |length| net(anchor, length).trunc().to_string();
        [
            json!({"cidr": block(wide), "except": [block(except)]}),
            json!({"cidr": block(nested)}),
        ]
    }

    fn prefix(&self, rng: &mut Rng) -> IpNet {
        let address = self.address(rng);
        let lengths = if address.is_ipv4() {
            &LENGTHS_V4
        } else {
            &LENGTHS_V6
        };
        net(address, *rng.pick(lengths))
    }

    /// A longer prefix inside the given one, around somebody's address if there is one there.
    fn inner(&self, rng: &mut Rng, around: IpNet) -> Option<IpNet> {
        let anchor = (0..20)
            .map(|_| self.address(rng))
            .find(|address| around.contains(address))
            .unwrap_or_else(|| around.network());
        let longer = around.max_prefix_len() - around.prefix_len();
        if longer == 0 {
            return None;
        }
        // Mostly a little or a lot longer: both siblings and single addresses matter.
        let more = match rng.weighted(&[40, 30, 30]) {
            0 => 1 + rng.below(usize::from(longer.min(4))),
            1 => 1 + rng.below(usize::from(longer)),
            _ => usize::from(longer),
        };
        let more = u8::try_from(more).expect("at most 128");
        Some(net(anchor, around.prefix_len() + more))
    }
}

fn net(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).expect("the length fits the family")
}

/// Mostly the canonical text; sometimes with the host bits that API servers long accepted.
fn text(rng: &mut Rng, net: IpNet) -> String {
    if rng.percent(10) {
        net.to_string()
    } else {
        net.trunc().to_string()
    }
}

//! Who else enforces network policy on this node.
//!
//! Two enforcers do not know of each other: what one allows the other may deny,
//! and nobody's log says both. Read-only and best effort: what cannot be read is
//! not found. Names what it saw, and leaves to the user whether it matters.

mod nft;

use std::collections::BTreeSet;
use std::path::Path;

pub use nft::Chain;

/// Another enforcer, and what told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Other {
    /// Its name.
    pub name: &'static str,
    /// What was seen, for example `nftables table ip calico`.
    pub seen: String,
}

/// What of a node tells of enforcers.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// Names of files below the BPF file system, two folders deep.
    pins: BTreeSet<String>,
    /// Chains of nftables, those of `iptables-nft` among them.
    chains: Vec<Chain>,
    /// Names of interfaces.
    interfaces: BTreeSet<String>,
}

/// Pins below the BPF file system, by how their path begins.
const PINS: [(&str, &str); 5] = [
    ("Calico", "tc/globals/cali_"),
    ("Calico", "calico/"),
    ("Cilium", "tc/globals/cilium_"),
    ("Cilium", "cilium/"),
    ("AWS network policy agent", "globals/aws/"),
];

/// Tables of nftables, by name.
const TABLES: [(&str, &str); 3] = [
    ("Calico", "calico"),
    ("kube-network-policies", "kube-network-policies"),
    ("kindnet", "kindnet-network-policies"),
];

/// Chains of nftables and `iptables-nft`, by how their names begin.
const CHAINS: [(&str, &str); 4] = [
    ("Calico", "cali-"),
    ("kube-router", "KUBE-NWPLCY"),
    ("kube-router", "KUBE-POD-FW-"),
    ("Weave Net", "WEAVE-NPC"),
];

/// Interfaces that only an enforcer makes.
const INTERFACES: [(&str, &str); 2] = [("Cilium", "cilium_host"), ("Antrea", "antrea-gw0")];

/// Looks at the node: its BPF file system, and the network namespace of the
/// caller.
#[must_use]
pub fn look(bpffs: &Path) -> Vec<Other> {
    let names = |path: &Path| -> BTreeSet<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let mut pins = BTreeSet::new();
    for folder in ["tc/globals", "calico", "cilium", "globals/aws"] {
        let of_folder = names(&bpffs.join(folder)).into_iter();
        pins.extend(of_folder.map(|name| format!("{folder}/{name}")));
    }
    find(&Facts {
        pins,
        chains: nft::chains().unwrap_or_default(),
        interfaces: names(Path::new("/sys/class/net")),
    })
}

/// The enforcers that facts tell of: one for each name and way of telling.
fn find(facts: &Facts) -> Vec<Other> {
    let mut all = BTreeSet::new();
    for (name, begin) in PINS {
        if let Some(pin) = facts.pins.iter().find(|pin| pin.starts_with(begin)) {
            all.insert(Other {
                name,
                seen: format!("BPF file system: {pin}"),
            });
        }
    }
    for (name, table) in TABLES {
        if let Some(chain) = facts.chains.iter().find(|chain| chain.table == table) {
            all.insert(Other {
                name,
                seen: format!("nftables table {} {table}", chain.family),
            });
        }
    }
    for (name, begin) in CHAINS {
        let mut chains = facts.chains.iter();
        if let Some(chain) = chains.find(|chain| chain.name.starts_with(begin)) {
            all.insert(Other {
                name,
                seen: format!(
                    "nftables chain {} {} {}",
                    chain.family, chain.table, chain.name
                ),
            });
        }
    }
    for (name, interface) in INTERFACES {
        if facts.interfaces.contains(interface) {
            all.insert(Other {
                name,
                seen: format!("interface {interface}"),
            });
        }
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, name: &str) -> Chain {
        Chain {
            family: "ip".to_owned(),
            table: table.to_owned(),
            name: name.to_owned(),
        }
    }

    fn names(facts: &Facts) -> Vec<&'static str> {
        find(facts).into_iter().map(|other| other.name).collect()
    }

    #[test]
    fn enforcers_are_known_by_what_they_leave() {
        let pins = |pin: &str| Facts {
            pins: BTreeSet::from([pin.to_owned()]),
            ..Facts::default()
        };
        assert_eq!(names(&pins("tc/globals/cali_v4_ct3")), ["Calico"]);
        assert_eq!(names(&pins("tc/globals/cilium_ipcache")), ["Cilium"]);
        assert_eq!(
            names(&pins("globals/aws/programs")),
            ["AWS network policy agent"]
        );
        let chains = |table: &str, name: &str| Facts {
            chains: vec![chain(table, name)],
            ..Facts::default()
        };
        assert_eq!(names(&chains("filter", "cali-FORWARD")), ["Calico"]);
        assert_eq!(names(&chains("calico", "filter-FORWARD")), ["Calico"]);
        assert_eq!(
            names(&chains("kube-network-policies", "postrouting")),
            ["kube-network-policies"]
        );
        assert_eq!(names(&chains("filter", "KUBE-POD-FW-ABC")), ["kube-router"]);
        let found = find(&chains("filter", "WEAVE-NPC-DEFAULT"));
        let seen = "nftables chain ip filter WEAVE-NPC-DEFAULT".to_owned();
        assert_eq!(
            found,
            [Other {
                name: "Weave Net",
                seen
            }]
        );
    }

    #[test]
    fn what_nodes_have_anyway_and_what_is_ours_is_no_enforcer() {
        let facts = Facts {
            pins: BTreeSet::from(["tc/globals/other".to_owned()]),
            chains: vec![
                chain("filter", "KUBE-SERVICES"),
                chain("kube-proxy", "services"),
                chain("filter", "CNI-FORWARD"),
            ],
            interfaces: ["lo", "eth0", "cali123", "cni0"].map(str::to_owned).into(),
        };
        assert_eq!(find(&facts), []);
    }

    #[test]
    fn folder_that_is_no_bpf_file_system_is_no_failure() {
        let here = look(Path::new("/nonexistent"));
        assert!(here.iter().all(|other| !other.seen.contains("BPF")));
    }
}

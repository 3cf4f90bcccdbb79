//! Names, capacities and flags of the maps: the one place that knows them.
//!
//! Kernel definitions, the agent's checks of pinned maps, `status` and the
//! documentation derive from here. Names have at most 15 characters, the
//! kernel's limit (`BPF_OBJ_NAME_LEN`, `include/uapi/linux/bpf.h`).

/// ifindex to endpoint slot, direct mapped: see [`super::endpoint::IfindexEntry`].
pub const IFINDEX: &str = "pa_ifindex";
/// ifindex to slot for what the direct-mapped table has no room for.
pub const IFINDEX_MORE: &str = "pa_ifindex_more";
/// Endpoints, an array that user space maps.
pub const ENDPOINTS: &str = "pa_endpoints";
/// IPv4 addresses with an identity of their own: pods and this node.
pub const ID4: &str = "pa_id4";
/// IPv6 addresses with an identity of their own: pods and this node.
pub const ID6: &str = "pa_id6";
/// IPv4 prefixes with an identity.
pub const CIDR4: &str = "pa_cidr4";
/// IPv6 prefixes with an identity.
pub const CIDR6: &str = "pa_cidr6";
/// (policy, identity) to port set.
pub const POLICY: &str = "pa_policy";
/// Port sets.
pub const PORT_SETS: &str = "pa_port_sets";
/// Intervals of the port sets that do not fit their own element.
pub const EXTENTS: &str = "pa_extents";
/// Confirmed connection records of isolated endpoints.
pub const CT: &str = "pa_ct";
/// Services: what is behind an address and port.
pub const SERVICES: &str = "pa_services";
/// Connection records of isolated endpoints whose opener has not answered a reply
/// yet, and what is more than the endpoint's share of the confirmed ones.
pub const CT_PENDING: &str = "pa_ct_pending";
/// The same of endpoints that nothing isolates.
pub const CT_OPEN: &str = "pa_ct_open";
/// Records made and removed for each endpoint: the budget's books.
pub const CT_COUNT: &str = "pa_ct_count";
/// First fragments that passed.
pub const FRAGMENTS: &str = "pa_fragments";
/// Per-CPU cache of flows that passed.
pub const FLOWS: &str = "pa_flows";
/// Grows after every change of a table that says who an address is or what a policy
/// says, before the next word is stored: see [`crate::memo`].
pub const EPOCH: &str = "pa_epoch";
/// Per-CPU memo of who addresses are.
pub const PEER_MEMO: &str = "pa_peer_memo";
/// Per-CPU memo of what policies say.
pub const POLICY_MEMO: &str = "pa_policy_memo";
/// Packet counters by direction and reason.
pub const COUNTERS: &str = "pa_counters";
/// Verdict events.
pub const EVENTS: &str = "pa_events";
/// Per-CPU token buckets of the event rate limit.
pub const EVENT_TOKENS: &str = "pa_event_tokens";
/// Run-time settings.
pub const CONFIG: &str = "pa_config";
/// Addresses of the node's pod range that may be sent to: IPv4 as `::ffff:a.b.c.d`.
pub const PROTECTED: &str = "pa_protected";
/// IPv4 source prefixes that the XDP prefilter drops.
pub const DENY4: &str = "pa_deny4";
/// IPv6 source prefixes that the XDP prefilter drops.
pub const DENY6: &str = "pa_deny6";

/// Elements of the direct-mapped ifindex table; a power of two.
pub const IFINDEX_ENTRIES: usize = 16_384;
/// Interfaces that share an element of the direct-mapped table with another.
pub const IFINDEX_MORE_ENTRIES: usize = 4_096;
/// Endpoint slots; slot 0 is never given out. Eight times the pods that a
/// kubelet runs at most by default times two, so that slots can wait a while
/// before they are used again.
pub const ENDPOINT_ENTRIES: usize = 4_096;
/// Addresses with an identity, each family. Memory is taken as they come.
pub const ID_ENTRIES: usize = 131_072;
/// Prefixes with an identity, each family. Memory is taken as they come.
pub const CIDR_ENTRIES: usize = 65_536;
/// Rows of all policies together. Memory is taken as they come.
pub const POLICY_ENTRIES: usize = 262_144;
/// Port sets; set 0 is never given out.
pub const PORT_SET_ENTRIES: usize = 16_384;
/// Intervals in extents; element 0 is never given out.
pub const EXTENT_ENTRIES: usize = 65_536;
/// Addresses and ports of Services. Memory is taken as they come.
pub const SERVICE_ENTRIES: usize = 16_384;
/// Confirmed connection records, allocated at once, so that the packet path
/// never fails for want of memory.
pub const CT_ENTRIES: usize = 131_072;
/// Pending connection records; the oldest is evicted. Small, so that the many
/// lookups that find nothing there stay in the CPU's cache.
pub const CT_PENDING_ENTRIES: usize = 16_384;
/// The same of endpoints that nothing isolates.
pub const CT_OPEN_ENTRIES: usize = 16_384;
/// First fragments that passed; the oldest is evicted. What a flood of them takes
/// from others is datagrams in fragments, and those in flight only.
pub const FRAGMENT_ENTRIES: usize = 16_384;
/// Sets of the flow cache, each CPU; a power of two.
pub const FLOW_SETS: usize = 4_096;
/// Addresses that a CPU remembers; a power of two.
pub const PEER_MEMO_ENTRIES: usize = 4_096;
/// Answers of policies that a CPU remembers; a power of two.
pub const POLICY_MEMO_ENTRIES: usize = 2_048;
/// Counters, see [`super::stats`].
pub const COUNTER_ENTRIES: usize = 128;
/// Bytes of the event ring; a power of two and a multiple of the page size.
pub const EVENT_BYTES: usize = 1 << 18;
/// Addresses of the node's pod range that may be sent to: two for each endpoint, the
/// node's own, and as many again.
pub const PROTECTED_ENTRIES: usize = 4 * ENDPOINT_ENTRIES;
/// Prefixes of the XDP prefilter, each family.
pub const DENY_ENTRIES: usize = 65_536;

/// `BPF_F_NO_PREALLOC`: memory as elements come.
pub const F_NO_PREALLOC: usize = 1;
/// `BPF_F_MMAPABLE`: user space maps the array and stores words at once.
pub const F_MMAPABLE: usize = 1 << 10;

/// What a map is, for the check of one that is already pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSpec {
    /// Name, and the file name of the pin.
    pub name: &'static str,
    /// `BPF_MAP_TYPE_*` number (`include/uapi/linux/bpf.h`).
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity in elements; of a ring buffer in bytes.
    pub max_entries: u32,
    /// `BPF_F_*` flags.
    pub flags: u32,
    /// What it holds, in a few words for a person.
    pub about: &'static str,
}

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
const RINGBUF: u32 = 27;

const fn spec<K, V>(
    name: &'static str,
    map_type: u32,
    max_entries: usize,
    flags: usize,
    about: &'static str,
) -> MapSpec {
    MapSpec {
        name,
        map_type,
        key_size: narrow(size_of::<K>()),
        value_size: narrow(size_of::<V>()),
        max_entries: narrow(max_entries),
        flags: narrow(flags),
        about,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "asserted first; evaluated at compile time"
)]
const fn narrow(value: usize) -> u32 {
    assert!(value <= u32::MAX as usize);
    value as u32
}

/// A key of an LPM trie: prefix length in bits, then the address in wire order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PrefixKey<const N: usize> {
    /// Bits of the address that count.
    pub prefix_len: u32,
    /// Address in wire order; the bits beyond the prefix are zero.
    pub addr: [u8; N],
}

use super::{config, conntrack, endpoint, fragment, identity, policy, service};
use crate::{flow_cache, memo};

/// Every map, in the order in which `policy-agent maps` lists them.
pub const ALL: [MapSpec; 27] = [
    spec::<u32, endpoint::IfindexEntry>(
        IFINDEX,
        ARRAY,
        IFINDEX_ENTRIES,
        0,
        "interface to endpoint slot",
    ),
    spec::<u32, u32>(
        IFINDEX_MORE,
        HASH,
        IFINDEX_MORE_ENTRIES,
        F_NO_PREALLOC,
        "interfaces that share an element above",
    ),
    spec::<u32, endpoint::Endpoint>(
        ENDPOINTS,
        ARRAY,
        ENDPOINT_ENTRIES,
        F_MMAPABLE,
        "pods of this node and their policies",
    ),
    spec::<[u8; 4], identity::Id4>(
        ID4,
        HASH,
        ID_ENTRIES,
        F_NO_PREALLOC,
        "IPv4 address to identity",
    ),
    spec::<[u8; 16], identity::Id6>(
        ID6,
        HASH,
        ID_ENTRIES,
        F_NO_PREALLOC,
        "IPv6 address to identity",
    ),
    spec::<PrefixKey<4>, identity::Cidr4>(
        CIDR4,
        LPM_TRIE,
        CIDR_ENTRIES,
        F_NO_PREALLOC,
        "IPv4 prefix to identity",
    ),
    spec::<PrefixKey<16>, identity::Cidr6>(
        CIDR6,
        LPM_TRIE,
        CIDR_ENTRIES,
        F_NO_PREALLOC,
        "IPv6 prefix to identity",
    ),
    spec::<policy::PolicyKey, policy::PolicyEntry>(
        POLICY,
        HASH,
        POLICY_ENTRIES,
        F_NO_PREALLOC,
        "policy and identity to port set",
    ),
    spec::<u32, policy::PortSet>(
        PORT_SETS,
        ARRAY,
        PORT_SET_ENTRIES,
        0,
        "what is allowed, by protocol and port",
    ),
    spec::<u32, policy::Interval>(
        EXTENTS,
        ARRAY,
        EXTENT_ENTRIES,
        0,
        "intervals of large port sets",
    ),
    spec::<service::SvcKey, service::Svc>(
        SERVICES,
        HASH,
        SERVICE_ENTRIES,
        F_NO_PREALLOC,
        "Service address and port to backends",
    ),
    spec::<conntrack::CtKey, conntrack::CtEntry>(CT, HASH, CT_ENTRIES, 0, "confirmed connections"),
    spec::<conntrack::CtKey, conntrack::CtEntry>(
        CT_PENDING,
        LRU_HASH,
        CT_PENDING_ENTRIES,
        0,
        "connections not confirmed yet",
    ),
    spec::<conntrack::CtKey, conntrack::CtEntry>(
        CT_OPEN,
        LRU_HASH,
        CT_OPEN_ENTRIES,
        0,
        "connections of pods that nothing isolates",
    ),
    spec::<u32, conntrack::CtCount>(
        CT_COUNT,
        ARRAY,
        ENDPOINT_ENTRIES,
        F_MMAPABLE,
        "connections made and removed, by endpoint",
    ),
    spec::<fragment::FragKey, fragment::FragEntry>(
        FRAGMENTS,
        LRU_HASH,
        FRAGMENT_ENTRIES,
        0,
        "first fragments that passed lately",
    ),
    spec::<u32, flow_cache::FlowSet>(
        FLOWS,
        PERCPU_ARRAY,
        FLOW_SETS,
        0,
        "flows that passed lately",
    ),
    spec::<u32, memo::Epoch>(
        EPOCH,
        ARRAY,
        1,
        F_MMAPABLE,
        "changes that CPUs must not remember beyond",
    ),
    spec::<u32, memo::Memo>(
        PEER_MEMO,
        PERCPU_ARRAY,
        PEER_MEMO_ENTRIES,
        0,
        "who addresses were a moment ago",
    ),
    spec::<u32, memo::Memo>(
        POLICY_MEMO,
        PERCPU_ARRAY,
        POLICY_MEMO_ENTRIES,
        0,
        "what policies said a moment ago",
    ),
    spec::<u32, u64>(
        COUNTERS,
        PERCPU_ARRAY,
        COUNTER_ENTRIES,
        0,
        "packets by direction and reason",
    ),
    MapSpec {
        name: EVENTS,
        map_type: RINGBUF,
        key_size: 0,
        value_size: 0,
        max_entries: narrow(EVENT_BYTES),
        flags: 0,
        about: "verdict events",
    },
    spec::<u32, config::EventTokens>(
        EVENT_TOKENS,
        PERCPU_ARRAY,
        1,
        0,
        "what is left of the event rate",
    ),
    spec::<u32, config::Config>(CONFIG, ARRAY, 1, F_MMAPABLE, "run-time settings"),
    spec::<[u8; 16], u32>(
        PROTECTED,
        HASH,
        PROTECTED_ENTRIES,
        F_NO_PREALLOC,
        "addresses of the pod range that are open",
    ),
    spec::<PrefixKey<4>, u32>(
        DENY4,
        LPM_TRIE,
        DENY_ENTRIES,
        F_NO_PREALLOC,
        "IPv4 sources that the prefilter drops",
    ),
    spec::<PrefixKey<16>, u32>(
        DENY6,
        LPM_TRIE,
        DENY_ENTRIES,
        F_NO_PREALLOC,
        "IPv6 sources that the prefilter drops",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_are_unique() {
        for (i, map) in ALL.iter().enumerate() {
            assert!(
                map.name.len() <= 15,
                "{} is too long for the kernel",
                map.name
            );
            assert!(ALL.iter().skip(i + 1).all(|other| other.name != map.name));
        }
    }

    #[test]
    fn tables_indexed_by_mask_are_powers_of_two() {
        assert!(IFINDEX_ENTRIES.is_power_of_two());
        assert!(FLOW_SETS.is_power_of_two());
        assert!(EVENT_BYTES.is_power_of_two());
    }
}

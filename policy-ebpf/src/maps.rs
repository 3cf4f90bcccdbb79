//! The maps. Names, sizes and flags come from `policy_common::abi::maps`; the
//! agent compares every pinned map with the same table.

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use policy_common::abi::config::{Config, EventTokens};
use policy_common::abi::conntrack::{CtCount, CtEntry, CtKey};
use policy_common::abi::endpoint::{Endpoint, IfindexEntry};
use policy_common::abi::event::VerdictEvent;
use policy_common::abi::fragment::{FragEntry, FragKey};
use policy_common::abi::identity::{Cidr4, Cidr6, Id4, Id6};
use policy_common::abi::maps as abi;
use policy_common::abi::policy::{Interval, PolicyEntry, PolicyKey, PortSet};
use policy_common::abi::service::{Svc, SvcKey};
use policy_common::flow_cache::FlowSet;
use policy_common::memo::{Epoch, Memo};

#[btf_map(name = "pa_ifindex")]
pub(crate) static IFINDEX: Array<IfindexEntry, { abi::IFINDEX_ENTRIES }> = Array::new();

#[btf_map(name = "pa_ifindex_more")]
pub(crate) static IFINDEX_MORE: HashMap<
    u32,
    u32,
    { abi::IFINDEX_MORE_ENTRIES },
    { abi::F_NO_PREALLOC },
> = HashMap::new();

#[btf_map(name = "pa_endpoints")]
pub(crate) static ENDPOINTS: Array<Endpoint, { abi::ENDPOINT_ENTRIES }, { abi::F_MMAPABLE }> =
    Array::new();

#[btf_map(name = "pa_id4")]
pub(crate) static ID4: HashMap<[u8; 4], Id4, { abi::ID_ENTRIES }, { abi::F_NO_PREALLOC }> =
    HashMap::new();

#[btf_map(name = "pa_id6")]
pub(crate) static ID6: HashMap<[u8; 16], Id6, { abi::ID_ENTRIES }, { abi::F_NO_PREALLOC }> =
    HashMap::new();

#[btf_map(name = "pa_cidr4")]
pub(crate) static CIDR4: LpmTrie<[u8; 4], Cidr4, { abi::CIDR_ENTRIES }> = LpmTrie::new();

#[btf_map(name = "pa_cidr6")]
pub(crate) static CIDR6: LpmTrie<[u8; 16], Cidr6, { abi::CIDR_ENTRIES }> = LpmTrie::new();

#[btf_map(name = "pa_policy")]
pub(crate) static POLICY: HashMap<
    PolicyKey,
    PolicyEntry,
    { abi::POLICY_ENTRIES },
    { abi::F_NO_PREALLOC },
> = HashMap::new();

#[btf_map(name = "pa_port_sets")]
pub(crate) static PORT_SETS: Array<PortSet, { abi::PORT_SET_ENTRIES }> = Array::new();

#[btf_map(name = "pa_extents")]
pub(crate) static EXTENTS: Array<Interval, { abi::EXTENT_ENTRIES }> = Array::new();

#[btf_map(name = "pa_services")]
pub(crate) static SERVICES: HashMap<SvcKey, Svc, { abi::SERVICE_ENTRIES }, { abi::F_NO_PREALLOC }> =
    HashMap::new();

#[btf_map(name = "pa_ct")]
pub(crate) static CT: HashMap<CtKey, CtEntry, { abi::CT_ENTRIES }> = HashMap::new();

#[btf_map(name = "pa_ct_pending")]
pub(crate) static CT_PENDING: LruHashMap<CtKey, CtEntry, { abi::CT_PENDING_ENTRIES }> =
    LruHashMap::new();

#[btf_map(name = "pa_ct_open")]
pub(crate) static CT_OPEN: LruHashMap<CtKey, CtEntry, { abi::CT_OPEN_ENTRIES }> = LruHashMap::new();

#[btf_map(name = "pa_ct_count")]
pub(crate) static CT_COUNT: Array<CtCount, { abi::ENDPOINT_ENTRIES }, { abi::F_MMAPABLE }> =
    Array::new();

#[btf_map(name = "pa_fragments")]
pub(crate) static FRAGMENTS: LruHashMap<FragKey, FragEntry, { abi::FRAGMENT_ENTRIES }> =
    LruHashMap::new();

#[btf_map(name = "pa_flows")]
pub(crate) static FLOWS: PerCpuArray<FlowSet, { abi::FLOW_SETS }> = PerCpuArray::new();

#[btf_map(name = "pa_epoch")]
pub(crate) static EPOCH: Array<Epoch, 1, { abi::F_MMAPABLE }> = Array::new();

#[btf_map(name = "pa_peer_memo")]
pub(crate) static PEER_MEMO: PerCpuArray<Memo, { abi::PEER_MEMO_ENTRIES }> = PerCpuArray::new();

#[btf_map(name = "pa_policy_memo")]
pub(crate) static POLICY_MEMO: PerCpuArray<Memo, { abi::POLICY_MEMO_ENTRIES }> = PerCpuArray::new();

#[btf_map(name = "pa_counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { abi::COUNTER_ENTRIES }> = PerCpuArray::new();

#[btf_map(name = "pa_events")]
pub(crate) static EVENTS: RingBuf<VerdictEvent, { abi::EVENT_BYTES }> = RingBuf::new();

#[btf_map(name = "pa_event_tokens")]
pub(crate) static EVENT_TOKENS: PerCpuArray<EventTokens, 1> = PerCpuArray::new();

#[btf_map(name = "pa_config")]
pub(crate) static CONFIG: Array<Config, 1, { abi::F_MMAPABLE }> = Array::new();

#[btf_map(name = "pa_protected")]
pub(crate) static PROTECTED: HashMap<
    [u8; 16],
    u32,
    { abi::PROTECTED_ENTRIES },
    { abi::F_NO_PREALLOC },
> = HashMap::new();

#[btf_map(name = "pa_deny4")]
pub(crate) static DENY4: LpmTrie<[u8; 4], u32, { abi::DENY_ENTRIES }> = LpmTrie::new();

#[btf_map(name = "pa_deny6")]
pub(crate) static DENY6: LpmTrie<[u8; 16], u32, { abi::DENY_ENTRIES }> = LpmTrie::new();

//! Run-time settings, and the event rate limit's state.

/// The one element of the settings map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Config {
    /// `FLAG_*`.
    pub flags: u32,
    /// The newest generation given to an endpoint's word. Only ever grows, also
    /// across agents; the kernel does not read it.
    pub generation: u32,
    /// Confirmed connection records that one endpoint may hold at most; it gets fewer
    /// where many share the table, see [`crate::conntrack::may_confirm`].
    pub ct_budget: u32,
    /// Events that each CPU may send per [`EVENT_TICK_NS`].
    pub events_per_tick: u32,
    /// The newest endpoint number given out. Only ever grows.
    pub endpoint_number: u32,
    /// The lowest of our bits in a packet's mark, see [`super::mark`].
    pub mark_shift: u32,
    /// With [`FLAG_CLOSED4`]: the addresses that this node gives to its pods,
    /// network and mask, wire order.
    pub range4: [[u8; 4]; 2],
    /// With [`FLAG_CLOSED6`]: likewise.
    pub range6: [[u8; 16]; 2],
}

/// The emergency switch: nothing is denied. Records are still made, so that
/// switching enforcement on again breaks no connection that policy allows.
pub const FLAG_ENFORCE_OFF: u32 = 1;
/// The IPv4 prefix trie is not empty.
pub const FLAG_CIDR4: u32 = 1 << 1;
/// The IPv6 prefix trie is not empty.
pub const FLAG_CIDR6: u32 = 1 << 2;
/// The table of Services is not empty.
pub const FLAG_SERVICES: u32 = 1 << 3;
/// Something isolates some endpoint for egress: a packet without a mark may be
/// its. Set before the first such word is stored, cleared after the last is gone.
pub const FLAG_EGRESS: u32 = 1 << 4;
/// The node's IPv4 pod range is closed but for the addresses in
/// [`super::maps::PROTECTED`].
pub const FLAG_CLOSED4: u32 = 1 << 5;
/// The node's IPv6 pod range is, likewise.
pub const FLAG_CLOSED6: u32 = 1 << 6;

/// Time after which a CPU's event tokens are renewed, nanoseconds.
pub const EVENT_TICK_NS: u64 = 100_000_000;

/// What a CPU may still send in the current tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct EventTokens {
    /// When the tick ends, nanoseconds of CLOCK_MONOTONIC.
    pub renew_ns: u64,
    /// Events left in it.
    pub left: u32,
    /// The jiffy, low 32 bits, in which an event was refused last: another in it is
    /// too, which spares a look at the clock.
    pub refused: u32,
}

const _: () = {
    assert!(size_of::<Config>() == 64);
    assert!(core::mem::offset_of!(Config, range4) == 24);
    assert!(core::mem::offset_of!(Config, range6) == 32);
};

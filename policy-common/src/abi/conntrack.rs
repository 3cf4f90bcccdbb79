//! Connection records.
//!
//! A record is keyed by what the pod sees, so that one key serves both
//! directions. Its life is in [`crate::conntrack`].

/// Key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CtKey {
    /// Address of the other end, wire order; IPv4 as `::ffff:a.b.c.d`.
    pub peer: [u8; 16],
    /// Number of the endpoint (not its slot: numbers are never used again).
    pub endpoint: u32,
    /// Port at the pod, host order; for ICMP echo its identifier; else 0.
    pub local_port: u16,
    /// Port at the other end, host order; 0 for protocols without ports.
    pub peer_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// 4 or 6, as on the wire.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CtEntry {
    /// Hash of the key: a reader that holds an element while it is given to
    /// another key notices.
    pub tag: u32,
    /// `CT_*` flags.
    pub flags: u32,
    /// Generation of the endpoint's policy word under which the opener's
    /// direction was last judged and allowed.
    pub generation: u32,
    /// Slot of the endpoint, so that a sweeper finds its books.
    pub slot: u32,
    /// Last packet that counted, nanoseconds of CLOCK_MONOTONIC (coarse), at
    /// most about a second old.
    pub last_seen_ns: u64,
}

/// The pod opened the connection (else its peer did).
pub const CT_OPENED_BY_POD: u32 = 1;
/// The other side answered the opener.
pub const CT_REPLIED: u32 = 1 << 1;
/// The opener answered the reply: both ends are real.
pub const CT_CONFIRMED: u32 = 1 << 2;
/// TCP: the opener sent FIN.
pub const CT_FIN_OPENER: u32 = 1 << 3;
/// TCP: the other side sent FIN.
pub const CT_FIN_REPLIER: u32 = 1 << 4;
/// TCP: the last packet that counted was a RST; SCTP: an ABORT.
pub const CT_RESET: u32 = 1 << 5;
/// The node itself opened it (kubelet's probes), or the pod to itself through a
/// Service: always allowed.
pub const CT_FROM_NODE: u32 = 1 << 6;

/// The pod opened it to what is translated on the way: its packets are judged
/// where they leave.
pub const CT_UNDECIDED: u32 = 1 << 7;

/// The books of all endpoints together, beside those of each: slot 0 is nobody's.
pub const CT_ALL_SLOT: u32 = 0;

/// Confirmed records of an endpoint: made by the kernel, removed by the sweeper.
/// (What the agent makes itself it books as so many fewer removed.)
///
/// Each field has one writer side, so that neither needs a lock: their
/// difference is what the endpoint uses of the table, see
/// [`crate::conntrack::may_confirm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CtCount {
    /// Records ever made; the kernel adds.
    pub created: u64,
    /// Records ever removed; the agent stores.
    pub removed: u64,
    /// Not 0 once a record was made in the table of endpoints that nothing isolates;
    /// the kernel stores. Spares the others a look into it.
    pub opened: u64,
}

const _: () = {
    assert!(size_of::<CtKey>() == 28);
    assert!(size_of::<CtEntry>() == 24);
    assert!(size_of::<CtCount>() == 24);
};

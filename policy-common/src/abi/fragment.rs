//! What became of the first fragments of datagrams: the others follow them.
//!
//! Which of them may follow is in [`crate::fragment`].

/// Key: what a receiver puts fragments together by (RFC 791 section 3.2, RFC 8200
/// section 4.5), whose verdict it was, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragKey {
    /// Source address, wire order; IPv4 as `::ffff:a.b.c.d`.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// Identification, host order.
    pub id: u32,
    /// Number of the endpoint whose policy was asked.
    pub endpoint: u32,
    /// IANA protocol number for IPv4; 0 for IPv6, where fragments of one datagram
    /// need not name the same.
    pub protocol: u8,
    /// [`AT_INGRESS`], [`AT_EGRESS`] or [`AT_LEAVING`].
    pub place: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// The endpoint's ingress, where it receives.
pub const AT_INGRESS: u8 = 0;
/// Its egress, where it sends.
pub const AT_EGRESS: u8 = 1;
/// Its egress, where what it sent leaves, on its real destination.
pub const AT_LEAVING: u8 = 2;

/// A first fragment that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct FragEntry {
    /// When, nanoseconds of CLOCK_MONOTONIC (coarse).
    pub seen_ns: u64,
    /// Generation of the word under which it was judged.
    pub generation: u32,
    /// Length of its part of the datagram, units of eight bytes.
    pub units: u16,
    /// State that it left in the mark: [`super::mark`].
    pub state: u8,
    /// Zero.
    pub pad: u8,
    /// Hash of the key: a reader that holds an element while it is given to
    /// another key notices.
    pub tag: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<FragKey>() == 44);
    assert!(size_of::<FragEntry>() == 24);
};

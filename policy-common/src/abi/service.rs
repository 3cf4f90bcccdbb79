//! Services: what is behind an address and port that somebody translates on the
//! packet's way, kube-proxy in most clusters.
//!
//! A pod's packet to a Service shows the Service's address at the pod's veth;
//! its destination is chosen later. The row here says whether it may be one that
//! the pod's policy allows. Which one it was is judged where the packet leaves,
//! see [`super::mark`].

use super::identity::Identity;

/// What a packet to a Service is addressed to: a cluster IP, a load balancer's or
/// external address with the Service's port, or a node's address with a node
/// port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SvcKey {
    /// The address, wire order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// The port, host order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// 4 or 6, as on the wire.
    pub family: u8,
}

/// A backend, as far as policy tells backends apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct SvcBackend {
    /// Class of its address.
    pub identity: Identity,
    /// Port to which packets are translated, host order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

/// Backends that a row holds; [`SVC_MANY`] says that there are more.
pub const SVC_BACKENDS: usize = 8;

/// A Service's row. It repeats its key in front, for the reason given in
/// [`super::identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Svc {
    /// The key once more.
    pub key: SvcKey,
    /// `SVC_*` flags.
    pub flags: u32,
    /// Backends in use, from the first on.
    pub count: u32,
    /// The backends, each pair of identity and port once.
    pub backends: [SvcBackend; SVC_BACKENDS],
}

/// There are more pairs than the row holds: any may be among them, so a packet
/// is judged only where it leaves.
pub const SVC_MANY: u32 = 1;

/// A pod of this node that may ask is among the backends. Only with it may a
/// backend of class [`super::identity::OTHER`], in which most pods are, be the
/// pod that asks.
pub const SVC_OWN: u32 = 2;

const _: () = {
    assert!(size_of::<SvcKey>() == 20);
    assert!(size_of::<SvcBackend>() == 8);
    assert!(size_of::<Svc>() == 92);
    assert!(core::mem::offset_of!(Svc, flags) == 20);
    assert!(core::mem::offset_of!(Svc, backends) == 28);
};

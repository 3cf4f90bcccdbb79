//! Which interface of the node leads to which pod.
//!
//! The answer comes from route netlink alone: a veth says in which network
//! namespace its peer is (`IFLA_LINK_NETNSID`) and which number the peer has
//! there (`IFLA_LINK`), and the kernel lists the addresses of that namespace
//! when asked with that id (`IFA_TARGET_NETNSID`). No namespace is entered and
//! no name is interpreted.
//!
//! - [`Scanner`] reads a [`Snapshot`]; [`Watcher`] says when another is due.
//! - [`node_side()`] finds the node's end of one namespace's interface, for the CNI
//!   plugin; [`any_up()`] tells it whether a namespace is in use.
//! - [`assign()`] is pure: snapshot and pods in, owners and doubts out.
//!
//! What to do with an interface (attach, hold, leave alone) is the caller's.
//! Everything here speaks about the network namespace of the thread that
//! created the scanner and the watcher.

mod assign;
mod error;
mod events;
mod find;
mod netns_dir;
mod pace;
mod scan;
mod snapshot;
mod socket;
mod watch;
mod wire;

pub use assign::{
    Assignment, Conflict, KnownInterface, NoInterface, NotAPod, assign, assign_after,
};
pub use error::IfaceError;
pub use find::{any_up, node_side};
pub use netns_dir::NetnsProblem;
pub use pace::Change;
pub use scan::Scanner;
pub use snapshot::{
    AddressClass, Behind, Link, LinkKind, Nsid, OwnAddress, Peer, PeerAddresses, Snapshot,
};
pub use watch::Watcher;

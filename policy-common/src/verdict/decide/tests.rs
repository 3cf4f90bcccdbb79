//! Policy and records together, packet by packet: who passes, who does not, and
//! what is remembered.
//!
//! - [`world`]: one pod, its peers, its policies as data, and tables in memory.
//! - [`replies`]: what a connection lets through, and what it never does.
//! - [`revocation`]: what a change cuts, what it spares, and no revival.
//! - [`exemptions`]: the node, the pod itself, the emergency switch, fragments.
//! - [`middle`]: what a record says by itself.
//! - [`related`]: ICMP errors, by the packet that they quote.
//! - [`services`]: what is left open for those who see the real destination.
//! - [`records`]: where records are, when they end, and what may be cached.
//! - [`clock`]: a clock that jumps.
//! - [`model`]: random histories against a model written from the text.

mod clock;
mod exemptions;
mod middle;
mod model;
mod records;
mod related;
mod replies;
mod revocation;
mod services;
mod world;

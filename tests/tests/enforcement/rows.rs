//! Policies, and what passes under each: data for `matrix.rs`.
//!
//! In manifests `$ns` is the row's namespace, `$4.name` and `$6.name` are the
//! addresses of a host. A pod is `[part/]name label=value port:number/protocol`;
//! `part/name` is in the namespace `$ns-part`. A probe is
//! `[4|6] from > to: what passes | what does not`, in both families without a
//! number. Every row has the hosts `node`, `outside` (198.51.100.7, 2001:db8::7)
//! and `outside2` (198.51.100.200, 2001:db8::c8); `remote`, `ending` and
//! `host-network` are outside too, for the one row that makes a pod of each.
//!
//! A protocol without ports is asked in one direction between two hosts: what
//! comes back is a reply, whoever meant it.

mod blocks;
mod isolation;
mod peers;
mod ports;

/// Policies with everything that shows what they mean.
pub(crate) struct Row {
    /// Also the name of its namespace.
    pub(crate) name: &'static str,
    pub(crate) pods: &'static [&'static str],
    pub(crate) manifests: &'static str,
    pub(crate) probes: &'static [&'static str],
}

/// All rows, in the order of `semantics.md`, whose sections the files name.
pub(crate) fn all() -> impl Iterator<Item = &'static Row> {
    let sections = [isolation::ROWS, peers::ROWS, blocks::ROWS, ports::ROWS];
    sections.into_iter().flatten()
}

//! The agent's binary beside a real kube-apiserver and etcd. Needs root.
//!
//! `POLICY_AGENT` names the binary, as for the other suites. The programs of the
//! control plane are those that `cargo xtask cluster build` leaves in
//! `target/cluster/bin`; where they are missing, these tests fail.
//!
//! Pods are network namespaces of the lab; there is no kubelet, so the tests write
//! their status.

mod away;
mod bad_days;
mod control_plane;
mod follow;
mod node;
mod objects;
mod proxy;
mod role;
mod told;

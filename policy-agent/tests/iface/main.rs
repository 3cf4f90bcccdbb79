//! Discovery of pods' interfaces on real kernels' network namespaces.
//!
//! Each test builds its own node, pods and wiring and shares nothing with the
//! others. Needs root and iproute2.

mod folder;
mod net;
mod pods;
mod privilege;
mod storm;

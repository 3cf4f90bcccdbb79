//! Fixtures by section of the semantics page: small clusters, allowed and denied both.

mod answers;
mod blocks;
mod families;
mod features;
mod invalid;
mod isolation;
mod nodes;
mod pods;
mod ports;
mod probes;
mod protocols;
mod selectors;
mod services;
mod support;

//! Measurements between the pods of a cluster of real nodes, for
//! `cargo xtask bench --cluster`, which says what enforces there meanwhile.
//!
//! Each measurement is a function from a [`Setting`] to one JSON document; none
//! of them judges. They run where the API server is reached, as an administrator
//! (`KUBECONFIG`), and enter the network namespaces of pods, which works because
//! nodes are on this machine. All times are of this machine's one clock.

mod agent;
mod api;
mod births;
mod churn;
mod connection;
mod effects;
mod first;
mod flood;
mod greeter;
mod latency;
mod leases;
mod newborn;
mod restart;
mod spread;
mod stage;
mod throughput;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

pub use newborn::live;
use stage::Stage;

/// The cluster, as far as it is not asked of the API server.
#[derive(Debug, Clone, Deserialize)]
pub struct Setting {
    /// Its nodes; two are used.
    pub nodes: Vec<Node>,
    /// The image that holds this program as its entry point.
    pub image: String,
}

/// A node, seen from outside.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    /// Its name in the API.
    pub name: String,
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// Where the host-local plugin keeps which addresses it gave.
    pub leases: PathBuf,
    /// Where its kubelet keeps what containers print.
    pub logs: PathBuf,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Creates the pods and policies that all others use.
    Prepare,
    /// Removes them.
    Clear,
    /// Pods that begin under a flood: so many.
    Births,
    /// Pods that begin one by one: so many.
    First,
    /// New connections and datagrams a second: so many rounds.
    Throughput,
    /// From the API server's answer about a policy to its effect: so many changes each way.
    Policy,
    /// The same for a peer's label.
    Label,
    /// The same for a policy, while 50 labels a second change.
    Churn,
    /// An open connection after a new deny: so many times.
    Connection,
    /// What the agents need while 50 labels a second change: so many seconds.
    Load,
    /// `kill -9` of an agent, once.
    Kill,
}

impl Measure {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 11] = [
        ("prepare", Self::Prepare),
        ("clear", Self::Clear),
        ("births", Self::Births),
        ("first", Self::First),
        ("throughput", Self::Throughput),
        ("policy", Self::Policy),
        ("label", Self::Label),
        ("churn", Self::Churn),
        ("connection", Self::Connection),
        ("load", Self::Load),
        ("kill", Self::Kill),
    ];

    /// The one of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(own, _)| *own == name);
        let (_, measure) = found.with_context(|| format!("nothing called {name} is measured"))?;
        Ok(*measure)
    }

    /// Measures; `count` is what its description says.
    ///
    /// # Errors
    /// When something cannot be measured; whatever was measured badly is in the
    /// result.
    pub fn run(self, setting: Setting, count: usize) -> Result<Value> {
        if self == Self::Prepare {
            stage::prepare(&setting)?;
            return Ok(Value::Null);
        }
        if self == Self::Clear {
            stage::clear()?;
            return Ok(Value::Null);
        }
        let stage = Stage::open(setting)?;
        let result = match self {
            Self::Prepare | Self::Clear => Value::Null,
            Self::Births => serde_json::to_value(births::measure(&stage, count)?)?,
            Self::First => serde_json::to_value(first::measure(&stage, count)?)?,
            Self::Throughput => serde_json::to_value(throughput::measure(&stage, count)?)?,
            Self::Policy => serde_json::to_value(latency::policy(&stage, count)?)?,
            Self::Label => serde_json::to_value(latency::label(&stage, count)?)?,
            Self::Churn => serde_json::to_value(latency::churn(&stage, count)?)?,
            Self::Connection => serde_json::to_value(connection::measure(&stage, count)?)?,
            Self::Load => serde_json::to_value(churn::load(&stage, count)?)?,
            Self::Kill => serde_json::to_value(restart::kill(&stage)?)?,
        };
        Ok(result)
    }
}

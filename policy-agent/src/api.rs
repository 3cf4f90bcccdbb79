//! What the command line asks a running agent, and what it answers: one JSON
//! line each way over a unix socket in the run directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cni::statement::{Answer, Question};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// [`Status`]; with `wait`, after all that was there before the request is in
    /// force.
    Status {
        /// Look at every source once more first, and put what they say in force.
        wait: bool,
    },
    /// [`Vec<Endpoint>`].
    Endpoints,
    /// [`Vec<Identity>`].
    Identities,
    /// [`Vec<Policy>`].
    Policies,
    /// [`Response::Monitoring`], and then a line for each verdict that the filter
    /// wants, until one side ends: the JSON of `run`, or
    /// `{"type":"lost","lines":n}` where the reader was too slow.
    Monitor(MonitorFilter),
    /// Of the CNI plugin: [`Answer`].
    Cni(Question),
}

/// Which verdicts a watcher wants: all that match whatever is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorFilter {
    /// Namespace of the pod at either end.
    pub namespace: Option<String>,
    /// Pod at either end: `namespace/name`, or a name in any namespace.
    pub pod: Option<String>,
    /// `allow` or `deny`.
    pub verdict: Option<String>,
    /// A reason, as verdicts name it.
    pub reason: Option<String>,
    /// `ingress` or `egress`, of the judged pod.
    pub direction: Option<String>,
    /// A policy that is named, as `namespace/name`.
    pub policy: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Endpoints`].
    Endpoints(Vec<Endpoint>),
    /// To [`Request::Identities`].
    Identities(Vec<Identity>),
    /// To [`Request::Policies`].
    Policies(Vec<Policy>),
    /// To [`Request::Monitor`]: verdicts follow.
    Monitoring,
    /// To [`Request::Cni`].
    Cni(Answer),
    /// The request was not understood, or could not be answered.
    Error(String),
}

/// How the agent is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Hash of the kernel programs that it brought.
    pub programs: String,
    /// Name of the node that it is for.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// It can do its work: the datapath takes operations.
    pub healthy: bool,
    /// Every source has been read completely at least once.
    pub synced: bool,
    /// What the sources say is in force, except what a diagnostic says is not.
    pub programmed: bool,
    /// Enforcement is switched on.
    pub enforcing: bool,
    /// How programs are attached: `tcx` or `clsact`.
    pub attachment: String,
    /// Changes put in force since the agent started.
    pub changes: u64,
    /// Differences between kernel and desired state that were found and repaired.
    pub repairs: u64,
    /// What is watched of an API server; empty with a folder of manifests.
    #[serde(default)]
    pub sources: Vec<SourceState>,
    /// Pods that policy applies to.
    pub endpoints: Vec<Endpoint>,
    /// Which version of each policy is in force; none where sources tell no
    /// versions.
    #[serde(default)]
    pub policies: Vec<PolicyVersions>,
    /// Pods that got an interface, as the CNI plugin or library told, and whose
    /// policies are not known yet: nothing but the node's own traffic passes.
    #[serde(default)]
    pub awaited: Vec<Awaited>,
    /// Isolated pods that could be reached for a while before their policies were
    /// in force: the latest of them.
    #[serde(default)]
    pub unprotected: Vec<Unprotected>,
    /// How many of these there were since the agent started.
    #[serde(default)]
    pub unprotected_total: u64,
    /// Interfaces that could be a pod's and are not known to be.
    pub other_interfaces: Vec<OtherInterface>,
    /// What is wrong, or worth knowing.
    pub diagnostics: Vec<Diagnostic>,
    /// Packet counters that are not zero, by `direction/name`.
    pub counters: BTreeMap<String, u64>,
}

/// One kind of object that is watched, as `source::kubernetes::FeedState`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Which objects.
    pub name: String,
    /// A complete list was read at least once.
    pub synced: bool,
    /// Objects in the last complete list.
    pub objects: usize,
    /// For how many seconds the server has not answered as it should; `None`: it
    /// does.
    pub disconnected_seconds: Option<u64>,
    /// The last failure, also if all is well again.
    pub last_error: Option<String>,
    /// How often a watch was opened again, be it that its time was up.
    pub restarts: u64,
    /// How often everything was listed.
    pub lists: u64,
}

/// A local pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `namespace/name`.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Name of the host side of its veth; `None`: it has none here (yet).
    pub interface: Option<String>,
    /// Index of it.
    pub ifindex: Option<u32>,
    /// Its slot in the kernel's table.
    pub slot: Option<u32>,
    /// Generation of its policy word.
    pub generation: Option<u32>,
    /// Identities of its addresses as peers.
    pub identities: Vec<u32>,
    /// Policies that isolate it for ingress; `None`: nothing does.
    pub ingress: Option<Isolation>,
    /// Policies that isolate it for egress, likewise.
    pub egress: Option<Isolation>,
    /// Its policies are in force as desired.
    pub programmed: bool,
}

/// What isolates a pod in one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Isolation {
    /// Number of the compiled policy in the kernel, if it is there.
    pub policy: Option<u16>,
    /// The policies, `namespace/name`.
    pub policies: Vec<String>,
    /// Which version of them the pod has, by the same names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, Version>,
}

/// A version of an object, as the object says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Version {
    /// `metadata.uid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// `metadata.generation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// `metadata.resourceVersion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// What became of the versions of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersions {
    /// API kind.
    pub kind: String,
    /// `namespace/name`.
    pub policy: String,
    /// In force, for every pod of the node that it applies to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<Version>,
    /// Read and understood, and not in force for every pod (yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Version>,
    /// Read and not understood: the one before stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Version>,
}

/// A pod that was told of by CNI alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// `namespace/name`.
    pub pod: String,
    /// Its `metadata.uid`; may be empty.
    pub uid: String,
    /// Index of the node's end of its interface.
    pub ifindex: u32,
    /// For how long it has been held, in milliseconds.
    pub milliseconds: u64,
    /// What is waited for.
    pub why: String,
}

/// A pod that could be reached before its policies were in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unprotected {
    /// `namespace/name`.
    pub pod: String,
    /// Its `metadata.uid`; may be empty.
    pub uid: String,
    /// For how long, in milliseconds, as far as the agent saw it.
    pub milliseconds: u64,
    /// It was there before the agent, so that it was longer.
    pub before_agent: bool,
}

/// An interface that is not known to be a pod's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OtherInterface {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Why it is left alone, or held.
    pub why: String,
    /// Nothing but the node's own traffic passes.
    pub held: bool,
}

/// A diagnostic, as `policy_core::diagnostic::Diagnostic`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The object, as `Kind namespace/name`, or what stands for it.
    pub object: String,
    /// The file that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The field; may be empty.
    pub path: String,
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// What is wrong, and what happens because of it.
    pub message: String,
}

/// An identity in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub identity: u32,
    /// Addresses and prefixes that have it, pods by name.
    pub members: Vec<String>,
}

/// A compiled policy in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its number.
    pub policy: u32,
    /// Pods that have it, as `namespace/name direction`.
    pub pods: Vec<String>,
    /// What it says, row by row.
    pub rows: Vec<Row>,
}

/// A row of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Identity of the peer; 0: every other.
    pub identity: u32,
    /// What is said, in words: `allow TCP 80 (default/web spec.ingress[0])`.
    pub says: Vec<String>,
}

impl From<&crate::source::version::Version> for Version {
    fn from(version: &crate::source::version::Version) -> Self {
        Self {
            uid: version.uid.as_deref().map(str::to_owned),
            generation: version.generation,
            resource_version: version.resource_version.as_deref().map(str::to_owned),
        }
    }
}

impl From<&policy_core::diagnostic::Diagnostic> for Diagnostic {
    fn from(diagnostic: &policy_core::diagnostic::Diagnostic) -> Self {
        use policy_core::diagnostic::Severity;
        Self {
            object: diagnostic.object.clone(),
            source: diagnostic.source.clone(),
            path: diagnostic.path.clone(),
            severity: match diagnostic.severity {
                Severity::Info => "info",
                Severity::Warning => "warning",
                Severity::Error => "error",
            }
            .to_owned(),
            message: diagnostic.message.clone(),
        }
    }
}

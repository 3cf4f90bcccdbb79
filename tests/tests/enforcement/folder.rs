//! The folder of manifests that the agent reads, and the objects in it.
//!
//! Every file appears whole: it is written under a hidden name and renamed. What
//! belongs to one change is in one file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use policy_tests::lab::Host;
use serde_json::{Value, json};

/// A folder of manifests.
#[derive(Clone)]
pub(crate) struct Folder {
    dir: PathBuf,
}

impl Folder {
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes a file, or replaces it at once.
    pub(crate) fn put(&self, name: &str, text: &str) -> Result<()> {
        let (hidden, file) = (self.dir.join(format!(".{name}")), self.dir.join(name));
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, &file))
            .with_context(|| format!("write {}", file.display()))
    }

    /// Writes objects into one file, so that they change together.
    pub(crate) fn put_all(&self, name: &str, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.put(name, &list.to_string())
    }

    /// Removes a file that may not be there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {name}"))
            }
            _ => Ok(()),
        }
    }
}

/// A pod as its manifest shows it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Name, number and protocol.
    pub(crate) ports: Vec<(String, u16, String)>,
}

impl Pod {
    pub(crate) fn of(host: &Host, uid: &str) -> Self {
        let addresses = host.addresses();
        Self {
            name: host.name().to_owned(),
            uid: uid.to_owned(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
        }
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn port(mut self, name: &str, number: u16, protocol: &str) -> Self {
        self.ports.push((name.into(), number, protocol.into()));
        self
    }

    /// The name of its file.
    pub(crate) fn file(&self) -> String {
        format!("pod-{}.json", self.name.replace('/', "_"))
    }

    pub(crate) fn manifest(&self, node: &str) -> Value {
        let (namespace, name) = self.name.split_once('/').expect("namespace/name");
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, number, protocol)| {
                json!({"name": name, "containerPort": number, "protocol": protocol})
            })
            .collect();
        let addresses: Vec<Value> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "uid": self.uid, "labels": self.labels,
            },
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIP": self.addresses.first(), "podIPs": addresses},
        })
    }
}

/// The direction in which a policy isolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Ingress,
    Egress,
}

/// A policy that isolates the pods of `subject` (`app=...`) and allows for each
/// `(peer app, ports)` those TCP and UDP ports, or everything if there are none.
pub(crate) fn allow(way: Way, policy: &str, subject: &str, rules: &[(&str, &[u16])]) -> Value {
    let (namespace, name) = policy.split_once('/').expect("namespace/name");
    let (kind, list, peers) = match way {
        Way::Ingress => ("Ingress", "ingress", "from"),
        Way::Egress => ("Egress", "egress", "to"),
    };
    let rules: Vec<Value> = rules
        .iter()
        .map(|(peer, ports)| {
            let ports: Vec<Value> = ports
                .iter()
                .flat_map(|port| ["TCP", "UDP"].map(|protocol| (port, protocol)))
                .map(|(port, protocol)| json!({"port": port, "protocol": protocol}))
                .collect();
            json!({peers: [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": ports})
        })
        .collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": subject}},
            "policyTypes": [kind],
            list: rules,
        },
    })
}

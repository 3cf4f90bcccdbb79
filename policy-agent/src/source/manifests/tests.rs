//! Folders of manifests, on a real file system.

mod bad_input;
mod folders;
mod watching;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use policy_core::diagnostic::Severity;
use policy_core::store::{ChangeSet, Store};

use super::*;

/// A folder of its own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("policy-manifests-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) {
        std::os::unix::fs::symlink(target, self.path(name)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What an agent makes of a folder: its objects and the last diagnostics.
struct Reader {
    manifests: Manifests,
    store: Store,
    diagnostics: Vec<Diagnostic>,
}

impl Reader {
    fn of(manifests: Manifests) -> Self {
        let mut reader = Self {
            manifests,
            store: Store::new(),
            diagnostics: Vec::new(),
        };
        reader.look();
        reader
    }

    fn new(folder: &Folder) -> Self {
        Self::of(Manifests::new(vec![folder.0.clone()]))
    }

    fn look(&mut self) -> ChangeSet {
        let update = self.manifests.rescan();
        self.diagnostics = update.diagnostics;
        self.store.apply_all(update.events)
    }

    /// Policies as `name:port,port`, and pods as `name@address`, in order.
    fn sees(&self) -> Vec<String> {
        let policies = self.store.policies().values().map(|policy| {
            let rules = policy.ingress.iter().flatten();
            let ports: Vec<_> = rules.map(|rule| port_of(&rule.ports)).collect();
            format!("{}:{}", policy.id.name, ports.join(","))
        });
        let pods = self.store.pods().values().map(|pod| {
            let addresses: Vec<_> = pod.addresses().map(|a| a.to_string()).collect();
            format!("{}@{}", pod.name, addresses.join(","))
        });
        policies.chain(pods).collect()
    }

    /// Diagnostics of a severity, as `object source path`.
    fn found(&self, severity: Severity) -> Vec<String> {
        let root = format!("{}/", self.manifests.roots[0].display());
        let found = self.diagnostics.iter().filter(|d| d.severity == severity);
        let mut found: Vec<_> = found
            .map(|d| {
                let source = d.source.as_deref().unwrap_or("-");
                format!("{} {source} {}", d.object, d.path).replace(&root, "")
            })
            .collect();
        found.sort();
        found
    }

    fn errors(&self) -> Vec<String> {
        self.found(Severity::Error)
    }
}

fn port_of(ports: &policy_core::model::Ports) -> String {
    use policy_core::model::{PortMatch, Ports};
    match ports {
        Ports::Any => "any".to_owned(),
        Ports::Of(list) => match list.as_slice() {
            [PortMatch::Range { first, .. }] => first.to_string(),
            other => format!("{other:?}"),
        },
    }
}

/// A policy whose only rule opens a port.
fn policy(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata:\n  name: {name}\nspec:\n  podSelector: {{}}\n\
         \x20 ingress:\n  - ports:\n    - port: {port}\n"
    )
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n\
         status:\n  podIPs:\n  - ip: {address}\n"
    )
}

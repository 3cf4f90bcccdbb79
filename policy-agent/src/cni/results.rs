//! The records that the CNI library leaves at the end of each ADD, before any
//! container of the pod starts: pod, addresses and interfaces, for nodes without
//! the plugin. Pure, but for [`Reader`].
//!
//! One file an attachment, `<network>-<container>-<interface>`. The library does
//! not write them atomically, and a node that was switched off leaves those of
//! pods that are gone: what a record says counts only where the interface and an
//! address are found as it says (the agent's to check).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use super::protocol::PodArgs;
use super::result;
use super::statement::{AttachmentId, Statement};

/// Where the library keeps them, unless it is told otherwise.
pub const FOLDER: &str = "/var/lib/cni/results";

/// Bytes of a record at most; the network's configuration is in it.
const LONGEST: u64 = 1024 * 1024;
/// Records that are read at most.
const MOST: usize = 4_096;

/// `kind` of the records.
const KIND: &str = "cniCacheV1";

/// What the folder says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// Of pods, the oldest first.
    pub statements: Vec<Statement>,
    /// Files that are not understood, and why.
    pub bad: BTreeMap<PathBuf, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    kind: String,
    container_id: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: Option<result::Wire>,
}

/// Reads a record; `None`: it is of no pod.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8]) -> Result<Option<Statement>, String> {
    let wire: Wire = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if wire.kind != KIND {
        return Err(format!("kind is {:?} instead of {KIND:?}", wire.kind));
    }
    let pairs = wire.cni_args.iter().flatten();
    let Some(pod) = PodArgs::from_pairs(pairs.map(|(key, value)| (key.as_str(), value.as_str())))
    else {
        return Ok(None);
    };
    let attached = result::read(&wire.result.unwrap_or_default(), &wire.if_name)
        .map_err(|error| format!("result.{error}"))?;
    Ok(Some(Statement {
        id: AttachmentId {
            container: wire.container_id,
            ifname: wire.if_name,
        },
        network: wire.network_name,
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        addresses: attached.addresses,
        node_interfaces: attached.node_interfaces,
        ifindex: None,
    }))
}

/// Reads the folder, and again only what is new in it.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    known: BTreeMap<PathBuf, Known>,
}

/// A file that was read: when it was written, its length, and what it says.
type Known = (SystemTime, u64, Option<Statement>);

impl Reader {
    /// A reader of a folder that need not exist.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            known: BTreeMap::new(),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads it; one that does not exist is empty.
    ///
    /// # Errors
    /// When it is there and cannot be listed.
    pub fn read(&mut self) -> io::Result<Records> {
        let mut records = Records::default();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.known.clear();
                return Ok(records);
            }
            Err(error) => return Err(error),
        };
        let mut known = BTreeMap::new();
        for (count, entry) in entries.enumerate() {
            let path = entry?.path();
            if count >= MOST {
                let why = format!("there are more than {MOST} files; the others are not read");
                records.bad.insert(self.folder.clone(), why);
                break;
            }
            match read_one(&path, self.known.get(&path)) {
                Ok(Some(read)) => {
                    known.insert(path, read);
                }
                Ok(None) => {}
                // Its DEL came meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    records.bad.insert(path, error.to_string());
                }
            }
        }
        self.known = known;
        let mut dated: Vec<_> = self.known.iter().collect();
        dated.sort_by_key(|(path, (written, ..))| (*written, *path));
        let statements = dated.into_iter().map(|(_, (.., told))| told.clone());
        records.statements = statements.flatten().collect();
        Ok(records)
    }
}

fn read_one(path: &Path, known: Option<&Known>) -> io::Result<Option<Known>> {
    let invalid = |why: String| io::Error::new(ErrorKind::InvalidData, why);
    // Of links, what they lead to: a socket or pipe is never opened.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let length = metadata.len();
    if length > LONGEST {
        return Err(invalid(format!("it has {length} bytes")));
    }
    let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    if let Some(known) = known.filter(|known| (known.0, known.1) == (written, length)) {
        return Ok(Some(known.clone()));
    }
    let statement = parse(&fs::read(path)?).map_err(invalid)?;
    Ok(Some((written, length, statement)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As containerd's library writes it.
    const RECORD: &str = r#"{"kind":"cniCacheV1","containerId":"c0ffee","config":"eyJ9","ifName":"eth0",
        "networkName":"lab","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],
        ["K8S_POD_NAME","db-0"],["K8S_POD_INFRA_CONTAINER_ID","c0ffee"],["K8S_POD_UID","u-1"]],
        "capabilityArgs":{"dns":{}},"result":{"cniVersion":"1.0.0","dns":{},
        "interfaces":[{"mac":"aa","name":"cni0"},{"mac":"bb","name":"veth1"},
        {"mac":"cc","name":"eth0","sandbox":"/var/run/netns/cni-1"}],
        "ips":[{"address":"10.88.1.2/24","gateway":"10.88.1.1","interface":2}],
        "routes":[{"dst":"0.0.0.0/0"}]}}"#;

    #[test]
    fn a_record_tells_pod_addresses_and_interfaces() {
        let expected = Statement {
            id: AttachmentId {
                container: "c0ffee".into(),
                ifname: "eth0".into(),
            },
            network: "lab".into(),
            namespace: "shop".into(),
            name: "db-0".into(),
            uid: "u-1".into(),
            addresses: vec!["10.88.1.2".parse().expect("literal")],
            node_interfaces: vec!["cni0".into(), "veth1".into()],
            ifindex: None,
        };
        assert_eq!(parse(RECORD.as_bytes()), Ok(Some(expected)));
    }

    #[test]
    fn a_container_that_is_no_pod_is_none_and_what_is_broken_is_said() {
        let no_pod = RECORD.replace("K8S_POD_NAME\"", "NAME\"");
        assert_eq!(parse(no_pod.as_bytes()), Ok(None));
        let cases = [
            ("", "EOF"),
            (&RECORD[..RECORD.len() / 2], "EOF"),
            (&RECORD.replace("cniCacheV1", "cniCacheV9"), "cniCacheV9"),
            (&RECORD.replace("containerId", "container"), "containerId"),
            (
                &RECORD.replace("10.88.1.2/24", "10.88"),
                "result.ips[0].address",
            ),
        ];
        for (text, part) in cases {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_folder_is_read_around_what_is_bad_in_it_and_again_when_it_changes() {
        let dir = std::env::temp_dir().join(format!("cni-results-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut reader = Reader::new(dir.clone());
        assert_eq!(reader.read().expect("no folder"), Records::default());
        fs::create_dir_all(dir.join("a-folder")).expect("a folder");
        fs::write(dir.join("lab-c0ffee-eth0"), RECORD).expect("a file");
        fs::write(dir.join("lab-half-eth0"), &RECORD[..40]).expect("a file");
        let records = reader.read().expect("readable");
        assert_eq!(records.statements.len(), 1);
        let bad: Vec<_> = records.bad.keys().cloned().collect();
        assert_eq!(bad, [dir.join("lab-half-eth0")]);
        // Written to its end, and another one gone.
        let whole = RECORD.replace("c0ffee", "decaf");
        fs::write(dir.join("lab-half-eth0"), whole).expect("a file");
        fs::remove_file(dir.join("lab-c0ffee-eth0")).expect("there");
        let records = reader.read().expect("readable");
        let ids: Vec<&str> = records
            .statements
            .iter()
            .map(|told| told.id.container.as_str())
            .collect();
        assert_eq!((ids, records.bad.len()), (vec!["decaf"], 0));
        assert_eq!(reader.read().expect("readable"), records);
        fs::remove_dir_all(&dir).expect("removable");
        assert_eq!(reader.read().expect("no folder"), Records::default());
    }
}

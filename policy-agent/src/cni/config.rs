//! What a runtime says on standard input: our entry of the network's list, with
//! the network's name and version and the result of the plugins before us. Pure.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::protocol::{CniError, NEWEST, VERSIONS, code};
use super::statement::AttachmentId;

/// How long ADD waits for the policies of the pod, unless the configuration says
/// otherwise. Kubelets give up after two minutes.
pub(super) const WAIT: Duration = Duration::from_secs(10);
/// How long the configuration may let it wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Which of our two entries in the network's list is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Before the network's plugins: there is no interface yet.
    Hold,
    /// Behind them, and what an entry without `stage` is.
    #[default]
    Enforce,
}

/// The configuration of a call.
#[derive(Debug)]
pub(super) struct Config {
    /// `cniVersion`.
    pub(super) version: String,
    /// `name` of the network; empty where a call needs none.
    pub(super) network: String,
    /// `stage`.
    pub(super) stage: Stage,
    /// `prevResult`, as it came.
    pub(super) previous: Option<Box<RawValue>>,
    /// The agent's run directory.
    pub(super) run_dir: PathBuf,
    /// Mount point of the BPF file system.
    pub(super) bpffs: PathBuf,
    /// How long ADD waits.
    pub(super) wait: Duration,
    /// `cni.dev/valid-attachments`, of a GC.
    pub(super) valid: Option<Vec<AttachmentId>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wire {
    cni_version: Option<String>,
    name: String,
    stage: Stage,
    prev_result: Option<Box<RawValue>>,
    run_dir: Option<PathBuf>,
    bpffs: Option<PathBuf>,
    wait_milliseconds: Option<u64>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Valid>>,
    // The name in a draft of the specification; callers send both.
    #[serde(rename = "cni.dev/attachments")]
    valid_in_drafts: Option<Vec<Valid>>,
}

#[derive(Debug, Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl Config {
    /// Reads standard input.
    ///
    /// # Errors
    /// [`code::DECODE`] and [`code::INCOMPATIBLE_VERSION`].
    pub(super) fn parse(text: &str) -> Result<Self, CniError> {
        let wire: Wire = object(text).map_err(|why| {
            let msg = "the network configuration is not understood";
            CniError::new(code::DECODE, msg, why)
        })?;
        let version = wire.cni_version.unwrap_or_else(|| NEWEST.to_owned());
        if !VERSIONS.contains(&version.as_str()) {
            return Err(CniError::new(
                code::INCOMPATIBLE_VERSION,
                "incompatible CNI version",
                format!(
                    "the network configuration has cniVersion {version:?}; one of {} is needed",
                    VERSIONS.join(", ")
                ),
            ));
        }
        let wait = wire.wait_milliseconds.map_or(WAIT, Duration::from_millis);
        let valid = wire.valid.or(wire.valid_in_drafts).map(|all| {
            let id = |valid: Valid| AttachmentId {
                container: valid.container,
                ifname: valid.ifname,
            };
            all.into_iter().map(id).collect()
        });
        Ok(Self {
            version,
            network: wire.name,
            stage: wire.stage,
            previous: wire.prev_result.filter(|raw| raw.get() != "null"),
            run_dir: wire
                .run_dir
                .unwrap_or_else(|| PathBuf::from("/run/policy-agent")),
            bpffs: wire.bpffs.unwrap_or_else(|| PathBuf::from("/sys/fs/bpf")),
            wait: wait.min(LONGEST_WAIT),
            valid,
        })
    }
}

/// Reads a JSON object; a list would do for serde.
pub(super) fn object<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, String> {
    if !text.trim_start().starts_with('{') {
        return Err("it is no JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default_and_what_is_unknown_is_ignored() {
        let config = Config::parse(r#"{"cniVersion":"1.0.0","name":"n","type":"t","x":1}"#);
        let config = config.expect("complete");
        assert_eq!(config.network, "n");
        assert_eq!(config.run_dir, PathBuf::from("/run/policy-agent"));
        assert_eq!(config.bpffs, PathBuf::from("/sys/fs/bpf"));
        assert_eq!(config.wait, WAIT);
        assert_eq!(config.stage, Stage::Enforce);
        assert!(config.previous.is_none() && config.valid.is_none());
    }

    #[test]
    fn previous_result_is_kept_as_it_came() {
        let odd = r#"{ "ips":[],  "z":1, "a":12345678901234567890123 }"#;
        let text = format!(r#"{{"cniVersion":"0.4.0","name":"n","prevResult":{odd}}}"#);
        let config = Config::parse(&text).expect("complete");
        assert_eq!(config.previous.expect("there").get(), odd);
        let config = Config::parse(r#"{"prevResult":null}"#).expect("complete");
        assert!(config.previous.is_none());
    }

    #[test]
    fn versions_that_we_do_not_speak_and_bad_json_are_told_apart() {
        let code_of = |text: &str| Config::parse(text).expect_err(text).code;
        for version in ["0.1.0", "0.2.0", "1.2.0", "2.0.0", ""] {
            let text = format!(r#"{{"cniVersion":{version:?},"name":"n"}}"#);
            assert_eq!(code_of(&text), code::INCOMPATIBLE_VERSION, "{version}");
        }
        for text in [
            "",
            "{",
            "[]",
            r#"{"name":1}"#,
            r#"{"cniVersion":1}"#,
            r#"{"stage":"middle"}"#,
        ] {
            assert_eq!(code_of(text), code::DECODE, "{text}");
        }
        for version in VERSIONS {
            let text = format!(r#"{{"cniVersion":{version:?}}}"#);
            assert!(Config::parse(&text).is_ok());
        }
    }

    #[test]
    fn valid_attachments_have_two_names_of_which_the_settled_one_counts() {
        let list = |ids: &str| format!(r#"[{{"containerID":"{ids}","ifname":"eth0"}}]"#);
        let valid = |text: String| Config::parse(&text).expect("complete").valid;
        let id = |container: &str| AttachmentId {
            container: container.into(),
            ifname: "eth0".into(),
        };
        let both = format!(
            r#"{{"cni.dev/attachments":{},"cni.dev/valid-attachments":{}}}"#,
            list("draft"),
            list("a")
        );
        assert_eq!(valid(both), Some(vec![id("a")]));
        let draft = format!(r#"{{"cni.dev/attachments":{}}}"#, list("draft"));
        assert_eq!(valid(draft), Some(vec![id("draft")]));
        assert_eq!(
            valid(r#"{"cni.dev/valid-attachments":[]}"#.into()),
            Some(vec![])
        );
        assert_eq!(valid("{}".into()), None);
    }

    #[test]
    fn nobody_can_make_it_wait_longer_than_a_kubelet_does() {
        let config = Config::parse(r#"{"waitMilliseconds":3600000}"#).expect("complete");
        assert_eq!(config.wait, LONGEST_WAIT);
        let config = Config::parse(r#"{"waitMilliseconds":5}"#).expect("complete");
        assert_eq!(config.wait, Duration::from_millis(5));
    }
}

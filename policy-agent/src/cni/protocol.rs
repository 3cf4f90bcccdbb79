//! What a runtime says by environment variables, and how it is answered: the
//! execution protocol of the CNI specification, 0.3 to 1.1. Pure.

use serde::Serialize;

/// Versions of the specification that the plugin speaks. It passes the previous
/// result through as it is, so what differs between them does not concern it.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The version of what is answered where no configuration names one.
pub const NEWEST: &str = "1.1.0";

/// Error codes. Up to 99 they are the specification's.
pub mod code {
    /// The configuration's version is none that we speak.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// An environment variable is missing or makes no sense.
    pub const ENVIRONMENT: u32 = 4;
    /// A file or the standard input cannot be read or written.
    pub const IO: u32 = 5;
    /// The configuration is not the JSON that it should be.
    pub const DECODE: u32 = 6;
    /// The configuration makes no sense.
    pub const CONFIGURATION: u32 = 7;
    /// Nothing is wrong with the request: try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// (STATUS) The plugin cannot serve an ADD now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The pod is behind no interface that can be enforced.
    pub const NOT_ENFORCEABLE: u32 = 100;
    /// (CHECK) The pod is not protected as it was when it was added.
    pub const NOT_PROTECTED: u32 = 101;
}

/// What is answered when something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What is wrong, in a few words.
    pub msg: String,
    /// The object, the field and the next step.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with its next step.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: details.into(),
        }
    }

    /// As the specification wants it on standard output.
    #[must_use]
    pub fn to_json(&self, version: &str) -> String {
        #[derive(Serialize)]
        struct Answer<'a> {
            #[serde(rename = "cniVersion")]
            version: &'a str,
            #[serde(flatten)]
            error: &'a CniError,
        }
        let answer = Answer {
            version,
            error: self,
        };
        serde_json::to_string(&answer).unwrap_or_else(|_| r#"{"code":5}"#.to_owned())
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A container got an interface.
    Add,
    /// It loses it.
    Del,
    /// Is it as it was?
    Check,
    /// Only these attachments exist.
    Gc,
    /// Could an ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

/// The environment of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`; empty where the verb needs none.
    pub container: String,
    /// `CNI_NETNS`; empty where the verb needs none, or the namespace is gone.
    pub netns: String,
    /// `CNI_IFNAME`; empty where the verb needs none.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Environment {
    /// Reads and checks what `variable` answers.
    ///
    /// # Errors
    /// [`code::ENVIRONMENT`] names the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let command = variable("CNI_COMMAND").unwrap_or_default();
        let verb = match command.as_str() {
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => Verb::Version,
            other => {
                return Err(CniError::new(
                    code::ENVIRONMENT,
                    "CNI_COMMAND is no command",
                    format!(
                        "it is {other:?}: ADD, DEL, CHECK, GC, STATUS or VERSION; \
                         this is a CNI plugin, which container runtimes call"
                    ),
                ));
            }
        };
        let text = |name: &str| variable(name).unwrap_or_default();
        let environment = Self {
            verb,
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
        };
        environment.check()?;
        Ok(environment)
    }

    fn check(&self) -> Result<(), CniError> {
        let error = |name: &str, value: &str| {
            let details = if value.is_empty() {
                "it is not set".to_owned()
            } else {
                format!("it is {value:?}")
            };
            Err(CniError::new(
                code::ENVIRONMENT,
                format!("{name} makes no sense"),
                details,
            ))
        };
        if matches!(self.verb, Verb::Add | Verb::Del | Verb::Check) {
            if !is_container_id(&self.container) {
                return error("CNI_CONTAINERID", &self.container);
            }
            if !is_interface_name(&self.ifname) {
                return error("CNI_IFNAME", &self.ifname);
            }
        }
        if matches!(self.verb, Verb::Add | Verb::Check) && self.netns.is_empty() {
            return error("CNI_NETNS", &self.netns);
        }
        Ok(())
    }

    /// The pod that `CNI_ARGS` names.
    ///
    /// # Errors
    /// [`code::ENVIRONMENT`]: it names none. Without a name nobody could tell
    /// which policies are meant, so nothing is let through.
    pub fn pod(&self) -> Result<PodArgs, CniError> {
        PodArgs::from_pairs(
            self.args
                .split(';')
                .filter_map(|argument| argument.split_once('=')),
        )
        .ok_or_else(|| {
            CniError::new(
                code::ENVIRONMENT,
                "CNI_ARGS names no pod",
                format!(
                    "it is {:?}, without K8S_POD_NAMESPACE and K8S_POD_NAME; \
                     use another network for containers that are no pods",
                    self.args
                ),
            )
        })
    }
}

/// A pod, as a runtime names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; empty with runtimes that do not say.
    pub uid: String,
}

impl PodArgs {
    /// The pod in pairs of argument and value; `None`: there is none.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut pod = Self {
            namespace: String::new(),
            name: String::new(),
            uid: String::new(),
        };
        for (key, value) in pairs {
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                _ => {}
            }
        }
        (!pod.namespace.is_empty() && !pod.name.is_empty()).then_some(pod)
    }
}

/// As the specification has it: alphanumeric first, then also `_`, `.`, `-`. It
/// becomes part of a file's name.
pub(super) fn is_container_id(text: &str) -> bool {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    first && text.len() <= 200 && characters.all(rest)
}

/// As the kernel has it (`dev_valid_name`).
pub(super) fn is_interface_name(text: &str) -> bool {
    let fits = (1..16).contains(&text.len()) && !matches!(text, "." | "..");
    fits && !text
        .chars()
        .any(|c| c.is_whitespace() || matches!(c, '/' | ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, CniError> {
        Environment::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/var/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=u",
        ),
    ];

    /// `ADD` with one variable as given; `None`: without it.
    fn with(name: &str, value: Option<&str>) -> Result<Environment, CniError> {
        let mut variables: Vec<_> = ADD.into_iter().filter(|(key, _)| *key != name).collect();
        if let Some(value) = value {
            variables.push((name, value));
        }
        read(&variables)
    }

    #[test]
    fn every_verb_needs_what_the_specification_says() {
        let cases = [
            ("ADD", "CNI_NETNS", true),
            ("ADD", "CNI_CONTAINERID", true),
            ("ADD", "CNI_IFNAME", true),
            ("CHECK", "CNI_NETNS", true),
            ("CHECK", "CNI_IFNAME", true),
            ("DEL", "CNI_NETNS", false),
            ("DEL", "CNI_CONTAINERID", true),
            ("DEL", "CNI_IFNAME", true),
            ("GC", "CNI_CONTAINERID", false),
            ("STATUS", "CNI_CONTAINERID", false),
            ("VERSION", "CNI_CONTAINERID", false),
        ];
        for (command, missing, needed) in cases {
            let variables: Vec<_> = ADD
                .into_iter()
                .filter(|(key, _)| *key != missing && *key != "CNI_COMMAND")
                .chain([("CNI_COMMAND", command)])
                .collect();
            match (read(&variables), needed) {
                (Ok(_), false) => {}
                (Err(error), true) => {
                    assert_eq!(error.code, code::ENVIRONMENT);
                    assert!(error.msg.contains(missing), "{error}");
                }
                (answer, _) => panic!("{command} without {missing}: {answer:?}"),
            }
        }
    }

    #[test]
    fn commands_that_do_not_exist_are_refused() {
        for command in [None, Some(""), Some("add"), Some("UPDATE")] {
            let error = with("CNI_COMMAND", command).unwrap_err();
            assert_eq!(error.code, code::ENVIRONMENT, "{command:?}");
        }
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for id in ["", "../x", "a/b", ".a", "-a", "a b", &"a".repeat(201)] {
            assert!(with("CNI_CONTAINERID", Some(id)).is_err(), "{id:?}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
            assert!(with("CNI_IFNAME", Some(name)).is_err(), "{name:?}");
        }
        assert!(with("CNI_CONTAINERID", Some("A1_b.c-d")).is_ok());
        assert!(with("CNI_IFNAME", Some("fifteen-letters")).is_ok());
    }

    #[test]
    fn the_pod_is_read_from_the_arguments_and_has_to_be_there() {
        let pod = |args: &str| with("CNI_ARGS", Some(args)).and_then(|all| all.pod());
        let some = |uid: &str| PodArgs {
            namespace: "shop".into(),
            name: "db-0".into(),
            uid: uid.into(),
        };
        let full = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0;\
                    K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=u-1";
        assert_eq!(pod(full), Ok(some("u-1")));
        let old = "K8S_POD_NAME=db-0;K8S_POD_NAMESPACE=shop";
        assert_eq!(pod(old), Ok(some("")));
        for args in [
            "",
            "nonsense",
            "K8S_POD_NAME=x",
            "K8S_POD_NAMESPACE=;K8S_POD_NAME=x",
        ] {
            assert_eq!(pod(args).unwrap_err().code, code::ENVIRONMENT, "{args:?}");
        }
    }

    #[test]
    fn errors_are_what_runtimes_parse() {
        let json = |details: &str| CniError::new(11, "later", details).to_json("1.0.0");
        assert_eq!(
            json(""),
            r#"{"cniVersion":"1.0.0","code":11,"msg":"later"}"#
        );
        assert_eq!(
            json("why"),
            r#"{"cniVersion":"1.0.0","code":11,"msg":"later","details":"why"}"#
        );
    }
}

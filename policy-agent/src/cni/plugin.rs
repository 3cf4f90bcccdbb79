//! The verbs of the plugin.
//!
//! ADD is the one that matters: when it returns without an error, the pod's
//! policies are in force, or nothing but the node's own traffic passes until they
//! are. The agent sees to that; where it is away, the programs that it pinned
//! are attached here. Where neither is to be had (a fresh boot), the runtime is
//! asked to try again, and no container starts.
//!
//! In the stage before the network's plugins there is nothing to enforce on yet:
//! the pod's namespace is held, and let go when ADD of the last stage succeeds.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::agent;
use super::config::{self, Config, Stage};
use super::hold::{self, Held};
use super::notes::Notes;
use super::protocol::{CniError, Environment, NEWEST, VERSIONS, Verb, code};
use super::result::{self, Attached};
use super::statement::{Answer, AttachmentId, Question, Statement};
use crate::datapath::{Pins, pinned};
use crate::iface;

/// The name under which the binary is a plugin, and the `type` in
/// configurations.
pub const NAME: &str = "policy-cni";

/// How much longer than the agent may wait its answer is waited for.
const MARGIN: Duration = Duration::from_secs(2);
/// How long the agent may take for what it answers at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Bytes of standard input at most.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Whether this process was started under the plugin's name.
#[must_use]
pub fn is_called() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_name() == Some(NAME.as_ref()))
}

/// Does what the environment and standard input say, and answers as the
/// specification wants it.
#[must_use]
pub fn main() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin().take(LONGEST).read_to_string(&mut input);
    let answer = match read {
        Ok(_) => call(|name| std::env::var(name).ok(), &input),
        Err(error) => Err((
            NEWEST.to_owned(),
            CniError::new(code::IO, "standard input cannot be read", error.to_string()),
        )),
    };
    let (text, exit) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err((version, error)) => {
            eprintln!("{NAME}: {error}");
            (error.to_json(&version), ExitCode::FAILURE)
        }
    };
    // A runtime that does not read takes the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    exit
}

/// One call; what goes to standard output, or the version and the error.
fn call(
    variable: impl Fn(&str) -> Option<String>,
    input: &str,
) -> Result<String, (String, CniError)> {
    let newest = |error| (NEWEST.to_owned(), error);
    let environment = Environment::read(variable).map_err(newest)?;
    if environment.verb == Verb::Version {
        return Ok(version(input));
    }
    let config = Config::parse(input).map_err(newest)?;
    let answer = match (config.stage, environment.verb) {
        (Stage::Hold, Verb::Add) => hold_namespace(&environment, &config),
        // Everything else is the last stage's to answer, once.
        (Stage::Hold, _) => Ok(String::new()),
        (Stage::Enforce, verb) => enforce(verb, &environment, &config),
    };
    answer.map_err(|error| (config.version, error))
}

/// A call of the last stage.
fn enforce(verb: Verb, environment: &Environment, config: &Config) -> Result<String, CniError> {
    match verb {
        Verb::Add => add(environment, config),
        Verb::Check => check(environment, config).map(|()| String::new()),
        Verb::Del => {
            del(environment, config);
            Ok(String::new())
        }
        Verb::Gc => gc(config).map(|()| String::new()),
        Verb::Status => status(config).map(|()| String::new()),
        // Answered before there was a configuration.
        Verb::Version => Ok(String::new()),
    }
}

/// ADD of the first stage: nothing is received in the pod's namespace until the
/// last stage lets it go.
fn hold_namespace(environment: &Environment, config: &Config) -> Result<String, CniError> {
    let pod = environment.pod()?;
    match hold::hold(Path::new(&environment.netns)) {
        Ok(Held::Yes) => {}
        Ok(Held::InUse) => eprintln!(
            "{NAME}: {}/{}: {} is in use; it is not held again",
            pod.namespace, pod.name, environment.netns
        ),
        Err(error) => {
            return Err(CniError::new(
                code::TRY_AGAIN,
                "the pod's network namespace cannot be held",
                format!(
                    "{}/{}: {}: {error}",
                    pod.namespace, pod.name, environment.netns
                ),
            ));
        }
    }
    let nothing = format!(r#"{{"cniVersion":"{}"}}"#, config.version);
    Ok(config
        .previous
        .as_deref()
        .map_or(nothing, |previous| previous.get().to_owned()))
}

fn version(input: &str) -> String {
    #[derive(Serialize)]
    struct Supported<'a> {
        #[serde(rename = "cniVersion")]
        version: &'a str,
        #[serde(rename = "supportedVersions")]
        supported: [&'a str; VERSIONS.len()],
    }
    // Of whatever it says, the version that it is written in.
    let asked = Config::parse(input).map_or_else(|_| NEWEST.to_owned(), |config| config.version);
    let answer = Supported {
        version: &asked,
        supported: VERSIONS,
    };
    serde_json::to_string(&answer).unwrap_or_default()
}

fn add(environment: &Environment, config: &Config) -> Result<String, CniError> {
    let (statement, previous) = statement(environment, config)?;
    let Some(ifindex) = statement.ifindex else {
        return Err(not_enforceable(environment, &statement));
    };
    let notes = Notes::new(&config.run_dir);
    // Before the agent is asked: one that starts in between reads it.
    notes.write(&statement).map_err(|error| {
        CniError::new(
            code::IO,
            "cannot note the pod for the agent",
            format!("{}: {error}", notes.folder().display()),
        )
    })?;
    let protected = protect(&statement, ifindex, config).and_then(|()| let_go(environment));
    match protected {
        Ok(()) => Ok(previous.get().to_owned()),
        Err(error) => {
            // Nothing was added: nothing is to be remembered.
            if let Err(left) = notes.remove(&statement.id) {
                eprintln!("{NAME}: the note of {} stays: {left}", statement.id);
            }
            Err(error)
        }
    }
}

/// Packets may come in: programs judge them from here on.
fn let_go(environment: &Environment) -> Result<(), CniError> {
    hold::release(Path::new(&environment.netns)).map_err(|error| {
        CniError::new(
            code::TRY_AGAIN,
            "the pod's network namespace cannot be let go",
            format!("{}: {error}", environment.netns),
        )
    })
}

/// Has the pod's policies put in force, or the pod held.
fn protect(statement: &Statement, ifindex: u32, config: &Config) -> Result<(), CniError> {
    let pod = format!("{}/{}", statement.namespace, statement.name);
    let question = Question::Add {
        statement: statement.clone(),
        wait_ms: u64::try_from(config.wait.as_millis()).unwrap_or(u64::MAX),
    };
    match agent::ask(&config.run_dir, question, config.wait + MARGIN) {
        Ok(Answer::Yes) => Ok(()),
        Ok(Answer::Held { why }) => {
            eprintln!("{NAME}: {pod} starts isolated, until its policies are in force: {why}");
            Ok(())
        }
        Ok(Answer::No { why }) => Err(CniError::new(
            code::TRY_AGAIN,
            "the pod cannot be protected now",
            format!("{pod}: {why}"),
        )),
        Err(why) => {
            pinned::attach(&Pins::new(&config.bpffs), ifindex).map_err(|error| {
                CniError::new(
                    code::TRY_AGAIN,
                    "the policy agent is away",
                    format!("{why}; and without it {pod} cannot be protected: {error}"),
                )
            })?;
            eprintln!("{NAME}: {pod} starts isolated, until the agent is back: {why}");
            Ok(())
        }
    }
}

fn check(environment: &Environment, config: &Config) -> Result<(), CniError> {
    let (statement, _) = statement(environment, config)?;
    let wrong = |why: String| {
        CniError::new(
            code::NOT_PROTECTED,
            "the pod is not protected as it was",
            format!("{}/{}: {why}", statement.namespace, statement.name),
        )
    };
    let Some(ifindex) = statement.ifindex else {
        return Err(not_enforceable(environment, &statement));
    };
    match hold::is_held(Path::new(&environment.netns)) {
        Ok(false) => {}
        Ok(true) => return Err(wrong("its network namespace is still held".to_owned())),
        Err(error) => return Err(wrong(error.to_string())),
    }
    let question = Question::Check {
        statement: statement.clone(),
    };
    match agent::ask(&config.run_dir, question, AT_ONCE) {
        Ok(Answer::Yes | Answer::Held { .. }) => Ok(()),
        Ok(Answer::No { why }) => Err(wrong(why)),
        Err(why) => match pinned::is_attached(&Pins::new(&config.bpffs), ifindex) {
            Ok(true) => Ok(()),
            Ok(false) => Err(wrong(format!(
                "interface {ifindex} has no programs, and the agent is away ({why})"
            ))),
            Err(error) => Err(wrong(error.to_string())),
        },
    }
}

/// Never fails: what is gone is gone.
fn del(environment: &Environment, config: &Config) {
    let id = AttachmentId {
        container: environment.container.clone(),
        ifname: environment.ifname.clone(),
    };
    if let Err(error) = Notes::new(&config.run_dir).remove(&id) {
        eprintln!("{NAME}: the note of {id} stays: {error}");
    }
    // An agent that is away reads the notes when it is back.
    if let Err(why) | Ok(Answer::No { why }) =
        agent::ask(&config.run_dir, Question::Del { id }, AT_ONCE)
    {
        eprintln!("{NAME}: the agent was not told: {why}");
    }
}

fn gc(config: &Config) -> Result<(), CniError> {
    let Some(valid) = config.valid.clone() else {
        return Err(CniError::new(
            code::CONFIGURATION,
            "GC without a list of what is valid",
            "cni.dev/valid-attachments is missing; nothing was removed",
        ));
    };
    let notes = Notes::new(&config.run_dir);
    let error = |what: &Path, error: std::io::Error| {
        CniError::new(
            code::IO,
            "notes cannot be removed",
            format!("{}: {error}", what.display()),
        )
    };
    let (all, _) = notes.read().map_err(|e| error(notes.folder(), e))?;
    for note in all {
        if note.network == config.network && !valid.contains(&note.id) {
            notes
                .remove(&note.id)
                .map_err(|e| error(notes.folder(), e))?;
        }
    }
    let question = Question::Gc {
        network: config.network.clone(),
        valid,
    };
    if let Err(why) | Ok(Answer::No { why }) = agent::ask(&config.run_dir, question, AT_ONCE) {
        eprintln!("{NAME}: the agent was not told: {why}");
    }
    Ok(())
}

fn status(config: &Config) -> Result<(), CniError> {
    let not_available = |why: String| {
        Err(CniError::new(
            code::NOT_AVAILABLE,
            "the policy agent is not ready",
            why,
        ))
    };
    match agent::ask(&config.run_dir, Question::Status, AT_ONCE) {
        Ok(Answer::Yes) => Ok(()),
        Ok(Answer::No { why } | Answer::Held { why }) | Err(why) => not_available(why),
    }
}

/// What can be told of the attachment, and the result before us.
fn statement<'c>(
    environment: &Environment,
    config: &'c Config,
) -> Result<(Statement, &'c RawValue), CniError> {
    let pod = environment.pod()?;
    if config.network.is_empty() {
        return Err(CniError::new(
            code::CONFIGURATION,
            "the network has no name",
            "write name into the network configuration",
        ));
    }
    let Some(previous) = config.previous.as_deref() else {
        return Err(CniError::new(
            code::CONFIGURATION,
            "there is no previous result",
            format!("{NAME} comes after the plugin that makes the interface; chain it"),
        ));
    };
    let wire = config::object(previous.get());
    let read = wire.and_then(|wire| result::read(&wire, &environment.ifname));
    let Attached {
        addresses,
        node_interfaces,
    } = read
        .map_err(|why| CniError::new(code::DECODE, "the previous result is not understood", why))?;
    let found = iface::node_side(Path::new(&environment.netns), &addresses).map_err(|error| {
        CniError::new(
            code::IO,
            "cannot look for the pod's interface",
            format!("{}: {error}", environment.netns),
        )
    })?;
    let statement = Statement {
        id: AttachmentId {
            container: environment.container.clone(),
            ifname: environment.ifname.clone(),
        },
        network: config.network.clone(),
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        addresses,
        node_interfaces,
        ifindex: found,
    };
    Ok((statement, previous))
}

fn not_enforceable(environment: &Environment, statement: &Statement) -> CniError {
    CniError::new(
        code::NOT_ENFORCEABLE,
        "no policy can be enforced on the pod",
        format!(
            "{}/{}: no veth of the node leads to {}; network {} cannot be used with {NAME}",
            statement.namespace, statement.name, environment.netns, statement.network
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(variables: &[(&str, &str)], input: &str) -> u32 {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        call(variable, input).expect_err("an error").1.code
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/does/not/exist"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"),
    ];

    #[test]
    fn what_is_wrong_with_a_request_is_told_by_its_code() {
        let cases = [
            ("", code::DECODE),
            (r#"{"cniVersion":"9.0.0"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"prevResult":{}}"#, code::CONFIGURATION),
            (r#"{"name":"n"}"#, code::CONFIGURATION),
            (
                r#"{"name":"n","prevResult":{"ips":[{"address":"x"}]}}"#,
                code::DECODE,
            ),
            (r#"{"name":"n","prevResult":[]}"#, code::DECODE),
            // The namespace is gone.
            (r#"{"name":"n","prevResult":{}}"#, code::IO),
            (r#"{"name":"n","stage":"hold"}"#, code::TRY_AGAIN),
        ];
        for (input, expected) in cases {
            assert_eq!(code_of(&ADD, input), expected, "{input}");
        }
        assert_eq!(code_of(&[], "{}"), code::ENVIRONMENT);
        let gc = [("CNI_COMMAND", "GC")];
        assert_eq!(code_of(&gc, r#"{"name":"n"}"#), code::CONFIGURATION);
    }

    #[test]
    fn version_answers_in_the_version_of_the_question() {
        let version = |input: &str| {
            let command = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
            call(command, input).expect("always answered")
        };
        let all = r#""supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
        for (input, told) in [
            ("", "1.1.0"),
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"7.0.0"}"#, "1.1.0"),
        ] {
            assert_eq!(
                version(input),
                format!(r#"{{"cniVersion":"{told}",{all}}}"#)
            );
        }
    }

    #[test]
    fn del_succeeds_where_nothing_is_there() {
        let variable = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => "DEL",
                "CNI_CONTAINERID" => "c0ffee",
                "CNI_IFNAME" => "eth0",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let input = r#"{"cniVersion":"1.0.0","name":"n","runDir":"/does/not/exist"}"#;
        assert_eq!(call(variable, input), Ok(String::new()));
    }
}

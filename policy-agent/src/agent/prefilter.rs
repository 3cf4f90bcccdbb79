//! The operator's list of denied sources, and the interfaces it is for.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnet::IpNet;
use policy_core::diagnostic::{Diagnostic, Severity};

use crate::datapath::Datapath;

/// What the operator asked for.
#[derive(Debug)]
pub(super) struct Prefilter {
    interfaces: Vec<String>,
    file: Option<PathBuf>,
    read: Option<SystemTime>,
    /// What is in force of it.
    list: Vec<IpNet>,
    problems: Vec<Diagnostic>,
}

impl Prefilter {
    pub(super) fn new(interfaces: Vec<String>, file: Option<PathBuf>) -> Self {
        Self {
            interfaces,
            file,
            read: None,
            list: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Puts the list in force if the file has changed, and the program on every
    /// interface that has it not. What cannot be read leaves the old list. Whether
    /// somebody had changed what was in force.
    pub(super) fn refresh(&mut self, datapath: &Datapath) -> bool {
        let mut problems = Vec::new();
        let mut drifted = false;
        if let Some(file) = self.file.clone() {
            let changed = std::fs::metadata(&file).and_then(|facts| facts.modified());
            if !matches!((&changed, self.read), (Ok(now), Some(then)) if *now == then) {
                match list(&file).and_then(|prefixes| {
                    let put = datapath.maps().deny(&prefixes);
                    put.map_err(|error| error.to_string())?;
                    Ok(prefixes)
                }) {
                    Ok(prefixes) => (self.list, self.read) = (prefixes, changed.ok()),
                    Err(error) => problems.push(problem(
                        &file.display().to_string(),
                        format!("{error}; the list that was in force stays"),
                    )),
                }
            } else {
                match datapath.maps().deny(&self.list) {
                    Ok(change) => drifted = change.added + change.removed != 0,
                    Err(error) => {
                        problems.push(problem(&file.display().to_string(), error.to_string()));
                    }
                }
            }
        }
        for interface in &self.interfaces {
            if let Err(error) = datapath.attach_prefilter(interface) {
                problems.push(problem(
                    &format!("interface {interface}"),
                    format!("the prefilter is not on it: {error}"),
                ));
            }
        }
        if let Err(error) = datapath.keep_prefilter_on(&self.interfaces) {
            problems.push(problem("prefilter", error.to_string()));
        }
        self.problems = problems;
        drifted
    }

    /// What is wrong.
    pub(super) fn problems(&self) -> &[Diagnostic] {
        &self.problems
    }
}

fn problem(object: &str, message: String) -> Diagnostic {
    Diagnostic {
        object: object.to_owned(),
        source: None,
        path: String::new(),
        severity: Severity::Error,
        message,
    }
}

/// Reads one prefix or address a line; `#` starts a comment. One bad line makes
/// the file unreadable: half a list would be a surprise either way.
fn list(file: &Path) -> Result<Vec<IpNet>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<IpNet>, String> {
    let mut prefixes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let prefix: IpNet = entry
            .parse()
            .or_else(|_| {
                entry
                    .parse()
                    .map(|address: std::net::IpAddr| address.into())
            })
            .map_err(|_| {
                format!(
                    "line {}: {entry:?} is neither a prefix nor an address",
                    number + 1
                )
            })?;
        prefixes.push(prefix.trunc());
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_takes_prefixes_addresses_and_comments() {
        let prefixes = parse("192.0.2.0/24 # test\n\n2001:db8::1\n10.1.2.3/8\n").expect("valid");
        let texts: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.0/24", "2001:db8::1/128", "10.0.0.0/8"]);
    }

    #[test]
    fn one_bad_line_is_named_and_nothing_is_taken() {
        let error = parse("192.0.2.0/24\nnonsense\n").expect_err("bad");
        assert!(
            error.contains("line 2") && error.contains("nonsense"),
            "{error}"
        );
    }
}

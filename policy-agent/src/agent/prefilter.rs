//! The operator's list of denied sources, and the interfaces it is for.
//!
//! The list is one version of its file, never one that is being written. How one list
//! takes another's place is `datapath/deny.rs`'s.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use policy_core::diagnostic::{Diagnostic, Severity};

use crate::datapath::Datapath;
use crate::datapath::deny::DenyError;
use crate::source::manifests::{Stamp, Text, read_file};

/// Where it cannot be told whether somebody writes a file, or where he has it open and
/// writes nothing: how long it rests before it is read.
const RESTS: Duration = Duration::from_secs(1);
/// How often it is looked whether a file is still being written, and how long after
/// each look: most writers need less, and nothing else goes on meanwhile.
const LOOKS: usize = 10;
const BETWEEN: Duration = Duration::from_millis(1);

/// What the operator asked for.
#[derive(Debug)]
pub(super) struct Prefilter {
    interfaces: Vec<String>,
    file: Option<PathBuf>,
    /// The version of the file whose list is to be in force; `None`: it is to be read
    /// whether or not it has changed.
    read: Option<Stamp>,
    /// What is to be in force; `None`: whatever an earlier agent left.
    list: Option<Vec<IpNet>>,
    /// Not all of it could be written yet.
    unfinished: bool,
    /// Rows that it takes, IPv4 and IPv6.
    rows: [usize; 2],
    /// Interfaces on which the program was put or found, by index.
    on: BTreeSet<u32>,
    problems: Vec<Diagnostic>,
}

/// A list that was read.
struct News {
    list: Vec<IpNet>,
    /// Its version; `None`: the next may look the same.
    stamp: Option<Stamp>,
}

impl Prefilter {
    pub(super) fn new(interfaces: Vec<String>, file: Option<PathBuf>) -> Self {
        Self {
            interfaces,
            file,
            read: None,
            list: None,
            unfinished: false,
            rows: [0; 2],
            on: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    /// Puts the list in force if the file has changed, and the program on every
    /// interface that has it not. What cannot be read leaves the old list. Whether
    /// somebody had changed what was in force.
    pub(super) fn refresh(&mut self, datapath: &Datapath) -> bool {
        self.problems.clear();
        let listed = match self.file.clone() {
            Some(file) => self.refresh_list(&file, datapath),
            None => false,
        };
        let attached = self.refresh_links(datapath);
        listed || attached
    }

    /// The list; whether it was not as it was left.
    fn refresh_list(&mut self, file: &Path, datapath: &Datapath) -> bool {
        let name = file.display().to_string();
        match self.news(file) {
            Ok(None) => {}
            Ok(Some(news)) if self.list.as_ref() == Some(&news.list) => self.read = news.stamp,
            Ok(Some(News { list, stamp })) => match self.put(datapath, list) {
                // One that is refused whole leaves the old one, at which we look below.
                Err((_, error @ (DenyError::TooMany { .. } | DenyError::NoRoom { .. }))) => {
                    let message = format!("{error}; the list that was in force stays");
                    self.problems.push(problem(&name, message));
                }
                result => {
                    self.read = stamp;
                    if let Err((list, error)) = result {
                        self.list = Some(list);
                        self.failed(&name, &error);
                    }
                    return false;
                }
            },
            Err(error) => {
                let message = format!("{error}; the list that was in force stays");
                self.problems.push(problem(&name, message));
            }
        }
        let Some(list) = self.list.take() else {
            return false;
        };
        let was_unfinished = self.unfinished;
        match self.put(datapath, list) {
            Ok(changed) => changed && !was_unfinished,
            Err((list, error)) => {
                self.list = Some(list);
                self.failed(&name, &error);
                false
            }
        }
    }

    /// The list and its version, if it is not the one that was read last.
    fn news(&self, file: &Path) -> Result<Option<News>, String> {
        let told = |error: io::Error| error.to_string();
        for _ in 0..LOOKS {
            let metadata = std::fs::metadata(file).map_err(told)?;
            if self.read == Some(Stamp::of(&metadata)) {
                return Ok(None);
            }
            let now = SystemTime::now();
            let read = read_file(file, RESTS).map_err(told)?;
            let rests = |read: &Text| read.is_whole || read.stamp.is_older(now, RESTS);
            if let Some(read) = read.filter(rests) {
                let list = parse(&read.text)?;
                // What changes so soon after may have the same times.
                let stamp = Some(read.stamp).filter(|stamp| stamp.is_settled(now));
                return Ok(Some(News { list, stamp }));
            }
            std::thread::sleep(BETWEEN);
        }
        Err("somebody is writing it, and it is read again when that is over".to_owned())
    }

    /// Puts a list in force; whether anything was different. Gives it back where that
    /// failed.
    fn put(
        &mut self,
        datapath: &Datapath,
        list: Vec<IpNet>,
    ) -> Result<bool, (Vec<IpNet>, DenyError)> {
        match datapath.maps().deny(&list) {
            Ok(change) => {
                self.rows = [change.listed4, change.listed6];
                self.unfinished = false;
                self.list = Some(list);
                Ok(change.added + change.removed != 0)
            }
            Err(error) => Err((list, error)),
        }
    }

    /// A list could not be written whole.
    fn failed(&mut self, name: &str, error: &DenyError) {
        self.unfinished = true;
        let message = format!("{error}; it is tried again");
        self.problems.push(problem(name, message));
    }

    /// The program; whether it was not where it was left.
    fn refresh_links(&mut self, datapath: &Datapath) -> bool {
        let mut put_right = false;
        for interface in &self.interfaces {
            match datapath.attach_prefilter(interface) {
                Ok(now) => put_right |= !self.on.insert(now.ifindex) && now.changed,
                Err(error) => self.problems.push(problem(
                    &format!("interface {interface}"),
                    format!("the prefilter is not on it: {error}"),
                )),
            }
        }
        if let Err(error) = datapath.keep_prefilter_on(&self.interfaces) {
            self.problems.push(problem("prefilter", error.to_string()));
        }
        put_right
    }

    /// What is wrong.
    pub(super) fn problems(&self) -> &[Diagnostic] {
        &self.problems
    }

    /// Rows that the list takes, IPv4 and IPv6.
    pub(super) fn rows(&self) -> [usize; 2] {
        self.rows
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

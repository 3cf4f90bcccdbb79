//! Which folders decide what a path leads to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Links that one path may lead through (the kernel's own bound, path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What in a folder matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interest {
    /// Everything.
    All,
    /// Entries of these names.
    Names(BTreeSet<OsString>),
}

/// Folders and what in them matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Interests(pub(super) BTreeMap<PathBuf, Interest>);

impl Interests {
    /// Everything in the folder matters.
    pub(super) fn all(&mut self, folder: &Path) {
        self.0.insert(folder.to_owned(), Interest::All);
    }

    fn name(&mut self, folder: &Path, name: OsString) {
        let interest = self.0.entry(folder.to_owned());
        match interest.or_insert_with(|| Interest::Names(BTreeSet::new())) {
            Interest::All => {}
            Interest::Names(names) => {
                names.insert(name);
            }
        }
    }

    /// Every link on the way that `path` leads, and what is at its end, matters:
    /// replacing any of them makes the path lead elsewhere.
    pub(super) fn follow(&mut self, path: &Path) {
        let Ok(path) = std::path::absolute(path) else {
            return;
        };
        let mut ahead: VecDeque<OsString> = names(&path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            match std::fs::read_link(&next) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    self.name(&at, name);
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    for name in names(&target).into_iter().rev() {
                        ahead.push_front(name);
                    }
                }
                // Not a link, or nothing is there: then what comes there matters.
                Ok(_) | Err(_) => {
                    if ahead.is_empty() || !next.exists() {
                        self.name(&at, name);
                        return;
                    }
                    at = next;
                }
            }
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

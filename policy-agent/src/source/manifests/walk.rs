//! Which files there are: every visible `*.yaml`, `*.yml` and `*.json` below the
//! roots.
//!
//! Links are followed, also into hidden folders (a mounted ConfigMap links each
//! file through `..data`); each folder and file is visited once, however many
//! paths lead to it, so links in circles end.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::inode::Inode;
use super::links::Interests;

/// Folders within folders; deeper ones are reported and not read.
const MAX_DEPTH: usize = 64;

/// What is below the roots.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Manifests, in the order of their paths within each folder.
    pub(super) files: Vec<PathBuf>,
    /// Folders, and links that lead nowhere, that cannot be looked at, and why.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
    /// What has a manifest's name and is none, and why.
    pub(super) not_files: Vec<(PathBuf, io::Error)>,
    /// Roots that cannot be looked at.
    pub(super) lost_roots: Vec<PathBuf>,
    /// What to watch.
    pub(super) interests: Interests,
    visited: HashSet<Inode>,
}

/// Whether files of this name are manifests.
fn is_manifest(name: &Path) -> bool {
    let extension = name.extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json"))
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

impl Walk {
    /// Looks at every root. A root that is a file is a manifest, whatever its
    /// name.
    pub(super) fn over(roots: &[PathBuf]) -> Self {
        let mut walk = Self::default();
        for root in roots {
            walk.interests.follow(root);
            match std::fs::metadata(root) {
                Ok(metadata) if metadata.is_dir() => {
                    if let Err(error) = walk.folder(root, &metadata, 0) {
                        walk.lose_root(root, error);
                    }
                }
                Ok(metadata) => walk.file(root, &metadata),
                Err(error) => walk.lose_root(root, error),
            }
        }
        walk
    }

    fn lose_root(&mut self, root: &Path, error: io::Error) {
        self.lost_roots.push(root.to_owned());
        self.unreadable.push((root.to_owned(), error));
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) {
        if !metadata.is_file() {
            // Not even opened: that alone does something to devices.
            let error = io::Error::other("it is not a regular file");
            self.not_files.push((path.to_owned(), error));
        } else if self.visited.insert(Inode::of(metadata)) {
            self.files.push(path.to_owned());
        }
    }

    fn folder(&mut self, path: &Path, metadata: &Metadata, depth: usize) -> io::Result<()> {
        if !self.visited.insert(Inode::of(metadata)) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(io::Error::other("too many folders within folders"));
        }
        self.interests.all(path);
        let entries = std::fs::read_dir(path)?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for name in names.into_iter().filter(|name| !is_hidden(name)) {
            self.entry(path.join(name), depth);
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, depth: usize) {
        let is_manifest = is_manifest(&path);
        let is_link = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.is_symlink(),
            // It was there a moment ago, and somebody removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.unreadable.push((path, error)),
        };
        if is_link {
            self.interests.follow(&path);
        }
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                if is_manifest {
                    // It may have been a file before; then what that defined stays.
                    let error = io::Error::other("it has a manifest's name and is a folder");
                    self.not_files.push((path.clone(), error));
                }
                if let Err(error) = self.folder(&path, &metadata, depth + 1) {
                    self.unreadable.push((path, error));
                }
            }
            Ok(metadata) if is_manifest => self.file(&path, &metadata),
            Ok(_) => {}
            Err(error) if !is_link && error.kind() == io::ErrorKind::NotFound => {}
            // Where a link leads nowhere, a folder may have been.
            Err(error) => self.unreadable.push((path, error)),
        }
    }
}

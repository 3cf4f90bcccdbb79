//! The namespaces bound in a folder (`--netns-dir`): files with a network
//! namespace mounted on them, as `ip netns` and container runtimes make them,
//! or links to `/proc/PID/ns/net`.
//!
//! The files are opened and shown to the kernel, which answers with the number
//! of the namespace (`RTM_GETNSID`). A namespace without a number is not linked
//! with the agent's by any veth. Nothing is entered, and nothing is asked of a
//! file that is no namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, fstatfs, open};

use super::{error::IfaceError, snapshot::Nsid};

/// Super block magic of namespace files (include/uapi/linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A file in the folder that stands for no namespace the agent could use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetnsProblem {
    /// The file, or the folder itself if it does not exist.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What the folder stands for.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) namespaces: BTreeMap<Nsid, BTreeSet<PathBuf>>,
    pub(super) problems: Vec<NetnsProblem>,
}

/// Reads the folder. One that does not exist is empty: the first `ip netns add`
/// creates it. Hidden files are skipped.
///
/// # Errors
/// [`IfaceError::NetnsDir`] when it cannot be listed.
pub(super) fn read(
    dir: &Path,
    mut namespace_of: impl FnMut(BorrowedFd<'_>) -> io::Result<Option<Nsid>>,
) -> Result<Folder, IfaceError> {
    let failed = |source| IfaceError::NetnsDir {
        path: dir.to_path_buf(),
        source,
    };
    let mut folder = Folder::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            folder.problems.push(NetnsProblem {
                path: dir.to_path_buf(),
                reason: "the folder does not exist (yet)".into(),
            });
            return Ok(folder);
        }
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        match resolve(&path, &mut namespace_of) {
            Ok(Some(namespace)) => {
                folder.namespaces.entry(namespace).or_default().insert(path);
            }
            Ok(None) => {}
            Err(error) => folder.problems.push(NetnsProblem {
                path,
                reason: error.to_string(),
            }),
        }
    }
    folder.problems.sort();
    Ok(folder)
}

fn resolve(
    path: &Path,
    namespace_of: &mut impl FnMut(BorrowedFd<'_>) -> io::Result<Option<Nsid>>,
) -> io::Result<Option<Nsid>> {
    // NONBLOCK: somebody may have put a pipe there.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(path, flags, Mode::empty())?;
    let magic = fstatfs(&file)?.f_type;
    if magic != NSFS_MAGIC {
        return Err(io::Error::other(
            "not a namespace (nothing is mounted on it, or its owner is gone)",
        ));
    }
    match namespace_of(file.as_fd()) {
        // The kernel's word for "a namespace, but of another kind".
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(io::Error::other("not a network namespace"))
        }
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder of its own, removed at the end.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("temporary folder");
            Self(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn links_to_a_namespace_are_resolved_and_all_else_is_reported() {
        let dir = TempDir::new("netns-dir");
        symlink("/proc/self/ns/net", dir.0.join("a")).expect("link");
        symlink("/proc/self/ns/net", dir.0.join("b")).expect("link");
        symlink("/proc/self/ns/net", dir.0.join(".hidden")).expect("link");
        symlink("/nonexistent", dir.0.join("dangling")).expect("link");
        fs::write(dir.0.join("plain"), "").expect("file");
        let folder = read(&dir.0, |_| Ok(Some(Nsid(4)))).expect("folder is readable");
        let both = BTreeSet::from([dir.0.join("a"), dir.0.join("b")]);
        assert_eq!(folder.namespaces, BTreeMap::from([(Nsid(4), both)]));
        let names: Vec<_> = folder
            .problems
            .iter()
            .filter_map(|problem| problem.path.file_name())
            .collect();
        assert_eq!(names, ["dangling", "plain"]);
    }

    #[test]
    fn a_namespace_without_a_number_is_neither_used_nor_a_problem() {
        let dir = TempDir::new("netns-unlinked");
        symlink("/proc/self/ns/net", dir.0.join("a")).expect("link");
        let folder = read(&dir.0, |_| Ok(None)).expect("folder is readable");
        assert_eq!(folder.namespaces, BTreeMap::new());
        assert_eq!(folder.problems, []);
    }

    #[test]
    fn a_missing_folder_is_empty_and_said_to_be_missing() {
        let dir = Path::new("/nonexistent/netns");
        let folder = read(dir, |_| Ok(Some(Nsid(4)))).expect("not an error");
        assert_eq!(folder.namespaces, BTreeMap::new());
        assert_eq!(folder.problems.len(), 1);
        assert_eq!(folder.problems[0].path, dir);
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_an_error_that_names_it() {
        let dir = TempDir::new("netns-file");
        let file = dir.0.join("file");
        fs::write(&file, "").expect("file");
        let error = read(&file, |_| Ok(None)).expect_err("not a folder");
        assert!(error.to_string().contains("--netns-dir"));
        assert!(error.to_string().contains("file"));
    }
}

//! What the plugin told, on disk in the run directory: for an agent that is away
//! or starts again. One file an attachment; the run directory is emptied by a
//! reboot, as the interfaces are.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::protocol::{is_container_id, is_interface_name};
use super::statement::{AttachmentId, Statement};

/// Bytes of a note at most; they have a few hundred.
const LONGEST: u64 = 64 * 1024;

/// Notes that were understood, and files that were not, with what is wrong.
pub type Read = (Vec<Statement>, Vec<(PathBuf, String)>);

/// The folder of notes.
#[derive(Debug, Clone)]
pub struct Notes {
    folder: PathBuf,
}

impl Notes {
    /// The notes in a run directory; the folder is made with the first note.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self {
            folder: run_dir.join("cni"),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a note, or replaces it at once.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, statement: &Statement) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let path = self.path(&statement.id)?;
        let mut next = path.clone().into_os_string();
        next.push(format!(".{}", std::process::id()));
        let text = serde_json::to_vec(statement)?;
        fs::write(&next, text)?;
        fs::rename(&next, &path)
    }

    /// Removes a note; one that is gone is fine.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove(&self, id: &AttachmentId) -> io::Result<()> {
        match fs::remove_file(self.path(id)?) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All notes that are understood, and what is wrong with the others.
    ///
    /// # Errors
    /// When the folder is there and cannot be listed.
    pub fn read(&self) -> io::Result<Read> {
        let (mut notes, mut bad) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((notes, bad)),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            // A note in the making has another ending.
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            match read_one(&path) {
                Ok(note) => notes.push(note),
                // Its DEL came meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => bad.push((path, error.to_string())),
            }
        }
        notes.sort_by(|a, b| a.id.cmp(&b.id));
        bad.sort();
        Ok((notes, bad))
    }

    fn path(&self, id: &AttachmentId) -> io::Result<PathBuf> {
        if !is_container_id(&id.container) || !is_interface_name(&id.ifname) {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                format!("{id} cannot name a file"),
            ));
        }
        Ok(self
            .folder
            .join(format!("{}-{}.json", id.container, id.ifname)))
    }
}

fn read_one(path: &Path) -> io::Result<Statement> {
    if fs::metadata(path)?.len() > LONGEST {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is too long"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn note(container: &str, name: &str) -> Statement {
        Statement {
            id: AttachmentId {
                container: container.into(),
                ifname: "eth0".into(),
            },
            network: "n".into(),
            namespace: "shop".into(),
            name: name.into(),
            uid: "u".into(),
            addresses: vec!["10.0.0.2".parse().expect("literal")],
            node_interfaces: vec!["veth1".into()],
            ifindex: Some(7),
        }
    }

    #[test]
    fn notes_are_replaced_and_removed_and_a_missing_folder_is_none() {
        let temp = Temp::new("cni-notes");
        let notes = Notes::new(&temp.0);
        assert_eq!(notes.read().expect("no folder"), (vec![], vec![]));
        notes.remove(&note("a", "x").id).expect("nothing to remove");
        notes.write(&note("b", "y")).expect("written");
        notes.write(&note("a", "x")).expect("written");
        notes.write(&note("a", "z")).expect("replaced");
        let all = notes.read().expect("readable");
        assert_eq!(all, (vec![note("a", "z"), note("b", "y")], vec![]));
        notes.remove(&note("a", "x").id).expect("removed");
        assert_eq!(notes.read().expect("readable").0, [note("b", "y")]);
    }

    #[test]
    fn a_note_that_is_not_understood_is_named_and_the_others_are_read() {
        let temp = Temp::new("cni-bad-notes");
        let notes = Notes::new(&temp.0);
        notes.write(&note("a", "x")).expect("written");
        fs::write(notes.folder().join("b-eth0.json"), "{\"id\":").expect("a file");
        fs::write(notes.folder().join("c-eth0.json.12"), "half").expect("a file");
        let (good, bad) = notes.read().expect("readable");
        assert_eq!(good, [note("a", "x")]);
        assert_eq!(bad.len(), 1);
        assert!(bad[0].0.ends_with("b-eth0.json"), "{bad:?}");
    }

    #[test]
    fn an_id_that_would_leave_the_folder_is_refused() {
        let temp = Temp::new("cni-evil-notes");
        let notes = Notes::new(&temp.0);
        assert!(notes.write(&note("../x", "x")).is_err());
        assert!(notes.remove(&note("a/b", "x").id).is_err());
    }
}

//! Removes every trace from the kernel, of every version, and proves it.
//!
//! Works from what is pinned, so other people's programs, and other agents' with
//! another BPF file system, are never touched. That no agent of this BPF file
//! system runs is the caller's to check.

use std::{
    collections::BTreeSet,
    fmt, fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    attach::{self, AttachError},
    clsact,
    pin::{self, Hook, PinError, Pins},
    sys::{
        self, Kind,
        link::{self, IdOf},
    },
};

/// The kernel frees objects a grace period after their last user; more than a
/// few of those mean that somebody holds them.
const GONE_LIMIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(5);

/// An object of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A map, by id.
    Map(u32),
    /// A program, by id.
    Program(u32),
    /// A link, by id.
    Link(u32),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(id) => write!(f, "map {id}"),
            Self::Program(id) => write!(f, "program {id}"),
            Self::Link(id) => write!(f, "link {id}"),
        }
    }
}

/// Something that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// An object that is still in the kernel.
    Object {
        /// Which.
        object: Object,
        /// Processes that hold it, where they can be seen.
        held_by: Vec<u32>,
    },
    /// A pin or folder that is still there.
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Object { object, held_by } if held_by.is_empty() => {
                write!(f, "{object} is still in the kernel")
            }
            Self::Object { object, held_by } => {
                let held_by: Vec<_> = held_by.iter().map(u32::to_string).collect();
                write!(f, "{object} is held by process {}", held_by.join(", "))
            }
        }
    }
}

/// What a cleanup did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleanup {
    /// Pins that were removed.
    pub pins: Vec<PathBuf>,
    /// Objects that were pinned or attached, and are gone now.
    pub gone: Vec<Object>,
    /// What is still there; empty: no trace is left.
    pub left: Vec<Left>,
}

/// Removes everything of ours from a BPF file system and from the kernel. What
/// cannot be removed is listed, not an error.
///
/// # Errors
///
/// [`PinError`] when the folders cannot be read.
pub fn cleanup(bpffs: &Path) -> Result<Cleanup, PinError> {
    let pins = Pins::new(bpffs);
    let mut work = Work::default();
    // Links before maps: an attached program keeps judging with all it has.
    let versions = pin::list(&pins.root())?;
    for version in &versions {
        for path in pin::list(&version.join("links"))? {
            work.unlink(&path);
        }
    }
    for version in &versions {
        for folder in pin::list(version)? {
            if folder.is_dir() {
                for path in pin::list(&folder)? {
                    work.unlink(&path);
                }
                work.remove_folder(folder);
            } else {
                work.unlink(&folder);
            }
        }
        work.remove_folder(version.clone());
    }
    if !versions.is_empty() || pins.root().exists() {
        work.remove_folder(pins.root());
    }
    Ok(work.prove())
}

#[derive(Default)]
struct Work {
    done: Cleanup,
    objects: BTreeSet<Object>,
}

impl Work {
    /// Detaches what a pin stands for and removes the pin.
    fn unlink(&mut self, path: &Path) {
        match self.note(path).and_then(|()| attach::remove(path)) {
            Ok(()) => self.done.pins.push(path.to_path_buf()),
            Err(error) => self.fail(path.to_path_buf(), error.to_string()),
        }
    }

    /// Notes the objects behind a pin, and detaches links.
    fn note(&mut self, path: &Path) -> Result<(), AttachError> {
        let error = |source| PinError::Io {
            what: "open",
            path: path.to_path_buf(),
            source,
        };
        let fd = sys::obj_get(path).map_err(error)?;
        match sys::kind_of(fd.as_fd()).map_err(error)? {
            Kind::Map => {
                let facts = sys::map_facts(fd.as_fd()).map_err(error)?;
                self.objects.insert(Object::Map(facts.id));
            }
            Kind::Program => {
                let id = sys::program_id(fd.as_fd()).map_err(error)?;
                self.objects.insert(Object::Program(id));
                if let Some((ifindex, hook)) = filter_of(path) {
                    clsact::detach(ifindex, hook)?;
                }
            }
            Kind::Link => {
                let facts = link::facts(fd.as_fd()).map_err(error)?;
                self.objects.insert(Object::Link(facts.id));
                self.objects.insert(Object::Program(facts.program_id));
                if facts.ifindex != 0 {
                    let hook = filter_of(path).map_or(Hook::From, |(_, hook)| hook);
                    link::detach(fd.as_fd())
                        .map_err(|e| AttachError::new(facts.ifindex, hook, "detach", e))?;
                }
            }
            Kind::Other => {}
        }
        Ok(())
    }

    fn remove_folder(&mut self, folder: PathBuf) {
        if let Err(error) = fs::remove_dir(&folder) {
            self.fail(folder, error.to_string());
        }
    }

    fn fail(&mut self, path: PathBuf, why: String) {
        self.done.left.push(Left::Path { path, why });
    }

    /// Waits until the kernel has freed everything, or long enough.
    fn prove(mut self) -> Cleanup {
        let deadline = Instant::now() + GONE_LIMIT;
        let mut there = self.objects.clone();
        loop {
            there.retain(|object| exists(*object));
            if there.is_empty() || Instant::now() >= deadline {
                break;
            }
            thread::sleep(POLL);
        }
        self.done.gone = self.objects.difference(&there).copied().collect();
        self.done
            .left
            .extend(there.into_iter().map(|object| Left::Object {
                object,
                held_by: holders(object),
            }));
        self.done
    }
}

fn filter_of(path: &Path) -> Option<(u32, Hook)> {
    pin::link_name(path.file_name()?.to_str()?)
}

/// Whether the kernel still has an object.
#[must_use]
pub fn exists(object: Object) -> bool {
    let answer = match object {
        Object::Map(id) => link::by_id(IdOf::Map, id),
        Object::Program(id) => link::by_id(IdOf::Program, id),
        Object::Link(id) => link::by_id(IdOf::Link, id),
    };
    !matches!(answer, Err(error) if error.raw_os_error() == Some(libc::ENOENT))
}

/// Processes with a descriptor of an object.
fn holders(object: Object) -> Vec<u32> {
    let line = match object {
        Object::Map(id) => format!("map_id:\t{id}"),
        Object::Program(id) => format!("prog_id:\t{id}"),
        Object::Link(id) => format!("link_id:\t{id}"),
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<u32> = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // A process that ends meanwhile holds nothing.
            fs::read_dir(format!("/proc/{pid}/fdinfo")).is_ok_and(|files| {
                files.filter_map(Result::ok).any(|file| {
                    fs::read_to_string(file.path())
                        .is_ok_and(|text| text.lines().any(|found| found == line))
                })
            })
        })
        .collect();
    pids.sort_unstable();
    pids
}

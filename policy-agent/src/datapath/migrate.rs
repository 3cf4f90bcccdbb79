//! Taking over from an older version of the maps' layout, with everything that
//! is in force: policies, addresses, connections, the emergency switch.
//!
//! No agent runs meanwhile (the caller holds the lock), so only the programs of
//! the older version write to its maps, and only connection records. In this
//! order, each step of which may be the last before a crash:
//!
//! 1. A map that has the same layout in both versions is pinned in both folders:
//!    the programs of both share it. The others are made anew and filled.
//! 2. Each link gets this version's program in place and moves to this version's
//!    folder. Both programs judge by the same policies, in whatever order.
//! 3. Records that were made while the others were copied are copied, at once and
//!    when nobody puts the older programs anywhere any more; then the older folder
//!    goes.
//!
//! A folder that is made between the first two steps says that this version's maps
//! are complete; without it an attempt that was cut short is begun anew. Links of
//! this version say nothing: after a way back to the older one they are of maps
//! that have not been kept up since. A version whose elements mean
//! something else, or have another size, raises `FIRST_OF_KIN`, or brings the
//! translation here.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use policy_common::abi::{
    FIRST_OF_KIN,
    maps::{self, MapSpec},
};

use super::{
    attach::{self, AttachError, Pinned},
    clsact,
    layout::{self, Layout},
    map::MapError,
    pin::{self, PinError, Pins},
    programs::Programs,
    sys::{
        self,
        elem::{self, Cursor, Step},
    },
};

/// Begins the name of the folder that says from which version maps are filled.
const FROM: &str = "from-v";
/// Elements that one system call copies at most.
const BATCH: usize = 4_096;
/// A hash bucket that holds more than this is not one of ours.
const BATCH_LIMIT: usize = 1 << 20;
/// Maps whose contents end with the version: caches, rates and events.
const TRANSIENT: [&str; 6] = [
    maps::FLOWS,
    maps::PEER_MEMO,
    maps::POLICY_MEMO,
    maps::EVENTS,
    maps::EVENT_TOKENS,
    maps::COUNTERS,
];
/// Maps in which programs write records of connections.
const RECORDS: [&str; 3] = [maps::CT, maps::CT_PENDING, maps::CT_OPEN];

/// The step from an older version.
#[derive(Debug)]
pub(super) struct Migration<'l> {
    from: Pins,
    to: Pins,
    layout: &'l Layout,
}

/// What has just been done of it: a crash may come after each. Those that concern
/// one map, one link or one file come for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A map of equal layout is pinned in this version's folder too, and one of
    /// another layout is not.
    Shared,
    /// The other maps are made, and the programs loaded.
    Loaded,
    /// A map that is not shared is filled, or it is shared and there is no need.
    Filled,
    /// It is said that all are.
    Noted,
    /// This version's program is in a link, which is pinned where it was; in a filter,
    /// for which a program is pinned in both places.
    Replaced,
    /// And it is pinned in this version's folder.
    HandedOver,
    /// The programs are pinned, for interfaces to come.
    Pinned,
    /// A pin of the older version's programs is gone, or their folder.
    ProgramRemoved,
    /// The records of a map that were made meanwhile are copied.
    CaughtUp,
    /// A pin of the older version's maps is gone, or their folder.
    MapRemoved,
    /// The older version's folder is gone.
    VersionRemoved,
}

/// A version cannot be taken over from. What it has in force stays.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot take over what version {abi} has in force: {cause}; it stays in force. Go back to \
     the release before, or remove all of it with: policy-agent cleanup"
)]
pub struct MigrationError {
    abi: u32,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("elements of map {map} have another size there")]
    Elements { map: &'static str },
    #[error("map {map} holds more there than this version has room for")]
    Room { map: &'static str },
}

impl<'l> Migration<'l> {
    /// Finds the newest older version that can be taken over from, and makes its
    /// maps this version's where both have the same layout.
    ///
    /// # Errors
    ///
    /// [`MigrationError`]; nothing in force has changed then.
    pub(super) fn begin(
        to: &Pins,
        layout: &'l Layout,
        done: &mut dyn FnMut(Stage),
    ) -> Result<Option<Self>, MigrationError> {
        let kin = FIRST_OF_KIN..to.abi();
        let failed = |abi| {
            move |cause: PinError| MigrationError {
                abi,
                cause: cause.into(),
            }
        };
        let others = to.other_versions().map_err(failed(to.abi()))?;
        let version = |path: &Path| path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
        let abi = others
            .iter()
            .filter_map(|path| version(path))
            .filter(|abi| kin.contains(abi))
            .max();
        forget_others(to, abi).map_err(failed(to.abi()))?;
        let Some(abi) = abi else { return Ok(None) };
        let migration = Self {
            from: to.of_version(abi),
            to: to.clone(),
            layout,
        };
        if migration.is_filled() {
            // What a crash left of it is done now.
            return Ok(Some(migration));
        }
        // Without its settings no agent of that version has got as far as a link.
        let settings = migration.from.map(maps::CONFIG);
        if layout::open(&settings).map_err(failed(abi))?.is_none() {
            return Ok(None);
        }
        migration.share(done).map_err(failed(abi))?;
        Ok(Some(migration))
    }

    /// Fills what is not shared, then puts this version's programs into the links.
    ///
    /// # Errors
    ///
    /// [`MigrationError`]; every link has a program of one of the versions, and
    /// either judges by what is in force.
    pub(super) fn carry_out(
        &self,
        programs: &Programs,
        done: &mut dyn FnMut(Stage),
    ) -> Result<(), MigrationError> {
        let mut steps = || -> Result<(), Cause> {
            if !self.is_filled() {
                self.fill(done)?;
                self.note_filled()?;
                done(Stage::Noted);
            }
            self.hand_over(programs, done)?;
            // At once: who opened a connection while the tables were copied waits for
            // an answer.
            self.catch_up(done)
        };
        steps().map_err(|cause| self.failed(cause))
    }

    /// Copies the records that were made meanwhile, and removes the older version.
    ///
    /// # Errors
    ///
    /// [`MigrationError`]; it is tried again at the next start.
    pub(super) fn end(
        &self,
        programs: &Programs,
        done: &mut dyn FnMut(Stage),
    ) -> Result<(), MigrationError> {
        let mut steps = || -> Result<(), Cause> {
            // From here on nobody attaches the older programs any more.
            remove_all(&self.from.programs(), &mut || done(Stage::ProgramRemoved))?;
            self.hand_over(programs, done)?;
            self.catch_up(done)?;
            remove_all(&self.from.links(), &mut || ())?;
            remove_all(&self.from.maps(), &mut || done(Stage::MapRemoved))?;
            remove_folder(&self.from.version())?;
            done(Stage::VersionRemoved);
            Ok(remove_folder(&self.filled())?)
        };
        steps().map_err(|cause| self.failed(cause))
    }

    /// Copies the records that the older programs made since this was done before.
    fn catch_up(&self, done: &mut dyn FnMut(Stage)) -> Result<(), Cause> {
        for spec in &self.layout.maps {
            if RECORDS.contains(&spec.name)
                && let Some((old, new)) = self.unshared(spec)?
            {
                copy(&old, &new, spec, Existing::Stay)?;
                done(Stage::CaughtUp);
            }
        }
        Ok(())
    }

    fn failed(&self, cause: Cause) -> MigrationError {
        let abi = self.from.abi();
        MigrationError { abi, cause }
    }

    /// The folder that says that this version's maps hold what the older one's do.
    fn filled(&self) -> PathBuf {
        filled(&self.to, self.from.abi())
    }

    fn is_filled(&self) -> bool {
        self.filled().exists()
    }

    fn note_filled(&self) -> Result<(), PinError> {
        let path = self.filled();
        fs::create_dir(&path).map_err(|source| PinError::Io {
            what: "make the folder",
            path,
            source,
        })
    }

    /// Pins the maps of equal layout in this version's folder too, in the place of
    /// whatever an attempt left there.
    fn share(&self, done: &mut dyn FnMut(Stage)) -> Result<(), PinError> {
        for spec in &self.layout.maps {
            let path = self.to.map(spec.name);
            remove_pin(&path)?;
            let old = layout::open(&self.from.map(spec.name))?;
            if let Some(old) = old
                && !TRANSIENT.contains(&spec.name)
                && layout::check_layout(old.as_fd(), spec, &path).is_ok()
            {
                sys::obj_pin(old.as_fd(), &path).map_err(|source| PinError::Io {
                    what: "pin",
                    path,
                    source,
                })?;
            }
            done(Stage::Shared);
        }
        Ok(())
    }

    /// Copies what is not shared.
    fn fill(&self, done: &mut dyn FnMut(Stage)) -> Result<(), Cause> {
        for spec in &self.layout.maps {
            if TRANSIENT.contains(&spec.name) {
                continue;
            }
            if let Some((old, new)) = self.unshared(spec)? {
                copy(&old, &new, spec, Existing::Replaced)?;
            }
            done(Stage::Filled);
        }
        Ok(())
    }

    /// A map of both versions, unless both share it, or the older has none.
    fn unshared(&self, spec: &MapSpec) -> Result<Option<(OwnedFd, OwnedFd)>, Cause> {
        let (from, to) = (self.from.map(spec.name), self.to.map(spec.name));
        let (Some(old), Some(new)) = (layout::open(&from)?, layout::open(&to)?) else {
            return Ok(None);
        };
        let facts = |fd: &OwnedFd, path: &Path| {
            sys::map_facts(fd.as_fd()).map_err(|source| PinError::Io {
                what: "inspect",
                path: path.to_path_buf(),
                source,
            })
        };
        let (old_facts, new_facts) = (facts(&old, &from)?, facts(&new, &to)?);
        if old_facts.id == new_facts.id {
            return Ok(None);
        }
        let size = |facts: &sys::MapFacts| (facts.key_size, facts.value_size);
        if size(&old_facts) != size(&new_facts) {
            return Err(Cause::Elements { map: spec.name });
        }
        Ok(Some((old, new)))
    }

    /// Puts the programs into the older version's links and moves their pins here.
    fn hand_over(&self, programs: &Programs, done: &mut dyn FnMut(Stage)) -> Result<(), Cause> {
        for (ifindex, hook, old) in self.from.all_links()? {
            let new = self.to.link(ifindex, hook);
            let program = programs.of(hook);
            match attach::open(&old)? {
                Pinned::Link(link) if attach::is_live(&link.facts, ifindex, hook) => {
                    attach::replace(&link, program, ifindex, hook)?;
                    done(Stage::Replaced);
                    attach::remove(&new)?;
                    fs::rename(&old, &new).map_err(|source| PinError::Io {
                        what: "move",
                        path: old.clone(),
                        source,
                    })?;
                }
                Pinned::Program(_) => {
                    // Pins the program that stands for the filter in the new place.
                    clsact::replace(ifindex, hook, program.fd(), &new)?;
                    done(Stage::Replaced);
                    attach::remove(&old)?;
                }
                Pinned::Link(_) | Pinned::Nothing => attach::remove(&old)?,
            }
            done(Stage::HandedOver);
        }
        Ok(())
    }
}

/// Removes a folder and what is in it, saying so after each.
fn remove_all(folder: &Path, done: &mut dyn FnMut()) -> Result<(), PinError> {
    for path in pin::list(folder)? {
        remove_pin(&path)?;
        done();
    }
    remove_folder(folder)?;
    done();
    Ok(())
}

/// See [`Migration::filled`].
fn filled(to: &Pins, abi: u32) -> PathBuf {
    to.version().join(format!("{FROM}{abi}"))
}

/// Removes what says that maps are filled from another version than this one: a
/// step that a crash kept from its very end.
fn forget_others(to: &Pins, abi: Option<u32>) -> Result<(), PinError> {
    let kept = abi.map(|abi| filled(to, abi));
    for path in pin::list(&to.version())? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(FROM)) && Some(&path) != kept.as_ref() {
            remove_folder(&path)?;
        }
    }
    Ok(())
}

/// What becomes of elements that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replaced,
    Stay,
}

impl Existing {
    /// `BPF_ANY`, `BPF_NOEXIST` (`include/uapi/linux/bpf.h`).
    const fn flag(self) -> u64 {
        match self {
            Self::Replaced => 0,
            Self::Stay => 1,
        }
    }
}

/// Copies every element of `old` to `new`, whose elements have the same sizes.
fn copy(old: &OwnedFd, new: &OwnedFd, spec: &MapSpec, existing: Existing) -> Result<(), Cause> {
    let error = |what, source| {
        let map = spec.name;
        Cause::Map(MapError { map, what, source })
    };
    let (key_size, value_size) = (spec.key_size as usize, spec.value_size as usize);
    let mut cursor = Cursor::default();
    let mut room = BATCH;
    loop {
        let mut keys = vec![0; room * key_size];
        let mut values = vec![0; room * value_size];
        let count = u32::try_from(room).unwrap_or(u32::MAX);
        let step = elem::lookup_batch(old.as_fd(), &mut cursor, &mut keys, &mut values, count);
        let (found, more) = match step.map_err(|source| error("batched lookup", source))? {
            Step::More(found) => (found as usize, true),
            Step::End(found) => (found as usize, false),
            Step::TooSmall if room < BATCH_LIMIT => {
                room *= 2;
                continue;
            }
            Step::TooSmall => {
                return Err(error("batched lookup", io::ErrorKind::OutOfMemory.into()));
            }
        };
        let keys = keys.chunks_exact(key_size);
        let values = values.chunks_exact(value_size);
        for (key, value) in keys.zip(values).take(found) {
            match elem::update(new.as_fd(), key, value, existing.flag()) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => {
                    return Err(Cause::Room { map: spec.name });
                }
                Err(source) => return Err(error("update", source)),
            }
        }
        if !more {
            return Ok(());
        }
    }
}

fn remove_pin(path: &Path) -> Result<(), PinError> {
    gone("remove", path, fs::remove_file(path))
}

fn remove_folder(path: &Path) -> Result<(), PinError> {
    gone("remove the folder", path, fs::remove_dir(path))
}

/// What was to be removed and is not there is removed.
fn gone(what: &'static str, path: &Path, result: io::Result<()>) -> Result<(), PinError> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinError::Io {
            what,
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

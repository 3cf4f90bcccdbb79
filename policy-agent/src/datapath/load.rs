//! Opening the datapath: all programs through the verifier, unless the same are
//! there; all maps as the table says, then into the links that are there already.
//! All or nothing: what fails leaves what was in force in force.

use std::{collections::BTreeMap, fs, io, os::fd::AsFd, path::PathBuf};

use aya::{
    EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData},
};

use super::{
    adopt,
    attach::{AttachError, Backend},
    front,
    layout::{self, Layout},
    map::MapError,
    maps::Maps,
    migrate::{Migration, MigrationError, Stage},
    pin::{self, Hook, PinError, Pins},
    pinned,
    programs::{Programs, load_programs},
    reuse,
};
use crate::object::NotBuilt;

/// The kernel's side of the agent: maps, programs and where they are attached.
#[derive(Debug)]
pub struct Datapath {
    pub(super) pins: Pins,
    pub(super) maps: Maps,
    pub(super) programs: Programs,
    pub(super) backend: Backend,
    other_versions: Vec<PathBuf>,
}

/// How to open it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Mount point of the BPF file system; mounted if it is not.
    pub bpffs: PathBuf,
    /// How to attach to interfaces; `None`: the best that the kernel has.
    pub backend: Option<Backend>,
}

impl Datapath {
    /// Loads the programs, adopts maps and links that are pinned, and puts the
    /// programs into the links in place.
    ///
    /// # Errors
    ///
    /// [`DatapathError`]; nothing that was in force has changed then.
    pub fn open(options: &Options, object: &[u8]) -> Result<Self, DatapathError> {
        Self::open_as(options, object, layout::current(), &mut |_| ())
    }

    /// As [`Self::open`], as a release with this layout, telling each step out of an
    /// older version once it is done: whoever is told may be the last to know.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_as(
        options: &Options,
        object: &[u8],
        layout: &Layout,
        done: &mut dyn FnMut(Stage),
    ) -> Result<Self, DatapathError> {
        if object.is_empty() {
            return Err(NotBuilt.into());
        }
        let pins = Pins::new(&options.bpffs).of_version(layout.abi);
        pins.prepare()?;
        layout::check_all(&pins, layout)?;
        let mut new_pins: Vec<PathBuf> = layout
            .maps
            .iter()
            .map(|spec| pins.map(spec.name))
            .filter(|path| fs::symlink_metadata(path).is_err())
            .collect();
        let migration = Migration::begin(&pins, layout, done)?;
        if migration.is_some() {
            // Also what an attempt left that was cut short.
            new_pins = layout.maps.iter().map(|spec| pins.map(spec.name)).collect();
        }
        let backend = options.backend.unwrap_or_else(Backend::best);
        let same = migration
            .is_none()
            .then(|| reuse::take(&pins, layout, object))
            .flatten();
        let reused = same.is_some();
        let found = same.map_or_else(|| load(&pins, layout, object), Ok);
        let opened = found.and_then(|(maps, programs)| {
            // An agent may have ended between a change and this.
            maps.move_epoch_on();
            if let Some(migration) = &migration {
                done(Stage::Loaded);
                migration.carry_out(&programs, done)?;
            }
            adopt::adopt(&pins, &programs)?;
            if !reused {
                pinned::pin(&pins, |hook| programs.of(hook).fd())?;
                if let Err(error) = reuse::put_seal(&pins, layout, object, &programs) {
                    eprintln!("the next start loads the programs again: {error}");
                }
            }
            if let Some(migration) = &migration {
                done(Stage::Pinned);
                migration.end(&programs, done)?;
            }
            pinned::sweep(&pins)?;
            front::sweep(&pins)?;
            let other_versions = pins.other_versions()?;
            Ok(Self {
                pins: pins.clone(),
                maps,
                programs,
                backend,
                other_versions,
            })
        });
        // What a link's program uses must stay pinned: after a step from an older
        // version that may be a map which was made just now.
        let unused = migration.is_none() || pins.all_links().is_ok_and(|links| links.is_empty());
        if opened.is_err() && unused {
            for path in new_pins {
                // Most often never made; what cannot be removed is found and
                // compared by the next start.
                let _ = fs::remove_file(path);
            }
        }
        opened
    }

    /// The maps.
    #[must_use]
    pub const fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Where things are pinned.
    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Ids of the programs for pods: what they log can be followed by them.
    #[must_use]
    pub fn program_ids(&self) -> [u32; 2] {
        [Hook::From, Hook::To].map(|hook| self.programs.of(hook).id)
    }

    /// How interfaces are attached to.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// Folders of other versions beside this one's: their programs may still be
    /// attached, and judge packets as well.
    #[must_use]
    pub fn other_versions(&self) -> &[PathBuf] {
        &self.other_versions
    }
}

/// Creates or opens the maps and loads the programs. With `pins`, maps are
/// pinned; their layouts were compared.
fn load(pins: &Pins, layout: &Layout, object: &[u8]) -> Result<(Maps, Programs), DatapathError> {
    let specs = &layout.maps;
    let paths: Vec<_> = specs
        .iter()
        .map(|spec| (spec.name, pins.map(spec.name)))
        .collect();
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (spec, (name, path)) in specs.iter().zip(&paths) {
        loader.map_pin_path(name, path.as_path());
        loader.map_max_entries(name, spec.max_entries);
    }
    let mut ebpf = loader.load(object).map_err(Box::new)?;
    let mut fds = BTreeMap::new();
    // The programs' instructions name maps by the numbers of these descriptors:
    // they must stay open until the kernel has the programs.
    let mut taken = Vec::with_capacity(specs.len());
    for (spec, (_, path)) in specs.iter().zip(&paths) {
        let map = ebpf.take_map(spec.name).ok_or(DatapathError::Object {
            what: "map",
            name: spec.name,
        })?;
        let fd = data(&map).fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| PinError::Io {
            what: "open",
            path: path.clone(),
            source,
        })?;
        // Of a map that was just made this compares the object with the table.
        layout::check_layout(fd.as_fd(), spec, path)?;
        fds.insert(spec.name, fd);
        taken.push(map);
    }
    let programs = load_programs(&mut ebpf)?;
    drop(taken);
    Ok((Maps::from_fds(fds).map_err(PinError::Map)?, programs))
}

/// The common part of aya's map types.
pub(super) const fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CgroupArray(data)
        | Map::CgroupStorage(data)
        | Map::CgrpStorage(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashOfMaps(data)
        | Map::InodeStorage(data)
        | Map::PerCpuCgroupStorage(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::ReusePortSockArray(data)
        | Map::SockHash(data)
        | Map::SockMap(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::StackTraceMap(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
    }
}

/// The datapath cannot be opened. What was in force still is.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// This binary has no programs.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// Pins cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The object cannot be loaded.
    #[error(
        "cannot load the kernel programs: {}{}; see: policy-agent preflight",
        chain(.0), permission(.0)
    )]
    Load(#[from] Box<EbpfError>),
    /// The object lacks something: it was not built from these sources.
    #[error("the kernel programs' object has no {what} {name}; build it with: cargo xtask build")]
    Object {
        /// Map or program.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The kernel does not take a program.
    #[error(
        "the kernel rejected program {program}: {why}; \
         kernels from 6.1 on are supported, see: policy-agent preflight"
    )]
    Rejected {
        /// The program.
        program: &'static str,
        /// The end of the verifier's log.
        why: String,
    },
    /// A link cannot be given the new program.
    #[error("the programs that are attached stay in force: {0}")]
    Adopt(#[from] AttachError),
    /// A map cannot be used.
    #[error(transparent)]
    Map(#[from] MapError),
    /// What another version has in force cannot be taken over.
    #[error(transparent)]
    Migration(#[from] MigrationError),
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The hint for a lack of permission, wherever in the chain it is.
fn permission(error: &EbpfError) -> &'static str {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return pin::hint(io);
        }
        next = cause.source();
    }
    ""
}

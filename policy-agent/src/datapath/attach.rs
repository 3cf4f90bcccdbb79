//! Programs on pods' interfaces, and on the node's others: attached once, at the
//! front, and pinned.
//!
//! By interface index throughout (an index names one interface as long as the
//! link is on it; names are given to others). The network namespace is that of
//! the calling thread.

use std::{
    collections::BTreeMap,
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    Datapath, clsact,
    pin::{self, Hook, PinError},
    programs::Loaded,
    sys::{
        self, Kind,
        link::{self, IdOf, LinkFacts},
    },
};

/// How programs get onto an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// TCX links: Linux 6.6 and later.
    Tcx,
    /// Filters of the clsact queueing discipline: older kernels.
    Clsact,
}

impl Backend {
    /// The best that this kernel has.
    #[must_use]
    pub fn best() -> Self {
        if link::has_tcx() {
            Self::Tcx
        } else {
            Self::Clsact
        }
    }
}

/// A pinned link, or what stands for a clsact filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Interface that it was made for.
    pub ifindex: u32,
    /// Where on it.
    pub hook: Hook,
    /// It is on that interface; else the interface is gone or somebody detached
    /// the program.
    pub live: bool,
    /// Its program is the one that this agent loaded.
    pub current: bool,
    /// Nobody else's program runs before it.
    pub front: bool,
}

impl Datapath {
    /// Puts both programs on an interface; does nothing where they are. A link
    /// that is left from an interface that is gone, or that somebody detached, is
    /// made again.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; what was attached before stays.
    pub fn attach(&self, ifindex: u32) -> Result<(), AttachError> {
        // What the pod receives first: until both are there, the programs judge
        // one direction, and a reply is judged where its connection was opened.
        for hook in [Hook::To, Hook::From] {
            self.attach_one(ifindex, hook)?;
        }
        Ok(())
    }

    /// Puts the program on an interface that judges what its pod receives, the
    /// first half of [`Self::attach`].
    pub(super) fn attach_ingress(&self, ifindex: u32) -> Result<(), AttachError> {
        self.attach_one(ifindex, Hook::To)
    }

    /// Puts a program on an interface that is no pod's, as [`Self::attach`]: that of
    /// [`Hook::Wire`] or [`Hook::Arrive`].
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn attach_wire(&self, ifindex: u32, hook: Hook) -> Result<(), AttachError> {
        self.attach_one(ifindex, hook)
    }

    fn attach_one(&self, ifindex: u32, hook: Hook) -> Result<(), AttachError> {
        let path = self.pins.link(ifindex, hook);
        let program = self.programs.of(hook);
        match open(&path)? {
            Pinned::Link(link) if is_live(&link.facts, ifindex, hook) => {
                return replace(&link, program, ifindex, hook).map(drop);
            }
            Pinned::Program(id) if clsact::has_program(ifindex, hook, id)? => {
                if id != program.id {
                    clsact::replace(ifindex, hook, program.fd(), &path)?;
                }
                return Ok(());
            }
            Pinned::Link(_) | Pinned::Program(_) => remove(&path)?,
            Pinned::Nothing => {}
        }
        match self.backend {
            Backend::Tcx => attach_tcx(program.fd(), ifindex, hook, &path),
            Backend::Clsact => clsact::attach(ifindex, hook, program.fd(), &path),
        }
    }

    /// Takes both programs off an interface; one that is gone is fine.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn detach(&self, ifindex: u32) -> Result<(), AttachError> {
        for hook in [Hook::From, Hook::To] {
            detach_pin(ifindex, hook, &self.pins.link(ifindex, hook))?;
        }
        Ok(())
    }

    /// Takes such a program off an interface; one that is gone is fine.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn detach_wire(&self, ifindex: u32, hook: Hook) -> Result<(), AttachError> {
        detach_pin(ifindex, hook, &self.pins.link(ifindex, hook))
    }

    /// Every pinned link and how it is.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn links(&self) -> Result<Vec<LinkState>, AttachError> {
        self.links_of(&Hook::ALL)
    }

    fn links_of(&self, hooks: &[Hook]) -> Result<Vec<LinkState>, AttachError> {
        let mut states = Vec::new();
        for (ifindex, hook, path) in self.pins.all_links()? {
            if !hooks.contains(&hook) {
                continue;
            }
            let state = match open(&path)? {
                Pinned::Nothing => continue,
                Pinned::Link(link) => {
                    let live = is_live(&link.facts, ifindex, hook);
                    LinkState {
                        ifindex,
                        hook,
                        live,
                        current: link.facts.program_id == self.programs.of(hook).id,
                        front: live && self.is_front(ifindex, hook, link.facts.id),
                    }
                }
                Pinned::Program(id) => {
                    let live = clsact::has_program(ifindex, hook, id)?;
                    LinkState {
                        ifindex,
                        hook,
                        live,
                        current: id == self.programs.of(hook).id,
                        front: live && clsact::before(ifindex, hook).is_ok_and(|b| b.is_empty()),
                    }
                }
            };
            states.push(state);
        }
        Ok(states)
    }

    fn is_front(&self, ifindex: u32, hook: Hook, link: u32) -> bool {
        let before = self.before(ifindex, hook, link);
        before.is_ok_and(|before| before.is_empty())
    }

    /// Interfaces that have both of this agent's programs for pods.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn attached(&self) -> Result<BTreeSet<u32>, AttachError> {
        let mut hooks: BTreeMap<u32, usize> = BTreeMap::new();
        for state in self.links_of(&[Hook::From, Hook::To])? {
            if state.live && state.current {
                *hooks.entry(state.ifindex).or_default() += 1;
            }
        }
        Ok(hooks
            .into_iter()
            .filter_map(|(ifindex, count)| (count == 2).then_some(ifindex))
            .collect())
    }

    /// Where on interfaces that are no pods' a program of this agent is pinned, and
    /// whether it is in force there.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn wires(&self) -> Result<BTreeMap<(u32, Hook), bool>, AttachError> {
        let states = self.links_of(&[Hook::Wire, Hook::Arrive])?;
        Ok(states
            .into_iter()
            .map(|state| ((state.ifindex, state.hook), state.live && state.current))
            .collect())
    }
}

/// Attaches a program at the front and pins the link.
pub(super) fn attach_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: Hook,
    path: &Path,
) -> Result<(), AttachError> {
    let link = link::create(program, ifindex, attach_type(hook), link::FRONT)
        .map_err(|source| AttachError::new(ifindex, hook, "attach", source))?;
    // A crash before the pin closes the link: as if never attached.
    sys::obj_pin(link.as_fd(), path)
        .map_err(|source| AttachError::new(ifindex, hook, "pin", source))
}

/// What a pin of the links' folder is.
pub(super) enum Pinned {
    /// A link.
    Link(OpenLink),
    /// A program, which stands for its clsact filter: its id.
    Program(u32),
    /// Nothing is pinned.
    Nothing,
}

/// A pinned link.
pub(super) struct OpenLink {
    pub(super) fd: OwnedFd,
    pub(super) facts: LinkFacts,
}

/// Opens a pin.
pub(super) fn open(path: &Path) -> Result<Pinned, AttachError> {
    let error = |source| PinError::Io {
        what: "open",
        path: path.to_path_buf(),
        source,
    };
    let fd = match sys::obj_get(path) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Pinned::Nothing),
        Err(source) => return Err(error(source).into()),
    };
    match sys::kind_of(fd.as_fd()).map_err(error)? {
        Kind::Link => {
            let facts = link::facts(fd.as_fd()).map_err(error)?;
            Ok(Pinned::Link(OpenLink { fd, facts }))
        }
        Kind::Program => Ok(Pinned::Program(sys::program_id(fd.as_fd()).map_err(error)?)),
        Kind::Map | Kind::Other => Err(AttachError::Foreign {
            path: path.to_path_buf(),
        }),
    }
}

/// Where a hook's program is attached.
pub(super) const fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::From | Hook::Arrive => link::ATTACH_TCX_INGRESS,
        Hook::To | Hook::Wire => link::ATTACH_TCX_EGRESS,
        Hook::Xdp => link::ATTACH_XDP,
    }
}

/// Whether a link is still where its pin says.
pub(super) const fn is_live(facts: &LinkFacts, ifindex: u32, hook: Hook) -> bool {
    facts.ifindex == ifindex && facts.attach_type == attach_type(hook)
}

/// Puts a program into a link, in place, unless it is there; gives the program
/// that was there, where it may be known.
pub(super) fn replace(
    link: &OpenLink,
    program: &Loaded,
    ifindex: u32,
    hook: Hook,
) -> Result<Option<OwnedFd>, AttachError> {
    if link.facts.program_id == program.id {
        return Ok(None);
    }
    let old = program_by_id(link.facts.program_id)
        .map_err(|source| AttachError::new(ifindex, hook, "find the program of", source))?;
    let expected = old.as_ref().map(AsFd::as_fd);
    match link::update(link.fd.as_fd(), program.fd(), expected) {
        Ok(()) => Ok(old),
        // The interface went away meanwhile: nothing to replace.
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(None),
        Err(source) => Err(AttachError::new(
            ifindex,
            hook,
            "replace the program",
            source,
        )),
    }
}

/// A program by its id; `None` where that takes more privilege than the agent
/// has: then the single-writer lock must do.
pub(super) fn program_by_id(id: u32) -> io::Result<Option<OwnedFd>> {
    match link::by_id(IdOf::Program, id) {
        Ok(program) => Ok(Some(program)),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Detaches what a pin stands for and removes the pin.
pub(super) fn detach_pin(ifindex: u32, hook: Hook, path: &Path) -> Result<(), AttachError> {
    match open(path)? {
        Pinned::Link(open) => {
            // Fails only where the interface is gone: then it is detached.
            let detached = link::detach(open.fd.as_fd());
            let facts = link::facts(open.fd.as_fd());
            if facts.is_ok_and(|facts| facts.ifindex != 0) {
                detached.map_err(|source| AttachError::new(ifindex, hook, "detach", source))?;
            }
        }
        Pinned::Nothing => return Ok(()),
        Pinned::Program(_) => clsact::detach(ifindex, hook)?,
    }
    remove(path)
}

/// Removes a pin; one that is gone is fine.
pub(super) fn remove(path: &Path) -> Result<(), AttachError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinError::Io {
            what: "remove",
            path: path.to_path_buf(),
            source,
        }
        .into()),
        _ => Ok(()),
    }
}

/// A program cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The interface is gone.
    #[error("interface {ifindex} is gone")]
    Gone {
        /// Its index.
        ifindex: u32,
    },
    /// The kernel refuses.
    #[error(
        "cannot {what} {hook} on interface {ifindex}: {source}{}",
        pin::hint(source)
    )]
    Kernel {
        /// Interface index.
        ifindex: u32,
        /// Where on it.
        hook: Hook,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Netlink refuses.
    #[error("cannot {what} {hook} on interface {ifindex}: {why}")]
    Netlink {
        /// Interface index.
        ifindex: u32,
        /// Where on it.
        hook: Hook,
        /// What was tried.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// Another XDP program is there.
    #[error(
        "interface {name} has another XDP program; detach it \
         (ip link set dev {name} xdp off), or leave this interface out"
    )]
    Busy {
        /// The interface.
        name: String,
    },
    /// No interface of this name.
    #[error("there is no interface {name} in this network namespace")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Something else is pinned where a link belongs.
    #[error(
        "{path} is not a BPF link; remove it, or all that is pinned with: policy-agent cleanup",
        path = path.display()
    )]
    Foreign {
        /// The pin.
        path: PathBuf,
    },
    /// Pins cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl AttachError {
    pub(super) fn new(ifindex: u32, hook: Hook, what: &'static str, source: io::Error) -> Self {
        if source.raw_os_error() == Some(libc::ENODEV) {
            return Self::Gone { ifindex };
        }
        Self::Kernel {
            ifindex,
            hook,
            what,
            source,
        }
    }

    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Gone { .. } => Some(libc::ENODEV),
            Self::Kernel { source, .. } | Self::Pin(PinError::Io { source, .. }) => {
                source.raw_os_error()
            }
            _ => None,
        }
    }
}

//! Where things are pinned, and the BPF file system itself.
//!
//! Everything is below `<bpffs>/policy-agent/v<ABI>/`: `maps/<name>`,
//! `links/<ifindex>-from`, `-to`, `-wire`, `-in`, `-xdp`, and `programs/<name>`.
//! Whether what is pinned is what this
//! agent knows is `layout`'s.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use rustix::{fs::statfs, io::Errno, mount::MountFlags};

use super::{layout, map::MapError};

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const OURS: &str = "policy-agent";

/// Where this version's pins are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    abi: u32,
}

/// A hook on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// What the pod sends: `from_pod`, on the ingress of the veth's host side.
    From,
    /// What the pod receives: `to_pod`, on its egress.
    To,
    /// What goes out by an interface that is no pod's: `to_wire`, on its egress.
    Wire,
    /// What comes in by such an interface: `from_wire`, on its ingress.
    Arrive,
    /// The XDP prefilter.
    Xdp,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 5] = [Self::From, Self::To, Self::Wire, Self::Arrive, Self::Xdp];

    /// Name of the program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::From => "from_pod",
            Self::To => "to_pod",
            Self::Wire => "to_wire",
            Self::Arrive => "from_wire",
            Self::Xdp => "prefilter",
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::Wire => "wire",
            Self::Arrive => "in",
            Self::Xdp => "xdp",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Pins {
    /// The pins in a BPF file system.
    #[must_use]
    pub fn new(bpffs: impl Into<PathBuf>) -> Self {
        Self {
            bpffs: bpffs.into(),
            abi: layout::current().abi,
        }
    }

    /// The pins of another version of the layout beside these.
    #[must_use]
    pub(super) fn of_version(&self, abi: u32) -> Self {
        Self {
            bpffs: self.bpffs.clone(),
            abi,
        }
    }

    /// The version of the layout whose pins these are.
    #[must_use]
    pub(super) const fn abi(&self) -> u32 {
        self.abi
    }

    /// The BPF file system's mount point.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The folder of all versions.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.bpffs.join(OURS)
    }

    /// The folder of this version.
    #[must_use]
    pub fn version(&self) -> PathBuf {
        self.root().join(format!("v{}", self.abi))
    }

    /// The folder of maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// The folder of links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// The folder of programs, for what must be attached while no agent runs.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.version().join("programs")
    }

    /// The pin of a program.
    #[must_use]
    pub fn program(&self, hook: Hook) -> PathBuf {
        self.programs().join(hook.program())
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The pin of a link.
    #[must_use]
    pub fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", hook.suffix()))
    }

    /// Versions other than this one's that have pins here: left by another
    /// release, whose programs may still be attached.
    ///
    /// # Errors
    ///
    /// When the folder is there and cannot be read.
    pub fn other_versions(&self) -> Result<Vec<PathBuf>, PinError> {
        let own = self.version();
        let mut others = list(&self.root())?;
        others.retain(|path| *path != own);
        Ok(others)
    }

    /// Interface, hook and path of every link that is pinned.
    ///
    /// # Errors
    ///
    /// When the folder is there and cannot be read.
    pub fn all_links(&self) -> Result<Vec<(u32, Hook, PathBuf)>, PinError> {
        let mut links: Vec<_> = list(&self.links())?
            .into_iter()
            .filter_map(|path| {
                let (ifindex, hook) = link_name(path.file_name()?.to_str()?)?;
                Some((ifindex, hook, path))
            })
            .collect();
        links.sort();
        Ok(links)
    }

    /// Makes the folders, mounting the BPF file system if it is not there.
    ///
    /// # Errors
    ///
    /// [`PinError::Mount`], [`PinError::Io`].
    pub fn prepare(&self) -> Result<(), PinError> {
        mount(&self.bpffs)?;
        for folder in [self.maps(), self.links(), self.programs()] {
            fs::create_dir_all(&folder).map_err(|source| PinError::Io {
                what: "make the folder",
                path: folder,
                source,
            })?;
        }
        Ok(())
    }
}

pub(super) fn link_name(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, suffix) = name.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|h| h.suffix() == suffix)?;
    Some((ifindex.parse().ok()?, hook))
}

/// What is in a folder, sorted; nothing if there is no folder.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let error = |source| PinError::Io {
        what: "read the folder",
        path: folder.to_path_buf(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(error)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Whether a BPF file system is mounted at this path.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    // The type of `f_type` differs between architectures.
    statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(BPF_FS_MAGIC))
}

/// Mounts a BPF file system, unless there is one.
///
/// # Errors
///
/// [`PinError::Mount`] with the next step.
pub fn mount(path: &Path) -> Result<(), PinError> {
    if is_bpffs(path) {
        return Ok(());
    }
    let error = |source: io::Error| PinError::Mount {
        path: path.to_path_buf(),
        next: match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "run the agent as root with CAP_SYS_ADMIN, or mount it beforehand"
            }
            Some(libc::ENODEV) => "this kernel has no BPF file system (CONFIG_BPF_SYSCALL)",
            _ => "choose another folder with --bpffs",
        },
        source,
    };
    fs::create_dir_all(path).map_err(error)?;
    rustix::mount::mount("bpf", path, "bpf", MountFlags::empty(), None)
        .map_err(|errno| error(errno.into()))
}

/// Whether this process has a mount namespace of its own: a BPF file system that
/// is mounted there goes with its last process, and all pins with it. `None`:
/// cannot be told.
#[must_use]
pub fn in_private_mount_namespace() -> Option<bool> {
    let own = fs::read_link("/proc/self/ns/mnt").ok()?;
    let first = fs::read_link("/proc/1/ns/mnt").ok()?;
    Some(own != first)
}

/// Pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The BPF file system is not there and cannot be mounted.
    #[error(
        "cannot mount a BPF file system at {path}: {source}; {next} \
         (mount -t bpf bpf {path})", path = path.display()
    )]
    Mount {
        /// Where.
        path: PathBuf,
        /// What to do.
        next: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A pinned map has another layout: another version made it.
    #[error(
        "map {map} is pinned at {path} with another layout: {field} is {found}, this version \
         needs {expected}; remove what the other version left with: policy-agent cleanup",
        path = path.display()
    )]
    Layout {
        /// The map.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// As pinned.
        found: u32,
        /// As the table says.
        expected: u32,
    },
    /// Something else is pinned where a map belongs.
    #[error(
        "{path} is not a BPF map; remove it, or all that is pinned with: policy-agent cleanup",
        path = path.display()
    )]
    NotAMap {
        /// The pin.
        path: PathBuf,
    },
    /// A map is not pinned: no agent has run with this BPF file system.
    #[error(
        "{path} does not exist: no policy-agent of this version has run here; \
         start one, or name its --bpffs", path = path.display()
    )]
    NotThere {
        /// The pin.
        path: PathBuf,
    },
    /// A map cannot be used.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}{hint}", path = path.display(), hint = hint(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The next step after an error that has the same one everywhere.
pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            "; run as root (CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_read_back_and_others_are_not_ours() {
        let pins = Pins::new("/b");
        for hook in Hook::ALL {
            let path = pins.link(12, hook);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(link_name(name), Some((12, hook)));
        }
        assert_eq!(link_name("12-by"), None);
        assert_eq!(link_name("x-from"), None);
        assert_eq!(link_name("from"), None);
    }

    #[test]
    fn ordinary_folder_is_no_bpf_file_system() {
        assert!(!is_bpffs(Path::new("/proc")));
        assert!(!is_bpffs(Path::new("/does/not/exist")));
    }

    #[test]
    fn layout_error_names_map_field_and_next_step() {
        let error = PinError::Layout {
            map: "pa_id4",
            path: "/b/pa_id4".into(),
            field: "value size",
            found: 8,
            expected: 12,
        };
        let text = error.to_string();
        for part in [
            "pa_id4",
            "value size is 8",
            "needs 12",
            "policy-agent cleanup",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

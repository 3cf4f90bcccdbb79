//! The layout of the maps that this agent knows, and whether a pinned map has it.
//!
//! aya opens a pinned map whatever its layout; the programs would then fail in
//! the verifier, or worse, not fail. So every map is compared with the table of
//! maps before anything is loaded.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::OnceLock,
};

use policy_common::abi::{
    ABI_VERSION,
    maps::{self, ALL, MapSpec},
};

use super::{
    pin::{PinError, Pins},
    sys::{self, Kind},
};

/// Names a layout for tests, see [`Layout::of`].
const REHEARSAL: &str = "POLICY_AGENT_REHEARSE_LAYOUT";

/// The layout of all maps.
#[derive(Debug)]
pub struct Layout {
    /// Its version, which names the folder of pins.
    pub abi: u32,
    /// Every map, in the order of the table of maps.
    pub maps: [MapSpec; ALL.len()],
}

impl Layout {
    /// This release's (0), or that of a release that is not written yet, for tests
    /// of the step to it: 1 has more rows of policies, 2 also more connections.
    #[must_use]
    pub fn of(rehearsal: u32) -> Self {
        let larger: &[&str] = match rehearsal {
            0 => &[],
            1 => &[maps::POLICY],
            _ => &[maps::POLICY, maps::CT, maps::CT_PENDING, maps::CT_OPEN],
        };
        Self {
            abi: ABI_VERSION + rehearsal,
            maps: ALL.map(|mut spec| {
                if larger.contains(&spec.name) {
                    spec.max_entries *= 2;
                }
                spec
            }),
        }
    }
}

/// The layout that this process uses.
#[must_use]
pub fn current() -> &'static Layout {
    static CURRENT: OnceLock<Layout> = OnceLock::new();
    CURRENT.get_or_init(|| {
        let wish = std::env::var(REHEARSAL).ok();
        let wish = wish.and_then(|text| text.parse().ok());
        Layout::of(wish.filter(|n| *n <= 2).unwrap_or(0))
    })
}

/// Compares what is pinned with this process's table of maps; nothing pinned is
/// fine.
///
/// # Errors
///
/// [`PinError::Layout`] names the first map and field that differ.
pub fn check(pins: &Pins) -> Result<(), PinError> {
    check_all(pins, current())
}

/// As [`check`], with a layout.
pub(super) fn check_all(pins: &Pins, layout: &Layout) -> Result<(), PinError> {
    for spec in &layout.maps {
        open_checked(pins, spec)?;
    }
    Ok(())
}

/// Opens a pinned map of exactly this layout; `None`: it is not pinned.
pub(super) fn open_checked(pins: &Pins, spec: &MapSpec) -> Result<Option<OwnedFd>, PinError> {
    let path = pins.map(spec.name);
    let Some(fd) = open(&path)? else {
        return Ok(None);
    };
    check_layout(fd.as_fd(), spec, &path)?;
    Ok(Some(fd))
}

/// Opens a pinned map, whatever its layout; `None`: it is not pinned.
pub(super) fn open(path: &Path) -> Result<Option<OwnedFd>, PinError> {
    let path = path.to_path_buf();
    let fd = match sys::obj_get(&path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(PinError::Io {
                what: "open",
                path,
                source,
            });
        }
    };
    match sys::kind_of(fd.as_fd()) {
        Ok(Kind::Map) => Ok(Some(fd)),
        Ok(_) => Err(PinError::NotAMap { path }),
        Err(source) => Err(PinError::Io {
            what: "identify",
            path,
            source,
        }),
    }
}

/// Compares a map with the table's line.
pub(super) fn check_layout(
    fd: BorrowedFd<'_>,
    spec: &MapSpec,
    path: &Path,
) -> Result<(), PinError> {
    let facts = sys::map_facts(fd).map_err(|source| PinError::Io {
        what: "inspect",
        path: path.to_path_buf(),
        source,
    })?;
    let fields = [
        ("type", facts.map_type, spec.map_type),
        ("key size", facts.key_size, spec.key_size),
        ("value size", facts.value_size, spec.value_size),
        ("max entries", facts.max_entries, spec.max_entries),
        ("flags", facts.flags, spec.flags),
    ];
    for (field, found, expected) in fields {
        if found != expected {
            return Err(PinError::Layout {
                map: spec.name,
                path: path.to_path_buf(),
                field,
                found,
                expected,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsed_layout_is_another_version_with_other_capacities() {
        let capacity = |rehearsal, name| {
            let layout = Layout::of(rehearsal);
            let spec = layout.maps.iter().find(|spec| spec.name == name).copied();
            spec.map(|spec| spec.max_entries)
        };
        assert_eq!(Layout::of(0).maps, ALL);
        assert_eq!(Layout::of(2).abi, ABI_VERSION + 2);
        assert_ne!(capacity(1, maps::POLICY), capacity(0, maps::POLICY));
        assert_eq!(capacity(1, maps::CT), capacity(0, maps::CT));
        assert_ne!(capacity(2, maps::CT), capacity(0, maps::CT));
    }
}

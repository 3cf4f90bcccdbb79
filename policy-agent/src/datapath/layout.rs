//! Whether a pinned map is the one that this agent knows.
//!
//! aya opens a pinned map whatever its layout; the programs would then fail in
//! the verifier, or worse, not fail. So every map is compared with the table of
//! maps before anything is loaded.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use policy_common::abi::maps::{ALL, MapSpec};

use super::{
    pin::{PinError, Pins},
    sys::{self, Kind},
};

/// Compares what is pinned with the table of maps; nothing pinned is fine.
///
/// # Errors
///
/// [`PinError::Layout`] names the first map and field that differ.
pub fn check(pins: &Pins) -> Result<(), PinError> {
    for spec in &ALL {
        open_checked(pins, spec)?;
    }
    Ok(())
}

/// Opens a pinned map of exactly this layout; `None`: it is not pinned.
pub(super) fn open_checked(pins: &Pins, spec: &MapSpec) -> Result<Option<OwnedFd>, PinError> {
    let path = pins.map(spec.name);
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
        Ok(Kind::Map) => {}
        Ok(_) => return Err(PinError::NotAMap { path }),
        Err(source) => {
            return Err(PinError::Io {
                what: "identify",
                path,
                source,
            });
        }
    }
    check_layout(fd.as_fd(), spec, &path)?;
    Ok(Some(fd))
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

//! The programs that the agent before this one loaded, where they are the same
//! object with the same maps: the verifier takes about a second for them, and a
//! program that is replaced by its equal makes every interface wait for a grace
//! period.
//!
//! All programs are pinned. One of the pins is there a second time under a name
//! that is a digest of the object, of the maps and of the programs; it is made
//! last and removed first. With any doubt nothing is reused and everything is
//! loaded, so nothing here is an error. Whoever can write to the BPF file system
//! can attach programs anyhow.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use super::{
    layout::{self, Layout},
    maps::Maps,
    pin::{Hook, Pins},
    programs::{Loaded, Programs},
    sys::{self, Kind},
};

/// How the name of the second pin begins.
const SEAL: &str = "same-";

/// Maps and programs that are pinned; `None`: they are not all there, or not
/// those that this object would become.
pub(super) fn take(pins: &Pins, layout: &Layout, object: &[u8]) -> Option<(Maps, Programs)> {
    let maps = open_maps(pins, layout)?;
    let loaded = open_programs(pins)?;
    let ids = Hook::ALL.map(|hook| loaded[&hook].id);
    let seal = seal(pins, object, &map_ids(&maps).ok()?, ids);
    // Of what is pinned there the name is all that counts.
    fs::symlink_metadata(seal).ok()?;
    Some((Maps::from_fds(maps).ok()?, Programs::of_all(loaded)?))
}

/// Says that what is pinned now is what this object becomes with these maps.
///
/// # Errors
///
/// What is pinned is not reused then.
pub(super) fn put_seal(
    pins: &Pins,
    layout: &Layout,
    object: &[u8],
    programs: &Programs,
) -> io::Result<()> {
    let unknown = || io::Error::from(io::ErrorKind::NotFound);
    let ids = map_ids(&open_maps(pins, layout).ok_or_else(unknown)?)?;
    let path = seal(
        pins,
        object,
        &ids,
        Hook::ALL.map(|hook| programs.of(hook).id),
    );
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    sys::obj_pin(programs.of(Hook::From).fd(), &path)
}

/// Takes back what [`put_seal`] said: programs are about to be replaced.
///
/// # Errors
///
/// The folder of programs cannot be read, or a pin not be removed.
pub(super) fn break_seal(pins: &Pins) -> io::Result<()> {
    for entry in fs::read_dir(pins.programs())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SEAL) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_maps(pins: &Pins, layout: &Layout) -> Option<BTreeMap<&'static str, OwnedFd>> {
    let maps = layout.maps.iter().map(|spec| {
        let fd = layout::open_checked(pins, spec).ok()??;
        Some((spec.name, fd))
    });
    maps.collect()
}

fn open_programs(pins: &Pins) -> Option<BTreeMap<Hook, Loaded>> {
    let programs = Hook::ALL.map(|hook| {
        let fd = sys::obj_get(&pins.program(hook)).ok()?;
        let is_program = sys::kind_of(fd.as_fd()).ok()? == Kind::Program;
        let loaded = Loaded::new(fd).ok()?;
        is_program.then_some((hook, loaded))
    });
    programs.into_iter().collect()
}

fn map_ids(maps: &BTreeMap<&'static str, OwnedFd>) -> io::Result<Vec<u32>> {
    let id = |fd: BorrowedFd<'_>| Ok(sys::map_facts(fd)?.id);
    maps.values().map(|fd| id(fd.as_fd())).collect()
}

/// The path of the second pin. A collision of digests would need an object that
/// somebody made for it; ids are the kernel's and never given twice at a time.
fn seal(pins: &Pins, object: &[u8], maps: &[u32], programs: [u32; Hook::ALL.len()]) -> PathBuf {
    let mut digest = DefaultHasher::new();
    (object, maps, programs).hash(&mut digest);
    pins.programs()
        .join(format!("{SEAL}{:016x}", digest.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_object_another_map_or_another_program_is_another_seal() {
        let pins = Pins::new("/nonexistent");
        let of = |object: &[u8], maps: &[u32], programs| seal(&pins, object, maps, programs);
        let one = of(b"object", &[1, 2], [7, 8, 9, 10, 11]);
        assert_eq!(one, of(b"object", &[1, 2], [7, 8, 9, 10, 11]));
        for other in [
            of(b"objecu", &[1, 2], [7, 8, 9, 10, 11]),
            of(b"object", &[2, 1], [7, 8, 9, 10, 11]),
            of(b"object", &[1, 2], [7, 8, 9, 10, 12]),
            of(b"object", &[1], [2, 7, 8, 9, 10]),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn without_pins_nothing_is_taken() {
        let pins = Pins::new("/nonexistent");
        assert!(take(&pins, layout::current(), b"object").is_none());
    }
}

//! What is pinned already: of this layout, of another, of something else.

use std::{fs, path::Path, thread};

use aya::maps::MapData;
use policy_agent::{
    datapath::{Datapath, DatapathError, Maps, Options, PinError, layout, pin},
    object,
};
use policy_common::abi::maps::{ALL, ID4};

use crate::bed::{id, on_bed};

/// Pins a map at a path.
fn pin_map(path: &Path, key: u32, value: u32, entries: u32) {
    const HASH: u32 = 1;
    const NO_PREALLOC: u32 = 1;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let map = aya_obj::Map::new_from_params(HASH, key, value, entries, NO_PREALLOC);
    let map = MapData::create(map, "other", None).unwrap();
    map.pin(path).unwrap();
}

#[test]
fn every_map_of_the_table_is_pinned_and_reused() {
    on_bed(|bed| {
        let datapath = bed.open();
        let ids = || -> Vec<u32> {
            let pin = |spec: &policy_common::abi::maps::MapSpec| {
                id("map", &datapath.pins().map(spec.name))
            };
            ALL.iter().map(pin).collect()
        };
        let before = ids();
        drop(bed.open());
        assert_eq!(ids(), before);
        Maps::open(datapath.pins()).unwrap();
    });
}

#[test]
fn pinned_map_of_another_layout_is_refused_before_anything_is_made() {
    on_bed(|bed| {
        let pins = bed.pins();
        let path = pins.map(ID4);
        for (value, entries, field) in [(8, 131_072, "value size"), (12, 16, "max entries")] {
            pin_map(&path, 4, value, entries);
            let error = bed.try_open(None).unwrap_err().to_string();
            for part in ["pa_id4", field, "policy-agent cleanup"] {
                assert!(error.contains(part), "{error}");
            }
            let pinned: Vec<_> = fs::read_dir(pins.maps()).unwrap().collect();
            assert_eq!(pinned.len(), 1, "{pinned:?}");
            fs::remove_file(&path).unwrap();
        }
        pin_map(&path, 4, 12, 131_072);
        bed.open();
    });
}

#[test]
fn link_where_a_map_belongs_is_refused() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        let pins = datapath.pins();
        let link = pins.link(bed.ifindex, policy_agent::datapath::Hook::From);
        fs::remove_file(pins.map(ID4)).unwrap();
        fs::rename(link, pins.map(ID4)).unwrap();
        let error = layout::check(pins).unwrap_err();
        assert!(matches!(error, PinError::NotAMap { .. }), "{error}");
    });
}

#[test]
fn pins_of_another_version_are_reported_and_left() {
    on_bed(|bed| {
        let other = bed.pins().root().join("v0");
        let map = other.join("maps/pa_old");
        pin_map(&map, 4, 4, 1);
        let datapath = bed.open();
        assert_eq!(datapath.other_versions(), [other]);
        assert!(map.exists());
    });
}

#[test]
fn maps_that_nobody_pinned_are_said_to_be_missing() {
    on_bed(|bed| {
        let error = Maps::open(&bed.pins()).unwrap_err();
        assert!(matches!(error, PinError::NotThere { .. }), "{error}");
        assert!(error.to_string().contains("--bpffs"), "{error}");
    });
}

#[test]
fn object_that_was_not_built_is_refused_before_anything_is_made() {
    on_bed(|bed| {
        let options = Options {
            bpffs: bed.bpffs.clone(),
            backend: None,
        };
        let error = Datapath::open(&options, b"").unwrap_err();
        assert!(matches!(error, DatapathError::NotBuilt(_)), "{error}");
        assert!(!bed.pins().root().exists());
    });
}

#[test]
fn file_system_is_mounted_where_there_is_none() {
    on_bed(|bed| {
        // Below a file system that may hold folders.
        let path = bed.bpffs.with_extension("sub");
        assert!(!pin::is_bpffs(&path));
        pin::mount(&path).unwrap();
        assert!(pin::is_bpffs(&path));
        pin::mount(&path).unwrap();
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
        assert!(!pin::is_bpffs(&path), "mounted once only");
        fs::remove_dir(&path).unwrap();
    });
}

#[test]
fn without_permission_the_error_says_what_is_needed_and_nothing_is_left() {
    on_bed(|bed| {
        let result = thread::scope(|scope| {
            let powerless = scope.spawn(|| {
                let none = rustix::thread::CapabilitySet::empty();
                let sets = rustix::thread::CapabilitySets {
                    effective: none,
                    permitted: none,
                    inheritable: none,
                };
                rustix::thread::set_capabilities(None, sets).unwrap();
                let options = Options {
                    bpffs: bed.bpffs.clone(),
                    backend: None,
                };
                let object = object::bytes().unwrap();
                let opened = Datapath::open(&options, object).map(drop);
                let mounted = pin::mount(Path::new("/proc/self")).map(drop);
                (opened.unwrap_err(), mounted.unwrap_err())
            });
            powerless.join().unwrap()
        });
        let (opened, mounted) = result;
        assert!(opened.to_string().contains("root"), "{opened}");
        assert!(mounted.to_string().contains("CAP_SYS_ADMIN"), "{mounted}");
        let pins = bed.pins();
        assert!(layout::check(&pins).is_ok());
        assert!(matches!(
            Maps::open(&pins).unwrap_err(),
            PinError::NotThere { .. }
        ));
    });
}

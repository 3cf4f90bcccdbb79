//! Nothing of ours is left, and everything of others' is.

use std::{collections::BTreeSet, fs, path::PathBuf};

use policy_agent::datapath::{
    Backend, Hook,
    cleanup::{Left, Object, cleanup, exists},
};
use policy_common::abi::maps::ALL;

use crate::bed::{Bed, apply, id, index, ip, on_bed, run};

/// Everything that is pinned: maps, links and programs.
fn objects(bed: &Bed) -> BTreeSet<Object> {
    let pins = bed.pins();
    let maps = ALL
        .iter()
        .map(|spec| Object::Map(id("map", &pins.map(spec.name))));
    let programs = fs::read_dir(pins.programs()).unwrap().flatten();
    let programs = programs.map(|entry| Object::Program(id("prog", &entry.path())));
    let links = pins.all_links().unwrap();
    let links = links.iter().map(|(_, hook, path)| {
        // On kernels without TCX a program is the record of its filter.
        if Backend::best() == Backend::Clsact && *hook != Hook::Xdp {
            Object::Program(id("prog", path))
        } else {
            Object::Link(id("link", path))
        }
    });
    maps.chain(programs).chain(links).collect()
}

#[test]
fn nothing_is_left() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        datapath.attach(bed.ifindex).unwrap();
        datapath.attach_prefilter("p0").unwrap();
        drop(datapath);
        let objects = objects(bed);
        // A program for each hook, and the links of those that are attached.
        let links = match Backend::best() {
            Backend::Tcx => 3,
            Backend::Clsact => 1,
        };
        assert_eq!(objects.len(), ALL.len() + Hook::ALL.len() + links);
        assert!(objects.iter().all(|object| exists(*object)));

        let done = cleanup(&bed.bpffs).unwrap();
        assert_eq!(done.left, []);
        assert_eq!(done.gone.len(), objects.len());
        assert!(!objects.iter().any(|object| exists(*object)));
        assert!(!bed.pins().root().exists());

        let again = cleanup(&bed.bpffs).unwrap();
        assert_eq!((again.pins, again.left), (Vec::<PathBuf>::new(), vec![]));
    });
}

#[test]
fn filters_are_taken_off_too() {
    on_bed(|bed| {
        let datapath = bed.open_clsact();
        datapath.attach(bed.ifindex).unwrap();
        drop(datapath);
        let done = cleanup(&bed.bpffs).unwrap();
        assert_eq!(done.left, []);
        assert_eq!(run("tc", "filter show dev h0 ingress"), "");
        assert_eq!(run("tc", "filter show dev h0 egress"), "");
        assert!(!bed.pins().root().exists());
    });
}

#[test]
fn links_of_interfaces_that_are_gone_are_removed() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        drop(datapath);
        ip("link del h0");
        let done = cleanup(&bed.bpffs).unwrap();
        assert_eq!(done.left, []);
    });
}

#[test]
fn what_a_process_holds_is_listed_with_the_process() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        let done = cleanup(&bed.bpffs).unwrap();
        let held: Vec<_> = done
            .left
            .iter()
            .filter_map(|left| match left {
                Left::Object { object, held_by } => Some((object, held_by)),
                Left::Path { .. } => None,
            })
            .collect();
        assert_eq!(held.len(), done.left.len(), "{:?}", done.left);
        assert!(held.iter().any(|(object, by)| {
            matches!(object, Object::Program(_)) && by.contains(&std::process::id())
        }));
        let on_interface = run("bpftool", "net show dev h0");
        assert!(!on_interface.contains("from_pod"), "{on_interface}");
    });
}

#[test]
fn other_agents_and_other_versions_are_told_apart() {
    on_bed(|bed| {
        let other = bed.bpffs.join("elsewhere");
        fs::create_dir(&other).unwrap();
        let other = Bed {
            bpffs: other,
            ifindex: index("p0"),
        };
        let theirs = other.open();
        theirs.attach(other.ifindex).unwrap();
        let mine = bed.open();
        mine.attach(bed.ifindex).unwrap();
        // As another version would have left it.
        let pins = mine.pins().clone();
        fs::rename(pins.version(), pins.root().join("v0")).unwrap();
        drop(mine);
        let done = cleanup(&bed.bpffs).unwrap();
        assert_eq!(done.left, []);
        assert!(!pins.root().exists());
        assert_eq!(theirs.attached().unwrap().len(), 1);
        assert!(theirs.pins().link(other.ifindex, Hook::From).exists());
        drop(theirs);
        assert_eq!(cleanup(&other.bpffs).unwrap().left, []);
    });
}

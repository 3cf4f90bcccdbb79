//! An agent that ends and another that takes over.

use std::{fs, thread};

use policy_agent::datapath::{AttachError, Backend, DatapathError, Hook, Maps};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::bed::{Bed, FRIEND, POD, STRANGER, SYN, apply, id, on_bed, tcp};

#[test]
fn what_was_in_force_stays_when_the_agent_goes_and_is_adopted_by_the_next() {
    on_bed(|bed| {
        let first = bed.open();
        apply(&first, &bed.pod());
        first.attach(bed.ifindex).unwrap();
        let before = first.read_back().unwrap();
        let pin = first.pins().link(bed.ifindex, Hook::From);
        let kind = match first.backend() {
            Backend::Tcx => "link",
            Backend::Clsact => "prog",
        };
        let first_id = id(kind, &pin);
        drop(first);
        assert_eq!(id(kind, &pin), first_id, "attached without an agent");

        let second = bed.open();
        assert_eq!(second.read_back().unwrap(), before);
        assert!(second.attached().unwrap().contains(&bed.ifindex));
        if second.backend() == Backend::Tcx {
            assert_eq!(id(kind, &pin), first_id, "the same link");
        }
        let to_pod = bed.arriving();
        for (from, passes) in [(FRIEND, true), (STRANGER, false)] {
            let packet = tcp((from, 1000), (POD, 80), SYN);
            assert_eq!(second.test_run(&packet, to_pod, 1).unwrap().passes, passes);
        }
    });
}

/// Ids of the programs that are pinned.
fn programs(bed: &Bed) -> [u32; Hook::ALL.len()] {
    Hook::ALL.map(|hook| id("prog", &bed.pins().program(hook)))
}

#[test]
fn the_same_programs_with_the_same_maps_are_not_loaded_again() {
    on_bed(|bed| {
        let first = bed.open();
        apply(&first, &bed.pod());
        first.attach(bed.ifindex).unwrap();
        let before = programs(bed);
        drop(first);
        let second = bed.open();
        assert_eq!(programs(bed), before);
        assert!(second.links().unwrap().iter().all(|link| link.current));
        let to_pod = bed.arriving();
        for (from, passes) in [(FRIEND, true), (STRANGER, false)] {
            let packet = tcp((from, 1000), (POD, 80), SYN);
            assert_eq!(second.test_run(&packet, to_pod, 1).unwrap().passes, passes);
        }
        // An interface that comes later.
        second.detach(bed.ifindex).unwrap();
        second.attach(bed.ifindex).unwrap();
        assert!(second.attached().unwrap().contains(&bed.ifindex));
    });
}

#[test]
fn programs_of_a_map_or_a_pin_that_is_not_there_any_more_are_loaded_again() {
    on_bed(|bed| {
        let first = bed.open();
        first.attach(bed.ifindex).unwrap();
        let mut before = programs(bed);
        let pins = bed.pins();
        let map = pins.map("pa_deny6");
        let [from, to, wire] = [Hook::From, Hook::To, Hook::Wire].map(|hook| pins.program(hook));
        let a_map = || fs::remove_file(&map).unwrap();
        let a_program = || fs::remove_file(&wire).unwrap();
        // Of the right kind, and not the one that it was.
        let another = || fs::rename(&from, &to).unwrap();
        let changes: [(&str, &dyn Fn()); 3] = [
            ("a map", &a_map),
            ("a program", &a_program),
            ("another", &another),
        ];
        for (what, change) in changes {
            change();
            let next = bed.open();
            let now = programs(bed);
            assert!(now.iter().all(|id| !before.contains(id)), "{what}: {now:?}");
            assert!(
                next.links().unwrap().iter().all(|link| link.current),
                "{what}"
            );
            before = now;
        }
        drop(bed.open());
        assert_eq!(programs(bed), before, "and then they are the same again");
    });
}

#[test]
fn programs_are_replaced_in_place() {
    on_bed(|bed| {
        let first = bed.open();
        first.attach(bed.ifindex).unwrap();
        bed.forget_programs();
        let second = bed.open();
        assert!(first.attached().unwrap().is_empty(), "not its programs now");
        assert!(second.attached().unwrap().contains(&bed.ifindex));
        let links = second.links().unwrap();
        assert_eq!(links.len(), 2);
        assert!(
            links
                .iter()
                .all(|link| link.live && link.current && link.front)
        );
    });
}

#[test]
fn programs_of_filters_are_replaced_in_place() {
    on_bed(|bed| {
        let first = bed.open_clsact();
        first.attach(bed.ifindex).unwrap();
        assert!(first.attached().unwrap().contains(&bed.ifindex));
        bed.forget_programs();
        let second = bed.open_clsact();
        assert!(first.attached().unwrap().is_empty(), "not its programs now");
        assert!(second.attached().unwrap().contains(&bed.ifindex));
    });
}

#[test]
fn start_that_fails_leaves_the_programs_that_were_there() {
    on_bed(|bed| {
        let first = bed.open();
        first.attach(bed.ifindex).unwrap();
        // Not a link, and the last of the folder.
        let pins = bed.pins();
        let foreign = pins.link(99_999, Hook::To);
        fs::rename(pins.map("pa_deny6"), &foreign).unwrap();
        let error = bed.try_open(None).unwrap_err();
        assert!(
            matches!(error, DatapathError::Adopt(AttachError::Foreign { .. })),
            "{error}"
        );
        assert!(!pins.map("pa_deny6").exists(), "nothing new is pinned");
        fs::rename(&foreign, pins.map("pa_deny6")).unwrap();
        assert_eq!(first.attached().unwrap().len(), 1);
        let second = bed.open();
        assert_eq!(second.attached().unwrap().len(), 1);
        Maps::open(&pins).unwrap();
    });
}

#[test]
fn start_that_fails_leaves_the_filters_that_were_there() {
    on_bed(|bed| {
        let first = bed.open_clsact();
        first.attach(bed.ifindex).unwrap();
        let pins = bed.pins();
        let foreign = pins.link(99_999, Hook::To);
        fs::rename(pins.map("pa_deny6"), &foreign).unwrap();
        bed.try_open(None).unwrap_err();
        fs::remove_file(&foreign).unwrap();
        assert_eq!(first.attached().unwrap().len(), 1);
    });
}

#[test]
fn three_capabilities_are_enough_once_the_file_system_is_mounted() {
    on_bed(|bed| {
        let first = bed.open();
        first.attach(bed.ifindex).unwrap();
        thread::scope(|scope| {
            let modest = scope.spawn(|| {
                let few = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN;
                let sets = CapabilitySets {
                    effective: few,
                    permitted: few,
                    inheritable: CapabilitySet::empty(),
                };
                set_capabilities(None, sets).unwrap();
                let second = bed.open();
                apply(&second, &bed.pod());
                second.attach(bed.ifindex).unwrap();
                assert!(second.attached().unwrap().contains(&bed.ifindex));
                assert_eq!(second.read_back().unwrap().endpoints.len(), 1);
            });
            modest.join().unwrap();
        });
    });
}

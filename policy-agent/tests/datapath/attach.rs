//! Programs on interfaces: made, lost, found, made again.

use policy_agent::datapath::{AttachError, Backend, Datapath, Hook};

use crate::bed::{Bed, attached_id, index, ip, on_bed, run, take_off};

#[test]
fn kernels_from_6_6_on_get_links_and_older_ones_filters() {
    let uname = rustix::system::uname();
    let release = uname.release().to_str().unwrap();
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let version: (u32, u32) = (
        numbers.next().unwrap().unwrap(),
        numbers.next().unwrap().unwrap(),
    );
    let expected = if version >= (6, 6) {
        Backend::Tcx
    } else {
        Backend::Clsact
    };
    on_bed(|bed| assert_eq!(bed.open().backend(), expected, "on {release}"));
}

#[test]
fn attaching_twice_is_attaching_once() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        let first = attached_id(&datapath, bed.ifindex, Hook::To);
        datapath.attach(bed.ifindex).unwrap();
        assert_eq!(attached_id(&datapath, bed.ifindex, Hook::To), first);
        assert_eq!(datapath.links().unwrap().len(), 2);
        datapath.detach(bed.ifindex).unwrap();
        assert!(datapath.links().unwrap().is_empty());
        datapath.detach(bed.ifindex).unwrap();
    });
}

#[test]
fn link_that_somebody_detached_is_found_and_made_again() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        take_off(&datapath, "h0", Hook::From);
        assert!(datapath.attached().unwrap().is_empty());
        let lost: Vec<Hook> = lost(&datapath);
        assert_eq!(lost, [Hook::From]);
        datapath.attach(bed.ifindex).unwrap();
        assert!(datapath.attached().unwrap().contains(&bed.ifindex));
    });
}

fn lost(datapath: &Datapath) -> Vec<Hook> {
    let links = datapath.links().unwrap();
    links.iter().filter(|l| !l.live).map(|l| l.hook).collect()
}

#[test]
fn link_of_an_interface_that_is_gone_is_found_and_removed() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        ip("link del h0");
        assert_eq!(lost(&datapath), [Hook::From, Hook::To]);
        let error = datapath.attach(bed.ifindex).unwrap_err();
        assert!(matches!(error, AttachError::Gone { .. }), "{error}");
        datapath.detach(bed.ifindex).unwrap();
        assert!(datapath.links().unwrap().is_empty());
    });
}

#[test]
fn index_of_an_interface_that_is_gone_may_be_another_ones() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        ip("link del h0");
        ip(&format!(
            "link add h1 index {} type veth peer name p1",
            bed.ifindex
        ));
        assert_eq!(index("h1"), bed.ifindex);
        assert!(datapath.attached().unwrap().is_empty());
        datapath.attach(bed.ifindex).unwrap();
        assert!(datapath.attached().unwrap().contains(&bed.ifindex));
    });
}

#[test]
fn program_is_put_in_front_and_one_that_comes_before_it_is_noticed() {
    on_bed(|bed| {
        let first = bed.open();
        first.attach(bed.ifindex).unwrap();
        assert!(first.links().unwrap().iter().all(|link| link.front));
        let other = other_agent(bed, Bed::open);
        other.attach(bed.ifindex).unwrap();
        assert!(other.links().unwrap().iter().all(|link| link.front));
        assert!(
            first
                .links()
                .unwrap()
                .iter()
                .all(|link| link.live && !link.front)
        );
        other.detach(bed.ifindex).unwrap();
        assert!(
            first
                .links()
                .unwrap()
                .iter()
                .all(|link| link.live && link.front)
        );
        policy_agent::datapath::cleanup::cleanup(other.pins().bpffs()).unwrap();
    });
}

/// An agent with a folder of its own.
pub(crate) fn other_agent(bed: &Bed, open: impl Fn(&Bed) -> Datapath) -> Datapath {
    let bpffs = bed.bpffs.join("other");
    std::fs::create_dir(&bpffs).unwrap();
    open(&Bed {
        bpffs,
        ifindex: bed.ifindex,
    })
}

#[test]
fn filters_do_for_kernels_without_tcx() {
    on_bed(|bed| {
        let datapath = bed.open_clsact();
        datapath.attach(bed.ifindex).unwrap();
        datapath.attach(bed.ifindex).unwrap();
        for (side, program) in [("ingress", "from_pod"), ("egress", "to_pod")] {
            let filters = run("tc", &format!("filter show dev h0 {side}"));
            assert!(filters.contains(program), "{filters}");
            assert!(filters.contains("direct-action"), "{filters}");
            assert!(filters.contains("pref 1 "), "{filters}");
        }
        run("tc", "filter del dev h0 ingress pref 1");
        assert_eq!(lost(&datapath), [Hook::From]);
        datapath.attach(bed.ifindex).unwrap();
        assert!(lost(&datapath).is_empty());
        datapath.detach(bed.ifindex).unwrap();
        assert_eq!(run("tc", "filter show dev h0 ingress"), "");
        assert_eq!(run("tc", "filter show dev h0 egress"), "");
        assert!(datapath.links().unwrap().is_empty());
    });
}

#[test]
fn filter_that_nobody_remembers_is_taken_over_and_one_of_others_is_no_longer_ours() {
    on_bed(|bed| {
        let first = bed.open_clsact();
        first.attach(bed.ifindex).unwrap();
        // The BPF file system went with the mount namespace that had it.
        std::fs::remove_dir_all(first.pins().root()).unwrap();
        let mine = bed.open_clsact();
        mine.attach(bed.ifindex).unwrap();
        assert!(mine.attached().unwrap().contains(&bed.ifindex));
        let filters = run("tc", "filter show dev h0 egress");
        assert_eq!(filters.matches("handle").count(), 1, "{filters}");

        // Somebody puts the other agent's program back in its place.
        let other = other_agent(bed, Bed::open_clsact);
        other.attach(bed.ifindex).unwrap();
        assert_eq!(lost(&mine), [Hook::From, Hook::To]);
        mine.attach(bed.ifindex).unwrap();
        assert!(lost(&mine).is_empty());
        assert_eq!(lost(&other), [Hook::From, Hook::To]);
    });
}

#[test]
fn filter_of_an_interface_that_is_gone_is_found_and_removed() {
    on_bed(|bed| {
        let datapath = bed.open_clsact();
        datapath.attach(bed.ifindex).unwrap();
        ip("link del h0");
        assert_eq!(lost(&datapath), [Hook::From, Hook::To]);
        datapath.detach(bed.ifindex).unwrap();
        assert!(datapath.links().unwrap().is_empty());
    });
}

const WIRE: [Hook; 2] = [Hook::Wire, Hook::Arrive];

#[test]
fn wire_is_attached_found_adopted_and_removed_like_the_others() {
    for hook in WIRE {
        on_bed(|bed| {
            let p0 = index("p0");
            let wires = |live| [((p0, hook), live)].into();
            let datapath = bed.open();
            datapath.attach(bed.ifindex).unwrap();
            datapath.attach_wire(p0, hook).unwrap();
            datapath.attach_wire(p0, hook).unwrap();
            assert_eq!(datapath.wires().unwrap(), wires(true));
            assert_eq!(datapath.attached().unwrap(), [bed.ifindex].into());
            let link = attached_id(&datapath, p0, hook);
            drop(datapath);

            let next = bed.open();
            if next.backend() == Backend::Tcx {
                assert_eq!(attached_id(&next, p0, hook), link, "the same link");
            }
            assert_eq!(next.wires().unwrap(), wires(true), "its program");
            take_off(&next, "p0", hook);
            assert_eq!(next.wires().unwrap(), wires(false));
            next.attach_wire(p0, hook).unwrap();
            assert_eq!(next.wires().unwrap(), wires(true));
            ip("link del p0");
            assert_eq!(next.wires().unwrap(), wires(false));
            let error = next.attach_wire(p0, hook).unwrap_err();
            assert!(matches!(error, AttachError::Gone { .. }), "{error}");
            next.detach_wire(p0, hook).unwrap();
            assert!(next.wires().unwrap().is_empty());
        });
    }
}

#[test]
fn wire_that_becomes_a_pods_interface_has_all_programs_until_they_are_taken_off() {
    for clsact in [false, true] {
        on_bed(|bed| {
            let datapath = if clsact {
                bed.open_clsact()
            } else {
                bed.open()
            };
            let both = |act: &dyn Fn(Hook)| WIRE.into_iter().for_each(act);
            let attach = |hook| datapath.attach_wire(bed.ifindex, hook).unwrap();
            both(&attach);
            datapath.attach(bed.ifindex).unwrap();
            let live = || lost(&datapath).is_empty();
            assert!(live() && datapath.links().unwrap().len() == 4);
            both(&|hook| datapath.detach_wire(bed.ifindex, hook).unwrap());
            assert!(datapath.wires().unwrap().is_empty());
            assert!(live() && datapath.attached().unwrap().contains(&bed.ifindex));
            both(&attach);
            datapath.detach(bed.ifindex).unwrap();
            let wires = WIRE.map(|hook| ((bed.ifindex, hook), true)).into();
            assert_eq!(datapath.wires().unwrap(), wires);
            assert!(datapath.attached().unwrap().is_empty());
            policy_agent::datapath::cleanup::cleanup(&bed.bpffs).unwrap();
            for side in ["ingress", "egress"] {
                assert_eq!(run("tc", &format!("filter show dev h0 {side}")), "");
            }
        });
    }
}

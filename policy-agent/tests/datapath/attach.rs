//! Programs on interfaces: made, lost, found, made again.

use policy_agent::datapath::{AttachError, Backend, Datapath, Hook};

use crate::bed::{id, index, ip, on_bed, run};

#[test]
fn attaching_twice_is_attaching_once() {
    on_bed(|bed| {
        let datapath = bed.open();
        assert_eq!(
            datapath.backend(),
            Backend::Tcx,
            "this test needs Linux 6.6"
        );
        datapath.attach(bed.ifindex).unwrap();
        let link = datapath.pins().link(bed.ifindex, Hook::To);
        let first = id("link", &link);
        datapath.attach(bed.ifindex).unwrap();
        assert_eq!(id("link", &link), first);
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
        let link = id("link", &datapath.pins().link(bed.ifindex, Hook::From));
        run("bpftool", &format!("link detach id {link}"));
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
        let other = other_agent(bed);
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
fn other_agent(bed: &crate::bed::Bed) -> Datapath {
    let bpffs = bed.bpffs.join("other");
    std::fs::create_dir(&bpffs).unwrap();
    crate::bed::Bed {
        bpffs,
        ifindex: bed.ifindex,
    }
    .open()
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

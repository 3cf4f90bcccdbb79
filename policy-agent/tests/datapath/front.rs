//! Others' programs before ours, with links and with filters.

use policy_agent::datapath::{Datapath, Hook};
use policy_common::abi::Direction;

use crate::attach::other_agent;
use crate::bed::{Bed, FRIEND, POD, STRANGER, SYN, apply, on_bed, run, tcp};

/// Hooks on which others come before us.
fn displaced(datapath: &Datapath) -> Vec<Hook> {
    let all = datapath.displaced().unwrap();
    all.iter().map(|found| found.hook).collect()
}

#[test]
fn link_comes_first_again_in_place_and_nothing_else_is_left() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        datapath.attach(bed.ifindex).unwrap();
        for hook in [Hook::Wire, Hook::Arrive] {
            datapath.attach_wire(bed.ifindex, hook).unwrap();
            assert_eq!(displaced(&datapath), [], "our own are nobody else's");
            datapath.detach_wire(bed.ifindex, hook).unwrap();
        }
        let other = other_agent(bed, Bed::open);
        other.attach(bed.ifindex).unwrap();
        let found = datapath.displaced().unwrap();
        assert_eq!(displaced(&datapath), [Hook::From, Hook::To]);
        assert_eq!(found[0].by[0].name, "from_pod");
        for hook in [Hook::From, Hook::To] {
            datapath.put_in_front(bed.ifindex, hook).unwrap();
        }
        assert_eq!(displaced(&datapath), []);
        assert_eq!(displaced(&other), [Hook::From, Hook::To]);
        // Ours are in the links that are pinned, and there is nothing else.
        assert!(datapath.attached().unwrap().contains(&bed.ifindex));
        let links = std::fs::read_dir(datapath.pins().links()).unwrap();
        assert_eq!(links.count(), 2);
        for (direction, packet) in [
            (bed.arriving(), tcp((FRIEND, 1000), (POD, 80), SYN)),
            (bed.leaving(), tcp((POD, 1000), (FRIEND, 80), SYN)),
        ] {
            assert!(datapath.test_run(&packet, direction, 1).unwrap().passes);
        }
        let denied = tcp((STRANGER, 1000), (POD, 80), SYN);
        assert!(
            !datapath
                .test_run(&denied, bed.arriving(), 1)
                .unwrap()
                .passes
        );
        assert_eq!(bed.arriving().direction, Direction::Ingress);
        policy_agent::datapath::cleanup::cleanup(other.pins().bpffs()).unwrap();
    });
}

#[test]
fn what_a_crash_left_on_the_way_to_the_front_is_swept_by_the_next_start() {
    on_bed(|bed| {
        let datapath = bed.open();
        datapath.attach(bed.ifindex).unwrap();
        // A second pin of the link, as between making the new one and renaming it.
        let pin = datapath.pins().link(bed.ifindex, Hook::To);
        let stray = pin.with_file_name(format!("{}-to-next", bed.ifindex));
        let shown = run("bpftool", &format!("link show pinned {}", pin.display()));
        let id = shown.split_once(':').unwrap().0;
        run("bpftool", &format!("link pin id {id} {}", stray.display()));
        drop(datapath);
        let next = bed.open();
        assert!(!stray.exists());
        assert!(next.attached().unwrap().contains(&bed.ifindex));
    });
}

#[test]
fn filter_comes_first_again_and_others_stay_behind_it() {
    on_bed(|bed| {
        let datapath = bed.open_clsact();
        datapath.attach(bed.ifindex).unwrap();
        assert_eq!(displaced(&datapath), []);
        // Of one priority, the newest filter is asked first.
        let program = datapath.pins().program(Hook::From);
        let add = format!(
            "filter add dev h0 ingress pref 1 protocol all bpf da object-pinned {}",
            program.display()
        );
        run("tc", &add);
        assert_eq!(displaced(&datapath), [Hook::From]);
        let front = |hook| {
            let links = datapath.links().unwrap();
            links.iter().any(|link| link.hook == hook && link.front)
        };
        assert!(!front(Hook::From) && front(Hook::To));
        datapath.put_in_front(bed.ifindex, Hook::From).unwrap();
        assert_eq!(displaced(&datapath), []);
        assert!(front(Hook::From));
        let shown = || run("tc", "filter show dev h0 ingress");
        // Ours once, under its handle, before the other.
        let handles: Vec<String> = shown()
            .lines()
            .filter_map(|line| Some(line.split_once("handle ")?.1.split(' ').next()?.to_owned()))
            .collect();
        assert_eq!(handles, ["0x7061", "0x1"], "{}", shown());
        datapath.detach(bed.ifindex).unwrap();
        assert!(shown().contains("handle 0x1"), "the other stays");
        assert!(!shown().contains("0x706"), "{}", shown());
    });
}

//! An agent that ends and another that takes over.

use policy_agent::datapath::Hook;

use crate::bed::{FRIEND, POD, STRANGER, SYN, apply, id, on_bed, tcp};

#[test]
fn what_was_in_force_stays_when_the_agent_goes_and_is_adopted_by_the_next() {
    on_bed(|bed| {
        let first = bed.open();
        apply(&first, &bed.pod());
        first.attach(bed.ifindex).unwrap();
        let before = first.read_back().unwrap();
        let link = first.pins().link(bed.ifindex, Hook::From);
        let link_id = id("link", &link);
        drop(first);
        assert_eq!(id("link", &link), link_id, "attached without an agent");

        let second = bed.open();
        assert_eq!(second.read_back().unwrap(), before);
        assert_eq!(id("link", &link), link_id, "the same link");
        let to_pod = bed.arriving();
        for (from, passes) in [(FRIEND, true), (STRANGER, false)] {
            let packet = tcp((from, 1000), (POD, 80), SYN);
            assert_eq!(second.test_run(&packet, to_pod, 1).unwrap().passes, passes);
        }
    });
}

#[test]
fn programs_are_replaced_in_place() {
    on_bed(|bed| {
        let first = bed.open();
        first.attach(bed.ifindex).unwrap();
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
        let second = bed.open_clsact();
        assert!(first.attached().unwrap().is_empty(), "not its programs now");
        assert!(second.attached().unwrap().contains(&bed.ifindex));
    });
}

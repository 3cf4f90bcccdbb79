//! More pods than there are slots, in the kernel's maps. Their interfaces are not
//! there, which stops nobody: programs are put on those that are.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use policy_agent::datapath::Datapath;
use policy_common::abi::{
    Direction,
    maps::{ENDPOINT_ENTRIES, ENDPOINTS, IFINDEX_ENTRIES},
    policy::ACTION_DENY,
};
use policy_core::desired::{CompiledPolicy, DesiredState, EndpointSpec, PodRef};
use policy_core::desired::{PolicyRef, PortSetSpec};
use policy_core::plan::{Attachment, Attachments, Limits, Plan, Planner};

use crate::bed::on_bed;

/// Pods that have a slot at most.
const ROOM: u32 = narrow(ENDPOINT_ENTRIES) - 1;
/// Pods beyond that.
const BEYOND: u32 = 3;

const fn narrow(number: usize) -> u32 {
    assert!(number <= 1 << 16);
    #[expect(clippy::cast_possible_truncation, reason = "asserted just above")]
    let narrow = number as u32;
    narrow
}

fn pod(number: u32) -> PodRef {
    PodRef {
        namespace: "shop".into(),
        name: format!("pod-{number:05}").into(),
    }
}

/// Pods that nobody may reach, each on an interface that shares its element of the
/// direct-mapped table with all others.
fn world(numbers: impl Iterator<Item = u32>) -> (DesiredState, Attachments) {
    let deny = Arc::new(PortSetSpec {
        intervals: Vec::new(),
        default_rule: 0,
        default_action: ACTION_DENY,
    });
    let policy = CompiledPolicy {
        direction: Direction::Ingress,
        default: deny,
        rows: BTreeMap::new(),
    };
    let mut desired = DesiredState::default();
    desired.policies.insert(PolicyRef(1), Arc::new(policy));
    let mut attachments = Attachments::new();
    for number in numbers {
        let spec = EndpointSpec {
            uid: format!("uid-{number}").into(),
            ipv4: Some(Ipv4Addr::from(0x0af4_0000 + number)),
            ipv6: None,
            ingress: Some(PolicyRef(1)),
            egress: None,
        };
        desired.endpoints.insert(pod(number), spec);
        let attachment = Attachment {
            ifindex: 9 + (number + 1) * narrow(IFINDEX_ENTRIES),
            link_local6: None,
        };
        attachments.insert(pod(number), attachment);
    }
    (desired, attachments)
}

/// Puts it in force; by which plan.
fn put(datapath: &Datapath, planner: &mut Planner, world: &(DesiredState, Attachments)) -> Plan {
    let plan = planner.plan(&world.0, &world.1);
    let applied = datapath.apply(&plan.ops);
    assert!(applied.failure.is_none(), "{:?}", applied.failure);
    planner.applied(&plan.ops);
    plan
}

#[test]
fn pods_beyond_the_last_slot_are_told_get_one_that_is_free_again_and_take_nobodys() {
    on_bed(|bed| {
        let datapath = bed.open();
        let mirror = datapath.read_back().unwrap();
        let mut planner = Planner::new(mirror, Limits::default());
        let seated = || {
            let mirror = datapath.read_back().unwrap();
            // The first of an element is in the direct-mapped table, the others beside.
            let beside = datapath.maps().ifindex_more.entries().unwrap().len();
            assert!(beside + 1 >= mirror.interfaces.len());
            assert_eq!(mirror.endpoints.len(), mirror.interfaces.len());
            mirror.endpoints
        };
        let plan = put(&datapath, &mut planner, &world(0..ROOM));
        assert!(plan.problems.is_empty(), "{:?}", plan.problems.first());
        let full = seated();
        assert_eq!(full.len(), ROOM as usize);

        let plan = put(&datapath, &mut planner, &world(0..ROOM + BEYOND));
        assert_eq!(plan.problems.len(), BEYOND as usize, "{:?}", plan.problems);
        for (problem, number) in plan.problems.iter().zip(ROOM..) {
            assert_eq!(problem.object, format!("Pod {}", pod(number)));
            assert!(problem.message.contains(ENDPOINTS), "{problem:?}");
            assert!(!plan.endpoints.contains_key(&pod(number)));
        }
        assert_eq!(seated(), full, "those that have one keep it");

        // As many go: at the latest when they are gone, their slots are given.
        let fewer = world(BEYOND..ROOM + BEYOND);
        put(&datapath, &mut planner, &fewer);
        let plan = put(&datapath, &mut planner, &fewer);
        assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        assert_eq!(plan.endpoints.len(), ROOM as usize);
        let now = seated();
        assert_eq!(now.len(), ROOM as usize);
        let stayed = full.iter().filter(|(slot, pod)| now.get(slot) == Some(pod));
        assert_eq!(stayed.count(), (ROOM - BEYOND) as usize);
        put(&datapath, &mut planner, &world(0..0));
        assert!(seated_none(&datapath));
    });
}

fn seated_none(datapath: &Datapath) -> bool {
    let mirror = datapath.read_back().unwrap();
    mirror.endpoints.is_empty() && mirror.interfaces.is_empty()
}

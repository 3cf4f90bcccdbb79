//! Out of an older version's layout of maps, with an agent that ends after each
//! step of it, and one that may not take the step.
//!
//! What is asked is what is on the interface then, whichever version's it is.

use std::{
    fs,
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
};

use aya::programs::SchedClassifier;
use policy_agent::{
    datapath::{
        Backend, Datapath, DatapathError, Hook, Options, Stage,
        layout::Layout,
        test_run::{Trial, try_program},
    },
    object,
};
use policy_common::abi::maps;
use policy_core::plan::Mirror;
use serde_json::Value;

use crate::bed::{ACK, Bed, FRIEND, POD, STRANGER, SYN, apply, index, on_bed, run, tcp};

/// The pod's end of a connection that was there before, and of one that is opened
/// on the way.
const BEFORE: u16 = 4_000;
const MEANWHILE: u16 = 4_001;
/// One that was never opened.
const NEVER: u16 = 4_002;

/// The maps are many, and each is a step.
const MAPS: usize = maps::ALL.len();

/// After which steps an agent ends, each of them going on from where the one before
/// it was stopped: a step, and how often it has been done in this attempt.
const STOPS: [(Stage, usize); 14] = [
    (Stage::Shared, 1),
    (Stage::Shared, MAPS / 2),
    (Stage::Shared, MAPS),
    (Stage::Loaded, 1),
    // Policies and confirmed connections, and not those that are pending.
    (Stage::Filled, 11),
    (Stage::Noted, 1),
    // Either direction.
    (Stage::Replaced, 1),
    (Stage::HandedOver, 1),
    (Stage::HandedOver, 1),
    (Stage::Pinned, 1),
    (Stage::ProgramRemoved, 1),
    (Stage::CaughtUp, 1),
    (Stage::MapRemoved, MAPS / 2),
    (Stage::VersionRemoved, 1),
];

/// Where links and filters differ.
const STOPS_OF_FILTERS: [(Stage, usize); 3] = [
    (Stage::Noted, 1),
    (Stage::Replaced, 1),
    (Stage::HandedOver, 1),
];

/// What an agent that is told to end ends with.
struct Ended;

fn options(bed: &Bed, backend: Backend) -> Options {
    Options {
        bpffs: bed.bpffs.clone(),
        backend: Some(backend),
    }
}

/// An agent with this layout that starts.
fn start(
    bed: &Bed,
    backend: Backend,
    layout: &Layout,
    done: &mut dyn FnMut(Stage),
) -> Result<Datapath, DatapathError> {
    let object = object::bytes().expect("build the programs first: cargo xtask build-ebpf");
    Datapath::open_as(&options(bed, backend), object, layout, done)
}

/// One that ends after a step: nothing that comes after it is done, as if it were
/// killed there.
fn start_and_end(bed: &Bed, backend: Backend, layout: &Layout, (stage, count): (Stage, usize)) {
    let mut left = count;
    let mut done = |now| {
        left -= usize::from(now == stage);
        if left == 0 {
            resume_unwind(Box::new(Ended));
        }
    };
    let started = catch_unwind(AssertUnwindSafe(|| start(bed, backend, layout, &mut done)));
    match started {
        Err(why) if why.is::<Ended>() => {}
        Err(other) => resume_unwind(other),
        Ok(Ok(_)) => panic!("it never came to {count} times {stage:?}"),
        Ok(Err(error)) => panic!("before {count} times {stage:?}: {error}"),
    }
}

/// The programs that are on the pod's interface.
struct OnInterface<'b> {
    bed: &'b Bed,
    from: SchedClassifier,
    to: SchedClassifier,
}

impl<'b> OnInterface<'b> {
    fn find(bed: &'b Bed, backend: Backend) -> Self {
        let open = |hook| {
            let id = program_on_interface(bed, backend, hook);
            let pin = bed.bpffs.join("asked");
            run("bpftool", &format!("prog pin id {id} {}", pin.display()));
            let program = SchedClassifier::from_pin(&pin).unwrap();
            fs::remove_file(pin).unwrap();
            program
        };
        Self {
            bed,
            from: open(Hook::From),
            to: open(Hook::To),
        }
    }

    /// Whether a packet passes that the pod sends, or that it gets.
    fn passes(&self, hook: Hook, packet: &[u8]) -> bool {
        let (program, ingress_ifindex) = match hook {
            Hook::From => (&self.from, self.bed.ifindex),
            _ => (&self.to, index("p0")),
        };
        let at = Trial {
            hook,
            ifindex: self.bed.ifindex,
            ingress_ifindex,
            mark: 0,
        };
        try_program(program, packet, at, 1).unwrap().passes
    }

    /// Opens a connection of the pod, with its whole handshake.
    fn connect(&self, port: u16) {
        let (pod, friend) = ((POD, port), (FRIEND, 80));
        assert!(self.passes(Hook::From, &tcp(pod, friend, SYN)));
        assert!(self.passes(Hook::To, &tcp(friend, pod, SYN | ACK)));
        assert!(self.passes(Hook::From, &tcp(pod, friend, ACK)));
    }

    /// Whether the friend's answer on a connection of the pod passes, which only its
    /// record allows.
    fn knows(&self, port: u16) -> bool {
        self.passes(Hook::To, &tcp((FRIEND, 80), (POD, port), ACK))
    }

    /// What policy says, of a peer's port that was not seen yet, and what is known.
    fn judge_as_before(&self, port: u16, when: &str) {
        let gets = |peer: Ipv4Addr| self.passes(Hook::To, &tcp((peer, port), (POD, 80), SYN));
        let sends = |peer: Ipv4Addr| self.passes(Hook::From, &tcp((POD, port), (peer, 80), SYN));
        assert!(gets(FRIEND) && sends(FRIEND), "{when}: what is allowed");
        assert!(!gets(STRANGER), "{when}: what is denied, to the pod");
        assert!(!sends(STRANGER), "{when}: what is denied, from the pod");
        assert!(self.knows(BEFORE), "{when}: a connection is not known");
        assert!(!self.knows(NEVER), "{when}: one that was never opened is");
    }
}

/// Id of the program that is on the pod's interface.
fn program_on_interface(bed: &Bed, backend: Backend, hook: Hook) -> u64 {
    let json = |arguments: &str| -> Value {
        serde_json::from_str(&run("bpftool", &format!("-j {arguments}"))).unwrap()
    };
    let (name, side) = match hook {
        Hook::From => ("from", "clsact/ingress"),
        _ => ("to", "clsact/egress"),
    };
    let id = match backend {
        Backend::Tcx => {
            let versions = fs::read_dir(bed.pins().root()).unwrap();
            let pins = versions.map(|version| {
                let links = version.unwrap().path().join("links");
                links.join(format!("{}-{name}", bed.ifindex))
            });
            let pins: Vec<PathBuf> = pins.filter(|pin| pin.exists()).collect();
            assert_eq!(pins.len(), 1, "one version has the link: {pins:?}");
            let link = json(&format!("link show pinned {}", pins[0].display()));
            link["prog_id"].clone()
        }
        Backend::Clsact => {
            let shown = json("net show dev h0");
            let filters = shown[0]["tc"].as_array().unwrap();
            let ours: Vec<_> = filters.iter().filter(|f| f["kind"] == side).collect();
            assert_eq!(ours.len(), 1, "{shown}");
            ours[0]["id"].clone()
        }
    };
    id.as_u64().unwrap()
}

/// A pod with a connection, by an agent of this release, which ends.
fn with_connection(bed: &Bed, backend: Backend) -> Mirror {
    let old = bed.try_open(Some(backend)).unwrap();
    apply(&old, &bed.pod());
    old.attach(bed.ifindex).unwrap();
    let programs = OnInterface::find(bed, backend);
    programs.connect(BEFORE);
    programs.judge_as_before(1_000, "at first");
    old.read_back().unwrap()
}

/// Agents of a newer release end one after the other, and the last one does not.
fn every_next_start_goes_on(backend: Backend, stops: &[(Stage, usize)]) {
    on_bed(|bed| {
        let newer = Layout::of(2);
        let before = with_connection(bed, backend);
        let mut ports = 2_000..;
        for stop in stops {
            start_and_end(bed, backend, &newer, *stop);
            let programs = OnInterface::find(bed, backend);
            programs.judge_as_before(ports.next().unwrap(), &format!("after {stop:?}"));
            if stop.0 == Stage::Noted {
                // Into the older version's maps, of which there are copies now.
                programs.connect(MEANWHILE);
            }
        }
        let last = start(bed, backend, &newer, &mut |_| ()).unwrap();
        assert_eq!(last.read_back().unwrap(), before);
        assert!(last.other_versions().is_empty());
        let programs = OnInterface::find(bed, backend);
        programs.judge_as_before(ports.next().unwrap(), "at last");
        assert!(programs.knows(MEANWHILE), "one of after the copy");
        let left: Vec<_> = fs::read_dir(last.pins().version())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["maps", "links", "programs"].contains(&name.as_str()))
            .collect();
        assert!(left.is_empty(), "left: {left:?}");
    });
}

#[test]
fn an_agent_that_ends_after_any_step_leaves_all_in_force_and_the_next_goes_on() {
    every_next_start_goes_on(Backend::best(), &STOPS);
}

#[test]
fn filter_is_handed_over_by_agents_that_end_on_the_way() {
    every_next_start_goes_on(Backend::Clsact, &STOPS_OF_FILTERS);
}

/// That a newer release is refused what is pinned now, and leaves it alone.
fn refused(bed: &Bed, backend: Backend, newer: &Layout, why: &str) {
    let error = start(bed, backend, newer, &mut |_| ()).unwrap_err();
    assert!(matches!(error, DatapathError::Migration(_)), "{error}");
    let text = error.to_string();
    for part in [why, maps::POLICY, "stays in force", "policy-agent cleanup"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    OnInterface::find(bed, backend).judge_as_before(3_000, why);
    let root = bed.pins().root().join(format!("v{}", newer.abi));
    for folder in ["maps", "links", "programs"] {
        let pins = fs::read_dir(root.join(folder)).unwrap();
        assert_eq!(pins.count(), 0, "{why}: {folder}");
    }
}

#[test]
fn what_has_no_room_or_another_size_in_the_newer_layout_stays_in_force_in_the_older() {
    on_bed(|bed| {
        let backend = Backend::best();
        let before = with_connection(bed, backend);
        let mut small = Layout::of(1);
        for spec in &mut small.maps {
            if spec.name == maps::POLICY {
                spec.max_entries = 1;
            }
        }
        refused(bed, backend, &small, "room");

        let (pin, aside) = (bed.pins().map(maps::POLICY), bed.bpffs.join("aside"));
        fs::rename(&pin, &aside).unwrap();
        let made = "type hash key 8 value 32 entries 4 name pa_policy";
        run("bpftool", &format!("map create {} {made}", pin.display()));
        refused(bed, backend, &Layout::of(1), "another size");
        fs::rename(&aside, &pin).unwrap();

        let again = bed.open();
        assert_eq!(again.read_back().unwrap(), before);
        OnInterface::find(bed, backend).judge_as_before(3_001, "the older one again");
    });
}

//! What every test needs: a namespace with a veth, a BPF file system, packets.

use std::{
    fs,
    net::Ipv4Addr,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use policy_agent::{
    datapath::{Backend, Datapath, DatapathError, Hook, Options, Pins, test_run::At},
    object,
};
use policy_common::abi::{
    Direction,
    endpoint::{Endpoint, FLAG_USED, PolicyWord},
    policy::{ACTION_ALLOW, ACTION_DENY, Interval, PolicyKey, PortSet, point},
};
use policy_core::ops::Op;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
    thread::UnshareFlags,
};

/// How long a test waits for something that takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The pod's address.
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// An address with identity [`FRIEND_ID`].
pub(crate) const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
/// An address without one.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
/// See [`FRIEND`].
pub(crate) const FRIEND_ID: u32 = 5;
/// The pod's slot.
pub(crate) const SLOT: u32 = 1;
/// The pod's endpoint number.
pub(crate) const NUMBER: u32 = 41;
/// The policy that allows TCP port 80 to and from the friend.
pub(crate) const POLICY: u16 = 3;
/// The rule that allows it.
pub(crate) const RULE: u32 = 77;

/// A namespace with a veth pair `h0` and `p0`, and an empty BPF file system.
pub(crate) struct Bed {
    /// Mount point of the BPF file system.
    pub(crate) bpffs: PathBuf,
    /// Interface index of `h0`.
    pub(crate) ifindex: u32,
}

/// Runs a test on a bed of its own and removes it.
pub(crate) fn on_bed(test: impl FnOnce(&Bed) + Send) {
    // Found out once a process: not by the thread of a test that has given its
    // capabilities away.
    assert!(aya::features().btf().is_some(), "this test needs root");
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("policy-agent-test-{}-{number}", std::process::id());
    let bpffs = std::env::temp_dir().join(name);
    fs::create_dir(&bpffs).unwrap();
    mount("bpf", &bpffs, "bpf", MountFlags::empty(), None)
        .expect("mounting a BPF file system: this test needs root");
    let result = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: of the thread's own state only its network namespace
            // changes, and the thread ends with this closure.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("unshare(CLONE_NEWNET): this test needs root");
            ip("link set lo up");
            ip("link add h0 type veth peer name p0");
            ip("link set h0 up");
            ip("link set p0 up");
            test(&Bed {
                bpffs: bpffs.clone(),
                ifindex: index("h0"),
            });
        });
        inside.join()
    });
    unmount(&bpffs, UnmountFlags::DETACH).unwrap();
    fs::remove_dir(&bpffs).unwrap();
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

impl Bed {
    /// Where things are pinned.
    pub(crate) fn pins(&self) -> Pins {
        Pins::new(&self.bpffs)
    }

    /// Opens the datapath.
    pub(crate) fn open(&self) -> Datapath {
        self.try_open(None).unwrap()
    }

    /// As by another release, whose programs are others: what says that these are
    /// the same is not there.
    pub(crate) fn forget_programs(&self) {
        let programs = fs::read_dir(self.pins().programs()).unwrap();
        let seals: Vec<PathBuf> = programs
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with("same-")
            })
            .collect();
        assert_eq!(seals.len(), 1);
        fs::remove_file(&seals[0]).unwrap();
    }

    /// Opens the datapath with clsact filters, as on an older kernel.
    pub(crate) fn open_clsact(&self) -> Datapath {
        self.try_open(Some(Backend::Clsact)).unwrap()
    }

    /// Opens the datapath, or says why not.
    pub(crate) fn try_open(&self, backend: Option<Backend>) -> Result<Datapath, DatapathError> {
        let options = Options {
            bpffs: self.bpffs.clone(),
            backend,
        };
        let object = object::bytes().expect("build the programs first: cargo xtask build-ebpf");
        let datapath = Datapath::open(&options, object)?;
        datapath.maps().configure(1_000, 1_000)?;
        Ok(datapath)
    }

    /// What makes `h0` the interface of an endpoint under [`POLICY`] in both
    /// directions.
    pub(crate) fn pod(&self) -> Vec<Op> {
        vec![
            Op::PortSet {
                id: 1,
                value: allow_tcp_80(),
            },
            Op::PortSet {
                id: 2,
                value: PortSet {
                    default_rule: 8,
                    ..deny_all()
                },
            },
            row(POLICY, FRIEND_ID, 1),
            row(POLICY, 0, 2),
            Op::Host {
                address: FRIEND.into(),
                identity: FRIEND_ID,
                node: false,
                slot: 0,
            },
            Op::Endpoint {
                slot: SLOT,
                value: Endpoint {
                    word: word(1, POLICY).0,
                    number: NUMBER,
                    flags: FLAG_USED,
                    addr4: POD.octets(),
                    ifindex: self.ifindex,
                    ..Endpoint::EMPTY
                },
            },
            Op::Interface {
                ifindex: self.ifindex,
                slot: SLOT,
            },
        ]
    }

    /// A packet that the pod receives from elsewhere.
    pub(crate) fn arriving(&self) -> At {
        At {
            direction: Direction::Ingress,
            ifindex: self.ifindex,
            ingress_ifindex: index("p0"),
        }
    }

    /// A packet that the pod sends.
    pub(crate) fn leaving(&self) -> At {
        At {
            direction: Direction::Egress,
            ingress_ifindex: self.ifindex,
            ifindex: self.ifindex,
        }
    }
}

/// The same policy in both directions.
pub(crate) fn word(generation: u32, policy: u16) -> PolicyWord {
    PolicyWord::new(generation, policy, policy)
}

/// A row.
pub(crate) fn row(policy: u16, identity: u32, port_set: u32) -> Op {
    Op::Row {
        key: PolicyKey {
            policy: u32::from(policy),
            identity,
        },
        port_set,
    }
}

fn deny_all() -> PortSet {
    PortSet {
        count: 0,
        extent: 0,
        default_rule: 0,
        default_action: ACTION_DENY,
        inline: [Interval::default(); 3],
    }
}

fn allow_tcp_80() -> PortSet {
    let allowed = Interval {
        first: point(6, 80),
        last: point(6, 80),
        rule: RULE,
        action: ACTION_ALLOW,
    };
    PortSet {
        count: 1,
        inline: [allowed, Interval::default(), Interval::default()],
        ..deny_all()
    }
}

/// Whether the pod's programs let a packet pass.
pub(crate) fn passes(datapath: &Datapath, packet: &[u8], at: At) -> bool {
    datapath.test_run(packet, at, 1).unwrap().passes
}

/// Opens a connection to port 80 of the friend, with its whole handshake, from the
/// pod that is behind `h0`.
pub(crate) fn connect(datapath: &Datapath, bed: &Bed, pod: Ipv4Addr, port: u16) {
    let (pod, friend) = ((pod, port), (FRIEND, 80));
    let (leaving, arriving) = (bed.leaving(), bed.arriving());
    assert!(passes(datapath, &tcp(pod, friend, SYN), leaving));
    assert!(passes(datapath, &tcp(friend, pod, SYN | ACK), arriving));
    assert!(passes(datapath, &tcp(pod, friend, ACK), leaving));
}

/// Applies operations that must all succeed.
pub(crate) fn apply(datapath: &Datapath, ops: &[Op]) {
    let applied = datapath.apply(ops);
    if let Some(failure) = applied.failure {
        panic!("{failure}");
    }
    assert_eq!(applied.done, ops.len());
}

/// TCP flags.
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

/// An Ethernet frame with a TCP segment without data.
pub(crate) fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0]);
    frame.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]);
    frame.extend(from.0.octets());
    frame.extend(to.0.octets());
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 255, 255, 0, 0, 0, 0]);
    frame
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a program that must succeed and gives its output.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Interface index of a name.
pub(crate) fn index(name: &str) -> u32 {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    name_to_index(any, name).unwrap()
}

/// Waits for a condition that soon holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Takes a program off its interface and leaves the pin, as somebody with bpftool
/// or tc would.
pub(crate) fn take_off(datapath: &Datapath, interface: &str, hook: Hook) {
    match datapath.backend() {
        Backend::Tcx => {
            let pin = datapath.pins().link(index(interface), hook);
            run("bpftool", &format!("link detach pinned {}", pin.display()));
        }
        Backend::Clsact => {
            let way = if matches!(hook, Hook::From | Hook::Arrive) {
                "ingress"
            } else {
                "egress"
            };
            run("tc", &format!("filter del dev {interface} {way} pref 1"));
        }
    }
}

/// Id of what is pinned for an interface: a link, or the program that stands for a
/// filter.
pub(crate) fn attached_id(datapath: &Datapath, ifindex: u32, hook: Hook) -> u32 {
    let kind = match datapath.backend() {
        Backend::Tcx => "link",
        Backend::Clsact => "prog",
    };
    id(kind, &datapath.pins().link(ifindex, hook))
}

/// Id of a pinned map, program or link, as `bpftool` tells it.
pub(crate) fn id(kind: &str, pin: &Path) -> u32 {
    let text = run("bpftool", &format!("{kind} show pinned {}", pin.display()));
    let (id, _) = text.split_once(':').unwrap();
    id.trim().parse().unwrap()
}

//! The programs and maps of a benchmark in the kernel: loaded, filled, run.
//!
//! Nothing is pinned or attached: all of it is gone with the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier};
use aya::{Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions, VerifierLogLevel};
use policy_common::abi::config::{Config, FLAG_CIDR4, FLAG_CIDR6, FLAG_CLOSED4, FLAG_CLOSED6};
use policy_common::abi::endpoint::IfindexEntry;
use policy_common::abi::identity::{Cidr4, Cidr6, Id4, Id6};
use policy_common::abi::maps;

use super::layout::{Drive, Raw};
use super::world::{self, Family, World};

/// The program that picks a flow and calls another.
const DRIVER: &str = "pb_drive";
/// The kernel counts records of connections by endpoint; enough for all.
const CT_BUDGET: u32 = 131_072;
/// What the agent sets.
const EVENTS_PER_TICK: u32 = 64;
/// `sizeof(struct __sk_buff)`, and offsets of its fields (`include/uapi/linux/bpf.h`).
const CONTEXT: usize = 192;
const CONTEXT_INGRESS_IFINDEX: usize = 36;
const CONTEXT_IFINDEX: usize = 40;
/// Some interface other than the pod's: packets come from elsewhere.
const UPLINK: u32 = 2;

/// Where the object with the drivers is.
pub(super) fn object() -> Result<Vec<u8>> {
    let path = std::env::var_os("POLICY_EBPF_BENCH_OBJECT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/policy-ebpf-bench.o"),
        PathBuf::from,
    );
    fs::read(&path).with_context(|| {
        format!(
            "read {}; build it with: cargo xtask build-ebpf --bench",
            path.display()
        )
    })
}

/// What a program cost to verify and to hold.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Size {
    /// Its name.
    pub(super) program: String,
    /// Instructions that the verifier went through.
    pub(super) verified: u32,
    /// Instructions it has, after the verifier's changes.
    pub(super) instructions: u32,
    /// Bytes of machine code, its functions included.
    pub(super) jited: u32,
    /// Time from the load call to its return, milliseconds.
    pub(super) load_ms: f64,
}

/// A loaded object.
pub(super) struct Kernel {
    ebpf: Ebpf,
    progs: ProgramArray<MapData>,
    drive: Array<MapData, Raw<Drive>>,
    counters: PerCpuArray<MapData, u64>,
    /// Of the product's programs.
    pub(super) sizes: Vec<Size>,
}

/// What a series of runs came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Series {
    /// Mean time of a run, the driver's included, nanoseconds.
    pub(super) mean_ns: f64,
    /// What the last run returned.
    pub(super) answer: u32,
}

impl Kernel {
    /// Loads the object and makes its tables say what the world is.
    pub(super) fn load(object: &[u8], world: &World) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(object)
            .context("load the benchmark's object; this needs root")?;
        let mut sizes = Vec::new();
        for name in ["from_pod", "to_pod", "pb_empty", "pb_lru", "pb_lpm", DRIVER] {
            let program = classifier(&mut ebpf, name)?;
            let start = Instant::now();
            program.load().with_context(|| format!("load {name}"))?;
            let load_ms = start.elapsed().as_secs_f64() * 1e3;
            let info = program
                .info()
                .with_context(|| format!("ask about {name}"))?;
            sizes.push(Size {
                program: name.to_owned(),
                verified: info.verified_instruction_count().unwrap_or(0),
                instructions: info.size_translated().unwrap_or(0) / 8,
                jited: info.size_jitted(),
                load_ms,
            });
        }
        sizes.retain(|size| !size.program.starts_with("pb_"));
        let mut kernel = Self {
            progs: ProgramArray::try_from(take(&mut ebpf, "pb_progs")?)?,
            drive: Array::try_from(take(&mut ebpf, "pb_config")?)?,
            counters: PerCpuArray::try_from(take(&mut ebpf, maps::COUNTERS)?)?,
            ebpf,
            sizes,
        };
        kernel.fill(world).context("fill the tables")?;
        Ok(kernel)
    }

    fn fill(&mut self, world: &World) -> Result<()> {
        let flags = match (world.prefixes, world.family) {
            (false, _) => 0,
            (true, Family::V4) => FLAG_CIDR4,
            (true, Family::V6) => FLAG_CIDR6,
        };
        // The range is everything.
        let closed = match (world.closed, world.family) {
            (false, _) => 0,
            (true, Family::V4) => FLAG_CLOSED4,
            (true, Family::V6) => FLAG_CLOSED6,
        };
        let config = Config {
            flags: flags | closed,
            generation: world::WORD.generation(),
            ct_budget: CT_BUDGET,
            events_per_tick: EVENTS_PER_TICK,
            endpoint_number: world::NUMBER,
            mark_shift: policy_common::abi::mark::DEFAULT_SHIFT,
            range4: [[0; 4]; 2],
            range6: [[0; 16]; 2],
        };
        self.set_elements(maps::CONFIG, 0, [Raw(config)])?;
        let interface = IfindexEntry {
            ifindex: world::IFINDEX,
            slot: world::SLOT,
        };
        self.set_elements(maps::IFINDEX, world::IFINDEX, [Raw(interface)])?;
        self.set_elements(maps::ENDPOINTS, world::SLOT, [Raw(World::endpoint())])?;
        self.set_elements(maps::PORT_SETS, 1, World::port_sets().into_iter().map(Raw))?;
        let rows = world.rows().into_iter();
        self.insert(
            maps::POLICY,
            rows.map(|(key, entry)| (Raw(key), Raw(entry))),
        )?;
        self.fill_peers(world)?;
        if world.closed {
            let open = (0..world.peers).map(|index| (world.peer(index), 1u32));
            self.insert(maps::PROTECTED, open)?;
        }
        let now_ns = coarse_ns();
        let records = (0..world.connections).map(|index| world.record(index, now_ns));
        self.insert(maps::CT, records.map(|(key, entry)| (Raw(key), Raw(entry))))
    }

    fn fill_peers(&mut self, world: &World) -> Result<()> {
        let peers = 0..world.peers;
        match (world.family, world.prefixes) {
            (Family::V4, false) => {
                let rows = peers.map(|index| {
                    let addr = world.peer4(index).octets();
                    let identity = World::identity(index);
                    (
                        addr,
                        Raw(Id4 {
                            addr,
                            flags: 0,
                            identity,
                        }),
                    )
                });
                self.insert(maps::ID4, rows)
            }
            (Family::V6, false) => {
                let rows = peers.map(|index| {
                    let addr = world.peer6(index).octets();
                    let identity = World::identity(index);
                    (
                        addr,
                        Raw(Id6 {
                            addr,
                            flags: 0,
                            identity,
                        }),
                    )
                });
                self.insert(maps::ID6, rows)
            }
            (Family::V4, true) => {
                let mut trie: LpmTrie<&mut MapData, [u8; 4], Raw<Cidr4>> =
                    LpmTrie::try_from(self.map(maps::CIDR4)?)?;
                for index in peers {
                    let [a, b, c, _] = world.peer4(index).octets();
                    let (addr, prefix_len) = ([a, b, c, 0], 24);
                    let identity = World::identity(index);
                    let value = Cidr4 {
                        addr,
                        prefix_len,
                        identity,
                    };
                    trie.insert(&Key::new(prefix_len, addr), Raw(value), 0)?;
                }
                Ok(())
            }
            (Family::V6, true) => {
                let mut trie: LpmTrie<&mut MapData, [u8; 16], Raw<Cidr6>> =
                    LpmTrie::try_from(self.map(maps::CIDR6)?)?;
                for index in peers {
                    let mut addr = world.peer6(index).octets();
                    addr[8..].fill(0);
                    let prefix_len = 64;
                    let identity = World::identity(index);
                    let value = Cidr6 {
                        addr,
                        prefix_len,
                        identity,
                    };
                    trie.insert(&Key::new(prefix_len, addr), Raw(value), 0)?;
                }
                Ok(())
            }
        }
    }

    /// Writes elements of an array, from `first` on.
    pub(super) fn set_elements<V: Pod>(
        &mut self,
        map: &str,
        first: u32,
        values: impl IntoIterator<Item = V>,
    ) -> Result<()> {
        let mut array: Array<&mut MapData, V> = Array::try_from(self.map(map)?)?;
        for (index, value) in (first..).zip(values) {
            array.set(index, value, 0).with_context(|| map.to_owned())?;
        }
        Ok(())
    }

    /// Adds elements to a hash.
    pub(super) fn insert<K: Pod, V: Pod>(
        &mut self,
        map: &str,
        elements: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        let mut hash: HashMap<&mut MapData, K, V> = HashMap::try_from(self.map(map)?)?;
        for (key, value) in elements {
            hash.insert(key, value, 0).with_context(|| map.to_owned())?;
        }
        Ok(())
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("the object has no map {name}: build it anew"))
    }

    /// Tells the driver where flows are and how to take them; it starts over.
    pub(super) fn set_drive(&mut self, drive: Drive) -> Result<()> {
        self.drive.set(0, Raw(drive), 0).context("pb_config")
    }

    /// A counter of all CPUs.
    pub(super) fn counter(&self, index: u32) -> Result<u64> {
        let values = self.counters.get(&index, 0).context(maps::COUNTERS)?;
        Ok(values.iter().sum())
    }

    /// Has the driver call this program, `repeat` times.
    pub(super) fn run(&mut self, program: &str, packet: &[u8], repeat: u32) -> Result<Series> {
        let fd: ProgramFd = classifier(&mut self.ebpf, program)?
            .fd()
            .with_context(|| format!("{program} is not loaded"))?
            .try_clone()
            .context("duplicate a descriptor")?;
        self.progs.set(0, &fd, 0).context("pb_progs")?;
        let mut context = [0u8; CONTEXT];
        for (offset, value) in [
            (CONTEXT_INGRESS_IFINDEX, UPLINK),
            (CONTEXT_IFINDEX, world::IFINDEX),
        ] {
            context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let result = classifier(&mut self.ebpf, DRIVER)?
            .test_run(TestRunOptions {
                data_in: Some(packet),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::new()
            })
            .with_context(|| format!("run {program}"))?;
        Ok(Series {
            mean_ns: result.duration.as_secs_f64() * 1e9,
            answer: result.return_value,
        })
    }
}

pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no program {name}: build it with --bench"))?;
    Ok(program.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no map {name}: build it with --bench"))
}

/// The clock that records are stamped with.
fn coarse_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let part = |value: i64| u64::try_from(value).expect("since boot");
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

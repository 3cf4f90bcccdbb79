//! What a flood from denied prefixes costs a node: each packet dropped by the XDP
//! prefilter, beside the same packet let into the stack, to a port that nobody
//! listens on. Forwarding, and the programs of a pod, would come on top of that.
//!
//! In a lab of its own, with live frames of `BPF_PROG_TEST_RUN`
//! (`Documentation/bpf/bpf_prog_run.rst`): the kernel takes each packet where the
//! uplink's driver would hand it over, and the time is that of all that follows.
//! Frames are used again as they are, so what a driver does before is in neither
//! figure, and the packet must be one that nobody changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::programs::Xdp;
use aya::{TestRun, TestRunAttrs, TestRunOptions};
use aya_obj::programs::XdpAttachType;
use ipnet::IpNet;
use policy_agent::datapath::{Datapath, Hook, Options};
use policy_agent::object;
use policy_common::abi::{Direction, stats};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::Serialize;

use super::packets::{Effort, median};
use crate::lab::{Family, IpPacket, Lab, Snmp, Wiring, ethernet};

/// The filter that selects this part alone.
pub(super) const NAME: &str = "flood";

/// Frames that the kernel takes at once, as a driver's poll does.
const BATCH: u32 = 64;
/// Offset of `ingress_ifindex` in `struct xdp_md`, and its size
/// (`include/uapi/linux/bpf.h`).
const CONTEXT_INTERFACE: usize = 12;
const CONTEXT_END: usize = 4;
const CONTEXT: usize = 24;

/// A family's figures: nanoseconds of a packet, medians.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Flood {
    pub(super) family: &'static str,
    /// Dropped by the prefilter.
    pub(super) prefilter_ns: f64,
    /// Passed by the prefilter, and dropped by the stack.
    pub(super) stack_ns: f64,
    /// The first as a share of the second.
    pub(super) share: f64,
}

/// The BPF file system of one measurement.
pub(super) struct Bpffs(pub(super) PathBuf);

impl Bpffs {
    pub(super) fn mount(path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        mount("bpf", &path, "bpf", MountFlags::empty(), None)
            .context("mount a BPF file system; this needs root")?;
        Ok(Self(path))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // What is pinned goes with it.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Measures both families.
pub(super) fn measure(effort: Effort) -> Result<Vec<Flood>> {
    let mut lab = Lab::new("bench-flood", Wiring::Routed)?;
    let far_v4 = Ipv4Addr::new(198, 51, 100, 7);
    let far_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
    let stranger = lab.outside("stranger", far_v4, far_v6)?;
    let bpffs = Bpffs::mount(lab.dir().join("bpffs"))?;
    let node = lab.node().clone();
    let uplink = node.interface_index(node.interface())?;
    node.netns().run(|| -> Result<Vec<Flood>> {
        let options = Options {
            bpffs: bpffs.0.clone(),
            backend: None,
        };
        let object = object::bytes().context("the agent's programs")?;
        let datapath = Datapath::open(&options, object)?;
        datapath.attach_prefilter(node.interface())?;
        let pin = datapath.pins().program(Hook::Xdp);
        let program = Xdp::from_pin(pin, XdpAttachType::Interface)?;
        let mut floods = Vec::new();
        for family in Family::BOTH {
            let (from, to) = (stranger.address(family)?, node.address(family)?);
            let packet = IpPacket::udp(
                SocketAddr::new(from, 4_000),
                SocketAddr::new(to, 53),
                &[0; 26],
            );
            let ethertype = if from.is_ipv4() { 0x0800 } else { 0x86dd };
            let frame = ethernet(node.mac(), stranger.mac(), ethertype, &packet.build());
            floods.push(of_family(
                &datapath, &program, &frame, uplink, from, effort,
            )?);
        }
        Ok(floods)
    })?
}

fn of_family(
    datapath: &Datapath,
    program: &Xdp,
    frame: &[u8],
    uplink: u32,
    from: IpAddr,
    effort: Effort,
) -> Result<Flood> {
    let mut context = [0u8; CONTEXT];
    let length = u32::try_from(frame.len())?.to_ne_bytes();
    context[CONTEXT_END..CONTEXT_END + 4].copy_from_slice(&length);
    context[CONTEXT_INTERFACE..CONTEXT_INTERFACE + 4].copy_from_slice(&uplink.to_ne_bytes());
    let run = || -> Result<(f64, u64, u64)> {
        let dropped = || -> Result<(u64, u64)> {
            let counters = datapath.maps().counters()?;
            let early = counters.get(Direction::Ingress, stats::PREFILTER_DROPPED);
            Ok((early, without_port(from)?))
        };
        let before = dropped()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: effort.packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        })?;
        let after = dropped()?;
        let ns = result.duration.as_nanos() as f64;
        Ok((ns, after.0 - before.0, after.1 - before.1))
    };
    let denied = [IpNet::from(from)];
    let packets = u64::from(effort.packets);
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        for (prefixes, times, expected) in [
            (&denied[..], &mut early, (packets, 0)),
            (&[], &mut late, (0, packets)),
        ] {
            datapath.maps().deny(prefixes)?;
            let (ns, prefilter, stack) = run()?;
            ensure!(
                (prefilter, stack) == expected,
                "of {packets} packets {prefilter} dropped by the prefilter, {stack} by the stack"
            );
            times.push(ns);
        }
    }
    let (prefilter_ns, stack_ns) = (median(&early), median(&late));
    Ok(Flood {
        family: if from.is_ipv4() { "IPv4" } else { "IPv6" },
        prefilter_ns,
        stack_ns,
        share: prefilter_ns / stack_ns,
    })
}

/// Datagrams of a family that came to a port that nobody listens on, in the calling
/// thread's network namespace.
fn without_port(of: IpAddr) -> Result<u64> {
    let snmp = Snmp::read()?;
    if of.is_ipv4() {
        snmp.v4("Udp", "NoPorts")
    } else {
        snmp.v6("Udp6NoPorts")
    }
}

//! `bench --cluster`: what users of a cluster feel, measured in the lab: from the
//! API server's answer to the effect on packets, pods that begin under a flood,
//! throughput, a killed agent, what agents need.
//!
//! Here is what enforces when, and what is measured meanwhile. Packets are sent
//! and counted by `cluster-bench` of `policy-tests`; `table` puts what it found
//! beside the targets.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    FIRST,
    agent::{self, Overlay},
    down,
    lab::{Cni, KubeProxy, Lab, Settings, netns_file, node_name, write},
    load, table, up,
};
use crate::{
    build_agent,
    build_ebpf::Variant,
    host,
    image::archive::Image,
    interrupt,
    job::{Job, announce},
    optimised,
    setup::{self, Need},
    workspace::Workspace,
};

/// What enforces: nobody, before and after; the agent with its CNI
/// plugin; the agent alone, which hears of pods by netlink.
pub(super) const NOBODY: [&str; 2] = ["nobody-1", "nobody-2"];
pub(super) const PLUGIN: &str = "plugin";
pub(super) const NETLINK: &str = "no-plugin";

const PROGRAM: &str = "cluster-bench";
/// The image in which pods run it.
const IMAGE: &str = "localhost/cluster-bench:1";
/// The longest measurement is that of the births.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Pods that begin while nobody enforces: enough to see that the flood arrives.
const UNPROTECTED: usize = 20;
/// Pods that begin one by one.
const ONE_BY_ONE: usize = 12;
/// Rounds of throughput, a second of connections and one of datagrams each.
const ROUNDS: usize = 5;
/// Changes each way.
const CHANGES: usize = 100;
const CHANGES_IN_CHURN: usize = 50;
const DENIES: usize = 10;
/// Seconds for which the agents' needs are measured.
const SECONDS: usize = 30;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// With --cluster: so many pods begin under a flood, with each overlay
    #[arg(long, value_name = "N", default_value_t = 200, requires = "cluster")]
    pods: usize,
    /// With --cluster: only these measurements
    #[arg(long, value_enum, requires = "cluster")]
    only: Option<Part>,
    /// With --cluster: how pods are wired, if the cluster is not up
    #[arg(long, value_enum, default_value = "ptp", requires = "cluster")]
    cni: Cni,
    /// With --cluster: take the programs as they were built last
    #[arg(long, requires = "cluster")]
    no_build: bool,
    /// With --cluster: leave the cluster up in the end
    #[arg(long, requires = "cluster")]
    keep: bool,
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Pods that begin, under a flood and one by one
    Births,
    /// All others
    Rows,
}

/// The task `bench --cluster`.
///
/// # Errors
///
/// When something cannot be measured, or a pod that begins under the flood gets
/// what its policy denies or loses what it allows.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    host::require_root("bench --cluster")?;
    interrupt::catch()?;
    let lab = Lab::new(workspace)?;
    let (agent, program) = if options.no_build {
        (
            build_agent::path(workspace),
            optimised::path(workspace, PROGRAM),
        )
    } else {
        setup::ensure(workspace, Need::Build)?;
        (
            build_agent::build(workspace, Variant::Agent)?,
            optimised::build(workspace, "policy-tests", PROGRAM, &[])?,
        )
    };
    let was_up = lab.settings();
    let settings = was_up.unwrap_or(Settings {
        nodes: 2,
        cni: options.cni,
        kube_proxy: KubeProxy::Iptables,
    });
    up(workspace, &lab, settings)?;
    ensure!(
        !agent::is_installed(&lab),
        "an agent is installed, and the measurements begin with nobody; take the cluster down \
         first: cargo xtask cluster down"
    );
    let start = Instant::now();
    let result = measure_all(workspace, &lab, settings, options, &agent, program);
    if was_up.is_none() && !options.keep {
        interrupt::clear();
        down(&lab)?;
    }
    let results = result?;
    println!("    measured in {} s", start.elapsed().as_secs());
    let rows = table::rows(&results);
    let file = lab.root.join("bench.json");
    let document = json!({"settings": settings.to_string(), "results": results, "table": rows});
    write(&file, &format!("{document:#}\n"))?;
    table::print(&rows, &results);
    println!("\nall figures: {}", workspace.shown(&file));
    let objections = table::objections(&results);
    ensure!(objections.is_empty(), "{}", objections.join("\n"));
    Ok(())
}

/// Measures with each overlay, and with nobody before, between and after.
fn measure_all(
    workspace: &Workspace,
    lab: &Lab,
    settings: Settings,
    options: &Options,
    agent: &Path,
    program: PathBuf,
) -> Result<Value> {
    agent::load_image(workspace, lab, agent, FIRST)?;
    load_newborn(lab, &program)?;
    let mut bench = Bench::new(lab, settings, program)?;
    bench.measure(NOBODY[0], "prepare", 0)?;
    let births = options.only != Some(Part::Rows);
    let rows = options.only != Some(Part::Births);
    if births {
        bench.measure(NOBODY[0], "first", ONE_BY_ONE)?;
        bench.measure(NOBODY[0], "births", UNPROTECTED.min(options.pods))?;
    }
    if rows {
        bench.measure(NOBODY[0], "throughput", ROUNDS)?;
    }

    let install = |overlay| agent::install(workspace, lab, overlay, FIRST);
    let remove = |overlay| agent::remove(workspace, lab, overlay, FIRST);
    install(Overlay::WithCniPlugin)?;
    if births {
        bench.measure(PLUGIN, "first", ONE_BY_ONE)?;
        bench.measure(PLUGIN, "births", options.pods)?;
    }
    if rows {
        for (what, count) in [
            ("throughput", ROUNDS),
            ("policy", CHANGES),
            ("label", CHANGES),
            ("churn", CHANGES_IN_CHURN),
            ("connection", DENIES),
            ("load", SECONDS),
            ("kill", 1),
        ] {
            bench.measure(PLUGIN, what, count)?;
        }
    }
    remove(Overlay::WithCniPlugin)?;
    if rows {
        bench.measure(NOBODY[1], "throughput", ROUNDS)?;
    }
    if births {
        install(Overlay::WithoutCniPlugin)?;
        bench.measure(NETLINK, "first", ONE_BY_ONE)?;
        bench.measure(NETLINK, "births", options.pods)?;
        remove(Overlay::WithoutCniPlugin)?;
    }
    bench.measure(NOBODY[0], "clear", 0)?;
    Ok(bench.results)
}

/// Puts the image for pods that are measured on every node.
fn load_newborn(lab: &Lab, program: &Path) -> Result<()> {
    let mut image = Image {
        name: IMAGE.to_owned(),
        entrypoint: vec![format!("/{PROGRAM}")],
        arguments: vec!["newborn".to_owned()],
        ..Image::default()
    };
    image.program(PROGRAM, program)?;
    let archive = lab.root.join("agent").join("cluster-bench.tar");
    image.write(&archive)?;
    load(lab, &[archive])
}

/// The program that measures, and what it has found so far.
struct Bench<'a> {
    lab: &'a Lab,
    program: PathBuf,
    setting: PathBuf,
    /// By phase, then by measurement.
    results: Value,
}

impl<'a> Bench<'a> {
    fn new(lab: &'a Lab, settings: Settings, program: PathBuf) -> Result<Self> {
        ensure!(settings.nodes >= 2, "the measurements take two nodes");
        let nodes = settings.nodes().map(|node| {
            let disk = lab.disk(node);
            json!({
                "name": node_name(node),
                "netns": netns_file(&lab.node_ns(node)),
                "leases": disk.join("var/lib/cni/networks/lab"),
                "logs": disk.join("var/log/pods"),
            })
        });
        let text = json!({"nodes": nodes.collect::<Vec<_>>(), "image": IMAGE}).to_string();
        let setting = lab.state().join("bench.json");
        write(&setting, &text)?;
        Ok(Self {
            lab,
            program,
            setting,
            results: json!({}),
        })
    }

    /// Measures once, and keeps what was found.
    fn measure(&mut self, phase: &str, what: &str, count: usize) -> Result<()> {
        announce(&format!("bench: {phase}: {what}"));
        let start = Instant::now();
        let mut command = self.lab.in_control(&self.program);
        command.arg(what).arg(count.to_string()).arg(&self.setting);
        let mut last = String::new();
        let succeeded = Job::new(PROGRAM, command, LIMIT)
            .quiet()
            .run_with_lines(|line| line.clone_into(&mut last))?;
        ensure!(succeeded, "{phase}: {what} cannot be measured; see above");
        let found: Value =
            serde_json::from_str(&last).with_context(|| format!("{PROGRAM} wrote {last:?}"))?;
        // Whoever else computes here makes all times longer: the reader must know.
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: f64 = load.split(' ').next().unwrap_or_default().parse()?;
        println!("    {} s, load {load}", start.elapsed().as_secs());
        if !found.is_null() {
            println!("    {found}");
            self.results[phase][what] = found;
            self.results[phase][what]["load"] = json!(load);
        }
        Ok(())
    }
}

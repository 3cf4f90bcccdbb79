//! `cluster`: a real Kubernetes cluster on this machine, for contributors.
//!
//! Control plane and nodes are upstream's programs, built from Go modules; a node
//! is a process tree in namespaces of its own. This file holds the commands and
//! the order of their steps; what each step does is in the files beside it.

mod agent;
mod bench;
mod boot;
mod cgroup;
mod control;
mod found;
mod lab;
mod links;
mod load;
mod net;
mod node;
mod process;
mod programs;
mod services;
mod suite;
mod table;

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;

use crate::{
    build_agent,
    build_ebpf::Variant,
    host, interrupt,
    job::{Job, announce, output_of},
    setup::{self, Need},
    workspace::Workspace,
};
use agent::Overlay;
pub(crate) use bench::{Options as BenchOptions, run as bench};
use lab::{Lab, Settings};
use load::{Pods, Traffic};
use process::wait_for;

/// Tags of the image that is installed, and of the one that replaces it.
const FIRST: &str = env!("CARGO_PKG_VERSION");
const SECOND: &str = "upgrade";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Build the cluster's programs and images from Go modules, to target/cluster
    Build {
        /// Only these programs, such as kube-apiserver; without any, everything
        programs: Vec<String>,
    },
    /// Bring the cluster up, or what is missing of it
    Up(Settings),
    /// Run a command in the cluster: `run -- kubectl get pods -A`
    Run {
        /// On this node, in all of its namespaces, instead of beside the API server
        #[arg(long, value_name = "N")]
        node: Option<u8>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Import image archives on every node, now and whenever one boots
    Load {
        #[arg(required = true, value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Build the agent, and install it by the shipped manifests
    Install {
        /// Which of deploy/overlays
        #[arg(long, value_enum, default_value = "with-cni-plugin")]
        overlay: Overlay,
        /// Take the agent as it was built last
        #[arg(long)]
        no_build: bool,
    },
    /// Ask the API server whether it would take all manifests in deploy
    DryRun,
    /// Ask who reaches whom through Services, in a cluster with the agent installed
    Services {
        /// Take agent and sender as they were built last
        #[arg(long)]
        no_build: bool,
    },
    /// Install the agent, try Services, run upstream's NetworkPolicy specs, upgrade
    /// and remove it
    E2e(E2eArgs),
    /// Remove the cluster; programs, images and logs stay
    Down,
    #[command(hide = true)]
    EnterNode { node: u8 },
    #[command(hide = true)]
    BootNode { node: u8 },
    #[command(hide = true)]
    ProgramsOnLinks,
}

#[derive(clap::Args)]
struct E2eArgs {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    selection: suite::Selection,
    /// Which of deploy/overlays
    #[arg(long, value_enum, default_value = "with-cni-plugin")]
    overlay: Overlay,
    /// Only the specs, on a cluster that is up, with whatever enforces there
    #[arg(long)]
    specs_only: bool,
    /// Take agent and load as they were built last
    #[arg(long)]
    no_build: bool,
    /// Leave the cluster up in the end
    #[arg(long)]
    keep: bool,
}

/// The task `cluster`.
///
/// # Errors
///
/// When a step fails; says where its log is.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let lab = Lab::new(workspace)?;
    match &args.command {
        What::EnterNode { node } => return node::enter(&lab, *node),
        What::BootNode { node } => return boot::boot(&lab, *node),
        What::ProgramsOnLinks => return links::print(),
        What::Build { programs } => {
            interrupt::catch()?;
            return programs::build(workspace, &lab, programs);
        }
        _ => {}
    }
    host::require_root("cluster")?;
    interrupt::catch()?;
    match &args.command {
        What::Up(settings) => up(workspace, &lab, *settings),
        What::Run { node, command } => execute(&lab, *node, command),
        What::Load { archives } => load(&lab, archives),
        What::Install { overlay, no_build } => {
            lab.require_up()?;
            let binary = if *no_build {
                build_agent::path(workspace)
            } else {
                setup::ensure(workspace, Need::Build)?;
                build_agent::build(workspace, Variant::Agent)?
            };
            agent::load_image(workspace, &lab, &binary, FIRST)?;
            agent::install(workspace, &lab, *overlay, FIRST)
        }
        What::DryRun => {
            lab.require_up()?;
            agent::dry_run(workspace, &lab)
        }
        What::Services { no_build } => {
            lab.require_up()?;
            let (agent, asker) = if *no_build {
                (build_agent::path(workspace), services::path(workspace))
            } else {
                setup::ensure(workspace, Need::Build)?;
                (
                    build_agent::build(workspace, Variant::Agent)?,
                    services::build(workspace)?,
                )
            };
            services::prove(workspace, &lab, &asker, &agent)
        }
        What::E2e(args) => e2e(workspace, &lab, args),
        What::Down => {
            announce("cluster: down");
            down(&lab)
        }
        // Answered above.
        What::Build { .. }
        | What::EnterNode { .. }
        | What::BootNode { .. }
        | What::ProgramsOnLinks => Ok(()),
    }
}

/// Builds what tests of the API source start: an API server and its store.
///
/// # Errors
///
/// When it does not build.
pub(crate) fn build_api_server(workspace: &Workspace) -> Result<()> {
    let programs = ["etcd", "kube-apiserver"].map(str::to_owned);
    programs::build(workspace, &Lab::new(workspace)?, &programs)
}

/// Everything that a user does with the agent, and upstream's specs in between.
/// A cluster that this brought up it takes down again.
fn e2e(workspace: &Workspace, lab: &Lab, args: &E2eArgs) -> Result<()> {
    if args.specs_only {
        lab.require_up()?;
        return suite::run(lab, &args.selection);
    }
    ensure!(
        args.settings.nodes >= 2,
        "traffic between nodes takes at least two of them"
    );
    // While nothing is up yet: compilers and a cluster are too much at once.
    let built = if args.no_build {
        Built {
            agent: build_agent::path(workspace),
            load: load::path(workspace),
            asker: services::path(workspace),
        }
    } else {
        setup::ensure(workspace, Need::Build)?;
        Built {
            agent: build_agent::build(workspace, Variant::Agent)?,
            load: load::build(workspace)?,
            asker: services::build(workspace)?,
        }
    };
    let was_up = lab.settings().is_some();
    up(workspace, lab, args.settings)?;
    let result = prove(workspace, lab, args, built);
    if was_up || args.keep {
        return result;
    }
    interrupt::clear();
    result.and(down(lab))
}

/// Programs that are built before a cluster is up.
struct Built {
    agent: PathBuf,
    load: PathBuf,
    asker: PathBuf,
}

fn prove(workspace: &Workspace, lab: &Lab, args: &E2eArgs, built: Built) -> Result<()> {
    agent::dry_run(workspace, lab)?;
    for tag in [FIRST, SECOND] {
        agent::load_image(workspace, lab, &built.agent, tag)?;
    }
    let mut pods = Pods::create(workspace, lab, built.load)?;
    let before = agent::traces(lab, args.settings)?;
    let install = |tag| agent::install(workspace, lab, args.overlay, tag);

    pods.during("install", Traffic::Allowed, || install(FIRST))?;
    agent::expect_traces(args.settings, &agent::traces(lab, args.settings)?)?;
    services::prove(workspace, lab, &built.asker, &built.agent)?;
    suite::run(lab, &args.selection)?;
    pods.during("upgrade", Traffic::All, || install(SECOND))?;
    pods.during("agents killed", Traffic::All, || {
        for node in args.settings.nodes() {
            load::kill(lab, node, "policy-agent")?;
        }
        agent::settled(lab)
    })?;
    pods.during("agents' pods deleted", Traffic::All, || {
        agent::delete_pods(lab)?;
        agent::settled(lab)
    })?;
    pods.during("containerd killed", Traffic::All, || {
        for node in args.settings.nodes() {
            load::kill(lab, node, "containerd")?;
        }
        ready(lab)
    })?;
    let lost = args.settings.nodes;
    let others = Traffic::WithoutNode(lost);
    pods.during(&format!("node {lost} loses its power"), others, || {
        process::end_all(&lab.node_ns(lost))?;
        net::unplug(lab, lost)
    })?;
    let boot = format!("node {lost} boots");
    pods.during(&boot, others, || assemble(lab, args.settings))?;
    pods.find()?;
    pods.during("all pods run again", Traffic::All, || agent::settled(lab))?;

    pods.during("removal", Traffic::Allowed, || {
        agent::remove(workspace, lab, args.overlay, SECOND)
    })?;
    agent::expect_no_traces(&before, &agent::traces(lab, args.settings)?)?;
    pods.remove()
}

/// Brings up what is missing. What it began it removes again when it fails.
fn up(workspace: &Workspace, lab: &Lab, settings: Settings) -> Result<()> {
    setup::ensure_cluster(workspace)?;
    cgroup::check()?;
    programs::build(workspace, lab, &[])?;
    announce("cluster: up");
    let start = Instant::now();
    let was_up = lab.settings();
    if let Some(known) = was_up {
        ensure!(
            known == settings,
            "the cluster is up with other settings ({known}); take it down first: \
             cargo xtask cluster down"
        );
    } else {
        // What an `up` that was killed, or a machine that was switched off, left.
        down(lab)?;
        let logs = lab.root.join("logs");
        if logs.exists() {
            fs::remove_dir_all(&logs)
                .with_context(|| format!("cannot remove {}", logs.display()))?;
        }
    }
    let result = assemble(lab, settings);
    if let Err(error) = result {
        if was_up.is_none() {
            interrupt::clear();
            down(lab)?;
        }
        return Err(error.context(format!(
            "the logs are in {}",
            lab.root.join("logs").display()
        )));
    }
    println!("    up after {} s: {settings}", start.elapsed().as_secs());
    println!("    to use it: cargo xtask cluster run -- kubectl get pods -A");
    println!("    to remove it: cargo xtask cluster down");
    Ok(())
}

fn assemble(lab: &Lab, settings: Settings) -> Result<()> {
    lab.keep_settings(settings)?;
    net::wire(lab, settings)?;
    println!("    control plane");
    control::start(lab)?;
    println!("    nodes");
    for node in settings.nodes() {
        node::start(lab, node)?;
    }
    ready(lab)?;
    // Made by a controller; no pod starts without it.
    wait_for("the default service account is there", 60, || {
        output_of(lab.kubectl(&["get", "serviceaccount", "default"])).is_some()
    })
}

/// Waits until every node is ready, and has a container runtime that answers.
fn ready(lab: &Lab) -> Result<()> {
    wait_for("all nodes are ready", 120, || {
        let ask = [
            "wait",
            "--for=condition=Ready",
            "node",
            "--all",
            "--timeout=5s",
        ];
        output_of(lab.kubectl(&ask)).is_some()
    })?;
    for number in lab.require_up()?.nodes() {
        wait_for("containerd answers", 60, || {
            node::inside(lab, number, "ctr").is_ok_and(|mut ctr| {
                ctr.arg("version");
                output_of(ctr).is_some()
            })
        })?;
    }
    Ok(())
}

/// Removes everything that `up` made, whatever state it is in.
fn down(lab: &Lab) -> Result<()> {
    let namespaces = net::namespaces(lab);
    let state = lab.state();
    if namespaces.is_empty() && !state.exists() {
        return Ok(());
    }
    let start = Instant::now();
    // Killed without a word: all state goes, and an API server would take a
    // minute to say farewell.
    for name in &namespaces {
        process::end_all(name)?;
    }
    for name in &namespaces {
        net::remove(name)?;
    }
    cgroup::remove(lab)?;
    if state.exists() {
        fs::remove_dir_all(&state).with_context(|| format!("cannot remove {}", state.display()))?;
    }
    println!(
        "    all of it is gone after {} s",
        start.elapsed().as_secs()
    );
    Ok(())
}

/// Runs a command of the user's, with the terminal, and as its own result.
fn execute(lab: &Lab, node: Option<u8>, command: &[OsString]) -> Result<()> {
    lab.require_up()?;
    let (program, arguments) = command.split_first().context("no command")?;
    let mut inner = match node {
        Some(node) => node::inside(lab, node, program)?,
        None => lab.in_control(program),
    };
    let status = inner.args(arguments).status().context("cannot start it")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => bail!("{} was ended by a signal", program.display()),
    }
}

/// Imports archives on the nodes that run, and keeps them for those that will.
fn load(lab: &Lab, archives: &[PathBuf]) -> Result<()> {
    let settings = lab.require_up()?;
    let images = lab.loaded_images();
    fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
    for archive in archives {
        let name = archive.file_name().context("an archive is a file")?;
        let kept = images.join(name);
        fs::copy(archive, &kept)
            .with_context(|| format!("cannot copy {} to {}", archive.display(), kept.display()))?;
        for node in settings.nodes() {
            let mut ctr = node::inside(lab, node, "ctr")?;
            ctr.args(["-n", "k8s.io", "images", "import"]).arg(&kept);
            Job::new("ctr images import", ctr, Duration::from_secs(120)).run()?;
        }
    }
    Ok(())
}

//! The project's tasks: `cargo xtask --help`.
//!
//! This file holds the command line only; each task is a module of its own.
//! Every task that needs a tool first runs what `setup` does, so that none of
//! them needs more than a machine with cargo on it.

mod again;
mod build_agent;
mod build_ebpf;
mod cluster;
mod fuzz;
mod go;
mod host;
mod image;
mod interrupt;
mod job;
mod lint;
mod optimised;
mod programs;
mod setup;
mod strip;
mod tally;
mod test;
mod tidy;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "The project's tasks",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find the tools that the other tasks need, and install what is missing
    Setup(setup::Args),
    /// Compile the kernel programs to target/bpf/policy-ebpf.o
    BuildEbpf(build_ebpf::Args),
    /// Compile the agent, static, with the kernel programs in it, to target/release/policy-agent
    Build(build_agent::Args),
    /// Make the agent's container image, without a container engine
    Image(image::Args),
    /// Run a Kubernetes cluster on this machine, and the agent in it (needs root)
    Cluster(cluster::Args),
    /// Show the product at work in network namespaces of its own (needs root)
    Demo(programs::Args),
    /// Run every check and test, those in the kernel included (needs root)
    Test(test::Args),
    /// Look for inputs that the parsers and the verdict get wrong, with libFuzzer
    Fuzz(fuzz::Args),
    /// Measure the packet programs and the compiler, or the agent in a cluster (needs root)
    Bench(BenchArgs),
    /// Boot older kernels in virtual machines and run the kernel's tests there
    Vm(vm::Args),
    /// Check formatting, clippy, licences and the house rules
    Lint(lint::Args),
}

#[derive(clap::Args)]
struct BenchArgs {
    /// Measure between pods of the contributors' cluster: latency, churn, births
    /// under a flood, throughput, restart, with nobody before and after; must come
    /// first
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    in_cluster: cluster::BenchOptions,
    #[command(flatten)]
    program: programs::Args,
}

fn main() -> ExitCode {
    if let Some(code) = fuzz::as_compiler() {
        return code;
    }
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let workspace = Workspace::locate()?;
    match &cli.task {
        Task::Setup(args) => setup::run(&workspace, args),
        Task::BuildEbpf(args) => build_ebpf::run(&workspace, args),
        Task::Build(args) => build_agent::run(&workspace, args),
        Task::Image(args) => image::run(&workspace, args),
        Task::Cluster(args) => cluster::run(&workspace, args),
        Task::Demo(args) => programs::demo(&workspace, args),
        Task::Test(args) => test::run(&workspace, args),
        Task::Fuzz(args) => fuzz::run(&workspace, args),
        Task::Bench(args) if args.cluster => cluster::bench(&workspace, &args.in_cluster),
        Task::Bench(args) => programs::bench(&workspace, &args.program),
        Task::Vm(args) => vm::run(&workspace, args),
        Task::Lint(args) => lint::run(&workspace, args),
    }
}

//! The command line: arguments, and one call per subcommand.
//!
//! Exit codes: 0 yes or done; 1 no (denied; in other commands: failed); 2 usage
//! or bad input; 3 cannot decide, or timed out.

mod admin;
mod client;
mod cluster;
mod cni;
mod manual;
mod monitor;
mod output;
mod probe;
mod rollout;
mod show;
mod simulate;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use policy_common::abi::mark;

use crate::agent;
use crate::source::kubernetes::Access;
use output::Format;

/// Yes, or done.
const DONE: u8 = 0;
/// No, or failed.
const NO: u8 = 1;
/// Usage or bad input.
const USAGE: u8 = 2;
/// Cannot decide, or timed out.
const UNDECIDED: u8 = 3;

/// Kubernetes network policy, enforced by eBPF.
#[derive(Debug, Parser)]
#[command(name = "policy-agent", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 yes or done, 1 no or failed, 2 usage or bad input, \
3 cannot decide or timed out.\n\nStart with: policy-agent preflight; policy-agent run --manifests DIR; \
policy-agent status --wait"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce policies, in the foreground. What is in force outlives it.
    Run(RunArgs),
    /// How the agent is: healthy, synced, programmed; endpoints; what is wrong.
    Status(StatusArgs),
    /// What would become of connections, from manifests alone: no agent, no
    /// cluster, no privileges.
    Simulate(simulate::SimulateArgs),
    /// Live verdicts of a running agent, with the names of pods and policies.
    Monitor(monitor::MonitorArgs),
    /// Pods of this node: interface, identity, policies, generation.
    Endpoints(Shown),
    /// Identities in the kernel, and who has them.
    Identities(Shown),
    /// Compiled policies in the kernel, row by row, with the rules behind them.
    Policies(Shown),
    /// The kernel's maps: what each is for, and how full it is.
    Maps(MapsArgs),
    /// Can this node run it: kernel, BTF, BPF file system, permissions, programs
    /// through the verifier.
    Preflight(PreflightArgs),
    /// The emergency switch: `off` stops denying anything, at once, until `on`.
    Enforce(EnforceArgs),
    /// The chained CNI plugin: with it, no pod starts before its policies are in
    /// force, or it is held.
    #[command(subcommand)]
    Cni(cni::CniCommand),
    /// Remove every trace from the kernel, and prove it; the CNI plugin too. Refuses
    /// while an agent runs.
    Cleanup(CleanupArgs),
    /// Completions for a shell, on standard output.
    Completions(manual::CompletionsArgs),
    /// A manual page, on standard output.
    Man(manual::ManArgs),
    /// Mount a BPF file system if there is none; what `run` does too, where it
    /// may mount.
    MountBpffs(MountArgs),
}

/// Where the agent's socket and lock are.
#[derive(Debug, Args)]
struct RunDirArg {
    /// Folder of the agent's socket and lock.
    #[arg(
        long,
        env = "POLICY_AGENT_RUN_DIR",
        default_value = "/run/policy-agent",
        value_name = "DIR"
    )]
    run_dir: PathBuf,
}

/// Where maps and links are pinned.
#[derive(Debug, Args)]
struct BpffsArg {
    /// Mount point of the BPF file system; mounted if it is not.
    #[arg(
        long,
        env = "POLICY_AGENT_BPFFS",
        default_value = "/sys/fs/bpf",
        value_name = "DIR"
    )]
    bpffs: PathBuf,
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
struct OutputArg {
    /// How to print.
    #[arg(short, long, env = "POLICY_AGENT_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Folder of manifests, instead of a cluster: pods, namespaces, nodes, Services
    /// and policies. Changes are put in force as they are made.
    #[arg(long, env = "POLICY_AGENT_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// File that says where the cluster's API server is, and who we are; without
    /// it the service account of the pod that this runs in.
    #[arg(
        long,
        env = "POLICY_AGENT_KUBECONFIG",
        value_name = "FILE",
        conflicts_with = "manifests"
    )]
    kubeconfig: Option<PathBuf>,
    /// Name of this node, as in spec.nodeName of its pods; without it that of the
    /// only Node in the folder, else the host's.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Look for pods only in the network namespaces in this folder (bind mounts,
    /// or links to /proc/PID/ns/net).
    #[arg(long, env = "POLICY_AGENT_NETNS_DIR", value_name = "DIR")]
    netns_dir: Option<PathBuf>,
    #[command(flatten)]
    run_dir: RunDirArg,
    #[command(flatten)]
    bpffs: BpffsArg,
    /// Drop denied sources on this interface before the stack sees them; may be
    /// given more than once.
    #[arg(
        long,
        env = "POLICY_AGENT_PREFILTER_INTERFACE",
        value_name = "IF",
        value_delimiter = ','
    )]
    prefilter_interface: Vec<String>,
    /// File of prefixes or addresses to drop there, one a line, `#` for comments;
    /// read again when it changes.
    #[arg(long, env = "POLICY_AGENT_DENY_PREFIXES", value_name = "FILE")]
    deny_prefixes: Option<PathBuf>,
    /// What happens to a veth that appears while the agent runs and that nobody
    /// knows: `hold` lets only the node's own traffic pass, for 30 s at most;
    /// `pass` leaves it alone. Without it, `pass` with a folder of manifests, else
    /// `hold`.
    #[arg(
        long,
        env = "POLICY_AGENT_UNKNOWN_INTERFACES",
        value_enum,
        value_name = "HOW"
    )]
    unknown_interfaces: Option<agent::UnknownInterfaces>,
    /// Folder in which the CNI library records each pod's interface and addresses.
    #[arg(
        long,
        env = "POLICY_AGENT_CNI_RESULTS_DIR",
        default_value = crate::cni::results::FOLDER,
        value_name = "DIR"
    )]
    cni_results_dir: PathBuf,
    /// Keep the configuration that `cni install` wrote up to date in this folder,
    /// when the network's own configuration changes.
    #[arg(long, env = "POLICY_AGENT_CNI_CONF_DIR", value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Close the addresses that this node gives to its pods to all but the node itself,
    /// each until the policies of the pod that has it are in force: `node` (the
    /// prefixes in the Node's spec.podCIDRs), or one prefix of each family. For
    /// clusters without the CNI plugin; it goes on while no agent runs.
    #[arg(long, env = "POLICY_AGENT_POD_RANGE", value_name = "RANGE")]
    pod_range: Option<agent::PodRange>,
    /// Let pods send from addresses that are not their own.
    #[arg(long, env = "POLICY_AGENT_NO_SPOOF_CHECK")]
    no_spoof_check: bool,
    /// Where to serve /healthz, /readyz and /metrics: a loopback address and a
    /// port, or `off`. Unless given 127.0.0.1:9410, and `off` with --manifests.
    #[arg(long, env = "POLICY_AGENT_HTTP_ADDRESS", value_name = "ADDRESS")]
    http_address: Option<agent::HttpAddress>,
    #[command(flatten)]
    mark: MarkArg,
}

#[derive(Debug, Args)]
struct MarkArg {
    /// Bits of packets' marks that are the agent's: 14 adjacent ones that no other
    /// rule of this node uses.
    #[arg(
        long,
        env = "POLICY_AGENT_MARK_MASK",
        default_value = "0x3fff0000",
        value_parser = mark_shift,
        value_name = "MASK"
    )]
    mark_mask: u32,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Wait until everything that is in the folder (in a cluster: on the API server)
    /// and on the node now is in force; also for an agent that is just starting.
    #[arg(long, env = "POLICY_AGENT_WAIT")]
    wait: bool,
    /// How long to wait, for example 30s or 500ms; then exit code 3.
    #[arg(long, env = "POLICY_AGENT_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
    /// Fail if there is any warning or error among the diagnostics.
    #[arg(long, env = "POLICY_AGENT_STRICT")]
    strict: bool,
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    #[command(flatten)]
    run_dir: RunDirArg,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Args)]
struct Shown {
    #[command(flatten)]
    run_dir: RunDirArg,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Args)]
struct MapsArgs {
    #[command(flatten)]
    bpffs: BpffsArg,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Args)]
struct BpffsArgs {
    #[command(flatten)]
    bpffs: BpffsArg,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Args)]
struct PreflightArgs {
    #[command(flatten)]
    bpffs: BpffsArg,
    #[command(flatten)]
    mark: MarkArg,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Args)]
struct EnforceArgs {
    /// `off`: deny nothing; `on`: policies again.
    #[arg(value_enum)]
    switch: Switch,
    #[command(flatten)]
    bpffs: BpffsArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
struct CleanupArgs {
    /// When all is gone, stay until ended, as the container of a DaemonSet must.
    #[arg(long, env = "POLICY_AGENT_HOLD")]
    hold: bool,
    #[command(flatten)]
    run_dir: RunDirArg,
    #[command(flatten)]
    bpffs: BpffsArg,
    #[command(flatten)]
    folders: cni::Folders,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Debug, Args)]
struct MountArgs {
    #[command(flatten)]
    bpffs: BpffsArg,
}

/// Runs the command line and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows where each belongs.
            let code = if error.use_stderr() { USAGE } else { DONE };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("policy-agent: {error:#}");
            ExitCode::from(NO)
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => run(args),
        Command::Status(args) if args.cluster.cluster => {
            cluster::status(&args.cluster, args.wait, args.timeout, args.output.output)
        }
        Command::Status(args) => show::status(
            &args.run_dir.run_dir,
            args.wait,
            args.timeout,
            args.strict,
            args.output.output,
        ),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Monitor(args) => monitor::monitor(&args),
        Command::Endpoints(args) => show::endpoints(&args.run_dir.run_dir, args.output.output),
        Command::Identities(args) => show::identities(&args.run_dir.run_dir, args.output.output),
        Command::Policies(args) => show::policies(&args.run_dir.run_dir, args.output.output),
        Command::Maps(args) => admin::maps(&args.bpffs.bpffs, args.output.output),
        Command::Preflight(args) => {
            admin::preflight(&args.bpffs.bpffs, args.mark.mark_mask, args.output.output)
        }
        Command::Enforce(args) => admin::enforce(&args.bpffs.bpffs, args.switch == Switch::On),
        Command::Cni(command) => cni::run(command),
        Command::Cleanup(args) => {
            let code = admin::cleanup(
                &args.run_dir.run_dir,
                &args.bpffs.bpffs,
                &args.folders,
                args.output.output,
            )?;
            if args.hold && code == DONE {
                admin::hold()?;
            }
            Ok(code)
        }
        Command::Completions(args) => Ok(manual::completions(&args, &mut Cli::command())),
        Command::Man(args) => manual::man(&args, Cli::command()),
        Command::MountBpffs(args) => admin::mount_bpffs(&args.bpffs.bpffs),
    }
}

fn run(args: RunArgs) -> anyhow::Result<u8> {
    let is_cluster = args.manifests.is_none();
    // Without a cluster nobody probes, and several agents may share a machine.
    let http = args.http_address.unwrap_or(if args.manifests.is_some() {
        agent::HttpAddress::Off
    } else {
        agent::HttpAddress::default()
    });
    let source = match (args.manifests, args.kubeconfig) {
        (Some(folder), _) => agent::SourceOptions::Manifests(folder),
        (None, Some(file)) => agent::SourceOptions::Cluster(Access::Kubeconfig(file)),
        (None, None) => agent::SourceOptions::Cluster(Access::InCluster),
    };
    let options = agent::Options {
        source,
        node_name: args.node_name,
        netns_dir: args.netns_dir,
        run_dir: args.run_dir.run_dir,
        bpffs: args.bpffs.bpffs,
        prefilter_interfaces: args.prefilter_interface,
        deny_prefixes: args.deny_prefixes,
        pod_range: args.pod_range.unwrap_or_default(),
        spoof_check: !args.no_spoof_check,
        http,
        cni: agent::CniOptions {
            results: args.cni_results_dir,
            conf_dir: args.cni_conf_dir,
            // In a cluster what appears is a pod's, nearly always.
            unknown: args.unknown_interfaces.unwrap_or(if is_cluster {
                agent::UnknownInterfaces::Hold
            } else {
                agent::UnknownInterfaces::Pass
            }),
        },
        mark_shift: args.mark.mark_mask,
    };
    if let Err(error) = agent::run::check(&options) {
        eprintln!("policy-agent: {error:#}");
        return Ok(USAGE);
    }
    agent::run(&options)?;
    Ok(DONE)
}

/// Reads a mask of marks and gives the place of its lowest bit.
fn mark_shift(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u32::from_str_radix(digits, 16)
        .ok()
        .and_then(mark::shift_of)
        .ok_or_else(|| {
            format!(
                "{text:?} is not {} adjacent bits, in hex: for example {:#x}",
                mark::BITS,
                mark::mask(mark::DEFAULT_SHIFT)
            )
        })
}

/// Reads a duration: a number and `ms`, `s` or `m`; without a unit seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?}: write for example 30s or 500ms"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        unit => Err(format!("{unit:?} is no unit: ms, s or m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let is_flag = argument.get_long().is_some();
                let built_in = ["help", "version"].contains(&argument.get_id().as_str());
                assert!(
                    !is_flag || built_in || argument.get_env().is_some(),
                    "{} --{}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err() && duration("3h").is_err());
    }
}

//! `cni install` and `cni uninstall`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{BpffsArg, DONE, NO, RunDirArg};
use crate::cni::hold;
use crate::cni::install::{self, InstallError, Places};
use crate::run_dir::{RunDir, RunDirError};

/// What to do about the plugin.
#[derive(Debug, Subcommand)]
pub(super) enum CniCommand {
    /// Put the plugin into the folder of CNI plugins, and chain it to the node's
    /// network, in a configuration that sorts first. Again: bring both up to date.
    Install(InstallArgs),
    /// Remove both; the network's own configuration, which was never touched, is
    /// in force again. Refuses while an agent runs.
    Uninstall(UninstallArgs),
}

/// Where CNI has its files.
#[derive(Debug, Args)]
pub(super) struct Folders {
    /// Folder of CNI plugins.
    #[arg(
        long,
        env = "POLICY_AGENT_CNI_BIN_DIR",
        default_value = "/opt/cni/bin",
        value_name = "DIR"
    )]
    cni_bin_dir: PathBuf,
    /// Folder of CNI configurations.
    #[arg(
        long,
        env = "POLICY_AGENT_CNI_CONF_DIR",
        default_value = "/etc/cni/net.d",
        value_name = "DIR"
    )]
    cni_conf_dir: PathBuf,
}

impl Folders {
    /// Removes what the agent with this run directory has installed.
    pub(super) fn remove(&self, run_dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
        install::remove(&self.cni_conf_dir, &self.cni_bin_dir, run_dir)
    }
}

/// Arguments of `cni install`.
#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    /// Only put the plugin into its folder; the agent chains it when it is there
    /// (`run --cni-conf-dir`).
    #[arg(long, env = "POLICY_AGENT_CNI_BINARY_ONLY")]
    binary_only: bool,
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    run_dir: RunDirArg,
    #[command(flatten)]
    bpffs: BpffsArg,
}

/// Arguments of `cni uninstall`.
#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    run_dir: RunDirArg,
}

/// Does it.
pub(super) fn run(command: CniCommand) -> anyhow::Result<u8> {
    match command {
        CniCommand::Install(args) => {
            // The binary first: what the configuration names must be there.
            let binary = install::copy_binary(&args.folders.cni_bin_dir)?;
            if args.binary_only {
                println!("installed {}", binary.display());
                return Ok(DONE);
            }
            let places = Places {
                conf_dir: args.folders.cni_conf_dir,
                run_dir: args.run_dir.run_dir,
                bpffs: args.bpffs.bpffs,
                hold: hold::is_possible().context("ask the kernel for nftables")?,
            };
            let configured = install::configure(&places)?;
            let before = if configured.written {
                ""
            } else {
                ", as before"
            };
            println!("{} is {configured}{before}", binary.display());
            Ok(DONE)
        }
        CniCommand::Uninstall(args) => {
            let run_dir = &args.run_dir.run_dir;
            // An agent that runs would chain the plugin again.
            let lock = match run_dir.exists().then(|| RunDir::lock(run_dir)) {
                Some(Err(error @ RunDirError::Busy { .. })) => {
                    eprintln!("policy-agent: it would be chained again: {error}");
                    return Ok(NO);
                }
                lock => lock.transpose()?,
            };
            let folders = &args.folders;
            let removed = folders.remove(run_dir)?;
            drop(lock);
            for file in &removed {
                println!("removed {}", file.display());
            }
            if removed.is_empty() {
                println!("nothing was installed");
            }
            Ok(DONE)
        }
    }
}

//! The agent under demonstration: its process, its folders, its command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cast::NODE;
use crate::lab::{Lab, NodeProcess};

/// More than an agent takes to start, or to put a change in force, on a machine
/// that is busy with something else.
const PATIENCE: &str = "15s";
/// Longer than it takes to end.
const END: Duration = Duration::from_secs(10);

/// An agent in the lab's node, with folders of its own inside the lab's.
pub(super) struct Agent {
    binary: PathBuf,
    manifests: PathBuf,
    run_dir: PathBuf,
    bpffs: PathBuf,
    process: Option<NodeProcess>,
}

impl Agent {
    /// Prepares the folders; nothing runs yet. `binary` is as [`find`] says.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub(super) fn new(lab: &Lab, binary: PathBuf) -> Result<Self> {
        let folder = |name: &str| -> Result<PathBuf> {
            let path = lab.dir().join(name);
            fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            binary,
            manifests: folder("manifests")?,
            run_dir: folder("run")?,
            bpffs: folder("bpf")?,
            process: None,
        })
    }

    /// Starts `policy-agent run` and waits until everything is in force.
    ///
    /// # Errors
    /// Carries what the agent said.
    pub(super) fn start(&mut self, lab: &mut Lab) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(["run", "--node-name", NODE, "--manifests"]);
        command.arg(&self.manifests);
        command.arg("--netns-dir").arg(lab.netns_dir());
        command.arg("--run-dir").arg(&self.run_dir);
        command.arg("--bpffs").arg(&self.bpffs);
        self.process = Some(lab.spawn_in_node(command)?);
        self.wait_in_force()
    }

    /// Waits until what is in the folder now is in force.
    ///
    /// # Errors
    /// Carries the agent's status and what it said.
    pub(super) fn wait_in_force(&self) -> Result<()> {
        let output = self.run(&["status", "--wait", "--strict", "--timeout", PATIENCE])?;
        if !output.status.success() {
            let agent = self.process.as_ref().map(NodeProcess::describe);
            bail!(
                "the agent does not put everything in force\n{}{}\n{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                agent.unwrap_or_default()
            );
        }
        Ok(())
    }

    /// Puts a manifest into the folder, whole at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write_manifest(&self, name: &str, text: &str) -> Result<()> {
        // Hidden files are no manifests; renaming is one step.
        let (draft, file) = (
            self.manifests.join(format!(".{name}")),
            self.manifests.join(name),
        );
        fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
        fs::rename(&draft, &file).with_context(|| format!("rename to {}", file.display()))
    }

    /// Takes every manifest out of the folder but one.
    ///
    /// # Errors
    /// When the folder cannot be read or a file not be removed.
    pub(super) fn keep_manifest(&self, name: &str) -> Result<()> {
        let folder = self.manifests.display();
        for entry in fs::read_dir(&self.manifests).with_context(|| format!("read {folder}"))? {
            let path = entry.with_context(|| format!("read {folder}"))?.path();
            if path.file_name().is_some_and(|file| file != name) {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The output of a subcommand that has to succeed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub(super) fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        ensure!(
            output.status.success(),
            "policy-agent {} failed ({})\n{}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).context("policy-agent prints UTF-8")
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command
            .args(words)
            .env("POLICY_AGENT_RUN_DIR", &self.run_dir)
            .env("POLICY_AGENT_BPFFS", &self.bpffs)
            .env("POLICY_AGENT_OUTPUT", "table");
        command
            .output()
            .with_context(|| format!("run {}", self.binary.display()))
    }

    /// What it has printed so far: verdicts and changes, a JSON line each.
    pub(super) fn log(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, NodeProcess::stdout)
    }

    /// What it has said on standard error.
    pub(super) fn errors(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, NodeProcess::stderr)
    }

    /// The file of [`Agent::log`], while it runs.
    pub(super) fn log_path(&self) -> Option<&Path> {
        self.process.as_ref().map(NodeProcess::stdout_path)
    }

    /// Ends it as a service manager would.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(super) fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            let status = process.terminate(END)?;
            ensure!(status.success(), "{}", process.describe());
        }
        Ok(())
    }

    /// The binary.
    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The folder of manifests.
    pub(super) fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// The run directory.
    pub(super) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The BPF file system.
    pub(super) fn bpffs(&self) -> &Path {
        &self.bpffs
    }
}

/// Where the agent is: said by the caller, or built beside this program.
///
/// # Errors
/// When it is not there.
pub(super) fn find() -> Result<PathBuf> {
    let path = match std::env::var_os("POLICY_AGENT") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()
            .context("find this program's own path")?
            .with_file_name("policy-agent"),
    };
    ensure!(
        path.is_file(),
        "{} is not there: run `cargo xtask demo`, which builds it, or name it in POLICY_AGENT",
        path.display()
    );
    Ok(path)
}

//! A process inside the lab, such as the agent.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::clock::wait_for;
use super::netns::Netns;

/// A process that the lab started: in one network namespace, in every other
/// namespace of the caller, its output in files. It ends with the lab at the
/// latest. Cloning gives another handle to the same process.
#[derive(Clone)]
pub struct NodeProcess {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl NodeProcess {
    pub(crate) fn start(
        netns: &Netns,
        mut command: Command,
        logs: &Path,
        number: usize,
    ) -> Result<Self> {
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str());
        let name = format!("{number}-{}", name.display());
        let (stdout, stderr) = (
            logs.join(format!("{name}.out")),
            logs.join(format!("{name}.err")),
        );
        let open =
            |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
        command
            .stdin(Stdio::null())
            .stdout(open(&stdout)?)
            .stderr(open(&stderr)?)
            // Signals from a terminal go to the test, which then ends the lab.
            .process_group(0);
        let child = netns.spawn(&mut command)?;
        Ok(Self {
            inner: Arc::new(Inner {
                name,
                pid: child.id(),
                child: Mutex::new(child),
                stdout,
                stderr,
            }),
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.inner.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.inner.stderr)
    }

    /// The file that takes standard output.
    pub fn stdout_path(&self) -> &Path {
        &self.inner.stdout
    }

    /// The file that takes standard error.
    pub fn stderr_path(&self) -> &Path {
        &self.inner.stderr
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Sends a signal; one that ended already gets none.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = self.child();
        // The id stays taken until the child is waited for, which needs the lock.
        if child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&child), signal)
                .with_context(|| format!("send {signal:?} to {}", self.inner.name))?;
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `bound`; the error carries its standard error.
    pub fn wait(&self, bound: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_for("its end", bound, || {
            status = self.child().try_wait().ok().flatten();
            status.is_some()
        })
        .with_context(|| self.describe())?;
        Ok(status.expect("the condition was that it is set"))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// As [`NodeProcess::wait`].
    pub fn terminate(&self, bound: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(bound)
    }

    /// Ends it as `kill -9` does and reaps it.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        // Nothing delays this but the machine.
        self.wait(Duration::from_secs(30))
    }

    /// Waits until `text` appears in standard output or standard error.
    ///
    /// # Errors
    /// When it does not within `bound`, or the process ends without.
    pub fn wait_for_output(&self, text: &str, bound: Duration) -> Result<()> {
        let seen = || self.stdout().contains(text) || self.stderr().contains(text);
        wait_for(&format!("output {text:?}"), bound, || {
            seen() || !self.is_running()
        })
        .and_then(|_| {
            anyhow::ensure!(seen(), "it ended without the output {text:?}");
            Ok(())
        })
        .with_context(|| self.describe())
    }

    /// Its name, state and output, for a failure's report.
    pub fn describe(&self) -> String {
        let state = match self.child().try_wait() {
            Ok(None) => "running".to_owned(),
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        format!(
            "process {} (pid {}, {state})\n--- stdout\n{}\n--- stderr\n{}",
            self.inner.name,
            self.pid(),
            self.stdout(),
            self.stderr()
        )
    }

    /// Ends it without a word, as the lab is dropped.
    pub(crate) fn end(&self) {
        let mut child = self.child();
        // Both fail only for a process that has ended and was waited for.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        // A panic elsewhere leaves the handle as usable as it was.
        self.inner
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map_or_else(
        |error| format!("(cannot read {}: {error})", path.display()),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

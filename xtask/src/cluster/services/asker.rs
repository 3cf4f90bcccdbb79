//! `cluster-services`, while it runs: a line of JSON there, a line back.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Ends with its value.
pub(super) struct Asker {
    child: Child,
    // None from when it is told that there is no more.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Asker {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When there is no such program.
    pub(super) fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("standard output is piped")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Sends a request, and waits for its answer.
    ///
    /// # Errors
    ///
    /// When it ends instead; its message is on standard error.
    pub(super) fn request(&mut self, request: &Value) -> Result<Value> {
        let input = self.input.as_mut().context("standard input is piped")?;
        writeln!(input, "{request}").context("cluster-services does not read")?;
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .context("cluster-services is silent")?;
        if line.is_empty() {
            bail!("cluster-services failed; see above");
        }
        serde_json::from_str(&line).context("cluster-services wrote no JSON")
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends when its input does; what it said of that is on the terminal.
        let _ended = self.child.wait();
    }
}

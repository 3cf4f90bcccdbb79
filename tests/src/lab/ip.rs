//! Configuration of a namespace through `ip -batch` (iproute2).

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::netns::Netns;

/// Runs the commands (without the leading `ip`) in order in one `ip` process.
///
/// # Errors
/// The first command that fails ends the batch; the error carries that command
/// and what `ip` said.
pub(crate) fn ip(netns: &Netns, commands: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = netns
        .spawn(&mut command)
        .context("iproute2 must be installed")?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all((commands.join("\n") + "\n").as_bytes())
        .context("write to ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for ip")?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    // "Command failed -:3" is how ip names the line of the batch.
    let failed = stderr
        .lines()
        .find_map(|line| line.strip_prefix("Command failed -:"))
        .and_then(|number| number.trim().parse::<usize>().ok())
        .and_then(|number| commands.get(number.checked_sub(1)?));
    bail!(
        "in {}: ip {}: {}",
        netns.path().display(),
        failed.map_or("-batch", String::as_str),
        stderr.trim()
    );
}

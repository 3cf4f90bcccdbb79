//! Asking a running agent.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use crate::api::{Request, Response};
use crate::run_dir;

/// Bytes of an answer at most.
const LONGEST: u64 = 256 * 1024 * 1024;
/// How long the first answer of something that goes on may take.
const FIRST: Duration = Duration::from_secs(10);

/// Asks once.
pub(super) fn ask(
    run_dir: &Path,
    request: &Request,
    patience: Duration,
) -> anyhow::Result<Response> {
    let stream = connect(run_dir, request, patience)?;
    understand(&mut BufReader::new(stream.take(LONGEST)))
}

/// Asks for something that goes on: the lines after the answer.
pub(super) fn follow(run_dir: &Path, request: &Request) -> anyhow::Result<BufReader<UnixStream>> {
    let stream = connect(run_dir, request, FIRST)?;
    let mut lines = BufReader::new(stream);
    match understand(&mut lines)? {
        Response::Monitoring => {}
        other => bail!("the agent answered another question: {other:?}"),
    }
    // Whatever comes next may take its time.
    lines.get_ref().set_read_timeout(None)?;
    Ok(lines)
}

fn connect(run_dir: &Path, request: &Request, patience: Duration) -> anyhow::Result<UnixStream> {
    let path = run_dir::socket(run_dir);
    let stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no agent answers at {}; start one with `policy-agent run`, or name its folder with --run-dir",
            path.display()
        )
    })?;
    let patience = Some(patience.max(Duration::from_millis(10)));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    (&stream)
        .write_all(line.as_bytes())
        .context("the agent does not take the question")?;
    Ok(stream)
}

fn understand(lines: &mut impl BufRead) -> anyhow::Result<Response> {
    let mut answer = String::new();
    lines
        .read_line(&mut answer)
        .context("the agent does not answer in time")?;
    if answer.is_empty() {
        bail!("the agent ended before it answered");
    }
    match serde_json::from_str(&answer)
        .context("the agent's answer is not understood: is it another version?")?
    {
        Response::Error(error) => Err(anyhow!(error)),
        response => Ok(response),
    }
}

/// Asks until `done` is content with the answer or the time is up; then the last
/// answer, or why there is none.
pub(super) fn ask_until(
    run_dir: &Path,
    request: &Request,
    timeout: Duration,
    done: impl Fn(&Response) -> bool,
) -> anyhow::Result<Response> {
    const PAUSE: Duration = Duration::from_millis(20);
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let answer = ask(run_dir, request, left);
        let content = answer.as_ref().is_ok_and(&done);
        if content || Instant::now() + PAUSE >= end {
            return answer;
        }
        std::thread::sleep(PAUSE);
    }
}

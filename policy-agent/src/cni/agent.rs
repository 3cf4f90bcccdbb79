//! Asking the agent, if it is there. Blocking, with a limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::statement::{Answer, Question};
use crate::api::{Request, Response};
use crate::run_dir;

/// Bytes of an answer at most.
const LONGEST: u64 = 64 * 1024;

/// Asks once.
///
/// # Errors
/// Why there is no answer: the agent is away, ended meanwhile, did not answer in
/// time, or is a version that does not understand the question.
pub(super) fn ask(
    run_dir: &Path,
    question: Question,
    patience: Duration,
) -> Result<Answer, String> {
    let path = run_dir::socket(run_dir);
    let failed = |what: &str| {
        let place = path.display().to_string();
        let what = what.to_owned();
        move |error: std::io::Error| format!("{what} {place}: {error}")
    };
    let stream = UnixStream::connect(&path).map_err(failed("no agent answers at"))?;
    let limit = Some(patience.max(Duration::from_millis(10)));
    stream
        .set_read_timeout(limit)
        .and_then(|()| stream.set_write_timeout(limit))
        .map_err(failed("cannot ask the agent at"))?;
    let mut line = serde_json::to_string(&Request::Cni(question))
        .map_err(|error| format!("the question cannot be written down: {error}"))?;
    line.push('\n');
    (&stream)
        .write_all(line.as_bytes())
        .map_err(failed("the agent does not take a question at"))?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST))
        .read_line(&mut answer)
        .map_err(failed("the agent does not answer in time at"))?;
    if answer.is_empty() {
        return Err("the agent ended before it answered".to_owned());
    }
    match serde_json::from_str(&answer) {
        Ok(Response::Cni(answer)) => Ok(answer),
        Ok(Response::Error(why)) => Err(why),
        Ok(_) => Err("the agent answered another question".to_owned()),
        Err(error) => Err(format!(
            "the agent's answer is not understood ({error}): is it another version?"
        )),
    }
}

//! The socket over which the command line asks.
//!
//! Connections are read in tasks of their own, so that a client that says
//! nothing holds nobody up; questions are answered by the loop, one at a time.
//! Watchers of verdicts get them from their own queue, as fast as they read.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest, Take};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::monitor::{Monitors, Subscription, Told};
use crate::api::{Request, Response};

/// A question, and where its answer goes.
pub(super) type Question = (Request, oneshot::Sender<Response>);

/// How long a client may take to ask, or to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request at most.
const LONGEST: u64 = 64 * 1024;
/// How often a client that says no more is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Clients that are served at one time: runtimes wait for the policies of each pod
/// that they start.
const CLIENTS: usize = 1_024;
/// Questions that wait for the loop.
const QUESTIONS: usize = 16;

/// Listens; questions come out of the receiver.
pub(super) fn listen(path: &Path, monitors: &Monitors) -> io::Result<mpsc::Receiver<Question>> {
    // The lock says that we are the only agent here: what is there is a left-over.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (questions, answered) = mpsc::channel(QUESTIONS);
    let monitors = monitors.clone();
    tokio::spawn(async move {
        let clients = std::sync::Arc::new(tokio::sync::Semaphore::new(CLIENTS));
        loop {
            let Ok(permit) = clients.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let questions = questions.clone();
                    let monitors = monitors.clone();
                    tokio::spawn(async move {
                        // A client that goes away is no one's problem.
                        let _ = serve(stream, questions, &monitors, permit).await;
                    });
                }
                Err(error) => {
                    eprintln!("cannot accept a client: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(answered)
}

async fn serve(
    stream: UnixStream,
    questions: mpsc::Sender<Question>,
    monitors: &Monitors,
    permit: OwnedSemaphorePermit,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let response = match serde_json::from_str::<Request>(&line) {
        Err(error) => Response::Error(format!("the request is not understood: {error}")),
        Ok(Request::Monitor(filter)) => match monitors.subscribe(filter) {
            None => Response::Error("too many watch already; end one of them".to_owned()),
            Some(subscription) => {
                // Watchers have a limit of their own, and stay.
                drop(permit);
                write(&mut writer, &Response::Monitoring).await?;
                return watch(reader, writer, subscription).await;
            }
        },
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            if questions.send((request, answer)).await.is_err() {
                return Ok(());
            }
            tokio::select! {
                response = answered => match response {
                    Ok(response) => response,
                    Err(_) => Response::Error("the agent is ending".to_owned()),
                },
                // An answer may wait for an API server; a client that has given up
                // must not keep its place.
                () = gone(&mut reader, &writer) => return Ok(()),
            }
        }
    };
    write(&mut writer, &response).await
}

async fn write(writer: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_string(response).unwrap_or_else(|_| "null".to_owned());
    text.push('\n');
    tokio::time::timeout(PATIENCE, writer.write_all(text.as_bytes())).await?
}

/// Returns when the client has closed its end; saying no more is not that.
async fn gone(reader: &mut BufReader<Take<OwnedReadHalf>>, writer: &OwnedWriteHalf) {
    if reader.fill_buf().await.is_ok_and(|more| !more.is_empty()) {
        // It goes on talking, which nobody listens to.
        return std::future::pending().await;
    }
    loop {
        let ready = writer.ready(Interest::WRITABLE).await;
        if ready.map_or(true, |ready| ready.is_write_closed()) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes verdicts until the client goes. It may read as slowly as it likes.
async fn watch(
    mut reader: BufReader<Take<OwnedReadHalf>>,
    mut writer: OwnedWriteHalf,
    mut subscription: Subscription,
) -> io::Result<()> {
    let mut said = [0];
    loop {
        let text = tokio::select! {
            // A client has nothing more to say: it has gone.
            _ = reader.read(&mut said) => return Ok(()),
            told = subscription.next() => match told {
                None => return Ok(()),
                Some(Told::Line(line)) => format!("{line}\n"),
                Some(Told::Lost(lines)) => format!("{{\"type\":\"lost\",\"lines\":{lines}}}\n"),
            },
        };
        writer.write_all(text.as_bytes()).await?;
    }
}

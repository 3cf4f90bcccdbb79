//! A request and its answer, again and again, between sockets of two pods: one
//! datagram or one short segment each way, never two under way.
//!
//! Who asks and who answers are threads that stay on one CPU, the same for both.
//! Whatever a packet meets on its way then happens on that CPU too, one thing after
//! the other, and no CPU must be woken; on two CPUs a round trip is mostly the time
//! that the other one takes to wake up, which says nothing of the way: on a machine of
//! two there are a quarter as many, and rounds differ more. What is attached on the way
//! is for who calls.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{Shutdown, shutdown};

use super::packets::pin;
use crate::lab::{Family, Host, Proto, received};

/// How long an answer may take before it counts as lost: a TCP segment that was sent
/// once more comes within it, and is seen as a slow round.
const PATIENCE: Duration = Duration::from_secs(2);
/// Round trips between two looks at the clock.
const STRIDE: u64 = 16;
/// Bytes each way: the number of the request.
const MESSAGE: usize = 8;

/// One end of an exchange.
enum End {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl End {
    fn send(&mut self, message: &[u8; MESSAGE]) -> std::io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Tcp(stream) => stream.write_all(message),
        }
    }

    /// The next message; none when the time is up, or the other end is gone.
    fn receive(&mut self) -> std::io::Result<Option<[u8; MESSAGE]>> {
        let mut message = [0; MESSAGE];
        let length = match self {
            Self::Udp(socket) => received(|| socket.recv(&mut message))?,
            // Eight bytes that were written at once arrive at once.
            Self::Tcp(stream) => received(|| stream.read(&mut message))?,
        };
        Ok((length == Some(MESSAGE)).then_some(message))
    }

    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Udp(socket) => Self::Udp(socket.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// Ends whatever waits on it.
    fn close(&self) {
        let socket = match self {
            Self::Udp(socket) => socket.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        };
        // It fails where the other end has closed the connection already.
        let _ = shutdown(socket, Shutdown::Both);
    }
}

/// A client with a server that answers it, and nobody else.
pub(super) struct PingPong {
    name: String,
    client: End,
    server: End,
    answers: Option<JoinHandle<std::io::Result<()>>>,
    sent: u64,
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Requests, each of them answered.
    pub(super) round_trips: u64,
    pub(super) per_second: f64,
}

impl PingPong {
    /// Opens both ends and, of TCP, the connection between them.
    pub(super) fn open(
        client: &Host,
        server: &Host,
        family: Family,
        proto: Proto,
        port: u16,
    ) -> Result<Self> {
        let here = SocketAddr::new(client.address(family)?, 0);
        let there = SocketAddr::new(server.address(family)?, port);
        let name = format!("{proto} from {} to {there}", client.name());
        let (client, server) = match proto {
            Proto::Udp => udp(client, here, server, there),
            Proto::Tcp => tcp(client, server, there),
            _ => bail!("{proto} has no sockets here"),
        }
        .with_context(|| format!("open {name}"))?;
        let mut end = server.try_clone()?;
        let answers = std::thread::Builder::new()
            .name("bench-answers".into())
            .spawn(move || {
                pin().map_err(std::io::Error::other)?;
                while let Some(message) = end.receive()? {
                    end.send(&message)?;
                }
                Ok(())
            })
            .context("start a server's thread")?;
        Ok(Self {
            name,
            client,
            server,
            answers: Some(answers),
            sent: 0,
        })
    }

    /// Asks and is answered for this long.
    pub(super) fn run(&mut self, time: Duration) -> Result<Run> {
        std::thread::scope(|scope| {
            let asks = std::thread::Builder::new()
                .name("bench-asks".into())
                .spawn_scoped(scope, || self.ask(time))
                .context("start a client's thread")?;
            match asks.join() {
                Ok(run) => run,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
        .with_context(|| self.name.clone())
    }

    fn ask(&mut self, time: Duration) -> Result<Run> {
        pin()?;
        let first = self.sent;
        let start = Instant::now();
        loop {
            for _ in 0..STRIDE {
                let message = self.sent.to_be_bytes();
                self.client.send(&message).context("ask")?;
                self.sent += 1;
                let answer = self.client.receive().context("wait for an answer")?;
                ensure!(
                    answer == Some(message),
                    "request {} was answered by {answer:?}",
                    self.sent
                );
            }
            let elapsed = start.elapsed();
            if elapsed >= time {
                let round_trips = self.sent - first;
                return Ok(Run {
                    round_trips,
                    per_second: round_trips as f64 / elapsed.as_secs_f64(),
                });
            }
        }
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.client.close();
        self.server.close();
        match self.answers.take().map(JoinHandle::join) {
            // The client has said that answers are missing; this is why.
            Some(Ok(Err(error))) => eprintln!("bench: {}, the server: {error}", self.name),
            Some(Err(_)) => eprintln!("bench: {}: the server panicked", self.name),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

fn udp(client: &Host, here: SocketAddr, server: &Host, there: SocketAddr) -> Result<(End, End)> {
    let asking = client.netns().run(|| UdpSocket::bind(here))??;
    let answering = server.netns().run(|| UdpSocket::bind(there))??;
    // Both are told whom they talk to: no lookup of a route for each datagram.
    asking.connect(there)?;
    answering.connect(asking.local_addr()?)?;
    asking.set_read_timeout(Some(PATIENCE))?;
    Ok((End::Udp(asking), End::Udp(answering)))
}

fn tcp(client: &Host, server: &Host, there: SocketAddr) -> Result<(End, End)> {
    let listener = server.netns().run(|| TcpListener::bind(there))??;
    let asking = client
        .netns()
        .run(|| TcpStream::connect_timeout(&there, PATIENCE))??;
    let (answering, _) = listener.accept()?;
    for stream in [&asking, &answering] {
        stream.set_nodelay(true)?;
    }
    asking.set_read_timeout(Some(PATIENCE))?;
    Ok((End::Tcp(asking), End::Tcp(answering)))
}

//! How many connections and datagrams a second get from the client to the server,
//! which 500 policies isolate when somebody enforces them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::{
    Timeout, set_socket_linger, set_socket_recv_buffer_size_force, set_socket_timeout,
};
use serde::Serialize;

use super::stage::Stage;

/// Where the server listens.
const PORT: u16 = 7500;
/// How long each round lasts.
const ROUND: Duration = Duration::from_secs(1);
/// How often an idle receiver looks whether it is to stop.
const IDLE: Duration = Duration::from_millis(20);
/// How long a connection may take: beyond the first repetition of a lost SYN.
const OPEN: Duration = Duration::from_secs(3);
/// Room for datagrams that wait for the server.
const QUEUE_BYTES: usize = 64 << 20;
/// Bytes in a datagram.
const DATAGRAM: usize = 64;

/// A second each, in the order in which they were measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Throughput {
    connections: Vec<u64>,
    /// That the server got.
    datagrams: Vec<u64>,
    datagrams_sent: Vec<u64>,
}

/// Measures so many rounds of both.
///
/// # Errors
/// When a connection fails.
pub(super) fn measure(stage: &Stage, rounds: usize) -> Result<Throughput> {
    let to = SocketAddr::new(IpAddr::V4(Stage::address(&stage.server)?), PORT);
    let (listener, receiver) = stage
        .server
        .netns()
        .run(|| -> std::io::Result<_> { Ok((TcpListener::bind(to)?, UdpSocket::bind(to)?)) })?
        .context("open the server's ports")?;
    set_socket_recv_buffer_size_force(&receiver, QUEUE_BYTES)?;
    receiver.set_read_timeout(Some(IDLE))?;
    set_socket_timeout(&listener, Timeout::Recv, Some(IDLE))?;
    let stop = AtomicBool::new(false);
    let received = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| accept(&listener, &stop));
        scope.spawn(|| {
            let mut buffer = [0; 2 * DATAGRAM];
            while !stop.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let result = rounds_of(stage, to, rounds, &received);
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn rounds_of(
    stage: &Stage,
    to: SocketAddr,
    rounds: usize,
    received: &AtomicU64,
) -> Result<Throughput> {
    let mut result = Throughput::default();
    for _ in 0..rounds {
        result
            .connections
            .push(stage.client.netns().run(|| connect(to))??);
        let before = received.load(Ordering::Relaxed);
        let sent = stage.client.netns().run(|| send(to))??;
        // What waits for the server's thread arrived in time.
        let mut last = before;
        loop {
            std::thread::sleep(2 * IDLE);
            let now = received.load(Ordering::Relaxed);
            if now == last {
                break;
            }
            last = now;
        }
        result.datagrams.push(last - before);
        result.datagrams_sent.push(sent);
    }
    Ok(result)
}

/// Opens one connection after the other for a round.
fn connect(to: SocketAddr) -> Result<u64> {
    let start = Instant::now();
    let mut opened = 0;
    while start.elapsed() < ROUND {
        let stream = TcpStream::connect_timeout(&to, OPEN);
        let stream = stream.with_context(|| format!("connection {opened} to {to}"))?;
        // Closed by a reset: ports would run out otherwise.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        opened += 1;
    }
    Ok(opened)
}

/// Sends datagrams as fast as one thread can for a round.
fn send(to: SocketAddr) -> Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < ROUND {
        sent += u64::from(socket.send(&[0; DATAGRAM]).is_ok());
    }
    Ok(sent)
}

/// Closes whatever connects.
fn accept(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // Nobody came for a while, or somebody who is gone already.
        drop(listener.accept());
    }
}

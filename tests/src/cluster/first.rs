//! Pods that begin one by one, without any flood: from the start of a pod's
//! program to its first allowed datagram in each direction.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::births::{create, gone, life_of};
use super::greeter::Greeter;
use super::leases;
use super::newborn::PORT;
use super::spread::Spread;
use super::stage::{PODS, Stage};

/// Time between two datagrams of the client.
const INTERVAL: Duration = Duration::from_micros(500);

/// What came of all pods together, milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct First {
    pods: usize,
    /// To the first answer to a datagram of the pod.
    start_to_answer_ms: Spread,
    /// To the first datagram of the client, which sends all the time.
    start_to_client_ms: Spread,
    /// Pods to which none came.
    without: usize,
}

/// Lets `count` pods begin, one after the other.
///
/// # Errors
/// When a pod does not start.
pub(super) fn measure(stage: &Stage, count: usize) -> Result<First> {
    let node = stage.node();
    let mut answers = Vec::new();
    let mut datagrams = Vec::new();
    for number in 0..count {
        // One each: it tries pods once, and addresses come again.
        let greeter = Greeter::start(&stage.target, &stage.client)?;
        let next = leases::next(&node.leases, 1)?;
        let expected = *next.first().context("one address")?;
        let name = format!("first-{}-{number}", std::process::id());
        let (life, address) = while_sending(stage, expected, || {
            let birth = create(stage, node, name, Duration::ZERO)?;
            let told = life_of(stage, node, &birth.name)?;
            stage.api.delete(&format!("{PODS}/{}", birth.name))?;
            told.with_context(|| format!("{} did not start", birth.name))
        })?;
        ensure!(
            address == expected,
            "a pod got {address}, and {expected} was expected: other pods come"
        );
        answers.extend(life.first_answer_ns);
        datagrams.extend(life.first_from_client_ns);
        greeter.end();
    }
    gone(stage)?;
    Ok(First {
        pods: count,
        without: 2 * count - answers.len() - datagrams.len(),
        start_to_answer_ms: Spread::of_ns(answers),
        start_to_client_ms: Spread::of_ns(datagrams),
    })
}

/// Does something while the client sends datagrams to an address.
fn while_sending<T>(stage: &Stage, to: Ipv4Addr, deed: impl FnOnce() -> Result<T>) -> Result<T> {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let socket = stage
        .client
        .netns()
        .run(bind)?
        .context("open the client's socket")?;
    let to = SocketAddr::new(IpAddr::V4(to), PORT);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Before the pod is there, the node may refuse it.
                let _ = socket.send_to(b"client", to);
                std::thread::sleep(INTERVAL);
            }
        });
        let done = deed();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

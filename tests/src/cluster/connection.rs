//! A connection that is open when a new policy denies it: whether it is cut with
//! the first datagram that the policy stops.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::effects::{Change, Fates};
use super::spread::{Spread, ms};
use super::stage::{POLICIES, Stage, ingress};
use crate::lab::{Family, ServeSpec, Server, TcpFlow, TcpReport, TcpSpec, UdpSpec, UdpStream};

/// Where the target serves the connection.
const PORT: u16 = 7400;
/// Time between messages, and between datagrams.
const INTERVAL: Duration = Duration::from_micros(500);
/// How long each deny lasts: beyond the first repetitions of what was lost.
const DENIED: Duration = Duration::from_millis(700);
/// How long a connection may take to go on.
const BOUND: Duration = Duration::from_secs(10);

/// What came of all denies together.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cut {
    denies: usize,
    /// Denies that stopped no datagram at all.
    never: usize,
    /// Messages that were sent after the first datagram had been stopped, and
    /// answered all the same before the next change.
    answered_after: usize,
    /// From then to the last message that was answered, milliseconds; 0 if that
    /// was sent before.
    last_answered_ms: Spread,
}

/// Denies an open connection so many times.
///
/// # Errors
/// When it does not open, or does not go on when it is allowed again.
pub(super) fn measure(stage: &Stage, denies: usize) -> Result<Cut> {
    let deny = ingress("connection", "target", &json!([]));
    let path = format!("{POLICIES}/connection");
    let _server = Server::start(&stage.target, &ServeSpec::ports(&[PORT]))?;
    let datagrams = UdpSpec::new(&stage.client, &stage.target, Family::V4, PORT + 1)?;
    let stream = UdpStream::start(&datagrams.interval(INTERVAL))?;
    let spec = TcpSpec::new(&stage.client, &stage.target, Family::V4, PORT)?;
    let flow = TcpFlow::start(&spec.interval(INTERVAL))?;
    let mut changes = Vec::new();
    for _ in 0..denies {
        stream.wait_until_flowing(BOUND)?;
        flow.wait_until_flowing(BOUND)?;
        let times = stage.api.create(POLICIES, &deny)?;
        let allows = false;
        changes.push(Change { times, allows });
        std::thread::sleep(DENIED);
        let times = stage.api.delete(&path)?;
        let allows = true;
        changes.push(Change { times, allows });
    }
    flow.wait_until_flowing(BOUND)?;
    let report = flow.stop()?;
    Ok(cut(&Fates::of(&stream.stop()?)?, &report, &changes))
}

fn cut(fates: &Fates, report: &TcpReport, changes: &[Change]) -> Cut {
    let mut cut = Cut::default();
    let mut last_ms = Vec::new();
    let effects = fates.after(changes);
    let ends = changes.iter().skip(1).map(|next| next.times.asked_ns);
    for (effect, end_ns) in effects.iter().zip(ends.chain([u64::MAX])) {
        if effect.change.allows {
            continue;
        }
        cut.denies += 1;
        let Some(judged_ns) = effect.judged_ns else {
            cut.never += 1;
            continue;
        };
        let messages = report.sent_ns.iter().zip(&report.echoed_ns);
        // Sent later and answered while it was denied. TCP sends what was lost
        // again when it is allowed again, and that is answered after the end.
        let late = messages
            .filter(|(sent, echoed)| **sent > judged_ns && **echoed < end_ns)
            .map(|(sent, _)| sent - judged_ns);
        let late: Vec<u64> = late.collect();
        cut.answered_after += late.len();
        last_ms.push(ms(late.iter().max().copied().unwrap_or(0)));
    }
    cut.last_answered_ms = Spread::of(last_ms);
    cut
}

//! Two open connections while a policy arrives: one is cut, one goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cast::Cast;
use super::screen::{Screen, Tone};
use crate::lab::{Family, TcpFlow, TcpReport, TcpSpec, wait_for};

/// The client that policies still allow, and the one that they do not.
const CLIENTS: [&str; 2] = ["shop/web", "shop/stranger"];
/// The pod to which both are connected, and that the policies isolate.
pub(super) const SERVER: &str = "shop/db";
const PORT: u16 = 5432;
const INTERVAL: Duration = Duration::from_millis(5);
/// Messages that each client sends before the policies, and after.
const MESSAGES: usize = 40;
/// Half a second of messages takes that long on a busy machine at most.
const BOUND: Duration = Duration::from_secs(10);

/// Two connections to the database.
pub(super) struct Flows {
    allowed: TcpFlow,
    denied: TcpFlow,
}

impl Flows {
    /// Opens both and waits until messages come back on both.
    ///
    /// # Errors
    /// When one cannot be opened: nothing denies it yet.
    pub(super) fn open(cast: &Cast) -> Result<Self> {
        let server = &cast.get(SERVER).host;
        let open = |client: &str| -> Result<TcpFlow> {
            let client = &cast.get(client).host;
            let spec = TcpSpec::new(client, server, Family::V4, PORT)?.interval(INTERVAL);
            TcpFlow::start(&spec)
        };
        let flows = Self {
            allowed: open(CLIENTS[0])?,
            denied: open(CLIENTS[1])?,
        };
        for flow in [&flows.allowed, &flows.denied] {
            wait_for("messages that come back", BOUND, || {
                flow.echoed() >= MESSAGES
            })?;
        }
        Ok(flows)
    }

    /// Waits until the denied client has sent enough in vain and the allowed one
    /// has got enough back, then ends both.
    ///
    /// # Errors
    /// When messages of the allowed one do not come back.
    pub(super) fn close(self) -> Result<Reports> {
        let sent = self.denied.sent();
        let echoed = self.allowed.echoed();
        wait_for("messages that still come back", BOUND, || {
            self.allowed.echoed() >= echoed + MESSAGES
        })
        .with_context(|| format!("the connection of {} has to go on", CLIENTS[0]))?;
        wait_for("messages that are sent in vain", BOUND, || {
            self.denied.sent() >= sent + MESSAGES
        })?;
        Ok(Reports {
            allowed: self.allowed.stop()?,
            denied: self.denied.stop()?,
        })
    }
}

/// What became of both.
pub(super) struct Reports {
    allowed: TcpReport,
    denied: TcpReport,
}

impl Reports {
    /// Prints the counts around the moment at which the policies were stored.
    ///
    /// # Errors
    /// When the denied client got something back that it sent after that moment,
    /// or the allowed one lost anything.
    pub(super) fn show(&self, screen: &Screen, stored_ns: u64) -> Result<()> {
        screen.line(&screen.paint(
            Tone::Faint,
            "                             sent before  came     sent after  came",
        ));
        screen.line(&screen.paint(
            Tone::Faint,
            "                             the change   back     the change  back",
        ));
        let rows = [
            (CLIENTS[0], &self.allowed, "goes on", Tone::Good),
            (CLIENTS[1], &self.denied, "cut", Tone::Bad),
        ];
        for (client, report, what, tone) in rows {
            let before = report.sent_ns.iter().filter(|&&at| at <= stored_ns).count();
            let answered_after = report.answered_sent_after(stored_ns);
            let line = format!(
                "{:27}  {before:>11}  {:>4}  {:>13}  {answered_after:>4}   {}",
                format!("{client} -> {SERVER}"),
                report.echoed_ns.len() - answered_after,
                report.sent_ns.len() - before,
                screen.paint(tone, what)
            );
            screen.line(&line);
        }
        let (allowed, denied) = (&self.allowed, &self.denied);
        ensure!(
            denied.answered_sent_after(stored_ns) == 0,
            "{} got messages back that it sent after the change: {}",
            CLIENTS[1],
            denied.summary()
        );
        ensure!(
            denied.sent_ns.last().is_some_and(|&at| at > stored_ns),
            "{} sent nothing after the change, so nothing is shown: {}",
            CLIENTS[1],
            denied.summary()
        );
        let whole = allowed.error.is_none() && allowed.losses() == 0 && allowed.unanswered() == 0;
        ensure!(
            whole && allowed.answered_sent_after(stored_ns) >= MESSAGES,
            "{} lost something: {}",
            CLIENTS[0],
            allowed.summary()
        );
        Ok(())
    }
}

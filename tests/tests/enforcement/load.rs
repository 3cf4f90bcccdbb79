//! Traffic of all kinds from one pod to another, with an account of every packet.

use std::time::Duration;

use anyhow::{Result, ensure};
use policy_tests::lab::{
    ChurnSpec, Family, Host, Server, TcpChurn, TcpFlow, TcpSpec, UdpSpec, UdpStream, wait_for,
};

use crate::expect::{PORT, ensure_undisturbed};
use crate::node::BOUND;

/// Time between datagrams.
const EVERY: Duration = Duration::from_micros(500);

/// Where new connections are made.
pub(crate) const CHURN_PORT: u16 = 81;
/// Traffic of one pair of pods.
pub(crate) struct Load {
    udp: Vec<UdpStream>,
    tcp: Vec<TcpFlow>,
    churn: Vec<TcpChurn>,
}

impl Load {
    /// Starts datagrams to a port and back, and new connections.
    pub(crate) fn start(from: &Host, to: &Host, port: u16) -> Result<Self> {
        let mut load = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            churn: Vec::new(),
        };
        for family in Family::BOTH {
            let datagrams = UdpSpec::new(from, to, family, port)?.interval(EVERY);
            load.udp.push(UdpStream::start(&datagrams.reply())?);
        }
        load.churn = churn(from, to)?;
        Ok(load)
    }

    /// Adds a connection that stays open.
    pub(crate) fn connected(mut self, from: &Host, to: &Host) -> Result<Self> {
        for family in Family::BOTH {
            self.tcp
                .push(TcpFlow::start(&TcpSpec::new(from, to, family, PORT)?)?);
        }
        Ok(self)
    }

    /// Waits until everything has made progress from now on.
    pub(crate) fn wait_until_flowing(&self) -> Result<()> {
        for stream in &self.udp {
            stream.wait_until_flowing(BOUND)?;
        }
        for flow in &self.tcp {
            flow.wait_until_flowing(BOUND)?;
        }
        for churn in &self.churn {
            let before = churn.succeeded();
            wait_for("a new connection", BOUND, || churn.succeeded() > before)?;
        }
        Ok(())
    }

    /// Begins the account of new connections anew; nothing was lost before.
    pub(crate) fn begin_new_connections_anew(&mut self, from: &Host, to: &Host) -> Result<()> {
        let before = std::mem::replace(&mut self.churn, churn(from, to)?);
        ensure_all_opened(before, 0)
    }

    /// Ends all of it, and makes sure that it arrived and was answered; `repeated`:
    /// SYNs that may be sent twice for each family.
    pub(crate) fn ensure_nothing_lost(self, server: &Server, repeated: u64) -> Result<()> {
        for stream in self.udp {
            let report = stream.stop()?;
            ensure!(
                report.lost().is_empty() && report.unanswered().is_empty(),
                "datagrams: {}, lost {:?}",
                report.summary(),
                report.lost()
            );
            println!("{}", report.summary());
        }
        let flows = self.tcp.into_iter().map(TcpFlow::stop);
        let flows = flows.collect::<Result<Vec<_>>>()?;
        ensure_all_opened(self.churn, repeated)?;
        ensure_undisturbed(server, &flows)?;
        for report in flows {
            println!("{}", report.summary());
        }
        Ok(())
    }

    /// Ends all of it, and makes sure that nothing arrived.
    pub(crate) fn ensure_nothing_passed(self) -> Result<()> {
        for stream in self.udp {
            let report = stream.stop()?;
            ensure!(report.arrivals.is_empty(), "denied: {}", report.summary());
            ensure!(report.sent_ns.len() > 1000, "{}", report.summary());
        }
        for churn in self.churn {
            let report = churn.stop()?;
            ensure!(
                report.succeeded == 0 && !report.failed.is_empty(),
                "denied connections: {report:?}"
            );
        }
        Ok(())
    }
}

/// New connections of both families.
fn churn(from: &Host, to: &Host) -> Result<Vec<TcpChurn>> {
    let start = |family| TcpChurn::start(&ChurnSpec::new(from, to, family, CHURN_PORT)?);
    Family::BOTH.into_iter().map(start).collect()
}

/// Ends them; `repeated` as in [`Load::ensure_nothing_lost`].
fn ensure_all_opened(churn: Vec<TcpChurn>, repeated: u64) -> Result<()> {
    for churn in churn {
        let mut report = churn.stop()?;
        println!(
            "{} new connections, slowest {:?}, {} sent again",
            report.succeeded, report.slowest, report.retransmits
        );
        report.retransmits = report.retransmits.saturating_sub(repeated);
        ensure!(report.is_undisturbed(), "new connections: {report:?}");
    }
    Ok(())
}

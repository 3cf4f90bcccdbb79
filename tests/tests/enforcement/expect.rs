//! Short questions: who reaches whom now, and was a connection disturbed.

use std::time::Duration;

use anyhow::{Result, ensure};
use policy_tests::lab::{
    Family, Host, Outcome, Probe, Proto, ServeSpec, Server, TcpReport, matrix, slowed, slowness,
    wait_for,
};

use crate::node::BOUND;

/// The kernel's first retransmission is not before (`TCP_RTO_MIN`).
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(200);

/// The port that [`serve`] opens and [`expect`] asks for.
pub(crate) const PORT: u16 = 80;

/// Serves [`PORT`] on a host.
pub(crate) fn serve(host: &Host) -> Result<Server> {
    Server::start(host, &ServeSpec::ports(&[PORT]))
}

/// Asks with TCP and UDP in both families; `true` has to pass, `false` to vanish.
pub(crate) fn expect(pairs: &[(&Host, &Host, bool)]) -> Result<()> {
    let mut probes = Vec::new();
    for (from, to, _) in pairs {
        for family in Family::BOTH {
            for proto in [Proto::Tcp, Proto::Udp] {
                probes.push(Probe::new(from, to, family, PORT, proto)?);
            }
        }
    }
    let outcomes = matrix(&probes)?;
    for (index, (probe, outcome)) in probes.iter().zip(&outcomes).enumerate() {
        let (_, _, passes) = pairs[index / 4];
        let as_it_should = match passes {
            true => outcome.is_connected(),
            false => *outcome == Outcome::TimedOut,
        };
        ensure!(
            as_it_should,
            "{probe}: {outcome}, and passing is to be {passes}"
        );
    }
    Ok(())
}

/// Makes sure that connections of a server, all of which are closed by now, lost
/// nothing in either direction.
///
/// What the client lost it tells; what the server lost is a retransmission of
/// its, and a delay of as much. A busy machine may cause either without a loss, and
/// a slow one both, over and over: there such a delay tells nothing, and an end has to
/// be there before the bound.
pub(crate) fn ensure_undisturbed(server: &Server, reports: &[TcpReport]) -> Result<()> {
    wait_for("all connections to be closed", BOUND, || {
        server.connections() == 0
    })?;
    let delay = match server.retransmits() {
        retransmits if retransmits > 0 && slowness() == 1 => FIRST_RETRANSMISSION,
        _ => slowed(BOUND),
    };
    for report in reports {
        ensure!(
            report.is_undisturbed(delay),
            "an allowed connection: {}; retransmissions of the server: {}",
            report.summary(),
            server.retransmits()
        );
    }
    Ok(())
}

//! Short questions: who reaches whom now.

use anyhow::{Result, ensure};
use policy_tests::lab::{Family, Host, Outcome, Probe, Proto, ServeSpec, Server, matrix};

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

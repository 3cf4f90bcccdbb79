//! What the kernel's connection table says of a namespace: whom a translated
//! connection got, also where nobody answered.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

use super::host::Host;

/// The table of the calling thread's namespace (`/proc/net` would be that of the
/// process).
const TABLE: &str = "/proc/thread-self/net/nf_conntrack";

/// A connection in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tracked {
    /// IANA number.
    pub protocol: u8,
    /// Who opened it.
    pub from: SocketAddr,
    /// Whom it asked for.
    pub to: SocketAddr,
    /// Who is to answer: `to`, unless somebody translates.
    pub backend: SocketAddr,
    /// Whether anything came back.
    pub answered: bool,
}

/// The connections of TCP and UDP in the table of a host's namespace.
///
/// # Errors
/// When the namespace cannot be entered, or the kernel shows no table.
pub fn tracked(host: &Host) -> Result<Vec<Tracked>> {
    let table = host.netns().run(|| std::fs::read_to_string(TABLE))?;
    let table = table.with_context(|| format!("read {TABLE} in {}", host.name()))?;
    Ok(table.lines().filter_map(parse).collect())
}

/// A line: names and numbers, then `key=value` as the opener sent it, then the
/// same keys as the answer would be, words in brackets between.
fn parse(line: &str) -> Option<Tracked> {
    let protocol = line.split_whitespace().nth(3)?.parse().ok()?;
    let both = |key: &str| {
        let mut values = line
            .split_whitespace()
            .filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='));
        Some((values.next()?, values.next()?))
    };
    let end = |address: &str, port: &str| -> Option<SocketAddr> {
        let address: IpAddr = address.parse().ok()?;
        Some(SocketAddr::new(address, port.parse().ok()?))
    };
    let ((from, backend), (to, _)) = (both("src")?, both("dst")?);
    let ((from_port, backend_port), (to_port, _)) = (both("sport")?, both("dport")?);
    Some(Tracked {
        protocol,
        from: end(from, from_port)?,
        to: end(to, to_port)?,
        backend: end(backend, backend_port)?,
        answered: !line.contains("[UNREPLIED]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_whom_a_translated_connection_got_and_whether_it_answered() {
        let answered = "ipv4     2 tcp      6 9 CLOSE src=10.244.1.5 dst=10.96.0.10 \
                        sport=4000 dport=443 src=10.244.2.7 dst=10.244.1.5 sport=9090 \
                        dport=4000 [ASSURED] mark=0 zone=0 use=2";
        let silent = "ipv4     2 udp      17 29 src=10.244.1.5 dst=10.96.0.10 sport=4000 \
                      dport=443 [UNREPLIED] src=10.244.2.7 dst=10.244.1.5 sport=9090 \
                      dport=4000 mark=0 zone=0 use=2";
        for (line, protocol, answers) in [(answered, 6, true), (silent, 17, false)] {
            let tracked = parse(line).unwrap();
            assert_eq!(
                tracked,
                Tracked {
                    protocol,
                    from: "10.244.1.5:4000".parse().unwrap(),
                    to: "10.96.0.10:443".parse().unwrap(),
                    backend: "10.244.2.7:9090".parse().unwrap(),
                    answered: answers,
                }
            );
        }
    }

    #[test]
    fn what_has_no_ports_is_left_out() {
        let icmp = "ipv4     2 icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 \
                    src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1 mark=0 zone=0 use=2";
        assert_eq!(parse(icmp), None);
        assert_eq!(parse(""), None);
    }
}

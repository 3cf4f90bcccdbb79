//! What the kernel has counted for the calling thread's network namespace:
//! `/proc/net/snmp` and `/proc/net/snmp6` (man 5 proc_net).

use anyhow::{Context, Result};

/// The counters, as they were when they were read.
pub struct Snmp {
    v4: String,
    v6: String,
}

impl Snmp {
    /// Reads the counters of both families.
    ///
    /// # Errors
    /// When there is no procfs.
    pub fn read() -> Result<Self> {
        // Of the thread: those of the process may be of another namespace.
        let text = |file: &str| {
            let path = format!("/proc/thread-self/net/{file}");
            std::fs::read_to_string(&path).context(path)
        };
        Ok(Self {
            v4: text("snmp")?,
            v6: text("snmp6")?,
        })
    }

    /// A counter of `snmp`: a line of names, then one of values, both after the
    /// protocol.
    ///
    /// # Errors
    /// When this kernel has none of that name.
    pub fn v4(&self, protocol: &str, name: &str) -> Result<u64> {
        let of_protocol = |line: &&str| line.split(':').next() == Some(protocol);
        let mut lines = self.v4.lines().filter(of_protocol);
        let found = (|| {
            let (names, values) = (lines.next()?, lines.next()?);
            let at = names.split_whitespace().position(|own| own == name)?;
            values.split_whitespace().nth(at)?.parse().ok()
        })();
        found.with_context(|| format!("the kernel counts no {protocol} {name}"))
    }

    /// A counter of `snmp6`: a line for each, name and value.
    ///
    /// # Errors
    /// When this kernel has none of that name.
    pub fn v6(&self, name: &str) -> Result<u64> {
        let mut words = self.v6.lines().map(str::split_whitespace);
        let found = words.find_map(|mut line| (line.next() == Some(name)).then(|| line.next()));
        let value = found.flatten().and_then(|value| value.parse().ok());
        value.with_context(|| format!("the kernel counts no {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_under_its_name() {
        let snmp = Snmp {
            v4: "Ip: Forwarding InReceives\nIp: 1 9\nTcp: A InSegs\nTcp: 1 17\n\
                 Udp: InDatagrams NoPorts\nUdp: 3 4\nUdpLite: InDatagrams\nUdpLite: 0\n"
                .to_owned(),
            v6: "Udp6InDatagrams   \t5\nUdp6NoPorts   \t6\n".to_owned(),
        };
        assert_eq!(snmp.v4("Tcp", "InSegs").unwrap(), 17);
        assert_eq!(snmp.v4("Udp", "NoPorts").unwrap(), 4);
        assert!(snmp.v4("Udp", "InErrors").is_err());
        assert!(snmp.v4("Dccp", "InSegs").is_err());
        assert_eq!(snmp.v6("Udp6NoPorts").unwrap(), 6);
        assert!(snmp.v6("Udp6").is_err());
    }

    #[test]
    fn the_kernel_has_both_files() {
        assert!(Snmp::read().unwrap().v4("Udp", "NoPorts").is_ok());
    }
}

//! How fast the machine is: the one place where tests learn to ask less of a slow
//! one.
//!
//! An emulated machine takes many times as long for a packet, so at the pace that a
//! real one keeps it would do nothing but send. Streams, flows and churns send
//! more slowly there by themselves, and bounds are longer; a test that does
//! something very often asks how often is enough. What must hold is the same on every machine.

use std::sync::OnceLock;
use std::time::Duration;

/// How many times slower the machine is than a real one; unset is once.
/// `tests/vm/init.sh` sets it.
const VARIABLE: &str = "POLICY_LAB_SLOWNESS";

/// How many times slower this machine is, from 1 on.
///
/// # Panics
/// When the environment says no such number.
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(text) => read(&text).unwrap_or_else(|| panic!("{VARIABLE}={text}: no number from 1 on")),
        Err(_) => 1,
    })
}

fn read(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number > 0)
}

/// How often is enough on this machine for what is done so many times on a real
/// one: twice at least.
pub fn fewer(times: usize) -> usize {
    let slowness = usize::try_from(slowness()).unwrap_or(usize::MAX);
    (times / slowness).max(2)
}

/// What is so long on a real machine, on this one: a time between packets, a bound.
pub fn slowed(real: Duration) -> Duration {
    real.saturating_mul(slowness())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowness_is_a_number_from_one_on() {
        assert_eq!(read("1"), Some(1));
        assert_eq!(read("10"), Some(10));
        for wrong in ["0", "", "-1", "1.5", "slow"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}

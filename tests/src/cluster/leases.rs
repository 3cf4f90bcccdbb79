//! Which addresses the pods that come next will have, told from the records of
//! the host-local plugin: so that a flood is there before they are.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The file in which the plugin keeps what it gave last, of its first range.
const LAST: &str = "last_reserved_ip.0";

/// The next `count` addresses that the plugin will give, in order; `folder` is
/// where it keeps its records.
///
/// # Errors
/// When the records cannot be read, or so many are not free.
pub(super) fn next(folder: &Path, count: usize) -> Result<Vec<Ipv4Addr>> {
    let file = folder.join(LAST);
    let last = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let last = last.trim().parse().context("the last address given")?;
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let taken = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse().ok()
    });
    let free = after(last, &taken.collect(), count);
    ensure!(
        free.len() == count,
        "{} has only {} free addresses, and {count} pods are to come",
        folder.display(),
        free.len()
    );
    Ok(free)
}

/// What follows `last` in its range of 256 addresses and is not taken; the first
/// two and the last of a range are no pod's.
fn after(last: Ipv4Addr, taken: &BTreeSet<Ipv4Addr>, count: usize) -> Vec<Ipv4Addr> {
    let [a, b, c, from] = last.octets();
    (1..=u8::MAX)
        .map(|step| from.wrapping_add(step))
        .filter(|host| (2..u8::MAX).contains(host))
        .map(|host| Ipv4Addr::new(a, b, c, host))
        .filter(|address| !taken.contains(address))
        .take(count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_last_one_leave_out_taken_ones_and_begin_anew() {
        let address = |host| Ipv4Addr::new(10, 244, 1, host);
        let taken = BTreeSet::from([address(253), address(3)]);
        let next = after(address(252), &taken, 3);
        assert_eq!(next, [address(254), address(2), address(4)]);
    }
}

//! What was measured, as a table for a person.

use super::kernel::Size;
use super::packets::Row;

/// Above the rows.
pub(super) fn header() -> String {
    format!(
        "{:<5}{:<8}{:<32}{:>6} {:<9}{:>7}{:>7} |{:>8}{:>6}{:>8}{:>8}{:>7}{:>7} |{:>7}",
        "",
        "",
        "ns net of the harness, medians",
        "peers",
        "",
        "flows",
        "conns",
        "ours",
        "+-",
        "/empty",
        "/LRU",
        "LRU",
        "cached",
        "target"
    )
}

/// A row.
pub(super) fn line(row: &Row) -> String {
    let verdict = match (row.target_ns, row.reached) {
        (Some(target), Some(true)) => format!("{target:>7.0} reached"),
        (Some(target), _) => format!("{target:>7.0} missed"),
        (None, _) => format!("{:>7}", "-"),
    };
    let lpm = row
        .lpm_ns
        .map_or_else(String::new, |ns| format!(" (prefix lookup {ns:.0})"));
    let policies = match row.policies {
        1 => String::new(),
        count => format!(" ({count} policies)"),
    };
    format!(
        "{:<5}{:<8}{:<32}{:>6} {:<9}{:>7}{:>7} |{:>8.1}{:>6.1}{:>8.2}{:>8.2}{:>7.1}{:>6.0}% |{verdict}{lpm}{policies}",
        row.family,
        row.direction,
        row.what,
        row.peers,
        row.peers_are,
        row.flows,
        row.connections,
        row.ns,
        row.spread_ns,
        row.to_empty,
        row.to_lru,
        row.lru_ns,
        row.cached * 100.0,
    )
}

/// A program.
pub(super) fn size(size: &Size) -> String {
    format!(
        "{:<10} {:>8} instructions verified, {:>6} held, {:>6} bytes of machine code, {:>6.0} ms to load",
        size.program, size.verified, size.instructions, size.jited, size.load_ms
    )
}

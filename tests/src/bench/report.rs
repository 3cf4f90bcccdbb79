//! What was measured, as a table for a person.

use super::control::{Cold, Warm};
use super::flood::Flood;
use super::kernel::Size;
use super::packets::Row;
use super::round_trips::RoundTrips;

/// Above the rows.
pub(super) fn header() -> String {
    format!(
        "{:<5}{:<8}{:<32}{:>6} {:<9}{:>7}{:>7} |{:>8}{:>6}{:>7}{:>8}{:>7}{:>7}{:>7} |{:>7}",
        "",
        "",
        "ns net of the harness, medians",
        "peers",
        "",
        "flows",
        "conns",
        "ours",
        "+-",
        "least",
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
        "{:<5}{:<8}{:<32}{:>6} {:<9}{:>7}{:>7} |{:>8.1}{:>6.1}{:>7.1}{:>8.2}{:>7.2}{:>7.1}{:>6.0}% |{verdict}{lpm}{policies}",
        row.family,
        row.direction,
        row.what,
        row.peers,
        row.peers_are,
        row.flows,
        row.connections,
        row.ns,
        row.spread_ns,
        row.least_ns,
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

/// A flood.
pub(super) fn flood(flood: &Flood) -> String {
    format!(
        "{:<5}flood from a denied prefix, ns a packet: {:.0} dropped by the prefilter, \
         {:.0} by the stack ({:.0} %)",
        flood.family,
        flood.prefilter_ns,
        flood.stack_ns,
        flood.share * 100.0
    )
}

/// Above [`round_trips`].
pub(super) fn round_trips_header() -> String {
    format!(
        "{:<5}{:<28}{:>8}{:>8}{:>8} |{:>11}{:>10}{:>11}{:>7}{:>7} | target",
        "",
        "round trips a second",
        "none",
        "empty",
        "ours",
        "empty/none",
        "ours/none",
        "ours/empty",
        "+-",
        "cached"
    )
}

/// Round trips of a flow.
pub(super) fn round_trips(row: &RoundTrips) -> String {
    format!(
        "{:<5}{:<28}{:>8.0}{:>8.0}{:>8.0} |{:>11.3}{:>10.3}{:>11.3}{:>7.3}{:>6.0}% | {:.2} {}",
        row.family,
        row.protocol,
        row.none_per_second,
        row.empty_per_second,
        row.ours_per_second,
        row.empty_to_none,
        row.ours_to_none,
        row.ours_to_empty,
        row.spread,
        row.cached * 100.0,
        row.target,
        if row.reached { "reached" } else { "missed" },
    )
}

/// A step from nothing.
pub(super) fn cold(cold: &Cold) -> String {
    format!(
        "{:<8}{:<32}{:>10.2} ms (least {:>8.2})  {}",
        cold.size, cold.step, cold.median_ms, cold.least_ms, cold.result
    )
}

/// Above [`warm`].
pub(super) fn warm_header() -> String {
    format!(
        "{:<8}{:<12}{:>7} |{:>9}{:>9} |{:>9}{:>9} |{:>9}{:>9}{:>10} |{:>8} | target p99",
        "us", "event", "count", "engine50", "99", "plan50", "99", "both50", "99", "max", "writes"
    )
}

/// Events of a class.
pub(super) fn warm(warm: &Warm) -> String {
    let verdict = match (warm.target_p99_us, warm.reached) {
        (Some(target), Some(true)) => format!("{target:>6.0} reached"),
        (Some(target), _) => format!("{target:>6.0} missed"),
        (None, _) => String::new(),
    };
    format!(
        "{:<8}{:<12}{:>7} |{:>9.1}{:>9.1} |{:>9.1}{:>9.1} |{:>9.1}{:>9.1}{:>10.1} |{:>8.1} | {verdict}",
        warm.size,
        warm.class,
        warm.events,
        warm.engine.p50,
        warm.engine.p99,
        warm.plan.p50,
        warm.plan.p99,
        warm.both.p50,
        warm.both.p99,
        warm.both.max,
        warm.writes,
    )
}

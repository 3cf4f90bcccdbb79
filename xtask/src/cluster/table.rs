//! What `bench --cluster` found, beside the targets of the design and beside what
//! other enforcers reached in the same setting. Pure.

use serde_json::{Value, json};

use super::{
    bench::{NETLINK, NOBODY, PLUGIN},
    found::{Found, ratio},
};

/// A target, and whether it is reached.
struct Row<'a> {
    what: &'a str,
    others: &'a str,
    target: &'a str,
    /// In words; none if it was not measured.
    measured: Option<String>,
    reached: bool,
}

impl Row<'_> {
    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "others": self.others,
            "target": self.target,
            "measured": self.measured,
            "reached": self.measured.as_ref().map(|_| self.reached),
        })
    }
}

/// The second table of the design's targets. What was not measured says so.
pub(super) fn rows(results: &Value) -> Vec<Value> {
    let plugin = Found(&results[PLUGIN]);
    let netlink = Found(&results[NETLINK]);
    let mut rows = Vec::new();
    let mut add = |what, others, target, measured: Option<(String, bool)>| {
        let (measured, reached) = measured.unzip();
        let row = Row {
            what,
            others,
            target,
            measured,
            reached: reached.unwrap_or(false),
        };
        rows.push(row.to_json());
    };
    add(
        "API server's answer -> policy in effect, p50 / p99",
        "13.4 / 19 ms; 8.3 / 14; 2.1 / 6.7; nfqueue 0.4 / 953, flapping",
        "<= 1.5 / 5 ms, no flap",
        plugin.latency("policy", |of| of.p50 <= 1.5 && of.p99 <= 5.0),
    );
    add(
        "the same for a peer's label, p99",
        "13 to 21 ms; 20 to 36; 34 to 42, flapping; nfqueue 3",
        "<= 3 ms, no flap",
        plugin.latency("label", |of| of.p99 <= 3.0),
    );
    add(
        "the same while 50 labels a second change, max",
        "130 ms; 226; 112; nfqueue 768, flapping",
        "<= 10 ms, no flap",
        plugin.in_churn(|of| of.max <= 10.0),
    );
    add(
        "an open connection after a new deny",
        "never cut (watched 2 s)",
        "cut with the first denied probe",
        plugin.cut(),
    );
    for (what, others, key) in [
        (
            "new TCP connections per second, 500 policies on the server",
            "0.13; 0.36; 0.77; nfqueue 0.06",
            "connections",
        ),
        (
            "UDP packets per second, one way, 500 policies",
            "0.02; 0.06; 1.0; nfqueue 0.01",
            "datagrams",
        ),
    ] {
        add(what, others, ">= 0.95 of nobody", ratio(results, key));
    }
    for (what, found) in [
        (
            "pods born under a flood, with the plugin: denied packets delivered",
            plugin,
        ),
        (
            "pods born under a flood, without it: denied packets delivered",
            netlink,
        ),
    ] {
        add(
            what,
            "0; 0; one UDP flow from before the birth passed for ever in 58 of 60; nfqueue 125,000 of each kind",
            "0, that flow included",
            found.births(),
        );
    }
    add(
        "the same pods, with the plugin: first tries that succeed",
        "",
        "all, of 4 each",
        plugin.first_tries(),
    );
    for (what, found, target, limit_ms) in [
        (
            "first allowed datagram after start, with the plugin, p50",
            plugin,
            "<= 1 ms",
            1.0,
        ),
        (
            "first allowed datagram after start, without it, p50",
            netlink,
            "<= 10 ms",
            10.0,
        ),
    ] {
        add(
            what,
            "568 ms; 580 (0.9 when told by its own CNI plugin); nfqueue 0.8; nobody 0.7",
            target,
            found.first(limit_ms, &Found(&results[NOBODY[0]])),
        );
    }
    add(
        "kill -9: allowed packets lost of 12,000",
        "5; 15; 3; nfqueue 774",
        "0",
        plugin.lost(),
    );
    add(
        "kill -9: new policy in force after the restart",
        "0.4 s; 0.6; 5.7; nfqueue 0.5",
        "0.2 s",
        plugin.in_force_again(),
    );
    add(
        "memory of the agent; CPU in 30 s at 50 label changes a second",
        "97 MiB, 2.2 s; 102, 4.0; 126, 8.8; nfqueue 38, 0.7",
        "<= 20 MiB, <= 0.3 s",
        plugin.cost(),
    );
    rows
}

/// What makes the measurement itself fail: a pod's namespace gets what is denied, from
/// its first instant, or with the plugin the pod loses what is allowed; or a flood that
/// proves nothing.
pub(super) fn objections(results: &Value) -> Vec<String> {
    let mut objections = Vec::new();
    for (phase, of_plugin) in [(PLUGIN, true), (NETLINK, false)] {
        let births = &results[phase]["births"];
        if births.is_null() {
            continue;
        }
        let found = Found(&results[phase]);
        match found.births() {
            Some((_, true)) => {}
            Some((words, false)) => objections.push(format!("{phase}: {words}: {births}")),
            None => objections.push(format!("{phase}: no account of the births: {births}")),
        }
        // A runtime that is overwhelmed fails now and then; of many nothing is known.
        let not_started = found.number("/births/not_started").unwrap_or(0.0);
        if not_started > 0.05 * found.number("/births/pods").unwrap_or(0.0) {
            objections.push(format!("{phase}: {not_started} pods could not be started"));
        }
        let sent = found.number("/births/least_sent");
        if sent.is_none_or(|sent| sent < 10.0) {
            objections.push(format!(
                "{phase}: the flood was not aimed at every pod: {births}"
            ));
        }
        if of_plugin && found.first_tries().is_none_or(|(_, all)| !all) {
            objections.push(format!("{phase}: a first try failed: {births}"));
        }
        let unprotected = Found(&results[NOBODY[0]]);
        let (pods, reached) = (
            unprotected.number("/births/pods"),
            unprotected.number("/births/reached"),
        );
        if pods.is_none() || pods != reached {
            objections.push(
                "the flood does not reach every pod while nobody enforces, so that it proves nothing"
                    .to_owned(),
            );
        }
    }
    objections
}

/// Prints the table, and the histograms below it.
pub(super) fn print(rows: &[Value], results: &Value) {
    println!(
        "\n    (others: Calico's Felix by iptables; nftables; eBPF, measured in such a cluster)"
    );
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let (measured, verdict) = match row["reached"].as_bool() {
            Some(true) => (text("measured"), "reached"),
            Some(false) => (text("measured"), "MISSED"),
            None => ("not measured", ""),
        };
        println!("\n{}", text("what"));
        println!("    others   {}", text("others"));
        println!("    target   {}", text("target"));
        println!("    measured {measured}   {verdict}");
    }
    println!("\nfrom the start of a pod's program, ms");
    for phase in [NOBODY[0], PLUGIN, NETLINK] {
        for (what, path) in [
            (
                "one by one, to its first answer",
                "/first/start_to_answer_ms",
            ),
            (
                "one by one, to the client's first datagram",
                "/first/start_to_client_ms",
            ),
            (
                "under the flood, to its first answer",
                "/births/start_to_answer_ms",
            ),
            (
                "under the flood, to its first connection",
                "/births/start_to_connection_ms",
            ),
        ] {
            if let Some(line) = histogram(results[phase].pointer(path)) {
                println!("    {phase:<10} {what:<44} {line}");
            }
        }
    }
    println!("\nthe agent's own share: from the news of a change to the last map write");
    for measure in ["policy", "label", "churn"] {
        for kind in ["programming", "propagation"] {
            let bins = &results[PLUGIN][measure][kind];
            if bins.as_array().is_some_and(|bins| !bins.is_empty()) {
                println!("    {measure:<8} {kind:<12} {}", in_words(bins, 1e3));
            }
        }
    }
}

/// Percentiles and bins in a line.
fn histogram(spread: Option<&Value>) -> Option<String> {
    let spread = spread?;
    let at = |key: &str| spread[key].as_f64();
    Some(format!(
        "n {}  p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2}  | {}",
        spread["count"],
        at("p50")?,
        at("p90")?,
        at("p99")?,
        at("max")?,
        in_words(&spread["bins"], 1.0)
    ))
}

/// Pairs of an upper end and a count; ends times `scale` are milliseconds.
fn in_words(bins: &Value, scale: f64) -> String {
    let bins = bins.as_array().into_iter().flatten();
    let words = bins.map(|bin| match bin[0].as_f64() {
        Some(end) => format!("<={} ms: {}", end * scale, bin[1]),
        None => format!("more: {}", bin[1]),
    });
    words.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn births(reached: u64) -> Value {
        json!({
            "pods": 20, "reached": reached, "least_sent": 99,
            "sent": {"segments": 5, "datagrams": 5},
            "delivered_before": {"segments": 0, "datagrams": 0},
            "delivered": {"segments": 0, "datagrams": reached},
            "first": {"pod_datagram": 20, "pod_connection": 20,
                      "client_datagram": 20, "client_connection": 20},
        })
    }

    fn results() -> Value {
        json!({
            "nobody-1": {"births": births(20)},
            "plugin": {"births": births(0)},
            "no-plugin": {"births": births(0)},
        })
    }

    #[test]
    fn nothing_delivered_and_nothing_lost_has_no_objection() {
        assert_eq!(objections(&results()), Vec::<String>::new());
    }

    #[test]
    fn one_denied_packet_is_an_objection_from_the_very_first() {
        for phase in [PLUGIN, NETLINK] {
            for kind in ["delivered", "delivered_before"] {
                for packet in ["segments", "datagrams"] {
                    let mut bad = results();
                    bad[phase]["births"][kind][packet] = json!(1);
                    assert_eq!(objections(&bad).len(), 1, "{phase} {kind} {packet}");
                }
            }
        }
    }

    #[test]
    fn a_first_try_that_fails_is_an_objection_with_the_plugin_only() {
        let mut bad = results();
        bad[NETLINK]["births"]["first"]["client_connection"] = json!(19);
        assert!(objections(&bad).is_empty());
        bad[PLUGIN]["births"]["first"]["client_connection"] = json!(19);
        assert_eq!(objections(&bad).len(), 1);
    }

    #[test]
    fn a_flood_that_misses_proves_nothing() {
        let mut bad = results();
        bad["nobody-1"]["births"]["reached"] = json!(19);
        assert_eq!(objections(&bad).len(), 2, "for each overlay");
        let mut bad = results();
        bad[PLUGIN]["births"]["least_sent"] = json!(3);
        assert_eq!(objections(&bad).len(), 1);
        let mut bad = results();
        bad[NETLINK]["births"]["not_started"] = json!(2);
        assert_eq!(objections(&bad).len(), 1);
        let mut bad = results();
        bad[PLUGIN]["births"] = json!({"pods": 20});
        assert!(!objections(&bad).is_empty());
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_missed() {
        for row in rows(&json!({})) {
            assert!(
                row["measured"].is_null() && row["reached"].is_null(),
                "{row}"
            );
        }
    }
}

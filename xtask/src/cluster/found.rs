//! What `cluster-bench` found in words, and whether it reaches a target: each
//! question answers nothing where nothing was measured. Pure.

use serde_json::Value;

use super::bench::{NOBODY, PLUGIN};

/// What was found in a phase.
#[derive(Clone, Copy)]
pub(super) struct Found<'a>(pub(super) &'a Value);

/// Milliseconds.
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Found<'_> {
    pub(super) fn number(self, path: &str) -> Option<f64> {
        self.0.pointer(path)?.as_f64()
    }

    pub(super) fn percentiles(self, path: &str) -> Option<Percentiles> {
        let at = |key: &str| self.number(&format!("{path}/{key}"));
        Some(Percentiles {
            p50: at("p50")?,
            p99: at("p99")?,
            max: at("max")?,
        })
    }

    pub(super) fn latency(
        self,
        measure: &str,
        reached: impl FnOnce(&Percentiles) -> bool,
    ) -> Option<(String, bool)> {
        let times = self.percentiles(&format!("/{measure}/answer_to_effect_ms"))?;
        let count = |key: &str| self.number(&format!("/{measure}/{key}"));
        let (flapping, never) = (count("flapping")?, count("never")?);
        let words = format!(
            "{:.2} / {:.2} ms, max {:.2}; of {} changes {flapping} flapped, {never} never came",
            times.p50,
            times.p99,
            times.max,
            count("changes")?,
        );
        Some((words, reached(&times) && flapping == 0.0 && never == 0.0))
    }

    /// As [`Self::latency`], while so many labels a second change as the target says.
    pub(super) fn in_churn(
        self,
        reached: impl FnOnce(&Percentiles) -> bool,
    ) -> Option<(String, bool)> {
        let (words, reached) = self.latency("churn", reached)?;
        let (rate, enough) = self.rate("/churn/churned_per_second")?;
        Some((format!("{words}; {rate}"), reached && enough))
    }

    /// How many labels a second changed, and whether that was about 50.
    fn rate(self, path: &str) -> Option<(String, bool)> {
        let rate = self.number(path)?;
        Some((format!("{rate:.0} labels a second"), rate >= 45.0))
    }

    pub(super) fn cut(self) -> Option<(String, bool)> {
        let count = |key: &str| self.number(&format!("/connection/{key}"));
        let (denies, never, after) = (count("denies")?, count("never")?, count("answered_after")?);
        let words = format!(
            "of {denies} denies {never} stopped nothing; {after} messages sent after the first \
             denied probe were answered"
        );
        Some((words, denies > 0.0 && never == 0.0 && after == 0.0))
    }

    pub(super) fn births(self) -> Option<(String, bool)> {
        let count = |path: &str| self.number(&format!("/births/{path}"));
        let before = count("delivered_before/segments")? + count("delivered_before/datagrams")?;
        let (segments, datagrams) = (count("delivered/segments")?, count("delivered/datagrams")?);
        let words = format!(
            "{segments} segments and {datagrams} datagrams, {before} before the pod's program ran, \
             in {} of {} pods; of {} and {} sent",
            count("reached")?,
            count("pods")?,
            count("sent/segments")?,
            count("sent/datagrams")?,
        );
        Some((words, before + segments + datagrams == 0.0))
    }

    pub(super) fn first_tries(self) -> Option<(String, bool)> {
        let count = |path: &str| self.number(&format!("/births/{path}"));
        let pods = count("pods")?;
        let tries = [
            ("datagrams of the pod", count("first/pod_datagram")?),
            ("connections of it", count("first/pod_connection")?),
            ("datagrams to it", count("first/client_datagram")?),
            ("connections to it", count("first/client_connection")?),
        ];
        let words = tries
            .map(|(what, done)| format!("{done} {what}"))
            .join(", ");
        let all = tries.iter().all(|(_, done)| *done == pods);
        Some((format!("of {pods}: {words}"), all))
    }

    pub(super) fn first(self, limit_ms: f64, nobody: &Self) -> Option<(String, bool)> {
        let [answer, client] = [
            "/first/start_to_answer_ms/p50",
            "/first/start_to_client_ms/p50",
        ]
        .map(|path| self.number(path));
        let (answer, client) = (answer?, client?);
        let without = self.number("/first/without")?;
        let reference = nobody.number("/first/start_to_answer_ms/p50");
        let words = format!(
            "{answer:.2} ms out and back, {client:.2} ms in; {without} never; nobody: {:.2} ms",
            reference.unwrap_or(f64::NAN)
        );
        Some((words, answer.max(client) <= limit_ms && without == 0.0))
    }

    pub(super) fn lost(self) -> Option<(String, bool)> {
        let (lost, sent) = (self.number("/kill/lost")?, self.number("/kill/sent")?);
        Some((format!("{lost} of {sent}"), lost == 0.0 && sent >= 12_000.0))
    }

    pub(super) fn in_force_again(self) -> Option<(String, bool)> {
        let start_ms = self.number("/kill/kill_to_start_ms")?;
        let Some(effect_ms) = self.number("/kill/start_to_effect_ms") else {
            return Some(("never".to_owned(), false));
        };
        let words = format!(
            "{effect_ms:.0} ms after its start, which came {start_ms:.0} ms after the kill"
        );
        Some((words, effect_ms <= 200.0))
    }

    pub(super) fn cost(self) -> Option<(String, bool)> {
        let (rate, mut reached) = self.rate("/load/changed_per_second")?;
        let mut words = Vec::new();
        for agent in self.0.pointer("/load/agents")?.as_array()? {
            let at = |key: &str| agent[key].as_f64();
            let (memory, cpu) = (at("resident_mib")?, at("cpu_seconds")?);
            reached &= memory <= 20.0 && cpu <= 0.3;
            words.push(format!(
                "{memory:.1} MiB ({:.1} its own), {cpu:.2} s",
                at("anonymous_mib")?
            ));
        }
        reached &= !words.is_empty();
        Some((format!("{}; {rate}", words.join("; ")), reached))
    }
}

/// The median with an enforcer over the mean of the medians before and after it.
pub(super) fn ratio(results: &Value, key: &str) -> Option<(String, bool)> {
    let median = |phase: &str| -> Option<f64> {
        let rounds = results[phase]["throughput"][key].as_array()?;
        let mut rounds: Vec<f64> = rounds.iter().filter_map(Value::as_f64).collect();
        rounds.sort_by(f64::total_cmp);
        rounds.get(rounds.len() / 2).copied()
    };
    let (before, with, after) = (median(NOBODY[0])?, median(PLUGIN)?, median(NOBODY[1])?);
    let ratio = with / f64::midpoint(before, after);
    let words = format!("{ratio:.3}: {with:.0}, and {before:.0} before and {after:.0} after");
    Some((words, ratio >= 0.95))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn throughput_is_compared_with_nobody_before_and_after() {
        let rounds = |rounds: [u64; 3]| json!({"throughput": {"connections": rounds}});
        let mut results = json!({
            "nobody-1": rounds([90, 100, 110]),
            "plugin": rounds([1, 95, 96]),
            "nobody-2": rounds([100, 100, 100]),
        });
        assert!(ratio(&results, "connections").unwrap().1);
        results["nobody-1"] = rounds([110, 110, 110]);
        assert!(!ratio(&results, "connections").unwrap().1);
    }
}

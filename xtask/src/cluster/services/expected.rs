//! What is expected of connections through Services, as a table, and whether a
//! count of them is that. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// What becomes of connections that nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// There are none.
    Nothing,
    Vanish,
    Refused,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Who opens connections.
    pub(super) from: String,
    /// To what, as the table calls it.
    pub(super) to: String,
    /// Whose answers come back.
    pub(super) answer: BTreeSet<String>,
    pub(super) rest: Rest,
}

/// What a count says against a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Something came through that must not.
    Passed(String),
    /// A connection that was translated to a backend which must answer, and which
    /// did not.
    Lost(String),
    /// Something that has to happen was not seen to: perhaps nobody translates yet.
    Missing(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed(what) => write!(f, "passed: {what}"),
            Self::Lost(what) => write!(f, "lost: {what}"),
            Self::Missing(what) => write!(f, "missing: {what}"),
        }
    }
}

impl Row {
    /// How many connections show, by each protocol, that each backend is reached:
    /// of four, chosen at random, one is missed once in 10^8 times.
    pub(super) fn connections(&self) -> usize {
        match (self.rest, self.answer.len()) {
            // Kernels limit how often they say so.
            (Rest::Refused, _) => 2,
            (Rest::Nothing, backends) => 16 * backends,
            (Rest::Vanish, 0) => 12,
            (Rest::Vanish, _) => 64,
        }
    }

    /// What `policy-agent simulate` says to that.
    pub(super) fn verdict(&self) -> &'static str {
        match (self.rest, self.answer.is_empty()) {
            (_, true) => "deny",
            (Rest::Nothing, false) => "allow",
            (_, false) => "depends",
        }
    }
}

impl Fault {
    /// Whether it may be no fault any more when kube-proxy is ready.
    pub(super) fn may_pass_by(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

/// Reads the table.
///
/// # Errors
///
/// Names the line that is no row.
pub(super) fn parse(text: &str) -> Result<Vec<Row>> {
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            row(line).with_context(|| format!("line {number} of the table: {line}"))
        })
        .collect()
}

fn row(line: &str) -> Result<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [from, to, answer, rest] = words[..] else {
        bail!("a row has four columns");
    };
    let answer: BTreeSet<String> = match answer {
        "-" => BTreeSet::new(),
        names => names.split(',').map(str::to_owned).collect(),
    };
    let rest = match rest {
        "-" => Rest::Nothing,
        "vanish" => Rest::Vanish,
        "refused" => Rest::Refused,
        other => bail!("{other} is none of -, vanish, refused"),
    };
    ensure!(
        rest != Rest::Nothing || !answer.is_empty(),
        "something must become of the connections"
    );
    ensure!(
        rest != Rest::Refused || answer.is_empty(),
        "where somebody answers nobody refuses"
    );
    Ok(Row {
        from: from.to_owned(),
        to: to.to_owned(),
        answer,
        rest,
    })
}

/// What an account of `cluster-services` says against the rows that were asked.
///
/// # Errors
///
/// When it is no such account.
pub(super) fn judge(rows: &[Row], account: &Value) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let asked = account["asked"].as_array().context("an account")?;
    ensure!(asked.len() == rows.len(), "an account of other rows");
    for (row, answer) in rows.iter().zip(asked) {
        for protocol in ["TCP", "UDP"] {
            let about = format!("{} -> {} by {protocol}", row.from, row.to);
            judge_one(row, &answer[protocol], &about, &mut faults)?;
        }
    }
    let mut may: BTreeSet<&str> = BTreeSet::new();
    for row in rows {
        may.extend(row.answer.iter().map(String::as_str));
    }
    for (pod, packets) in counts(&account["arrived"])? {
        if packets > 0 && !may.contains(pod) {
            let senders: BTreeSet<&str> = rows.iter().map(|row| row.from.as_str()).collect();
            faults.push(Fault::Passed(format!(
                "{packets} packets that open connections of {senders:?} arrived at {pod}"
            )));
        }
    }
    Ok(faults)
}

fn judge_one(row: &Row, tally: &Value, about: &str, faults: &mut Vec<Fault>) -> Result<()> {
    let mut passed = |what: String| faults.push(Fault::Passed(format!("{about}: {what}")));
    let answered = counts(&tally["answered"])?;
    let heard = counts(&tally["heard"])?;
    for name in answered.keys().chain(heard.keys()) {
        if !row.answer.contains(*name) {
            passed(format!("{name} answered"));
        }
    }
    let number = |key: &str| tally[key].as_u64().with_context(|| format!("no {key}"));
    let (vanished, refused) = (number("vanished")?, number("refused")?);
    if refused > 0 && row.rest != Rest::Refused {
        passed(format!("{refused} refused"));
    }
    for (name, connections) in counts(&tally["unheard"])? {
        if row.answer.contains(name) {
            let what = format!("{about}: {connections} led to {name}, which did not answer");
            faults.push(Fault::Lost(what));
        }
    }
    let mut missing = |what: String| faults.push(Fault::Missing(format!("{about}: {what}")));
    for name in row
        .answer
        .iter()
        .filter(|n| !answered.contains_key(n.as_str()))
    {
        missing(format!("no answer of {name}"));
    }
    for (error, connections) in counts(&tally["wrong"])? {
        missing(format!("{connections} times: {error}"));
    }
    match row.rest {
        Rest::Vanish if vanished == 0 => missing("nothing vanished".to_owned()),
        Rest::Refused if refused == 0 => missing("nothing was refused".to_owned()),
        Rest::Nothing | Rest::Refused if vanished > 0 => missing(format!("{vanished} vanished")),
        _ => {}
    }
    Ok(())
}

/// Names and numbers.
pub(super) fn counts(value: &Value) -> Result<BTreeMap<&str, u64>> {
    let object = value.as_object();
    let mut counts = BTreeMap::new();
    for (name, count) in object.context("an account has names and numbers")? {
        counts.insert(name.as_str(), count.as_u64().context("a number")?);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Vec<Row> {
        parse("# a comment\n\nweb-1 vip:mixed db-1,db-2 vanish\n").unwrap()
    }

    fn tally() -> Value {
        json!({
            "answered": {"db-1": 30, "db-2": 20}, "vanished": 14, "refused": 0, "wrong": {},
            "heard": {"db-1": 30, "db-2": 20}, "unheard": {"log-1": 14},
        })
    }

    fn account(change: impl FnOnce(&mut Value)) -> Value {
        let mut account = json!({
            "asked": [{"TCP": tally(), "UDP": tally()}],
            "arrived": {"db-1": 60, "db-2": 40, "log-1": 0},
        });
        change(&mut account);
        account
    }

    #[test]
    fn the_table_that_is_used_reads() {
        let table = include_str!("../../../../tests/cluster/services/expected.txt");
        let rows = parse(table).unwrap();
        for verdict in ["allow", "deny", "depends"] {
            assert!(rows.iter().any(|row| row.verdict() == verdict), "{verdict}");
        }
    }

    #[test]
    fn a_row_that_expects_nothing_at_all_is_refused() {
        for line in ["a b c", "a b - -", "a b c refused", "a b c whatever"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn one_packet_at_a_denied_backend_fails_the_account() {
        assert_eq!(judge(&rows(), &account(|_| ())).unwrap(), []);
        for (path, value) in [
            ("/arrived/log-1", json!(1)),
            ("/asked/0/TCP/refused", json!(1)),
            (
                "/asked/0/UDP/answered",
                json!({"db-1": 1, "db-2": 1, "log-1": 1}),
            ),
            ("/asked/0/TCP/heard", json!({"log-1": 1})),
        ] {
            let bad = account(|account| *account.pointer_mut(path).unwrap() = value);
            let faults = judge(&rows(), &bad).unwrap();
            assert!(
                matches!(faults[..], [Fault::Passed(_)]),
                "{path}: {faults:?}"
            );
        }
    }

    #[test]
    fn one_connection_that_an_allowed_backend_does_not_answer_fails_the_account() {
        for (path, value) in [
            ("/asked/0/TCP/answered", json!({"db-1": 50})),
            ("/asked/0/UDP/vanished", json!(0)),
            ("/asked/0/UDP/wrong", json!({"no route to host": 1})),
        ] {
            let bad = account(|account| *account.pointer_mut(path).unwrap() = value);
            let faults = judge(&rows(), &bad).unwrap();
            assert!(
                matches!(faults[..], [Fault::Missing(_)]),
                "{path}: {faults:?}"
            );
        }
        let lost = account(|account| account["asked"][0]["TCP"]["unheard"]["db-2"] = json!(1));
        let faults = judge(&rows(), &lost).unwrap();
        assert!(matches!(faults[..], [Fault::Lost(_)]), "{faults:?}");
        assert!(judge(&rows(), &json!({})).is_err());
    }

    #[test]
    fn where_nothing_may_vanish_one_that_does_fails_the_account() {
        let rows = parse("free-1 vip:mixed db-1,db-2 -").unwrap();
        assert_eq!(judge(&rows, &account(|_| ())).unwrap().len(), 2);
        let refused = parse("free-1 vip:empty - refused").unwrap();
        assert!(!judge(&refused, &account(|_| ())).unwrap().is_empty());
    }
}

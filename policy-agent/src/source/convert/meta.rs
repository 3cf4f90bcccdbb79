//! `metadata`, as far as every kind has it.

use std::collections::BTreeMap;

use policy_core::model::Labels;
use serde::Deserialize;
use serde_json::Value;

use super::names::Names;
use super::report::Report;

/// Longest name that the API has (DNS subdomain, RFC 1123).
const MAX_NAME_BYTES: usize = 253;

/// `metadata` of the kinds that have a wire type of their own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MetaObject {
    /// `metadata.name`.
    pub(super) name: Option<String>,
    /// `metadata.namespace`.
    pub(super) namespace: Option<String>,
    /// `metadata.uid`.
    pub(super) uid: Option<String>,
    /// `metadata.creationTimestamp`, RFC 3339.
    pub(super) creation_timestamp: Option<String>,
    /// `metadata.labels`; a label without a value has the empty one.
    pub(super) labels: Option<BTreeMap<String, Option<String>>>,
    /// `metadata.annotations`, as far as they mean anything here.
    pub(super) annotations: Option<Annotations>,
}

/// The annotations that mean anything here; pods have many others.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    /// Of the object that stands for a static pod: the UID by which kubelet and
    /// container runtime know the pod.
    #[serde(rename = "kubernetes.io/config.mirror")]
    pub(super) mirror: Option<String>,
}

impl MetaObject {
    pub(super) fn labels(&self, names: &mut Names) -> Labels {
        let labels = self.labels.iter().flatten();
        let labels = labels.map(|(key, value)| {
            let value = value.as_deref().unwrap_or_default();
            (names.get(key), names.get(value))
        });
        let labels = labels.collect();
        names.share(labels)
    }
}

/// Which object it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    /// Empty for kinds without namespaces.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Meta {
    /// Reads it before anything else is looked at, so that whatever else is
    /// wrong is reported under the object's name.
    pub(super) fn read(
        object: &Value,
        kind: &str,
        namespaced: bool,
    ) -> Result<(Self, Report), Report> {
        let mut report = Report::new(kind.to_owned());
        let metadata = object.get("metadata").unwrap_or(&Value::Null);
        let mut text = |field: &str| match metadata.get(field) {
            None | Some(Value::Null) => Some(""),
            Some(Value::String(text)) if is_name(text) => Some(text.as_str()),
            Some(other) => {
                report.error(
                    format!("metadata.{field}"),
                    &format!("{other} is not a name (quote numbers and words such as y and no); the object is not used"),
                );
                None
            }
        };
        let (name, namespace) = (text("name"), text("namespace"));
        let (Some(name), Some(namespace)) = (name, namespace) else {
            return Err(report);
        };
        if name.is_empty() {
            report.error(
                "metadata.name",
                "the object has no name, so it is not used; write metadata.name",
            );
            return Err(report);
        }
        Ok(Self::of(name, namespace, kind, namespaced))
    }

    /// The same of an object that decoded already; `None`: [`Self::read`] has
    /// something to say about its names.
    pub(super) fn of_decoded(
        metadata: &MetaObject,
        kind: &str,
        namespaced: bool,
    ) -> Option<(Self, Report)> {
        let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        (is_name(name) && is_name(namespace)).then(|| Self::of(name, namespace, kind, namespaced))
    }

    /// With names that are names, the first of them not empty.
    fn of(name: &str, namespace: &str, kind: &str, namespaced: bool) -> (Self, Report) {
        if !namespaced {
            let meta = Self {
                namespace: String::new(),
                name: name.to_owned(),
            };
            return (meta, Report::new(format!("{kind} {name}")));
        }
        let namespace = if namespace.is_empty() {
            "default"
        } else {
            namespace
        };
        let meta = Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        (meta, Report::new(format!("{kind} {namespace}/{name}")))
    }
}

/// Enough to be told apart from everything else in output and keys. The API
/// server asks for more, kind by kind.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'%'))
}

/// Seconds since 1970 of an RFC 3339 time; `None` if it is none.
pub(super) fn seconds_since_1970(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let (clock, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (clock, offset) = time.split_at(at);
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let seconds = number(hours, 2, 0..=23)? * 3600 + number(minutes, 2, 0..=59)? * 60;
            (
                clock,
                if offset.starts_with('-') {
                    -seconds
                } else {
                    seconds
                },
            )
        }
    };
    let whole = match clock.split_once('.') {
        Some((whole, fraction)) => {
            let digits = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
            digits.then_some(whole)?
        }
        None => clock,
    };
    let mut date = date.splitn(3, '-');
    let year = number(date.next()?, 4, 0..=9999)?;
    let month = number(date.next()?, 2, 1..=12)?;
    let day = number(date.next()?, 2, 1..=31)?;
    let mut clock = whole.splitn(3, ':');
    let hour = number(clock.next()?, 2, 0..=23)?;
    let minute = number(clock.next()?, 2, 0..=59)?;
    // A leap second has the number 60.
    let second = number(clock.next()?, 2, 0..=60)?;
    // Years that begin in March have the leap day at their end, and then the days
    // before a month are a line: 153 days in every five months.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - DAYS_BEFORE_1970;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// Days from 1 March of the year 0 to 1 January 1970 (proleptic Gregorian).
const DAYS_BEFORE_1970: i64 = 719_468;

fn number(text: &str, digits: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| text.parse().ok())??;
    range.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2024-03-01T00:00:00Z", 1_709_251_200),
            ("2024-03-01T01:30:00.25+01:30", 1_709_251_200),
            ("2024-02-29T22:30:00-01:30", 1_709_251_200),
            ("2026-11-05T10:20:30Z", 1_793_874_030),
        ] {
            assert_eq!(seconds_since_1970(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "2024-03-01",
            "2024-13-01T00:00:00Z",
            "2024-03-01T00:00:00",
            "2024-03-01T24:00:00Z",
            "2024-3-1T00:00:00Z",
            "2024-03-01T00:00:00.Z",
            "yesterday",
        ] {
            assert_eq!(seconds_since_1970(text), None, "{text}");
        }
    }
}

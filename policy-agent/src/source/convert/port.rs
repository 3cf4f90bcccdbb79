//! Entries of a rule's `ports`.

use policy_core::model::{PortMatch, Protocol};
use serde_json::Value;

use super::names::Names;
use super::path::Path;
use super::report::{Report, field};

/// What happens because of anything that is wrong in an entry.
const CONSEQUENCE: &str = "this entry matches nothing";
/// Longest port name (IANA service name, RFC 6335 section 5.1).
const MAX_NAME_BYTES: usize = 15;

/// Reads an entry; `None` if it matches nothing, which is reported.
pub(super) fn convert(
    value: &Value,
    at: &Path<'_>,
    names: &mut Names,
    report: &mut Report,
) -> Option<PortMatch> {
    let fields = report.fields(at, value, CONSEQUENCE).ok()?;
    report.unknown_fields(at, fields, &["protocol", "port", "endPort"]);
    let protocol = match report.text(at, fields, "protocol", CONSEQUENCE).ok()? {
        None => Protocol::Tcp,
        Some(text) => {
            let known = Protocol::from_name(text);
            if known.is_none() {
                let message = format!("{text:?} is not TCP, UDP or SCTP; {CONSEQUENCE}");
                report.error(at.field("protocol"), &message);
            }
            known?
        }
    };
    let (port_at, end_at) = (at.field("port"), at.field("endPort"));
    match (field(fields, "port"), field(fields, "endPort")) {
        (None, None) => Some(PortMatch::Range {
            protocol,
            first: 0,
            last: u16::MAX,
        }),
        (None, Some(_)) => {
            report.error(end_at, &format!("needs port; {CONSEQUENCE}"));
            None
        }
        (Some(Value::String(name)), end) => {
            if !is_port_name(name) {
                let hint = if name.parse::<u16>().is_ok() {
                    "write a number without quotes"
                } else {
                    "a name has at most 15 lower-case letters, digits and single hyphens, \
                     with a letter among them"
                };
                report.error(
                    port_at,
                    &format!("{name:?} is not the name of a port ({hint}); {CONSEQUENCE}"),
                );
                return None;
            }
            if end.is_some() {
                let message = format!("needs a number in port, which is a name; {CONSEQUENCE}");
                report.error(end_at, &message);
                return None;
            }
            Some(PortMatch::Named {
                protocol: Some(protocol),
                name: names.get(name),
            })
        }
        (Some(first), end) => {
            let first = number(first, "a number or a name", &port_at, report)?;
            let last = match end {
                None => first,
                Some(end) => number(end, "a number", &end_at, report)?,
            };
            if last < first {
                let message = format!("{last} is less than port, {first}; {CONSEQUENCE}");
                report.error(end_at, &message);
                return None;
            }
            Some(PortMatch::Range {
                protocol,
                first,
                last,
            })
        }
    }
}

fn number(value: &Value, expected: &str, at: &Path<'_>, report: &mut Report) -> Option<u16> {
    if value.as_i64().is_none() && value.as_u64().is_none() {
        report.malformed(at, expected, &format!("it is {value}; {CONSEQUENCE}"));
        return None;
    }
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|number| *number != 0);
    if number.is_none() {
        let message = format!("{value} is not a port (1 to 65535); {CONSEQUENCE}");
        report.error(at, &message);
    }
    number
}

/// An IANA service name, as the API server checks it.
fn is_port_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

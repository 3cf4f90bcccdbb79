//! Probes: questions as people and files write them.

use std::net::IpAddr;

use policy_common::abi::protocol;
use policy_core::desired::PodRef;
use policy_core::simulate::{Family, Port, Question, Who};
use serde::Deserialize;
use serde_json::Value;

/// A line of a file of probes.
#[derive(Debug, Deserialize)]
struct Line {
    from: String,
    to: String,
    #[serde(default)]
    port: Value,
    #[serde(default = "tcp")]
    protocol: Value,
    #[serde(default)]
    family: Value,
}

fn tcp() -> Value {
    Value::from("TCP")
}

/// Reads a probe: `{"from","to","port","protocol","family"}`.
pub(super) fn from_json(line: &Value) -> Result<Question, String> {
    let line = Line::deserialize(line).map_err(|error| error.to_string())?;
    let port = match &line.port {
        Value::Null => Port::None,
        Value::String(name) => Port::Name(name.as_str().into()),
        other => other
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .map(Port::Number)
            .ok_or_else(|| format!("port: {other} is neither a port number nor a name"))?,
    };
    let protocol = match &line.protocol {
        Value::String(name) => protocol_number(name)?,
        other => other
            .as_u64()
            .and_then(|number| u8::try_from(number).ok())
            .ok_or_else(|| format!("protocol: {other} is neither a name nor a number up to 255"))?,
    };
    Ok(Question {
        from: who(&line.from).map_err(|error| format!("from: {error}"))?,
        to: who(&line.to).map_err(|error| format!("to: {error}"))?,
        port,
        protocol,
        family: family(&line.family)?,
    })
}

/// Reads `80/TCP`, `http/TCP`, `80`, or a protocol without ports: `ICMP`.
pub(super) fn port_and_protocol(text: &str) -> Result<(Port, u8), String> {
    if let Some((port, protocol)) = text.split_once('/') {
        return Ok((named_or_number(port), protocol_number(protocol)?));
    }
    if let Ok(number) = protocol_number(text)
        && text.parse::<u16>().is_err()
    {
        return Ok((Port::None, number));
    }
    Ok((named_or_number(text), protocol::TCP))
}

fn named_or_number(port: &str) -> Port {
    port.parse()
        .map_or_else(|_| Port::Name(port.into()), Port::Number)
}

/// A pod as `namespace/name`, or an address.
pub(super) fn who(text: &str) -> Result<Who, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Who::Address(address));
    }
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(Who::Pod(PodRef {
                namespace: namespace.into(),
                name: name.into(),
            }))
        }
        _ => Err(format!("{text:?} is neither namespace/pod nor an address")),
    }
}

fn family(value: &Value) -> Result<Option<Family>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    family_named(&text).map(Some)
}

/// `4` or `6`, also as `IPv4` and `IPv6`.
pub(super) fn family_named(text: &str) -> Result<Family, String> {
    match text {
        "4" | "IPv4" | "ipv4" => Ok(Family::V4),
        "6" | "IPv6" | "ipv6" => Ok(Family::V6),
        other => Err(format!("family: {other:?}: write 4 or 6")),
    }
}

fn protocol_number(name: &str) -> Result<u8, String> {
    match name.to_ascii_uppercase().as_str() {
        "TCP" => Ok(protocol::TCP),
        "UDP" => Ok(protocol::UDP),
        "SCTP" => Ok(protocol::SCTP),
        "ICMP" => Ok(protocol::ICMP),
        "ICMPV6" => Ok(protocol::ICMPV6),
        other => other.parse().map_err(|_| {
            format!("protocol: {name:?}: write TCP, UDP, SCTP, ICMP, ICMPv6 or a number")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_reads_numbers_names_and_nothing_as_port() {
        let probe = |port: &str| {
            let text = format!(
                r#"{{"from":"a/x","to":"10.0.0.1","port":{port},"protocol":"UDP","family":6}}"#
            );
            from_json(&serde_json::from_str(&text).expect("JSON"))
        };
        assert_eq!(probe("80").map(|q| q.port), Ok(Port::Number(80)));
        assert_eq!(
            probe("\"http\"").map(|q| q.port),
            Ok(Port::Name("http".into()))
        );
        assert_eq!(
            probe("null").map(|q| (q.port, q.family)),
            Ok((Port::None, Some(Family::V6)))
        );
        assert!(probe("70000").is_err() && probe("[]").is_err());
    }

    #[test]
    fn port_option_reads_all_its_forms() {
        assert_eq!(
            port_and_protocol("80/UDP"),
            Ok((Port::Number(80), protocol::UDP))
        );
        assert_eq!(
            port_and_protocol("http/tcp"),
            Ok((Port::Name("http".into()), protocol::TCP))
        );
        assert_eq!(
            port_and_protocol("443"),
            Ok((Port::Number(443), protocol::TCP))
        );
        assert_eq!(port_and_protocol("ICMP"), Ok((Port::None, protocol::ICMP)));
        assert!(port_and_protocol("80/XYZ").is_err());
    }

    #[test]
    fn ends_are_pods_or_addresses() {
        assert!(matches!(who("a/x"), Ok(Who::Pod(_))));
        assert!(matches!(who("2001:db8::1"), Ok(Who::Address(_))));
        assert!(who("x").is_err() && who("/x").is_err() && who("a/b/c").is_err());
    }
}

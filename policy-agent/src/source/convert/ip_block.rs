//! Addresses and `ipBlock`.
//!
//! Reads as leniently as API servers did for years (bits below the mask, leading
//! zeros, which are decimal), since objects from then are still there. An
//! IPv4-mapped IPv6 prefix is refused: no two systems agree what it matches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use policy_core::model::IpBlock;
use serde_json::Value;

use super::path::Path;
use super::report::{Report, field};

/// What happens because of anything that is wrong in a block.
const CONSEQUENCE: &str = "this peer matches nothing";

/// An address as objects write it.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parse_u8(parts.next()?)?;
    }
    match parts.next() {
        None => Some(IpAddr::V4(Ipv4Addr::from(octets))),
        Some(_) => None,
    }
}

/// Digits only: no sign, no space.
fn parse_u8(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// Reads an `ipBlock`; `None` if it matches nothing, which is reported.
pub(super) fn convert(value: &Value, at: &Path<'_>, report: &mut Report) -> Option<IpBlock> {
    let fields = report.fields(at, value, CONSEQUENCE).ok()?;
    report.unknown_fields(at, fields, &["cidr", "except"]);
    let cidr_at = at.field("cidr");
    let cidr = match field(fields, "cidr") {
        None => {
            report.error(cidr_at, &format!("is missing; {CONSEQUENCE}"));
            return None;
        }
        Some(cidr) => read_cidr(cidr, &cidr_at, report)?,
    };
    let list_at = at.field("except");
    let excepts = report.list(at, fields, "except", CONSEQUENCE).ok()?;
    let mut except = Vec::with_capacity(excepts.len());
    let mut good = true;
    for (i, item) in excepts.iter().enumerate() {
        let item_at = list_at.index(i);
        let Some(inner) = read_cidr(item, &item_at, report) else {
            good = false;
            continue;
        };
        if inner.prefix_len() > cidr.prefix_len() && cidr.contains(&inner) {
            except.push(inner);
        } else {
            good = false;
            report.error(
                item_at,
                &format!("{inner} is not strictly inside {cidr}; {CONSEQUENCE}"),
            );
        }
    }
    except.sort();
    except.dedup();
    good.then_some(IpBlock { cidr, except })
}

fn read_cidr(value: &Value, at: &Path<'_>, report: &mut Report) -> Option<IpNet> {
    let Value::String(text) = value else {
        report.malformed(at, "text such as 10.0.0.0/8", CONSEQUENCE);
        return None;
    };
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address = parse_address(address)?;
        IpNet::new(address, parse_u8(length)?).ok()
    });
    let Some(parsed) = parsed else {
        report.error(
            at,
            &format!("{text:?} is not a prefix such as 10.0.0.0/8 or fd00::/8; {CONSEQUENCE}"),
        );
        return None;
    };
    if let IpAddr::V6(address) = parsed.addr()
        && address.to_ipv4_mapped().is_some()
    {
        report.error(
            at,
            &format!("{text} is an IPv4-mapped IPv6 prefix; write it as IPv4; {CONSEQUENCE}"),
        );
        return None;
    }
    let masked = parsed.trunc();
    if masked != parsed {
        report.info(
            at,
            &format!("{text} has bits below its mask; it is read as {masked}"),
        );
    }
    Some(masked)
}

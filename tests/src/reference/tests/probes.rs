//! Probes as text and JSON, and which packet each means.

use serde_json::json;

use super::support::{pod, world};
use crate::reference::{Cluster, Packet, Probe, ProbeError, Protocol};

fn packet(text: &str) -> Result<Packet, ProbeError> {
    let mut objects = world();
    objects.push(pod("b/four", &[], &["10.244.7.4"]));
    objects.push(pod("b/six", &[], &["fd00:10:244:7::6"]));
    let probe: Probe = text.parse().expect("the probe parses");
    Cluster::from_objects(&objects).packet(&probe)
}

fn ends(text: &str) -> (String, String) {
    let packet = packet(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    (packet.source.to_string(), packet.destination.to_string())
}

#[test]
fn ipv4_unless_only_ipv6_is_common_or_asked_for() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        ends("a/web > b/db 80/TCP"),
        pair("10.244.0.1", "10.244.1.2")
    );
    assert_eq!(
        ends("a/web > b/db 80/TCP v6"),
        pair("fd00:10:244::1", "fd00:10:244:1::2")
    );
    assert_eq!(
        ends("a/web > b/six 80/TCP"),
        pair("fd00:10:244::1", "fd00:10:244:7::6")
    );
    assert_eq!(
        ends("2001:db8::1 > a/web 80/TCP"),
        pair("2001:db8::1", "fd00:10:244::1")
    );
    assert_eq!(
        ends("a/web > b/db ICMPv6"),
        pair("fd00:10:244::1", "fd00:10:244:1::2")
    );
    assert_eq!(ends("a/web > b/db ICMP"), pair("10.244.0.1", "10.244.1.2"));
}

#[test]
fn questions_about_no_packet_are_refused() {
    for (text, error) in [
        (
            "a/gone > b/db 80/TCP",
            ProbeError::UnknownPod("a/gone".to_owned()),
        ),
        ("b/four > b/six 80/TCP", ProbeError::NoCommonFamily),
        ("b/four > a/db 80/TCP v6", ProbeError::NoCommonFamily),
        ("192.0.2.1 > 2001:db8::1 80/TCP", ProbeError::NoCommonFamily),
        ("b/six > a/db ICMP", ProbeError::NoCommonFamily),
        ("a/web > a/db ICMP v6", ProbeError::Family),
        ("a/web > a/db ICMPv6 v4", ProbeError::Family),
        ("a/web > a/db TCP", ProbeError::Port),
        ("a/web > a/db 80/ICMP", ProbeError::Port),
        ("b/db > a/web gone/TCP", ProbeError::Port),
        ("b/db > a/web dns/TCP", ProbeError::Port),
        ("b/db > 192.0.2.1 http/TCP", ProbeError::Port),
    ] {
        assert_eq!(packet(text), Err(error), "{text}");
    }
}

#[test]
fn port_names_resolve_on_the_destination() {
    let port = |text| packet(text).expect("a packet").port;
    assert_eq!(port("b/db > a/web http/TCP"), Some(8080));
    assert_eq!(port("a/db > b/web http/TCP"), Some(9090));
    assert_eq!(port("a/db > 10.244.1.1 http/TCP"), Some(9090));
    assert_eq!(port("a/db > b/web dns/UDP"), Some(53));
    assert_eq!(port("a/db > b/web ICMP"), None);
}

#[test]
fn json_lines_and_text_mean_the_same_and_survive_a_round_trip() {
    for (text, line) in [
        (
            "a/web > b/db 80/TCP",
            json!({"from": "a/web", "to": "b/db", "port": 80, "protocol": "TCP", "family": null}),
        ),
        (
            "a/web > b/web dns/UDP v6",
            json!({"from": "a/web", "to": "b/web", "port": "dns", "protocol": "UDP", "family": 6}),
        ),
        (
            "192.0.2.1 > a/db ICMP v4",
            json!({"from": "192.0.2.1", "to": "a/db", "port": null, "protocol": "ICMP", "family": 4}),
        ),
        (
            "2001:db8::1 > a/db ICMPv6",
            json!({"from": "2001:db8::1", "to": "a/db", "port": null, "protocol": "ICMPv6", "family": null}),
        ),
        (
            "a/db > a/web 47",
            json!({"from": "a/db", "to": "a/web", "port": null, "protocol": "47", "family": null}),
        ),
    ] {
        let probe: Probe = text.parse().expect("the text parses");
        assert_eq!(probe.to_string(), text);
        assert_eq!(probe.to_json(), line);
        assert_eq!(Probe::from_json(&line), Ok(probe));
    }
    let short = json!({"from": "a/web", "to": "b/db", "port": 80});
    assert_eq!(
        Probe::from_json(&short).map(|p| p.protocol),
        Ok(Protocol::TCP)
    );
}

#[test]
fn malformed_lines_name_the_field() {
    for (line, word) in [
        (json!({"to": "b/db"}), "from"),
        (json!({"from": "a/web"}), "to"),
        (json!({"from": "a", "to": "b/db"}), "\"a\""),
        (json!({"from": "a/b", "to": "b/db", "port": 65536}), "port"),
        (
            json!({"from": "a/b", "to": "b/db", "protocol": "XTP"}),
            "protocol",
        ),
        (json!({"from": "a/b", "to": "b/db", "family": 5}), "family"),
    ] {
        let error = Probe::from_json(&line).expect_err("malformed");
        assert!(error.contains(word), "{line}: {error}");
    }
}

//! Ports by number and by name.

use super::*;

#[test]
fn named_ports_of_ingress_are_the_subjects_own() {
    let rules = ["allow * : TCP/http"];
    check(
        &cluster([policy("a/p", "app", Some(&rules), None)]),
        &[
            "a/db > a/web 8080/TCP",
            "a/db > a/web2 9090/TCP",
            "a/db > a/web2 http/TCP",
        ],
        &[
            "a/db > a/web 9090/TCP",
            "a/db > a/web2 8080/TCP",
            "a/web > a/other 8080/UDP",
            "a/web > a/db 8080/TCP",
        ],
    );
}

#[test]
fn named_ports_of_egress_are_each_peers_own() {
    let rules = ["allow ns:{} app=web : TCP/http", "allow app=other : */http"];
    check(
        &cluster([policy("a/p", "app=db", None, Some(&rules))]),
        &[
            "a/db > a/web 8080/TCP",
            "a/db > a/web2 9090/TCP",
            "a/db > b/web http/TCP",
            "a/db > a/other 8080/UDP",
        ],
        &[
            "a/db > a/web2 8080/TCP",
            "a/db > a/web 9090/TCP",
            "a/db > a/other 8080/TCP",
            "a/db > 10.2.0.9 8080/TCP",
        ],
    );
}

#[test]
fn named_ports_of_egress_without_peers_or_by_block_are_those_of_known_pods() {
    let rules = ["allow 10.1.0.0/16 : TCP/http"];
    check(
        &cluster([policy("a/p", "app=db", None, Some(&rules))]),
        &["a/db > a/web 8080/TCP", "a/db > a/web2 9090/TCP"],
        &[
            "a/db > 10.1.9.9 8080/TCP",
            "a/db > b/web 8080/TCP",
            "a/db > a/web 9090/TCP",
            "a/db > a/web 8080/TCP v6",
        ],
    );
    check(
        &cluster([policy("a/p", "app=db", None, Some(&["allow * : TCP/http"]))]),
        &["a/db > a/web 8080/TCP", "a/db > b/web 8080/TCP v6"],
        &["a/db > 8.8.8.8 8080/TCP", "a/db > a/web2 8080/TCP"],
    );
}

#[test]
fn an_unknown_name_isolates_and_opens_nothing() {
    check(
        &cluster([policy(
            "a/p",
            "app=db",
            Some(&["allow * : TCP/nothing TCP/pg"]),
            None,
        )]),
        &["a/web > a/db 5432/TCP"],
        &["a/web > a/db 9000/TCP", "a/web > a/db 0/TCP"],
    );
}

#[test]
fn more_intervals_than_a_port_set_holds_are_all_exact() {
    let ports: Vec<String> = (0..500).map(|i| format!("TCP/{}", 10 + i * 3)).collect();
    let rule = format!("allow app=web : {}", ports.join(" "));
    let store = cluster([policy("a/p", "app=db", Some(&[&rule]), None)]);
    let mut simulator = Simulator::new(&store);
    for port in 0..1600u16 {
        let packet = Packet {
            source: ip("10.1.0.2"),
            destination: ip("10.1.0.1"),
            protocol: TCP,
            port,
        };
        let expected = (10..10 + 1500).contains(&port) && (port - 10) % 3 == 0;
        let allowed = simulator.judge(&packet).verdict == Verdict::Allow;
        assert_eq!(allowed, expected, "port {port}");
    }
}

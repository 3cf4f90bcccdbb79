//! The server over real connections on loopback, and the table in the README.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::super::health::{self, Pulse};
use super::super::metrics::Metrics;
use super::*;
use crate::datapath::Pins;

/// Far more than an answer takes.
const BOUND: Duration = Duration::from_secs(20);

fn answers() -> (Pulse, Metrics, Answers) {
    let (pulse, health) = health::health(Instant::now());
    let (metrics, mut registry) = Metrics::new(&["Pod"]);
    // No agent runs with these pins: what only the kernel knows reads nothing.
    let pins = Pins::new(Path::new("/nonexistent"));
    let kernel = KernelMetrics::new(pins, metrics.clone(), &mut registry);
    (pulse, metrics, Answers::new(health, registry, kernel))
}

/// Starts a server at a free address.
fn start() -> (Pulse, Server) {
    let (pulse, _, answers) = answers();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    (pulse, Server::start(address, answers).unwrap())
}

/// Connects, as soon as the server listens.
fn connect(server: &Server) -> TcpStream {
    let end = Instant::now() + BOUND;
    loop {
        match TcpStream::connect(server.address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(BOUND)).unwrap();
                return stream;
            }
            Err(error) if Instant::now() > end => panic!("{error}"),
            Err(_) => thread::yield_now(),
        }
    }
}

/// Sends a request and reads until the server closes: status and text.
fn ask(server: &Server, request: &str) -> (u16, String) {
    let mut stream = connect(server);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer:?}")), answer)
}

fn get(server: &Server, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    ask(server, &request)
}

#[test]
fn health_is_there_at_once_and_readiness_when_nothing_is_missing() {
    let (pulse, server) = start();
    assert_eq!(get(&server, "/healthz").0, 200);
    let (status, body) = get(&server, "/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("starting"), "{body}");
    pulse.tell(Vec::new());
    assert_eq!(get(&server, "/readyz").0, 200);
    pulse.tell(vec!["2 pods wait for their policies".to_owned()]);
    let (status, body) = get(&server, "/readyz");
    assert_eq!(status, 503);
    assert!(body.ends_with("2 pods wait for their policies\n"), "{body}");
    assert_eq!(get(&server, "/healthz").0, 200, "unready is no death");
}

#[test]
fn loop_that_hangs_is_told() {
    let (_pulse, _, answers) = answers();
    let later = Instant::now() + Duration::from_secs(3_600);
    let response = answers.answer(&Method::GET, "/healthz", later);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn other_paths_methods_and_large_heads_are_refused() {
    let (_pulse, server) = start();
    assert_eq!(get(&server, "/").0, 404);
    let post =
        "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(&server, post).0, 405);
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(HEAD));
    assert_eq!(ask(&server, &long).0, 431);
    let many = "X: a\r\n".repeat(HEADER_LINES + 1);
    let many = format!("GET /healthz HTTP/1.1\r\n{many}\r\n");
    assert_eq!(ask(&server, &many).0, 431);
    assert_eq!(get(&server, "/healthz").0, 200);
}

#[test]
fn clients_that_say_nothing_are_closed_and_others_are_answered() {
    let (_pulse, server) = start();
    let silent: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&server)).collect();
    let begun = Instant::now();
    assert_eq!(get(&server, "/healthz").0, 200);
    assert!(begun.elapsed() < BOUND);
    drop(silent);
}

#[test]
fn address_in_use_is_told_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (_pulse, _, answers) = answers();
    let server = Server::start(taken.local_addr().unwrap(), answers).unwrap();
    let end = Instant::now() + BOUND;
    while server.problem().is_none() {
        assert!(Instant::now() < end, "the problem is told");
        thread::yield_now();
    }
    drop(taken);
    assert_eq!(get(&server, "/healthz").0, 200);
    assert_eq!(server.problem(), None);
}

#[test]
fn only_loopback_addresses_are_taken() {
    for good in ["127.0.0.1:9410", "127.9.9.9:1", "[::1]:80"] {
        let address = HttpAddress::At(good.parse().unwrap());
        assert_eq!(good.parse(), Ok(address));
    }
    assert_eq!("off".parse(), Ok(HttpAddress::Off));
    for bad in [
        "0.0.0.0:9410",
        "[::]:9410",
        "10.0.0.1:1",
        "9410",
        "localhost:1",
        "",
    ] {
        assert!(bad.parse::<HttpAddress>().is_err(), "{bad}");
    }
}

/// Name, type and labels of every metric that is printed.
fn printed(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut metrics = BTreeMap::new();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in types {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let sample = match kind {
            "histogram" => format!("{name}_count"),
            _ => format!("{name}{suffix}"),
        };
        let line = text.lines().find(|line| {
            let rest = line.strip_prefix(&sample);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let line = line.unwrap_or_else(|| panic!("{sample} has no value:\n{text}"));
        let labels = line.split_once('{').map_or("", |(_, rest)| rest);
        let labels = labels
            .split("\",")
            .filter_map(|label| label.split_once('='));
        let labels = labels.map(|(label, _)| label.trim_matches('}').to_owned());
        metrics.insert(
            format!("{name}{suffix}"),
            (kind.to_owned(), labels.collect()),
        );
    }
    metrics
}

/// The README's table.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    const README: &str = include_str!("../../../../README.md");
    let quoted = |cell: &str| -> Vec<String> {
        let words = cell.split('`').skip(1).step_by(2);
        words.map(str::to_owned).collect()
    };
    let mut lines = README
        .lines()
        .skip_while(|line| *line != "| metric | type | labels | what it says |");
    assert!(lines.next().is_some(), "README.md has no table of metrics");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let mut metrics = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        for name in quoted(cells[0]) {
            let facts = (cells[1].to_owned(), quoted(cells[2]));
            assert_eq!(metrics.insert(name.clone(), facts), None, "{name} twice");
        }
    }
    metrics
}

#[test]
fn readme_has_every_metric_with_its_type_and_labels_and_no_other() {
    let (_pulse, _, answers) = answers();
    // As with a kernel in which nothing was counted yet.
    let kernel = answers.kernel.lock().unwrap();
    kernel.show_zeros();
    drop(kernel);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &answers.registry).unwrap();
    assert_eq!(printed(&text), documented(), "{text}");
}

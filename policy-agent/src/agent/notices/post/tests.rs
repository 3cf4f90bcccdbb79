//! Posting to a server whose answers are the test's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;

use serde_json::{Value, json};

use super::super::{Reason, Regarding};
use super::*;

/// Far more than a request takes.
const BOUND: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Request {
    line: String,
    content_type: String,
    body: Value,
}

/// A server that answers in turn with these codes, and then with 201.
struct Server {
    requests: std_mpsc::Receiver<Request>,
    config: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A left-over of a test is no failure of it.
        let _ = std::fs::remove_file(&self.config);
    }
}

fn server(codes: &'static [u16]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = std_mpsc::channel();
    std::thread::spawn(move || {
        let mut codes = codes.iter();
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let code = codes.next().copied().unwrap_or(201);
            if serve(stream, code).is_none_or(|request| sender.send(request).is_err()) {
                return;
            }
        }
    });
    let config = std::env::temp_dir().join(format!(
        "policy-agent-post-{}-{}",
        std::process::id(),
        address.port()
    ));
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&config, text.to_string()).unwrap();
    Server { requests, config }
}

/// Reads a request and answers it; the connection ends then.
fn serve(stream: TcpStream, code: u16) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut content_type, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut line).ok()?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-type" => content_type = value.to_owned(),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = "{}";
    let text = format!(
        "HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    );
    reader.get_mut().write_all(text.as_bytes()).ok()?;
    Some(Request {
        line: line.trim().to_owned(),
        content_type,
        body: serde_json::from_slice(&body).ok()?,
    })
}

impl Server {
    fn poster(&self) -> Poster {
        Poster::start(Access::Kubeconfig(self.config.clone()), "node-1".into()).unwrap()
    }

    fn next(&self) -> Request {
        self.requests.recv_timeout(BOUND).expect("a request")
    }
}

fn notice(name: &str) -> Notice {
    Notice {
        regarding: Regarding::Pod {
            namespace: "shop".into(),
            name: name.into(),
            uid: "u".into(),
        },
        reason: Reason::UnprotectedStart,
        note: "it ran".to_owned(),
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn events_are_created_beside_their_object_and_patched_if_they_are_there() {
    let server = server(&[201, 409, 200]);
    let poster = server.poster();
    poster.tell(notice("db"));
    let created = server.next();
    let path = "/apis/events.k8s.io/v1/namespaces/shop/events";
    assert_eq!(created.line, format!("POST {path} HTTP/1.1"));
    assert_eq!(created.content_type, "application/json");
    assert_eq!(created.body["regarding"]["name"], "db");
    poster.tell(notice("web"));
    let exists = server.next();
    let name = exists.body["metadata"]["name"].as_str().unwrap();
    let patched = server.next();
    assert_eq!(patched.line, format!("PATCH {path}/{name} HTTP/1.1"));
    assert_eq!(patched.content_type, "application/merge-patch+json");
    assert_eq!(patched.body["series"]["count"], 2);
    wait_for("two of three were done", || poster.posted() == 2);
    assert_eq!(poster.lost(), 0);
}

#[test]
fn refused_events_are_lost_and_counted_and_others_are_posted() {
    let server = server(&[403, 201]);
    let poster = server.poster();
    poster.tell(notice("db"));
    server.next();
    wait_for("one is lost", || poster.lost() == 1);
    let problem = poster.problem().expect("users are told that it is so");
    assert_eq!(problem.path, "events");
    assert!(problem.message.contains("403"), "{problem}");
    poster.tell(notice("web"));
    assert_eq!(server.next().body["regarding"]["name"], "web");
    wait_for("one is posted", || poster.posted() == 1);
    assert_eq!(poster.problem(), None);
}

#[test]
fn server_that_fails_is_asked_again() {
    let server = server(&[500]);
    let poster = server.poster();
    poster.tell(notice("db"));
    server.next();
    assert_eq!(server.next().body["regarding"]["name"], "db");
    wait_for("it is posted", || poster.posted() == 1);
    assert_eq!(poster.lost(), 0);
}

#[test]
fn nobody_waits_for_a_server_that_is_not_there() {
    let config = PathBuf::from("/nonexistent/kubeconfig");
    let poster = Poster::start(Access::Kubeconfig(config), "node-1".into()).unwrap();
    // More than the queue and the recorder take together: what is lost is counted.
    let begun = Instant::now();
    for number in 0..2_000 {
        poster.tell(notice(&format!("pod-{number}")));
    }
    assert!(begun.elapsed() < BOUND);
    wait_for("some are lost", || poster.lost() > 0);
    assert_eq!(poster.posted(), 0);
}

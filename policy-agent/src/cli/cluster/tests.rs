//! The command against an API server of the test's own: lists, and agents that
//! are run through a WebSocket as kubelets run them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tungstenite::handshake::server::{Request as Upgrade, Response as Upgraded};

use super::*;

/// What the agent of a pod says.
#[derive(Clone)]
enum Says {
    /// Its status has this generation of shop/p in force.
    Generation(i64),
    /// Nothing on its output, and this on the other one.
    Error(&'static str),
}

/// A server with a node, and an agent on it, for each of these.
fn server(agents: Vec<Says>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let paths = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (agents, paths) = (agents.clone(), paths.clone());
            std::thread::spawn(move || serve(stream, &agents, &paths));
        }
    });
    (address, asked)
}

fn serve(mut stream: TcpStream, agents: &[Says], paths: &Mutex<Vec<String>>) {
    let mut head = [0; 4096];
    let mut length = 0;
    // What is looked at is not taken: a WebSocket begins with its head.
    while !head[..length].windows(2).any(|two| two == b"\r\n") {
        length = stream.peek(&mut head).unwrap();
        assert_ne!(length, 0, "the client asks something");
    }
    let line = String::from_utf8_lossy(&head[..length]).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    paths.lock().unwrap().push(path.clone());
    if path.contains("/exec?") {
        let number = path.split("/agent-").nth(1).unwrap();
        let number = number.split('/').next().unwrap().parse::<usize>().unwrap();
        return run(stream, &agents[number]);
    }
    let list = |items: Vec<Value>| json!({"items": items}).to_string();
    let numbers = || 0..agents.len();
    let body = if path.ends_with("/networkpolicies") {
        list(vec![json!({"metadata": {
            "namespace": "shop", "name": "p", "uid": "u", "generation": 4}})])
    } else if path.contains("/pods") {
        let pod = |number| {
            json!({
                "metadata": {"name": format!("agent-{number}")},
                "spec": {"nodeName": format!("node-{number}")},
            })
        };
        list(numbers().map(pod).collect())
    } else {
        let node = |number| json!({"metadata": {"name": format!("node-{number}")}});
        let more = json!({"metadata": {"name": "node-without"}});
        list(numbers().map(node).chain([more]).collect())
    };
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).unwrap();
}

/// Runs `status` as a kubelet does: a channel's number before each piece.
fn run(stream: TcpStream, says: &Says) {
    #[expect(
        clippy::result_large_err,
        reason = "the signature of tungstenite's callback"
    )]
    let accept = |_: &Upgrade, mut response: Upgraded| {
        let protocol = "v5.channel.k8s.io".parse().unwrap();
        response
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
        Ok(response)
    };
    let mut socket = tungstenite::accept_hdr(stream, accept).unwrap();
    let mut send = |channel: u8, text: &str| {
        let piece = [&[channel], text.as_bytes()].concat();
        socket.send(tungstenite::Message::binary(piece)).unwrap();
    };
    match says {
        Says::Generation(generation) => {
            let status = json!({
                "version": "", "programs": "", "node": "n", "pid": 1, "healthy": true,
                "synced": true, "programmed": true, "enforcing": true, "attachment": "tcx",
                "changes": 0, "repairs": 0, "endpoints": [], "other_interfaces": [],
                "diagnostics": [], "counters": {}, "sources": [],
                "policies": [{"kind": "NetworkPolicy", "policy": "shop/p",
                    "in_force": {"uid": "u", "generation": generation}}],
            });
            let text = status.to_string();
            let (first, second) = text.split_at(text.len() / 2);
            send(1, first);
            send(1, second);
            send(3, r#"{"metadata":{},"status":"Success"}"#);
        }
        Says::Error(text) => {
            send(2, text);
            send(
                3,
                r#"{"metadata":{},"status":"Failure","message":"exit 1"}"#,
            );
        }
    }
    socket.close(None).unwrap();
    // Until the client has closed its end as well.
    while socket.read().is_ok() {}
}

fn arguments() -> ClusterArgs {
    ClusterArgs {
        cluster: true,
        policy: None,
        kubeconfig: None,
        agent_namespace: "policy-agent".to_owned(),
        agent_selector: "app.kubernetes.io/name=policy-agent".to_owned(),
        agent_container: "policy-agent".to_owned(),
    }
}

fn ask(address: SocketAddr) -> Vec<Line> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = format!("http://{address}").parse().unwrap();
        let client = Client::try_from(Config::new(url)).unwrap();
        let patience = Duration::from_secs(20);
        once(&client, &arguments(), patience).await.unwrap()
    })
}

#[test]
fn every_agent_is_asked_in_its_pod_and_nodes_without_one_are_told() {
    let (address, asked) = server(vec![
        Says::Generation(4),
        Says::Generation(3),
        Says::Error("policy-agent: no agent answers at /run/policy-agent/socket\n"),
    ]);
    let lines = ask(address);
    let told: Vec<(&str, Has, &str)> = lines
        .iter()
        .map(|line| {
            let why = line.why.first().map_or("", String::as_str);
            (line.node.as_str(), line.in_force, why)
        })
        .collect();
    let expected = [
        ("node-0", Has::Yes, ""),
        (
            "node-1",
            Has::No,
            "shop/p: generation 3 is in force, and not 4",
        ),
        (
            "node-2",
            Has::Unknown,
            "pod agent-2: no agent answers at /run/policy-agent/socket",
        ),
        ("node-without", Has::No, "no agent runs here"),
    ];
    assert_eq!(told, expected);
    let asked = asked.lock().unwrap();
    let pods = asked.iter().find(|path| path.contains("/pods?")).unwrap();
    assert!(
        pods.contains("labelSelector=app.kubernetes.io%2Fname%3Dpolicy-agent"),
        "{pods}"
    );
    let exec = asked.iter().find(|path| path.contains("/exec?")).unwrap();
    for part in [
        "container=policy-agent",
        "command=%2Fpolicy-agent",
        "command=status",
    ] {
        assert!(exec.contains(part), "{exec}");
    }
}

#[test]
fn cluster_whose_nodes_all_have_it_says_so() {
    let (address, _) = server(vec![Says::Generation(4), Says::Generation(5)]);
    let mut lines = ask(address);
    lines.retain(|line| line.node != "node-without");
    assert_eq!(verdict(&lines), Has::Yes, "{lines:?}");
}

#[test]
fn table_has_a_line_a_node_and_says_why() {
    let line = |node: &str, in_force, why: &[&str]| Line {
        node: node.to_owned(),
        in_force,
        why: why.iter().map(ToString::to_string).collect(),
    };
    let lines = [
        line("node-1", Has::Yes, &[]),
        line(
            "node-2",
            Has::No,
            &["shop/p: generation 4 is not in force", "b"],
        ),
        line("node-3", Has::Unknown, &["pod x does not answer in time"]),
    ];
    assert_eq!(
        table(&lines),
        "NODE    IN FORCE  WHY\n\
         node-1  yes\n\
         node-2  NO        shop/p: generation 4 is not in force; b\n\
         node-3  ?         pod x does not answer in time\n"
    );
}

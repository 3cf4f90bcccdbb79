//! An API server whose every answer is the test's.
//!
//! Questions about one resource go to the test; of every other there is an empty
//! list and a watch in which nothing happens.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};

use super::BOUND;

/// The server.
pub(super) struct Server {
    address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    cut: broadcast::Sender<()>,
    accepting: tokio::task::JoinHandle<()>,
    sender: mpsc::Sender<Call>,
    focus: &'static str,
}

impl Server {
    /// Questions about `focus` are the test's to answer.
    pub(super) async fn start(focus: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::channel(64);
        let (cut, _) = broadcast::channel(1);
        let accepting = tokio::spawn(accept(listener, sender.clone(), cut.clone(), focus));
        Self {
            address,
            calls,
            cut,
            accepting,
            sender,
            focus,
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Goes away: no connection is left, and none is accepted.
    pub(super) async fn stop(&mut self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
        // Nobody may be connected.
        let _ = self.cut.send(());
        while self.calls.try_recv().is_ok() {}
    }

    /// Comes back at the same address.
    pub(super) async fn restart(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.accepting = tokio::spawn(accept(
            listener,
            self.sender.clone(),
            self.cut.clone(),
            self.focus,
        ));
    }

    /// The next question about the resource in focus.
    #[track_caller]
    pub(super) fn call(&mut self) -> impl Future<Output = Call> {
        let caller = std::panic::Location::caller();
        async move {
            match tokio::time::timeout(BOUND, self.calls.recv()).await {
                Ok(Some(call)) => call,
                _ => panic!("{caller}: nobody asks"),
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    calls: mpsc::Sender<Call>,
    cut: broadcast::Sender<()>,
    focus: &'static str,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (calls, mut cut) = (calls.clone(), cut.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                () = serve(stream, calls, focus) => {}
                _ = cut.recv() => {}
            }
        });
    }
}

/// Serves one question, after which the connection ends.
async fn serve(mut stream: TcpStream, calls: mpsc::Sender<Call>, focus: &'static str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let token = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_token = name.eq_ignore_ascii_case("authorization");
        is_token.then(|| value.trim_start_matches("Bearer ").to_owned())
    });
    let (bytes, mut answer) = mpsc::channel::<Vec<u8>>(64);
    let call = Call {
        uri: head.split(' ').nth(1).unwrap().to_owned(),
        token: token.unwrap_or_default(),
        bytes,
    };
    let (mut reader, mut writer) = stream.split();
    let mut held = None;
    if call.resource() == focus {
        if calls.send(call).await.is_err() {
            return;
        }
    } else {
        let is_list = call.is_streaming_list();
        let mut stream = call.stream().await;
        if is_list {
            stream.complete("1").await;
        }
        held = Some(stream);
    }
    let write = async {
        // Ends, and with it the connection, when the test has let go of the call.
        while let Some(bytes) = answer.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        // The agent says no more, so it has gone away.
        _ = reader.read_u8() => {}
    }
    drop(held);
}

/// A question. Letting go of it cuts the connection.
pub(super) struct Call {
    uri: String,
    token: String,
    bytes: mpsc::Sender<Vec<u8>>,
}

impl Call {
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    fn resource(&self) -> &str {
        let path = self.uri.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// A parameter of the question.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.uri.split_once('?')?.1;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    }

    pub(super) fn is_streaming_list(&self) -> bool {
        self.parameter("sendInitialEvents") == Some("true")
    }

    /// The version after which a watch is asked for; `None`: it is no watch.
    pub(super) fn watch_after(&self) -> Option<&str> {
        let is_watch = self.parameter("watch") == Some("true") && !self.is_streaming_list();
        self.parameter("resourceVersion").filter(|_| is_watch)
    }

    /// Answers with a whole document.
    pub(super) async fn answer(self, status: u16, body: &Value) {
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // An agent that has gone away takes no answer.
        let _ = self.bytes.send((head + &body).into_bytes()).await;
    }

    /// Refuses.
    pub(super) async fn refuse(self, code: u16, reason: &str) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": format!("no: {reason}"), "reason": reason, "code": code,
        });
        self.answer(code, &status).await;
    }

    /// Answers with a page of a list.
    pub(super) async fn page(self, items: &[Value], version: &str, next: Option<&str>) {
        let metadata = json!({"resourceVersion": version, "continue": next});
        let list = json!({"kind": "List", "metadata": metadata, "items": items});
        self.answer(200, &list).await;
    }

    /// Answers with a document of which only a part comes.
    pub(super) async fn half_page(self, items: &[Value]) {
        let text = json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        let half = head + &text[..text.len() / 2];
        // As above.
        let _ = self.bytes.send(half.into_bytes()).await;
    }

    /// Answers with a stream.
    pub(super) async fn stream(self) -> Stream {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        let mut stream = Stream { bytes: self.bytes };
        stream.write(head.as_bytes().to_vec()).await;
        stream
    }
}

/// A watch. Letting go of it cuts the connection.
pub(super) struct Stream {
    bytes: mpsc::Sender<Vec<u8>>,
}

impl Stream {
    async fn write(&mut self, bytes: Vec<u8>) {
        // An agent that has gone away hears nothing.
        let _ = self.bytes.send(bytes).await;
    }

    /// Sends text as it is.
    pub(super) async fn text(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.write(chunk.into_bytes()).await;
    }

    pub(super) async fn event(&mut self, kind: &str, object: &Value) {
        let event = json!({"type": kind, "object": object});
        self.text(&format!("{event}\n")).await;
    }

    pub(super) async fn bookmark(&mut self, version: &str) {
        let object = json!({"metadata": {"resourceVersion": version}});
        self.event("BOOKMARK", &object).await;
    }

    /// The list is complete.
    pub(super) async fn complete(&mut self, version: &str) {
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let metadata = json!({"resourceVersion": version, "annotations": annotations});
        self.event("BOOKMARK", &json!({"metadata": metadata})).await;
    }

    /// The version is not kept any more.
    pub(super) async fn expired(&mut self) {
        let status = json!({"kind": "Status", "code": 410, "reason": "Expired",
            "message": "too old resource version"});
        self.event("ERROR", &status).await;
    }

    /// Ends as a watch does whose time is up.
    pub(super) async fn end(mut self) {
        self.write(b"0\r\n\r\n".to_vec()).await;
    }
}

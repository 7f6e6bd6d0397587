//! Streaming methods over HTTP/1.1: a line for each message.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::http::head;
use support::keys::unique;
use support::server::Server;
use support::within;

use crate::{base64, ok, post, refused, send};

/// A request whose body goes on while the answer comes.
struct DuplexRequest {
    stream: TcpStream,
    received: String,
}

impl DuplexRequest {
    async fn start(server: &Server, path: &str, headers: &[(&str, &str)]) -> DuplexRequest {
        let address = server.address();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = head("POST", path, &[&[("Host", &*address)], headers].concat(), None);
        stream.write_all(head.as_bytes()).await.unwrap();
        DuplexRequest { stream, received: String::new() }
    }

    async fn send(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.stream.write_all(chunk.as_bytes()).await.unwrap();
    }

    async fn end(&mut self) {
        self.stream.write_all(b"0\r\n\r\n").await.unwrap();
    }

    /// Reads until `text` has come, and forgets what was before it.
    async fn receive(&mut self, text: &str) {
        let reading = async {
            while !self.received.contains(text) {
                let mut bytes = [0; 4096];
                let count = self.stream.read(&mut bytes).await.unwrap();
                assert_ne!(count, 0, "the end comes before {text}: {}", self.received);
                self.received += std::str::from_utf8(&bytes[..count]).unwrap();
            }
        };
        within(text, reading).await;
        let (_, rest) = self.received.split_once(text).unwrap();
        self.received = rest.to_owned();
    }

    async fn ends(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.received);
        within("the end", self.stream.read_to_string(&mut rest)).await.unwrap();
        rest
    }
}

/// GW-4
#[tokio::test]
async fn each_keep_alive_gets_a_response_on_its_own_line() {
    let server = Server::shared().await;
    let lease = ok(&server, "/v3/lease/grant", r#"{"TTL":"100"}"#).await;
    let id = lease["ID"].as_str().unwrap();
    let answer =
        post(&server, "/v3/lease/keepalive", &format!(r#"{{"ID":"{id}"}} {{"ID":{id}}}{{"ID":"5"}}x"#)).await;
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, Some("chunked")));
    let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ttls: Vec<_> = lines.iter().map(|line| (&line["result"]["ID"], &line["result"]["TTL"])).collect();
    // A lease that is not there has a TTL of zero, which is left out.
    assert_eq!(ttls, [(&json!(id), &json!("100")), (&json!(id), &json!("100")), (&json!("5"), &Value::Null)]);
    let nothing = post(&server, "/v3/lease/keepalive", "").await;
    assert_eq!((nothing.status, &*nothing.body, nothing.header("content-type")), (200, "", None));
}

/// GW-4, WAT-14: a watch begins before its request has ended, and goes on after it.
#[tokio::test]
async fn a_watch_is_a_bidirectional_stream() {
    let server = Server::shared().await;
    let client = server.client().await;
    let key = unique("watched");
    let name = base64(&key);
    let mut call = DuplexRequest::start(&server, "/v3/watch", &[]).await;
    let create = format!(r#"{{"create_request":{{"key":"{name}","watch_id":"7"}}}}"#);
    // A value counts as soon as its last byte has come.
    let (first, last) = create.split_at(20);
    call.send(first).await;
    call.send(last).await;
    call.receive("HTTP/1.1 200 OK").await;
    call.receive(r#""watch_id":"7","created":true}}"#).await;
    let revision = client.put(&key, "<&>").await;
    let event = format!(
        r#""watch_id":"7","events":[{{"kv":{{"key":"{name}","create_revision":"{revision}","mod_revision":"{revision}","version":"1","value":"PCY+"}}}}]}}}}"#
    );
    call.receive(&event).await;
    call.send(r#"{"cancel_request":{"watch_id":"7"}}{"createRequest":{"key":"eA==","watchId":8}}"#).await;
    call.receive(r#""watch_id":"7","canceled":true}}"#).await;
    call.receive(r#""watch_id":"8","created":true}}"#).await;
    call.end().await;
    client.put("x", "after the end of the request").await;
    call.receive(r#""watch_id":"8","events":[{"#).await;
}

/// GW-4
#[tokio::test]
async fn an_error_ends_a_gateway_stream_as_its_last_message() {
    let server = Server::shared().await;
    let error = r#"{"error":{"code":4,"message":"context deadline exceeded"}}"#;
    let mut call = DuplexRequest::start(&server, "/v3/watch", &[("Grpc-Timeout", "2S")]).await;
    call.send(r#"{"create_request":{"key":"YQ=="}}"#).await;
    call.receive("HTTP/1.1 200 OK").await;
    call.receive(r#""created":true}}"#).await;
    call.end().await;
    call.receive(error).await;
    assert!(call.ends().await.ends_with("0\r\n\r\n"));
    // Before the first answer there is still a status to give.
    let mut call = DuplexRequest::start(&server, "/v3/watch", &[("Grpc-Timeout", "300m")]).await;
    call.receive("HTTP/1.1 504 Gateway Timeout").await;
    call.receive("\"error\":{\"code\":4,").await;
    refused(
        &server,
        "/v3/election/observe",
        "x",
        400,
        3,
        "invalid character 'x' looking for beginning of value",
    )
    .await;
}

/// A client that goes away leaves no watch behind.
#[tokio::test]
async fn a_watch_ends_with_its_connection() {
    let server = Server::start().await;
    let mut call = DuplexRequest::start(&server, "/v3/watch", &[]).await;
    call.send(r#"{"create_request":{"key":"YQ=="}}"#).await;
    call.receive(r#""created":true}}"#).await;
    let streams = async || {
        let metrics = send(&server, "GET", "/metrics", &[], "").await.body;
        let line = metrics.lines().find(|line| line.starts_with("etcd_debugging_mvcc_watch_stream_total"));
        line.unwrap().trim_start_matches("etcd_debugging_mvcc_watch_stream_total").parse::<u32>().unwrap()
    };
    assert_eq!(streams().await, 1);
    drop(call);
    support::eventually("the watch to be gone", async || (streams().await == 0).then_some(())).await;
}

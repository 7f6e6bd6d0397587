//! The JSON gateway as its clients see it: plain HTTP/1.1, streams and WebSockets.
//!
//! All of it is checked on etcd too, with `JETWAY_TEST_TARGET=etcd`. Go puts a space after each comma in some
//! builds and not in others, and after `proto:` now a space and now a no-break one; that is all the text that
//! may differ.

mod forms;
mod headers;
mod paths;
mod streams;
mod websocket;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use support::http::{HttpAnswer, request};
use support::server::Server;

/// JSON without space outside of strings.
fn compact(json: &str) -> String {
    let (mut out, mut in_string, mut escaped) = (String::new(), false, false);
    for character in json.replace('\u{a0}', " ").chars() {
        let is_quote = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        in_string ^= is_quote;
        if in_string || character != ' ' {
            out.push(character);
        }
    }
    out
}

async fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> HttpAnswer {
    let address = server.address();
    let headers = [&[("Host", &*address)], headers].concat();
    let mut answer = request(&address, method, path, &headers, body).await;
    answer.body = compact(&answer.body);
    answer
}

async fn post(server: &Server, path: &str, body: &str) -> HttpAnswer {
    send(server, "POST", path, &[], body).await
}

async fn refused(server: &Server, path: &str, body: &str, status: u16, code: i32, message: &str) {
    let answer = post(server, path, body).await;
    let expected = json!({ "code": code, "message": message });
    let found: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    assert_eq!((answer.status, found), (status, expected), "{path} {body}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

async fn ok(server: &Server, path: &str, body: &str) -> Value {
    let answer = post(server, path, body).await;
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("grpc-metadata-content-type"), Some("application/grpc"));
    serde_json::from_str(&answer.body).unwrap()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn number(value: &Value) -> i64 {
    value.as_str().unwrap().parse().unwrap()
}

//! Heads of HTTP/1 requests, byte by byte: several on one connection, without a Host, with another method's
//! name in them, with a wish for gzip.

use std::io::Read as _;

use flate2::read::GzDecoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::server::Server;
use support::within;

/// The bytes that come back on a connection.
struct Answers {
    bytes: Vec<u8>,
}

impl Answers {
    /// Sends these bytes, and behind them a request that ends the connection, unless the server has ended it
    /// before.
    async fn to(server: &Server, requests: &[u8]) -> Self {
        const LAST: &[u8] = b"GET /version HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n";
        let bytes = within("the end of the connection", async {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            stream.write_all(&[requests, LAST].concat()).await.unwrap();
            let mut bytes = Vec::new();
            // A server that ends it may leave bytes of the last request unread, and so reset it.
            drop(stream.read_to_end(&mut bytes).await);
            bytes
        })
        .await;
        Self { bytes }
    }

    /// The texts behind the version in the status lines.
    fn statuses(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines = text.split('\n').filter_map(|line| line.split_once("HTTP/1."));
        lines.map(|(_, rest)| rest[2..].trim().to_owned()).collect()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

const RANGE: &str = "/v3/kv/range";
const BODY: &str = r#"{"key":"YQ=="}"#;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

/// HTTP-5: requests of every kind that come together are answered one after the other, in order.
#[tokio::test]
async fn requests_that_come_together_are_all_answered() {
    let server = Server::start().await;
    let chunked = format!(
        "POST {RANGE} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{BODY}\r\n0\r\n\r\n",
        BODY.len()
    );
    let requests = [
        (get("/version"), "200 OK"),
        (post(RANGE, "", BODY), "200 OK"),
        (get("/health"), "200 OK"),
        (chunked, "200 OK"),
        (get("/nowhere"), "404 Not Found"),
        (post("/version", "", BODY), "405 Method Not Allowed"),
        (post("/v3/kv/nowhere", "", BODY), "404 Not Found"),
        (get(RANGE), "501 Not Implemented"),
        (post(RANGE, "", "{no"), "400 Bad Request"),
        (get("//version"), "307 Temporary Redirect"),
        ("HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "200 OK"),
        ("OPTIONS /v3/watch HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "200 OK"),
        (get("/metrics"), "200 OK"),
    ];
    let all: String = requests.iter().map(|(request, _)| request.as_str()).collect();
    let answers = Answers::to(&server, all.as_bytes()).await;
    let expected: Vec<_> = requests.iter().map(|(_, status)| *status).chain(["200 OK"]).collect();
    assert_eq!(answers.statuses(), expected);
}

/// HTTP-6: HTTP/1.1 needs one Host of legal characters. A refusal ends the connection.
#[tokio::test]
async fn a_request_needs_one_legal_host() {
    let server = Server::start().await;
    let with = |head: &str| format!("{head}\r\n\r\n").into_bytes();
    const MISSING: &str = "400 Bad Request: missing required Host header";
    const MALFORMED: &str = "400 Bad Request: malformed Host header";
    for (request, status) in [
        (with("GET /version HTTP/1.1"), MISSING),
        (with("GET /metrics HTTP/1.1"), MISSING),
        (with("GET /nowhere HTTP/1.1"), MISSING),
        (with(&format!("POST {RANGE} HTTP/1.1\r\nContent-Length: 0")), MISSING),
        (with("OPTIONS /version HTTP/1.1"), MISSING),
        (with("GET http://h/version HTTP/1.1"), MISSING),
        (with("GET /version HTTP/1.1\r\nHost: h\r\nHost: h"), "400 Bad Request"),
        (with("GET /version HTTP/1.1\r\nHost: h\r\nhost: i"), "400 Bad Request"),
        (with("GET /version HTTP/1.0\r\nHost: h\r\nHost: i"), "400 Bad Request"),
        (with("GET /version HTTP/1.1\r\nHost: a b"), MALFORMED),
        (with("GET /version HTTP/1.1\r\nHost: a/b"), MALFORMED),
        (with("GET /version HTTP/1.1\r\nHost: u@h"), MALFORMED),
        (with("GET /version HTTP/1.1\r\nHost: <h>"), MALFORMED),
        (with("GET /version HTTP/1.1\r\nHost: {h}"), MALFORMED),
        (with("GET /version HTTP/1.0\r\nHost: \"h\""), MALFORMED),
        (b"GET /version HTTP/1.1\r\nHost: h\xff\r\n\r\n".to_vec(), MALFORMED),
        (with("GET /version HTTP/1.1\r\nHost: h\r\nExpect: tea"), "417 Expectation Failed"),
        (with("GET * HTTP/1.1\r\nHost: h"), "400 Bad Request"),
        // A client of HTTP/1.0 may not know the header, and its connection ends with the answer.
        (with("GET /version HTTP/1.0"), "200 OK"),
    ] {
        let answers = Answers::to(&server, &request).await;
        let named = String::from_utf8_lossy(&request).into_owned();
        assert_eq!(answers.statuses(), [status], "{named}");
        if status.starts_with("400 Bad Request:") {
            assert!(answers.text().ends_with(status), "{named}: {}", answers.text());
        }
    }
    for request in [
        with("GET /version HTTP/1.1\r\nHost:"),
        with("GET /version HTTP/1.1\r\nHost: [::1]:2379"),
        with("GET /version HTTP/1.1\r\nHost: a_b.c~d!$&'()*+,;=%41"),
        with("GET http://x/version HTTP/1.1\r\nHost: y"),
        with("GET /version HTTP/1.0\r\nConnection: keep-alive"),
        with("GET /version HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue"),
        with("GET /version HTTP/1.1\r\nHost: h\r\nExpect:"),
    ] {
        let answers = Answers::to(&server, &request).await;
        let statuses = answers.statuses();
        assert_eq!(
            statuses[statuses.len() - 2..],
            ["200 OK", "200 OK"],
            "{}",
            String::from_utf8_lossy(&request)
        );
    }
}

/// GW-7: a form may name another method, which no call has.
#[tokio::test]
async fn a_form_may_name_another_method() {
    let server = Server::start().await;
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
    for (method, path, status) in [
        ("GET", RANGE, "501 Not Implemented"),
        ("get", RANGE, "501 Not Implemented"),
        ("DELETE", RANGE, "501 Not Implemented"),
        ("NONSENSE", "/v3/watch", "501 Not Implemented"),
        ("PUT", "/v3/kv/nowhere", "404 Not Found"),
        ("", RANGE, "200 OK"),
        // The form is taken for the parameters, so that nothing is left of the message.
        ("post", RANGE, "400 Bad Request"),
        ("PUT", "/health", "405 Method Not Allowed"),
    ] {
        let headers = format!("{FORM}X-HTTP-Method-Override: {method}\r\n");
        let answers = Answers::to(&server, post(path, &headers, BODY).as_bytes()).await;
        assert_eq!(answers.statuses(), [status, "200 OK"], "{method} {path}");
    }
    // Any other type of content is no form.
    for kind in
        ["", "Content-Type: application/json\r\n", "Content-Type: application/x-www-form-urlencoded; a=b\r\n"]
    {
        let headers = format!("{kind}X-HTTP-Method-Override: PUT\r\n");
        let answers = Answers::to(&server, post(RANGE, &headers, BODY).as_bytes()).await;
        assert_eq!(answers.statuses(), ["200 OK", "200 OK"], "{kind}");
    }
}

/// MET-7: `/metrics` is sent in gzip to clients that would rather have it than plain text.
#[tokio::test]
async fn metrics_come_in_gzip_if_the_client_prefers_it() {
    let server = Server::start().await;
    for (accepted, is_packed) in [
        ("gzip", true),
        (" gzip ", true),
        ("gzip, deflate, br", true),
        ("deflate,gzip", true),
        ("gzip;q=0.5", true),
        ("gzip ; q=0.001", true),
        ("identity;q=0, gzip", true),
        ("identity;q=0.4, gzip;q=0.5", true),
        ("deflate\r\nAccept-Encoding: gzip", true),
        ("gzip x, identity", true),
        ("", false),
        ("GZIP", false),
        ("x-gzip", false),
        ("*", false),
        ("br, *", false),
        ("identity", false),
        ("identity, gzip", false),
        ("identity;q=1, gzip;q=0.1", false),
        ("gzip;q=0.5, *", false),
        ("gzip;q=0", false),
        ("gzip;q=0.000", false),
        ("gzip;q=0, *;q=1", false),
        ("gzip;q=2", false),
        ("gzip;q=x", false),
        ("gzip;level=1", false),
        (", gzip", false),
    ] {
        let request = format!("GET /metrics HTTP/1.0\r\nHost: h\r\nAccept-Encoding: {accepted}\r\n\r\n");
        let answers = Answers::to(&server, request.as_bytes()).await;
        let end = answers.bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let (head, body) = answers.bytes.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_lowercase();
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{accepted}: {head}");
        assert_eq!(head.contains("content-encoding: gzip"), is_packed, "{accepted}: {head}");
        let mut text = String::new();
        if is_packed {
            GzDecoder::new(body).read_to_string(&mut text).expect("gzip");
        } else {
            text.push_str(std::str::from_utf8(body).expect("text"));
        }
        assert!(text.contains("\netcd_server_has_leader 1\n"), "{accepted}: {text}");
    }
}

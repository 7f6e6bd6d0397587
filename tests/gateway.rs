//! The JSON gateway as its clients see it: plain HTTP/1.1, streams and WebSockets.
//!
//! All of it is checked on etcd too, with `JETWAY_TEST_TARGET=etcd`. Go puts a space after each comma in some
//! builds and not in others, and after `proto:` now a space and now a no-break one; that is all the text that
//! may differ.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::http::{HttpAnswer, head, request};
use support::keys::unique;
use support::server::Server;
use support::within;

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

/// GW-1: every path there is, with a request that is refused or harmless.
#[tokio::test]
async fn every_method_has_its_path() {
    let server = Server::start().await;
    for (path, body, status, part) in [
        ("kv/range", r#"{"key":"YQ=="}"#, 200, "\"header\""),
        ("kv/put", "", 400, "etcdserver: key is not provided"),
        ("kv/deleterange", "", 400, "etcdserver: key is not provided"),
        ("kv/txn", "", 200, "\"header\""),
        ("kv/compaction", r#"{"revision":"9999"}"#, 400, "future revision"),
        ("kv/lease/revoke", r#"{"ID":"9"}"#, 404, "etcdserver: requested lease not found"),
        ("kv/lease/timetolive", r#"{"ID":"9"}"#, 200, r#""ID":"9","TTL":"-1"}"#),
        ("kv/lease/leases", "", 200, "\"header\""),
        ("lease/grant", r#"{"TTL":"10000000000"}"#, 400, "etcdserver: too large lease TTL"),
        ("lease/revoke", r#"{"ID":"9"}"#, 404, "etcdserver: requested lease not found"),
        ("lease/keepalive", r#"{"ID":"9"}"#, 200, r#"{"result":{"header":{"#),
        ("lease/timetolive", r#"{"ID":"9"}"#, 200, r#""ID":"9","TTL":"-1"}"#),
        ("lease/leases", "", 200, "\"header\""),
        (
            "cluster/member/add",
            r#"{"peerURLs":["nonsense"]}"#,
            400,
            "etcdserver: given member URLs are invalid",
        ),
        ("cluster/member/remove", r#"{"ID":"9"}"#, 404, "etcdserver: member not found"),
        (
            "cluster/member/update",
            r#"{"ID":"9","peerURLs":["http://127.0.0.1:1"]}"#,
            404,
            "etcdserver: member not found",
        ),
        ("cluster/member/list", "", 200, r#""members":[{"#),
        ("cluster/member/promote", r#"{"ID":"9"}"#, 404, "etcdserver: member not found"),
        ("maintenance/alarm", "", 200, "\"header\""),
        ("maintenance/status", "", 200, r#""version":"3.7.3""#),
        ("maintenance/defragment", "", 200, "{}"),
        ("maintenance/hash", "", 200, "\"hash\""),
        ("maintenance/hashkv", "", 200, "\"hash_revision\""),
        ("maintenance/transfer-leadership", r#"{"targetID":"9"}"#, 400, "etcdserver: bad leader transferee"),
        ("maintenance/downgrade", "", 400, "etcdserver: wrong downgrade target version format"),
        ("auth/status", "", 200, r#""authRevision":"1""#),
        ("auth/authenticate", r#"{"name":"a"}"#, 400, "etcdserver: authentication is not enabled"),
        ("election/leader", r#"{"name":"eA=="}"#, 500, "election: no leader"),
        ("lock/lock", r#"{"name":"eA==","lease":"77"}"#, 500, "etcdserver: requested lease not found"),
        ("lock/unlock", r#"{"key":"eA=="}"#, 200, "\"header\""),
    ] {
        for prefix in ["/v3/", "/v3beta/"] {
            let path = format!("{prefix}{path}");
            let answer = post(&server, &path, body).await;
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            assert!(answer.body.contains(part), "{path}: {answer:?}");
        }
        for method in ["GET", "PUT", "DELETE"] {
            let answer = send(&server, method, &format!("/v3/{path}"), &[], "").await;
            let expected = r#"{"code":12,"message":"Method Not Allowed"}"#;
            assert_eq!((answer.status, &*answer.body), (501, expected), "{method} {path}");
        }
    }
}

/// GW-1
#[tokio::test]
async fn other_paths_are_not_found() {
    let server = Server::shared().await;
    for path in
        ["/v3/", "/v3/nothing", "/v3/kv", "/v3/kv/range/", "/v3/kv/rangestream", "/v3/etcdserverpb.KV/Range"]
    {
        refused(&server, path, "", 404, 5, "Not Found").await;
    }
    for path in ["/v3alpha/kv/range", "/v3beta"] {
        let answer = post(&server, path, "").await;
        assert_eq!((answer.status, &*answer.body), (404, "404pagenotfound\n"), "{path}");
    }
    for (path, place) in
        [("/v3", "/v3/"), ("/v3//kv/range", "/v3/kv/range"), ("/v3/kv/../kv/range?a=b", "/v3/kv/range?a=b")]
    {
        let answer = post(&server, path, "").await;
        assert_eq!((answer.status, answer.header("location")), (307, Some(place)), "{path}");
    }
    assert_eq!(post(&server, "/v3/kv/%72ange", r#"{"key":"YQ=="}"#).await.status, 200);
}

/// GW-1
#[tokio::test]
async fn the_gateway_can_be_disabled() {
    let server = Server::start_with(&["--enable-grpc-gateway=false"]).await;
    for path in ["/v3/kv/range", "/v3/", "/v3", "/v3beta/kv/range"] {
        let answer = send(&server, "POST", path, &[], "").await;
        assert_eq!((answer.status, &*answer.body), (404, "404pagenotfound\n"), "{path}");
    }
}

/// GW-2: the text itself, but for the numbers that are the server's own.
#[tokio::test]
async fn responses_have_proto_names_and_quoted_numbers() {
    let server = Server::shared().await;
    let key = unique("gateway");
    let name = base64(&key);
    let put = ok(&server, "/v3/kv/put", &format!(r#"{{"key":"{name}","value":"AP8="}}"#)).await;
    let revision = number(&put["header"]["revision"]);
    ok(&server, "/v3/kv/put", &format!(r#"{{"key":"{name}","value":"/+8="}}"#)).await;
    let later = revision + 1;
    let range = post(&server, "/v3/kv/range", &format!(r#"{{"key":"{name}"}}"#)).await;
    let header = |text: &str| {
        let (header, rest) =
            text.strip_prefix(r#"{"header":{"cluster_id":""#).unwrap().split_once('}').unwrap();
        let names: Vec<_> = header.split(',').map(|field| field.split(':').next().unwrap()).collect();
        assert_eq!(names[1..], ["\"member_id\"", "\"revision\"", "\"raft_term\""]);
        rest.to_owned()
    };
    let kv = format!(
        r#"{{"key":"{name}","create_revision":"{revision}","mod_revision":"{later}","version":"2","value":"/+8="}}"#
    );
    assert_eq!(header(&range.body), format!(r#","kvs":[{kv}],"count":"1"}}"#));
    // Zeros are left out: no kvs, no count, no succeeded, no deleted.
    let nothing = post(&server, "/v3/kv/range", &format!(r#"{{"key":"{}"}}"#, base64(unique("none")))).await;
    assert_eq!(header(&nothing.body), "}");
    let failed = format!(r#"{{"compare":[{{"key":"{name}","version":"7","target":"VERSION"}}]}}"#);
    assert_eq!(header(&post(&server, "/v3/kv/txn", &failed).await.body), "}");
    let txn = format!(
        r#"{{"compare":[{{"key":"{name}","version":"2"}}],"success":[{{"request_delete_range":{{"key":"{name}","prevKv":true}}}}]}}"#
    );
    let deleted = later + 1;
    assert_eq!(
        header(&post(&server, "/v3/kv/txn", &txn).await.body),
        format!(
            r#","succeeded":true,"responses":[{{"response_delete_range":{{"header":{{"revision":"{deleted}"}},"deleted":"1","prev_kvs":[{kv}]}}}}]}}"#
        )
    );
    let alarm = r#"{"action":"GET","alarm":"NOSPACE"}"#;
    assert_eq!(header(&post(&server, "/v3/maintenance/alarm", alarm).await.body), "}");
}

/// GW-3: one request in many forms.
#[tokio::test]
async fn requests_are_accepted_in_every_form_of_proto_json() {
    let server = Server::shared().await;
    let key = unique("forms\u{fffd}?>");
    let (standard, url_safe) = (base64(&key), base64(&key).replace('+', "-").replace('/', "_"));
    ok(&server, "/v3/kv/put", &format!(r#"{{"key":"{standard}"}}"#)).await;
    for body in [
        format!(r#"{{"key":"{standard}","limit":"1","sort_order":"ASCEND","keys_only":true}}"#),
        format!(r#"{{"key":"{}","limit":1,"sortOrder":1,"keysOnly":true}}"#, standard.trim_end_matches('=')),
        format!(r#"{{"key":"{url_safe}","limit":10e-1,"sortOrder":"NO_SUCH_ORDER","keysOnly":true}}"#),
        format!(
            r#" {{ "unknown" : [ {{ "a" : "}}" }} , 1.5e3 ] , "key" : "{standard}" , "limit" : "1.0" , "revision" : null }} rest"#
        ),
    ] {
        let answer = ok(&server, "/v3/kv/range", &body).await;
        assert_eq!(answer["kvs"][0]["key"], standard, "{body}");
    }
}

/// GW-3
#[tokio::test]
async fn unreadable_requests_are_refused_with_the_texts_of_go() {
    let server = Server::shared().await;
    for (body, message) in [
        ("", "etcdserver: key is not provided"),
        ("   ", "etcdserver: key is not provided"),
        ("{", "unexpected EOF"),
        ("tru", "unexpected EOF"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("{'a'}", "invalid character '\\'' looking for beginning of object key string"),
        ("{\"a\" 1}", "invalid character '1' after object key"),
        ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
        ("{\"a\":[1 2]}", "invalid character '2' after array element"),
        ("{\"a\":\"\\x\"}", "invalid character 'x' in string escape code"),
        ("{\"a\":-}", "invalid character '}' in numeric literal"),
        ("{\"a\":nul}", "invalid character '}' in literal null (expecting 'l')"),
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        ("null", "proto: syntax error (line 1:1): unexpected token null"),
        ("5", "proto: syntax error (line 1:1): unexpected token 5"),
        ("{\"key\":5}", "proto: (line 1:8): invalid value for bytes field key: 5"),
        ("{\"key\":\"%%\"}", "proto: (line 1:8): invalid value for bytes field key: \"%%\""),
        ("{\"key\":\"Zg=\"}", "proto: (line 1:8): invalid value for bytes field key: \"Zg=\""),
        ("{\n \"key\":\"Zg\",\n \"key\":\"Zg\"}", "proto: (line 3:2): duplicate field \"key\""),
        ("{\"limit\":\"2.5\"}", "proto: (line 1:10): invalid value for int64 field limit: \"2.5\""),
        (
            "{\"limit\":9223372036854775808}",
            "proto: (line 1:10): invalid value for int64 field limit: 9223372036854775808",
        ),
        (
            "{\"serializable\":\"true\"}",
            "proto: (line 1:17): invalid value for bool field serializable: \"true\"",
        ),
        ("{\"key\":\"\\ud800\"}", "proto: unexpected EOF"),
        (
            "{\"key\":\"\\ud800abcdef\"}",
            "proto: syntax error (line 1:8): invalid escape code \"abcdef\" in string",
        ),
        ("{\"sort_order\":[]}", "proto: (line 1:15): invalid value for enum field sortOrder: ["),
    ] {
        refused(&server, "/v3/kv/range", body, 400, 3, message).await;
    }
    for (body, message) in [
        ("{\"success\":{}}", "proto: syntax error (line 1:12): unexpected token {"),
        ("{\"success\":[null]}", "proto: syntax error (line 1:13): unexpected token null"),
        (
            "{\"success\":[{\"request_put\":{},\"requestRange\":{}}]}",
            "proto: (line 1:31): error parsing \"requestRange\", oneof etcdserverpb.RequestOp.request is already set",
        ),
    ] {
        refused(&server, "/v3/kv/txn", body, 400, 3, message).await;
    }
    let deep = format!("{{\"a\":{}", "[".repeat(10_000));
    refused(&server, "/v3/kv/range", &deep, 400, 3, "invalid character '[' exceeded max depth").await;
}

/// GW-5, LIM-2
#[tokio::test]
async fn each_grpc_code_has_its_http_status() {
    let server = Server::start().await;
    refused(&server, "/v3/lease/revoke", r#"{"ID":"7"}"#, 404, 5, "etcdserver: requested lease not found")
        .await;
    refused(
        &server,
        "/v3/kv/range",
        r#"{"key":"YQ==","revision":"1000"}"#,
        400,
        11,
        "etcdserver: mvcc: required revision is a future revision",
    )
    .await;
    ok(&server, "/v3/lease/grant", r#"{"ID":"7","TTL":"100"}"#).await;
    refused(
        &server,
        "/v3/lease/grant",
        r#"{"ID":"7","TTL":"100"}"#,
        400,
        9,
        "etcdserver: lease already exists",
    )
    .await;
    refused(&server, "/v3/election/leader", r#"{"name":"eA=="}"#, 500, 2, "election: no leader").await;
    let put = |bytes: usize| format!(r#"{{"key":"YQ==","value":"{}"}}"#, base64(vec![0; bytes]));
    refused(&server, "/v3/kv/put", &put(1_600_000), 400, 3, "etcdserver: request is too large").await;
    let message = "grpc: received message larger than max (2100008 vs. 2097152)";
    refused(&server, "/v3/kv/put", &put(2_100_000), 429, 8, message).await;
}

/// GW-6, MD-3
#[tokio::test]
async fn headers_become_metadata() {
    let server = Server::start().await;
    let range = r#"{"key":"YQ=="}"#;
    let with = async |headers: &[(&str, &str)]| {
        let answer = send(&server, "POST", "/v3/kv/range", headers, range).await;
        (answer.status, answer.body)
    };
    assert_eq!(
        with(&[("Grpc-Timeout", "1n")]).await,
        (504, r#"{"code":4,"message":"context deadline exceeded"}"#.to_owned())
    );
    assert_eq!(
        with(&[("Grpc-Timeout", "abc")]).await,
        (400, r#"{"code":3,"message":"invalid grpc-timeout: abc"}"#.to_owned())
    );
    for timeout in ["10S", "0S", "99999999999m"] {
        assert_eq!(with(&[("Grpc-Timeout", timeout)]).await.0, 200, "{timeout}");
    }
    let headers =
        [("Grpc-Metadata-Client-Api-Version", "3.7"), ("Grpc-Metadata-Hasleader", "true"), ("X-Other", "x")];
    assert_eq!(with(&headers).await.0, 200);
    assert_eq!(with(&[("Grpc-Metadata-X-Bin", "%%")]).await.0, 400);
    let metrics = send(&server, "GET", "/metrics", &[], "").await.body;
    let counted = r#"etcd_server_client_requests_total{client_api_version="3.7",type="unary"}1"#;
    assert!(metrics.contains(counted), "{metrics}");
    // A token that means nothing while auth is off does no harm.
    assert_eq!(with(&[("Authorization", "nonsense")]).await.0, 200);
}

/// GW-1, GW-6, MD-1: auth from beginning to end, by JSON alone.
#[tokio::test]
async fn the_authorization_header_is_the_token() {
    let server = Server::start().await;
    let (key, end) = (base64("a"), base64("b"));
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"r"}"#.to_owned()),
        ("user/grant", r#"{"user":"root","role":"root"}"#.to_owned()),
        ("user/add", r#"{"name":"<&>","password":"p"}"#.to_owned()),
        ("user/changepw", r#"{"name":"<&>","password":"q"}"#.to_owned()),
        ("role/add", r#"{"name":"reader"}"#.to_owned()),
        (
            "role/grant",
            format!(r#"{{"name":"reader","perm":{{"permType":"READ","key":"{key}","range_end":"{end}"}}}}"#),
        ),
        ("user/grant", r#"{"user":"<&>","role":"reader"}"#.to_owned()),
        ("enable", String::new()),
    ] {
        if path == "user/grant" && body.contains("root") {
            ok(&server, "/v3/auth/role/add", r#"{"name":"root"}"#).await;
        }
        ok(&server, &format!("/v3/auth/{path}"), &body).await;
    }
    let range = format!(r#"{{"key":"{key}"}}"#);
    refused(&server, "/v3/kv/range", &range, 400, 3, "etcdserver: user name is empty").await;
    let wrong = r#"{"name":"<&>","password":"p"}"#;
    let message = "etcdserver: authentication failed, invalid user ID or password";
    refused(&server, "/v3/auth/authenticate", wrong, 400, 3, message).await;
    let answer = ok(&server, "/v3/auth/authenticate", r#"{"name":"<&>","password":"q"}"#).await;
    let token = answer["token"].as_str().unwrap();
    let bearer = format!("Bearer {token}");
    for headers in [("Authorization", token), ("Authorization", &*bearer), ("Grpc-Metadata-Token", token)] {
        assert_eq!(
            send(&server, "POST", "/v3/kv/range", &[headers], &range).await.status,
            200,
            "{headers:?}"
        );
    }
    let header = [("Authorization", token)];
    let put = send(&server, "POST", "/v3/kv/put", &header, &range).await;
    assert_eq!((put.status, &*put.body), (403, r#"{"code":7,"message":"etcdserver: permission denied"}"#));
    let nobody = send(&server, "POST", "/v3/kv/range", &[("Authorization", "nobody")], &range).await;
    assert_eq!(
        (nobody.status, &*nobody.body),
        (401, r#"{"code":16,"message":"etcdserver: invalid auth token"}"#)
    );
    assert_eq!(nobody.header("www-authenticate"), Some("etcdserver: invalid auth token"));

    let create = format!(r#"{{"create_request":{{"key":"{key}"}}}}"#);
    let protocol = format!("Bearer, {token}");
    let cookie = format!("a=b; token={token}");
    for (header, is_allowed) in [
        (("Sec-WebSocket-Protocol", &*protocol), true),
        (("Cookie", &*cookie), true),
        (("X-Other", token), false),
    ] {
        let (mut socket, _) = Socket::open(&server, "/v3/watch", &[header]).await;
        socket.send(Socket::TEXT, &create).await;
        let (_, answer) = socket.receive().await;
        let is_created = answer.ends_with(r#""created":true}}"#);
        assert_eq!(is_created, is_allowed, "{header:?}: {answer}");
    }
}

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

/// One end of a WebSocket.
struct Socket(TcpStream);

impl Socket {
    const TEXT: u8 = 0x81;
    const CLOSE: u8 = 0x88;

    /// A socket, and the head of the server's answer in lower case.
    async fn open(server: &Server, path: &str, headers: &[(&str, &str)]) -> (Socket, String) {
        let address = server.address();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        );
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("the handshake", stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
        (Socket(stream), head)
    }

    async fn send(&mut self, kind: u8, text: &str) {
        // A mask of zeros changes nothing.
        let mut frame = vec![kind, 0x80 | 126];
        frame.extend((text.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> (u8, String) {
        within("a message", async {
            let kind = self.0.read_u8().await.unwrap();
            let length = match self.0.read_u8().await.unwrap() {
                126 => self.0.read_u16().await.unwrap().into(),
                127 => self.0.read_u64().await.unwrap() as usize,
                length => usize::from(length),
            };
            let mut text = vec![0; length];
            self.0.read_exact(&mut text).await.unwrap();
            (kind, compact(&String::from_utf8(text).unwrap()))
        })
        .await
    }
}

/// GW-4
#[tokio::test]
async fn a_websocket_carries_a_bidirectional_stream() {
    let server = Server::shared().await;
    let client = server.client().await;
    let key = unique("socket");
    let (mut socket, _) = Socket::open(&server, "/v3/watch", &[]).await;
    let create = format!(r#"{{"create_request":{{"key":"{}"}}}}"#, base64(&key));
    socket.send(Socket::TEXT, &create).await;
    let (kind, created) = socket.receive().await;
    assert_eq!(kind, Socket::TEXT);
    assert!(created.ends_with(r#""created":true}}"#), "{created}");
    client.put(&key, "x").await;
    let (_, event) = socket.receive().await;
    assert!(event.contains(&format!(r#""events":[{{"kv":{{"key":"{}","#, base64(&key))), "{event}");

    let (mut socket, head) =
        Socket::open(&server, "/v3beta/lease/keepalive", &[("Sec-WebSocket-Protocol", "Bearer, token")])
            .await;
    assert!(head.contains("\r\nsec-websocket-protocol: bearer\r\n"), "{head}");
    for id in ["5", "6"] {
        socket.send(Socket::TEXT, &format!(r#"{{"ID":"{id}"}}"#)).await;
        let (_, answer) = socket.receive().await;
        assert!(answer.ends_with(&format!(r#""ID":"{id}"}}}}"#)), "{answer}");
    }
    // The error comes first, and then the connection ends.
    let (mut socket, _) = Socket::open(&server, "/v3/nothing", &[]).await;
    assert_eq!(socket.receive().await.1, r#"{"code":5,"message":"Not Found"}"#);
    let mut rest = Vec::new();
    within("the end", socket.0.read_to_end(&mut rest)).await.unwrap();
}

/// A client that closes its WebSocket leaves no watch behind.
#[tokio::test]
async fn a_watch_ends_with_its_websocket() {
    let server = Server::start().await;
    let (mut socket, _) = Socket::open(&server, "/v3/watch", &[]).await;
    socket.send(Socket::TEXT, r#"{"create_request":{"key":"YQ=="}}"#).await;
    socket.receive().await;
    socket.send(Socket::CLOSE, "").await;
    support::eventually("the watch to be gone", async || {
        let metrics = send(&server, "GET", "/metrics", &[], "").await.body;
        metrics.contains("etcd_debugging_mvcc_watch_stream_total0\n").then_some(())
    })
    .await;
}

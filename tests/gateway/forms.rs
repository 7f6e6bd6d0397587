//! Requests and responses as JSON, and the HTTP statuses of errors.

use support::keys::unique;
use support::server::Server;

use crate::{base64, number, ok, post, refused};

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

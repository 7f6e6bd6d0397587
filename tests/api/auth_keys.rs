//! Permissions of keys.

use jetway::proto::authpb::permission::Type::{Read, Readwrite, Write};
use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
};
use tonic::Code;

use support::auth::{add_user, auth_revision, enable, permission};
use support::client::{Client, all, compare, delete, get, op, put, refused, run};
use support::keys::b;
use support::server::Server;

const DENIED: &str = "etcdserver: permission denied";
const EMPTY: &str = "etcdserver: user name is empty";
const TOKEN: &str = "etcdserver: invalid auth token";

/// A range as on the wire.
fn range(key: impl AsRef<[u8]>, range_end: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest { key: b(key), range_end: b(range_end), ..Default::default() }
}

fn delete_range(key: impl AsRef<[u8]>, range_end: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: b(key), range_end: b(range_end), prev_kv: false }
}

/// A user with rights of each kind, and root.
async fn user_and_root(server: &Server) -> (Client, Client) {
    let client = server.client().await;
    let root = enable(&client).await;
    let permissions =
        [permission(Read, "r", "s"), permission(Write, "w", "x"), permission(Readwrite, "both", "")];
    add_user(&root, "u", &permissions).await;
    (client.login("u", "u").await, root)
}

/// AUT-10, AUT-11, AUT-3: every call of KV.
#[tokio::test]
async fn without_a_user_or_with_an_invalid_token_every_kv_call_is_refused() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    root.put("k", "v").await;
    let stranger = client.with_token("abcdefghijklmnop.7");
    let odd = client.with_token("odd");
    for (who, code, text) in [
        (&client, Code::InvalidArgument, EMPTY),
        (&stranger, Code::Unauthenticated, TOKEN),
        (&odd, Code::Unauthenticated, TOKEN),
        (&client.with_token(""), Code::Unauthenticated, TOKEN),
    ] {
        refused(who.get("k").await, code, text);
        refused(who.range(RangeRequest { serializable: true, ..get("k") }).await, code, text);
        let (chunks, status) = who.range_stream(get("k")).await;
        let status = status.unwrap();
        assert_eq!((chunks.len(), status.code(), status.message()), (0, code, text));
        refused(who.put_request(put("k", "w")).await, code, text);
        refused(who.delete_range(delete("k")).await, code, text);
        refused(who.txn(run(vec![op(put("k", "w"))])).await, code, text);
        refused(who.txn(run(vec![op(get("k"))])).await, code, text);
        refused(who.compact(1).await, code, text);
        // The request is checked before the user.
        refused(who.get("").await, Code::InvalidArgument, "etcdserver: key is not provided");
        refused(who.put_request(put("", "")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    }
    // A transaction that touches nothing needs nobody's permission.
    assert!(client.txn(TxnRequest::default()).await.unwrap().succeeded);
    refused(stranger.txn(TxnRequest::default()).await, Code::Unauthenticated, TOKEN);
    assert_eq!(root.kv("k").await.unwrap().value, "v");
}

/// MD-1
#[tokio::test]
async fn a_token_is_read_from_either_header_with_or_without_its_scheme() {
    let server = Server::start().await;
    let client = server.client().await;
    enable(&client).await;
    let token = client.authenticate("root", "root").await.unwrap().token;
    let with = |name: &'static str, value: String| {
        client.clone().with_metadata(name, Box::leak(value.into_boxed_str()))
    };
    for name in ["token", "authorization"] {
        with(name, token.clone()).get("k").await.unwrap();
        with(name, format!("Bearer {token}")).get("k").await.unwrap();
        for wrong in [format!("bearer {token}"), format!("Bearer  {token}"), "Bearer ".into()] {
            refused(with(name, wrong).get("k").await, Code::Unauthenticated, TOKEN);
        }
    }
    // The first name counts.
    let both = |first: &str, second: &str| {
        with("token", first.into())
            .with_metadata("authorization", Box::leak(second.to_owned().into_boxed_str()))
    };
    both(&token, "wrong").get("k").await.unwrap();
    refused(both("wrong", &token).get("k").await, Code::Unauthenticated, TOKEN);
}

/// AUT-2, AUT-3
#[tokio::test]
async fn a_call_needs_permissions_for_its_whole_range() {
    let server = Server::start().await;
    let (user, root) = user_and_root(&server).await;
    for key in ["r1", "w1", "both", "z"] {
        root.put(key, "v").await;
    }
    // Reading.
    for request in
        [get("r"), get("r1"), range("r", "s"), range("r1", "r2"), get("both"), range("both", "both\0")]
    {
        user.range(request.clone()).await.unwrap();
        user.range(RangeRequest { serializable: true, count_only: true, ..request.clone() }).await.unwrap();
        assert!(user.range_stream(request).await.1.is_none());
    }
    for request in [
        get("q"),
        get("s"),
        get("w1"),
        get("both\0"),
        range("r", "s\0"),
        range("q", "s"),
        range("r", "\0"),
        range("\0", "\0"),
        range("both", "s"),
        all("w"),
    ] {
        refused(user.range(request.clone()).await, Code::PermissionDenied, DENIED);
        let status = user.range_stream(request).await.1.unwrap();
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, DENIED));
    }
    // Writing.
    for key in ["w", "w1", "both"] {
        user.put_request(put(key, "v")).await.unwrap();
        user.delete_range(delete(key)).await.unwrap();
    }
    user.delete_range(delete_range("w", "x")).await.unwrap();
    for key in ["r1", "x", "z", "bot"] {
        refused(user.put_request(put(key, "v")).await, Code::PermissionDenied, DENIED);
        refused(user.delete_range(delete(key)).await, Code::PermissionDenied, DENIED);
    }
    for request in
        [delete_range("w", "y"), delete_range("w", "\0"), delete_range("v", "w1"), delete_range("\0", "\0")]
    {
        refused(user.delete_range(request).await, Code::PermissionDenied, DENIED);
    }
    // The previous value is read.
    let with_prev = |key| PutRequest { prev_kv: true, ..put(key, "v") };
    user.put_request(with_prev("both")).await.unwrap();
    refused(user.put_request(with_prev("w1")).await, Code::PermissionDenied, DENIED);
    user.delete_range(DeleteRangeRequest { prev_kv: true, ..delete("both") }).await.unwrap();
    let prev = DeleteRangeRequest { prev_kv: true, ..delete_range("w", "x") };
    refused(user.delete_range(prev).await, Code::PermissionDenied, DENIED);
    // ignore_value is not.
    user.put("w1", "v").await;
    user.put_request(PutRequest { ignore_value: true, ..put("w1", "") }).await.unwrap();

    // root's role permits everything, whatever its permissions are.
    assert!(root.range(range("\0", "\0")).await.unwrap().count > 0);
    root.delete_range(delete_range("\0", "\0")).await.unwrap();
}

/// AUT-2: permissions of several roles, side by side, overlapping, without end.
#[tokio::test]
async fn the_permissions_of_all_roles_are_merged() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    root.user_add("u", "u").await.unwrap();
    for (role, permissions) in [
        ("one", vec![permission(Read, "a", "c"), permission(Read, "m", "")]),
        (
            "two",
            vec![permission(Readwrite, "c", "f"), permission(Read, "e", "g"), permission(Write, "m", "")],
        ),
        ("three", vec![permission(Read, b"\xff", "\0"), permission(Write, "x", "\0")]),
    ] {
        root.role_add(role).await.unwrap();
        for permission in permissions {
            root.role_grant(role, Some(permission)).await.unwrap();
        }
        root.user_grant_role("u", role).await.unwrap();
    }
    let user = client.login("u", "u").await;
    for request in [
        range("a", "g"),
        range("b", "d"),
        range("a", "c"),
        get("m"),
        range(b"\xff", "\0"),
        range(b"\xff\xff", "\0"),
        get(b"\xff\xff\xff"),
    ] {
        user.range(request).await.unwrap();
    }
    for request in [
        range("a", "g\0"),
        range("a", "n"),
        range("m", "n"),
        range("x", "\0"),
        range(b"\xfe", "\0"),
        get("h"),
    ] {
        refused(user.range(request).await, Code::PermissionDenied, DENIED);
    }
    user.put("m", "").await;
    user.delete_range(delete_range("x", "\0")).await.unwrap();
    user.delete_range(delete_range("c", "f")).await.unwrap();
    refused(user.delete_range(delete_range("c", "g")).await, Code::PermissionDenied, DENIED);

    // Each change counts with the next call, whoever has logged in before.
    root.user_revoke_role("u", "two").await.unwrap();
    refused(user.range(range("a", "g")).await, Code::PermissionDenied, DENIED);
    refused(user.put_request(put("m", "")).await, Code::PermissionDenied, DENIED);
    root.role_revoke("one", "m", "").await.unwrap();
    refused(user.get("m").await, Code::PermissionDenied, DENIED);
    root.role_grant("one", Some(permission(Readwrite, "m", ""))).await.unwrap();
    user.put("m", "").await;
    root.role_delete("one").await.unwrap();
    refused(user.get("m").await, Code::PermissionDenied, DENIED);
    root.user_grant_role("u", "root").await.unwrap();
    user.get("m").await.unwrap();
    let before = auth_revision(&root).await;
    root.auth_disable().await.unwrap();
    assert_eq!(auth_revision(&client).await, before + 1);
    client.get("m").await.unwrap();
}

/// TXN-22
#[tokio::test]
async fn a_transaction_needs_permissions_for_its_compares_and_both_branches() {
    let server = Server::start().await;
    let (user, root) = user_and_root(&server).await;
    root.put("both", "v").await;
    let is_new = |key: &str| compare(key, CompareResult::Equal, TargetUnion::CreateRevision(0));
    let nested = |ops| op(run(ops));
    let fine = TxnRequest {
        compare: vec![is_new("r1"), Compare { range_end: b("s"), ..is_new("r") }],
        success: vec![op(put("w1", "v")), op(range("r", "s")), nested(vec![op(delete("w2"))])],
        failure: vec![op(delete_range("w", "x")), nested(vec![op(get("both"))])],
    };
    user.txn(fine.clone()).await.unwrap();
    let wrong = [
        TxnRequest { compare: vec![is_new("q")], ..fine.clone() },
        TxnRequest { compare: vec![Compare { range_end: b("t"), ..is_new("r") }], ..fine.clone() },
        TxnRequest { success: vec![op(get("w1"))], ..fine.clone() },
        TxnRequest { success: vec![op(put("r1", ""))], ..fine.clone() },
        TxnRequest { success: vec![op(PutRequest { prev_kv: true, ..put("w1", "") })], ..fine.clone() },
        TxnRequest { failure: vec![op(put("r1", ""))], ..fine.clone() },
        TxnRequest { failure: vec![op(delete_range("w", "y"))], ..fine.clone() },
        TxnRequest { failure: vec![op(DeleteRangeRequest { prev_kv: true, ..delete("w") })], ..fine.clone() },
        TxnRequest { failure: vec![nested(vec![nested(vec![op(get("z"))])])], ..fine.clone() },
        run(vec![nested(vec![]), op(TxnRequest { compare: vec![is_new("z")], ..Default::default() })]),
        // Reads only, which need no log.
        run(vec![op(range("r", "t"))]),
        run(vec![op(RangeRequest { serializable: true, ..get("z") })]),
    ];
    let before = root.revision().await;
    for txn in wrong {
        refused(user.txn(txn.clone()).await, Code::PermissionDenied, DENIED);
        root.txn(txn).await.unwrap();
    }
    // root's wrote something, the user's nothing.
    let wrote = root.revision().await;
    assert!(wrote > before);
    refused(user.txn(run(vec![op(put("z", ""))])).await, Code::PermissionDenied, DENIED);
    assert_eq!(root.revision().await, wrote);
}

/// CMP-10
#[tokio::test]
async fn compaction_needs_root() {
    let server = Server::start().await;
    let (user, root) = user_and_root(&server).await;
    root.put("k", "1").await;
    let now = root.put("k", "2").await;
    let request = CompactionRequest { revision: now, physical: true };
    refused(user.compact_request(request).await, Code::PermissionDenied, DENIED);
    // Before it is looked at.
    refused(user.compact(now + 10).await, Code::PermissionDenied, DENIED);
    root.compact_request(request).await.unwrap();
}

/// RST-2: users that change while a range is streamed fail it at its end.
#[tokio::test]
async fn a_range_stream_ends_with_an_error_after_a_change_of_users() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    // More than fits into the windows of a connection that nobody reads from.
    let value = vec![b'v'; 1 << 20];
    for key in 0..24 {
        root.put(format!("k/{key:02}"), &value).await;
    }
    let mut stream: tonic::Streaming<jetway::proto::etcdserverpb::RangeStreamResponse> =
        root.server_stream("/etcdserverpb.KV/RangeStream", all("k/")).await.unwrap();
    let first = support::within("a chunk", stream.message()).await.unwrap();
    assert!(first.is_some());
    root.role_add("new").await.unwrap();
    let status = loop {
        match support::within("a chunk", stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream must not end well"),
            Err(status) => break status,
        }
    };
    let error = (status.code(), status.message().to_owned());
    assert_eq!(error, (Code::InvalidArgument, "etcdserver: revision of auth store is old".to_owned()));
}

//! Streams that others have made beforehand, and limits that others have set.

use serde_json::{Value, json};

use crate::access::refused;
use crate::instances::{all_agree, instances};
use support::client::{all, put};
use support::eventually;
use support::nats::Nats;
use support::server::Server;

/// A stream as `nats stream add` or nack makes it, with more settings.
fn stream(more: &Value) -> Value {
    let mut config = json!({
        "name": "KV_test", "subjects": ["$KV.test.>"], "storage": "file", "retention": "limits", "discard": "old",
        "num_replicas": 1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
    });
    for (setting, value) in more.as_object().unwrap() {
        config[setting] = value.clone();
    }
    config
}

async fn make(nats: &Nats, more: &Value) -> Value {
    let created = nats.api("STREAM.CREATE.KV_test", &stream(more)).await;
    assert!(created.get("error").is_none(), "{created}");
    created["config"].clone()
}

async fn config(nats: &Nats) -> Value {
    nats.api("STREAM.INFO.KV_test", &Value::Null).await["config"].clone()
}

/// Instances take a stream that was never used. They put right what would do harm, and leave the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_stream_is_taken_and_its_settings_are_put_right() {
    let nats = Nats::start().await;
    let settings = json!({
        "description": "for jetway", "max_bytes": 500_000_000, "max_age": 60_000_000_000_u64, "max_msgs": 10, "no_ack": true,
        "max_msgs_per_subject": 1, "max_msg_size": 1000, "compression": "s2", "first_seq": 100, "metadata": { "team": "a" },
    });
    make(&nats, &settings).await;
    let (servers, clients) = instances(&nats.endpoint(), 2).await;
    for at in 0..50 {
        let written = clients[at % 2].put(format!("/k/{at}"), "v".repeat(2000)).await;
        assert_eq!(written, at as i64 + 2, "revisions begin as in etcd");
    }
    assert_eq!(clients[1].range(all("/k/")).await.unwrap().count, 50);
    all_agree(&clients).await;
    let config = config(&nats).await;
    for (setting, value) in [
        ("discard", json!("new")),
        ("max_age", json!(0)),
        ("max_msgs", json!(-1)),
        ("max_msgs_per_subject", json!((1_u64 << 53) - 1)),
        ("max_msg_size", json!(-1)),
        ("max_bytes", json!(500_000_000)),
        ("compression", json!("s2")),
        ("description", json!("for jetway")),
    ] {
        assert_eq!(config[setting], value, "{setting}");
    }
    assert!(!config["no_ack"].as_bool().unwrap_or(false) && config["metadata"]["team"] == "a", "{config}");
    // Each change is logged, and each setting that does no harm. A limit that binds is logged as well.
    let log = servers[0].log();
    for word in ["discard", "max_age", "max_msg_size", "no_ack", "compression", "max_bytes = 500000000"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

/// Settings that jetway cannot live with are refused by their names, and nothing is changed.
#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name() {
    let nats = Nats::start().await;
    for (settings, word) in [
        (json!({ "storage": "memory" }), "storage"),
        (json!({ "retention": "interest" }), "retention"),
        (json!({ "subjects": ["$KV.test.>", "more"] }), "subjects"),
        (json!({ "deny_purge": true }), "deny_purge"),
        (json!({ "subject_transform": { "src": "$KV.test.a", "dest": "$KV.test.b" } }), "subject_transform"),
    ] {
        let before = make(&nats, &settings).await;
        let output = refused(&["--endpoint", &nats.endpoint()]).await;
        assert!(
            output.contains(word) && output.contains("KV_test") && output.contains("bucket="),
            "{word}: {output}"
        );
        assert_eq!(config(&nats).await, before);
        nats.api("STREAM.DELETE.KV_test", &Value::Null).await;
    }
}

/// A harmful setting that an operator makes later is put right, or refused, at the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_in_use_is_judged_again_at_each_start() {
    let nats = Nats::start().await;
    let mut server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    server.client().await.put("/k", "v").await;
    server.stop().await;
    let mut changed = config(&nats).await;
    changed["max_msg_size"] = 10.into();
    nats.api("STREAM.UPDATE.KV_test", &changed).await;
    server.restart().await;
    assert!(server.log().contains("max_msg_size"), "{}", server.log());
    server.client().await.put("/k", "w".repeat(100)).await;
    server.stop().await;
    changed = config(&nats).await;
    changed["sealed"] = true.into();
    let sealed = nats.api("STREAM.UPDATE.KV_test", &changed).await;
    assert!(sealed.get("error").is_none(), "{sealed}");
    let output = refused(&["--endpoint", &nats.endpoint()]).await;
    assert!(output.contains("sealed") || output.contains("deny_delete"), "{output}");
}

/// Limits of an account that refuse the stream are reported with the way out, which works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_an_account_are_logged_at_the_start() {
    let account = |limits: &str| {
        format!(
            "accounts {{ A {{ jetstream: {{ {limits} }}, users: [ {{ user: u, password: p }} ] }} }}\nno_auth_user: u"
        )
    };
    let nats = Nats::start_with(&account("max_streams: 1, max_file: 1G")).await;
    nats.api("STREAM.CREATE.other", &json!({ "name": "other", "subjects": ["other"] })).await;
    let output = refused(&["--endpoint", &nats.endpoint()]).await;
    assert!(output.contains("10027") && output.contains("max_streams"), "{output}");

    let nats = Nats::start_with(&account("max_file: 1G, max_bytes_required: true")).await;
    // The default quota is larger than the account.
    let output = refused(&["--endpoint", &nats.endpoint()]).await;
    assert!(output.contains("10047") && output.contains("give a smaller --quota-backend-bytes"), "{output}");
    make(&nats, &json!({ "max_bytes": 100_000_000 })).await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    server.client().await.put("/k", "v").await;
    eventually("the limits", async || {
        let log = server.log();
        let warnings = ["max_bytes = 100000000", "may store", "max_payload"];
        warnings.iter().all(|word| log.contains(word)).then_some(())
    })
    .await;

    let nats = Nats::start().await;
    let output = refused(&["--endpoint", &format!("{}&replicas=3", nats.endpoint())]).await;
    assert!(output.contains("10074") && output.contains("smaller replicas="), "{output}");
}

/// In an account that wants a size for each stream, the stream gets one that the quota fills first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_has_the_size_of_the_quota_where_the_account_wants_one() {
    const MIB: i64 = 1 << 20;
    let account = |limits: &str| {
        let user = "users: [ { user: u, password: p } ]";
        format!(
            "accounts {{ A {{ jetstream: {{ max_bytes_required: true, {limits} }}, {user} }} }}\nno_auth_user: u"
        )
    };
    let nats = Nats::start_with(&account("max_file: 200M")).await;
    let quota = (8 * MIB).to_string();
    let server = Server::start_with(&["--endpoint", &nats.endpoint(), "--quota-backend-bytes", &quota]).await;
    assert_eq!(config(&nats).await["max_bytes"], 40 * MIB);
    // The quota fills first, and what makes room is taken.
    let client = server.client().await;
    let value = "v".repeat(500_000);
    let mut written = 0;
    let full = loop {
        match client.put_request(put("/k", value.as_str())).await {
            Ok(_) => written += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(full.message(), "etcdserver: mvcc: database space exceeded");
    assert!((14..=17).contains(&written), "{written}");
    client.delete("/k").await;
    client.compact(client.revision().await).await.unwrap();

    // Without a quota there is no size to ask for, and one that the account forbids is not made smaller.
    let nats = Nats::start_with(&account("max_file: 4G, disk_max_stream_bytes: 100M")).await;
    let output = refused(&["--endpoint", &nats.endpoint(), "--quota-backend-bytes=-1"]).await;
    assert!(output.contains("10113") && output.contains("give --quota-backend-bytes"), "{output}");
    let output = refused(&["--endpoint", &nats.endpoint()]).await;
    assert!(output.contains("10122") && output.contains("give a smaller --quota-backend-bytes"), "{output}");
    assert!(output.contains("nats stream add KV_test --subjects '$KV.test.>' --max-bytes"), "{output}");
    let quota = (50 * MIB).to_string();
    let server = Server::start_with(&["--endpoint", &nats.endpoint(), "--quota-backend-bytes", &quota]).await;
    server.client().await.put("/k", "v").await;
}

/// kine's bucket, as kine 0.16.4 makes it, beside a new bucket of jetway's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_kine_is_named() {
    let nats = Nats::start().await;
    let kine = json!({
        "name": "KV_kine", "description": "Holds kine key/values", "subjects": ["$KV.kine.>"], "max_msgs_per_subject": 10,
        "discard": "new", "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "storage": "file",
        "num_replicas": 1, "duplicate_window": 120_000_000_000_u64,
    });
    let created = nats.api("STREAM.CREATE.KV_kine", &kine).await;
    assert!(created.get("error").is_none(), "{created}");
    let mut server = Server::start_with(&["--endpoint", &format!("nats://{}?noEmbed", nats.address())]).await;
    let warned =
        || server.log().lines().filter(|line| line.contains("WARN") && line.contains("kine")).count();
    eventually("the warning", async || (warned() == 1).then_some(())).await;
    assert!(server.log().contains("jetway migrate"), "{}", server.log());
    // A bucket that holds keys is not mistaken.
    server.stop().await;
    let before = server.log().matches("jetway migrate").count();
    server.restart().await;
    server.client().await.put("/k", "v").await;
    assert_eq!(server.log().matches("jetway migrate").count(), before);
    let output = refused(&["--endpoint", &format!("nats://{}?noEmbed&bucket=kine", nats.address())]).await;
    assert!(output.contains("not a jetway bucket"), "{output}");
}

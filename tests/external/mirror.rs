//! A mirror in another region is served read-only.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::access::refused;
use crate::regions::{
    MIRROR, Regions, add_mirror, endpoint, instance, is_refused, keys, promote, reaches, serializable,
    serves_reads, start_mirror, stream, writes,
};
use jetway::proto::authpb::permission::Type;
use jetway::proto::etcdserverpb::{AuthEnableRequest, AuthEnableResponse, CompactionRequest, PutRequest};
use serde_json::{Value, json};
use support::auth::{add_user, enable, permission};
use support::client::{Client, all, get, put};
use support::http::http;
use support::lease::KeepAlive;
use support::metrics::Metrics;
use support::server::Server;
use support::watch::{WatchStream, outline, pair, watch_all};
use support::{catches_up, eventually};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_serves_reads_and_watches_at_the_revisions_of_its_primary() {
    let Regions { east, west, link: _link } = Regions::start().await;
    let primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    let lease = writer.lease_grant(77, 600).await.unwrap().id;
    for at in 0..50 {
        writer.put(format!("/k/{}", at % 20), format!("v{at}")).await;
    }
    writer.put_request(PutRequest { lease, ..put("/k/leased", "v") }).await.unwrap();
    writer.delete("/k/3").await;
    let mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    assert_eq!(keys(&reader, "/k/").await, keys(&writer, "/k/").await);

    // A watch from the past, and what comes meanwhile.
    let mut watches = [WatchStream::open(&writer), WatchStream::open(&reader)];
    for watch in &mut watches {
        let mut request = watch_all("/k/");
        request.start_revision = 2;
        watch.watch(request).await;
    }
    for at in 0..20 {
        writer.put(format!("/k/{at}"), "new").await;
    }
    let [there, here] = &mut watches;
    let (there, here) = (there.events(72).await, here.events(72).await);
    assert_eq!(here.iter().map(outline).collect::<Vec<_>>(), there.iter().map(outline).collect::<Vec<_>>());
    assert!(here.iter().zip(&there).all(|(here, there)| pair(here) == pair(there)));
    assert_eq!(keys(&reader, "/k/").await, keys(&writer, "/k/").await);

    // A second instance on the mirror, and one that is started again.
    let mut second = start_mirror(&west, "west2").await;
    second.stop().await;
    serves_reads(&mut second).await;
    let of_second = keys(&second.client().await, "/k/").await;
    assert_eq!(of_second, keys(&writer, "/k/").await);
    assert_eq!(writer.members().await.unwrap().members.len(), 1, "a mirror has no members of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_refuses_everything_else_with_the_reason() {
    let Regions { east, west, link: _link } = Regions::start().await;
    let primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    let revision = writer.put("/k", "v").await;
    let lease = writer.lease_grant(77, 600).await.unwrap().id;
    let mirror = start_mirror(&west, "west").await;
    let client = mirror.client().await;
    is_refused("a put", client.put_request(put("/k", "w")).await, &MIRROR);
    is_refused("a linearizable read", client.range(get("/k")).await, &MIRROR);
    is_refused("a delete", client.delete_range(support::client::delete("/k")).await, &MIRROR);
    is_refused("a lease", client.lease_grant(78, 60).await, &MIRROR);
    is_refused("a revocation", client.lease_revoke(lease).await, &MIRROR);
    let compaction = CompactionRequest { revision, physical: false };
    is_refused("a compaction", client.compact_request(compaction).await, &MIRROR);
    let enabled =
        client.unary::<_, AuthEnableResponse>("/etcdserverpb.Auth/AuthEnable", AuthEnableRequest {});
    is_refused("auth", enabled.await, &MIRROR);
    let mut keep_alive = KeepAlive::open(&client);
    keep_alive.send(lease);
    let renewed = keep_alive.message().await.expect("an answer");
    is_refused("a renewal", renewed, &MIRROR);

    let health = http(&mirror.address(), "GET", "/health").await;
    assert_eq!(health.status, 503);
    assert!(MIRROR.iter().all(|word| health.body.contains(word)), "{}", health.body);
    let health = http(&mirror.address(), "GET", "/health?serializable=true").await;
    assert_eq!(health.status, 200, "{}", health.body);
    let there = writer.status().await.unwrap();
    let status = eventually("the leader of the primary", async || {
        Some(client.status().await.unwrap()).filter(|status| status.leader == there.leader)
    })
    .await;
    assert_eq!(status.raft_term, there.raft_term);
    assert!(status.errors.iter().any(|error| error.contains(MIRROR[0])), "{:?}", status.errors);
    assert_eq!(status.header.unwrap().cluster_id, there.header.unwrap().cluster_id);
    assert_eq!(writer.kv("/k").await.unwrap().value, "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_repeats_the_removals_of_its_primary_and_shows_its_lag() {
    let Regions { mut east, west, link: _link } = Regions::start().await;
    let mut primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    let mut mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    for at in 0..400 {
        writer.put("/k", at.to_string()).await;
    }
    let revision = writer.put("/k", "end").await;
    reaches(&reader, revision).await;
    writer.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
    catches_up("the removals on both sides", async || {
        let (here, there) = (stream(&west).await, stream(&east).await);
        (here.0 < 100 && there.0 < 100 && here.1 == there.1).then_some(())
    })
    .await;
    assert_eq!(keys(&reader, "/k").await, keys(&writer, "/k").await);
    mirror.stop().await;
    serves_reads(&mut mirror).await;
    let reader = mirror.client().await;
    assert_eq!(keys(&reader, "/k").await, keys(&writer, "/k").await);
    let metrics = Metrics::scrape(&mirror.address()).await;
    metrics.is("jetway_mirror_lag_messages", &[], 0.0);
    assert!(metrics.value("jetway_mirror_silence_seconds", &[]) < 10.0);
    primary.kill9();
    east.kill9();
    eventually("the silence to be seen", async || {
        let metrics = Metrics::scrape(&mirror.address()).await;
        (metrics.value("jetway_mirror_silence_seconds", &[]) > 3.0).then_some(())
    })
    .await;
    assert_eq!(keys(&reader, "/k").await.len(), 1);
}

/// Large values under keys of their own.
async fn put_large(client: &Client, name: &str) {
    for at in 0..200 {
        client.put(format!("/k/{name}/{at}"), "v".repeat(20_000)).await;
    }
}

/// A mirror that was away misses messages that the primary has removed meanwhile. The record that explains it
/// comes much later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_was_away_during_a_compaction_waits_for_its_trim_record() {
    let regions = Regions::start().await;
    let primary = instance(&regions.east, "east", "").await;
    let writer = primary.client().await;
    let mirror = start_mirror(&regions.west, "west").await;
    let reader = mirror.client().await;
    let known = writer.put("/k/a", "v").await;
    reaches(&reader, known).await;
    regions.part();
    for at in 0..300 {
        writer.put(format!("/k/{}", at % 7), at.to_string()).await;
    }
    put_large(&writer, "large").await;
    let revision = writer.revision().await;
    writer.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
    eventually("the removals", async || (stream(&regions.east).await.0 < 250).then_some(())).await;
    let revision = writer.put("/k/last", "v").await;
    regions.link.allow(0);
    regions.link.release();
    regions.let_through_until(|last| last > 300).await;
    catches_up("the wait", async || {
        let errors = reader.status().await.ok()?.errors;
        errors.contains(&"etcdserver: no leader".to_owned()).then_some(())
    })
    .await;
    // It serves what it has, and the rest when that has come.
    assert_eq!(keys(&reader, "/k/").await.len(), 1);
    regions.link.open();
    reaches(&reader, revision).await;
    assert_eq!(keys(&reader, "/k/").await, keys(&writer, "/k/").await);
}

/// Half a store is not served while the rest of it is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_served_when_it_has_come_to_the_end_of_its_primary() {
    let regions = Regions::start().await;
    let primary = instance(&regions.east, "east", "").await;
    let writer = primary.client().await;
    put_large(&writer, "large").await;
    regions.link.allow(0);
    let mut mirror = Server::prepare(&["--endpoint", &endpoint(&regions.west, "&mirror=east")]);
    mirror.begin();
    regions.let_through_until(|last| last > 5).await;
    let client = Client::lazy(&mirror.endpoint());
    let read = client.range(serializable(all("/k/")));
    let read = tokio::time::timeout(Duration::from_secs(2), read).await;
    assert!(!matches!(read, Ok(Ok(_))), "{read:?}");
    regions.link.open();
    let read = async || client.range(serializable(all("/k/"))).await.ok();
    assert_eq!(catches_up("a read", read).await.kvs, keys(&writer, "/k/").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_others_have_made_is_taken_and_can_be_promoted() {
    let Regions { east, west, link: _link } = Regions::start().await;
    let primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    writer.put("/k", "v").await;
    let made = add_mirror(&west, json!({})).await;
    assert!(made["error"].is_null(), "{made}");
    let output = refused(&["--endpoint", &west.endpoint()]).await;
    assert!(output.contains("is a mirror of the one behind $JS.east.API; add mirror="), "{output}");
    let output = refused(&["--endpoint", &endpoint(&west, "&mirror=north")]).await;
    assert!(output.contains("$JS.north.API") && output.contains("jetway cannot use"), "{output}");
    let output = refused(&["--endpoint", &endpoint(&east, "&mirror=west")]).await;
    assert!(output.contains("stream KV_test is not a mirror"), "{output}");
    let (is_done, output) = promote(&east, &[]).await;
    assert!(!is_done && output.contains("stream KV_test is not a mirror"), "{output}");
    let mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    assert_eq!(keys(&reader, "/k").await, keys(&writer, "/k").await);
    let (is_done, output) = promote(&west, &[]).await;
    assert!(is_done, "{output}");
    writes(&reader, "/k").await;
    let config = west.api("STREAM.INFO.KV_test", &Value::Null).await["config"].clone();
    assert_eq!((&config["discard"], &config["subjects"]), (&json!("new"), &json!(["$KV.test.>"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_of_a_part_or_of_nothing_is_refused() {
    let Regions { east, west, link: _link } = Regions::start().await;
    let primary = instance(&east, "east", "").await;
    primary.client().await.put("/k", "v").await;
    let mirror = json!({
        "name": "KV_test", "external": { "api": "$JS.east.API" }, "filter_subject": "$KV.test.k",
    });
    let made = add_mirror(&west, json!({ "mirror": mirror })).await;
    assert!(made["error"].is_null(), "{made}");
    let output = refused(&["--endpoint", &endpoint(&west, "&mirror=east")]).await;
    assert!(output.contains("filter_subject") && output.contains("jetway cannot use"), "{output}");
    west.api("STREAM.DELETE.KV_test", &Value::Null).await;
    // The stream of another program.
    let other = json!({ "name": "KV_other", "subjects": ["$KV.other.>"] });
    east.api("STREAM.CREATE.KV_other", &other).await;
    let other = format!("nats://{}?bucket=other&mirror=east", west.address());
    let output = refused(&["--endpoint", &other]).await;
    assert!(output.contains("is no primary of jetway's"), "{output}");
}

/// Users and roles are those of the primary, and so are its tokens. No new one can be issued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_tokens_of_the_primary_hold_on_its_mirror() {
    let Regions { east, west, link: _link } = Regions::start().await;
    let primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    writer.put("/k/a", "v").await;
    let root = enable(&writer).await;
    add_user(&root, "kay", &[permission(Type::Read, "/k/", "/k0")]).await;
    let kay = writer.authenticate("kay", "kay").await.unwrap().token;
    let revision = root.revision().await;
    let mut mirror = Server::prepare(&["--endpoint", &endpoint(&west, "&mirror=east")]);
    mirror.begin();
    let client = Client::lazy(&mirror.endpoint());
    let reader = client.with_token(&kay);
    let read = catches_up("a read of a user", async || {
        let read = reader.range(serializable(get("/k/a"))).await.ok()?;
        (read.header.as_ref()?.revision >= revision).then_some(read)
    })
    .await;
    assert_eq!(read.kvs[0].value, "v");
    let denied = reader.range(serializable(get("/other"))).await.expect_err("another key");
    assert_eq!(denied.code(), Code::PermissionDenied);
    client.range(serializable(get("/k/a"))).await.expect_err("nobody");
    is_refused("a login", client.authenticate("kay", "kay").await, &MIRROR);
}

/// A foreign hand at the mirror.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_vanish_from_a_mirror_end_its_instances() {
    let Regions { east, west, link: _link } = Regions::start().await;
    let primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    for at in 0..10 {
        writer.put(format!("/k/{at}"), "v").await;
    }
    let mut mirror = start_mirror(&west, "west").await;
    reaches(&mirror.client().await, writer.revision().await).await;
    let deleted = west.api("STREAM.MSG.DELETE.KV_test", &json!({ "seq": 6 })).await;
    assert_eq!(deleted["success"], true, "{deleted}");
    let status = mirror.ended().await;
    assert!(!status.success() && mirror.log().contains("lost the message at sequence 6"), "{}", mirror.log());
}

/// A power cut may take the newest messages of the mirror's server. They come again from the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_has_lost_its_newest_messages_gets_them_again() {
    let Regions { east, mut west, link: _link } = Regions::start().await;
    let primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    let revision = writer.put("/k", "first").await;
    let mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    reaches(&reader, revision).await;
    let older = west.dir().join("older");
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(copied.success());
    };
    west.stop().await;
    copy(&west.store(), &older);
    west.restart().await;
    for at in 0..50 {
        writer.put("/k", at.to_string()).await;
    }
    reaches(&reader, writer.revision().await).await;
    west.stop().await;
    std::fs::remove_dir_all(west.store()).unwrap();
    copy(&older, &west.store());
    west.restart().await;
    let revision = writer.put("/k", "last").await;
    reaches(&reader, revision).await;
    assert_eq!(keys(&reader, "/k").await, keys(&writer, "/k").await);
}

//! A bucket in two regions: two NATS servers that a leaf connection joins, each with a domain of its own, and
//! one of them with a mirror of the other one's stream.

use std::time::Duration;

use crate::access::refused;
use jetway::proto::etcdserverpb::{
    AuthEnableRequest, AuthEnableResponse, CompactionRequest, PutRequest, RangeRequest,
};
use jetway::proto::mvccpb::{Event, KeyValue};
use serde_json::{Value, json};
use support::client::{Client, all, get, put};
use support::http::http;
use support::lease::KeepAlive;
use support::metrics::Metrics;
use support::nats::Nats;
use support::program::{Ended, WorkingFolder};
use support::proxy::Proxy;
use support::server::{Server, jetway};
use support::watch::{WatchStream, outline, pair, watch_all};
use support::{eventually, within};
use tonic::{Code, Status};

/// Two regions, east with a listener for leaf connections, and west with a connection to it.
struct Regions {
    east: Nats,
    west: Nats,
    /// Carries the leaf connection.
    link: Proxy,
}

impl Regions {
    async fn start() -> Self {
        // Its address is not advertised, so that the west does not bypass the proxy.
        let east = Nats::start_with(
            "jetstream { store_dir: \"DIR/store\", domain: east }\n\
             leafnodes { listen: \"ROUTE\", no_advertise: true }",
        )
        .await;
        let link = Proxy::to(east.route_address(), usize::MAX).await;
        let west = Nats::start_with(&format!(
            "jetstream {{ store_dir: \"DIR/store\", domain: west }}\n\
             leafnodes {{ remotes: [ {{ url: \"nats-leaf://{}\" }} ] }}",
            link.address
        ))
        .await;
        Self { east, west, link }
    }

    /// Cuts the two off from each other, until the link is released.
    fn part(&self) {
        self.link.hold();
        self.link.break_off();
    }

    /// Lets a little through again and again until the stream of the mirror has a last sequence.
    async fn let_through_until(&self, is_enough: impl Fn(u64) -> bool) {
        eventually("a part of the log", async || {
            self.link.allow(20_000);
            let info = self.west.api("STREAM.INFO.KV_test", &Value::Null).await;
            info["state"]["last_seq"].as_u64().filter(|last| is_enough(*last))
        })
        .await;
    }
}

/// An instance at a region, with more parameters of its endpoint.
async fn instance(nats: &Nats, name: &str, parameters: &str) -> Server {
    Server::start_with(&["--endpoint", &endpoint(nats, parameters), "--name", name]).await
}

/// An instance at the mirror in the west, which serves only reads that need no writer.
async fn start_mirror(west: &Nats, name: &str) -> Server {
    let mut server = Server::prepare(&["--endpoint", &endpoint(west, "&mirror=east"), "--name", name]);
    serves_reads(&mut server).await;
    server
}

/// Starts an instance that is not to write, and waits until it serves.
async fn serves_reads(server: &mut Server) {
    server.begin();
    let client = Client::lazy(&server.endpoint());
    eventually("a serializable read", async || client.range(serializable(get("/none"))).await.ok()).await;
}

fn endpoint(nats: &Nats, parameters: &str) -> String {
    format!("{}{parameters}", nats.endpoint())
}

fn serializable(request: RangeRequest) -> RangeRequest {
    RangeRequest { serializable: true, ..request }
}

/// All keys as a serializable read shows them.
async fn keys(client: &Client, prefix: &str) -> Vec<KeyValue> {
    client.range(serializable(all(prefix))).await.expect("a serializable read").kvs
}

/// Waits until a mirror has come to a revision.
async fn reaches(client: &Client, revision: i64) {
    eventually("the mirror to come to the revision", async || {
        let range = client.range(serializable(get("/none"))).await.ok()?;
        (range.header?.revision >= revision).then_some(())
    })
    .await;
}

#[track_caller]
fn is_refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, words: &[&str]) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::FailedPrecondition, "{what}: {status}");
    assert!(words.iter().all(|word| status.message().contains(word)), "{what}: {status}");
}

const MIRROR: [&str; 3] = ["this is a read-only mirror", "$JS.east.API", "jetway promote"];

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

/// The messages and the last sequence of a region's stream.
async fn stream(nats: &Nats) -> (u64, u64) {
    let info = nats.api("STREAM.INFO.KV_test", &Value::Null).await;
    let number = |name: &str| info["state"][name].as_u64().unwrap_or_default();
    (number("messages"), number("last_seq"))
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
    eventually("the removals on both sides", async || {
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

/// Runs `jetway promote`; returns whether it did, and its output.
async fn promote(nats: &Nats, flags: &[&str]) -> (bool, String) {
    let folder = WorkingFolder::new();
    let mut command = folder.command_of(jetway());
    command.args(["promote", "--endpoint", &nats.endpoint()]).args(flags);
    let Ended { status, output } = folder.run(command).await;
    (status == 0, output)
}

/// A write, as soon as one is taken.
async fn writes(client: &Client, key: &str) -> i64 {
    eventually("a write", async || {
        let answer = client.put_request(put(key, "new")).await.ok()?;
        Some(answer.header?.revision)
    })
    .await
}

const FENCED: [&str; 2] = ["this bucket is fenced", "was promoted"];

/// Waits until an instance refuses writes for a fence.
async fn is_fenced(client: &Client) {
    eventually("the fence to be seen", async || {
        let status = client.put_request(put("/late", "w")).await.err()?;
        FENCED.iter().all(|word| status.message().contains(word)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_in_contact_loses_nothing_and_fences_the_primary() {
    let Regions { east, west, link: _link } = Regions::start().await;
    let mut primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    let mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    let writing = tokio::spawn({
        let writer = writer.clone();
        async move {
            let mut answered = Vec::new();
            for at in 0.. {
                match writer.put_request(put(format!("/k/{at}"), "v")).await {
                    Ok(answer) => answered.push((format!("/k/{at}"), answer.header.unwrap().revision)),
                    Err(status) => return (answered, status),
                }
            }
            unreachable!()
        }
    });
    reaches(&reader, 200).await;
    let (is_done, output) = promote(&west, &[]).await;
    assert!(is_done && output.contains("the old primary is fenced, and everything"), "{output}");
    let (answered, status) = within("the writes to be refused", writing).await.unwrap();
    let revision = writes(&reader, "/after").await;
    assert!(revision > answered.last().unwrap().1, "{status}");
    let kept = reader.range(all("/k/")).await.unwrap().kvs;
    for (key, revision) in &answered {
        let kept = kept.iter().find(|kv| kv.key == *key).unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(kept.mod_revision, *revision);
    }
    is_fenced(&writer).await;
    // The fence does not depend on the other region, and outlives a restart.
    drop(west);
    primary.stop().await;
    serves_reads(&mut primary).await;
    let writer = primary.client().await;
    is_refused("a put", writer.put_request(put("/late", "w")).await, &FENCED);
    is_refused("a linearizable read", writer.range(get("/k/0")).await, &FENCED);
    assert_eq!(keys(&writer, "/k/0").await.len(), 1, "what is there can be read");
    let (is_done, output) = promote(&east, &[]).await;
    assert!(!is_done && output.contains("cannot become the primary again"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_returns_cannot_write() {
    let Regions { mut east, west, link: _link } = Regions::start().await;
    let mut primary = instance(&east, "east", "&standby=west").await;
    let writer = primary.client().await;
    let mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    let revision = writer.put("/k", "v").await;
    reaches(&reader, revision).await;
    primary.kill9();
    east.kill9();
    let (is_done, output) = promote(&west, &[]).await;
    assert!(!is_done && output.contains("--accept-data-loss"), "{output}");
    is_refused("a put before", reader.put_request(put("/k", "w")).await, &MIRROR);
    let (is_done, output) = promote(&west, &["--accept-data-loss"]).await;
    assert!(is_done && output.contains("the old primary was not reached"), "{output}");
    let promoted = writes(&reader, "/k").await;
    assert_eq!(promoted, revision + 1);
    assert_eq!(reader.kv("/k").await.unwrap().version, 2);
    let (is_done, output) = promote(&west, &["--accept-data-loss"]).await;
    assert!(is_done && output.contains("was promoted already"), "{output}");

    east.restart().await;
    primary.begin();
    // Each attempt from the first moment on is refused.
    let writer = Client::lazy(&primary.endpoint());
    eventually("the reason", async || {
        let status = writer.put_request(put("/k", "old")).await.expect_err("the old primary must not write");
        FENCED.iter().all(|word| status.message().contains(word)).then_some(())
    })
    .await;
    let kept = keys(&writer, "/k").await;
    assert_eq!((kept[0].value.as_ref(), kept[0].mod_revision), (&b"v"[..], revision));
    assert_eq!(reader.kv("/k").await.unwrap().value, "new");
}

/// The promoted mirror looks for a primary that does not ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_without_a_standby_is_fenced_when_it_returns() {
    let Regions { mut east, west, link: _link } = Regions::start().await;
    let mut primary = instance(&east, "east", "").await;
    let mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    let revision = primary.client().await.put("/k", "v").await;
    reaches(&reader, revision).await;
    primary.kill9();
    east.kill9();
    let (is_done, output) = promote(&west, &["--accept-data-loss"]).await;
    assert!(is_done, "{output}");
    writes(&reader, "/k").await;
    east.restart().await;
    primary.begin();
    is_fenced(&Client::lazy(&primary.endpoint())).await;
    // The fence is in the stream of the old primary, and holds without the other region.
    drop((mirror, west));
    primary.kill9();
    primary.begin();
    is_fenced(&Client::lazy(&primary.endpoint())).await;
}

/// A primary that nobody can reach goes on to write, and is fenced as soon as the regions meet again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_cut_off_is_fenced_when_the_regions_meet() {
    let regions = Regions::start().await;
    let primary = instance(&regions.east, "east", "&standby=west").await;
    let writer = primary.client().await;
    let mirror = start_mirror(&regions.west, "west").await;
    let reader = mirror.client().await;
    let revision = writer.put("/k", "v").await;
    reaches(&reader, revision).await;
    regions.part();
    let (is_done, output) = promote(&regions.west, &["--accept-data-loss"]).await;
    assert!(is_done, "{output}");
    let promoted = writes(&reader, "/k").await;
    assert_eq!(writer.put("/k", "alone").await, promoted, "the histories part here");
    regions.link.release();
    is_fenced(&writer).await;
    assert_eq!(keys(&writer, "/k").await[0].value, "alone", "the writes that are lost can be read");
    assert_eq!(reader.kv("/k").await.unwrap().value, "new");
}

/// Watches go on over a promotion, a lease lives on, and one of two instances writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_leases_outlive_a_promotion() {
    let Regions { mut east, west, link: _link } = Regions::start().await;
    let mut primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    let mirrors = [start_mirror(&west, "west").await, start_mirror(&west, "west2").await];
    let clients = [mirrors[0].client().await, mirrors[1].client().await];
    let mut watches = Vec::new();
    for client in &clients {
        let mut watch = WatchStream::open(client);
        watch.watch(watch_all("/k/")).await;
        watches.push(watch);
    }
    writer.lease_grant(77, 2).await.unwrap();
    writer.put_request(PutRequest { lease: 77, ..put("/k/leased", "v") }).await.unwrap();
    let revision = writer.put("/k/a", "v").await;
    for client in &clients {
        reaches(client, revision).await;
    }
    primary.kill9();
    east.kill9();
    let (is_done, output) = promote(&west, &["--accept-data-loss"]).await;
    assert!(is_done, "{output}");
    // Each instance takes writes, by itself or through the other one.
    writes(&clients[0], "/k/b").await;
    writes(&clients[1], "/k/c").await;
    for watch in &mut watches {
        // The lease ends, and its key goes, some time after the promotion.
        let events = watch.events(5).await;
        let seen: Vec<_> = events.iter().map(outline).collect();
        assert!(events.windows(2).all(|pair| revision_of(&pair[0]) < revision_of(&pair[1])), "{seen:?}");
        let key = |event: &Event| String::from_utf8_lossy(&pair(event).key).into_owned();
        let mut keys: Vec<_> = events.iter().map(key).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["/k/a", "/k/b", "/k/c", "/k/leased", "/k/leased"], "{seen:?}");
    }
    assert_eq!(clients[1].leases().await.unwrap().leases.len(), 0);
}

fn revision_of(event: &Event) -> i64 {
    pair(event).mod_revision
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
    eventually("the wait", async || {
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
    assert_eq!(eventually("a read", read).await.kvs, keys(&writer, "/k/").await);
}

/// `nats stream add KV_test --mirror KV_test` in the west, by the API.
async fn add_mirror(west: &Nats, more: Value) -> Value {
    let mut config = json!({
        "name": "KV_test", "storage": "file", "retention": "limits", "discard": "old",
        "mirror": { "name": "KV_test", "external": { "api": "$JS.east.API" } },
    });
    config.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    west.api("STREAM.CREATE.KV_test", &config).await
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

/// An embedded server that is a leaf node of the region with the mirror.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_of_an_embedded_server_can_be_mirrored_and_is_fenced() {
    let config = "jetstream { store_dir: \"DIR/store\", domain: west }\nleafnodes { listen: \"ROUTE\" }";
    let west = Nats::start_with(config).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leaf.conf");
    let leaf = format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://{}\" }} ] }}\n", west.route_address());
    std::fs::write(&file, leaf).unwrap();
    let flags = ["--nats-config", file.to_str().unwrap(), "--nats-js-domain", "east", "--bucket", "test"];
    let mut primary = Server::start_with(&flags).await;
    let writer = primary.client().await;
    let revision = writer.put("/k", "v").await;
    let mirror = start_mirror(&west, "west").await;
    let reader = mirror.client().await;
    reaches(&reader, revision).await;
    let (is_done, output) = promote(&west, &[]).await;
    assert!(is_done && output.contains("the old primary is fenced, and everything"), "{output}");
    writes(&reader, "/k").await;
    is_fenced(&writer).await;
    is_refused("a linearizable read", writer.range(get("/k")).await, &FENCED);
    primary.stop().await;
    serves_reads(&mut primary).await;
    let writer = primary.client().await;
    is_refused("a put", writer.put_request(put("/late", "w")).await, &FENCED);
}

/// Until its standby answers, an old primary cannot know whether it was promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_does_not_write_before_its_standby_answers() {
    let Regions { east, mut west, link: _link } = Regions::start().await;
    let mut primary = instance(&east, "east", "&standby=west").await;
    let client = primary.client().await;
    client.put("/k", "v").await;
    west.stop().await;
    client.put("/k", "w").await;
    primary.stop().await;
    primary.begin();
    let client = Client::lazy(&primary.endpoint());
    eventually("the start to wait for the standby", async || {
        primary.log().contains("behind $JS.west.API does not answer").then_some(())
    })
    .await;
    west.restart().await;
    writes(&client, "/k").await;
}

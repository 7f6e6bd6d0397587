//! A mirror in another region becomes the primary, and the old primary is fenced.

use crate::regions::{
    FENCED, MIRROR, Regions, add_mirror, instance, is_fenced, is_refused, keys, promote, reaches,
    serves_reads, start_mirror, stream, writes,
};
use jetway::proto::etcdserverpb::PutRequest;
use jetway::proto::mvccpb::Event;
use serde_json::{Value, json};
use support::client::{Client, all, get, put};
use support::nats::Nats;
use support::server::Server;
use support::watch::{WatchStream, outline, pair, watch_all};
use support::{catches_up, eventually, within};

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

/// An operator has made the mirror, and no jetway has served it before the primary was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_nobody_has_served_can_be_promoted() {
    for is_lost in [false, true] {
        let Regions { mut east, west, link: _link } = Regions::start().await;
        let mut primary = instance(&east, "east", "").await;
        let revision = primary.client().await.put("/k", "v").await;
        let made = add_mirror(&west, json!({})).await;
        assert!(made["error"].is_null(), "{made}");
        let (_, end) = stream(&east).await;
        catches_up("the mirror", async || (stream(&west).await.1 == end).then_some(())).await;
        if is_lost {
            primary.kill9();
            east.kill9();
        }
        let flags: &[&str] = if is_lost { &["--accept-data-loss"] } else { &[] };
        let (is_done, output) = promote(&west, flags).await;
        assert!(is_done, "{output}");
        let promoted = instance(&west, "west", "").await;
        let client = promoted.client().await;
        let kv = client.kv("/k").await.unwrap();
        assert_eq!((kv.value.as_ref(), kv.mod_revision), (&b"v"[..], revision));
        assert_eq!(client.put("/k", "w").await, revision + 1);
        if !is_lost {
            is_fenced(&primary.client().await).await;
        }
    }
}

/// The mirror has a copy on each of three servers, of which one is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_on_three_servers_is_promoted_while_one_of_them_is_away() {
    let config = "jetstream { store_dir: \"DIR/store\", domain: east }\nleafnodes { listen: \"ROUTE\" }";
    let mut east = Nats::start_with(config).await;
    let mut primary = instance(&east, "east", "").await;
    let writer = primary.client().await;
    let mut west = Nats::three();
    let routes: Vec<_> = west.iter().map(|node| format!("nats://{}", node.route_address())).collect();
    for node in &mut west {
        node.set_config(&format!(
            "jetstream {{ store_dir: \"DIR/store\", domain: west }}\n\
             cluster {{ name: west, listen: \"ROUTE\", routes: [{}] }}\n\
             leafnodes {{ remotes: [ {{ url: \"nats-leaf://{}\" }} ] }}",
            routes.join(", "),
            east.route_address()
        ));
    }
    for node in &mut west {
        node.restart().await;
    }
    let addresses: Vec<_> = west.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test&mirror=east&replicas=3", addresses.join(","));
    let mut mirror = Server::prepare(&["--endpoint", &endpoint, "--name", "west"]);
    serves_reads(&mut mirror).await;
    let reader = mirror.client().await;
    for at in 0..200 {
        writer.put(format!("/k/{}", at % 20), at.to_string()).await;
    }
    let kept = writer.range(all("/k/")).await.unwrap().kvs;
    let revision = writer.revision().await;
    reaches(&reader, revision).await;
    let info = west[0].api("STREAM.INFO.KV_test", &Value::Null).await;
    let leader = info["cluster"]["leader"].as_str().unwrap().to_owned();
    primary.kill9();
    east.kill9();
    let (gone, left): (Vec<_>, Vec<_>) = west.iter_mut().partition(|node| node.name() == leader);
    gone.into_iter().for_each(Nats::kill9);
    let output = eventually("a promotion", async || {
        let (is_done, output) = promote(left[0], &["--accept-data-loss"]).await;
        is_done.then_some(output)
    })
    .await;
    assert_eq!(writes(&reader, "/after").await, revision + 1, "{output}");
    assert_eq!(reader.range(all("/k/")).await.unwrap().kvs, kept);
}

/// Two accounts of one NATS, with more imports of the west.
fn accounts(more: &str) -> String {
    let config = r#"
        accounts {
          EAST {
            jetstream: enabled, users: [ { user: east, password: east } ]
            exports: [
              { service: "$JS.API.>" }, { service: "$KV.test.>" }, { service: "$JS.FC.KV_test.>" }
              { stream: "mirror.west.>" }
            ]
            imports: [ { service: { account: WEST, subject: "$JS.API.>" }, to: "west.API.>" } ]
          }
          WEST {
            jetstream: enabled, users: [ { user: west, password: west } ]
            exports: [ { service: "$JS.API.>" } ]
            imports: [
              { service: { account: EAST, subject: "$JS.API.>" }, to: "east.API.>" }
              { service: { account: EAST, subject: "$JS.FC.KV_test.>" } }
              { stream: { account: EAST, subject: "mirror.west.>" } }
              MORE
            ]
          }
        }
        no_auth_user: west"#;
    config.replace("MORE", more)
}

/// The primary and its mirror are in two accounts. An operator makes the mirror, since its messages need a
/// subject that the account of the primary exports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_in_another_account_is_promoted() {
    let mut nats = Nats::start_with(&accounts("")).await;
    let of = |nats: &Nats, account: &str, more: &str| {
        format!("nats://{account}:{account}@{}?bucket=test{more}", nats.address())
    };
    let endpoint = of(&nats, "east", "&standby=west.API");
    let primary = Server::start_with(&["--endpoint", &endpoint, "--name", "east"]).await;
    let writer = primary.client().await;
    let external = json!({ "api": "east.API", "deliver": "mirror.west" });
    let made = add_mirror(&nats, json!({ "mirror": { "name": "KV_test", "external": external } })).await;
    assert!(made["error"].is_null(), "{made}");
    let endpoint = of(&nats, "west", "&mirror=east.API");
    let mut mirror = Server::prepare(&["--endpoint", &endpoint, "--name", "west"]);
    serves_reads(&mut mirror).await;
    let reader = mirror.client().await;
    for at in 0..500 {
        writer.put(format!("/k/{}", at % 50), at.to_string()).await;
    }
    // A promotion that could not find the end of the primary does not stop it.
    let (is_done, output) = promote(&nats, &[]).await;
    assert!(!is_done && output.contains("cannot be fenced, so nothing was promoted"), "{output}");
    writer.put("/k", "v").await;
    nats.set_config(&accounts(
        r#"{ service: { account: EAST, subject: "$KV.test.>" }, to: "east.API.$KV.test.>" }"#,
    ));
    nats.signal(libc::SIGHUP);
    let output = eventually("a promotion", async || {
        let (is_done, output) = promote(&nats, &[]).await;
        is_done.then_some(output)
    })
    .await;
    assert!(output.contains("the old primary is fenced, and everything"), "{output}");
    writes(&reader, "/after").await;
    assert_eq!(reader.kv("/k").await.unwrap().value, "v");
    is_fenced(&writer).await;
}

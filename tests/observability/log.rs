//! The start, and each change of state: one line with its reason.

use jetway::proto::etcdserverpb::*;
use support::client::{Client, put};
use support::cluster::Cluster;
use support::eventually;
use support::metrics::Metrics;
use support::nats::Nats;
use support::server::{Port, Server, signal};
use tonic::Code;

use crate::{becomes, line, lines, value};

const LEADER_CHANGES: &str = "etcd_server_leader_changes_seen_total";

/// An operator who has nothing but the log learns from the start what runs, where, and for whom.
#[tokio::test]
async fn the_first_line_has_the_settings_and_each_other_line_helps() {
    let port = Port::claim();
    let metrics = format!("http://127.0.0.1:{}", port.number);
    let flags = ["--listen-metrics-urls", &metrics, "--quota-backend-bytes", "123456789", "--name", "one"];
    let more = ["--auto-compaction-retention", "3h", "--bucket", "pails", "--sync", "always"];
    let mut server = Server::start_with(&[&flags[..], &more[..]].concat()).await;
    line(&server, &["ready to serve client requests"]).await;
    let log = server.log();
    let first = log.lines().next().expect("a line");
    let data = server.dir().join("data");
    for word in [
        "jetway starts",
        env!("CARGO_PKG_VERSION"),
        "3.7.3",
        "name=\"one\"",
        data.to_str().unwrap(),
        "bucket=\"pails\"",
        "sync=\"always\"",
        "123456789 bytes",
        "10800s",
        &server.endpoint(),
        &metrics,
        &format!("pid={}", server.pid()),
    ] {
        assert!(first.contains(word), "{word:?} is missing in {first}");
    }
    let version = lines(&server, &["nats-server is ready", "version=", "port="]);
    assert_eq!(version.len(), 1, "{log}");
    // Neither the banner of nats-server nor any line twice.
    assert!(log.lines().count() <= 8, "{log}");
    assert!(!log.contains(" nats_server: "), "{log}");
    server.stop().await;
    assert!(lines(&server, &["stopping", "SIGTERM"]).len() == 1, "{}", server.log());

    let nats = Nats::start_with("authorization { user: u, password: s3cret }").await;
    let endpoint = format!("nats://u:s3cret@{}?bucket=test", nats.address());
    let server = Server::start_with(&["--endpoint", &endpoint]).await;
    let first = line(&server, &["jetway starts"]).await;
    assert!(first.contains(&nats.address()) && first.contains("bucket=\"test\""), "{first}");
    assert!(first.contains("sync=\"nats\"") && !server.log().contains("s3cret"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nats_is_logged_once_and_found_again_once() {
    let mut nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    becomes(&server, "jetway_nats_connected", &[], |connected| connected > 0.5).await;
    for lost in 1..=2 {
        nats.kill9();
        let is_told =
            async || (lines(&server, &["WARN", "connection to NATS is lost"]).len() == lost).then_some(());
        eventually("the loss", is_told).await;
        becomes(&server, "jetway_nats_connected", &[], |connected| connected < 0.5).await;
        // Nothing is shown that is not known.
        let metrics = Metrics::scrape(&server.address()).await;
        eventually("no word about the stream", async || {
            let metrics = Metrics::scrape(&server.address()).await;
            metrics.find("jetway_stream_has_leader", &[]).is_none().then_some(())
        })
        .await;
        drop(metrics);
        nats.restart().await;
        let again = async || {
            (lines(&server, &["INFO", "NATS is connected again", "after="]).len() == lost).then_some(())
        };
        eventually("the return", again).await;
        client.put("/k", "v").await;
        becomes(&server, "jetway_nats_reconnects_total", &[], |times| times as usize == lost).await;
        becomes(&server, "jetway_stream_has_leader", &[], |has| has > 0.5).await;
    }
    assert_eq!(lines(&server, &["WARN", "connection to NATS is lost"]).len(), 2, "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_server_that_ends_is_logged_with_its_cause_and_count() {
    let server = Server::start().await;
    let client = server.client().await;
    for restarts in 1..=2 {
        signal(server.nats_pid(), libc::SIGKILL);
        let count = format!("restarts={restarts}");
        let ended = line(&server, &["ERROR", "nats-server has ended", &count]).await;
        assert!(ended.contains("killed by signal 9"), "{ended}");
        line(&server, &["INFO", "nats-server is ready again", &count, "after="]).await;
        client.put("/k", "v").await;
        becomes(&server, "jetway_nats_server_restarts_total", &[], |times| times as i32 == restarts).await;
    }
    let reason = line(&server, &["WARN", "this instance does not write any more"]).await;
    assert!(reason.contains("reason="), "{reason}");
}

/// The log of every instance names the writer, its epoch and its reason. Each change counts, as in etcd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_the_writer_is_logged_and_counted() {
    let nats = Nats::start().await;
    let endpoint = nats.endpoint();
    let start = async |name: &str| Server::start_with(&["--endpoint", &endpoint, "--name", name]).await;
    let mut first = start("first").await;
    line(&first, &["this instance writes", "epoch=1", "the bucket is new"]).await;
    becomes(&first, LEADER_CHANGES, &[], |changes| changes as u64 == 1).await;
    let second = start("second").await;
    line(&second, &["another instance writes", "name=\"first\"", "epoch=1"]).await;
    let watching = start("watching").await;
    let before = becomes(&watching, LEADER_CHANGES, &[], |changes| changes as u64 == 1).await;

    // A handover.
    let client = second.client().await;
    first.stop().await;
    client.put("/k", "v").await;
    line(&first, &["INFO", "another one has taken over"]).await;
    eventually("the asked one to write", async || {
        [&second, &watching]
            .into_iter()
            .find(|server| !lines(server, &["the writer has asked for it"]).is_empty())
    })
    .await;

    // A kill of whichever writes now.
    let mut others = vec![second, watching];
    let writes = async |server: &Server| value(server, "etcd_server_is_leader").await > 0.5;
    let writer = if writes(&others[0]).await { 0 } else { 1 };
    let mut killed = others.remove(writer);
    let left = others.remove(0);
    let seen = value(&left, LEADER_CHANGES).await;
    assert!(seen >= before + 1.0 || left.log().contains("name=\"second\""), "{seen} after a handover");
    killed.kill9();
    line(&left, &["this instance writes", "epoch=3"]).await;
    let logged = lines(&left, &["this instance writes", "epoch=3"]);
    let silent = ["was silent", "nobody receives"].iter().any(|reason| logged[0].contains(reason));
    assert!(silent && logged.len() == 1, "{logged:?}");
    becomes(&left, LEADER_CHANGES, &[], |changes| (changes - seen - 1.0).abs() < 0.5).await;
}

fn alarm(action: alarm_request::AlarmAction, kind: AlarmType, member_id: u64) -> AlarmRequest {
    AlarmRequest { action: action.into(), member_id, alarm: kind.into() }
}

async fn disarm(client: &Client, kind: AlarmType) {
    use alarm_request::AlarmAction::{Deactivate, Get};
    for raised in client.alarm(alarm(Get, kind, 0)).await.unwrap().alarms {
        client.alarm(alarm(Deactivate, kind, raised.member_id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_names_its_limit_and_its_end_is_logged() {
    const QUOTA: i64 = 1 << 20;
    let server = Server::start_with(&["--quota-backend-bytes", &QUOTA.to_string()]).await;
    let client = server.client().await;
    let refused =
        eventually("a refusal", async || client.put_request(put("/fill", vec![b'x'; 100 << 10])).await.err())
            .await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let raised = line(&server, &["WARN", "an alarm is raised", "NOSPACE"]).await;
    for word in ["the quota", "of 1048576 bytes", "--quota-backend-bytes", "compact", "alarm disarm"] {
        assert!(raised.contains(word), "{word} is missing in {raised}");
    }
    let limit = [("limit", "quota")];
    becomes(&server, "jetway_storage_limit_bytes", &limit, |bytes| bytes as i64 == QUOTA).await;
    becomes(&server, "jetway_storage_used_bytes", &limit, |bytes| bytes > 0.8 * QUOTA as f64).await;
    disarm(&client, AlarmType::Nospace).await;
    line(&server, &["INFO", "an alarm is disarmed", "NOSPACE"]).await;

    let activate = alarm(alarm_request::AlarmAction::Activate, AlarmType::Corrupt, 7);
    client.alarm(activate).await.unwrap();
    let raised = line(&server, &["WARN", "an alarm is raised", "CORRUPT"]).await;
    assert!(raised.contains("member=\"7\"") && raised.contains("hashkv"), "{raised}");
    disarm(&client, AlarmType::Corrupt).await;
    line(&server, &["INFO", "an alarm is disarmed", "CORRUPT"]).await;
    assert_eq!(lines(&server, &["an alarm is raised"]).len(), 2, "{}", server.log());
}

/// Members of a cluster of jetways report each other's names, and the copies of the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_cluster_reports_its_members_and_replicas() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let leader = cluster.leader(&clients).await;
    for member in 0..3 {
        let server = &cluster.members[member];
        let first = line(server, &["jetway starts", "members=\"m1,m2,m3\""]).await;
        assert!(first.contains(&cluster.peer_url(member)) && first.contains("sync=\"nats\""), "{first}");
        for noise in [" INFO nats_server: ", "Plaintext passwords"] {
            assert!(!server.log().contains(noise), "{}", server.log());
        }
        becomes(server, "jetway_nats_server_connections", &[], |connections| connections > 0.5).await;
        let words: &[&str] = if member == leader {
            &["this instance writes"]
        } else {
            &["another instance writes", cluster.name(leader)]
        };
        line(server, words).await;
    }
    let replicas = async || {
        let metrics = Metrics::scrape(&cluster.members[leader].address()).await;
        let current =
            |of: &&str| metrics.find("jetway_stream_replica_current", &[("server", of)]) == Some(1.0);
        (["m1", "m2", "m3"].iter().filter(|of| current(of)).count() == 2).then_some(())
    };
    eventually("two replicas that are current", replicas).await;

    // A member that is away is one line in ten seconds, though nats-server tries every second.
    let away = (leader + 1) % 3;
    let left = (leader + 2) % 3;
    cluster.members[away].kill9();
    let route = ["ERROR", "Error trying to connect to route"];
    line(&cluster.members[left], &[&route[..], &["repeated"]].concat()).await;
    let address = cluster.peer_url(away);
    let address = address.trim_start_matches("http://");
    let logged = lines(&cluster.members[left], &[&route[..], &["attempt=1", address]].concat());
    assert_eq!(logged.len(), 1, "{}", cluster.members[left].log());
    assert!(lines(&cluster.members[left], &["attempt=3"]).is_empty(), "{}", cluster.members[left].log());
}

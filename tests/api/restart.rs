//! Data that survives a stop and a kill of the processes.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;

use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::event::EventType::{Delete, Put};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use support::client::*;
use support::eventually;
use support::keys::*;
use support::server::{Server, Target, alive, signal};
use support::watch::*;

/// Everything of the store that a client can read.
async fn contents(client: &Client) -> Vec<jetway::proto::mvccpb::KeyValue> {
    client.range(all("")).await.unwrap().kvs
}

/// CMP-9, GEN-2, WAT-22, WAT-30, LSE-4
#[tokio::test]
async fn a_restart_keeps_keys_history_leases_and_watches_with_prev_kv() {
    let mut server = Server::start().await;
    let client = server.client().await;
    client.lease_grant(7, 600).await.unwrap();
    client.put("a", "1").await;
    client.put_request(PutRequest { lease: 7, ..put("leased", "x") }).await.unwrap();
    client.txn(run(vec![op(put("a", "2")), op(put("b", "1")), op(put("c", ""))])).await.unwrap();
    client.delete("b").await;
    let before = contents(&client).await;
    let old = client.range(RangeRequest { revision: 4, ..all("") }).await.unwrap().kvs;
    let status = server.stop().await;
    // etcd ends itself with the signal it got.
    let asked =
        status.success() || (server.target() == Target::Etcd && status.signal() == Some(libc::SIGTERM));
    assert!(asked, "a stop that is asked for is no failure: {status}");
    server.restart().await;

    let client = server.client().await;
    assert_eq!(contents(&client).await, before);
    assert_eq!(client.range(RangeRequest { revision: 4, ..all("") }).await.unwrap().kvs, old);
    assert_eq!(client.revision().await, 5);
    let lease = client.lease_time_to_live(7, true).await.unwrap();
    assert_eq!((lease.granted_ttl, lease.keys), (600, vec![b("leased")]));

    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision: 4, prev_kv: true, ..watch_all("") }).await;
    let events = watch.events(4).await;
    let outlines: Vec<_> = events.iter().map(outline).collect();
    let event = |kind, key: &str, revision| (kind, key.to_owned(), revision);
    assert_eq!(outlines, [event(Put, "a", 4), event(Put, "b", 4), event(Put, "c", 4), event(Delete, "b", 5)]);
    let previous: Vec<_> =
        events.iter().map(|event| event.prev_kv.as_ref().map(|kv| kv.mod_revision)).collect();
    assert_eq!(previous, [Some(2), None, None, Some(4)]);

    client.lease_revoke(7).await.unwrap();
    assert_eq!(client.put("a", "3").await, 7);
}

/// CLU-9
#[tokio::test]
async fn a_member_alone_stays_one_member_under_another_name_and_url() {
    let mut server = Server::prepare(&["--name", "one"]);
    if server.target() == Target::Etcd {
        let cluster = format!("one=http://{}", server.peer_address());
        server.set_args(&["--name", "one", "--initial-cluster", &cluster]);
    }
    server.restart().await;
    let client = server.client().await;
    let [first] = &client.members().await.unwrap().members[..] else { panic!("one member") };
    let updated = vec!["http://127.0.0.1:9".to_owned()];
    let update = MemberUpdateRequest { id: first.id, peer_ur_ls: updated.clone() };
    let _: MemberUpdateResponse = client.unary("/etcdserverpb.Cluster/MemberUpdate", update).await.unwrap();
    let also = format!("http://127.0.0.1:1,{}", server.endpoint());
    let other = ["--advertise-client-urls", "http://127.0.0.1:1"];
    let starts: [&[&str]; 4] = [
        &["--name", "two"],
        &["--name", "two", "--advertise-client-urls", &also],
        // As in etcd these count for the first start alone.
        &["--name", "three", "--initial-cluster", "one=http://127.0.0.1:2380", other[0], other[1]],
        &["--name", "one", "--initial-advertise-peer-urls", "http://127.0.0.1:3"],
    ];
    for (start, kill) in starts.into_iter().zip([false, true, false, true]) {
        if kill {
            server.kill9();
        } else {
            server.stop().await;
        }
        server.set_args(start);
        server.restart().await;
        let client = server.client().await;
        let answer = client.members().await.unwrap();
        let advertised = start.iter().position(|flag| *flag == "--advertise-client-urls");
        let advertised = advertised.map_or(server.endpoint(), |place| start[place + 1].to_owned());
        let expected = Member {
            id: first.id,
            name: start[1].to_owned(),
            peer_ur_ls: updated.clone(),
            client_ur_ls: advertised.split(',').map(str::to_owned).collect(),
            is_learner: false,
        };
        assert_eq!(answer.members, [expected], "{start:?}");
        let status = client.status().await.unwrap();
        let ids = (answer.header.unwrap().member_id, status.header.unwrap().member_id, status.leader);
        assert_eq!(ids, (first.id, first.id, first.id), "{start:?}");
    }
}

/// Signals that Go's programs leave alone do not end the server.
#[tokio::test]
async fn signals_of_the_user_are_ignored() {
    let server = Server::start().await;
    let client = server.client().await;
    for ignored in [libc::SIGUSR1, libc::SIGUSR2] {
        signal(server.pid(), ignored);
        for _ in 0..3 {
            client.put("still", "here").await;
        }
    }
    assert!(server.is_running());
}

/// LSE-22
#[tokio::test]
async fn leases_still_expire_after_a_restart() {
    let mut server = Server::start().await;
    let client = server.client().await;
    client.lease_grant(7, 3).await.unwrap();
    client.put_request(PutRequest { lease: 7, ..put("leased", "x") }).await.unwrap();
    server.kill9();
    server.restart().await;
    let client = server.client().await;
    eventually("the key to expire", async || client.kv("leased").await.is_none().then_some(())).await;
    assert_eq!(client.lease_time_to_live(7, true).await.unwrap().ttl, -1);
}

/// WAT-41, CLI-1: clients take up a watch again only after Unavailable or a broken connection.
#[tokio::test]
async fn a_stop_ends_watches_with_unavailable() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_key("a")).await;
    let ended = tokio::spawn(async move {
        loop {
            match watch.message().await {
                Some(Ok(message)) => assert!(is_progress(&message), "{message:?}"),
                end => return end,
            }
        }
    });
    server.stop().await;
    let status = ended.await.unwrap().expect("no end with OK").unwrap_err();
    // A connection that breaks without a status is Unknown to this client library and Unavailable to Go's.
    let broken = std::error::Error::source(&status).is_some();
    assert!(status.code() == Code::Unavailable || broken, "{status:?}");
}

/// GEN-1, CMP-9: after a kill under load all that was answered is there, and nothing is half there.
async fn survives(target: Target, kill: impl AsyncFn(&mut Server)) {
    let mut server = Server::launch(target, &[]).await;
    let mut last_seen = 1;
    for round in 0..3 {
        let mut writers = tokio::task::JoinSet::new();
        let enough = CancellationToken::new();
        for writer in 0..8 {
            let (client, enough) = (Client::lazy(&server.endpoint()), enough.clone());
            writers.spawn(async move { write_pairs(&client, &format!("{round}/{writer}/"), &enough).await });
        }
        let watched = server.client().await;
        eventually("enough writes", async || (watched.revision().await > last_seen + 200).then_some(()))
            .await;
        kill(&mut server).await;
        // If the server itself lives on, the writers may still run.
        enough.cancel();
        let answered: Vec<_> = writers.join_all().await;
        let all_answered: Vec<_> =
            answered.iter().flat_map(|(_, writes)| writes).map(|&(_, at)| at).collect();

        let client = server.client().await;
        let current = client.revision().await;
        for (prefix, writes) in answered {
            for &(n, revision) in &writes {
                assert!(revision <= current, "revision {revision} was answered, {current} is current");
                let pair = client.range(all(format!("{prefix}{n}/"))).await.unwrap().kvs;
                assert_eq!(pair.len(), 2, "write {prefix}{n} of revision {revision} is gone");
                assert!(pair.iter().all(|kv| kv.mod_revision == revision));
            }
            // The write that got no answer is there as a whole or not at all.
            let next = writes.len();
            assert!(matches!(client.list(&format!("{prefix}{next}/")).await.len(), 0 | 2));
            assert!(client.list(&format!("{prefix}{}/", next + 1)).await.is_empty());
        }
        let start_revision = last_seen + 1;
        let mut watch = WatchStream::open(&client);
        watch.watch(WatchCreateRequest { start_revision, ..watch_all("") }).await;
        // A transaction that the kill has cut in two spends the revisions of the messages that were stored.
        let pair = ["a", "b"].map(|name| op(put(format!("{round}/{name}"), "x")));
        let last = revision(&client.txn(run(pair.to_vec())).await.unwrap().header);
        let mut seen = BTreeSet::new();
        while !seen.contains(&last) {
            for two in watch.next_but_progress().await.events.chunks(2) {
                let revisions: Vec<_> = two.iter().map(|event| outline(event).2).collect();
                assert_eq!(revisions, [revisions[0]; 2], "two events a revision");
                assert!(seen.last().is_none_or(|&before| before < revisions[0]), "in order");
                seen.insert(revisions[0]);
            }
        }
        let unseen = all_answered.iter().filter(|answered| !seen.contains(answered)).collect::<Vec<_>>();
        assert!(unseen.is_empty(), "no events of {unseen:?}");
        last_seen = last;
    }
}

/// Writes pairs of keys under `prefix`, until it is enough or one is refused, and returns those that were
/// answered, with their revisions.
async fn write_pairs(
    client: &Client,
    prefix: &str,
    enough: &CancellationToken,
) -> (String, Vec<(usize, i64)>) {
    let mut answered = Vec::new();
    for n in 0.. {
        if enough.is_cancelled() {
            break;
        }
        let pair = ["a", "b"].map(|name| op(put(format!("{prefix}{n}/{name}"), "x")));
        match client.txn(run(pair.to_vec())).await {
            Ok(answer) => answered.push((n, revision(&answer.header))),
            Err(_) => break,
        }
    }
    (prefix.to_owned(), answered)
}

/// GEN-1, CMP-9
#[tokio::test]
async fn a_killed_server_loses_no_acknowledged_write() {
    survives(Target::from_env(), async |server| {
        server.kill9();
        server.restart().await;
    })
    .await;
}

/// The same with nats-server killed under jetway, which must start it again by itself.
#[tokio::test]
async fn a_killed_nats_server_loses_no_acknowledged_write() {
    survives(Target::Jetway, async |server| {
        let old = server.nats_pid();
        signal(old, libc::SIGKILL);
        eventually("a new nats-server", async || server.find_nats_pid().filter(|&new| new != old)).await;
        // Every revision of this test has two events.
        let pair = || run(["a", "b"].map(|name| op(put(format!("after/{name}"), "x"))).to_vec());
        let client = server.client().await;
        eventually("writes", async || client.txn(pair()).await.ok()).await;
    })
    .await;
}

/// The same with both killed at once.
#[tokio::test]
async fn killing_both_at_once_loses_no_acknowledged_write() {
    survives(Target::Jetway, async |server| {
        let nats = server.nats_pid();
        signal(nats, libc::SIGKILL);
        server.kill9();
        server.restart().await;
    })
    .await;
}

/// jetway leaves no nats-server behind, however it ends.
#[tokio::test]
async fn nats_server_ends_with_jetway() {
    let mut server = Server::launch(Target::Jetway, &[]).await;
    let gone = async |pid| eventually("nats-server to end", async || (!alive(pid)).then_some(())).await;
    let nats = server.nats_pid();
    server.stop().await;
    gone(nats).await;
    server.restart().await;
    let nats = server.nats_pid();
    server.kill9();
    gone(nats).await;
}

/// GEN-1: clients that wait through an outage of nats-server get an answer.
#[tokio::test]
async fn reads_and_watches_continue_after_an_outage_of_nats_server() {
    let server = Server::launch(Target::Jetway, &[]).await;
    let client = server.client().await;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all("")).await;
    client.put("a", "1").await;
    watch.events(1).await;
    signal(server.nats_pid(), libc::SIGKILL);
    eventually("writes", async || client.put_request(put("b", "2")).await.ok()).await;
    let kv = client.kv("a").await.unwrap();
    assert_eq!(kv.value, "1");
    let mut keys = Vec::new();
    while keys.last().is_none_or(|key| key != "b") {
        let message = watch.next_but_progress().await;
        keys.extend(message.events.iter().map(|event| outline(event).1));
    }
}

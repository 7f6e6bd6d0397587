//! Calls that ask for a leader while NATS is away: an instance that cannot follow the stream has none.

use jetway::proto::etcdserverpb::*;
use tokio::task::JoinSet;
use tonic::Code;

use support::client::{Answer, Client, get, put, refused};
use support::http::http;
use support::lease::KeepAlive;
use support::nats::Nats;
use support::server::Server;
use support::watch::{WatchStream, watch_all};
use support::{eventually, within};

const NO_LEADER: &str = "etcdserver: no leader";

/// While JetStream answers nothing, writes wait, but not without bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_are_bounded() {
    const WRITES: usize = 11_000;
    const OPEN: usize = 10_000;
    let nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    client.put("/k", "v").await;
    nats.signal(libc::SIGSTOP);
    let mut writes = JoinSet::new();
    for n in 0..WRITES {
        let client = client.clone();
        writes.spawn(async move { client.put_request(put(format!("/k{n}"), "v")).await });
    }
    let (mut refused, mut late, mut stopped) = (0, 0, true);
    let mut written = 0;
    while let Some(answer) = within("an answer", writes.join_next()).await {
        match answer.unwrap() {
            Ok(_) => written += 1,
            Err(status) if status.message() == "etcdserver: too many requests" => {
                assert_eq!(status.code(), Code::Unknown);
                refused += 1;
            }
            Err(status) => {
                // In the end it is known, and in the error, that NATS is away.
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                late += 1;
            }
        }
        // All that are too many are refused before any other answer comes, unless sending them takes a
        // machine longer than the first ones wait.
        if stopped && (refused == WRITES - OPEN || late > 0) {
            assert_eq!(written, 0);
            let metrics = http(&server.address(), "GET", "/metrics").await.body;
            let pending =
                metrics.lines().find_map(|line| line.strip_prefix("etcd_server_proposals_pending "));
            let pending: usize = pending.expect("a gauge").parse().unwrap();
            assert!((1..=OPEN).contains(&pending), "{pending} writes wait");
            nats.signal(libc::SIGCONT);
            stopped = false;
        }
    }
    if late == 0 {
        assert_eq!((written, refused), (OPEN, WRITES - OPEN));
    }
    client.put("/k", "w").await;
}

#[tokio::test]
async fn without_nats_there_is_no_leader() {
    let mut nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let plain = server.client().await;
    let strict: Client = plain.clone().with_metadata("hasleader", "true");
    plain.lease_grant(1, 600).await.unwrap();
    plain.put("/k", "v").await;
    let (mut keep_alive, mut patient) = (KeepAlive::open(&strict), KeepAlive::open(&plain));
    assert_eq!(keep_alive.renew(1).await.ttl, 600);
    assert_eq!(patient.renew(1).await.ttl, 600);
    let mut watch = WatchStream::open(&strict);
    watch.watch(watch_all("/")).await;
    let mut patient_watch = WatchStream::open(&plain);
    patient_watch.watch(watch_all("/")).await;

    nats.kill9();
    // From here on every call that wants a leader is refused at once, whatever it is.
    eventually("a refusal", async || strict.range(get("/k")).await.err()).await;
    let local = RangeRequest { serializable: true, ..get("/k") };
    refused(strict.range(local.clone()).await, Code::Unavailable, NO_LEADER);
    refused(strict.put_request(PutRequest::default()).await, Code::Unavailable, NO_LEADER);
    refused(strict.status().await, Code::Unavailable, NO_LEADER);
    let members: Answer<MemberListResponse> =
        strict.unary("/etcdserverpb.Cluster/MemberList", MemberListRequest { linearizable: false }).await;
    refused(members, Code::Unavailable, NO_LEADER);
    // Without the wish, the answer is what is known here.
    assert_eq!(plain.range(local).await.unwrap().kvs.len(), 1);
    let status = plain.status().await.unwrap();
    assert_eq!((&status.errors[..], status.leader), (&[NO_LEADER.to_owned()][..], 0));
    assert!(status.db_size_in_use > 0, "the last known size");
    // Streams outlive their leader by three seconds.
    let ended = watch.message().await.expect("an end with a status").expect_err("the end");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, NO_LEADER));
    let ended = keep_alive.message().await.expect("an end with a status").expect_err("the end");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, NO_LEADER));
    let mut refused_stream = KeepAlive::open(&strict);
    let ended = refused_stream.message().await.expect("an end with a status").expect_err("the end");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, NO_LEADER));

    nats.restart().await;
    eventually("a leader", async || strict.range(get("/k")).await.ok()).await;
    assert_eq!(patient.renew(1).await.ttl, 600);
    plain.put("/k", "w").await;
    assert_eq!(patient_watch.events(1).await.len(), 1);
}

//! The writer's role moves: by request, at a stop, after a kill, and away from an instance that stands still.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse};
use tokio::task::JoinSet;
use tonic::Code;

use crate::group::Group;
use crate::instances::instances;
use support::client::{Answer, Client, refused};
use support::eventually;
use support::lease::KeepAlive;
use support::nats::Nats;
use support::proxy::Proxy;
use support::server::signal;
use support::traffic::Traffic;

pub const ALL: &[usize] = &[0, 1, 2];

async fn move_leader(client: &Client, target_id: u64) -> Answer<MoveLeaderResponse> {
    client.unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id }).await
}

pub fn others(than: usize) -> Vec<usize> {
    (0..3).filter(|at| *at != than).collect()
}

async fn moves_by_request(group: &Group) {
    group.members().await;
    let traffic = Traffic::begin(&group.clients).await;
    for _ in 0..3 {
        let (from, _) = group.writer(ALL).await;
        let to = (from + 1) % 3;
        let target = group.clients[to].status().await.unwrap().header.unwrap().member_id;
        refused(
            move_leader(&group.clients[to], target).await,
            Code::FailedPrecondition,
            "etcdserver: not leader",
        );
        refused(
            move_leader(&group.clients[from], 17).await,
            Code::FailedPrecondition,
            "etcdserver: bad leader transferee",
        );
        let term = group.clients[to].status().await.unwrap().raft_term;
        move_leader(&group.clients[from], target).await.unwrap();
        let status = group.clients[from].status().await.unwrap();
        assert_eq!(status.leader, target);
        assert!(status.raft_term > term);
        assert_eq!(group.writer(ALL).await, (to, target));
        traffic.more().await;
    }
    traffic.none_failed(ALL).await;
    traffic.end(&group.clients.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_moves_by_request_without_a_failed_call() {
    moves_by_request(&Group::over_one().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_moves_by_request_over_three_replicas() {
    moves_by_request(&Group::over_three().await).await;
}

async fn stops(mut group: Group) {
    group.members().await;
    let (writer, _) = group.writer(ALL).await;
    let rest = others(writer);
    let traffic = Traffic::begin(&group.clients).await;
    assert!(group.servers[writer].stop().await.success());
    group.writer(&rest).await;
    traffic.more().await;
    traffic.none_failed(&rest).await;
    group.servers[writer].restart().await;
    traffic.more().await;
    traffic.none_failed(&rest).await;
    group.writer(ALL).await;
    traffic.end(&group.clients.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stops_fails_no_call_of_the_others() {
    stops(Group::over_one().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stops_fails_no_call_over_three_replicas() {
    stops(Group::over_three().await).await;
}

async fn is_killed(mut group: Group) {
    let (writer, _) = group.writer(ALL).await;
    let rest = others(writer);
    let traffic = Traffic::begin(&group.clients).await;
    group.servers[writer].kill9();
    group.writer(&rest).await;
    traffic.more().await;
    // A call that was under way is found in the log, or sent again.
    traffic.none_failed(&rest).await;
    group.servers[writer].restart().await;
    traffic.more().await;
    group.writer(ALL).await;
    traffic.end(&group.clients.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_loses_nothing() {
    is_killed(Group::over_one().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_loses_nothing_over_three_replicas() {
    is_killed(Group::over_three().await).await;
}

async fn stands_still(group: Group) {
    let (writer, id) = group.writer(ALL).await;
    let rest = others(writer);
    let traffic = Traffic::begin(&group.clients).await;
    signal(group.servers[writer].pid(), libc::SIGSTOP);
    let (next, _) = group.writer(&rest).await;
    assert_ne!(next, writer);
    traffic.more().await;
    traffic.none_failed(&rest).await;
    let mut reads = traffic.reads_sent_now(&group.clients[writer]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    signal(group.servers[writer].pid(), libc::SIGCONT);
    // It believes to write at this moment, and nothing of what it has in hand may count.
    while let Some(read) = reads.join_next().await {
        read.unwrap();
    }
    let (_, leader) = group.writer(ALL).await;
    assert_ne!(leader, id, "it follows");
    eventually("a read through it", async || group.clients[writer].get("/load/end").await.ok()).await;
    traffic.more().await;
    traffic.none_failed(&rest).await;
    traffic.end(&group.clients.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stands_still_returns_as_a_follower() {
    stands_still(Group::over_one().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stands_still_returns_as_a_follower_over_three_replicas() {
    stands_still(Group::over_three().await).await;
}

/// One that hears nothing does not know that another one writes, and answers nothing from what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cut_off_serves_no_stale_read() {
    let nats = Nats::start().await;
    let proxy = Proxy::to(nats.address(), usize::MAX).await;
    let through = format!("nats://{}?bucket=test", proxy.address);
    let (_a, cut_off) = instances(&through, 1).await;
    let (_b, rest) = instances(&nats.endpoint(), 1).await;
    let (a, b) = (&cut_off[0], &rest[0]);
    let status = a.status().await.unwrap();
    assert_eq!(status.leader, status.header.unwrap().member_id);
    a.put("/k", "old").await;
    a.lease_grant(1, 60).await.unwrap();
    let mut keep_alive = KeepAlive::open(a);
    assert_eq!(keep_alive.renew(1).await.ttl, 60);
    // Nothing is on its way then, by whose silence it would notice.
    eventually("two members", async || (a.members().await.ok()?.members.len() == 2).then_some(())).await;
    proxy.hold();
    let written = b.put("/k", "new").await;
    b.lease_revoke(1).await.unwrap();
    keep_alive.send(1);
    let mut reads = JoinSet::new();
    for _ in 0..20 {
        let a = a.clone();
        reads.spawn(async move { a.get("/k").await });
    }
    while let Some(read) = reads.join_next().await {
        let status = read.unwrap().expect_err("nobody can know");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    proxy.release();
    let kv = eventually("a read", async || a.get("/k").await.ok()).await.kvs.pop().unwrap();
    assert_eq!((&kv.value[..], kv.mod_revision), (&b"new"[..], written));
    let status = a.status().await.unwrap();
    assert_ne!(status.leader, status.header.unwrap().member_id, "it follows");
    // Nor does it renew what the other one has ended.
    if let Some(Ok(answer)) = keep_alive.message().await {
        assert_eq!(answer.ttl, 0);
    }
}

/// The writer, which has heard of it a moment before, does not list it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_leaves_the_list_of_members_for_good() {
    let nats = Nats::start().await;
    let (_a, writer) = instances(&nats.endpoint(), 1).await;
    let (mut b, _) = instances(&nats.endpoint(), 1).await;
    let count = async || Some(writer[0].members().await.ok()?.members.len());
    eventually("two members", async || (count().await == Some(2)).then_some(())).await;
    assert!(b[0].stop().await.success());
    // The writer goes through what it has heard each second.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(count().await, Some(1), "listed again after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Time that a lease has used up is given back: the old writer may have renewed it without a record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_its_full_ttl_after_a_change() {
    let group = Group::over_one().await;
    group.members().await;
    let (writer, _) = group.writer(ALL).await;
    let (client, to) = (&group.clients[writer], others(writer)[0]);
    client.lease_grant(1, 20).await.unwrap();
    let left = async || client.lease_time_to_live(1, false).await.unwrap().ttl;
    eventually("two seconds to pass", async || (left().await <= 17).then_some(())).await;
    let target = group.clients[to].status().await.unwrap().header.unwrap().member_id;
    move_leader(client, target).await.unwrap();
    let answer = client.lease_time_to_live(1, false).await.unwrap();
    assert!(answer.ttl >= 19, "{answer:?}");
    assert_eq!(answer.granted_ttl, 20);
}

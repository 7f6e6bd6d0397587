//! The writer's role moves: by request, at a stop, after a kill, and away from an instance that stands still.

use std::time::Duration;

use jetway::proto::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse};
use tonic::Code;

use crate::support::client::{Answer, Client, refused};
use crate::support::eventually;
use crate::support::server::signal;
use crate::traffic::{Group, Traffic};

const ALL: &[usize] = &[0, 1, 2];

async fn move_leader(client: &Client, target_id: u64) -> Answer<MoveLeaderResponse> {
    client.unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id }).await
}

fn others(than: usize) -> Vec<usize> {
    (0..3).filter(|at| *at != than).collect()
}

async fn moves_by_request(group: &Group) {
    group.members().await;
    let traffic = Traffic::begin(&group.clients, 0).await;
    for _ in 0..3 {
        let (from, _) = group.writer(ALL).await;
        let to = (from + 1) % 3;
        let target = group.clients[to].status().await.unwrap().header.unwrap().member_id;
        refused(
            move_leader(&group.clients[to], target).await,
            Code::FailedPrecondition,
            "etcdserver: not leader",
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
    let traffic = Traffic::begin(&group.clients, rest[0]).await;
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
    let traffic = Traffic::begin(&group.clients, rest[0]).await;
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
    let traffic = Traffic::begin(&group.clients, rest[0]).await;
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

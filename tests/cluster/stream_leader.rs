//! The writer's server leads the stream, wherever the writer goes.

use support::cluster::Cluster;
use support::eventually;
use support::traffic::Traffic;

use super::members::started;

/// Whether the server of `member` leads a stream with copies on all others, as all members see it: while the
/// leader moves, one of them may see another one.
pub async fn is_led_by(cluster: &Cluster, member: usize) -> bool {
    for by in 0..cluster.members.len() {
        let replicas = cluster.replicas(by).await;
        if replicas.len() + 1 != cluster.members.len() || replicas.contains_key(cluster.name(member)) {
            return false;
        }
    }
    true
}

/// Waits until the server of `member` leads.
async fn leads(cluster: &Cluster, member: usize) {
    eventually("a stream that the writer's server leads", async || {
        is_led_by(cluster, member).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_led_where_the_writer_is() {
    let cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    let first = cluster.leader(&clients).await;
    leads(&cluster, first).await;
    let traffic = Traffic::begin(&clients).await;
    for step in 1..=3 {
        let writer = (first + step) % 3;
        let id = started(&clients[0], cluster.name(writer)).await.id;
        clients[cluster.leader(&clients).await].move_leader(id).await.unwrap();
        leads(&cluster, writer).await;
        assert_eq!(cluster.leader(&clients).await, writer);
        traffic.more_through_each().await;
    }
    traffic.none_failed(&[0, 1, 2]).await;
    traffic.end(&clients.iter().collect::<Vec<_>>()).await;
}

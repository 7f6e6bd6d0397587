//! Parts of a cluster of three stand still or die under load, for as long as a machine needs to start again.

use std::time::Duration;

use crate::cluster::leader;
use crate::group::Group;
use crate::lag::hash_alike;
use crate::writer::{ALL, others};
use support::rounds;
use support::server::signal;
use support::traffic::Traffic;

/// The fault of the cluster.
#[derive(Clone, Copy, Debug)]
enum Outage {
    StreamLeaderStandsStill,
    WriterStandsStill,
    ServersDie,
    InstancesDie,
}

const OUTAGES: [Outage; 4] =
    [Outage::StreamLeaderStandsStill, Outage::WriterStandsStill, Outage::ServersDie, Outage::InstancesDie];

/// How long a part stands still, so long that others have taken over everything it did.
const LONG: Duration = Duration::from_secs(15);
/// So long that some have noticed.
const SHORT: Duration = Duration::from_secs(2);

/// Lets the outage happen under load, and compares afterwards what was answered with what is there.
async fn survives(group: &mut Group, outage: Outage, length: Duration) {
    println!("{outage:?}");
    group.members().await;
    let traffic = Traffic::begin(&group.clients).await;
    match outage {
        Outage::StreamLeaderStandsStill => {
            let at = leader(&group.nodes).await;
            group.nodes[at].signal(libc::SIGSTOP);
            tokio::time::sleep(length).await;
            if length >= LONG {
                // The two others have elected a leader, and no instance stays where nothing is answered.
                traffic.more_through_each().await;
            }
            let reads: Vec<_> = group.clients.iter().map(|client| traffic.reads_sent_now(client)).collect();
            group.nodes[at].signal(libc::SIGCONT);
            for mut reads in reads {
                while let Some(read) = reads.join_next().await {
                    read.unwrap();
                }
            }
        }
        Outage::WriterStandsStill => {
            let (at, _) = group.writer(ALL).await;
            let rest = others(at);
            signal(group.servers[at].pid(), libc::SIGSTOP);
            tokio::time::sleep(length).await;
            group.writer(&rest).await;
            traffic.more().await;
            let mut reads = traffic.reads_sent_now(&group.clients[at]);
            signal(group.servers[at].pid(), libc::SIGCONT);
            while let Some(read) = reads.join_next().await {
                read.unwrap();
            }
            traffic.none_failed(&rest).await;
        }
        Outage::ServersDie => {
            for node in &mut group.nodes {
                node.kill9();
            }
            for node in &mut group.nodes {
                node.restart().await;
            }
        }
        Outage::InstancesDie => {
            for server in &mut group.servers {
                server.kill9();
            }
            for server in &mut group.servers {
                server.begin();
            }
        }
    }
    traffic.more_through_each().await;
    for server in &mut group.servers {
        assert!(server.has_ended().is_none(), "{server:?} has ended");
    }
    let revisions = traffic.end(&group.clients.iter().collect::<Vec<_>>()).await;
    let end = *revisions.end();
    let step = revisions.clone().count().div_ceil(30);
    hash_alike(&group.clients, revisions.step_by(step).chain([end])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_leader_that_stands_still_for_a_moment_loses_nothing() {
    survives(&mut Group::over_three().await, Outage::StreamLeaderStandsStill, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nats_servers_may_die_at_once() {
    survives(&mut Group::over_three().await, Outage::ServersDie, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_instances_may_die_at_once() {
    survives(&mut Group::over_three().await, Outage::InstancesDie, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute a round: make faults"]
async fn long_outages_lose_nothing() {
    let mut group = Group::over_three().await;
    let rounds = rounds(10);
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for outage in OUTAGES {
            survives(&mut group, outage, LONG).await;
        }
    }
}

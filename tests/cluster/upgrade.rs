//! Members that are moved to another jetway one after the other, under load, and back.

use std::path::{Path, PathBuf};

use support::client::Client;
use support::cluster::Cluster;
use support::etcdctl::Writer;
use support::server::{Target, jetway};
use support::traffic::Traffic;

use super::faults::all_meet;
use super::forming::all_hold_the_same;
use super::members::started;

/// A cluster of which each member runs one of two programs, and its clients.
struct Mixed {
    cluster: Cluster,
    clients: Vec<Client>,
    traffic: Traffic,
    writer: Writer,
}

impl Mixed {
    async fn start(program: &Path) -> Self {
        let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
        for member in &mut cluster.members {
            member.set_program(program);
        }
        cluster.start_all().await;
        let clients = cluster.clients().await;
        all_meet(&cluster, &clients).await;
        let endpoints: Vec<_> = cluster.members.iter().map(|member| member.address()).collect();
        let writer = Writer::begin(vec![format!("--endpoints={}", endpoints.join(","))]);
        Self { traffic: Traffic::begin(&clients).await, cluster, clients, writer }
    }

    /// Stops one member, and starts the other program on its data.
    async fn change(&mut self, member: usize, program: &Path) {
        assert!(self.cluster.members[member].stop().await.success());
        self.writer.more().await;
        self.traffic.more().await;
        self.cluster.members[member].set_program(program);
        self.cluster.members[member].restart().await;
        all_meet(&self.cluster, &self.clients).await;
        self.traffic.more_through_each().await;
    }

    /// Has each member write for a while.
    async fn each_writes(&self) {
        for member in 0..3 {
            let leader = self.cluster.leader(&self.clients).await;
            let id = started(&self.clients[member], self.cluster.name(member)).await.id;
            self.clients[leader].move_leader(id).await.unwrap();
            assert_eq!(self.cluster.leader(&self.clients).await, member);
            self.writer.more().await;
            self.traffic.more_through_each().await;
        }
    }

    /// Nothing is lost, watches have seen each event once, and all members hold the same.
    async fn end(self) {
        let others = self.writer.end();
        self.traffic.end_beside(others, &self.clients.iter().collect::<Vec<_>>()).await;
        all_hold_the_same(&self.clients).await;
    }
}

/// The program of this build under another name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_moved_to_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("jetway-other");
    std::os::unix::fs::symlink(jetway(), &other).unwrap();
    let mut mixed = Mixed::start(&other).await;
    for member in 0..3 {
        mixed.change(member, &jetway()).await;
    }
    mixed.end().await;
}

#[ignore = "needs an older jetway: `make upgrade`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_goes_on_under_load_and_so_does_the_way_back() {
    let older = std::env::var_os("JETWAY_TEST_OLDER").expect("`make upgrade` names the program");
    let (older, newer) = (PathBuf::from(older), jetway());
    let mut mixed = Mixed::start(&older).await;
    for program in [&newer, &older] {
        for member in 0..3 {
            mixed.change(member, program).await;
            mixed.each_writes().await;
        }
    }
    mixed.end().await;
}

//! Servers in NATS' group that are those of no member: a nats-server that somebody has started with the
//! members' secret, and the server of a member whose machine came back under another name.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::cluster::Cluster;
use support::eventually;
use support::metrics::Metrics;
use support::program::etcdctl;
use support::server::{Port, Target, peer, spawn};
use support::traffic::Traffic;

use super::faults::all_meet;
use super::forming::writes_again;
use super::members::started;

const ALL: [usize; 3] = [0, 1, 2];

/// A nats-server that knows the members' secret. Dropping it kills it.
struct Stranger(Child);

impl Stranger {
    /// One with the configuration of a member, but with a name, ports and a store of its own.
    fn start(of: &Path, dir: &Path) -> Self {
        let config = std::fs::read_to_string(of.join("nats-server.conf")).unwrap();
        let (port, mut in_cluster) = (Port::claim(), false);
        let of_its_own = |line: &str| {
            in_cluster |= line.starts_with("cluster {");
            let key = line.trim().split(':').next().unwrap_or_default();
            match key {
                "server_name" => "server_name: \"stranger\"".to_owned(),
                "server_tags" | "advertise" => String::new(),
                "listen" if in_cluster => format!("listen: \"127.0.0.1:{}\"", port.number),
                "store_dir" => format!("store_dir: {:?}", dir.join("store")),
                "ports_file_dir" => format!("ports_file_dir: {dir:?}"),
                _ => line.to_owned(),
            }
        };
        let lines: Vec<_> = config.lines().map(of_its_own).collect();
        std::fs::write(dir.join("stranger.conf"), lines.join("\n")).unwrap();
        let mut command = Command::new(peer("JETWAY_NATS_SERVER", "nats-server"));
        command.arg("-c").arg(dir.join("stranger.conf")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(spawn(command).unwrap())
    }

    fn end(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.end();
    }
}

/// The servers of no member, by the metrics of these members.
async fn servers_without_member(cluster: &Cluster, by: &[usize]) -> Vec<String> {
    let mut servers = Vec::new();
    for member in by {
        let metrics = Metrics::scrape(&cluster.members[*member].address()).await;
        servers.extend(metrics.series.iter().filter_map(|(series, _)| {
            let label = series.strip_prefix("jetway_server_without_member{server=\"")?;
            Some(label.trim_end_matches("\"}").to_owned())
        }));
    }
    servers
}

fn is_logged(cluster: &Cluster, words: &[&str]) -> bool {
    let has = |line: &str| words.iter().all(|word| line.contains(word));
    cluster.members.iter().any(|member| member.log().lines().any(has))
}

/// The log and a metric name it while it runs. The log names the remedy: it is stopped, and then it is
/// removed by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_no_member_is_named_and_is_removed_once_it_is_stopped() {
    let mut cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    let traffic = Traffic::begin(&clients).await;
    assert!(servers_without_member(&cluster, &ALL).await.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let mut stranger = Stranger::start(&cluster.members[0].dir().join("data"), dir.path());
    eventually("the metric of the stranger", async || {
        (servers_without_member(&cluster, &ALL).await == ["stranger"]).then_some(())
    })
    .await;
    assert!(is_logged(&cluster, &["none of its members", "server=\"stranger\"", "Stop it"]));
    traffic.more_through_each().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    stranger.end();
    eventually("the removal of the stranger", async || {
        servers_without_member(&cluster, &ALL).await.is_empty().then_some(())
    })
    .await;
    assert!(is_logged(&cluster, &["the server is removed from the cluster", "server=\"stranger\""]));
    traffic.none_failed(&[0, 1, 2]).await;
    traffic.end(&clients.iter().collect::<Vec<_>>()).await;
    // Two of three suffice as before.
    let leader = cluster.leader(&clients).await;
    cluster.members[(leader + 1) % 3].kill_machine();
    writes_again(&clients[leader]).await;
}

/// A pod without a disk of its own comes back under a new name. `member remove` of the old name removes the
/// server too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_a_lost_member_is_removed_with_it() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    let lost = started(&clients[0], cluster.name(2)).await;
    cluster.members[2].kill_machine();
    writes_again(&clients[0]).await;
    let endpoint = format!("--endpoints={}", cluster.members[0].address());
    if cluster.members[0].target() == Target::Jetway {
        eventually("a copy that is away", async || {
            (cluster.replicas(0).await.get(cluster.name(2)) == Some(&false)).then_some(())
        })
        .await;
    }
    let new = cluster.add();
    let (name, url) = (cluster.name(new).to_owned(), cluster.peer_url(new));
    etcdctl(&[&endpoint], &["member", "remove", &format!("{:x}", lost.id)]);
    etcdctl(&[&endpoint], &["member", "add", &name, &format!("--peer-urls={url}")]);
    let list = cluster.list([0, 1, new]);
    cluster.set_flags(new, &list, "existing", &[]);
    cluster.members[new].restart().await;
    cluster.has_copies_on(0, &[0, 1, new]).await;
    if cluster.members[0].target() == Target::Jetway {
        assert!(is_logged(&cluster, &["the server is removed from the cluster", "server=\"m3\""]));
    }
    cluster.members[1].kill_machine();
    writes_again(&clients[0]).await;
}

/// As above, at the old peer URL and without a change of the members, as a pod on the same host does. The new
/// name takes the place of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_comes_back_under_another_name() {
    let mut cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    let before = started(&clients[0], "m3").await;
    cluster.members[2].kill_machine();
    std::fs::remove_dir_all(cluster.members[2].dir().join("data")).unwrap();
    writes_again(&clients[0]).await;
    cluster.rename(2, "m4");
    let list = cluster.list([0, 1, 2]);
    cluster.set_flags(2, &list, "existing", &[]);
    cluster.members[2].restart().await;
    let after = started(&clients[0], "m4").await;
    assert_eq!(after.peer_ur_ls, before.peer_ur_ls);
    assert_eq!(clients[0].members().await.unwrap().members.len(), 3);
    // The first member may still know the copies of the time before.
    for reported in ["none of its members", "the server is removed from the cluster"] {
        let is_logged = async || is_logged(&cluster, &[reported, "server=\"m3\""]).then_some(());
        eventually(reported, is_logged).await;
    }
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    cluster.members[1].kill_machine();
    writes_again(&clients[0]).await;
    assert!(servers_without_member(&cluster, &[0, 2]).await.is_empty());
}

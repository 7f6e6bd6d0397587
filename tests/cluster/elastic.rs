//! One member becomes three, and three become one, while clients write, read and watch.

use support::cluster::Cluster;
use support::eventually;
use support::program::etcdctl;
use support::traffic::{Load, Traffic};

/// The load of one member; the others join it.
const LOAD: Load<'static> = Load { through: &[0], ..Load::LIGHT };

/// Adds a member with etcdctl, and starts it with what that prints.
async fn grow(cluster: &mut Cluster) -> usize {
    let through = format!("--endpoints={}", cluster.members[0].address());
    let new = cluster.add();
    let (name, url) = (cluster.name(new).to_owned(), cluster.peer_url(new));
    let printed = etcdctl(&[through], &["member", "add", &name, &format!("--peer-urls={url}")]);
    let variable = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(&format!("{name}=\"")));
        line.unwrap_or_else(|| panic!("no {name}: {printed}")).trim_end_matches('"').to_owned()
    };
    assert_eq!((variable("ETCD_NAME"), variable("ETCD_INITIAL_ADVERTISE_PEER_URLS")), (name, url));
    let (list, state) = (variable("ETCD_INITIAL_CLUSTER"), variable("ETCD_INITIAL_CLUSTER_STATE"));
    cluster.set_flags(new, &list, &state, &[]);
    cluster.members[new].restart().await;
    new
}

/// Waits until the stream has so many copies that hold all.
async fn copies(cluster: &Cluster, copies: usize) {
    eventually("copies of the stream", async || {
        let metrics = support::http::http(&cluster.members[0].address(), "GET", "/metrics").await.body;
        let others = metrics.lines().filter(|line| line.starts_with("jetway_stream_replica_current{"));
        (others.filter(|line| line.ends_with(" 1")).count() + 1 == copies).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_becomes_three_under_load() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.members[0].client().await;
    let traffic = Traffic::begin_with(&[client.clone()], LOAD).await;
    for members in 2..=3 {
        grow(&mut cluster).await;
        copies(&cluster, members).await;
        traffic.more().await;
    }
    traffic.none_failed(&[0]).await;
    let clients = cluster.clients().await;
    let started = clients[2].members().await.unwrap().members;
    assert!(
        started.len() == 3 && started.iter().all(|member| !member.client_ur_ls.is_empty()),
        "{started:?}"
    );
    traffic.end(&clients.iter().collect::<Vec<_>>()).await;
    cluster.members[0].kill9();
    eventually("a write without the first member", async || {
        clients[1].put_request(support::client::put("/after", "loss")).await.ok()
    })
    .await;
}

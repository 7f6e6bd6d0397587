//! etcdctl's commands for a cluster, on a cluster.

use support::etcdctl::Writer;
use support::eventually;
use support::program::{etcdctl, try_etcdctl};

use super::deployment::Deployment;

const ARGS: &str = "
    --name={name}
    --initial-advertise-peer-urls=http://{host}:{peer}
    --listen-peer-urls=http://{host}:{peer}
    --listen-client-urls=http://{host}:{client}
    --advertise-client-urls=http://{host}:{client}
    --initial-cluster-token=etcd-cluster-1
    --initial-cluster=m1=http://{host0}:{peer},m2=http://{host1}:{peer},m3=http://{host2}:{peer}
    --initial-cluster-state=new";

async fn start() -> Deployment {
    let mut deployment = Deployment::new("http", ["m1", "m2", "m3"]);
    deployment.start(ARGS, &[]).await;
    deployment.is_one_etcd("http://{host}:{peer}").await;
    deployment
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_the_whole_cluster() {
    let mut deployment = start().await;
    // One endpoint is enough to find all.
    let printed = etcdctl(&deployment.flags(&[1]), &["endpoint", "health", "--cluster"]);
    assert_eq!(printed.matches(" is healthy: ").count(), 3, "{printed}");
    let statuses = deployment.statuses().await;
    let field = |name: &str| statuses.iter().map(|status| status["Status"][name].clone()).collect::<Vec<_>>();
    assert!(field("version").iter().all(|version| version == "3.7.3"), "{statuses:?}");
    assert!(field("errors").iter().all(serde_json::Value::is_null), "{statuses:?}");
    let header = |name: &str| {
        statuses.iter().map(|status| status["Status"]["header"][name].clone()).collect::<Vec<_>>()
    };
    let clusters = header("cluster_id");
    assert!(clusters.windows(2).all(|pair| pair[0] == pair[1]), "{clusters:?}");
    let listed = deployment.json(&["member", "list"]).unwrap();
    let ids: Vec<_> = listed["members"].as_array().unwrap().iter().map(|member| &member["ID"]).collect();
    assert!(header("member_id").iter().all(|id| ids.contains(&id)), "{listed}");
    // etcd frees the space of each member for itself; here the writer has done it for all.
    let printed = etcdctl(&deployment.flags(&[1]), &["defrag", "--cluster"]);
    assert_eq!(printed.matches("Finished defragmenting etcd member").count(), 3, "{printed}");
    // A member that is down is reported, and the others are healthy.
    let down = (deployment.leader().await + 1) % 3;
    deployment.stop(down).await;
    let printed =
        try_etcdctl(&deployment.flags(&[0, 1, 2]), &["endpoint", "health", "--cluster"]).unwrap_err();
    assert_eq!(printed.matches(" is healthy: ").count(), 2, "{printed}");
    let unhealthy = format!("{} is unhealthy", deployment.client_url(down));
    assert!(printed.contains(&unhealthy), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_moved() {
    let deployment = start().await;
    for _ in 0..3 {
        let leader = deployment.leader().await;
        let next = (leader + 1) % 3;
        let id = deployment.statuses().await[next]["Status"]["header"]["member_id"].as_u64().unwrap();
        let printed = deployment.etcdctl(&["move-leader", &format!("{id:x}")]);
        assert!(printed.contains("Leadership transferred from "), "{printed}");
        eventually("the new leader", async || (deployment.leader().await == next).then_some(())).await;
        assert_eq!(deployment.etcdctl(&["put", "/after", "move"]), "OK\n");
    }
}

/// Each member is stopped and started again, while etcdctl writes and reads by way of all three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart() {
    let mut deployment = start().await;
    let writer = Writer::begin(deployment.flags(&[0, 1, 2]));
    for member in 0..3 {
        deployment.stop(member).await;
        writer.more().await;
        let command = deployment.command(member, ARGS, &[]);
        deployment.begin(member, command);
        deployment.serves(member).await;
        deployment.statuses().await;
    }
    writer.end();
}

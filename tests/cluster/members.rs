//! Members are added, removed, changed and promoted by etcd's calls, while the cluster serves.

use std::time::Duration;

use jetway::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberPromoteRequest, MemberPromoteResponse,
    MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use support::client::{Client, refused};
use support::cluster::Cluster;
use support::server::Target;
use support::{catches_up, eventually};
use tonic::{Code, Status};

use super::forming::{all_hold_the_same, writes_again};

pub async fn add(client: &Client, peer_url: &str, is_learner: bool) -> Result<MemberAddResponse, Status> {
    let request = MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner };
    client.unary("/etcdserverpb.Cluster/MemberAdd", request).await
}

pub async fn remove(client: &Client, id: u64) -> Result<MemberRemoveResponse, Status> {
    client.unary("/etcdserverpb.Cluster/MemberRemove", MemberRemoveRequest { id }).await
}

async fn members(client: &Client) -> Vec<Member> {
    client.members().await.unwrap().members
}

/// The member of a name, once its client URLs are in the list.
pub async fn started(client: &Client, name: &str) -> Member {
    eventually("a started member", async || {
        let members = members(client).await;
        members.into_iter().find(|member| member.name == name && !member.client_ur_ls.is_empty())
    })
    .await
}

/// Changes are refused while members have just met: etcd wants five seconds of contact.
pub async fn until_permitted<T>(mut change: impl AsyncFnMut() -> Result<T, Status>) -> T {
    eventually("a permitted change", async || match change().await {
        Ok(answer) => Some(answer),
        Err(status) => {
            assert_eq!(status.message(), "etcdserver: unhealthy cluster");
            None
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_member_joins_and_the_first_one_leaves() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    for key in 0..20 {
        clients[0].put(format!("/k/{key}"), "value").await;
    }
    for member in 0..3 {
        started(&clients[0], cluster.name(member)).await;
    }
    let fourth = cluster.add();
    let url = cluster.peer_url(fourth);
    let added = until_permitted(async || add(&clients[1], &url, false).await).await;
    let new = added.member.expect("the new member");
    assert_eq!((new.name.as_str(), &new.peer_ur_ls[..]), ("", &[url][..]));
    assert_eq!(added.members.len(), 4);
    let list = cluster.list(0..4);
    cluster.set_flags(fourth, &list, "existing", &[]);
    cluster.members[fourth].restart().await;
    let client = cluster.members[fourth].client().await;
    let member = started(&clients[0], cluster.name(fourth)).await;
    assert_eq!(member.id, new.id);
    assert_eq!(client.list("/k/").await.len(), 20);
    client.put("/from/the/fourth", "value").await;

    // The leader goes: its process ends by itself, and its data does not come back.
    let leader = cluster.leader(&clients).await;
    let id = started(&clients[0], cluster.name(leader)).await.id;
    let rest = (leader + 1) % 3;
    let answer = until_permitted(async || remove(&clients[rest], id).await).await;
    assert!(answer.members.iter().all(|member| member.id != id));
    assert!(cluster.members[leader].ended().await.success());
    assert!(cluster.members[leader].log().contains("permanently removed from the cluster"));
    cluster.members[leader].ends().await;
    assert!(cluster.members[leader].log().contains("must be removed"));
    eventually("a write without the removed member", async || {
        clients[rest].put_request(support::client::put("/after", "removal")).await.ok()
    })
    .await;
    let left = [clients[rest].clone(), clients[(leader + 2) % 3].clone(), client];
    all_hold_the_same(&left).await;
    assert_eq!(members(&left[2]).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_would_cost_the_majority_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let mut ids = Vec::new();
    for member in 0..3 {
        ids.push(started(&clients[0], cluster.name(member)).await.id);
    }
    let url = cluster.peer_url(1);
    let taken = until_permitted(async || match add(&clients[0], &url, false).await {
        Err(status) if status.message() == "etcdserver: Peer URLs already exists" => Ok(()),
        other => other.map(drop),
    });
    taken.await;
    refused(remove(&clients[0], 9).await, Code::NotFound, "etcdserver: member not found");
    let promote = MemberPromoteRequest { id: ids[1] };
    let promoted: Result<MemberPromoteResponse, _> =
        clients[0].unary("/etcdserverpb.Cluster/MemberPromote", promote).await;
    refused(promoted, Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    let leader = cluster.leader(&clients).await;
    let (down, left) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[down].kill9();
    // A member counts for 2.5 s after its last sign of life. Nothing that a client can ask shows the end of
    // that time without a change of the members.
    tokio::time::sleep(Duration::from_secs(4)).await;
    refused(remove(&clients[leader], ids[left]).await, Code::Unavailable, "etcdserver: unhealthy cluster");
    // One that is down may go.
    let answer = remove(&clients[leader], ids[down]).await.unwrap();
    assert_eq!(answer.members.len(), 2);
    clients[left].put("/two", "members").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_is_promoted() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let fourth = cluster.add();
    let url = cluster.peer_url(fourth);
    let added = until_permitted(async || add(&clients[0], &url, true).await).await;
    let id = added.member.expect("the new member").id;
    assert!(members(&clients[1]).await.iter().any(|member| member.id == id && member.is_learner));
    let promote = async || -> Result<MemberPromoteResponse, Status> {
        clients[0].unary("/etcdserverpb.Cluster/MemberPromote", MemberPromoteRequest { id }).await
    };
    refused(
        promote().await,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader",
    );
    let list = cluster.list(0..4);
    cluster.set_flags(fourth, &list, "existing", &[]);
    cluster.members[fourth].begin();
    let promoted = eventually("a learner that is in sync", async || promote().await.ok()).await;
    assert!(promoted.members.iter().all(|member| !member.is_learner));
    cluster.members[fourth].is_up().await;
    cluster.members[fourth].client().await.put("/from/the/learner", "value").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_keeps_its_id_under_other_peer_urls() {
    let cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let id = started(&clients[0], cluster.name(2)).await.id;
    let request = MemberUpdateRequest { id, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] };
    let updated: MemberUpdateResponse =
        clients[0].unary("/etcdserverpb.Cluster/MemberUpdate", request).await.unwrap();
    let member = updated.members.into_iter().find(|member| member.id == id).expect("the member");
    assert_eq!(member.peer_ur_ls, ["http://127.0.0.1:1"]);
    assert_eq!(member.name, cluster.name(2));
}

/// A member that was removed while it was down finds itself removed at its next start. It neither writes nor
/// lists itself again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_while_it_was_down_stays_out() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let down = (cluster.leader(&clients).await + 1) % 3;
    let id = started(&clients[0], cluster.name(down)).await.id;
    assert!(cluster.members[down].stop().await.success());
    let other = (down + 1) % 3;
    until_permitted(async || remove(&clients[other], id).await).await;
    assert!(cluster.members[down].ends().await.success());
    let log = cluster.members[down].log();
    assert!(log.contains("removed from the cluster"));
    assert_eq!(log.matches("ready to serve").count(), 1, "it never serves without its record: {log}");
    let left = members(&clients[other]).await;
    assert!(left.len() == 2 && left.iter().all(|member| member.id != id), "{left:?}");
    clients[other].put("/still", "served").await;
}

/// A lost member is replaced under its old name, which NATS bars for five minutes. The writer and the member
/// itself report that its server has no copy, and the member waits for it before it is ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_nats_has_not_taken_in_is_reported() {
    let mut cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    let lost = (cluster.leader(&clients).await + 1) % 3;
    let [one, other] = [(lost + 1) % 3, (lost + 2) % 3];
    let id = started(&clients[one], cluster.name(lost)).await.id;
    cluster.members[lost].kill_machine();
    // The stream may have been led by the server that is gone.
    writes_again(&clients[one]).await;
    until_permitted(async || remove(&clients[one], id).await).await;
    let words = "the server is removed from the cluster";
    eventually("the removal of its server", async || {
        [one, other].iter().any(|at| cluster.members[*at].log().contains(words)).then_some(())
    })
    .await;
    let url = cluster.peer_url(lost);
    until_permitted(async || add(&clients[one], &url, false).await).await;
    std::fs::remove_dir_all(cluster.members[lost].dir().join("data")).unwrap();
    let all = cluster.list(0..3);
    cluster.set_flags(lost, &all, "existing", &[]);
    cluster.members[lost].begin();
    let writer = cluster.leader(&[clients[one].clone(), clients[other].clone()]).await;
    let words = "its server has no copy of the stream yet";
    for member in [writer, lost] {
        let line = eventually(words, async || {
            let log = cluster.members[member].log();
            log.lines().find(|line| line.contains(words)).map(str::to_owned)
        })
        .await;
        let name = format!("member=\"{}\"", cluster.name(lost));
        assert!(line.contains("WARN") && line.contains(&name) && line.contains("new name"), "{line}");
    }
    let log = cluster.members[lost].log();
    let now = log.rsplit("looking for the members of the cluster").next().unwrap_or_default();
    assert!(!now.contains("ready to serve"), "{log}");
    catches_up("the member serves all the same", async || {
        let log = cluster.members[lost].log();
        log.rsplit(words).next().is_some_and(|rest| rest.contains("ready to serve")).then_some(())
    })
    .await;
    let log = cluster.members[lost].log();
    assert!(log.contains("this member serves without a copy"), "{log}");
    assert_eq!(cluster.members[writer].log().matches(words).count(), 1, "it is reported once");
    cluster.members[lost].client().await.put("/served", "by it").await;
}

/// Members that came later are known to those that were there before, whatever their flags say at a later
/// start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_came_later_are_found_at_the_next_start() {
    let mut cluster = Cluster::start(3).await;
    let mut clients = cluster.clients().await;
    for member in 0..3 {
        started(&clients[0], cluster.name(member)).await;
    }
    for count in 4..=5 {
        let new = cluster.add();
        let url = cluster.peer_url(new);
        until_permitted(async || add(&clients[0], &url, false).await).await;
        let list = cluster.list(0..count);
        cluster.set_flags(new, &list, "existing", &[]);
        cluster.members[new].restart().await;
        clients.push(cluster.members[new].client().await);
        started(&clients[0], cluster.name(new)).await;
    }
    clients[4].put("/before", "value").await;
    cluster.has_copies_on(0, &[0, 1, 2, 3, 4]).await;
    for member in 0..5 {
        cluster.members[member].stop().await;
    }
    // One that was there at the beginning has its old flags. Those that came later have flags that name no
    // other member.
    let old = cluster.list(0..3);
    cluster.set_flags(2, &old, "new", &[]);
    for member in [3, 4] {
        let own = cluster.list([member]);
        cluster.set_flags(member, &own, "existing", &[]);
    }
    for member in 2..5 {
        cluster.members[member].begin();
    }
    for member in 2..5 {
        cluster.members[member].is_up().await;
    }
    clients[2].put("/after", "value").await;
    assert_eq!(clients[3].list("/before").await.len(), 1);
    assert_eq!(clients[4].list("/after").await.len(), 1);
}

/// JetStream keeps five copies at most. etcd has no such limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sixth_member_is_refused() {
    if Target::from_env() == Target::Etcd {
        return;
    }
    let mut cluster = Cluster::start(5).await;
    let clients = cluster.clients().await;
    for member in 0..5 {
        started(&clients[0], cluster.name(member)).await;
    }
    let sixth = cluster.add();
    let url = cluster.peer_url(sixth);
    for is_learner in [false, true] {
        let words = until_permitted(async || match add(&clients[0], &url, is_learner).await {
            Err(status) if status.code() == Code::FailedPrecondition => Ok(status.message().to_owned()),
            other => other.map(|answer| format!("{answer:?}")),
        })
        .await;
        assert!(words.contains("has 5 members") && words.contains("member remove"), "{words}");
    }
    assert_eq!(members(&clients[0]).await.len(), 5);
}

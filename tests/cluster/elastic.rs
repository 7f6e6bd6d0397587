//! One member becomes three, and three become one, while clients write, read and watch.

use std::path::Path;
use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::{MemberAddRequest, MemberAddResponse};
use support::client::{Client, put};
use support::cluster::Cluster;
use support::eventually;
use support::program::{children_of, etcdctl, try_etcdctl};
use support::server::{Server, Target, alive, signal};
use support::traffic::{Load, Traffic};
use tonic::{Code, Status};

/// The load of one member; the others join it.
pub const LOAD: Load<'static> = Load { through: &[0], ..Load::LIGHT };

/// Adds a member with etcdctl, and starts it with what that prints.
pub async fn grow(cluster: &mut Cluster) -> usize {
    let through = format!("--endpoints={}", cluster.members[0].address());
    let new = cluster.add();
    let (name, url) = (cluster.name(new).to_owned(), cluster.peer_url(new));
    let printed = eventually("a member that is added", async || {
        match try_etcdctl(&[&through], &["member", "add", &name, &format!("--peer-urls={url}")]) {
            Ok(printed) => Some(printed),
            // As in etcd while a member has only just come back.
            Err(refused) if refused.contains("unhealthy cluster") => None,
            Err(refused) => panic!("{refused}"),
        }
    })
    .await;
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
pub async fn copies(cluster: &Cluster, copies: usize) {
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
    let traffic = Traffic::begin_with(std::slice::from_ref(&client), LOAD).await;
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
        clients[1].put_request(put("/after", "loss")).await.ok()
    })
    .await;
}

/// A new member loads a large log at a pace, so that the writes of the others do not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_joins_loads_at_a_pace() {
    if Target::from_env() == Target::Etcd {
        return;
    }
    let mut cluster = Cluster::start(1).await;
    let client = cluster.members[0].client().await;
    let value = "v".repeat(1 << 20);
    for key in 0..64 {
        client.put(format!("/large/{key}"), &value).await;
    }
    let begun = Instant::now();
    let new = grow(&mut cluster).await;
    // 8 MiB a second behind a burst of 8 MiB.
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(6), "{took:?}");
    // Clients wait for a member that starts again.
    cluster.members[new].kill9();
    let begun = Instant::now();
    cluster.members[new].restart().await;
    assert!(begun.elapsed() < took, "{:?} instead of {took:?}", begun.elapsed());
    assert_eq!(cluster.members[new].client().await.list("/large/").await.len(), 64);
}

/// Removes a member with etcdctl through another one, once that is permitted, and waits for its end.
pub async fn remove(cluster: &mut Cluster, through: usize, removed: usize) {
    let endpoint = format!("--endpoints={}", cluster.members[through].address());
    let client = cluster.members[through].client().await;
    let name = cluster.name(removed).to_owned();
    eventually("a removal", async || {
        let members = client.members().await.ok()?.members;
        let id = format!("{:x}", members.into_iter().find(|member| member.name == name)?.id);
        try_etcdctl(&[&endpoint], &["member", "remove", &id]).ok()
    })
    .await;
    assert!(cluster.members[removed].ended().await.success());
}

/// How the store of a member is run.
fn mode(data: &Path) -> String {
    std::fs::read_to_string(data.join("mode")).unwrap_or_default().trim().to_owned()
}

/// Waits until the server of a member runs by itself and serves.
pub async fn is_alone(cluster: &Cluster, member: usize, client: &Client) {
    let data = cluster.members[member].dir().join("data");
    eventually("a server by itself", async || {
        let is_free = mode(&data) == "standalone" && !data.join("nats/jetstream/$SYS").exists();
        client.get("/any").await.ok().filter(|_| is_free)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_become_one_under_load() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let traffic = Traffic::begin_with(&clients[..1], LOAD).await;
    for removed in [2, 1] {
        remove(&mut cluster, 0, removed).await;
        traffic.more().await;
    }
    is_alone(&cluster, 0, &clients[0]).await;
    traffic.more().await;
    traffic.none_failed(&[0]).await;
    traffic.end(&[&clients[0]]).await;
    // The next start does not look for the members that have gone, though the flags name them.
    let revision = clients[0].revision().await;
    cluster.members[0].kill9();
    cluster.members[0].restart().await;
    assert_eq!(cluster.members[0].client().await.revision().await, revision);
    assert_eq!(clients[0].members().await.unwrap().members.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_member_that_joined_last_stays_alone_and_grows_again() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.members[0].client().await;
    first.put("/kept", "value").await;
    let second = grow(&mut cluster).await;
    let client = cluster.members[second].client().await;
    copies(&cluster, 2).await;
    remove(&mut cluster, second, 0).await;
    is_alone(&cluster, second, &client).await;
    assert_eq!(client.list("/kept").await.len(), 1);
    cluster.swap(0, second);
    // Its name may change meanwhile, and is that of its data from then on.
    rename(&mut cluster, "renamed").await;
    grow(&mut cluster).await;
    copies(&cluster, 2).await;
    cluster.members[0].stop().await;
    cluster.members[0].restart().await;
    assert_eq!(client.list("/kept").await.len(), 1);
    let members = client.members().await.unwrap().members;
    assert_eq!(members.len(), 2);
    assert!(members.iter().any(|member| member.name == "renamed"), "{members:?}");
}

/// Starts the first member again under another name.
async fn rename(cluster: &mut Cluster, name: &str) {
    cluster.members[0].stop().await;
    cluster.rename(0, name);
    cluster.set_flags(0, &cluster.list([0]), "new", &[]);
    cluster.members[0].restart().await;
}

/// A member alone removes the members that starts of older versions have left in its list: these had an id
/// for each name. From then on its id stays the same, also when others join.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_alone_is_one_member_and_keeps_its_id_when_others_join() {
    if Target::from_env() == Target::Etcd {
        return;
    }
    let mut cluster = Cluster::start(1).await;
    let old = only_member(&cluster).await;
    let file = cluster.members[0].dir().join("data/member-id");
    std::fs::remove_file(&file).unwrap();
    rename(&mut cluster, "second").await;
    let id = only_member(&cluster).await;
    assert_ne!(id, old);
    rename(&mut cluster, "third").await;
    assert_eq!(only_member(&cluster).await, id);
    grow(&mut cluster).await;
    copies(&cluster, 2).await;
    cluster.members[0].stop().await;
    cluster.members[0].restart().await;
    for client in cluster.clients().await {
        let members = client.members().await.unwrap().members;
        let names: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.id == id)).collect();
        assert!(names.len() == 2 && names.contains(&("third", true)), "{members:?}");
    }
    let status = cluster.members[0].client().await.status().await.unwrap();
    assert_eq!(status.header.unwrap().member_id, id);
}

async fn only_member(cluster: &Cluster) -> u64 {
    let members = cluster.members[0].client().await.members().await.unwrap().members;
    let [member] = &members[..] else { panic!("one member: {members:?}") };
    member.id
}

/// Whether a data directory has a sign.
type Sign = fn(&Path) -> bool;

/// Signs in a data directory of how far the change to a member of a cluster is, in their order.
const STEPS: [(&str, Sign); 6] = [
    ("the member is remembered", |data| data.join("cluster.json").exists()),
    ("two servers prepare the metadata", |data| data.join("preparation/helper/nats/jetstream").exists()),
    ("the store is copied", |data| data.join("nats.kept").exists()),
    ("the metadata is there", |data| data.join("nats/jetstream/$SYS").exists()),
    ("the mode is another one", |data| mode(data) == "clustered"),
    ("the account has another name", |data| data.join("nats/jetstream/JW").exists()),
];

/// Kills jetway and all its nats-servers at once.
pub fn kill_all(server: &mut Server) {
    let children = children_of(server.pid());
    server.kill9();
    for child in children.into_iter().filter(|child| alive(*child)) {
        signal(child, libc::SIGKILL);
    }
}

/// After a death at any step the store starts, nothing that was answered is lost, and the member that was
/// added joins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_each_step_of_the_change_costs_nothing() {
    for (step, is_reached) in STEPS {
        let mut cluster = Cluster::start(1).await;
        let client = cluster.members[0].client().await;
        let traffic = Traffic::begin_with(std::slice::from_ref(&client), LOAD).await;
        let data = cluster.members[0].dir().join("data");
        let new = cluster.add();
        let (name, url) = (cluster.name(new).to_owned(), cluster.peer_url(new));
        let through = format!("--endpoints={}", cluster.members[0].address());
        let deadline = std::time::Instant::now() + support::TIMEOUT;
        let adding = tokio::task::spawn_blocking(move || {
            try_etcdctl(&[&through], &["member", "add", &name, &format!("--peer-urls={url}")])
        });
        while !is_reached(&data) {
            assert!(std::time::Instant::now() < deadline, "{step}: never");
            std::hint::spin_loop();
        }
        kill_all(&mut cluster.members[0]);
        println!("killed when {step}, as {} store", mode(&data));
        drop(adding.await.unwrap());
        cluster.members[0].restart().await;
        traffic.more().await;
        // Calls that the traffic makes may fail for a moment; these are made again.
        let listed =
            eventually("the members", async || Some(client.members().await.ok()?.members.len())).await;
        if listed == 1 {
            // The call died with the process.
            let through = format!("--endpoints={}", cluster.members[0].address());
            let url = format!("--peer-urls={}", cluster.peer_url(new));
            etcdctl(&[through], &["member", "add", cluster.name(new), &url]);
        }
        let list = cluster.list([0, new]);
        cluster.set_flags(new, &list, "existing", &[]);
        cluster.members[new].restart().await;
        copies(&cluster, 2).await;
        eventually("nothing is left over", async || {
            (!data.join("nats.kept").exists() && !data.join("preparation").exists()).then_some(())
        })
        .await;
        traffic.more().await;
        let joined = cluster.members[new].client().await;
        traffic.end(&[&client, &joined]).await;
    }
}

/// Signs of how far the change of the last member is, in their order.
const STEPS_BACK: [(&str, Sign); 3] = [
    ("one copy is left", |data| {
        let settings = std::fs::read_to_string(data.join("nats/jetstream/JW/streams/KV_jetway/meta.inf"));
        settings.is_ok_and(|settings| settings.contains("\"num_replicas\":1"))
    }),
    ("the mode is another one", |data| mode(data) == "standalone"),
    ("the account has another name", |data| data.join("nats/jetstream/$G").exists()),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_each_step_back_costs_nothing() {
    for (step, is_reached) in STEPS_BACK {
        let mut cluster = Cluster::start(2).await;
        let clients = cluster.clients().await;
        let patient = clients[0].clone().with_patience(support::CAUGHT_UP);
        let traffic = Traffic::begin_with(&[patient], LOAD).await;
        copies(&cluster, 2).await;
        let data = cluster.members[0].dir().join("data");
        let through = [0, 1].map(|member| cluster.members[member].address()).join(",");
        let flags = [format!("--endpoints={through}")];
        let members = clients[0].members().await.unwrap().members;
        let id = members.iter().find(|member| member.name == cluster.name(1)).expect("the second").id;
        let removing = std::thread::spawn(move || {
            let begun = std::time::Instant::now();
            while let Err(refused) = try_etcdctl(&flags, &["member", "remove", &format!("{id:x}")]) {
                // A call whose answer was lost is made again.
                if refused.contains("member not found") {
                    return;
                }
                // A death in the middle of it can stop writes for a minute and more: see OPERATING.md.
                assert!(begun.elapsed() < 6 * support::TIMEOUT, "{refused}");
            }
        });
        let deadline = std::time::Instant::now() + support::TIMEOUT;
        while !is_reached(&data) {
            assert!(std::time::Instant::now() < deadline, "{step}: never");
            tokio::task::yield_now().await;
        }
        kill_all(&mut cluster.members[0]);
        println!("killed when {step}, as {} store", mode(&data));
        cluster.members[0].restart().await;
        tokio::task::spawn_blocking(move || removing.join().unwrap()).await.unwrap();
        assert!(cluster.members[1].ended().await.success());
        is_alone(&cluster, 0, &clients[0]).await;
        traffic.more().await;
        traffic.end(&[&clients[0]]).await;
    }
}

/// A member that cannot be one of several reports the reason, and serves on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_must_stay_alone_reports_the_reason() {
    if Target::from_env() == Target::Etcd {
        return;
    }
    let mut cluster = Cluster::prepare(1);
    let config = cluster.members[0].dir().join("nats.conf");
    std::fs::write(&config, "max_subscriptions: 10000\n").unwrap();
    let list = cluster.list([0]);
    let taken = std::net::TcpListener::bind(cluster.members[0].peer_address()).unwrap();
    for (flags, words) in [
        (vec![], "--listen-peer-urls"),
        (vec!["--nats-config", config.to_str().unwrap()], "--nats-config"),
        (vec!["--listen-peer-urls", "unix://localhost:1"], "--listen-peer-urls unix://localhost:1"),
    ] {
        cluster.set_flags(0, &list, "new", &flags);
        cluster.members[0].restart().await;
        let client = cluster.members[0].client().await;
        let request =
            MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: false };
        let answer: Result<MemberAddResponse, Status> =
            client.unary("/etcdserverpb.Cluster/MemberAdd", request).await;
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
        assert!(refusal.message().contains(words), "{words}: {refusal:?}");
        client.put("/still", "served").await;
        assert!(cluster.members[0].stop().await.success());
    }
    drop(taken);
}

//! Five members become three, the majority of which dies, and start again.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, seq::IndexedRandom as _};
use support::client::{Client, put};
use support::cluster::Cluster;
use support::{rounds, seed};

use super::forming::{all_hold_the_same, writes_again};
use super::members::{add, remove, started, until_permitted};

/// The writer that removes a member is removed next, so that another one has to take the server of the first
/// out of NATS' groups. Until then it counts for majorities.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_copy_is_left_where_a_removed_member_was() {
    let mut cluster = Cluster::start(5).await;
    let clients = cluster.clients().await;
    let mut ids = Vec::new();
    for member in 0..5 {
        ids.push(started(&clients[0], cluster.name(member)).await.id);
    }
    let leader = cluster.leader(&clients).await;
    let left = [(leader + 1) % 5, (leader + 2) % 5, (leader + 3) % 5];
    let gone = [(leader + 4) % 5, leader];
    for member in gone {
        until_permitted(async || remove(&clients[left[0]], ids[member]).await).await;
    }
    for member in gone {
        cluster.members[member].ended().await;
    }
    cluster.has_copies_on(left[0], &left).await;
    // Two of the three suffice from now on.
    cluster.members[left[1]].kill_machine();
    writes_again(&clients[left[2]]).await;
}

/// All machines lose their power right after two members, which were down, were removed. The servers that are
/// left have heard nothing of the removed ones since their start, and know no name of theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_copy_of_a_removed_member_outlives_a_loss_of_power() {
    let mut cluster = Cluster::start(5).await;
    let clients = cluster.clients().await;
    let mut ids = Vec::new();
    for member in 0..5 {
        ids.push(started(&clients[0], cluster.name(member)).await.id);
    }
    cluster.has_copies_on(0, &[0, 1, 2, 3, 4]).await;
    let leader = cluster.leader(&clients).await;
    let left = [leader, (leader + 1) % 5, (leader + 2) % 5];
    let gone = [(leader + 3) % 5, (leader + 4) % 5];
    for member in gone {
        cluster.members[member].kill_machine();
        writes_again(&clients[leader]).await;
        until_permitted(async || remove(&clients[leader], ids[member]).await).await;
    }
    for member in left {
        cluster.members[member].kill_machine();
    }
    for member in left {
        cluster.members[member].begin();
    }
    for member in left {
        cluster.members[member].is_up().await;
    }
    cluster.has_copies_on(left[0], &left).await;
    cluster.members[left[1]].kill_machine();
    writes_again(&clients[left[2]]).await;
}

/// Five members, all of which found the cluster, or of which two came later.
async fn five(founders: usize) -> (Cluster, Vec<Client>) {
    let mut cluster = Cluster::start(founders).await;
    let mut clients = cluster.clients().await;
    while clients.len() < 5 {
        for member in 0..clients.len() {
            started(&clients[0], cluster.name(member)).await;
        }
        let new = cluster.add();
        let url = cluster.peer_url(new);
        until_permitted(async || add(&clients[0], &url, false).await).await;
        let list = cluster.list(0..=new);
        cluster.set_flags(new, &list, "existing", &[]);
        cluster.members[new].restart().await;
        clients.push(cluster.members[new].client().await);
    }
    (cluster, clients)
}

/// Two of five members are removed. Then one of the three is away for a while, or none. Then most or all of
/// them are killed and started again.
async fn shrinks_and_starts_again(random: &mut StdRng) {
    let founders = if random.random_bool(0.5) { 3 } else { 5 };
    println!("{founders} founders");
    let (mut cluster, clients) = five(founders).await;
    let mut ids = Vec::new();
    for member in 0..5 {
        ids.push(started(&clients[0], cluster.name(member)).await.id);
    }
    cluster.has_copies_on(0, &[0, 1, 2, 3, 4]).await;
    for key in 0..20 {
        clients[key % 5].put(format!("/k/{key}"), "value").await;
    }
    let mut order: Vec<usize> = (0..5).collect();
    order.shuffle(random);
    let (gone, left) = order.split_at(2);
    let mut dead = Vec::new();
    for &member in gone {
        let is_dead = random.random_bool(0.5);
        println!("member {member} is removed, after it was killed: {is_dead}");
        if is_dead {
            cluster.members[member].kill_machine();
            dead.push(member);
        }
        let by = &clients[*left.choose(random).expect("a member")];
        writes_again(by).await;
        until_permitted(async || remove(by, ids[member]).await).await;
        if !is_dead {
            cluster.members[member].ended().await;
        }
    }
    if random.random_bool(0.5) {
        cluster.has_copies_on(left[0], left).await;
        // Two of the three suffice.
        let away = *left.choose(random).expect("a member");
        let other = *left.iter().find(|&&member| member != away).expect("another one");
        println!("member {away} of {left:?} is killed");
        cluster.members[away].kill_machine();
        // NATS counts a removed copy until its Raft group has heard of the removal.
        let begun = std::time::Instant::now();
        while clients[other].put_request(put("/probe", "")).await.is_err() {
            assert!(begun.elapsed() < Duration::from_mins(2), "no write");
        }
        println!("a write after {:?}", begun.elapsed());
        cluster.members[away].restart().await;
    } else {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
    }
    let mut victims = left.to_vec();
    victims.shuffle(random);
    victims.truncate(random.random_range(2..=3));
    println!("{victims:?} of {left:?} are killed");
    for &member in &victims {
        if random.random_bool(0.7) {
            cluster.members[member].kill_machine();
        } else {
            cluster.members[member].kill9();
        }
    }
    // A removed member that was down does not know it. It may be the first one that starts.
    let mut starting: Vec<usize> = victims.iter().chain(&dead).copied().collect();
    starting.shuffle(random);
    for &member in &starting {
        println!("member {member} starts again");
        cluster.members[member].begin();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
    }
    for &member in &victims {
        let begun = std::time::Instant::now();
        cluster.members[member].is_up().await;
        println!("member {member} serves after {:?}", begun.elapsed());
    }
    for &member in &dead {
        assert!(cluster.members[member].ended().await.success(), "it was removed");
    }
    cluster.has_copies_on(left[0], left).await;
    let left: Vec<Client> = left.iter().map(|&member| clients[member].clone()).collect();
    for client in &left {
        assert_eq!(client.list("/k/").await.len(), 20);
    }
    all_hold_the_same(&left).await;
}

#[ignore = "takes minutes: `make faults`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_shrinks_and_starts_again() {
    let mut random = StdRng::seed_from_u64(seed());
    for round in 0..rounds(20) {
        println!("round {round}");
        shrinks_and_starts_again(&mut random).await;
    }
}

//! Five members become three, the majority of which dies, and start again.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, seq::IndexedRandom as _};
use support::client::Client;
use support::cluster::Cluster;
use support::server::{Target, signal};
use support::{eventually, rounds, seed};

use super::forming::{all_hold_the_same, writes_again};
use super::members::{remove, started, until_permitted};

/// Ends a member as a power cut does.
pub fn kill_machine(cluster: &mut Cluster, member: usize) {
    if cluster.members[member].target() == Target::Etcd {
        cluster.members[member].kill9();
        return;
    }
    let nats = cluster.members[member].find_nats_pid();
    // Stopped, it does not see that jetway ends.
    nats.inspect(|&pid| signal(pid, libc::SIGSTOP));
    cluster.members[member].kill9();
    nats.inspect(|&pid| signal(pid, libc::SIGKILL));
}

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
    kill_machine(&mut cluster, left[1]);
    writes_again(&clients[left[2]]).await;
}

/// Two of five members are removed, then most or all of the other three are killed and started again.
async fn shrinks_and_starts_again(random: &mut StdRng) {
    let mut cluster = Cluster::start(5).await;
    let clients = cluster.clients().await;
    let mut ids = Vec::new();
    for member in 0..5 {
        ids.push(started(&clients[0], cluster.name(member)).await.id);
    }
    for key in 0..20 {
        clients[key % 5].put(format!("/k/{key}"), "value").await;
    }
    let mut order: Vec<usize> = (0..5).collect();
    order.shuffle(random);
    let (gone, left) = order.split_at(2);
    for &member in gone {
        let is_dead = random.random_bool(0.5);
        println!("member {member} is removed, after it was killed: {is_dead}");
        if is_dead {
            kill_machine(&mut cluster, member);
        }
        let by = &clients[*left.choose(random).expect("a member")];
        writes_again(by).await;
        until_permitted(async || remove(by, ids[member]).await).await;
        if !is_dead {
            cluster.members[member].ended().await;
        }
    }
    cluster.has_copies_on(left[0], left).await;
    // Two of the three suffice.
    let away = *left.choose(random).expect("a member");
    let other = *left.iter().find(|&&member| member != away).expect("another one");
    println!("member {away} of {left:?} is killed");
    kill_machine(&mut cluster, away);
    println!("a write after {:?}", writes_again(&clients[other]).await);
    cluster.members[away].restart().await;
    cluster.has_copies_on(other, left).await;
    let mut victims = left.to_vec();
    victims.shuffle(random);
    victims.truncate(random.random_range(2..=3));
    println!("{victims:?} of {left:?} are killed");
    for &member in &victims {
        kill_machine(&mut cluster, member);
    }
    victims.shuffle(random);
    for &member in &victims {
        println!("member {member} starts again");
        cluster.members[member].begin();
        let pause = std::time::Duration::from_millis(random.random_range(0..3000));
        tokio::time::sleep(pause).await;
    }
    for &member in &victims {
        let begun = std::time::Instant::now();
        cluster.members[member].is_up().await;
        println!("member {member} serves after {:?}", begun.elapsed());
    }
    let left: Vec<Client> = left.iter().map(|&member| clients[member].clone()).collect();
    for client in &left {
        let keys = eventually("all keys", async || {
            let list = client.list("/k/").await;
            (list.len() == 20).then_some(list)
        });
        keys.await;
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

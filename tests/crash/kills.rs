//! `kill -9` at random moments under load.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jetway::proto::etcdserverpb::RangeRequest;
use jetway::proto::mvccpb::event::EventType;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use super::journal::replay;
use super::load::{Leased, Load};
use super::watcher::{Seen, Watcher};
use support::client::{Client, all, revision};
use support::eventually;
use support::server::{Server, alive, signal};
use support::watch::pair;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Jetway,
    Nats,
    Both,
}

impl Victim {
    async fn kill(self, server: &mut Server) {
        match self {
            Self::Jetway => {
                server.kill9();
                server.restart().await;
            }
            Self::Nats => kill_nats(server).await,
            Self::Both => {
                kill_nats(server).await;
                server.kill9();
                server.restart().await;
            }
        }
    }
}

/// Kills jetway's nats-server, once there is one again.
async fn kill_nats(server: &Server) {
    let pid = eventually("a nats-server to kill", async || server.find_nats_pid()).await;
    signal(pid, libc::SIGKILL);
    // The next one is another process.
    eventually("nats-server to end", async || (!alive(pid)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetway_dies() {
    crash(&[Victim::Jetway], &["--sync", "group"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_server_dies() {
    crash(&[Victim::Nats], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_or_both_die_and_every_write_is_synced() {
    crash(&[Victim::Jetway, Victim::Nats, Victim::Both], &["--sync", "always"]).await;
}

/// Values of this size fill a block of the store with some dozens of writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_die_while_blocks_come_and_go() {
    crash_with(&[Victim::Both], &[], 200_000).await;
}

async fn crash(victims: &[Victim], args: &[&str]) {
    crash_with(victims, args, 3000).await;
}

async fn crash_with(victims: &[Victim], args: &[&str], largest: usize) {
    let began = Instant::now();
    let rounds = Rounds { pause: 50..2500, largest, goes_on: |_| began.elapsed() < super::load_time() };
    let mut server = Server::start_with(args).await;
    under_load(&mut server, super::seed(), rounds, async |server, rng| {
        // Now and then again before all is well.
        for _ in 0..if rng.random_bool(0.2) { 2 } else { 1 } {
            let victim = victims[rng.random_range(0..victims.len())];
            println!("{:?}: kill {victim:?}", began.elapsed());
            victim.kill(server).await;
        }
    })
    .await;
}

/// How often something bad happens, and when.
pub struct Rounds<F: Fn(u32) -> bool> {
    /// Milliseconds between recovery and the next time.
    pub pause: Range<u64>,
    /// Bytes of the largest value.
    pub largest: usize,
    /// Asked before each round, with the number of those that were.
    pub goes_on: F,
}

/// Lets `harm` come over a server under load, round by round, and then checks that all that was answered is
/// there.
pub async fn under_load(
    server: &mut Server,
    seed: u64,
    rounds: Rounds<impl Fn(u32) -> bool>,
    mut harm: impl AsyncFnMut(&mut Server, &mut StdRng),
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let endpoint = server.endpoint();
    let load = Load::new(vec![endpoint.clone()]).with_values_to(rounds.largest);
    let watchers = [Watcher::start(&endpoint), Watcher::start(&endpoint)];
    let watchers = Arc::new(watchers.map(tokio::sync::Mutex::new).into_iter().collect::<Vec<_>>());
    let leased: Arc<Mutex<Vec<Leased>>> = Arc::default();
    let mut tasks = JoinSet::new();
    load.start(seed, &mut tasks);
    tasks.spawn(load.clone().compactions(Arc::clone(&watchers), StdRng::seed_from_u64(seed ^ 400)));
    tasks.spawn(load.clone().leases(Arc::clone(&leased), StdRng::seed_from_u64(seed ^ 500)));

    let client = Client::lazy(&endpoint);
    let began = Instant::now();
    let mut round = 0;
    while (rounds.goes_on)(round) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(rounds.pause.clone()))).await;
        harm(server, &mut rng).await;
        round += 1;
        // A process that survived recovers by itself.
        let died = Instant::now();
        eventually("a write after the kill", async || client.put_request(probe()).await.ok()).await;
        println!("{:?}: writes again after {:?}", began.elapsed(), died.elapsed());
    }
    load.stop();
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a client found something wrong");
    }
    let (answered, asked) = load.journal.len();
    println!("{round} rounds, {asked} writes, {answered} of them answered");
    assert!(answered > 100, "too little was answered to show anything");
    verify(server, &load, &watchers, &leased).await;
}

/// A put that is not part of the history that is checked.
fn probe() -> jetway::proto::etcdserverpb::PutRequest {
    support::client::put("/probe", "")
}

async fn verify(
    server: &Server,
    load: &Load,
    watchers: &[tokio::sync::Mutex<Watcher>],
    leased: &Mutex<Vec<Leased>>,
) {
    let client = server.client().await;
    // All leases are over before the end is fixed.
    eventually("the leases to end", async || client.list("/leased/").await.is_empty().then_some(())).await;
    let end = client.put("/probe", "end").await;
    let mut histories = Vec::new();
    for watcher in watchers {
        let mut watcher = watcher.lock().await;
        let events = watcher.events_to(end).await;
        println!("a watcher resumed {} times and saw {} events", watcher.resumed(), events.len());
        histories.push(events);
    }
    let events = |history: &[Seen]| history.iter().map(|seen| seen.event.clone()).collect::<Vec<_>>();
    assert_eq!(events(&histories[0]), events(&histories[1]), "two watchers saw different histories");
    let whole = histories.swap_remove(0);
    let state = replay(&whole);
    let checked: Vec<Seen> = whole.iter().filter(|seen| pair(&seen.event).key != "/probe").cloned().collect();
    load.journal.check(&checked, |key| key.starts_with(b"/leased/"));

    // The store holds what the events made, now and at each revision that is still there.
    let now = client.range(all("")).await.unwrap();
    assert_eq!(revision(&now.header), end);
    let replayed: Vec<_> = state.into_values().collect();
    let differing = now.kvs.iter().filter(|kv| !replayed.contains(kv)).map(|kv| ("only stored", kv));
    let differing = differing
        .chain(replayed.iter().filter(|kv| !now.kvs.contains(kv)).map(|kv| ("only in the events", kv)));
    for (place, kv) in differing {
        println!("{place}: {:?} created {} modified {}", kv.key, kv.create_revision, kv.mod_revision);
    }
    assert_eq!(now.kvs.len(), replayed.len(), "the store is not what the events made");
    assert!(now.kvs == replayed, "the store is not what the events made");
    let floor = load.compacted().max(1);
    println!("compacted at {floor} of {end}");
    for at in [floor, floor.midpoint(end), end - 1] {
        let until = whole.partition_point(|seen| pair(&seen.event).mod_revision <= at);
        let then = client.range(RangeRequest { revision: at, ..all("") }).await.unwrap();
        assert_eq!(then.kvs, replay(&whole[..until]).into_values().collect::<Vec<_>>(), "at revision {at}");
    }
    if floor > 1 {
        let below =
            client.range(RangeRequest { revision: floor - 1, ..all("") }).await.expect_err("compacted");
        assert_eq!(below.message(), "etcdserver: mvcc: required revision has been compacted");
    }

    // No lease ended early.
    let deleted: HashMap<&Bytes, Instant> = whole
        .iter()
        .filter(|seen| seen.event.r#type() == EventType::Delete)
        .map(|seen| (&pair(&seen.event).key, seen.at))
        .collect();
    let leased = leased.lock().unwrap();
    let ended = leased.iter().filter(|lease| deleted.contains_key(&lease.key)).count();
    println!("{ended} of {} leased keys were there and are gone", leased.len());
    for lease in leased.iter() {
        if let Some(at) = deleted.get(&lease.key) {
            assert!(*at >= lease.lives_until, "{lease:?} was deleted {:?} early", lease.lives_until - *at);
        }
    }
}

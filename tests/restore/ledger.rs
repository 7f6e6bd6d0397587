//! Objects like those of Kubernetes, and clients that go on to write them while their store moves. Each
//! client keeps a ledger of its answered writes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::response_op::Response;
use jetway::proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest};
use jetway::proto::mvccpb::KeyValue;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use support::client::*;
use support::within_time;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Keys of objects that the ledger does not write.
const KINDS: [&str; 5] = ["configmaps", "events", "pods", "secrets", "replicasets"];
/// The kind of which each object is on a lease.
const LEASED: usize = 1;
/// Leases of the store, from 1 on.
pub const LEASES: i64 = 20;
const TTL: i64 = 3600;
/// Clients that write at once.
const WRITERS: u64 = 10;
/// Requests under way while a store is filled.
const FILLERS: usize = 32;
/// How long one attempt at a server that may be away takes.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long no server may answer.
const OUTAGE: Duration = Duration::from_secs(120);

/// A value of 1 to 2 KB.
fn value(random: &mut StdRng) -> Vec<u8> {
    let mut value = vec![0; random.random_range(1000..2000)];
    random.fill_bytes(&mut value);
    value[..4].copy_from_slice(b"k8s\0");
    value
}

/// Fills an empty store with objects of which some have a history, and compacts a part of it.
pub async fn fill(client: &Client, objects: usize, seed: u64) {
    for lease in 1..=LEASES {
        client.lease_grant(lease, TTL).await.unwrap();
    }
    let next = Arc::new(AtomicUsize::new(0));
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS as u64 {
        let (client, next, mut random) =
            (client.clone(), next.clone(), StdRng::seed_from_u64(seed ^ filler << 32));
        fillers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return;
                }
                let kind = number % KINDS.len();
                let key = format!("/registry/{}/namespace-{}/{number:07}", KINDS[kind], number % 97);
                let lease = if kind == LEASED { random.random_range(1..=LEASES) } else { 0 };
                // One in ten was changed since.
                for _ in 0..1 + number.is_multiple_of(10) as usize {
                    let request = PutRequest { lease, ..put(&key, value(&mut random)) };
                    client.put_request(request).await.unwrap();
                }
            }
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled.unwrap();
    }
    let now = client.revision().await;
    client.compact(now - now / 10).await.unwrap();
}

/// Clients that write, and go over to another server when the first one refuses them.
pub struct Writers {
    tasks: JoinSet<Ledger>,
    stop: CancellationToken,
    over: Arc<AtomicUsize>,
    answered_there: Arc<AtomicUsize>,
}

/// A client and its answered writes.
pub struct Ledger {
    /// The server that it writes to, and the next one.
    clients: [Client; 2],
    server: usize,
    over: Arc<AtomicUsize>,
    answered_there: Arc<AtomicUsize>,
    random: StdRng,
    prefix: String,
    known: BTreeMap<String, KeyValue>,
    created: usize,
    /// Revisions of the answered writes at each server.
    revisions: [HashSet<i64>; 2],
    answers: Vec<Instant>,
    stop: CancellationToken,
}

impl Writers {
    /// Begins to write, so many writes a second in all.
    pub fn begin(endpoints: [&str; 2], each_second: u64, seed: u64) -> Writers {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let (over, answered_there) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        for number in 0..WRITERS {
            let ledger = Ledger {
                clients: endpoints.map(Client::lazy),
                server: 0,
                over: Arc::clone(&over),
                answered_there: Arc::clone(&answered_there),
                random: StdRng::seed_from_u64(seed ^ (1 << 63 | number)),
                prefix: format!("/registry/deployments/client-{number}/"),
                known: BTreeMap::new(),
                created: 0,
                revisions: Default::default(),
                answers: Vec::new(),
                stop: stop.clone(),
            };
            tasks.spawn(ledger.write(Duration::from_secs(WRITERS) / each_second as u32));
        }
        Writers { tasks, stop, over, answered_there }
    }

    /// Whether all clients have gone over, and the other server has answered so many writes.
    pub fn have_gone_over(&self, answered: usize) -> bool {
        self.over.load(Ordering::Relaxed) == WRITERS as usize
            && self.answered_there.load(Ordering::Relaxed) >= answered
    }

    /// Stops the clients; returns their ledgers.
    pub async fn stop(mut self) -> Vec<Ledger> {
        self.stop.cancel();
        let mut ledgers = Vec::new();
        while let Some(ledger) = self.tasks.join_next().await {
            ledgers.push(ledger.unwrap());
        }
        ledgers
    }
}

impl Ledger {
    async fn write(mut self, interval: Duration) -> Ledger {
        let mut pace = tokio::time::interval(interval);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            pace.tick().await;
            let (key, before) = self.choose();
            let deletes = before.is_some() && self.random.random_range(0..10) == 0;
            let lease =
                if self.random.random_range(0..10) == 0 { self.random.random_range(1..=LEASES) } else { 0 };
            let new = (!deletes).then(|| PutRequest { lease, ..put(&key, value(&mut self.random)) });
            within_time(OUTAGE, "an answered write", self.write_once(key, before, new)).await;
        }
        self
    }

    /// A key of its own, with its pair.
    fn choose(&mut self) -> (String, Option<KeyValue>) {
        if self.known.len() < 10 || self.random.random_range(0..5) == 0 {
            self.created += 1;
            return (format!("{}{:06}", self.prefix, self.created), None);
        }
        let at = self.random.random_range(0..self.known.len());
        let (key, pair) = self.known.iter().nth(at).expect("there are as many");
        (key.clone(), Some(pair.clone()))
    }

    /// One write, as a kube-apiserver sends it: if the object is still the known one. Repeated until its
    /// outcome is known.
    async fn write_once(&mut self, key: String, before: Option<KeyValue>, new: Option<PutRequest>) {
        let revision = before.as_ref().map_or(0, |pair| pair.mod_revision);
        let is_known = compare(&key, CompareResult::Equal, TargetUnion::ModRevision(revision));
        let change = new.as_ref().map_or_else(|| op(delete(&key)), |new| op(new.clone()));
        let request =
            TxnRequest { compare: vec![is_known], success: vec![change], failure: vec![op(get(&key))] };
        loop {
            let call = tokio::time::timeout(ATTEMPT, self.clients[self.server].txn(request.clone()));
            let done = match call.await {
                Ok(Ok(answer)) if answer.succeeded => Some(support::client::revision(&answer.header)),
                // An attempt that was given up has come through behind the read that followed it.
                Ok(Ok(answer)) => {
                    let now = support::client::revision(&answer.header);
                    let Some(Response::ResponseRange(found)) = &answer.responses[0].response else {
                        panic!("{answer:?}")
                    };
                    let done = done(&key, revision, new.as_ref(), found.kvs.first(), now);
                    Some(done.unwrap_or_else(|| panic!("{key} is not at revision {revision}: {answer:?}")))
                }
                Ok(Err(status)) if status.message().contains("corrupt") => {
                    assert_eq!(self.server, 0, "the other server is fenced");
                    self.server = 1;
                    self.over.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                _ => self.outcome(&key, revision, new.as_ref()).await,
            };
            if let Some(now) = done {
                self.note(key, before, new, now);
                return;
            }
        }
    }

    /// The revision of a write that was not answered, if it was done.
    async fn outcome(&mut self, key: &str, before: i64, new: Option<&PutRequest>) -> Option<i64> {
        loop {
            let read = tokio::time::timeout(ATTEMPT, self.clients[self.server].get(key)).await;
            let Ok(Ok(answer)) = read else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let now = support::client::revision(&answer.header);
            return done(key, before, new, answer.kvs.first(), now);
        }
    }

    fn note(&mut self, key: String, before: Option<KeyValue>, new: Option<PutRequest>, now: i64) {
        self.answers.push(Instant::now());
        self.revisions[self.server].insert(now);
        self.answered_there.fetch_add(self.server, Ordering::Relaxed);
        let Some(PutRequest { value, lease, .. }) = new else {
            self.known.remove(&key);
            return;
        };
        let (create_revision, version) =
            before.map_or((now, 1), |before| (before.create_revision, before.version + 1));
        let pair =
            KeyValue { key: key.clone().into(), create_revision, mod_revision: now, version, value, lease };
        self.known.insert(key, pair);
    }
}

/// The revision of a write, if it was done. The key, which was at `before`, is read at `now`.
fn done(key: &str, before: i64, new: Option<&PutRequest>, pair: Option<&KeyValue>, now: i64) -> Option<i64> {
    match (pair, new) {
        (pair, _) if pair.map_or(0, |pair| pair.mod_revision) == before => None,
        (Some(pair), Some(new)) if pair.value == new.value => Some(pair.mod_revision),
        // The revision of a delete is not known; that of the answer is not before it.
        (None, None) => Some(now),
        (pair, _) => panic!("{key}, which was at revision {before}, is {pair:?}"),
    }
}

/// The server has what the ledgers have, no more and no less. Returns the numbers of writes at each server.
pub async fn agree(ledgers: &[Ledger], client: &Client) -> [usize; 2] {
    for ledger in ledgers {
        let found = client.range(RangeRequest { ..all(&ledger.prefix) }).await.unwrap().kvs;
        let known: Vec<_> = ledger.known.values().cloned().collect();
        assert!(found == known, "{}: {} keys, and {} in the ledger", ledger.prefix, found.len(), known.len());
    }
    [0, 1].map(|server| ledgers.iter().map(|ledger| ledger.revisions[server].len()).sum())
}

/// The longest time in which none of the writes of a client was answered.
pub fn longest_gap(ledgers: &[Ledger]) -> Duration {
    let gaps = ledgers.iter().flat_map(|ledger| ledger.answers.windows(2).map(|pair| pair[1] - pair[0]));
    gaps.max().expect("there were answers")
}

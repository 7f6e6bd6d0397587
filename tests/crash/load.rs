//! Clients that write, read, delete, compare and compact, and write down their answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
use jetway::proto::mvccpb::KeyValue;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::journal::{Attempt, Journal};
use super::watcher::Watcher;
use support::client::{Client, all, compare, delete, delete_of, get, op, put, revision, run};

/// Keys of one writer.
const KEYS: usize = 4;
/// Revisions that a compaction stays behind the watchers.
const BEHIND: i64 = 150;

/// The errors that a call may meet while something is down. Anything else is a mistake.
fn excused(status: &Status) {
    let excused =
        matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown);
    assert!(excused, "a call failed with {status:?}");
    // A broken connection has no code of its own; every error of jetway itself has one.
    let unknown_is_transport = status.code() != Code::Unknown || !status.message().starts_with("etcdserver");
    assert!(unknown_is_transport, "a call failed with {status:?}");
}

/// Shared by all clients of one run.
#[derive(Clone, Debug)]
pub struct Load {
    pub journal: Arc<Journal>,
    endpoints: Arc<Vec<String>>,
    stop: CancellationToken,
    compacted: Arc<AtomicI64>,
    /// Bytes of the largest value.
    largest: usize,
}

/// A lease of a run, as its owner knows it.
#[derive(Clone, Debug)]
pub struct Leased {
    pub key: Bytes,
    /// Not before this may its keys be deleted.
    pub lives_until: Instant,
}

impl Load {
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            journal: Arc::default(),
            endpoints: Arc::new(endpoints),
            stop: CancellationToken::new(),
            compacted: Arc::default(),
            largest: 3000,
        }
    }

    /// With values of up to so many bytes.
    pub fn with_values_to(self, largest: usize) -> Self {
        Self { largest, ..self }
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// The highest revision that a compaction was answered for.
    pub fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::SeqCst)
    }

    fn runs(&self) -> bool {
        !self.stop.is_cancelled()
    }

    fn client(&self, rng: &mut StdRng) -> Client {
        Client::lazy(&self.endpoints[rng.random_range(0..self.endpoints.len())])
    }

    /// Starts the usual mixture.
    pub fn start(&self, seed: u64, tasks: &mut JoinSet<()>) {
        for worker in 0..4_u64 {
            tasks.spawn(self.clone().single_keys(worker, StdRng::seed_from_u64(seed ^ (worker + 1))));
        }
        for worker in 0..2_u64 {
            tasks.spawn(self.clone().transactions(worker, StdRng::seed_from_u64(seed ^ (worker + 100))));
            tasks.spawn(self.clone().counter(StdRng::seed_from_u64(seed ^ (worker + 200))));
        }
        tasks.spawn(self.clone().fresh_reads(StdRng::seed_from_u64(seed ^ 300)));
    }

    /// One request, noted before and after.
    async fn attempt(
        &self,
        mut attempt: Attempt,
        call: impl Future<Output = Result<(i64, i64), Status>>,
    ) -> Option<(i64, i64)> {
        let before = self.journal.answered();
        match call.await {
            Ok((revision, deleted)) => {
                let wrote = !attempt.puts.is_empty() || deleted > 0;
                self.journal.heard(revision, if wrote { before + 1 } else { before });
                attempt.answer = Some((revision, deleted));
            }
            Err(status) => {
                excused(&status);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let answer = attempt.answer;
        self.journal.record(attempt);
        answer
    }

    /// Puts and deletes of keys that nobody else writes, each read back.
    async fn single_keys(self, worker: u64, mut rng: StdRng) {
        let client = self.client(&mut rng);
        let mut known: Vec<Option<Option<KeyValue>>> = vec![Some(None); KEYS];
        while self.runs() {
            let at = rng.random_range(0..KEYS);
            let key = Bytes::from(format!("/single/{worker}/{at}"));
            if known[at].is_none() || rng.random_bool(0.2) {
                let before = self.journal.answered();
                match client.get(&key).await {
                    Ok(answer) => {
                        self.journal.heard(revision(&answer.header), before);
                        let found = answer.kvs.into_iter().next();
                        if let Some(known) = &known[at] {
                            assert_eq!(&found, known, "read back at revision {:?}", answer.header);
                            continue;
                        }
                        // A call without an answer may still take effect later, so its key is settled only
                        // after an answered write.
                    }
                    Err(status) => {
                        excused(&status);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            if rng.random_bool(0.2) {
                let attempt = Attempt {
                    stamp: self.journal.stamp(0),
                    puts: BTreeSet::new(),
                    deletes: [key.clone()].into(),
                    answer: None,
                };
                let answer = self
                    .attempt(attempt, async {
                        let answer =
                            client.delete_range(DeleteRangeRequest { prev_kv: true, ..delete(&key) }).await?;
                        if let Some(known) = &known[at] {
                            assert_eq!(answer.prev_kvs.first(), known.as_ref(), "deleted {key:?}");
                        }
                        Ok((revision(&answer.header), answer.deleted))
                    })
                    .await;
                known[at] = answer.map(|_| None);
            } else {
                let value = self.journal.stamp(rng.random_range(0..self.largest));
                let attempt = Attempt {
                    stamp: value.clone(),
                    puts: [key.clone()].into(),
                    deletes: BTreeSet::new(),
                    answer: None,
                };
                let mut previous = None;
                let answer = self
                    .attempt(attempt, async {
                        let request = PutRequest { prev_kv: true, ..put(&key, &value) };
                        let answer = client.put_request(request).await?;
                        if let Some(known) = &known[at] {
                            assert_eq!(&answer.prev_kv, known, "put over {key:?}");
                        }
                        previous = answer.prev_kv;
                        Ok((revision(&answer.header), 0))
                    })
                    .await;
                known[at] = answer.map(|(revision, _)| {
                    Some(KeyValue {
                        key,
                        value,
                        create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: previous.as_ref().map_or(1, |kv| kv.version + 1),
                        lease: 0,
                    })
                });
            }
        }
    }

    /// Transactions over several keys that others write too.
    async fn transactions(self, worker: u64, mut rng: StdRng) {
        let client = self.client(&mut rng);
        while self.runs() {
            let stamp = self.journal.stamp(rng.random_range(0..self.largest));
            let chosen: BTreeSet<usize> =
                (0..rng.random_range(2..7)).map(|_| rng.random_range(0..12)).collect();
            let key = |at: &usize| Bytes::from(format!("/txn/{at:02}"));
            let puts: BTreeSet<Bytes> = chosen.iter().map(key).collect();
            let mut ops: Vec<_> = puts.iter().map(|key| op(put(key, &stamp))).collect();
            let range = rng.random_bool(0.2);
            // The keys of one of the prefixes below, which the puts are not under.
            let mut deletes: BTreeSet<Bytes> =
                (0..3).map(|at| format!("/txn-{worker}/{at}").into()).collect();
            if range {
                ops.push(op(support::client::delete_all(format!("/txn-{worker}/"))));
            } else {
                deletes.clear();
            }
            let mut puts = puts;
            if !range && rng.random_bool(0.5) {
                let more = Bytes::from(format!("/txn-{worker}/{}", rng.random_range(0..3)));
                ops.push(op(put(&more, &stamp)));
                puts.insert(more);
            }
            let attempt = Attempt { stamp, puts, deletes, answer: None };
            let last = ops.len() - 1;
            self.attempt(attempt, async {
                let answer = client.txn(run(ops)).await?;
                let deleted = if range { delete_of(&answer, last).deleted } else { 0 };
                Ok((revision(&answer.header), deleted))
            })
            .await;
        }
    }

    /// Compare-and-set on one key by several clients.
    async fn counter(self, mut rng: StdRng) {
        let key = Bytes::from_static(b"/counter");
        let client = self.client(&mut rng);
        while self.runs() {
            let before = self.journal.answered();
            let now = match client.get(&key).await {
                Ok(answer) => {
                    self.journal.heard(revision(&answer.header), before);
                    answer.kvs.first().map_or(0, |kv| kv.mod_revision)
                }
                Err(status) => {
                    excused(&status);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let stamp = self.journal.stamp(0);
            let txn = TxnRequest {
                compare: vec![compare(&key, CompareResult::Equal, TargetUnion::ModRevision(now))],
                success: vec![op(put(&key, &stamp))],
                failure: vec![op(get(&key))],
            };
            let before = self.journal.answered();
            let answer = client.txn(txn).await;
            let mut attempt =
                Attempt { stamp, puts: [key.clone()].into(), deletes: BTreeSet::new(), answer: None };
            match answer {
                Ok(answer) => {
                    let revision = revision(&answer.header);
                    self.journal.heard(revision, before + i64::from(answer.succeeded));
                    // A comparison that failed wrote nothing.
                    if !answer.succeeded {
                        continue;
                    }
                    attempt.answer = Some((revision, 0));
                }
                Err(status) => {
                    excused(&status);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            self.journal.record(attempt);
        }
    }

    /// Reads that must be no older than any answer before they began.
    async fn fresh_reads(self, mut rng: StdRng) {
        let client = self.client(&mut rng);
        while self.runs() {
            let before = self.journal.answered();
            match client.range(all("/txn/")).await {
                Ok(answer) => self.journal.heard(revision(&answer.header), before),
                Err(status) => excused(&status),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Compacts now and then, some way behind the watchers.
    pub async fn compactions(self, watchers: Arc<Vec<tokio::sync::Mutex<Watcher>>>, mut rng: StdRng) {
        let client = self.client(&mut rng);
        while self.runs() {
            tokio::time::sleep(Duration::from_millis(rng.random_range(300..900))).await;
            let mut floor = i64::MAX;
            for watcher in watchers.iter() {
                floor = floor.min(watcher.lock().await.revision() - BEHIND);
            }
            if floor <= self.compacted() {
                continue;
            }
            match client.compact(floor).await {
                Ok(_) => drop(self.compacted.fetch_max(floor, Ordering::SeqCst)),
                // An earlier try without an answer may have done it.
                Err(status) if status.code() == Code::OutOfRange => {
                    assert!(status.message().contains("compacted"), "{status:?}");
                    self.compacted.fetch_max(floor, Ordering::SeqCst);
                }
                Err(status) => excused(&status),
            }
        }
    }

    /// Short leases with one key each.
    pub async fn leases(self, leased: Arc<std::sync::Mutex<Vec<Leased>>>, mut rng: StdRng) {
        const TTL: i64 = 2;
        let client = self.client(&mut rng);
        while self.runs() {
            tokio::time::sleep(Duration::from_millis(rng.random_range(50..200))).await;
            let id = rng.random_range(1..i64::MAX);
            let granted = Instant::now();
            match client.lease_grant(id, TTL).await {
                Ok(answer) => assert_eq!((answer.id, answer.ttl), (id, TTL)),
                // It may be there all the same, and the put below finds out.
                Err(status) => excused(&status),
            }
            let key = Bytes::from(format!("/leased/{id:016x}"));
            let stamp = self.journal.stamp(0);
            let before = self.journal.answered();
            let request = PutRequest { lease: id, ..put(&key, &stamp) };
            let answer = match client.put_request(request).await {
                Ok(answer) => {
                    let revision = revision(&answer.header);
                    self.journal.heard(revision, before + 1);
                    Some((revision, 0))
                }
                Err(status) if status.code() == Code::NotFound => continue,
                Err(status) => {
                    excused(&status);
                    None
                }
            };
            self.journal.record(Attempt {
                stamp,
                puts: [key.clone()].into(),
                deletes: BTreeSet::new(),
                answer,
            });
            let lives_until = granted + Duration::from_secs(TTL as u64);
            leased.lock().unwrap().push(Leased { key, lives_until });
        }
    }
}

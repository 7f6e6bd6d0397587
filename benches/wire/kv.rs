//! Reads and plain writes.
//!
//! A value names its key and its write, so that every answer can be checked without
//! remembering what was written.

use crate::load::{Bench, Caller, Failure, Outcome};
use etcd_client::{CompactionOptions, GetOptions, KeyValue, KvClient};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

const PREFIX: &str = "/registry/configmaps/bench/";
pub(crate) const VALUE_BYTES: usize = 1024;

/// Values of heartbeats, and of a store that is only filled.
pub(crate) const FLOOD_BYTES: usize = 300;

/// Keys in the store of a workload that reads, and keys that puts go to.
const KEYS: u64 = 10_000;

/// Keys of a page: what Kubernetes' clients ask for.
const PAGE: u64 = 500;

/// Every so many answers are compared byte by byte; of the others only the head of the value.
const COMPARE_EVERY: u64 = 64;

/// Keys of a range that has all, and clients that read it.
const RANGED_KEYS: u64 = 100_000;
const RANGERS: usize = 4;

/// Writers that fill the store before a workload.
const FILLERS: u64 = 100;

/// Time from a compaction to the next one.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn key(number: u64) -> Vec<u8> {
    format!("{PREFIX}{number:08}").into_bytes()
}

/// The `write`th value of a key: the key's number, the write's, then bytes that do not compress.
pub(crate) fn value(number: u64, write: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let (head, body) = bytes.split_at_mut(16);
    head[..8].copy_from_slice(&number.to_be_bytes());
    head[8..].copy_from_slice(&write.to_be_bytes());
    SmallRng::seed_from_u64(number.rotate_left(32) ^ write).fill(body);
    bytes
}

/// Fails unless `kv` is key `number` with one of its values; `wholly` compares all of it.
fn check(kv: &KeyValue, number: u64, wholly: bool) -> Result<(), Failure> {
    let found = kv.value();
    let (Some(head), Some(write)) =
        (found.first_chunk::<8>(), found.get(8..).and_then(|rest| rest.first_chunk::<8>()))
    else {
        return Err(format!("key {number} holds {} bytes", found.len()).into());
    };
    let right = kv.key() == key(number)
        && *head == number.to_be_bytes()
        && found.len() == VALUE_BYTES
        && (!wholly || found == value(number, u64::from_be_bytes(*write), VALUE_BYTES));
    if right { Ok(()) } else { Err(format!("the answer for key {number} is another key or value").into()) }
}

/// Puts the first value of keys 0 to `count`.
pub(crate) async fn fill(bench: &Bench, count: u64, length: usize) -> Result<(), Failure> {
    let connections = bench.connect(4).await?;
    let mut filling = JoinSet::new();
    for filler in 0..FILLERS.min(count) {
        let mut kv = connections[filler as usize % connections.len()].kv_client();
        filling.spawn(async move {
            for number in (filler..count).step_by(FILLERS as usize) {
                kv.put(key(number), value(number, 0, length), None).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(done) = filling.join_next().await {
        done??;
    }
    Ok(())
}

/// Puts, round and round over the keys that belong to this client alone.
struct Putter {
    kv: KvClient,
    client: u64,
    clients: u64,
    write: u64,
}

impl Putter {
    fn number(&self) -> u64 {
        (self.client + self.clients * self.write) % KEYS
    }

    /// The last put is there, whole.
    async fn verify(&mut self) -> Result<(), Failure> {
        if self.write == 0 {
            return Ok(());
        }
        self.write -= 1;
        let number = self.number();
        let answer = self.kv.get(key(number), None).await?;
        let there =
            answer.kvs().first().is_some_and(|kv| kv.value() == value(number, self.write, VALUE_BYTES));
        if there {
            Ok(())
        } else {
            Err(format!("the put of key {number} was answered and is not there").into())
        }
    }
}

impl Caller for Putter {
    async fn call(&mut self) -> Result<(), Failure> {
        let number = self.number();
        self.kv.put(key(number), value(number, self.write, VALUE_BYTES), None).await?;
        self.write += 1;
        Ok(())
    }
}

pub(crate) async fn put(bench: &Bench) -> Result<Outcome, Failure> {
    let clients = bench.kv_clients().await?;
    let count = clients.len() as u64;
    let putters =
        clients.into_iter().zip(0..).map(|(kv, client)| Putter { kv, client, clients: count, write: 0 });
    let (outcome, putters) = bench.closed_loop(putters.collect()).await?;
    for mut putter in putters {
        putter.verify().await?;
    }
    Ok(outcome)
}

/// Puts while other clients read all keys in one response each, as a controller without pages does it.
pub(crate) async fn put_ranged(bench: &Bench) -> Result<Outcome, Failure> {
    fill(bench, RANGED_KEYS, FLOOD_BYTES).await?;
    let mut reading = JoinSet::new();
    let ranges = Arc::new(AtomicU64::new(0));
    for connection in bench.connect(RANGERS).await?.into_iter().take(RANGERS) {
        let mut kv = connection.kv_client().max_decoding_message_size(usize::MAX);
        let ranges = Arc::clone(&ranges);
        reading.spawn(async move {
            loop {
                let all = GetOptions::new().with_prefix();
                let found = kv.get(PREFIX, Some(all)).await?.kvs().len() as u64;
                if found != RANGED_KEYS {
                    return Err::<Infallible, Failure>(format!("a range returned {found} keys").into());
                }
                ranges.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let failed = async { reading.join_next().await.ok_or("nobody reads")?? };
    let mut outcome = tokio::select! {
        outcome = put(bench) => outcome?,
        failed = failed => match failed? {},
    };
    outcome.note = format!("{} ranges", ranges.load(Ordering::Relaxed));
    Ok(outcome)
}

/// Puts while all history is compacted again and again, not waiting for the space, as Kubernetes does it.
pub(crate) async fn put_compacted(bench: &Bench) -> Result<Outcome, Failure> {
    let mut kv = bench.connect(1).await?[0].kv_client();
    let mut compactions = 0;
    let compacting = async {
        let mut tick = tokio::time::interval(COMPACTION_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = 0;
        loop {
            tick.tick().await;
            let now = newest(&mut kv).await?;
            // One revision is compacted once only.
            if now > last {
                kv.compact(now, None).await?;
                compactions += 1;
                last = now;
            }
        }
    };
    let outcome: Result<Outcome, Failure> = tokio::select! {
        outcome = put(bench) => outcome,
        failed = compacting => failed,
    };
    let mut outcome = outcome?;
    outcome.note = format!("{compactions} compactions");
    Ok(outcome)
}

/// Reads random keys.
struct Getter {
    kv: KvClient,
    random: SmallRng,
    calls: u64,
}

impl Caller for Getter {
    async fn call(&mut self) -> Result<(), Failure> {
        let number = self.random.random_range(0..KEYS);
        let answer = self.kv.get(key(number), None).await?;
        self.calls += 1;
        let kv = answer.kvs().first().ok_or_else(|| format!("key {number} is not there"))?;
        check(kv, number, self.calls.is_multiple_of(COMPARE_EVERY))
    }
}

fn getters(clients: Vec<KvClient>) -> impl Iterator<Item = Getter> {
    clients.into_iter().zip(1..).map(|(kv, seed)| Getter {
        kv,
        random: SmallRng::seed_from_u64(seed),
        calls: 0,
    })
}

pub(crate) async fn get(bench: &Bench) -> Result<Outcome, Failure> {
    fill(bench, KEYS, VALUE_BYTES).await?;
    let getters = getters(bench.kv_clients().await?);
    Ok(bench.closed_loop(getters.collect()).await?.0)
}

/// Reads, and now and then a put. Which one follows from the random numbers of the reads.
struct MixedCaller {
    getter: Getter,
    putter: Putter,
}

impl Caller for MixedCaller {
    async fn call(&mut self) -> Result<(), Failure> {
        if self.getter.random.random_ratio(7, 10) {
            self.getter.call().await
        } else {
            self.putter.call().await
        }
    }
}

pub(crate) async fn mixed(bench: &Bench) -> Result<Outcome, Failure> {
    fill(bench, KEYS, VALUE_BYTES).await?;
    let clients = bench.kv_clients().await?;
    let count = clients.len() as u64;
    let mixers = getters(clients).zip(0..).map(|(getter, client)| {
        let putter = Putter { kv: getter.kv.clone(), client, clients: count, write: 0 };
        MixedCaller { getter, putter }
    });
    let (outcome, mixers) = bench.closed_loop(mixers.collect()).await?;
    for mut mixer in mixers {
        mixer.putter.verify().await?;
    }
    Ok(outcome)
}

/// Reads pages as Kubernetes does: from somewhere to the end of the prefix, with a limit.
struct RangeReader(Getter);

impl Caller for RangeReader {
    async fn call(&mut self) -> Result<(), Failure> {
        let first = self.0.random.random_range(0..=KEYS - PAGE);
        let end = GetOptions::new().with_range(prefix_end()).with_limit(PAGE as i64);
        let answer = self.0.kv.get(key(first), Some(end)).await?;
        self.0.calls += 1;
        let left = KEYS - first;
        if answer.kvs().len() as u64 != PAGE
            || answer.count() as u64 != left
            || answer.more() != (left > PAGE)
        {
            let (found, count, more) = (answer.kvs().len(), answer.count(), answer.more());
            return Err(format!("page from {first}: {found} keys, count {count}, more {more}").into());
        }
        let wholly = self.0.calls.is_multiple_of(COMPARE_EVERY);
        for (kv, number) in answer.kvs().iter().zip(first..) {
            check(kv, number, wholly)?;
        }
        Ok(())
    }
}

fn prefix_end() -> Vec<u8> {
    let mut end = PREFIX.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

pub(crate) async fn range(bench: &Bench) -> Result<Outcome, Failure> {
    fill(bench, KEYS, VALUE_BYTES).await?;
    let rangers = getters(bench.kv_clients().await?).map(RangeReader);
    Ok(bench.closed_loop(rangers.collect()).await?.0)
}

/// Counts all keys.
struct Counter(KvClient);

impl Caller for Counter {
    async fn call(&mut self) -> Result<(), Failure> {
        let answer = self.0.get(PREFIX, Some(GetOptions::new().with_prefix().with_count_only())).await?;
        if answer.count() as u64 == KEYS && answer.kvs().is_empty() {
            Ok(())
        } else {
            Err(format!("{} keys counted, {} sent", answer.count(), answer.kvs().len()).into())
        }
    }
}

/// All keys that are there.
pub(crate) async fn counted(bench: &Bench) -> Result<u64, Failure> {
    let all = GetOptions::new().with_prefix().with_count_only();
    Ok(bench.connect(1).await?[0].kv_client().get(PREFIX, Some(all)).await?.count() as u64)
}

/// The revision that the store is at.
async fn newest(kv: &mut KvClient) -> Result<i64, Failure> {
    let answer = kv.get(key(0), None).await?;
    Ok(answer.header().ok_or("an answer without a header")?.revision())
}

/// Forgets all history.
pub(crate) async fn compact(bench: &Bench) -> Result<(), Failure> {
    let mut kv = bench.connect(1).await?[0].kv_client();
    let now = newest(&mut kv).await?;
    kv.compact(now, Some(CompactionOptions::new().with_physical())).await?;
    Ok(())
}

pub(crate) async fn count(bench: &Bench) -> Result<Outcome, Failure> {
    fill(bench, KEYS, VALUE_BYTES).await?;
    let counters = bench.kv_clients().await?.into_iter().map(Counter);
    Ok(bench.closed_loop(counters.collect()).await?.0)
}

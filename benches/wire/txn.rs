//! Guarded writes, as Kubernetes makes them.

use crate::kv::{FLOOD_BYTES, VALUE_BYTES, counted, fill, key, value};
use crate::load::{Bench, Caller, Failure, Outcome};
use etcd_client::{Compare, CompareOp, KvClient, Txn, TxnOp, TxnOpResponse, TxnResponse};

/// Keys of heartbeats: nodes.
const FLOOD_KEYS: u64 = 1000;

/// Kubernetes writes so: a put guarded by the key's revision, or else a read of the key.
async fn guarded(
    kv: &mut KvClient,
    number: u64,
    revision: i64,
    value: Vec<u8>,
) -> Result<TxnResponse, Failure> {
    let txn = Txn::new()
        .when([Compare::mod_revision(key(number), CompareOp::Equal, revision)])
        .and_then([TxnOp::put(key(number), value, None)])
        .or_else([TxnOp::get(key(number), None)]);
    Ok(kv.txn(txn).await?)
}

/// The revision at which the write happened.
fn revision(answer: &TxnResponse) -> Result<i64, Failure> {
    Ok(answer.header().ok_or("an answer without a header")?.revision())
}

/// Creates keys that nobody else creates.
struct Creator {
    kv: KvClient,
    client: u64,
    clients: u64,
    created: u64,
}

impl Caller for Creator {
    async fn call(&mut self) -> Result<(), Failure> {
        let number = self.client + self.clients * self.created;
        if !guarded(&mut self.kv, number, 0, value(number, 0, VALUE_BYTES)).await?.succeeded() {
            return Err(format!("key {number} was there before it was created").into());
        }
        self.created += 1;
        Ok(())
    }
}

pub(crate) async fn create(bench: &Bench) -> Result<Outcome, Failure> {
    let clients = bench.kv_clients().await?;
    let count = clients.len() as u64;
    let creators =
        clients.into_iter().zip(0..).map(|(kv, client)| Creator { kv, client, clients: count, created: 0 });
    let (outcome, creators) = bench.closed_loop(creators.collect()).await?;
    let created: u64 = creators.iter().map(|creator| creator.created).sum();
    let there = counted(bench).await?;
    if there == created { Ok(outcome) } else { Err(format!("{created} keys created, {there} there").into()) }
}

/// Updates keys of its own, one after the other.
struct Updater {
    kv: KvClient,
    keys: Vec<Updated>,
    length: usize,
    calls: usize,
}

/// A key as its only writer knows it.
struct Updated {
    number: u64,
    revision: i64,
    write: u64,
}

impl Caller for Updater {
    async fn call(&mut self) -> Result<(), Failure> {
        let at = self.calls % self.keys.len();
        let key = &mut self.keys[at];
        let next = value(key.number, key.write + 1, self.length);
        let answer = guarded(&mut self.kv, key.number, key.revision, next).await?;
        if !answer.succeeded() {
            return Err(format!("key {} has but one writer, and its guard failed", key.number).into());
        }
        key.revision = revision(&answer)?;
        key.write += 1;
        self.calls += 1;
        Ok(())
    }
}

/// Each client updates a key.
pub(crate) async fn update(bench: &Bench) -> Result<Outcome, Failure> {
    updates(bench, bench.clients as u64, VALUE_BYTES).await
}

/// The heartbeats that the nodes of a cluster write.
pub(crate) async fn flood(bench: &Bench) -> Result<Outcome, Failure> {
    updates(bench, FLOOD_KEYS, FLOOD_BYTES).await
}

async fn updates(bench: &Bench, keys: u64, length: usize) -> Result<Outcome, Failure> {
    fill(bench, keys, length).await?;
    let mut updaters = Vec::new();
    for (mut kv, first) in bench.kv_clients().await?.into_iter().zip(0..) {
        let mut own = Vec::new();
        for number in (first..keys).step_by(bench.clients) {
            let answer = kv.get(key(number), None).await?;
            let revision = answer.kvs().first().ok_or("a key was not filled in")?.mod_revision();
            own.push(Updated { number, revision, write: 0 });
        }
        updaters.push(Updater { kv, keys: own, length, calls: 0 });
    }
    let (outcome, updaters) = bench.closed_loop(updaters).await?;
    for Updater { mut kv, keys, .. } in updaters {
        for Updated { number, revision, write } in keys {
            let answer = kv.get(key(number), None).await?;
            let there = answer.kvs().first().ok_or("an updated key is not there")?;
            if there.mod_revision() != revision || there.value() != value(number, write, length) {
                return Err(format!("key {number} is not as it was updated last").into());
            }
        }
    }
    Ok(outcome)
}

/// Updates the one key that all update, until it wins.
struct ContendingUpdater {
    kv: KvClient,
    revision: i64,
    wins: u64,
    losses: u64,
}

impl Caller for ContendingUpdater {
    async fn call(&mut self) -> Result<(), Failure> {
        loop {
            let answer = guarded(&mut self.kv, 0, self.revision, value(0, self.wins, VALUE_BYTES)).await?;
            if answer.succeeded() {
                self.revision = revision(&answer)?;
                self.wins += 1;
                return Ok(());
            }
            self.losses += 1;
            let Some(TxnOpResponse::Get(seen)) = answer.op_responses().pop() else {
                return Err("a failed guard was not answered with the key".into());
            };
            let kv = seen.kvs().first().ok_or("the hot key is not there")?;
            if kv.mod_revision() <= self.revision {
                return Err(format!("the guard failed at the key's own revision, {}", self.revision).into());
            }
            self.revision = kv.mod_revision();
        }
    }
}

pub(crate) async fn hot_key(bench: &Bench) -> Result<Outcome, Failure> {
    fill(bench, 1, VALUE_BYTES).await?;
    let updaters = bench.kv_clients().await?.into_iter().map(|kv| ContendingUpdater {
        kv,
        revision: 0,
        wins: 0,
        losses: 0,
    });
    let (mut outcome, mut updaters) = bench.closed_loop(updaters.collect()).await?;
    let wins: u64 = updaters.iter().map(|updater| updater.wins).sum();
    let losses: u64 = updaters.iter().map(|updater| updater.losses).sum();
    let answer = updaters[0].kv.get(key(0), None).await?;
    let version = answer.kvs().first().ok_or("the hot key is not there")?.version();
    if bench.counts_versions && version as u64 != wins + 1 {
        return Err(format!("{wins} guarded writes were answered, and the key has version {version}").into());
    }
    outcome.note = format!("{:.1} lost guards a success", losses as f64 / wins as f64);
    Ok(outcome)
}

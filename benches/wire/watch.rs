//! Many watchers of one prefix, and writers under it.
//!
//! Every watcher should see every write once, in order, with the value before it, as Kubernetes asks for it.
//! An event that comes twice or in another order ends the sample, and one that does not come is counted. A
//! value carries the time at which its put was sent, so that the lag of an event is the whole way: put,
//! durability, delivery, decoding. The cost of a phase is counted until the last watcher has seen the last
//! write, so a peer that delivers late pays for it.

use crate::load::{Bench, Failure, Latencies, Meter, Outcome};
use etcd_client::{Client, KeyValue, KvClient, WatchOptions, WatchStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

const PREFIX: &str = "/registry/pods/bench/";
const VALUE_BYTES: usize = 300;
/// A multiple of the writers, so that in the closed loop each key has one writer.
const KEYS: u64 = 96;
const WATCHERS_PER_CONNECTION: usize = 10;
const WRITERS: usize = 16;
const WRITER_CONNECTIONS: usize = 2;

/// For the watchers to catch up after the last write. An event that has not come by then is counted as lost.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The writes of a phase.
#[derive(Default)]
struct Written {
    count: u64,
    last: i64,
    sum: i64,
}

impl Written {
    fn add(&mut self, revision: i64) {
        self.count += 1;
        self.last = self.last.max(revision);
        self.sum += revision;
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.last = self.last.max(other.last);
        self.sum += other.sum;
    }
}

/// The events that one watcher has seen since this was last taken from it.
#[derive(Default)]
struct Seen {
    count: u64,
    sum: i64,
    lags: Vec<Duration>,
}

/// One watcher as the rest of the program sees it.
#[derive(Default)]
struct Watcher {
    /// The newest revision it saw, stored after `seen` is complete up to it.
    revision: AtomicI64,
    seen: Mutex<Seen>,
}

impl Watcher {
    /// Reads the stream until it ends, which is an error, or the task is aborted.
    async fn follow(
        &self,
        mut stream: WatchStream,
        epoch: Instant,
        counts_versions: bool,
    ) -> Result<(), Failure> {
        let mut last = 0;
        while let Some(answer) = stream.message().await? {
            if answer.canceled() {
                return Err(format!("the watch was cancelled: {}", answer.cancel_reason()).into());
            }
            let now = epoch.elapsed();
            {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                for event in answer.events() {
                    let kv = event.kv().ok_or("an event without a key")?;
                    if kv.mod_revision() <= last {
                        return Err(
                            format!("revision {} was delivered after {last}", kv.mod_revision()).into()
                        );
                    }
                    last = kv.mod_revision();
                    let before = event.prev_kv();
                    let fits = if counts_versions {
                        before.map_or(0, KeyValue::version) + 1 == kv.version()
                    } else {
                        before.map_or(last, KeyValue::create_revision) == kv.create_revision()
                    };
                    if !fits {
                        return Err(format!("{kv:?} came with another value before it: {before:?}").into());
                    }
                    let sent = kv.value().first_chunk::<8>().ok_or("an event with another value")?;
                    seen.count += 1;
                    seen.sum += last;
                    seen.lags.push(now.saturating_sub(Duration::from_nanos(u64::from_be_bytes(*sent))));
                }
            }
            // Pairs with the acquire of the drain, which takes `seen` once it has read the last revision.
            self.revision.store(last, Ordering::Release);
        }
        Err("the watch stream ended".into())
    }
}

/// Watchers, writers' connections, and the clock of the values.
struct FanOut {
    watchers: Vec<Arc<Watcher>>,
    following: JoinSet<Result<(), Failure>>,
    writers: Vec<KvClient>,
    epoch: Instant,
}

impl FanOut {
    async fn set(bench: &Bench) -> Result<Self, Failure> {
        let connections = bench.connect(bench.clients.div_ceil(WATCHERS_PER_CONNECTION)).await?;
        let epoch = Instant::now();
        let mut watchers = Vec::new();
        let mut following = JoinSet::new();
        for at in 0..bench.clients {
            let stream = watch(&connections[at % connections.len()]).await?;
            let watcher = Arc::new(Watcher::default());
            watchers.push(Arc::clone(&watcher));
            let counts_versions = bench.counts_versions;
            following.spawn(async move { watcher.follow(stream, epoch, counts_versions).await });
        }
        let connections = bench.connect(WRITER_CONNECTIONS).await?;
        let writers =
            (0..WRITERS).map(|writer| connections[writer % connections.len()].kv_client()).collect();
        Ok(Self { watchers, following, writers, epoch })
    }

    /// Every writer puts as soon as its last put is answered.
    async fn unthrottled(&self, length: Duration) -> Result<Written, Failure> {
        let until = Instant::now() + length;
        let epoch = self.epoch;
        let mut writing = JoinSet::new();
        for (mut kv, writer) in self.writers.iter().cloned().zip(0..) {
            writing.spawn(async move {
                let mut written = Written::default();
                while Instant::now() < until {
                    written.add(put(&mut kv, writer + WRITERS as u64 * written.count, epoch).await?);
                }
                Ok::<_, Failure>(written)
            });
        }
        collect(writing).await
    }

    /// A fixed number of puts a second, whether or not those before are answered.
    async fn throttled(&self, length: Duration, writes_a_second: u32) -> Result<Written, Failure> {
        let until = Instant::now() + length;
        let epoch = self.epoch;
        let mut tick = tokio::time::interval(Duration::from_secs(1) / writes_a_second);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut writing = JoinSet::new();
        for number in 0.. {
            tick.tick().await;
            if Instant::now() >= until {
                break;
            }
            let mut kv = self.writers[number as usize % WRITERS].clone();
            writing.spawn(async move {
                let mut written = Written::default();
                written.add(put(&mut kv, number, epoch).await?);
                Ok::<_, Failure>(written)
            });
        }
        collect(writing).await
    }

    /// Waits until every watcher has seen the last write, or has had its time. Gives the lags of all events
    /// that came.
    async fn drain(&mut self, written: &Written) -> Result<Vec<Duration>, Failure> {
        let start = Instant::now();
        let is_behind = |watcher: &Arc<Watcher>| watcher.revision.load(Ordering::Acquire) < written.last;
        while self.watchers.iter().any(is_behind) && start.elapsed() < TIMEOUT {
            if let Some(ended) = self.following.try_join_next() {
                ended??;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut lags = Vec::new();
        for watcher in &self.watchers {
            let seen = std::mem::take(&mut *watcher.seen.lock().unwrap_or_else(PoisonError::into_inner));
            // Revisions rise strictly, so the same number of them with the same sum and end are the same
            // ones.
            if seen.count > written.count || seen.count == written.count && seen.sum != written.sum {
                return Err("a watcher saw other writes than were answered".into());
            }
            lags.extend(seen.lags);
        }
        Ok(lags)
    }

    /// The same before the sample, where nothing may be left behind that would come in it.
    async fn settle(&mut self, written: &Written) -> Result<(), Failure> {
        let expected = written.count * self.watchers.len() as u64;
        match self.drain(written).await?.len() as u64 {
            came if came == expected => Ok(()),
            came => Err(format!("{came} of {expected} events came {TIMEOUT:?} after the warm-up").into()),
        }
    }
}

async fn watch(connection: &Client) -> Result<WatchStream, Failure> {
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = connection.watch_client().watch(PREFIX, Some(options)).await?;
    match stream.message().await? {
        Some(answer) if answer.created() && !answer.canceled() => Ok(stream),
        other => Err(format!("the watch was not created: {other:?}").into()),
    }
}

/// Writes the time into a key, and gives the revision.
async fn put(kv: &mut KvClient, number: u64, epoch: Instant) -> Result<i64, Failure> {
    let key = format!("{PREFIX}{:08}", number % KEYS);
    let mut value = vec![b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_be_bytes());
    let answer = kv.put(key, value, None).await?;
    Ok(answer.header().ok_or("an answer without a header")?.revision())
}

async fn collect(mut writing: JoinSet<Result<Written, Failure>>) -> Result<Written, Failure> {
    let mut all = Written::default();
    while let Some(written) = writing.join_next().await {
        all.merge(&written??);
    }
    Ok(all)
}

pub(crate) async fn fan_out(bench: &Bench) -> Result<Outcome, Failure> {
    let mut fan_out = FanOut::set(bench).await?;
    let written = fan_out.unthrottled(bench.timing.warm_up).await?;
    fan_out.settle(&written).await?;
    let meter = Meter::start(&bench.roots)?;
    let written = fan_out.unthrottled(bench.timing.sample).await?;
    finish(fan_out, &written, meter).await
}

pub(crate) async fn lag(bench: &Bench, writes_a_second: u32) -> Result<Outcome, Failure> {
    let mut fan_out = FanOut::set(bench).await?;
    let written = fan_out.throttled(bench.timing.warm_up, writes_a_second).await?;
    fan_out.settle(&written).await?;
    let meter = Meter::start(&bench.roots)?;
    let written = fan_out.throttled(bench.timing.sample, writes_a_second).await?;
    finish(fan_out, &written, meter).await
}

async fn finish(mut fan_out: FanOut, written: &Written, meter: Meter<'_>) -> Result<Outcome, Failure> {
    let lags = fan_out.drain(written).await?;
    let mut outcome = meter.stop()?;
    outcome.operations = lags.len() as u64;
    outcome.expected = Some(written.count * fan_out.watchers.len() as u64);
    outcome.latencies = Latencies::of(lags);
    outcome.note = format!("{} puts were answered", written.count);
    if outcome.operations == 0 {
        return Err("no event came".into());
    }
    Ok(outcome)
}

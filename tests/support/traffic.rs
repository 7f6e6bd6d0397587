//! Writes, reads and watches through several instances while something happens to them, and the proof that
//! nothing went wrong.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::WatchCreateRequest;
use jetway::proto::mvccpb::Event;
use jetway::proto::mvccpb::event::EventType;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::client::{Client, is_of_an_outage, op, put, revision, run};
use crate::figures::{Calls, Figures};
use crate::watch::{WatchStream, outline, pair, watch_all};
use crate::{eventually, eventually_within};

/// How much is asked at once.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// Writers, each with two keys of its own.
    pub writers: usize,
    /// Those of them, the first ones, that have one key and put it, so that their record is whole by itself.
    pub single: usize,
    /// The instances that they write through, in turn.
    pub through: &'a [usize],
    /// Readers, each of the keys of one writer, through all instances in turn.
    pub readers: usize,
    /// Between two calls of a writer.
    pub pause: Duration,
    pub value_bytes: usize,
}

impl Load<'_> {
    pub const LIGHT: Load<'static> = Load {
        writers: 6,
        single: 0,
        through: &[0, 1, 2],
        readers: 6,
        pause: Duration::from_millis(3),
        value_bytes: 0,
    };
}

/// A call that failed, or a watch that ended: through which instance, and how.
type Failure = (usize, Status);
type Failures = Arc<Mutex<Vec<Failure>>>;

/// Two keys that were written at once, or one.
struct Answered {
    writer: usize,
    value: i64,
    revision: i64,
}

/// Calls that run until they are stopped.
pub struct Traffic {
    stop: CancellationToken,
    answered: JoinSet<Vec<Answered>>,
    readers: JoinSet<usize>,
    /// The events that the watch through each instance has seen.
    watches: JoinSet<(usize, Vec<Event>)>,
    /// The last revision, once it is known.
    last: watch::Sender<i64>,
    failures: Failures,
    begin: i64,
    single: usize,
    /// Revisions that others have written meanwhile.
    others: usize,
    /// Writes that were answered, through each instance.
    counts: Vec<Arc<AtomicI64>>,
    /// The times of the writes that were answered.
    times: Arc<Mutex<Calls>>,
    /// The newest value of each writer's that is known to be written.
    known: Vec<Arc<AtomicI64>>,
    /// The longest wait for more writes.
    patience: Duration,
}

impl Traffic {
    /// Writes, reads and watches through all instances.
    pub async fn begin(clients: &[Client]) -> Self {
        Self::begin_with(clients, Load::LIGHT).await
    }

    /// As [`Traffic::begin`], with this load.
    pub async fn begin_with(clients: &[Client], load: Load<'_>) -> Self {
        let begin = clients[0].revision().await;
        let (last, _) = watch::channel(i64::MAX);
        let mut traffic = Self {
            stop: CancellationToken::new(),
            answered: JoinSet::new(),
            readers: JoinSet::new(),
            watches: JoinSet::new(),
            last,
            failures: Arc::default(),
            begin,
            single: load.single,
            others: 0,
            counts: clients.iter().map(|_| Arc::default()).collect(),
            times: Arc::default(),
            known: Vec::new(),
            patience: clients[0].patience,
        };
        for (at, client) in clients.iter().enumerate() {
            let (client, failures, last) =
                (client.clone(), traffic.failures.clone(), traffic.last.subscribe());
            traffic.watches.spawn(async move { (at, see(&client, at, begin, &failures, last).await) });
        }
        // No traffic of before wrote as large a number.
        let first = begin * 1000;
        let padding = Arc::new("v".repeat(load.value_bytes));
        for writer in 0..load.writers {
            let known = Arc::new(AtomicI64::new(-1));
            traffic.known.push(known.clone());
            let at = load.through[writer % load.through.len()];
            let (client, stop, failures) =
                (clients[at].clone(), traffic.stop.clone(), traffic.failures.clone());
            let (newest, count, padding) = (known.clone(), traffic.counts[at].clone(), padding.clone());
            let (pause, halves, times) = (load.pause, halves(writer, load.single), traffic.times.clone());
            traffic.answered.spawn(async move {
                let mut answered = Vec::new();
                for value in first.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let ops = halves
                        .iter()
                        .map(|half| op(put(format!("/load/{writer}/{half}"), format!("{value} {padding}"))));
                    let begun = Instant::now();
                    match client.txn(run(ops.collect())).await {
                        Ok(answer) => {
                            times.lock().await.answered(begun);
                            let revision = revision(&answer.header);
                            answered.push(Answered { writer, value, revision });
                            newest.store(value, Ordering::SeqCst);
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(status) => fail(&failures, at, status).await,
                    }
                    tokio::time::sleep(pause).await;
                }
                answered
            });
            if writer >= load.readers {
                continue;
            }
            let at = (at + 1 + writer / clients.len()) % clients.len();
            let (client, stop, failures) =
                (clients[at].clone(), traffic.stop.clone(), traffic.failures.clone());
            let key = read_key(writer, load.single);
            traffic.readers.spawn(async move {
                let mut reads = 0;
                while !stop.is_cancelled() {
                    let least = known.load(Ordering::SeqCst);
                    match client.get(&key).await {
                        Ok(answer) => {
                            let found = answer.kvs.first().map_or(-1, |kv| number(&kv.value));
                            assert!(found >= least, "instance {at} reads {found} after {least} was answered");
                            reads += 1;
                        }
                        Err(status) => fail(&failures, at, status).await,
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                reads
            });
        }
        traffic.more().await;
        traffic
    }

    /// Waits until some more writes are answered.
    pub async fn more(&self) {
        let count = || self.counts.iter().map(|count| count.load(Ordering::SeqCst)).sum::<i64>();
        let enough = count() + 60;
        eventually_within(self.patience, "more writes", async || (count() >= enough).then_some(())).await;
    }

    /// As [`Traffic::more`], and through each instance more than may have been under way.
    pub async fn more_through_each(&self) {
        self.more().await;
        for (at, count) in self.counts.iter().enumerate() {
            let enough = count.load(Ordering::SeqCst) + self.known.len() as i64 + 1;
            let what = format!("more writes through instance {at}");
            eventually(&what, async || (count.load(Ordering::SeqCst) >= enough).then_some(())).await;
        }
    }

    /// The figures of the writes since a moment.
    pub async fn figures(&self, since: Instant) -> Figures {
        self.times.lock().await.figures(since, Instant::now())
    }

    /// Reads that are sent through `client` now, all at once, whenever it answers them. None of them may miss
    /// what was written before.
    pub fn reads_sent_now(&self, client: &Client) -> JoinSet<()> {
        let mut reads = JoinSet::new();
        for (writer, known) in self.known.iter().enumerate().take(Load::LIGHT.writers) {
            let least = known.load(Ordering::SeqCst);
            for _ in 0..10 {
                let (client, key) = (client.clone(), read_key(writer, self.single));
                reads.spawn(async move {
                    if let Ok(answer) = client.get(key).await {
                        let found = answer.kvs.first().map_or(-1, |kv| number(&kv.value));
                        assert!(found >= least, "{found} is read after {least} was answered");
                    }
                });
            }
        }
        reads
    }

    /// No call and no watch through one of these instances has failed so far.
    pub async fn none_failed(&self, through: &[usize]) {
        let failures = self.failures.lock().await;
        let wrong: Vec<_> = failures.iter().filter(|(at, _)| through.contains(at)).collect();
        assert!(wrong.is_empty(), "{} calls failed, as {:?}", wrong.len(), wrong[0]);
    }

    /// As [`Traffic::end`], where others have written so many revisions meanwhile.
    pub async fn end_beside(mut self, others: usize, clients: &[&Client]) {
        self.others = others;
        self.end(clients).await;
    }

    /// Ends the calls, and compares what was answered and what the watches saw with what `clients` hold.
    /// Returns the revisions that were written.
    pub async fn end(mut self, clients: &[&Client]) -> std::ops::RangeInclusive<i64> {
        self.stop.cancel();
        let mut answered = Vec::new();
        while let Some(writes) = self.answered.join_next().await {
            answered.extend(writes.unwrap());
        }
        let mut reads = 0;
        while let Some(reader) = self.readers.join_next().await {
            reads += reader.unwrap();
        }
        println!(
            "{} transactions were answered, {reads} reads, {} failures",
            answered.len(),
            self.failures.lock().await.len()
        );
        let end = clients[0].put("/load/end", "0").await;
        self.last.send_replace(end);
        let (_, seen) = self.watches.join_next().await.expect("one watch").unwrap();
        while let Some(watch) = self.watches.join_next().await {
            let (at, events) = watch.unwrap();
            assert!(events == seen, "the watch through instance {at} saw something else");
        }
        let outlines: Vec<_> = seen.iter().map(outline).collect();
        // Each event once, whole revisions, and none in between that is nobody's.
        assert_eq!(outlines.iter().collect::<HashSet<_>>().len(), outlines.len(), "an event came twice");
        assert!(outlines.is_sorted_by_key(|event| event.2), "events are out of order");
        let mut revisions: Vec<i64> = outlines.iter().map(|event| event.2).collect();
        revisions.dedup();
        let missing: Vec<i64> =
            (self.begin + 1..=end).filter(|revision| revisions.binary_search(revision).is_err()).collect();
        assert_eq!(missing.len(), self.others, "missing revisions, and writes of others: {missing:?}");
        let mut written = HashSet::new();
        for events in seen[..seen.len() - 1].chunk_by(|one, next| outline(one).2 == outline(next).2) {
            let (_, key, _) = outline(&events[0]);
            let writer: usize = key.split('/').nth(2).unwrap().parse().unwrap();
            let first = pair(&events[0]);
            let keys: Vec<_> = events.iter().map(|event| outline(event).1).collect();
            let whole: Vec<_> =
                halves(writer, self.single).iter().map(|half| format!("/load/{writer}/{half}")).collect();
            assert_eq!(keys, whole, "half of a write: {events:?}");
            for event in events {
                assert_eq!((&pair(event).value, pair(event).version), (&first.value, first.version));
                assert_eq!(event.r#type(), EventType::Put);
            }
            assert!(written.insert((writer, number(&first.value))), "a write happened twice: {first:?}");
        }
        let at: HashSet<_> = outlines.iter().map(|event| (&event.1[..], event.2)).collect();
        for Answered { writer, value, revision } in answered {
            assert!(written.contains(&(writer, value)), "write {value} of {writer} is lost");
            assert!(
                at.contains(&(&read_key(writer, self.single)[..], revision)),
                "its revision is another one"
            );
        }
        for client in clients {
            let mut again = WatchStream::open(client);
            let start_revision = self.begin + 1;
            again.watch(WatchCreateRequest { start_revision, ..watch_all("/load/") }).await;
            let mut events = Vec::new();
            while events.len() < seen.len() {
                events.extend(again.next_but_progress().await.events);
            }
            assert!(events == seen, "an instance has another history");
        }
        self.begin + 1..=end
    }
}

/// The events behind revision `begin` up to the last one, as a client sees them that takes a watch up where
/// it has ended.
async fn see(
    client: &Client,
    at: usize,
    begin: i64,
    failures: &Failures,
    mut last: watch::Receiver<i64>,
) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    loop {
        let mut stream = WatchStream::open(client);
        let known = seen.last().map_or(begin, |event| outline(event).2);
        stream.request(WatchCreateRequest { start_revision: known + 1, ..watch_all("/load/") });
        let ended = loop {
            if seen.last().is_some_and(|event| outline(event).2 >= *last.borrow_and_update()) {
                return seen;
            }
            let message = tokio::select! {
                message = stream.message() => message,
                Ok(()) = last.changed() => continue,
            };
            match message {
                Some(Ok(message)) => {
                    assert!(!message.canceled, "the watch through instance {at} is ended: {message:?}");
                    seen.extend(message.events);
                }
                Some(Err(status)) => break status,
                None => break Status::unavailable("the watch has ended"),
            }
        };
        fail(failures, at, ended).await;
    }
}

/// The last parts of the names of a writer's keys.
fn halves(writer: usize, single: usize) -> &'static [&'static str] {
    if writer < single { &["only"] } else { &["a", "b"] }
}

/// The key of a writer's that is read.
fn read_key(writer: usize, single: usize) -> String {
    format!("/load/{writer}/{}", halves(writer, single).last().expect("one key"))
}

async fn fail(failures: &Mutex<Vec<Failure>>, at: usize, status: Status) {
    assert!(is_of_an_outage(&status), "{status:?}");
    failures.lock().await.push((at, status));
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// The number that a value begins with.
fn number(value: &[u8]) -> i64 {
    let text = std::str::from_utf8(value).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

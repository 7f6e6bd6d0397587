//! Random clients whose calls are recorded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest, WatchCreateRequest};
use jetway::proto::mvccpb::KeyValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{Call, Event, History, Outcome, Pair, Renewal, Request, Response, Time};
use crate::client::{Client, all, compare, delete, get, is_of_an_outage, op, put, range_of, revision, run};
use crate::eventually;
use crate::lease::KeepAlive;
use crate::watch::{WatchStream, is_progress, pair, watch_all};

/// Keys that all workers write.
const KEYS: usize = 6;
/// Workers of each client.
const WORKERS: usize = 3;
/// How long an impatient client waits for an answer.
const IMPATIENT: Duration = Duration::from_millis(700);
/// Seconds that a lease lives without a sign of life; the servers raise less to this.
const TIME_TO_LIVE: i64 = 5;

/// Clients at work.
pub struct Recorder {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    watches: JoinSet<Vec<Response>>,
    last: watch::Sender<i64>,
    begin: i64,
}

struct Shared {
    start: Instant,
    prefix: String,
    next_value: AtomicI64,
    answered: Vec<AtomicI64>,
    calls: Mutex<Vec<Call>>,
    renewals: Mutex<Vec<Renewal>>,
    stop: CancellationToken,
}

impl Shared {
    fn now(&self) -> Time {
        self.start.elapsed().as_nanos() as Time
    }

    fn value(&self) -> String {
        self.next_value.fetch_add(1, Ordering::Relaxed).to_string()
    }

    fn pair(&self, kv: &KeyValue) -> Pair {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Pair {
            key: text(kv.key.strip_prefix(self.prefix.as_bytes()).expect("a key of this record")),
            value: text(&kv.value),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }

    fn pairs(&self, kvs: &[KeyValue]) -> Vec<Pair> {
        kvs.iter().map(|kv| self.pair(kv)).collect()
    }

    /// Sends a request through a client and records it.
    async fn call(&self, at: usize, client: &Client, request: Request) -> Option<Outcome> {
        self.call_within(Duration::MAX, at, client, request).await
    }

    /// As [`Self::call`]; the client gives up on the answer after some time.
    async fn call_within(
        &self,
        patience: Duration,
        at: usize,
        client: &Client,
        request: Request,
    ) -> Option<Outcome> {
        let begin = self.now();
        let result = tokio::time::timeout(patience, self.send(client, &request)).await;
        let end = self.now();
        let outcome = match result {
            Ok(Ok(outcome)) => outcome,
            result => {
                if let Ok(Err(status)) = result {
                    assert!(is_of_an_outage(&status), "{request:?} through member {at}: {status:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                if matches!(request, Request::Read { .. }) {
                    return None;
                }
                Outcome::Unknown
            }
        };
        if outcome != Outcome::Unknown {
            self.answered[at].fetch_add(1, Ordering::SeqCst);
        }
        self.calls.lock().unwrap().push(Call { begin, end, request, outcome: outcome.clone() });
        Some(outcome)
    }

    async fn send(&self, client: &Client, request: &Request) -> Result<Outcome, Status> {
        let full = |key: &str| format!("{}{key}", self.prefix);
        Ok(match request {
            Request::Put { key, value, lease } => {
                let request = PutRequest { lease: *lease, ..put(full(key), value) };
                Outcome::Wrote(revision(&client.put_request(request).await?.header))
            }
            Request::PutAll { puts } => {
                let puts = puts.iter().map(|(key, value)| op(put(full(key), value)));
                Outcome::Wrote(revision(&client.txn(run(puts.collect())).await?.header))
            }
            Request::Delete { key } => {
                let response = client.delete_range(delete(full(key))).await?;
                let revision = revision(&response.header);
                if response.deleted > 0 { Outcome::Wrote(revision) } else { Outcome::Read(revision, vec![]) }
            }
            Request::Swap { key, expected, value } => {
                let has = compare(full(key), CompareResult::Equal, TargetUnion::ModRevision(*expected));
                let txn = TxnRequest {
                    compare: vec![has],
                    success: vec![op(put(full(key), value))],
                    failure: vec![op(get(full(key)))],
                };
                let response = client.txn(txn).await?;
                let revision = revision(&response.header);
                if response.succeeded {
                    Outcome::Wrote(revision)
                } else {
                    Outcome::Read(revision, self.pairs(&range_of(&response, 0).kvs))
                }
            }
            Request::Read { key, is_serializable } => {
                let keys = key.as_ref().map_or_else(|| all(&self.prefix), |key| get(full(key)));
                let request = RangeRequest { serializable: *is_serializable, ..keys };
                let response = client.range(request).await?;
                Outcome::Read(revision(&response.header), self.pairs(&response.kvs))
            }
        })
    }

    async fn work(&self, at: usize, client: Client, mut random: StdRng) {
        let mut known: HashMap<String, i64> = HashMap::new();
        while !self.stop.is_cancelled() {
            let number = random.random_range(0..KEYS);
            let key = format!("k{number}");
            // Some clients ask again while a member still holds their last request.
            let patience = if random.random_bool(0.5) { IMPATIENT } else { Duration::MAX };
            let is_serializable = random.random_bool(0.3);
            let request = match random.random_range(0..11) {
                0 | 1 => Request::Put { key: key.clone(), value: self.value(), lease: 0 },
                2 => Request::Delete { key: key.clone() },
                3..=5 => {
                    let expected = known.get(&key).copied().unwrap_or(0);
                    Request::Swap { key: key.clone(), expected, value: self.value() }
                }
                6 => {
                    let other = format!("k{}", (number + random.random_range(1..KEYS)) % KEYS);
                    Request::PutAll { puts: vec![(key.clone(), self.value()), (other, self.value())] }
                }
                7 | 8 => Request::Read { key: Some(key.clone()), is_serializable },
                _ => Request::Read { key: None, is_serializable },
            };
            match self.call_within(patience, at, &client, request).await {
                Some(Outcome::Wrote(revision)) => drop(known.insert(key, revision)),
                Some(Outcome::Read(_, pairs)) => {
                    known.remove(&key);
                    known.extend(pairs.into_iter().map(|pair| (pair.key, pair.mod_revision)));
                }
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..10))).await;
        }
    }

    /// Leases of one key each, kept alive for a while and then left alone.
    async fn lease(&self, at: usize, client: &Client, mut random: StdRng) {
        while !self.stop.is_cancelled() {
            let asked = self.now();
            let Ok(granted) = client.lease_grant(0, TIME_TO_LIVE).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let lease = granted.id;
            self.renew(lease, asked, granted.ttl);
            let put = Request::Put { key: format!("leased/{lease:x}"), value: self.value(), lease };
            self.send_leased(at, client, put).await;
            for _ in 0..random.random_range(0..4) {
                let pause = Duration::from_millis(random.random_range(0..3000));
                tokio::select! {
                    () = self.stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                let asked = self.now();
                // A call of its own: a late answer would be taken for that of the next request.
                let mut keep_alive = KeepAlive::open(client);
                keep_alive.send(lease);
                match tokio::time::timeout(Duration::from_secs(8), keep_alive.message()).await {
                    Ok(Some(Ok(answer))) if answer.ttl > 0 => self.renew(lease, asked, answer.ttl),
                    Ok(Some(Ok(_))) => break,
                    _ => {}
                }
            }
        }
    }

    /// A put under a lease, which may have ended before.
    async fn send_leased(&self, at: usize, client: &Client, request: Request) {
        let begin = self.now();
        let outcome = match self.send(client, &request).await {
            Ok(outcome) => outcome,
            Err(status) if status.code() == Code::NotFound => return,
            Err(_) => Outcome::Unknown,
        };
        let end = self.now();
        if outcome != Outcome::Unknown {
            self.answered[at].fetch_add(1, Ordering::SeqCst);
        }
        self.calls.lock().unwrap().push(Call { begin, end, request, outcome });
    }

    fn renew(&self, lease: i64, asked: Time, ttl: i64) {
        let time_to_live = Duration::from_secs(ttl as u64).as_nanos() as Time;
        self.renewals.lock().unwrap().push(Renewal { lease, asked, time_to_live });
    }

    /// The events behind `begin`, as a client sees them that takes a watch up where it has ended.
    async fn watch(&self, client: Client, begin: i64, mut end: watch::Receiver<i64>) -> Vec<Response> {
        let mut seen = Vec::new();
        let mut known = begin;
        loop {
            let mut stream = WatchStream::open(&client);
            stream.request(WatchCreateRequest {
                start_revision: known + 1,
                prev_kv: true,
                progress_notify: true,
                ..watch_all(&self.prefix)
            });
            loop {
                if known >= *end.borrow_and_update() {
                    return seen;
                }
                let message = tokio::select! {
                    message = stream.message() => message,
                    Ok(()) = end.changed() => continue,
                };
                let Some(Ok(message)) = message else { break };
                assert!(!message.canceled, "the watch is ended: {message:?}");
                if is_progress(&message) {
                    seen.push(Response::Progress(revision(&message.header)));
                }
                let arrived = self.now();
                let mut events: Vec<_> = message.events.iter().map(|event| self.event(event)).collect();
                events.retain(|event| event.revision <= *end.borrow());
                if let Some(event) = events.last() {
                    known = event.revision;
                    seen.push(Response::Events(arrived, events));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn event(&self, event: &jetway::proto::mvccpb::Event) -> Event {
        use jetway::proto::mvccpb::event::EventType;
        let made = self.pair(pair(event));
        Event {
            revision: made.mod_revision,
            key: made.key.clone(),
            pair: (event.r#type() == EventType::Put).then_some(made),
            previous: event.prev_kv.as_ref().map(|kv| self.pair(kv)),
        }
    }
}

impl Recorder {
    /// Starts workers, a lease and a watch for each client. They have the store for themselves.
    pub async fn begin(clients: &[Client], random: &mut StdRng) -> Self {
        // The last fault may still stop calls: NATS elects for seconds.
        let begin = eventually("an answered read", async || {
            Some(revision(&clients[0].get("no such key").await.ok()?.header))
        })
        .await;
        let (last, _) = watch::channel(i64::MAX);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            prefix: format!("/history/{begin}/"),
            next_value: AtomicI64::new(0),
            answered: clients.iter().map(|_| AtomicI64::new(0)).collect(),
            calls: Mutex::default(),
            renewals: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let mut recorder = Self { shared, workers: JoinSet::new(), watches: JoinSet::new(), last, begin };
        for (at, client) in clients.iter().enumerate() {
            for _ in 0..WORKERS {
                let (shared, client, seed) = (recorder.shared.clone(), client.clone(), random.random());
                let work = async move { shared.work(at, client, StdRng::seed_from_u64(seed)).await };
                recorder.workers.spawn(work);
            }
            let (shared, of_lease, seed) = (recorder.shared.clone(), client.clone(), random.random());
            let lease = async move { shared.lease(at, &of_lease, StdRng::seed_from_u64(seed)).await };
            recorder.workers.spawn(lease);
            let (shared, client, end) = (recorder.shared.clone(), client.clone(), recorder.last.subscribe());
            recorder.watches.spawn(async move { shared.watch(client, begin, end).await });
        }
        recorder.more_through(&(0..clients.len()).collect::<Vec<_>>()).await;
        recorder
    }

    /// Waits until each of these clients gets more answers than calls were under way.
    pub async fn more_through(&self, clients: &[usize]) {
        for at in clients {
            let answered = &self.shared.answered[*at];
            let enough = answered.load(Ordering::SeqCst) + WORKERS as i64 * 4;
            let goal = format!("more answers of member {at}");
            eventually(&goal, async || (answered.load(Ordering::SeqCst) >= enough).then_some(())).await;
        }
    }

    /// Waits until any client gets some more answers.
    pub async fn more(&self) {
        let count = || self.shared.answered.iter().map(|of| of.load(Ordering::SeqCst)).sum::<i64>();
        let enough = count() + 40;
        eventually("more answers", async || (count() >= enough).then_some(())).await;
    }

    /// Ends the calls, waits until all leases have ended, and returns the record.
    pub async fn end(mut self, client: &Client) -> History {
        self.shared.stop.cancel();
        while let Some(worker) = self.workers.join_next().await {
            worker.unwrap();
        }
        let leased = format!("{}leased/", self.shared.prefix);
        eventually("the end of all leases", async || {
            let response = client.range(RangeRequest { keys_only: true, ..all(&leased) }).await.ok()?;
            response.kvs.is_empty().then_some(())
        })
        .await;
        // A put whose answer was lost may be written until now; this one is behind all of them.
        let outcome = eventually("the last put", async || {
            let put = Request::Put { key: "end".to_owned(), value: self.shared.value(), lease: 0 };
            self.shared.call(0, client, put).await.filter(|outcome| *outcome != Outcome::Unknown)
        })
        .await;
        let Outcome::Wrote(end) = outcome else { panic!("a put does not read: {outcome:?}") };
        self.last.send_replace(end);
        let mut watches = Vec::new();
        while let Some(watch) = self.watches.join_next().await {
            watches.push(watch.unwrap());
        }
        let calls = std::mem::take(&mut *self.shared.calls.lock().unwrap());
        let renewals = std::mem::take(&mut *self.shared.renewals.lock().unwrap());
        History { begin: self.begin, end, calls, watches, renewals }
    }
}

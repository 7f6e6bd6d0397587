//! Everything at once, on real threads: one writer that compacts, the hub, and clients that create and cancel
//! watchers on random ranges from random revisions, read slowly and ask for progress. The events that each
//! watcher received are compared with the writes.

use super::control::{Create, Request};
use super::response::{Body, Response};
use super::session::Step;
use super::tests::{Call, Routing, Store, create, events, prefix};
use crate::types::{KeyRange, Revision};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

/// The least number of writes. There are more if the clients were too slow to see much.
const WRITES: i64 = 6000;
const CLIENTS: u64 = 6;

/// A change as a watcher sees it: revision, whether it is a delete, key.
type Seen = (i64, bool, String);

/// All responses to one watcher.
#[derive(Debug)]
struct Record {
    create: Create,
    created: Option<i64>,
    seen: Vec<Seen>,
    /// Revisions of progress, each with the number of events received by then.
    progress: Vec<(i64, usize)>,
    compacted: Option<i64>,
    /// The responses that events came in: the last revision of each, with the header.
    headers: Vec<(i64, i64)>,
}

fn random_range(random: &mut StdRng) -> KeyRange {
    match random.random_range(0..4) {
        0 => KeyRange::Single(format!("k{:02}", random.random_range(0..40)).into()),
        1 => prefix(&format!("k{}", random.random_range(0..4))),
        2 => KeyRange::all(),
        _ => {
            let (a, b) = (random.random_range(0..40), random.random_range(0..40));
            let (a, b) = (std::cmp::min(a, b), std::cmp::max(a, b) + 1);
            KeyRange::Span { start: format!("k{a:02}").into(), end: Some(format!("k{b:02}").into()) }
        }
    }
}

/// All that the clients have seen together.
#[derive(Debug, Default)]
struct Shown {
    watchers: AtomicUsize,
    events: AtomicUsize,
    compacted: AtomicUsize,
}

impl Shown {
    fn is_enough(&self) -> bool {
        let has = |count: &AtomicUsize, least| count.load(Ordering::Relaxed) > least;
        has(&self.watchers, 50) && has(&self.events, 1000) && has(&self.compacted, 0)
    }
}

fn write_all(store: &mut Store, seed: u64, current: &AtomicI64, shown: &Shown) -> Vec<Seen> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut written = Vec::new();
    for n in 0.. {
        if n >= WRITES {
            if shown.is_enough() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let count = if random.random_ratio(1, 5) { random.random_range(2..6) } else { 1 };
        let changes: Vec<(String, bool)> = (0..count)
            .map(|_| (format!("k{:02}", random.random_range(0..40)), random.random_ratio(1, 4)))
            .collect();
        let value = n.to_string();
        let as_written: Vec<(&str, Option<&str>)> = changes
            .iter()
            .map(|(key, is_delete)| (key.as_str(), (!is_delete).then_some(value.as_str())))
            .collect();
        let revision = store.write(&as_written);
        written.extend(changes.into_iter().map(|(key, is_delete)| (revision, is_delete, key)));
        current.store(revision, Ordering::Relaxed);
        store.hub.wake();
        if random.random_ratio(1, 50) {
            // Most clients are past this revision, and the slow ones are not.
            store.compact(revision - random.random_range(20..200));
        }
        if random.random_ratio(1, 4) {
            std::thread::yield_now();
        }
    }
    written
}

struct Client<'a> {
    session: Call,
    shown: &'a Shown,
    random: StdRng,
    open: HashMap<i64, Record>,
    closed: Vec<Record>,
    /// Creates whose answer has not come, in order.
    asked: std::collections::VecDeque<Create>,
    /// Whether progress of the stream has come since it was last asked for in
    /// [`Client::ask_for_the_last_progress`].
    has_progress: bool,
}

impl Client<'_> {
    fn step(&mut self, current: i64) {
        match self.random.random_range(0..30) {
            0 if self.open.len() < 20 => {
                let start = match self.random.random_range(0..4) {
                    0 => 0,
                    1 => current + self.random.random_range(1..50),
                    _ => (current - self.random.random_range(0..250)).max(1),
                };
                let create = Create {
                    prev_kv: self.random.random(),
                    no_delete: self.random.random_ratio(1, 5),
                    ..create(random_range(&mut self.random), start)
                };
                self.asked.push_back(create.clone());
                self.session.handle(Request::Create(create));
            }
            1 if self.open.len() > 5 => {
                let ids: Vec<i64> = self.open.keys().copied().collect();
                let id = ids[self.random.random_range(0..ids.len())];
                self.session.handle(Request::Cancel(id));
            }
            2 => self.session.handle(Request::Progress),
            3 => self.session.tick(),
            // A client that does not read for a while.
            4 => std::thread::sleep(std::time::Duration::from_micros(self.random.random_range(0..3000))),
            _ => {
                for _ in 0..self.random.random_range(0..12) {
                    if !self.read() {
                        break;
                    }
                }
            }
        }
    }

    /// Ends all watchers that hold progress back, and asks for it. They are those that have found a
    /// compaction and those that start behind `current`.
    fn ask_for_the_last_progress(&mut self, current: i64) {
        let holds_back = |record: &Record| record.compacted.is_some() || record.create.start.0 > current;
        let ending: Vec<i64> =
            self.open.iter().filter(|(_, record)| holds_back(record)).map(|(id, _)| *id).collect();
        for id in ending {
            self.session.handle(Request::Cancel(id));
        }
        self.asked.push_back(create(KeyRange::all(), 0));
        self.session.handle(Request::Create(create(KeyRange::all(), 0)));
        self.session.handle(Request::Progress);
        self.has_progress = false;
    }

    /// Runs the routing task and the client until both are idle.
    fn read_to_the_end(&mut self, routing: &Routing) {
        let mut quiet = 0;
        while quiet < 4 {
            routing.route();
            quiet += 1;
            while self.read() {
                quiet = 0;
            }
        }
    }

    /// Reads one response, and returns whether there was one.
    fn read(&mut self) -> bool {
        let response = match self.session.next() {
            Step::Respond(response) => response,
            Step::Yield => return true,
            Step::Idle => return false,
            Step::End(error) => panic!("the stream ended: {error}"),
        };
        let Response { revision: Revision(revision), watch_id, .. } = response;
        if watch_id == super::NO_WATCHER {
            assert!(matches!(response.body, Body::Progress), "{response:?}");
            for record in self.open.values_mut() {
                record.progress.push((revision, record.seen.len()));
            }
            self.has_progress = true;
            return true;
        }
        if matches!(response.body, Body::Created) {
            let create = self.asked.pop_front().expect("a create was asked for");
            let record = Record {
                create,
                created: Some(revision),
                seen: Vec::new(),
                progress: Vec::new(),
                compacted: None,
                headers: Vec::new(),
            };
            assert!(self.open.insert(watch_id, record).is_none(), "watch id {watch_id} twice");
            self.shown.watchers.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let record = self.open.get_mut(&watch_id).expect("nothing comes for a watcher that is not there");
        assert!(record.compacted.is_none() || matches!(response.body, Body::Canceled));
        match &response.body {
            Body::Progress => record.progress.push((revision, record.seen.len())),
            Body::Compacted(floor) => {
                record.compacted = Some(floor.0);
                self.shown.compacted.fetch_add(1, Ordering::Relaxed);
            }
            Body::Canceled => {
                let record = self.open.remove(&watch_id).expect("it was there a moment ago");
                self.closed.push(record);
            }
            Body::Events { .. } => {
                for event in events(&response) {
                    let kv = event.kv.expect("kv");
                    let key = String::from_utf8(kv.key.to_vec()).expect("our keys are text");
                    record.seen.push((kv.mod_revision, event.r#type == 1, key));
                }
                self.shown.events.fetch_add(1, Ordering::Relaxed);
                let last = record.seen.last().expect("a response with events has some").0;
                record.headers.push((last, revision));
            }
            Body::Created | Body::Refused(_) => panic!("{response:?}"),
        }
        true
    }
}

fn check(record: &Record, written: &[Seen], is_complete: bool) {
    let Create { range, start, no_delete, .. } = &record.create;
    let created = record.created.expect("every record has been created");
    let first = if start.0 == 0 { created + 1 } else { start.0 };
    let expect: Vec<&Seen> = written
        .iter()
        .filter(|(revision, is_delete, key)| {
            *revision >= first && range.contains(key.as_bytes()) && !(*no_delete && *is_delete)
        })
        .collect();
    let seen = record.seen.len();
    assert!(record.seen.iter().eq(expect[..seen.min(expect.len())].iter().copied()), "{record:?}");
    let is_whole = seen == 0 || expect.get(seen).is_none_or(|next| next.0 != record.seen[seen - 1].0);
    assert!(is_whole, "a revision was cut: {record:?}");
    if is_complete && record.compacted.is_none() {
        assert_eq!(seen, expect.len(), "{record:?}");
    }
    if let Some(floor) = record.compacted {
        assert!(expect.get(seen).is_none_or(|next| next.0 < floor) || first < floor, "{record:?}");
    }
    for (revision, count) in &record.progress {
        let due = expect.iter().take_while(|event| event.0 <= *revision).count();
        assert_eq!(due, *count, "progress {revision} overtook events or came after later ones: {record:?}");
    }
    assert!(record.progress.is_sorted(), "{record:?}");
    assert!(record.headers.iter().all(|(last, header)| header >= last), "{record:?}");
}

fn run(seed: u64) {
    eprintln!("seed {seed}");
    let mut store = Store::new();
    let routing = store.routing.clone();
    let (current, is_over) = (AtomicI64::new(1), AtomicBool::new(false));
    let shown = Shown::default();
    let (written, records) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                // The routing task has a thread of its own, as in a server.
                let session = Call { routing: Routing::NONE, ..store.session() };
                let random = StdRng::seed_from_u64(seed * 1000 + number);
                let (current, is_over, routing, shown) = (&current, &is_over, &routing, &shown);
                scope.spawn(move || {
                    let (open, closed, asked) = Default::default();
                    let has_progress = false;
                    let mut client = Client { session, shown, random, open, closed, asked, has_progress };
                    while !is_over.load(Ordering::Acquire) {
                        client.step(current.load(Ordering::Relaxed));
                    }
                    client.read_to_the_end(routing);
                    client.ask_for_the_last_progress(current.load(Ordering::Relaxed));
                    client.read_to_the_end(routing);
                    assert!(client.has_progress, "all was idle, and no progress was reported");
                    (client.open.into_values().collect::<Vec<_>>(), client.closed)
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                routing.route();
                std::thread::yield_now();
            }
        });
        let written = write_all(&mut store, seed, &current, &shown);
        is_over.store(true, Ordering::Release);
        let records: Vec<_> = clients.into_iter().map(|client| client.join().expect("client")).collect();
        (written, records)
    });
    let (mut count, mut received, mut compacted, mut progress) = (0, 0, 0, 0);
    for (open, closed) in &records {
        for record in open {
            check(record, &written, true);
        }
        for record in closed {
            check(record, &written, false);
        }
        for record in open.iter().chain(closed) {
            count += 1;
            received += record.seen.len();
            compacted += usize::from(record.compacted.is_some());
            progress += record.progress.len();
        }
    }
    eprintln!("{count} watchers, {received} events, {compacted} compacted, {progress} progress");
    assert!(count > 50 && received > 1000 && compacted > 0, "the run showed too little");
    assert!(store.routing.is_unwatched());
}

#[test]
fn every_watcher_gets_exactly_its_events() {
    let seed = std::env::var("JETWAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    run(seed.unwrap_or_else(|| u64::from(rand::random::<u32>())));
}

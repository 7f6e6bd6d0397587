//! The routing task, streams and the writer on their own threads, on crossbeam-queue and arc-swap themselves.
//! Miri (`make miri`) checks here what loom (`loom_model`) cannot see: `SegQueue`, the nodes of the
//! registrations, and that unused memory is freed.

use super::queue::queue;
use super::testing::{interest, put};
use super::{Item, Request, Requests, WatcherId, routing};
use crate::core::{Reader, Writer};
use crate::primitive::{Counter, Notify};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const STREAMS: usize = 2;
const ROUNDS: i64 = if cfg!(miri) { 3 } else { 60 };
const REVISIONS: i64 = if cfg!(miri) { 30 } else { 3_000 };

/// Opens a stream, watches, reads some events, and goes; again and again. A watcher that falls behind joins
/// again.
fn watch(requests: &Requests<i64>, reader: &Reader, pending: &Arc<Counter>) {
    for round in 0..ROUNDS {
        let stream = requests.new_stream();
        let (sender, mut receiver) = queue(Arc::clone(pending));
        requests.ask(Request::Open { stream, sender, incarnation: 0 });
        let watcher = WatcherId { watch_id: round, place: 0, serial: 0 };
        let range = if round % 2 == 0 { KeyRange::all() } else { KeyRange::Single("a".into()) };
        let (interest, start, answer) = (interest(range), Revision(0), round);
        requests.ask(Request::Start { stream, watcher, interest, start, answer });
        let mut next = None;
        let mut seen = 0;
        while seen < 20 && next.is_none_or(|next| next <= REVISIONS + 1) {
            match receiver.pop() {
                Some(Item::Started { answer, revision, is_live: true }) => {
                    assert_eq!(answer, round);
                    next = Some(revision.0 + 1);
                }
                Some(Item::Events { batch, .. }) => {
                    receiver.done(1, batch.weight());
                    assert_eq!(Some(batch.revision().0), next, "each once, in order, without a gap");
                    next = next.map(|next| next + 1);
                    seen += 1;
                }
                // It reads the log itself, and then asks to join.
                Some(Item::Lagging { from, .. }) => {
                    assert_eq!(Some(from.0), next);
                    let from = join(requests, reader, stream, watcher);
                    next = Some(from);
                }
                Some(Item::Behind(_)) => next = Some(join(requests, reader, stream, watcher)),
                Some(Item::Joined(_)) => {}
                Some(other) => panic!("{other:?}"),
                None => thread::yield_now(),
            }
        }
        requests.ask(Request::Close { stream });
    }
}

/// Asks to join behind the newest revision; returns the first that must come.
fn join(requests: &Requests<i64>, reader: &Reader, stream: super::StreamId, watcher: WatcherId) -> i64 {
    let from = reader.revision().next();
    requests.ask(Request::Join { stream, watcher, from });
    from.0
}

#[test]
fn streams_come_and_go_while_events_are_routed() {
    let (mut writer, reader) = Writer::new();
    let (requests, mut router) = routing(reader.clone(), Arc::new(Notify::new()));
    let pending = Arc::new(Counter::default());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let streams: Vec<_> =
            (0..STREAMS).map(|_| scope.spawn(|| watch(&requests, &reader, &pending))).collect();
        scope.spawn(|| {
            for _ in 0..REVISIONS {
                put(&mut writer, &["a"], &Bytes::from_static(b"x"));
                thread::yield_now();
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let registrations = requests.registrations();
                let mut found = 0;
                registrations.of(b"a", |_| found += 1);
                assert_eq!(found, registrations.len());
                thread::yield_now();
            }
        });
        let router = &mut router;
        let is_over = &is_over;
        scope.spawn(move || {
            while !is_over.load(Ordering::Acquire) {
                router.turn();
                thread::yield_now();
            }
            while router.turn() {}
        });
        for stream in streams {
            stream.join().expect("a stream");
        }
        is_over.store(true, Ordering::Release);
    });
    assert!(router.is_unwatched());
    assert_eq!(pending.get(), 0);
}

//! Models of the way from a publication to a client: mailbox, hub, session, and the polling of a Watch call.
//!
//! Three threads at most: the writer, the hub's task and a call. Loom sees the state's publication, the mutexes of the
//! router, the mailbox and the session, and whoever is registered and woken; a wake-up that is lost leaves a thread
//! asleep for ever, which loom reports as a deadlock. The code is the shipped one with room for one delivery in a mailbox
//! and one revision in a slice of the hub. futures-util's `AtomicWaker` and tokio's `Notify` are replaced by what they
//! promise (see `primitive`); the encoding of events, behind std's `OnceLock`, and the `watch` channel of
//! [`WatchHub::routed`] are one step each.

use super::hub::WatchHub;
use super::session::{Body, Request, Response, Session, Step};
use super::stream::{Call, read_requests};
use super::tests::{Store, create, events, prefix};
use crate::core::Writer;
use crate::primitive::Notify;
use crate::types::Revision;
use loom::future::block_on;
use loom::thread::{self, JoinHandle};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio_util::sync::CancellationToken;

/// A store with a hub whose task has a thread, until `end`.
struct Watched {
    store: Store,
    stop: CancellationToken,
    task: thread::JoinHandle<()>,
}

impl Watched {
    fn new() -> Watched {
        let (writer, reader) = Writer::new();
        let stop = CancellationToken::new();
        let hub = WatchHub::idle(reader.clone(), Arc::new(Notify::new()), CancellationToken::new());
        let following = hub.follow(stop.clone());
        let task = thread::spawn(move || block_on(following));
        Watched { store: Store { writer, reader, hub }, stop, task }
    }

    /// Writes, publishes and tells the hub, as the applier does.
    fn put(&mut self) {
        self.store.put("a", "");
        self.store.hub.wake();
    }

    fn compact(&mut self, floor: i64) {
        self.store.compact(floor);
        self.store.hub.wake();
    }

    fn call(&self) -> Arc<Call> {
        Arc::new(Call::new(Session::new(self.store.hub.clone(), self.store.reader.clone())))
    }

    fn end(self) {
        self.stop.cancel();
        self.task.join().expect("the hub's task");
    }
}

/// Waits for the next response, as the stream of a call does.
fn next(call: &Call) -> Response {
    block_on(poll_fn(|cx| {
        loop {
            match call.step(cx) {
                Step::Respond(response) => return Poll::Ready(response),
                Step::Idle => return Poll::Pending,
                Step::Yield => {}
                Step::End(error) => panic!("the call has ended: {error}"),
            }
        }
    }))
}

fn revisions(response: &Response) -> Vec<i64> {
    events(response).iter().map(|event| event.kv.as_ref().expect("of a key").mod_revision).collect()
}

/// Reads up to the event of revision `last`, starting behind `seen`; answers every revision on the way.
fn read_until(call: &Call, last: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seen| *seen < last) {
        seen.extend(revisions(&next(call)));
    }
    seen
}

fn watch(call: &Arc<Call>, start: i64) {
    let requests = [Ok(Request::Create(create(prefix("a"), start)))];
    block_on(read_requests(Arc::clone(call), Box::pin(futures_util::stream::iter(requests))));
}

/// A client of a watch that is there, on a thread of its own.
fn client(call: &Arc<Call>, reads: impl FnOnce(&Arc<Call>) + Send + 'static) -> JoinHandle<()> {
    let call = Arc::clone(call);
    thread::spawn(move || {
        assert!(matches!(next(&call).body, Body::Created));
        reads(&call);
        call.close();
    })
}

#[test]
fn whoever_watches_from_now_on_gets_all_that_follows_once_and_in_order() {
    loom::model(|| {
        let mut watched = Watched::new();
        let call = watched.call();
        let client = thread::spawn(move || {
            watch(&call, 0);
            let created = next(&call);
            assert!(matches!(created.body, Body::Created));
            let expect: Vec<_> = (created.revision.0 + 1..=3).collect();
            if !expect.is_empty() {
                assert_eq!(read_until(&call, 3), expect);
            }
            call.close();
        });
        watched.put();
        watched.put();
        client.join().expect("the client");
        assert!(watched.store.hub.is_unwatched());
        watched.end();
    });
}

#[test]
fn a_watcher_that_cannot_keep_up_reads_the_log_and_misses_nothing() {
    loom::model(|| {
        let mut watched = Watched::new();
        let call = watched.call();
        watch(&call, 0);
        let client = client(&call, |call| assert_eq!(read_until(call, 4), [2, 3, 4]));
        for _ in 0..3 {
            watched.put();
        }
        client.join().expect("the client");
        watched.end();
    });
}

#[test]
fn a_watcher_that_compaction_overtakes_gets_everything_or_is_told() {
    loom::model(|| {
        let mut watched = Watched::new();
        let call = watched.call();
        watch(&call, 0);
        let client = client(&call, |call| {
            let mut seen = Vec::new();
            while seen.last() != Some(&3) {
                let response = next(call);
                if let Body::Compacted(floor) = response.body {
                    assert_eq!((floor, seen.as_slice()), (Revision(3), [].as_slice()));
                    break;
                }
                seen.extend(revisions(&response));
            }
            assert!(seen.is_empty() || seen == [2, 3]);
        });
        watched.put();
        watched.put();
        watched.compact(3);
        client.join().expect("the client");
        watched.end();
    });
}

fn ask(call: Arc<Call>) {
    block_on(read_requests(call, Box::pin(futures_util::stream::iter([Ok(Request::Progress)]))));
}

#[test]
fn progress_comes_behind_all_that_it_speaks_of() {
    loom::model(|| {
        let mut watched = Watched::new();
        let call = watched.call();
        watch(&call, 0);
        let asks = thread::spawn({
            let call = Arc::clone(&call);
            move || ask(call)
        });
        watched.put();
        assert!(matches!(next(&call).body, Body::Created));
        let mut seen = 1;
        while seen < 2 {
            let response = next(&call);
            match response.body {
                Body::Progress => assert_eq!(response.revision.0, seen),
                _ => assert_eq!(revisions(&response), [2]),
            }
            seen = response.revision.0;
        }
        // That request may have found the mailbox full, and is forgotten then (WAT-35). One in peace is answered.
        asks.join().expect("who asks");
        ask(Arc::clone(&call));
        let response = next(&call);
        assert!(matches!(response.body, Body::Progress) && response.revision.0 == 2);
        call.close();
        watched.end();
    });
}

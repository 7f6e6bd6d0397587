//! Models of the path from a publication to a client: hub, queues, and both halves of a Watch call.
//!
//! Three threads at most: the writer, the routing task and a call. Loom sees the state's publication, the
//! queues of the requests and of the stream, and every waker that is registered and woken; a wake-up that is
//! lost leaves a thread asleep for ever, which loom reports as a deadlock. The code is the shipped one with
//! room for one delivery in a queue and one revision in a slice of the routing task. futures-util's
//! `AtomicWaker` and crossbeam's `SegQueue` are replaced by their contracts (see `primitive`). The encoding
//! of events, behind std's `OnceLock`, is one step. The models of the single structures are in
//! `core/routing/loom_model.rs`.

use super::control::{Control, Request};
use super::hub::{WatchHub, follow};
use super::response::{Body, Response};
use super::session::{Session, Step, open};
use super::tests::{Routing, Store, create, events, prefix};
use crate::core::Writer;
use crate::primitive::Notify;
use crate::types::Revision;
use loom::future::block_on;
use loom::thread::{self, JoinHandle};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio_util::sync::CancellationToken;

/// A store with a hub, whose task has a thread until `end`.
struct Watched {
    store: Store,
    stop: CancellationToken,
    task: thread::JoinHandle<()>,
}

impl Watched {
    fn new() -> Watched {
        let (writer, reader) = Writer::new();
        let (stop, published) = (CancellationToken::new(), Arc::new(Notify::new()));
        let (hub, router) = WatchHub::idle(reader.clone(), Arc::clone(&published), CancellationToken::new());
        let following = follow(router, published, stop.clone());
        let task = thread::spawn(move || block_on(following));
        Watched { store: Store { writer, reader, hub, routing: Routing::NONE }, stop, task }
    }

    /// Writes, publishes and notifies the hub, as the applier does.
    fn put(&mut self) {
        self.store.put("a", "");
        self.store.hub.wake();
    }

    fn compact(&mut self, floor: i64) {
        self.store.compact(floor);
        self.store.hub.wake();
    }

    fn call(&self) -> (Control, Session) {
        open(self.store.hub.clone(), self.store.reader.clone())
    }

    fn end(self) {
        self.stop.cancel();
        self.task.join().expect("the hub's task");
    }
}

/// Waits for the next response, as the stream of a call does: it looks once more after it has registered its
/// waker.
fn next(session: &mut Session) -> Response {
    block_on(poll_fn(|cx| {
        let mut is_registered = false;
        loop {
            match session.next() {
                Step::Respond(response) => return Poll::Ready(response),
                Step::Idle if is_registered => return Poll::Pending,
                Step::Idle => {
                    session.register(cx.waker());
                    is_registered = true;
                }
                Step::Yield => {}
                Step::End(error) => panic!("the call has ended: {error}"),
            }
        }
    }))
}

fn revisions(response: &Response) -> Vec<i64> {
    events(response).iter().map(|event| event.kv.as_ref().expect("of a key").mod_revision).collect()
}

/// Reads up to the event of revision `last`, and returns every revision on the way.
fn read_until(session: &mut Session, last: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seen| *seen < last) {
        seen.extend(revisions(&next(session)));
    }
    seen
}

fn watch(control: &mut Control, start: i64) {
    control.handle(Request::Create(create(prefix("a"), start)));
}

/// A client of a watch from the first revision on, which exists. It has a thread of its own.
fn client(watched: &Watched, reads: impl FnOnce(&mut Session) + Send + 'static) -> JoinHandle<()> {
    let (mut control, mut session) = watched.call();
    watch(&mut control, 0);
    let created = next(&mut session);
    assert!(matches!(created.body, Body::Created) && created.revision == Revision(1));
    thread::spawn(move || reads(&mut session))
}

#[test]
fn a_new_watcher_gets_all_later_events_once_and_in_order() {
    loom::model(|| {
        let mut watched = Watched::new();
        let (mut control, mut session) = watched.call();
        let client = thread::spawn(move || {
            watch(&mut control, 0);
            let created = next(&mut session);
            assert!(matches!(created.body, Body::Created));
            let expect: Vec<_> = (created.revision.0 + 1..=3).collect();
            if !expect.is_empty() {
                assert_eq!(read_until(&mut session, 3), expect);
            }
        });
        watched.put();
        watched.put();
        client.join().expect("the client");
        watched.end();
    });
}

#[test]
fn a_watcher_that_cannot_keep_up_reads_the_log_and_misses_nothing() {
    // With two forced switches it did not end within ten minutes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.map(|bound| bound.min(1));
    model.check(|| {
        let mut watched = Watched::new();
        let client = client(&watched, |session| assert_eq!(read_until(session, 4), [2, 3, 4]));
        for _ in 0..3 {
            watched.put();
        }
        client.join().expect("the client");
        watched.end();
    });
}

#[test]
fn a_watcher_that_compaction_overtakes_gets_everything_or_is_cancelled() {
    loom::model(|| {
        let mut watched = Watched::new();
        let client = client(&watched, |session| {
            let mut seen = Vec::new();
            while seen.last() != Some(&3) {
                let response = next(session);
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

#[test]
fn progress_comes_behind_all_events_up_to_its_revision() {
    loom::model(|| {
        let mut watched = Watched::new();
        let (mut control, mut session) = watched.call();
        watch(&mut control, 0);
        control.handle(Request::Progress);
        watched.put();
        let created = next(&mut session);
        assert!(matches!(created.body, Body::Created));
        let (mut seen, mut has_progress) = (created.revision.0, false);
        while seen < 2 || !has_progress {
            let response = next(&mut session);
            match response.body {
                // The event of revision 2 may come before it or behind it.
                Body::Progress => {
                    has_progress = true;
                    assert_eq!(response.revision.0, seen);
                }
                _ => assert_eq!(revisions(&response), [2]),
            }
            seen = response.revision.0;
        }
        control.handle(Request::Progress);
        let response = next(&mut session);
        assert!(matches!(response.body, Body::Progress) && response.revision.0 == 2);
        drop((control, session));
        watched.end();
    });
}

//! Models of the queue of one stream, of the requests, and of the registrations. Each one checks one
//! invariant. `watch/loom_model.rs` models the whole path from a publication to a client.
//!
//! Loom sees the accesses of the queue and of the router, and the real [`Notify`]. `SegQueue`, `AtomicWaker`
//! and arc-swap are replaced by their contracts (see `primitive`).

use super::queue::{Full, queue};
use super::testing::{WATCHER, batches, interest, put, revision};
use super::{Item, Matched, Receiver, Request, WatcherId, routing};
use crate::core::Writer;
use crate::primitive::{Counter, Notify};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use loom::future::block_on;
use loom::thread;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// Waits for the next item, as a stream does: it looks once more after it has registered its waker.
fn next<A>(receiver: &mut Receiver<A>) -> Item<A> {
    block_on(poll_fn(|cx| {
        if let Some(item) = receiver.pop() {
            return Poll::Ready(item);
        }
        receiver.register(cx.waker());
        receiver.pop().map_or(Poll::Pending, Poll::Ready)
    }))
}

#[test]
fn q1_q3_items_come_once_and_in_order_and_no_wake_up_is_lost() {
    loom::model(|| {
        let (mut sender, mut receiver) = queue::<u8>(Arc::new(Counter::default()));
        let stream = thread::spawn(move || {
            let popped = [next(&mut receiver), next(&mut receiver), next(&mut receiver)];
            assert!(receiver.pop().is_none());
            popped.map(|item| match item {
                Item::Echo { answer, .. } => answer,
                other => panic!("{other:?}"),
            })
        });
        let echo = |answer| Item::Echo { answer, revision: Revision(1) };
        sender.push(echo(1));
        sender.wake();
        // Two pushes, one wake-up. A stream that sleeps for ever is a deadlock, which loom reports.
        sender.push(echo(2));
        sender.push(echo(3));
        sender.wake();
        assert_eq!(stream.join().expect("the stream"), [1, 2, 3]);
    });
}

#[test]
fn q2_there_is_never_more_than_the_bound_and_room_comes_back() {
    loom::model(|| {
        let batches = batches(2, &Bytes::new());
        let pending = Arc::new(Counter::default());
        let (mut sender, mut receiver) = queue::<()>(Arc::clone(&pending));
        sender.deliver(WATCHER, &batches[0], Matched::All).expect("an empty queue has room");
        let stream = thread::spawn(move || {
            assert_eq!(revision(&next(&mut receiver)), 2);
            receiver.done(1, 1);
            receiver
        });
        // The bound is one here.
        let early = sender.deliver(WATCHER, &batches[1], Matched::All);
        assert!(pending.get() <= 1);
        let mut receiver = stream.join().expect("the stream");
        if let Err(Full) = early {
            assert!(receiver.pop().is_none());
            sender.deliver(WATCHER, &batches[1], Matched::All).expect("there is room again");
        }
        assert_eq!(revision(&receiver.pop().expect("it was delivered")), 3);
        assert!(receiver.pop().is_none());
    });
}

#[test]
fn h1_a_watcher_is_let_in_at_one_exact_point_of_the_log() {
    loom::model(|| {
        let (mut writer, reader) = Writer::new();
        let published = Arc::new(Notify::new());
        let (requests, mut router) = routing::<()>(reader, Arc::clone(&published));
        let stream = thread::spawn(move || {
            let (sender, mut receiver) = queue(Arc::new(Counter::default()));
            let stream = requests.new_stream();
            requests.ask(Request::Open { stream, sender, incarnation: 0 });
            let (interest, start) = (interest(KeyRange::all()), Revision(0));
            requests.ask(Request::Start { stream, watcher: WATCHER, interest, start, answer: () });
            let created = match next(&mut receiver) {
                Item::Started { revision: Revision(created), is_live: true, .. } => created,
                other => panic!("{other:?}"),
            };
            for expect in created + 1..=3 {
                match next(&mut receiver) {
                    // The bound is one delivery. The watcher gets the exact first revision that it misses.
                    Item::Lagging { from, .. } => {
                        assert_eq!(from.0, expect);
                        break;
                    }
                    item => assert_eq!(revision(&item), expect),
                }
                receiver.done(1, 0);
            }
            requests.ask(Request::Close { stream });
        });
        for _ in 0..2 {
            put(&mut writer, &["a"], &Bytes::new());
            router.turn();
        }
        // Until the stream has come and gone.
        loop {
            while router.turn() {}
            if router.next_number > 0 && router.is_unwatched() {
                break;
            }
            block_on(published.notified());
        }
        stream.join().expect("the stream");
    });
}

#[test]
fn m1_a_published_map_never_changes() {
    loom::model(|| {
        let (_writer, reader) = Writer::new();
        let (requests, mut router) = routing::<()>(reader, Arc::new(Notify::new()));
        let looks = thread::spawn({
            let requests = requests.clone();
            move || {
                let first = requests.registrations();
                let count = first.len();
                let second = requests.registrations();
                assert!(second.len() >= count, "publications do not go back");
                for registrations in [&first, &second] {
                    let mut found = 0;
                    registrations.of(b"a", |_| found += 1);
                    assert_eq!(found, registrations.len());
                }
                assert_eq!(first.len(), count);
            }
        });
        let (sender, _receiver) = queue(Arc::new(Counter::default()));
        let stream = requests.new_stream();
        requests.ask(Request::Open { stream, sender, incarnation: 0 });
        for serial in 0..2 {
            let watcher = WatcherId { watch_id: serial.into(), place: serial, serial };
            let (interest, start) = (interest(KeyRange::Single("a".into())), Revision(0));
            requests.ask(Request::Start { stream, watcher, interest, start, answer: () });
            router.turn();
        }
        looks.join().expect("the reader");
        assert_eq!(requests.registrations().len(), 2);
    });
}

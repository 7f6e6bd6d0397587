//! The routing task, driven by hand, and compared with a plain list of watchers.

use super::queue::{DELIVERIES, queue};
use super::testing::{WATCHER, batches, drain, interest, put};
use super::{Interest, Item, Matched, ProgressScope, Receiver, Request, Requests, Router, StreamId};
use super::{WatcherId, routing};
use crate::core::Writer;
use crate::primitive::{Counter, Notify};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;
use std::sync::Arc;

struct Setup {
    writer: Writer,
    requests: Requests<&'static str>,
    router: Router<&'static str>,
    pending: Arc<Counter>,
}

impl Setup {
    fn new() -> Setup {
        let (writer, reader) = Writer::new();
        let (requests, router) = routing(reader, Arc::new(Notify::new()));
        Setup { writer, requests, router, pending: Arc::default() }
    }

    fn put(&mut self, keys: &[&str]) -> i64 {
        put(&mut self.writer, keys, &Bytes::new()).0
    }

    fn puts(&mut self, key: &str, count: usize) {
        for _ in 0..count {
            self.put(&[key]);
        }
    }

    fn open(&mut self) -> (StreamId, Receiver<&'static str>) {
        let stream = self.requests.new_stream();
        let (sender, receiver) = queue(Arc::clone(&self.pending));
        let incarnation = self.writer.state().incarnation;
        self.requests.ask(Request::Open { stream, sender, incarnation });
        (stream, receiver)
    }

    fn start(&self, stream: StreamId, watcher: WatcherId, range: KeyRange, start: i64) {
        let (interest, start) = (interest(range), Revision(start));
        self.requests.ask(Request::Start { stream, watcher, interest, start, answer: "created" });
    }

    fn join(&self, stream: StreamId, from: i64) {
        self.requests.ask(Request::Join { stream, watcher: WATCHER, from: Revision(from) });
    }

    fn progress(&self, stream: StreamId) {
        self.requests.ask(Request::Progress { stream, scope: ProgressScope::Stream });
    }

    fn run(&mut self) {
        while self.router.turn() {}
    }
}

fn key(key: &'static str) -> KeyRange {
    KeyRange::Single(key.into())
}

#[test]
fn a_new_watcher_gets_the_newest_revision_and_all_later_events() {
    let mut setup = Setup::new();
    let (stream, mut receiver) = setup.open();
    setup.puts("a", 2);
    // Revision 3 is not routed yet.
    setup.start(stream, WATCHER, key("a"), 0);
    setup.router.answer_only(2);
    setup.put(&["a"]);
    setup.run();
    assert_eq!(drain(&mut receiver), ["\"created\" live 3", "7 events 4"]);
    assert_eq!(setup.requests.registrations().len(), 1);
}

#[test]
fn a_watcher_of_the_past_is_registered_when_it_joins() {
    let mut setup = Setup::new();
    setup.puts("a", 3);
    setup.run();
    let (stream, mut receiver) = setup.open();
    setup.start(stream, WATCHER, key("a"), 2);
    setup.puts("a", 1);
    setup.run();
    assert_eq!(drain(&mut receiver), ["\"created\" past 5"]);
    assert!(setup.requests.registrations().is_empty());
    // It has read up to 3; the rest comes with the registration, in the same step (H1).
    setup.join(stream, 4);
    setup.router.answer_only(1);
    assert_eq!(drain(&mut receiver), ["7 joined", "7 events 4", "7 events 5"]);
    setup.puts("a", 1);
    setup.run();
    assert_eq!(drain(&mut receiver), ["7 events 6"]);
}

#[test]
fn a_watcher_that_is_too_far_behind_does_not_join() {
    let mut setup = Setup::new();
    let (stream, mut receiver) = setup.open();
    setup.puts("a", 6);
    setup.start(stream, WATCHER, key("a"), 2);
    setup.run();
    setup.join(stream, 2);
    setup.run();
    assert_eq!(drain(&mut receiver), ["\"created\" past 7", "7 behind"], "too much to replay");
    setup.writer.compact(Revision(7));
    setup.writer.publish();
    setup.join(stream, 6);
    setup.run();
    assert_eq!(drain(&mut receiver), ["7 behind"], "compacted");
    setup.join(stream, 7);
    setup.run();
    assert_eq!(drain(&mut receiver), ["7 joined", "7 events 7"]);
}

#[test]
fn a_watcher_that_was_left_meanwhile_joins_no_more() {
    let mut setup = Setup::new();
    let (stream, mut receiver) = setup.open();
    setup.puts("a", 1);
    setup.start(stream, WATCHER, key("a"), 1);
    setup.requests.ask(Request::Leave { stream, watch_id: 7, answer: "canceled" });
    setup.join(stream, 3);
    // Another watcher with the same watch id.
    setup.start(stream, WatcherId { serial: 1, ..WATCHER }, key("a"), 1);
    setup.join(stream, 3);
    setup.run();
    let expect = ["\"created\" past 2", "\"canceled\" echo 2", "\"created\" past 2"];
    assert_eq!(drain(&mut receiver), expect);
    assert!(setup.requests.registrations().is_empty());
}

#[test]
fn a_full_queue_ends_the_registration_and_reports_the_place() {
    let mut setup = Setup::new();
    let (stream, mut receiver) = setup.open();
    setup.start(stream, WATCHER, key("a"), 0);
    setup.run();
    drain(&mut receiver);
    setup.puts("a", DELIVERIES + 3);
    setup.run();
    assert_eq!(setup.pending.get(), DELIVERIES as u64);
    let shown = drain(&mut receiver);
    assert_eq!(shown.len(), DELIVERIES + 1);
    assert_eq!(shown[DELIVERIES], format!("7 lagging {}", DELIVERIES + 2));
    assert_eq!((setup.pending.get(), setup.requests.registrations().len()), (0, 0));
}

#[test]
fn a_mark_stands_behind_all_events_up_to_its_revision() {
    let mut setup = Setup::new();
    let (stream, mut receiver) = setup.open();
    setup.start(stream, WATCHER, key("a"), 0);
    setup.progress(stream);
    setup.run();
    setup.puts("a", 2);
    setup.progress(stream);
    // More than one slice.
    setup.puts("b", 20);
    setup.run();
    let expect = ["\"created\" live 1", "progress 1", "7 events 2", "7 events 3", "progress 23"];
    assert_eq!(drain(&mut receiver), expect);
}

#[test]
fn those_who_wait_for_a_revision_are_notified_when_it_is_routed() {
    let mut setup = Setup::new();
    let requests = setup.requests.clone();
    assert!(requests.routed(Revision(1)).now_or_never().is_some());
    let mut waits = Box::pin(requests.routed(Revision(3)));
    assert!(waits.as_mut().now_or_never().is_none());
    setup.puts("a", 1);
    setup.run();
    assert!(waits.as_mut().now_or_never().is_none());
    setup.puts("a", 1);
    setup.run();
    assert!(waits.as_mut().now_or_never().is_some());
    let waits = requests.routed(Revision(9));
    assert!(waits.now_or_never().is_none());
    setup.puts("a", 9);
    setup.run();
}

#[test]
fn a_store_that_was_loaded_afresh_ends_the_streams_of_the_old_one() {
    let mut setup = Setup::new();
    let (stream, mut receiver) = setup.open();
    setup.start(stream, WATCHER, key("a"), 0);
    setup.run();
    setup.writer.reset();
    setup.puts("a", 1);
    setup.start(stream, WatcherId { watch_id: 8, ..WATCHER }, key("a"), 0);
    setup.run();
    assert_eq!(drain(&mut receiver), ["\"created\" live 1", "reset"]);
    // This stream knows the old store and is opened late.
    let late = setup.requests.new_stream();
    let (sender, mut receiver) = queue(Arc::default());
    setup.requests.ask(Request::Open { stream: late, sender, incarnation: 0 });
    setup.run();
    assert_eq!(drain(&mut receiver), ["reset"]);
    assert!(setup.router.is_unwatched());
}

#[test]
fn a_closed_stream_goes_piece_by_piece_and_leaves_nothing() {
    let mut setup = Setup::new();
    let (stream, receiver) = setup.open();
    for place in 0..50 {
        setup.start(stream, WatcherId { watch_id: place.into(), place, serial: place }, KeyRange::all(), 0);
    }
    setup.run();
    setup.requests.ask(Request::Close { stream });
    drop(receiver);
    setup.puts("a", 3);
    assert!(setup.router.turn(), "not in one turn");
    assert!(!setup.requests.registrations().is_empty());
    // Its requests from before it was closed are of no use any more.
    setup.start(stream, WATCHER, key("a"), 0);
    setup.run();
    assert!(setup.router.is_unwatched());
    assert_eq!(setup.pending.get(), 0);
}

#[test]
fn the_bound_in_bytes_lets_one_delivery_of_any_size_through() {
    let batches = batches(3, &vec![0; 20 << 20].into());
    let (mut sender, mut receiver) = queue::<()>(Arc::default());
    let mut deliver = |batch| sender.deliver(WATCHER, batch, Matched::All).is_ok();
    assert!(deliver(&batches[0]));
    assert!(!deliver(&batches[1]), "40 MiB");
    assert_eq!(drain(&mut receiver).len(), 1);
    assert!(deliver(&batches[1]));
    receiver.pop();
    assert!(!deliver(&batches[2]), "popped, but not done with");
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        (0_usize..3).prop_map(|at| key(["a", "b", "c"][at])),
        Just(KeyRange::all()),
        Just(KeyRange::Span { start: "a".into(), end: Some("c".into()) }),
    ]
}

#[derive(Clone, Debug)]
enum Act {
    Start(usize, KeyRange, i64),
    Leave(usize),
    Put(Vec<usize>),
    Turn,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0_usize..3, range(), 0_i64..4).prop_map(|(stream, range, ahead)| Act::Start(stream, range, ahead)),
        any::<usize>().prop_map(Act::Leave),
        prop::collection::vec(0_usize..3, 1..4).prop_map(Act::Put),
        Just(Act::Turn),
    ]
}

/// A watcher of the plain list, with the events that it must get and those that it got.
#[derive(Debug)]
struct Listed {
    stream: usize,
    watcher: WatcherId,
    interest: Interest,
    from: i64,
    expected: Vec<(i64, usize)>,
    given: Vec<(i64, usize)>,
    has_left: bool,
    /// The first revision that it misses, by [`Item::Lagging`].
    lagging: Option<i64>,
}

impl Listed {
    fn expect(&mut self, revision: i64, keys: &[&str]) {
        let count = keys.iter().filter(|key| self.interest.range.contains(key.as_bytes())).count();
        if count > 0 && !self.has_left && self.from <= revision {
            self.expected.push((revision, count));
        }
    }
}

/// Takes all items of the streams.
fn take(receivers: &mut [Receiver<&'static str>], list: &mut [Listed]) {
    for (stream, receiver) in receivers.iter_mut().enumerate() {
        while let Some(item) = receiver.pop() {
            let (Item::Events { watcher, .. } | Item::Lagging { watcher, .. }) = item else { continue };
            let listed = list.iter_mut().find(|listed| (listed.stream, listed.watcher) == (stream, watcher));
            let listed = listed.expect("it comes for a watcher that was there");
            match item {
                Item::Events { batch, matched, .. } => {
                    receiver.done(1, batch.weight());
                    let events = batch.events(&matched, false, |_, _| Bytes::new()).count();
                    listed.given.push((batch.revision().0, events));
                }
                Item::Lagging { from, .. } => assert!(listed.lagging.replace(from.0).is_none(), "twice"),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::core::tests::config(256))]

    #[test]
    fn every_watcher_gets_the_events_of_a_plain_list(acts in prop::collection::vec(act(), 1..60)) {
        let mut setup = Setup::new();
        let opened: Vec<_> = (0..3).map(|_| setup.open()).collect();
        let (streams, mut receivers): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let mut list: Vec<Listed> = Vec::new();
        for (serial, act) in (0..).zip(acts) {
            match act {
                Act::Start(stream, range, ahead) => {
                    let watcher = WatcherId { watch_id: serial.into(), place: serial, serial };
                    let from = setup.writer.state().revision.0 + 1 + ahead;
                    let start = if ahead == 0 { 0 } else { from };
                    setup.start(streams[stream], watcher, range.clone(), start);
                    // It is in from this point on.
                    setup.router.answer_only(usize::MAX);
                    let interest = Interest { range, no_put: false, no_delete: false };
                    let (expected, given, lagging) = Default::default();
                    list.push(Listed { stream, watcher, interest, from, expected, given, has_left: false, lagging });
                }
                Act::Leave(which) if !list.is_empty() => {
                    // All up to here is still for it.
                    setup.run();
                    take(&mut receivers, &mut list);
                    let which = which % list.len();
                    let listed = &mut list[which];
                    listed.has_left = true;
                    let (stream, watch_id) = (streams[listed.stream], listed.watcher.watch_id);
                    setup.requests.ask(Request::Leave { stream, watch_id, answer: "canceled" });
                    setup.router.answer_only(usize::MAX);
                }
                Act::Put(keys) => {
                    let keys: Vec<&str> = keys.into_iter().map(|at| ["a", "b", "c"][at]).collect();
                    let revision = setup.put(&keys);
                    for listed in &mut list {
                        listed.expect(revision, &keys);
                    }
                }
                Act::Leave(_) | Act::Turn => {
                    setup.router.turn();
                    take(&mut receivers, &mut list);
                }
            }
        }
        setup.run();
        take(&mut receivers, &mut list);
        for listed in &list {
            let before = |(revision, _): &&(i64, usize)| listed.lagging.is_none_or(|from| *revision < from);
            let expected: Vec<_> = listed.expected.iter().take_while(before).copied().collect();
            prop_assert_eq!(&listed.given, &expected, "{:?}", listed);
            // A watcher that misses something got `Lagging`.
            prop_assert!(listed.lagging.is_none() || listed.given.len() < listed.expected.len());
        }
    }
}

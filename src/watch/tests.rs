//! The rules of watches, shown on sessions that are driven by hand: the test decides when something is
//! written, when the hub routes and when a client reads.

use super::control::{Control, Create, Request};
use super::hub::WatchHub;
use super::response::{Body, Response};
use super::session::{self, Session, Step};
use super::watcher::Answer;
use crate::core::routing::{DELIVERIES, Interest, Router};
use crate::core::{Change, ChangeKind, KeyVersion, Reader, State, Writer};
use crate::error::EtcdError;
use crate::primitive::Notify;
use crate::proto::mvccpb;
use crate::types::{KeyRange, LeaseId, LogIndex, Revision, Sequence};
use bytes::Bytes;
use prost::Message;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

pub(crate) struct Store {
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
    pub(crate) hub: WatchHub,
    pub(super) routing: Routing,
}

/// The router, if it has no task and is driven by hand.
#[derive(Clone)]
pub(super) struct Routing(Option<Arc<Mutex<Router<Answer>>>>);

impl Routing {
    pub(super) fn of(router: Router<Answer>) -> Routing {
        Routing(Some(Arc::new(Mutex::new(router))))
    }

    pub(super) const NONE: Routing = Routing(None);

    fn with<T: Default>(&self, act: impl FnOnce(&mut Router<Answer>) -> T) -> T {
        let router = self.0.as_ref().map(|router| router.lock().expect("no test has failed with it"));
        router.map_or_else(T::default, |mut router| act(&mut router))
    }

    /// Handles all requests, and then routes everything published so far.
    pub(super) fn route(&self) {
        while self.with(Router::turn) {}
    }

    /// Handles the oldest `most` requests without routing, and returns whether there were any.
    pub(super) fn answer(&self, most: usize) -> bool {
        self.with(|router| router.answer_only(most)) > 0
    }

    /// Routes everything published so far without handling requests.
    pub(super) fn route_only(&self) {
        while self.with(Router::route_only) {}
    }

    pub(super) fn is_unwatched(&self) -> bool {
        self.route();
        self.with(|router| router.is_unwatched())
    }
}

/// Both halves of a call. The routing task handles each request at once.
pub(super) struct Call {
    pub(super) control: Control,
    pub(super) session: Session,
    pub(super) routing: Routing,
}

impl Call {
    pub(super) fn handle(&mut self, request: Request) {
        self.control.handle(request);
        self.routing.answer(usize::MAX);
    }

    pub(super) fn tick(&mut self) {
        self.session.tick();
        self.routing.answer(usize::MAX);
    }

    pub(super) fn next(&mut self) -> Step {
        loop {
            let step = self.session.next();
            if !matches!(step, Step::Idle) || !self.routing.answer(usize::MAX) {
                return step;
            }
        }
    }

    fn create_at(&mut self, range: &str, start: i64) {
        self.handle(Request::Create(create(prefix(range), start)));
    }
}

impl Store {
    /// A store whose hub has a task.
    pub(crate) fn spawn() -> Store {
        let (writer, reader) = Writer::new();
        let hub = WatchHub::spawn(reader.clone(), Arc::new(Notify::new()));
        Store { writer, reader, hub, routing: Routing::NONE }
    }

    pub(super) fn new() -> Store {
        let (writer, reader) = Writer::new();
        let notify = Arc::new(Notify::new());
        let (hub, router) = WatchHub::idle(reader.clone(), notify, CancellationToken::new());
        Store { writer, reader, hub, routing: Routing::of(router) }
    }

    pub(super) fn route(&self) {
        self.routing.route();
    }

    /// Writes without routing. A key without a value is deleted.
    pub(crate) fn write(&mut self, changes: &[(&str, Option<&str>)]) -> i64 {
        let revision = self.writer.state().revision.next();
        let sequence = Sequence(revision.0 as u64);
        let mut done: Vec<Change> = Vec::new();
        for ((key, value), place) in changes.iter().zip(1..) {
            let kind = match value {
                None => ChangeKind::Delete,
                Some(value) => {
                    let old = self.writer.state().get(key.as_bytes());
                    ChangeKind::Put {
                        value: Bytes::copy_from_slice(value.as_bytes()),
                        create_revision: old.map(KeyVersion::create_revision),
                        version: old.map_or(1, |old| old.version() + 1),
                        lease: LeaseId::NONE,
                    }
                }
            };
            done.push(Change { key: Bytes::copy_from_slice(key.as_bytes()), sequence, place, kind });
        }
        let versions = done.iter().map(|change| change.version(revision));
        self.writer.apply(revision, LogIndex(sequence.0), versions, |_, _| ());
        self.writer.publish();
        revision.0
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> i64 {
        self.write(&[(key, Some(value))])
    }

    /// Puts numbers into a key, each at the revision with this number.
    fn put_each(&mut self, key: &str, numbers: std::ops::RangeInclusive<i64>) {
        for number in numbers {
            assert_eq!(self.put(key, &number.to_string()), number);
        }
    }

    pub(super) fn delete(&mut self, key: &str) -> i64 {
        self.write(&[(key, None)])
    }

    pub(crate) fn compact(&mut self, floor: i64) {
        self.writer.compact(Revision(floor));
        self.writer.publish();
        // Watchers see the state before the sweep first.
        self.writer.sweep(3);
    }

    pub(super) fn session(&self) -> Call {
        let (control, session) = session::open(self.hub.clone(), self.reader.clone());
        Call { control, session, routing: self.routing.clone() }
    }

    fn state(&self) -> Arc<State> {
        self.reader.snapshot()
    }
}

pub(super) fn prefix(prefix: &str) -> KeyRange {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    KeyRange::from_wire(Bytes::copy_from_slice(prefix.as_bytes()), &Bytes::from(end))
}

pub(super) fn create(range: KeyRange, start: i64) -> Create {
    Create {
        range,
        start: Revision(start),
        watch_id: 0,
        prev_kv: false,
        progress_notify: false,
        fragment: false,
        no_put: false,
        no_delete: false,
    }
}

/// All responses that a client can read now.
pub(super) fn drain(session: &mut Call) -> Vec<Response> {
    let mut responses = Vec::new();
    loop {
        match session.next() {
            Step::Respond(response) => responses.push(response),
            Step::Yield => {}
            Step::Idle | Step::End(_) => return responses,
        }
    }
}

pub(super) fn events(response: &Response) -> Vec<mvccpb::Event> {
    match &response.body {
        Body::Events { events, .. } => {
            events.iter().map(|event| mvccpb::Event::decode(event.clone()).expect("an event")).collect()
        }
        _ => Vec::new(),
    }
}

/// One line for each response: watch id, content, `@` the header's revision.
fn show(responses: &[Response]) -> Vec<String> {
    responses
        .iter()
        .map(|response| {
            let Response { watch_id, revision, body } = response;
            let content = match body {
                Body::Created => "created".to_owned(),
                Body::Refused(error) => format!("refused: {error}"),
                Body::Canceled => "canceled".to_owned(),
                Body::Compacted(floor) => format!("compacted {floor}"),
                Body::Progress => "progress".to_owned(),
                Body::Events { .. } => events(response).iter().map(show_event).collect::<Vec<_>>().join(" "),
            };
            format!("{watch_id} {content} @{revision}")
        })
        .collect()
}

fn show_event(event: &mvccpb::Event) -> String {
    let kv = event.kv.as_ref().expect("every event has a pair");
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let sign = if event.r#type == 1 { "-" } else { "+" };
    let previous = event.prev_kv.as_ref().map_or_else(String::new, |old| format!("<{}", text(&old.value)));
    format!("{sign}{}={}#{}{previous}", text(&kv.key), text(&kv.value), kv.mod_revision)
}

fn read(session: &mut Call) -> Vec<String> {
    show(&drain(session))
}

fn route_and_read(store: &Store, session: &mut Call) -> Vec<String> {
    store.route();
    read(session)
}

#[test]
fn a_live_watcher_gets_each_revision_by_itself() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    assert_eq!(read(&mut session), ["0 created @1"]);
    store.put("a1", "x");
    store.put("b1", "x");
    store.delete("a1");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a1=x#2 @2", "0 -a1=#4 @4"]);
}

#[test]
fn events_of_one_revision_stay_together_in_the_order_of_the_transaction() {
    let mut store = Store::new();
    let mut live = store.session();
    live.create_at("a", 0);
    store.write(&[("a3", Some("1")), ("b", Some("2")), ("a1", Some("3")), ("a2", None), ("a3", None)]);
    let mut late = store.session();
    late.create_at("a", 1);
    let expect = "0 +a3=1#2 +a1=3#2 -a2=#2 -a3=#2 @2";
    assert_eq!(route_and_read(&store, &mut live), ["0 created @1", expect]);
    assert_eq!(read(&mut late), ["0 created @2", expect]);
}

#[test]
fn events_show_exactly_what_etcd_shows() {
    let mut store = Store::new();
    let mut session = store.session();
    session.handle(Request::Create(Create { prev_kv: true, ..create(prefix("a"), 0) }));
    store.put("a", "1");
    store.put("a", "2");
    store.delete("a");
    store.write(&[("a", Some("3")), ("a", Some("4"))]);
    store.write(&[("a", Some("5")), ("a", None)]);
    store.route();
    let events: Vec<_> = drain(&mut session).iter().flat_map(events).collect();
    let shown: Vec<_> = events.iter().map(show_event).collect();
    let expect = ["+a=1#2", "+a=2#3<1", "-a=#4<2", "+a=3#5", "+a=4#5", "+a=5#6<4", "-a=#6<4"];
    assert_eq!(shown, expect);
    let (updated, deleted) = (events[1].kv.clone().expect("kv"), events[2].kv.clone().expect("kv"));
    assert_eq!((updated.create_revision, updated.version), (2, 2));
    let bare = mvccpb::KeyValue { key: "a".into(), mod_revision: 4, ..mvccpb::KeyValue::default() };
    assert_eq!(deleted, bare);
}

#[test]
fn ids_are_counted_up_past_those_in_use_and_never_reused_by_the_server() {
    let store = Store::new();
    let mut session = store.session();
    let with_id = |watch_id| Request::Create(Create { watch_id, ..create(prefix("a"), 0) });
    for request in [with_id(1), with_id(0), with_id(0), with_id(-7), with_id(1), Request::Cancel(2)] {
        session.handle(request);
    }
    for request in [with_id(0), with_id(2), Request::Cancel(2), with_id(2), with_id(2)] {
        session.handle(request);
    }
    let twice = "-1 refused: mvcc: duplicate watch ID provided on the WatchStream @1";
    assert_eq!(
        read(&mut session),
        [
            "1 created @1",
            "0 created @1",
            "2 created @1",
            "-7 created @1",
            twice,
            "2 canceled @1",
            "3 created @1",
            "2 created @1",
            "2 canceled @1",
            "2 created @1",
            twice
        ]
    );
}

#[test]
fn a_range_without_keys_is_refused_in_band() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    let inverted = KeyRange::from_wire(Bytes::from_static(b"b"), &Bytes::from_static(b"b"));
    session.handle(Request::Create(create(inverted, 0)));
    session.create_at("b", 0);
    store.put("b", "1");
    assert_eq!(
        route_and_read(&store, &mut session),
        ["0 created @1", "-1 refused: mvcc: watcher range is empty @1", "1 created @1", "1 +b=1#2 @2"]
    );
}

#[test]
fn a_start_in_the_past_is_inclusive_and_goes_on_live() {
    let mut store = Store::new();
    store.put_each("a", 2..=5);
    store.route();
    let mut session = store.session();
    session.create_at("a", 3);
    assert_eq!(read(&mut session), ["0 created @5", "0 +a=3#3 +a=4#4 +a=5#5 @5"]);
    store.put("a", "6");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=6#6 @6"]);
}

#[test]
fn a_start_in_the_future_is_silent_until_then() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 4);
    store.put_each("a", 2..=5);
    assert_eq!(route_and_read(&store, &mut session), ["0 created @1", "0 +a=4#4 @4", "0 +a=5#5 @5"]);
}

#[test]
fn nothing_before_the_created_header_comes_and_everything_behind_it() {
    let mut store = Store::new();
    let mut session = store.session();
    store.put("a", "2");
    // The hub has not seen revision 2 yet.
    session.create_at("a", 0);
    store.put("a", "3");
    assert_eq!(route_and_read(&store, &mut session), ["0 created @2", "0 +a=3#3 @3"]);
}

#[test]
fn created_comes_at_once_and_history_behind_all_answers() {
    let mut store = Store::new();
    store.put("a", "2");
    let mut session = store.session();
    session.create_at("a", 2);
    session.create_at("a", 1);
    assert_eq!(read(&mut session), ["0 created @2", "1 created @2", "0 +a=2#2 @2", "1 +a=2#2 @2"]);
}

#[test]
fn filters_drop_events_and_empty_batches() {
    let mut store = Store::new();
    store.put("a", "2");
    let mut session = store.session();
    for (no_put, no_delete) in [(true, false), (false, true), (true, true)] {
        session.handle(Request::Create(Create { no_put, no_delete, ..create(prefix("a"), 2) }));
    }
    drain(&mut session);
    store.write(&[("a1", None), ("a2", Some("x"))]);
    store.put("a", "4");
    store.delete("a");
    assert_eq!(
        route_and_read(&store, &mut session),
        ["0 -a1=#3 @3", "1 +a2=x#3 @3", "1 +a=4#4 @4", "0 -a=#5 @5"]
    );
}

#[test]
fn a_start_below_the_floor_is_created_then_compacted_and_keeps_its_id() {
    let mut store = Store::new();
    store.put_each("a", 2..=6);
    store.compact(4);
    store.route();
    let mut session = store.session();
    session.create_at("a", 3);
    session.create_at("a", 4);
    session.handle(Request::Create(Create { watch_id: 0, prev_kv: true, ..create(prefix("a"), 4) }));
    let lines = read(&mut session);
    assert_eq!(lines[..4], ["0 created @6", "1 created @6", "2 created @6", "0 compacted 4 @0"]);
    assert_eq!(lines[4..], ["1 +a=4#4 +a=5#5 +a=6#6 @6", "2 +a=4#4 +a=5#5<4 +a=6#6<5 @6"]);
    // The watch id stays in use until the client cancels it.
    session.handle(Request::Progress);
    session.handle(Request::Create(Create { watch_id: 3, ..create(prefix("a"), 0) }));
    session.handle(Request::Cancel(0));
    session.handle(Request::Cancel(0));
    session.handle(Request::Progress);
    assert_eq!(route_and_read(&store, &mut session), ["3 created @6", "0 canceled @6", "-1 progress @6"]);
}

#[test]
fn a_delete_at_the_floor_is_still_sent() {
    let mut store = Store::new();
    store.put("a", "2");
    store.delete("a");
    store.put("b", "4");
    store.compact(3);
    let mut session = store.session();
    session.handle(Request::Create(Create { prev_kv: true, ..create(prefix("a"), 3) }));
    assert_eq!(read(&mut session), ["0 created @4", "0 -a=#3 @4"]);
}

#[test]
fn a_canceled_watcher_is_silent_also_about_what_was_on_its_way() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    session.create_at("a", 0);
    drain(&mut session);
    store.put("a", "2");
    store.route();
    session.handle(Request::Cancel(0));
    session.handle(Request::Cancel(0));
    session.handle(Request::Cancel(17));
    // The same id again is another watcher.
    session.handle(Request::Create(Create { watch_id: 9, ..create(prefix("a"), 0) }));
    session.handle(Request::Cancel(9));
    session.handle(Request::Create(Create { watch_id: 9, ..create(prefix("a"), 0) }));
    assert_eq!(
        read(&mut session),
        ["0 canceled @2", "9 created @2", "9 canceled @2", "9 created @2", "1 +a=2#2 @2"]
    );
    store.put("a", "3");
    assert_eq!(route_and_read(&store, &mut session), ["1 +a=3#3 @3", "9 +a=3#3 @3"]);
}

#[test]
fn long_history_comes_in_slices_with_the_current_revision_in_the_header() {
    let mut store = Store::new();
    store.put_each("a", 2..=13);
    let mut session = store.session();
    session.create_at("a", 2);
    let responses = drain(&mut session);
    let shape: Vec<_> =
        responses[1..].iter().map(|response| (events(response).len(), response.revision.0)).collect();
    assert_eq!(shape, [(5, 13), (5, 13), (2, 13)]);
}

#[test]
fn large_history_is_cut_at_whole_revisions() {
    let mut store = Store::new();
    let large = "x".repeat(3000);
    for _ in 0..4 {
        store.write(&[("a1", Some(&large)), ("a2", Some(&large))]);
    }
    let mut session = store.session();
    session.create_at("a", 2);
    let shape: Vec<_> = drain(&mut session)[1..].iter().map(|response| events(response).len()).collect();
    assert_eq!(shape, [2, 2, 2, 2]);
}

#[test]
fn a_slow_reader_falls_back_to_the_log_and_misses_nothing() {
    let mut store = Store::new();
    let (mut slow, mut quick) = (store.session(), store.session());
    for session in [&mut slow, &mut quick] {
        session.create_at("a", 0);
        session.create_at("a", 0);
        session.handle(Request::Create(Create { watch_id: 5, ..create(prefix("b"), 0) }));
    }
    drain(&mut slow);
    drain(&mut quick);
    let writes = 3 * DELIVERIES as i64;
    let mut quick_revisions = Vec::new();
    for n in 0..writes {
        store.put("a", &n.to_string());
        store.route();
        quick_revisions
            .extend(drain(&mut quick).iter().filter(|response| response.watch_id == 1).map(|r| r.revision.0));
        let pending = store.hub.metrics().pending.get();
        assert!(pending <= DELIVERIES as u64, "{pending} pending");
    }
    store.put("b", "live");
    store.route();
    assert_eq!(quick_revisions, (2..2 + writes).collect::<Vec<_>>());
    let responses = drain(&mut slow);
    for watch_id in [0, 1] {
        let seen: Vec<i64> = responses
            .iter()
            .filter(|response| response.watch_id == watch_id)
            .flat_map(events)
            .map(|event| event.kv.expect("kv").mod_revision)
            .collect();
        assert_eq!(seen, (2..2 + writes).collect::<Vec<_>>());
    }
    let live: Vec<_> = responses.iter().filter(|response| response.watch_id == 5).cloned().collect();
    assert_eq!(show(&live).len(), 1);
    // Afterwards all of them are live again.
    store.put("a", "x");
    assert_eq!(route_and_read(&store, &mut slow).len(), 2);
    assert_eq!(store.hub.metrics().slow_watchers.get(), 0);
}

#[test]
fn a_reader_too_slow_for_compaction_is_cancelled() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    for n in 0..20 {
        store.put("a", &n.to_string());
        store.route();
    }
    store.compact(20);
    let lines = read(&mut session);
    assert_eq!(lines.len(), 2 + DELIVERIES);
    assert_eq!(lines.last().map(String::as_str), Some("0 compacted 20 @0"));
}

#[test]
fn compaction_past_the_hub_is_not_passed_over_in_silence() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    session.create_at("a", 5);
    drain(&mut session);
    store.put_each("a", 2..=6);
    store.compact(4);
    assert_eq!(route_and_read(&store, &mut session), ["1 +a=5#5 @5", "1 +a=6#6 @6", "0 compacted 4 @0"]);
}

#[test]
fn progress_is_reported_only_where_all_watchers_have_everything() {
    let mut store = Store::new();
    let mut session = store.session();
    session.handle(Request::Progress);
    assert!(read(&mut session).is_empty(), "no watchers, no answer");
    session.create_at("a", 0);
    session.handle(Request::Progress);
    assert_eq!(read(&mut session), ["0 created @1", "-1 progress @1"]);
    // Earlier events come first, also those that the hub had not routed at the request.
    store.put("a", "2");
    session.handle(Request::Progress);
    store.put("b", "3");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=2#2 @2", "-1 progress @3"]);
    // A watcher in the future, one that catches up.
    session.create_at("a", 9);
    session.handle(Request::Progress);
    session.handle(Request::Cancel(1));
    session.create_at("a", 2);
    session.handle(Request::Progress);
    assert_eq!(read(&mut session), ["1 created @3", "1 canceled @3", "2 created @3", "2 +a=2#2 @3"]);
    session.handle(Request::Progress);
    assert_eq!(read(&mut session), ["-1 progress @3"]);
}

#[test]
fn a_request_for_progress_is_not_helped_by_what_comes_after_it() {
    let mut store = Store::new();
    let mut session = store.session();
    session.handle(Request::Progress);
    session.create_at("a", 0);
    assert_eq!(read(&mut session), ["0 created @1"], "there were no watchers");
    store.put("a", "2");
    store.compact(2);
    store.route();
    session.create_at("a", 1);
    drain(&mut session);
    session.handle(Request::Progress);
    session.handle(Request::Cancel(1));
    assert_eq!(read(&mut session), ["1 canceled @2"], "one was lost to compaction");
}

#[test]
fn progress_does_not_count_for_a_watcher_that_fell_behind_before_it() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    drain(&mut session);
    for n in 0..2 * DELIVERIES {
        store.put("a", &n.to_string());
    }
    session.handle(Request::Progress);
    store.route();
    let lines = read(&mut session);
    assert!(lines.iter().all(|line| !line.contains("progress")), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains("#17")), "{lines:?}");
}

#[test]
fn a_progress_mark_from_before_a_watcher_joined_counts_only_for_what_it_has() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("b", 0);
    store.put_each("a", 2..=4);
    drain(&mut session);
    store.route();
    session.handle(Request::Progress);
    session.create_at("a", 2);
    // The progress mark for revision 4 is queued. The new watcher has no event yet.
    assert_eq!(read(&mut session), ["1 created @4", "1 +a=2#2 +a=3#3 +a=4#4 @4"]);
}

#[test]
fn the_ticker_reports_progress_to_idle_live_watchers_that_want_it() {
    let mut store = Store::new();
    let mut session = store.session();
    let notified = |range: &str, start| {
        Request::Create(Create { progress_notify: true, ..create(prefix(range), start) })
    };
    session.handle(notified("a", 0));
    session.create_at("a", 0);
    session.handle(notified("b", 7));
    drain(&mut session);
    session.tick();
    assert_eq!(read(&mut session), ["0 progress @1"]);
    store.put("a", "2");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=2#2 @2", "1 +a=2#2 @2"]);
    session.tick();
    assert!(read(&mut session).is_empty(), "events were sent since the last tick");
    session.tick();
    assert_eq!(read(&mut session), ["0 progress @2"]);
    // The event in flight comes first.
    store.put("a", "3");
    session.tick();
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=3#3 @3", "1 +a=3#3 @3", "0 progress @3"]);
    session.tick();
    session.handle(Request::Cancel(0));
    assert_eq!(read(&mut session), ["0 canceled @3"]);
}

#[test]
fn a_revision_without_events_is_progress_too() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    store.writer.advance(Revision(5), LogIndex(9));
    store.writer.publish();
    session.handle(Request::Progress);
    assert_eq!(route_and_read(&store, &mut session), ["0 created @1", "-1 progress @5"]);
}

#[test]
fn a_store_that_was_loaded_afresh_ends_every_stream() {
    let mut store = Store::new();
    let (mut live, mut behind) = (store.session(), store.session());
    live.create_at("a", 0);
    drain(&mut live);
    store.put("a", "2");
    behind.create_at("a", 1);
    store.writer.reset();
    store.put("a", "2 again");
    let ends = |session: &mut Call| loop {
        match session.next() {
            Step::Respond(Response { body: Body::Created, .. }) | Step::Yield => {}
            Step::End(EtcdError::Unavailable(_)) => return true,
            other => panic!("{other:?}"),
        }
    };
    assert!(ends(&mut behind), "a stream that reads history sees it by itself");
    store.route();
    assert!(ends(&mut live));
    let mut next = store.session();
    next.create_at("a", 1);
    assert_eq!(read(&mut next), ["0 created @2", "0 +a=2 again#2 @2"]);
    drop((live, behind));
    assert_eq!(store.hub.metrics().streams.get(), 1);
}

#[test]
fn the_end_of_a_stream_frees_everything() {
    let mut store = Store::new();
    let mut session = store.session();
    for n in 0..100 {
        session.create_at("a", 0);
        session.create_at(&format!("a{n}"), 0);
        session.handle(Request::Create(create(KeyRange::Single("a".into()), 0)));
        session.create_at("a", 1);
    }
    for _ in 0..400 {
        assert!(matches!(session.next(), Step::Respond(Response { body: Body::Created, .. })));
    }
    for n in 0..30 {
        store.put("a", &n.to_string());
        store.route();
    }
    let metrics = Arc::clone(store.hub.metrics());
    assert_eq!((metrics.streams.get(), metrics.watchers.get()), (1, 400));
    assert!(metrics.pending.get() > 0 && metrics.slow_watchers.get() >= 100);
    drop(session);
    assert!(store.routing.is_unwatched() && store.hub.registrations().is_empty());
    let left = [&metrics.streams, &metrics.watchers, metrics.pending.as_ref(), &metrics.slow_watchers];
    assert_eq!(left.map(super::Counter::get), [0; 4]);
}

#[test]
fn many_watchers_behind_do_not_starve_a_live_one() {
    let mut store = Store::new();
    for n in 0..100 {
        store.put("a", &n.to_string());
    }
    store.route();
    let mut session = store.session();
    session.create_at("b", 0);
    for _ in 0..500 {
        session.create_at("a", 2);
    }
    for _ in 0..501 {
        assert!(matches!(session.next(), Step::Respond(Response { body: Body::Created, .. })));
    }
    store.put("b", "now");
    store.route();
    let place = drain(&mut session).iter().position(|response| response.watch_id == 0);
    assert!(place.is_some_and(|place| place <= 1), "at {place:?}");
}

#[test]
fn requests_wait_while_answers_do() {
    let store = Store::new();
    let mut session = store.session();
    while session.control.has_room() {
        session.create_at("a", 0);
    }
    assert!(store.hub.metrics().watchers.get() < 1000);
    assert!(matches!(session.next(), Step::Respond(_)));
    assert!(session.control.has_room());
}

#[test]
fn the_index_and_the_log_have_the_same_history() {
    let mut store = Store::new();
    for n in 0..400 {
        let key = format!("k{}", n % 7);
        match n % 5 {
            0 => store.delete(&key),
            1 => store.write(&[(&key, Some("x")), ("other", None), (&key, Some("y"))]),
            _ => store.put(&key, &n.to_string()),
        };
    }
    store.compact(50);
    let state = store.state();
    for range in [prefix("k"), prefix("k3"), prefix("o"), prefix("z"), KeyRange::Single("k1".into())] {
        let interest = Interest { range, no_put: false, no_delete: true };
        for from in [50, 51, 120, 399, 401] {
            let mut shown = [Vec::new(), Vec::new()];
            for (which, shown) in shown.iter_mut().enumerate() {
                let mut next = Revision(from);
                while next <= state.revision {
                    let slice = super::history::read_by(&state, &interest, next, which == 0);
                    assert!(slice.next > next, "a slice gets on");
                    for (entry, matched) in slice.revisions {
                        assert!((next..slice.next).contains(&entry.revision()));
                        shown.push((entry.revision(), format!("{matched:?}")));
                    }
                    next = slice.next;
                }
            }
            assert_eq!(shown[0], shown[1]);
        }
    }
}

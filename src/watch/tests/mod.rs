//! The rules of watches, shown on sessions that are driven by hand: the test decides when something is
//! written, when the hub routes and when a client reads.

mod events;
mod history;
mod progress;
mod streams;

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

//! The requests of one Watch call: the watch ids in use, and the request to the routing task for each request
//! of the client.
//!
//! Requests are handled by a task of their own, so that a client that reads slowly can still cancel. It
//! shares nothing with the responses but a few numbers. Answers go through the routing task, which puts them
//! into the one queue of the stream in the order of the requests.

use super::hub::WatchHub;
use super::watcher::{Answer, Created};
use crate::core::routing::{Interest, ProgressScope, Request as Ask, StreamId, WatcherId};
use crate::error::EtcdError;
use crate::primitive::Notify;
use crate::types::{KeyRange, Revision};
use futures_util::{Stream, StreamExt};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most requests whose answers are not taken. Further ones are left unread.
const OPEN: usize = 256;

/// A client's request. The checks that need no knowledge of the stream have passed.
#[derive(Clone, Debug)]
pub enum Request {
    /// Make a watcher.
    Create(Create),
    /// Refuse a create, for this reason.
    Refuse(EtcdError),
    /// End the watcher of this id.
    Cancel(i64),
    /// Report the progress of the stream.
    Progress,
}

/// A watcher to make.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the independent options of the wire")]
pub struct Create {
    /// The keys to watch.
    pub range: KeyRange,
    /// The first revision wanted; 0 for what happens from now on.
    pub start: Revision,
    /// The client's choice; 0 leaves it to the stream.
    pub watch_id: i64,
    /// Events have the previous version.
    pub prev_kv: bool,
    /// The client wants progress at each tick.
    pub progress_notify: bool,
    /// Responses may be split.
    pub fragment: bool,
    /// Puts are not wanted.
    pub no_put: bool,
    /// Deletes are not wanted.
    pub no_delete: bool,
}

/// The numbers that both halves of a call share. They order nothing, since all data comes through the queue,
/// so all accesses are relaxed. One half counts requests up and the other one counts them down, each in one
/// step. So exactly one answer finds the number at [`OPEN`] and notifies of the room.
#[derive(Debug)]
pub(super) struct Open {
    hub: WatchHub,
    /// Requests whose answer has not been taken.
    requests: AtomicUsize,
    /// Wakes the task that reads requests when there is room again.
    room: Notify,
    /// Watchers that the client has not ended.
    watchers: AtomicUsize,
}

impl Open {
    pub(super) fn new(hub: WatchHub) -> Open {
        Open { hub, requests: AtomicUsize::new(0), room: Notify::new(), watchers: AtomicUsize::new(0) }
    }

    fn has_room(&self) -> bool {
        self.requests.load(Ordering::Relaxed) < OPEN
    }

    /// Whether an answer may be in flight.
    pub(super) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// An answer has been taken.
    pub(super) fn answered(&self) {
        if self.requests.fetch_sub(1, Ordering::Relaxed) == OPEN {
            self.room.notify_one();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hub.metrics().watchers.sub(self.watchers.load(Ordering::Relaxed));
    }
}

/// The half of a call that handles its requests.
#[derive(Debug)]
pub(super) struct Control {
    open: Arc<Open>,
    stream: StreamId,
    /// Watch ids in use: also those of watchers that compaction has ended, until the client cancels them.
    taken: HashMap<i64, WatcherId>,
    next_id: i64,
    /// Places of watchers that are gone. There are never more places than there have been watchers at once.
    free: Vec<u32>,
    places: u32,
    next_serial: u32,
}

impl Control {
    pub(super) fn new(open: Arc<Open>, stream: StreamId) -> Control {
        Control {
            open,
            stream,
            taken: HashMap::new(),
            next_id: 0,
            free: Vec::new(),
            places: 0,
            next_serial: 0,
        }
    }

    /// Whether another request may be handled now.
    pub(super) fn has_room(&self) -> bool {
        self.open.has_room()
    }

    async fn wait_for_room(&self) {
        while !self.has_room() {
            self.open.room.notified().await;
        }
    }

    pub(super) fn handle(&mut self, request: Request) {
        match request {
            Request::Create(create) => match self.free_id(&create) {
                Ok(watch_id) => self.create(watch_id, create),
                Err(error) => self.refuse(error),
            },
            Request::Refuse(error) => self.refuse(error),
            Request::Cancel(watch_id) => self.cancel(watch_id),
            // Without watchers there is no answer (WAT-33), even if one comes before the routing task gets
            // there.
            Request::Progress if self.taken.is_empty() => {}
            Request::Progress => {
                self.ask(Ask::Progress { stream: self.stream, scope: ProgressScope::Stream });
            }
        }
    }

    /// Sends a request that is answered.
    fn ask(&self, request: Ask<Answer>) {
        self.open.requests.fetch_add(1, Ordering::Relaxed);
        self.open.hub.ask(request);
    }

    fn refuse(&self, error: EtcdError) {
        self.ask(Ask::Echo { stream: self.stream, answer: Answer::Refused(Box::new(error)) });
    }

    /// Ends the call.
    fn fail(&self, error: EtcdError) {
        self.ask(Ask::Echo { stream: self.stream, answer: Answer::Failed(Box::new(error)) });
    }

    /// The watch id for a new watcher.
    fn free_id(&mut self, create: &Create) -> Result<i64, EtcdError> {
        if create.range.is_empty() {
            return Err(EtcdError::WatchRangeEmpty);
        }
        match create.watch_id {
            0 => {
                while self.taken.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                Ok(self.next_id - 1)
            }
            taken if self.taken.contains_key(&taken) => Err(EtcdError::WatchIdInUse),
            free => Ok(free),
        }
    }

    fn create(&mut self, watch_id: i64, create: Create) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places += 1;
            self.places - 1
        });
        let watcher = WatcherId { watch_id, place, serial: self.next_serial };
        // No item in flight is older than four billion watchers of one stream.
        self.next_serial = self.next_serial.wrapping_add(1);
        self.taken.insert(watch_id, watcher);
        self.open.watchers.fetch_add(1, Ordering::Relaxed);
        self.open.hub.metrics().watchers.add(1);
        let Create { range, start, prev_kv, progress_notify, fragment, no_put, no_delete, .. } = create;
        let interest = Arc::new(Interest { range, no_put, no_delete });
        let created =
            Created { watcher, interest: Arc::clone(&interest), start, prev_kv, progress_notify, fragment };
        let answer = Answer::Created(Box::new(created));
        self.ask(Ask::Start { stream: self.stream, watcher, interest, start, answer });
    }

    fn cancel(&mut self, watch_id: i64) {
        let Some(watcher) = self.taken.remove(&watch_id) else { return };
        self.free.push(watcher.place);
        self.open.watchers.fetch_sub(1, Ordering::Relaxed);
        self.open.hub.metrics().watchers.sub(1);
        let answer = Answer::Canceled(watcher);
        self.ask(Ask::Leave { stream: self.stream, watch_id, answer });
    }
}

/// Handles all requests of a call. Their end changes nothing (WAT-14), an error in them ends the call.
pub(super) async fn read_requests<S>(mut control: Control, mut requests: Pin<Box<S>>)
where
    S: Stream<Item = Result<Request, EtcdError>>,
{
    while let Some(request) = requests.next().await {
        control.wait_for_room().await;
        match request {
            Ok(request) => control.handle(request),
            Err(error) => return control.fail(error),
        }
    }
}

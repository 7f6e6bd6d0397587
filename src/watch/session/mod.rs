//! The responses of one Watch call, made one at a time, when the connection has room for the next one.
//!
//! There is no queue of responses. Answers to requests wait in a short list (no further requests are read
//! while it is long), live events wait in the queue from the routing task, and history stays in the log until
//! the connection has room for it. So a slow client costs at most a full queue.
//!
//! - S1: answers come first and in the order of their requests, so nothing of a watcher precedes its created
//!   answer, and nothing follows its cancel answer.
//! - S2: a watcher is in one of four states. It is live (registered), or it catches up from the log at
//!   `next`, or it has asked to join at `from` and has got everything before that, or compaction has ended
//!   it. Only an item from the routing task makes it live, which is in the queue before its first event.
//! - S3: a progress mark counts for a watcher only if everything up to it has been sent: the watcher was live
//!   when the routing task pushed the mark, or had got everything up to it by then. Since the queue keeps the
//!   order, the former is so if the watcher is live when the mark is popped. A created answer may be taken
//!   out of this order (S1): such a watcher gets nothing up to the revision of its answer, which is no older
//!   than the mark.

mod catch_up;
mod progress;
#[cfg(test)]
mod tests;

use super::control::{Control, Open};
use super::encoding::encode;
use super::hub::WatchHub;
use super::response::{Body, NO_WATCHER, Response};
use super::watcher::{Answer, Created, Phase, Watcher};
use crate::core::Reader;
use crate::core::routing::{
    Batch, Item, Matched, ProgressScope, Receiver, Request as Ask, StreamId, WatcherId,
};
use crate::error::EtcdError;
use crate::types::Revision;
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

/// Live responses after which one slice of history comes.
const LIVE_RUN: usize = 16;
/// Steps without a response after which the task yields its thread.
const STEPS: usize = 32;
/// Done deliveries and bytes after which they are reported to the routing task.
const REPORT: (usize, usize) = if cfg!(test) { (1, 1) } else { (32, 1 << 20) };

/// The next step of a stream.
#[derive(Debug)]
pub(super) enum Step {
    Respond(Response),
    /// There is nothing before the next item in the queue.
    Idle,
    /// There is more, but other tasks should run first.
    Yield,
    /// The call is over.
    End(EtcdError),
}

/// The half of a call that makes its responses.
#[derive(Debug)]
pub(super) struct Session {
    hub: WatchHub,
    reader: Reader,
    incarnation: u64,
    stream: StreamId,
    receiver: Receiver<Answer>,
    open: Arc<Open>,
    /// The watchers by their places.
    watchers: Vec<Option<Watcher>>,
    answers: VecDeque<Response>,
    /// Progress for the watchers that were due.
    due: VecDeque<Response>,
    /// Whether the mark for the watchers that are due was requested and has not come.
    is_due_asked: bool,
    /// Items that were popped in search of an answer.
    inbox: VecDeque<Item<Answer>>,
    /// Deliveries and bytes that are done and not reported.
    done: (usize, usize),
    /// Watchers that catch up, in turns.
    behind: VecDeque<WatcherId>,
    live_run: usize,
    end: Option<EtcdError>,
}

/// Opens a call: the half that handles its requests, and the half that makes its responses.
pub(super) fn open(hub: WatchHub, reader: Reader) -> (Control, Session) {
    let incarnation = reader.snapshot().incarnation;
    let (stream, receiver) = hub.open(incarnation);
    let open = Arc::new(Open::new(hub.clone()));
    let control = Control::new(Arc::clone(&open), stream);
    let session = Session {
        hub,
        reader,
        incarnation,
        stream,
        receiver,
        open,
        watchers: Vec::new(),
        answers: VecDeque::new(),
        due: VecDeque::new(),
        is_due_asked: false,
        inbox: VecDeque::new(),
        done: (0, 0),
        behind: VecDeque::new(),
        live_run: 0,
        end: None,
    };
    (control, session)
}

impl Session {
    /// Registers `waker` for the next item. The stream must call [`Session::next`] once more before it
    /// sleeps.
    pub(super) fn register(&self, waker: &Waker) {
        self.receiver.register(waker);
    }

    fn reset(&mut self) {
        self.end.get_or_insert(EtcdError::Unavailable(
            "the store lost its newest writes and was loaded afresh; watch again".into(),
        ));
    }

    /// The next response, if there is one now.
    pub(super) fn next(&mut self) -> Step {
        for _ in 0..STEPS {
            if self.open.has_requests() {
                self.take_answers();
            }
            if let Some(error) = &self.end {
                return Step::End(error.clone());
            }
            if let Some(answer) = self.answers.pop_front() {
                self.open.answered();
                return Step::Respond(answer);
            }
            if let Some(progress) = self.due.pop_front() {
                return Step::Respond(progress);
            }
            let may_be_live = self.behind.is_empty() || self.live_run < LIVE_RUN;
            let response = match may_be_live.then(|| self.next_item()).flatten() {
                Some(item) => {
                    self.live_run += 1;
                    self.take_item(item)
                }
                None if self.behind.is_empty() => {
                    self.report();
                    return Step::Idle;
                }
                None => {
                    self.live_run = 0;
                    self.catch_up()
                }
            };
            if let Some(response) = response {
                return Step::Respond(response);
            }
        }
        Step::Yield
    }

    fn next_item(&mut self) -> Option<Item<Answer>> {
        self.inbox.pop_front().or_else(|| self.receiver.pop())
    }

    /// Takes all answers out of the queue, also from behind other items.
    fn take_answers(&mut self) {
        while let Some(item) = self.receiver.pop() {
            match item {
                Item::Started { .. } | Item::Echo { .. } => {
                    // A lone item of this kind makes no response.
                    let _none: Option<Response> = self.take_item(item);
                }
                // An answer behind the mark may end the watcher that makes it void, or make the first
                // watcher. Neither may make the mark count.
                Item::Progress { scope: ProgressScope::Stream, .. } if !self.may_be_synced() => {
                    self.open.answered();
                }
                item => self.inbox.push_back(item),
            }
        }
    }

    fn take_item(&mut self, item: Item<Answer>) -> Option<Response> {
        match item {
            Item::Events { watcher, batch, matched } => return self.events(watcher, &batch, &matched),
            Item::Lagging { watcher, from } => {
                if self.watcher(watcher).is_some() {
                    self.hub.metrics().slow_watchers.add(1);
                    self.catch_up_from(watcher, from);
                }
            }
            Item::Started { answer: Answer::Created(created), revision, is_live } => {
                self.created(*created, revision, is_live);
            }
            Item::Joined(id) => {
                if let Some(watcher) = self.watcher(id) {
                    watcher.phase = Phase::Live;
                    self.hub.metrics().slow_watchers.sub(1);
                }
            }
            Item::Behind(id) => {
                if let Some(Phase::Joining { from }) = self.watcher(id).map(|watcher| watcher.phase) {
                    self.catch_up_from(id, from);
                }
            }
            Item::Echo { answer, revision } | Item::Started { answer, revision, .. } => {
                self.respond(answer, revision);
            }
            Item::Progress { scope: ProgressScope::Stream, revision } => return self.progress(revision),
            Item::Progress { scope: ProgressScope::Due, revision } => self.due_progress(revision),
            Item::Reset => self.reset(),
        }
        None
    }

    fn watcher(&mut self, id: WatcherId) -> Option<&mut Watcher> {
        self.watchers.get_mut(id.place as usize)?.as_mut().filter(|watcher| watcher.options.watcher == id)
    }

    fn events(&mut self, id: WatcherId, batch: &Batch, matched: &Matched) -> Option<Response> {
        self.done.0 += 1;
        self.done.1 += batch.weight();
        if self.done.0 >= REPORT.0 || self.done.1 >= REPORT.1 {
            self.report();
        }
        let watcher = self.watcher(id)?;
        let events: SmallVec<[Bytes; 1]> = batch.events(matched, watcher.options.prev_kv, encode).collect();
        watcher.is_fresh = true;
        watcher.sent_to = batch.revision();
        let body = Body::Events { may_fragment: watcher.options.fragment, events };
        Some(self.sent(Response { revision: batch.revision(), watch_id: id.watch_id, body }))
    }

    /// Counts the events of a response.
    fn sent(&self, response: Response) -> Response {
        if let Body::Events { events, .. } = &response.body {
            self.hub.metrics().events_sent.add(events.len());
        }
        response
    }

    /// Reports the done deliveries to the routing task.
    fn report(&mut self) {
        if let (deliveries @ 1.., bytes) = std::mem::take(&mut self.done) {
            self.receiver.done(deliveries, bytes);
        }
    }

    fn answer(&mut self, revision: Revision, watch_id: i64, body: Body) {
        self.answers.push_back(Response { revision, watch_id, body });
    }

    fn created(&mut self, options: Created, revision: Revision, is_live: bool) {
        let (id, start) = (options.watcher, options.start);
        self.answer(revision, id.watch_id, Body::Created);
        let (sent_to, phase) = (Revision(0), Phase::Live);
        let watcher = Watcher { options, phase, sent_to, is_fresh: false, is_due: false };
        let place = id.place as usize;
        if place >= self.watchers.len() {
            self.watchers.resize_with(place + 1, || None);
        }
        self.watchers[place] = Some(watcher);
        if !is_live {
            self.hub.metrics().slow_watchers.add(1);
            self.catch_up_from(id, start);
        }
    }

    fn respond(&mut self, answer: Answer, revision: Revision) {
        match answer {
            Answer::Refused(error) => self.answer(revision, NO_WATCHER, Body::Refused(*error)),
            Answer::Canceled(id) => {
                self.forget(id);
                self.answer(revision, id.watch_id, Body::Canceled);
            }
            Answer::Failed(error) => {
                self.end.get_or_insert(*error);
            }
            Answer::Created(_) => unreachable!("it comes with what it was answered"),
        }
    }

    fn forget(&mut self, id: WatcherId) {
        if let Some(watcher) = self.watcher(id) {
            let is_slow = watcher.phase.is_slow();
            self.watchers[id.place as usize] = None;
            self.hub.metrics().slow_watchers.sub(usize::from(is_slow));
        }
        // Progress of the watcher must not follow its end.
        self.due.retain(|progress| progress.watch_id != id.watch_id);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let slow = self.watchers.iter().flatten().filter(|watcher| watcher.phase.is_slow()).count();
        self.hub.metrics().slow_watchers.sub(slow);
        self.done.0 += self.inbox.iter().filter(|item| matches!(item, Item::Events { .. })).count();
        self.report();
        self.hub.close(self.stream);
    }
}
